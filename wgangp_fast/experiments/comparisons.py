"""Scores of the same architectures by two methods: who succeeds at which threshold, and who wins."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Smallest score; then how many of 200 succeeded as a GAN only, with WGAN-GP only, with both, with neither
# (the paper's table 5; its table 2 is every fourth row).
PAPER: tuple[tuple[float, int, int, int, int], ...] = (
    (1.0, 0, 8, 192, 0), (1.5, 0, 50, 150, 0), (2.0, 0, 60, 140, 0), (2.5, 0, 74, 125, 1),
    (3.0, 1, 88, 110, 1), (3.5, 0, 111, 86, 3), (4.0, 1, 126, 67, 6), (4.5, 0, 136, 55, 9),
    (5.0, 0, 147, 42, 11), (5.5, 0, 148, 32, 20), (6.0, 0, 145, 21, 34), (6.5, 1, 131, 11, 57),
    (7.0, 1, 104, 5, 90), (7.5, 2, 67, 3, 128), (8.0, 1, 34, 0, 165), (8.5, 0, 6, 0, 194),
    (9.0, 0, 0, 0, 200),
)  # fmt: skip
PAPER_WINS = (100, 77)  # two-sided and one-sided, of 174 architectures, the paper says


def thresholds(real: float) -> list[float]:
    """As many smallest scores as the paper's table, evenly from 1 to what real images get."""
    steps = len(PAPER) - 1
    return [round(1 + (real - 1) * step / steps, 3) for step in range(steps + 1)]


def success_table(
    gan: Sequence[float | None], gp: Sequence[float | None], limits: Sequence[float]
) -> list[tuple[float, int, int, int, int]]:
    """How many architectures succeed, which is to score above a threshold.

    Args:
        gan, gp: scores of the same architectures; None: diverged.
        limits: the thresholds.

    Returns:
        for each threshold: it, and the numbers of: only GAN, only GP, both, neither.
    """
    rows = []
    for limit in limits:
        pairs = [
            (a is not None and a > limit, b is not None and b > limit) for a, b in zip(gan, gp, strict=True)
        ]
        kinds = ((True, False), (False, True), (True, True), (False, False))
        rows.append((limit, *(pairs.count(kind) for kind in kinds)))
    return rows  # type: ignore[return-value]


def wins(first: Sequence[float | None], second: Sequence[float | None]) -> tuple[int, int]:
    """In how many pairs either score is the larger one; diverged (None) is below every score."""
    a, b = ([-math.inf if score is None else score for score in scores] for scores in (first, second))
    pairs = list(zip(a, b, strict=True))
    return sum(x > y for x, y in pairs), sum(y > x for x, y in pairs)


def sign_test(first: int, second: int) -> float:
    """Two-sided p-value of ``first`` against ``second`` wins if both were equally likely: exact binomial.

    Raises:
        ValueError: a negative number of wins.
    """
    if min(first, second) < 0:
        raise ValueError(f"wins must be at least 0; got {first} and {second}")
    total = first + second
    tail = sum(math.comb(total, k) for k in range(min(first, second) + 1))
    return min(1.0, 2 * tail / 2**total)
