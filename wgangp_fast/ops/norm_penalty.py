"""Norms of the input gradient, penalties, and the factor that makes the seed of sweep 3."""

from __future__ import annotations

import torch
from torch import Tensor


def norm_penalty(
    gradient: Tensor, target: float = 1.0, one_sided: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Per sample: penalty, norm and slope.

    Args:
        gradient: ``[N, ...]``, any floating dtype, any strides.
        target: the norm that costs nothing; 0 makes the zero-centred penalty (R1).
        one_sided: only norms above the target cost (paper, appendix C).

    Returns:
        ``penalty [N]``: ``(n - target)^2``, or ``max(0, n - target)^2``;
        ``norm [N]``: ``n``, in float32 at least;
        ``slope [N]``: ``d penalty / d gradient = slope * gradient``. At ``n = 0`` the slope is 0 (2 if
        the target is 0), never NaN.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    dims = tuple(range(1, gradient.dim()))
    norm = torch.linalg.vector_norm(gradient, dim=dims, dtype=dtype) if dims else gradient.to(dtype).abs()
    if target == 0:
        return norm.square(), norm, torch.full_like(norm, 2.0)
    excess = norm - target
    if one_sided:
        excess = excess.clamp_(min=0)
    slope = (excess / norm).mul_(2)
    return excess.square(), norm, slope.masked_fill_(norm == 0, 0)


def norm_penalty_ref(
    gradient: Tensor, target: float = 1.0, one_sided: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The meaning of :func:`norm_penalty`, sample by sample."""
    rows = []
    for row in gradient.to(torch.promote_types(gradient.dtype, torch.float32)):
        n = row.square().sum().sqrt()
        excess = torch.clamp(n - target, min=0) if one_sided and target != 0 else n - target
        factor = torch.tensor(2.0, dtype=n.dtype) if target == 0 else (2 * excess / n if n > 0 else n * 0)
        rows.append(torch.stack([excess**2, n, factor.to(n.dtype)]))
    table = torch.stack(rows) if rows else gradient.new_zeros(0, 3)
    return table[:, 0], table[:, 1], table[:, 2]
