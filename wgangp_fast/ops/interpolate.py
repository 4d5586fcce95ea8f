"""Points between real and fake samples (Gulrajani et al. 2017, algorithm 1, line 6)."""

from __future__ import annotations

import torch
from torch import Tensor


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * real + (1 - alpha) * fake`` in one pass.

    Args:
        real: ``[N, ...]``, floating point.
        fake: shape, dtype and device of ``real``.
        alpha: broadcasts against ``real``; usually ``[N, 1, ...]``, dtype of ``real``.
    """
    return torch.lerp(fake, real, alpha)


def interpolate_ref(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """The meaning of :func:`interpolate`."""
    return alpha * real + (1 - alpha) * fake
