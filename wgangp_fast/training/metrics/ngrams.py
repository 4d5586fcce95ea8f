"""How far the n-grams of generated lines are from those of real ones (paper section 12)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LINES = 250_000  # counted at a time: bounds memory


class NGrams:
    """The distribution of the ``n``-grams of lines.

    They are taken inside each line, never across two, and padding counts as characters (Gulrajani et al.,
    language_helpers.py).

    Args:
        lines: integer codes ``[N, L]`` from 0 to ``vocabulary - 1``, N at least 1 and L at least ``n``.
        n: characters in an n-gram.
        vocabulary: number of codes; ``vocabulary ** n`` must be below ``2 ** 63``.

    Attributes:
        keys: int64 ``[K]``, sorted: an n-gram's codes as the digits of one number.
        shares: float64 ``[K]``, which sum to 1.

    Raises:
        ValueError: other shapes or types, codes out of range, or n-grams too long for the vocabulary.
    """

    def __init__(self, lines: Tensor, n: int, vocabulary: int) -> None:
        if lines.dim() != 2 or not len(lines) or lines.is_floating_point():
            raise ValueError(f"lines must be integers [N, L]; got {lines.dtype} {list(lines.shape)}")
        if not 1 <= n <= lines.shape[1]:
            raise ValueError(f"n must be from 1 to the {lines.shape[1]} characters of a line; got {n}")
        if vocabulary**n >= 2**63:
            raise ValueError(f"{n}-grams of {vocabulary} characters do not fit in 63 bits")
        if bool((lines < 0).any()) or bool((lines >= vocabulary).any()):
            raise ValueError(f"lines holds codes outside 0..{vocabulary - 1}")
        self.n, self.vocabulary = n, vocabulary
        keys = torch.empty(0, dtype=torch.int64)
        counts = torch.empty(0, dtype=torch.float64)
        for part in lines.split(LINES):
            keys, counts = _merged(keys, counts, *self._count(part.cpu().long()))
        self.keys, self.shares = keys, counts / counts.sum()

    def _count(self, lines: Tensor) -> tuple[Tensor, Tensor]:
        places = lines.shape[1] - self.n + 1
        keys = torch.zeros(len(lines), places, dtype=torch.int64)
        for offset in range(self.n):
            keys = keys * self.vocabulary + lines[:, offset : offset + places]
        found, counts = keys.unique(return_counts=True)
        return found, counts.double()

    def js(self, other: NGrams) -> float:
        """Jensen-Shannon divergence from ``other`` in bits, from 0 to 1.

        Raises:
            ValueError: n-grams of another length or vocabulary.
        """
        if (self.n, self.vocabulary) != (other.n, other.vocabulary):
            raise ValueError(
                f"cannot compare {self.n}-grams of {self.vocabulary} characters with {other.n}-grams of "
                f"{other.vocabulary}"
            )
        index = torch.cat([self.keys, other.keys]).unique(return_inverse=True)[1]
        mine, others = index.split([len(self.keys), len(other.keys)])
        middle = torch.zeros(int(index.max()) + 1, dtype=torch.float64)
        middle[mine] += self.shares / 2  # keys are unique, so no index comes twice
        middle[others] += other.shares / 2
        divergences = (
            (share * (share / middle[place]).log()).sum()
            for share, place in ((self.shares, mine), (other.shares, others))
        )
        return min(1.0, max(0.0, float(sum(divergences)) / 2 / math.log(2)))


def ngram_js(
    lines: Tensor, others: Tensor, vocabulary: int, orders: tuple[int, ...] = (1, 2, 3, 4)
) -> list[float]:
    """:meth:`NGrams.js` of two sets of lines for each n of ``orders``."""
    return [NGrams(lines, n, vocabulary).js(NGrams(others, n, vocabulary)) for n in orders]


def _merged(keys: Tensor, counts: Tensor, more: Tensor, more_counts: Tensor) -> tuple[Tensor, Tensor]:
    found, index = torch.cat([keys, more]).unique(return_inverse=True)
    total = torch.zeros(len(found), dtype=torch.float64)
    return found, total.index_add_(0, index, torch.cat([counts, more_counts]))
