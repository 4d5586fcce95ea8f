"""The rule that says what is covered, for modes and for classes alike."""

from __future__ import annotations

from torch import Tensor


def covered(counts: Tensor, total: int) -> int:
    """How many of ``counts [K]`` reach a tenth of their fair share of ``total`` samples."""
    return int((counts >= max(1.0, total / (10 * len(counts)))).sum())
