"""Bias and activation, and their first and second order; one table row for each activation."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backend
from .activations import ACTIVATIONS, NAMES, encode
from .registry import acc, implementation, operation

_TAIL = "Tensor? bias, int dim, int act, float p0, float p1, float p2"


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "identity",
    *parameters: float,
    dim: int = 1,
    inplace: bool = False,
    impl: str = "auto",
) -> Tensor:
    """``f(x + bias)``.

    Args:
        x: any shape; float64, float32, float16 or bfloat16; dense in any order of dimensions.
        bias: ``[x.shape[dim]]``, dtype of ``x``.
        act: a row of :data:`~wgangp_fast.ops.activations.ACTIVATIONS`, or ``"selu"``.
        parameters: of the activation, for instance the slope of ``"leaky_relu"``.
        dim: the dimension along which ``bias`` lies.
        inplace: write into ``x``.
        impl: a backend, or ``"auto"``.
    """
    which = backend.pick("bias_act", impl, x.device)
    if inplace:
        implementation("bias_act_", which)(x, bias, dim, *encode(act, parameters))
        return x
    return implementation("bias_act", which)(x, bias, dim, *encode(act, parameters))


def bias_act_grad(
    v: Tensor,
    ref: Tensor,
    bias: Tensor | None = None,
    act: str = "identity",
    *parameters: float,
    dim: int = 1,
    impl: str = "auto",
) -> Tensor:
    """``f'(x + bias) * v``: the vjp and the jvp of :func:`bias_act` in ``x``.

    Args:
        v: cotangent or tangent, shape and dtype of ``x``.
        ref: ``x``, or the result of :func:`bias_act`, as ``saves`` in the activation's row says.
        bias: ``[C]`` of dimension ``dim``, or None.
        act: name of the activation.
        parameters: the activation's own numbers.
        dim: dimension of ``x`` that ``bias`` runs along.
        impl: ``"auto"`` or a backend's name.
    """
    run = implementation("bias_act_grad", backend.pick("bias_act_grad", impl, v.device))
    return run(v, ref, bias, dim, *encode(act, parameters))


def bias_act_adjoint(
    c: Tensor | None,
    g: Tensor,
    t: Tensor,
    ref: Tensor,
    bias: Tensor | None = None,
    act: str = "identity",
    *parameters: float,
    dim: int = 1,
    impl: str = "auto",
) -> Tensor:
    """``f'*c + f''*g*t``: what sweep 4 carries to ``x``.

    Args:
        c: adjoint of the result, or None for zero.
        g: cotangent of the result.
        t: tangent of ``x``.
        ref: ``x``, or the result of :func:`bias_act`, as ``saves`` in the activation's row says.
        bias: ``[C]`` of dimension ``dim``, or None.
        act: name of the activation.
        parameters: the activation's own numbers.
        dim: dimension of ``x`` that ``bias`` runs along.
        impl: ``"auto"`` or a backend's name.
    """
    run = implementation("bias_act_adjoint", backend.pick("bias_act_adjoint", impl, g.device))
    return run(c, g, t, ref, bias, dim, *encode(act, parameters))


def shifted(x: Tensor, bias: Tensor | None, dim: int) -> Tensor:
    """``x + bias`` in the dtype of sums."""
    wide = x.to(acc(x.dtype))
    if bias is None:
        return wide
    shape = [1] * x.dim()
    shape[dim] = -1
    return wide + bias.to(wide.dtype).reshape(shape)


def _as(value: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like).copy_(value)


def _saved(ref: Tensor, bias: Tensor | None, dim: int, act: int) -> Tensor:
    return shifted(ref, bias if ACTIVATIONS[NAMES[act]].saves == "x" else None, dim)


@operation(f"bias_act(Tensor x, {_TAIL}) -> Tensor")
def bias_act_ref(
    x: Tensor, bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> Tensor:
    """The meaning of :func:`bias_act`."""
    return _as(ACTIVATIONS[NAMES[act]].f(shifted(x, bias, dim), p0, p1, p2), x)


@operation(f"bias_act_(Tensor(a!) x, {_TAIL}) -> ()")
def bias_act_ref_(
    x: Tensor, bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> None:
    """:func:`bias_act_ref` in place."""
    x.copy_(bias_act_ref(x, bias, dim, act, p0, p1, p2))


@operation(f"bias_act_grad(Tensor v, Tensor ref, {_TAIL}) -> Tensor")
def bias_act_grad_ref(
    v: Tensor, ref: Tensor, bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> Tensor:
    """The meaning of :func:`bias_act_grad`."""
    slope = ACTIVATIONS[NAMES[act]].df(_saved(ref, bias, dim, act), p0, p1, p2)
    return _as(v.to(slope.dtype) * slope, v)


@operation(f"bias_act_grad_(Tensor(a!) v, Tensor ref, {_TAIL}) -> ()")
def bias_act_grad_ref_(
    v: Tensor, ref: Tensor, bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> None:
    """:func:`bias_act_grad_ref` in place."""
    v.copy_(bias_act_grad_ref(v, ref, bias, dim, act, p0, p1, p2))


@operation(f"bias_act_adjoint(Tensor? c, Tensor g, Tensor t, Tensor ref, {_TAIL}) -> Tensor")
def bias_act_adjoint_ref(
    c: Tensor | None, g: Tensor, t: Tensor, ref: Tensor,
    bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float,
) -> Tensor:  # fmt: skip
    """The meaning of :func:`bias_act_adjoint`."""
    row, saved = ACTIVATIONS[NAMES[act]], _saved(ref, bias, dim, act)
    total = torch.zeros_like(saved)
    if c is not None:
        total = row.df(saved, p0, p1, p2) * c.to(saved.dtype)
    if row.d2f is not None:
        total = total + row.d2f(saved, p0, p1, p2) * g.to(saved.dtype) * t.to(saved.dtype)
    return _as(total, g if c is None else c)


@operation(f"bias_act_adjoint_(Tensor(a!) c, Tensor g, Tensor t, Tensor ref, {_TAIL}) -> ()")
def bias_act_adjoint_ref_(
    c: Tensor, g: Tensor, t: Tensor, ref: Tensor,
    bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float,
) -> None:  # fmt: skip
    """:func:`bias_act_adjoint_ref` into ``c``."""
    c.copy_(bias_act_adjoint_ref(c, g, t, ref, bias, dim, act, p0, p1, p2))
