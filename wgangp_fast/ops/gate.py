"""The gate ``sigmoid(a) * tanh(b)`` (van den Oord et al. 2016) with its first and second order."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backend
from .registry import acc, implementation, operation


def gate(a: Tensor, b: Tensor, *, impl: str = "auto") -> Tensor:
    """``sigmoid(a) * tanh(b)``.

    Args:
        a: any strides, for instance one half of a tensor.
        b: shape and dtype of ``a``, any strides.
        impl: a backend, or ``"auto"``.

    Returns:
        Their shape, contiguous.
    """
    return implementation("gate", backend.pick("gate", impl, a.device))(a, b)


def _contiguous(value: Tensor, like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=like.device).copy_(value)


def _wide(*tensors: Tensor) -> list[Tensor]:
    return [tensor.to(acc(tensor.dtype)).contiguous() for tensor in tensors]


@operation("gate(Tensor a, Tensor b) -> Tensor")
def gate_ref(a: Tensor, b: Tensor) -> Tensor:
    """The meaning of :func:`gate`."""
    wide_a, wide_b = _wide(a, b)
    return _contiguous(torch.sigmoid(wide_a) * torch.tanh(wide_b), a)


@operation("gate_vjp(Tensor g, Tensor a, Tensor b) -> (Tensor ga, Tensor gb)")
def gate_vjp_ref(g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``(dy/da g, dy/db g)`` for ``y = gate(a, b)``."""
    v, wide_a, wide_b = _wide(g, a, b)
    s, th = torch.sigmoid(wide_a), torch.tanh(wide_b)
    return _contiguous(v * s * (1 - s) * th, a), _contiguous(v * s * (1 - th * th), b)


@operation("gate_jvp(Tensor ta, Tensor tb, Tensor a, Tensor b) -> Tensor")
def gate_jvp_ref(ta: Tensor, tb: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``dy/da ta + dy/db tb``."""
    of_a, of_b, wide_a, wide_b = _wide(ta, tb, a, b)
    s, th = torch.sigmoid(wide_a), torch.tanh(wide_b)
    return _contiguous(of_a * s * (1 - s) * th + of_b * s * (1 - th * th), a)


@operation(
    "gate_adjoint(Tensor? c, Tensor g, Tensor ta, Tensor tb, Tensor a, Tensor b) -> (Tensor ca, Tensor cb)"
)
def gate_adjoint_ref(
    c: Tensor | None, g: Tensor, ta: Tensor, tb: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """The vjp of ``c``, and ``d/d(a, b) <g, jvp(ta, tb)>``."""
    v, of_a, of_b, wide_a, wide_b = _wide(g, ta, tb, a, b)
    s, th = torch.sigmoid(wide_a), torch.tanh(wide_b)
    s1, th1 = s * (1 - s), 1 - th * th
    ca = v * (of_a * s1 * (1 - 2 * s) * th + of_b * s1 * th1)
    cb = v * (of_a * s1 * th1 - 2 * of_b * s * th * th1)
    if c is not None:
        (adjoint,) = _wide(c)
        ca, cb = ca + adjoint * s1 * th, cb + adjoint * s * th1
    return _contiguous(ca, a), _contiguous(cb, b)
