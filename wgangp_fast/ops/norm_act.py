"""Layer, group and instance norm with an optional activation: forward, vjp, jvp, and sweep 4.

With ``xh = (x - mean) * rstd`` and ``u = xh * weight + bias``, ``y = f(u)``; the Jacobian of ``xh`` is
``J v = rstd * (v - mean(v) - xh * mean(xh * v))`` over one row, and it is symmetric. For the second order see
:mod:`wgangp_fast.rules.norm`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .. import backend
from .activations import ACTIVATIONS, NAMES, encode
from .registry import acc, implementation, operation, result_like

_AFFINE = "Tensor? weight, Tensor? bias, int groups, int dims"
_ACT = "int act, float p0, float p1, float p2"


def norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    groups: int = 0,
    dims: int = 1,
    eps: float = 1e-5,
    act: str = "identity",
    parameters: tuple[float, ...] = (),
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """``f(normalised x * weight + bias)``.

    Args:
        x: ``[N, C, ...]`` for ``groups > 0``: group norm (1: a layer norm with a weight per channel; C:
            instance norm), contiguous or channels_last. For ``groups == 0`` layer norm over the last
            ``dims`` dimensions.
        weight: ``[C]``, or the shape of the last ``dims`` dimensions; dtype of ``x``.
        bias: as ``weight``.
        eps: added to the variance.
        act: name of the activation, as in :func:`~wgangp_fast.ops.bias_act`.
        parameters: the activation's own numbers.
        impl: a backend, or ``"auto"``.

    Returns:
        ``y`` like ``x``; ``mean`` and ``rstd``: ``[N, groups]`` or the leading dimensions of ``x``, in
        float32 (float64 for float64).
    """
    run = implementation("norm_act", backend.pick("norm_act", impl, x.device))
    return run(x, weight, bias, groups, dims, float(eps), *encode(act, parameters))


class _Rows(NamedTuple):
    """Views of one call as ``[R, D, L]``: rows, channels of a row, elements of a channel.

    For layer norm ``D = 1`` and the weight lies along ``L``; for group norm it is ``[G, D, 1]`` tiled.
    """

    shape: tuple[int, ...]
    groups: int
    stats: tuple[int, ...]
    affine: tuple[int, ...]

    def of(self, value: Tensor) -> Tensor:
        return value.to(acc(value.dtype)).reshape(self.shape)

    def scale(self, weight: Tensor | None, like: Tensor) -> Tensor:
        if weight is None:
            return like.new_ones(())
        return weight.to(like.dtype).reshape(self.affine)

    def statistic(self, value: Tensor) -> Tensor:
        return value.reshape(*self.shape[:2], 1, 1)

    def total(self, value: Tensor, wanted: bool, x: Tensor, dims: int) -> Tensor:
        """Sum over the elements that share a weight, in the weight's shape; empty unless ``wanted``."""
        if not wanted:
            return x.new_empty(0)
        extent = x.shape[1:2] if self.groups else x.shape[x.dim() - dims :]
        return value.sum([d for d in range(4) if self.affine[d] == 1]).reshape(extent).to(x.dtype)


def _rows(x: Tensor, groups: int, dims: int) -> _Rows:
    if groups:
        n, c = x.shape[:2]
        shape = (n, groups, c // groups, x.shape[2:].numel())
        return _Rows(shape, groups, (n, groups), (1, groups, c // groups, 1))
    lead, tail = x.shape[: x.dim() - dims], x.shape[x.dim() - dims :]
    return _Rows((lead.numel(), 1, 1, tail.numel()), 0, tuple(lead), (1, 1, 1, tail.numel()))


def _mean(value: Tensor) -> Tensor:
    return value.mean((2, 3), keepdim=True)


class _Site:
    """What every order needs: the normalised row, the Jacobian, and the activation's slopes."""

    def __init__(self, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None,
                 groups: int, dims: int, act: int, p: tuple[float, float, float]) -> None:  # fmt: skip
        self.rows = _rows(x, groups, dims)
        self.rstd = self.rows.statistic(rstd)
        self.xh = (self.rows.of(x) - self.rows.statistic(mean)) * self.rstd
        self.weight = self.rows.scale(weight, self.xh)
        shift = self.rows.scale(bias, self.xh) if bias is not None else 0
        u, row = self.xh * self.weight + shift, ACTIVATIONS[NAMES[act]]
        saved = u if row.saves == "x" else row.f(u, *p)
        self.slope = row.df(saved, *p)
        self.bend = row.d2f(saved, *p) if row.d2f is not None else None

    def j(self, v: Tensor) -> Tensor:
        return self.rstd * (v - _mean(v) - self.xh * _mean(self.xh * v))


def _like(value: Tensor, x: Tensor) -> Tensor:
    return result_like(x, "images").copy_(value.reshape(x.shape))


@operation(f"norm_act(Tensor x, {_AFFINE}, float eps, {_ACT}) -> (Tensor y, Tensor mean, Tensor rstd)")
def norm_act_ref(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, dims: int, eps: float,
    act: int, p0: float, p1: float, p2: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The meaning of :func:`norm_act`."""
    rows = _rows(x, groups, dims)
    wide = rows.of(x)
    mean = _mean(wide)
    rstd = torch.rsqrt(_mean((wide - mean).square()) + eps)
    u = (wide - mean) * rstd * rows.scale(weight, wide)
    u = u + rows.scale(bias, wide) if bias is not None else u
    y = ACTIVATIONS[NAMES[act]].f(u, p0, p1, p2)
    return _like(y, x), mean.reshape(rows.stats), rstd.reshape(rows.stats)


@operation(
    f"norm_act_vjp(Tensor g, Tensor x, Tensor mean, Tensor rstd, {_AFFINE}, {_ACT}, bool affine) -> "
    "(Tensor gx, Tensor dweight, Tensor dbias)"
)
def norm_act_vjp_ref(
    g: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None,
    groups: int, dims: int, act: int, p0: float, p1: float, p2: float, affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Cotangents of x, weight and bias; the last two ``[0]`` unless ``affine``."""
    site = _Site(x, mean, rstd, weight, bias, groups, dims, act, (p0, p1, p2))
    gu = site.slope * site.rows.of(g)
    return (
        _like(site.j(site.weight * gu), x),
        site.rows.total(gu * site.xh, affine, x, dims),
        site.rows.total(gu, affine, x, dims),
    )


@operation(f"norm_act_jvp(Tensor t, Tensor x, Tensor mean, Tensor rstd, {_AFFINE}, {_ACT}) -> Tensor")
def norm_act_jvp_ref(
    t: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor | None, bias: Tensor | None,
    groups: int, dims: int, act: int, p0: float, p1: float, p2: float,
) -> Tensor:  # fmt: skip
    """The tangent of y for the tangent ``t`` of x."""
    site = _Site(x, mean, rstd, weight, bias, groups, dims, act, (p0, p1, p2))
    return _like(site.slope * site.weight * site.j(site.rows.of(t)), x)


@operation(
    "norm_act_adjoint(Tensor? c, Tensor g, Tensor t, Tensor x, Tensor mean, Tensor rstd, "
    f"{_AFFINE}, {_ACT}, bool affine) -> (Tensor cx, Tensor dweight, Tensor dbias)"
)
def norm_act_adjoint_ref(
    c: Tensor | None, g: Tensor, t: Tensor, x: Tensor, mean: Tensor, rstd: Tensor,
    weight: Tensor | None, bias: Tensor | None,
    groups: int, dims: int, act: int, p0: float, p1: float, p2: float, affine: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Sweep 4: adjoints of x, weight and bias, from the adjoint ``c`` of y and the second-order term."""
    site = _Site(x, mean, rstd, weight, bias, groups, dims, act, (p0, p1, p2))
    tangent, gu = site.rows.of(t), site.slope * site.rows.of(g)
    jt = site.j(tangent)
    cu = site.slope * site.rows.of(c) if c is not None else torch.zeros_like(gu)
    if site.bend is not None:
        cu = cu + site.bend * site.rows.of(g) * site.weight * jt
    v = site.weight * gu
    a, b = _mean(site.xh * v), _mean(site.xh * tangent)
    m = _mean(v * tangent) - _mean(v) * _mean(tangent) - a * b
    second = -site.rstd * (site.rstd * m * site.xh + b * site.j(v) + a * jt)
    return (
        _like(site.j(site.weight * cu) + second, x),
        site.rows.total(cu * site.xh + gu * jt, affine, x, dims),
        site.rows.total(cu, affine, x, dims),
    )
