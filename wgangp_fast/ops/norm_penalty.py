"""Norms of the input gradient, penalties, and the seed of sweep 3 (Gulrajani et al. 2017, eq. 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backend
from .registry import acc, implementation, operation, result_like

REDUCTIONS = {"none": 0, "sum": 1, "mean": 2}


def norm_penalty(
    gradient: Tensor,
    target: float = 1.0,
    one_sided: bool = False,
    reduction: str = "none",
    *,
    impl: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Penalty, norm and slope of each sample.

    Args:
        gradient: ``[N, ...]``, any floating dtype, any strides.
        target: the norm that costs nothing; 0 makes the zero-centred penalty (R1).
        one_sided: only norms above the target cost (paper, appendix C).
        reduction: ``"none"``, ``"sum"`` or ``"mean"``.
        impl: a backend, or ``"auto"``.

    Returns:
        ``value``: ``(n - target)^2``, or ``max(0, n - target)^2``: ``[N]``, or ``[]`` if reduced;
        ``norm [N]``: ``n``; ``slope [N]``: ``d value / d gradient = slope * gradient``. At ``n = 0`` the
        slope is 0 (2 if the target is 0), never NaN. All in float32, float64 for float64.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}; got {reduction!r}")
    run = implementation("norm_penalty", backend.pick("norm_penalty", impl, gradient.device))
    return run(gradient, float(target), one_sided, REDUCTIONS[reduction])


def penalty_seed(gradient: Tensor, slope: Tensor, incoming: Tensor, *, impl: str = "auto") -> Tensor:
    """The tangent that sweep 3 starts from, ``gradient_i * slope_i * incoming_i``.

    Args:
        gradient: ``[N, ...]``.
        slope: ``[N]``, of :func:`norm_penalty`.
        incoming: ``[]`` or ``[N]``, the cotangent of its ``value``.
        impl: a backend, or ``"auto"``.

    Returns:
        ``[N, ...]``, dtype and (if dense) strides of ``gradient``.
    """
    run = implementation("penalty_seed", backend.pick("penalty_seed", impl, gradient.device))
    return run(gradient, slope, incoming)


@operation(
    "norm_penalty(Tensor gradient, float target, bool one_sided, int reduction) -> "
    "(Tensor value, Tensor norm, Tensor slope)"
)
def norm_penalty_ref(
    gradient: Tensor, target: float, one_sided: bool, reduction: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The meaning of :func:`norm_penalty`; ``reduction`` by its number in :data:`REDUCTIONS`."""
    wide = gradient.to(acc(gradient.dtype))
    norm = wide.reshape(len(wide), -1).square().sum(1).sqrt() if wide.numel() else wide.new_zeros(len(wide))
    excess = torch.clamp(norm - target, min=0) if one_sided and target != 0 else norm - target
    zero = norm.new_full((), 2.0 if target == 0 else 0.0)
    slope = torch.where((norm == 0) | (target == 0), zero, 2 * excess / norm)
    penalty = excess.square()
    if reduction == 2:
        return penalty.mean(), norm, slope / max(len(norm), 1)
    return (penalty.sum() if reduction == 1 else penalty), norm, slope


@operation("penalty_seed(Tensor gradient, Tensor slope, Tensor incoming) -> Tensor")
def penalty_seed_ref(gradient: Tensor, slope: Tensor, incoming: Tensor) -> Tensor:
    """The meaning of :func:`penalty_seed`."""
    wide = acc(gradient.dtype)
    factor = (slope * incoming.to(wide)).reshape(-1, *[1] * (gradient.dim() - 1))
    return result_like(gradient, "samples").copy_(gradient.to(wide) * factor)
