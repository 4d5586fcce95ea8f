"""Random numbers by address: what is drawn depends on a key alone, never on what was drawn before.

A run's batches, latents and weights of interpolation are functions of the seed and of counters. So there is
no random state to save: a resumed run, a prefetching thread and every process of a group draw the same
numbers, in any order.
"""

from __future__ import annotations

import torch

_MASK = (1 << 64) - 1


def _mixed(value: int) -> int:
    """SplitMix64's finalizer (Steele et al. 2014): neighbouring keys get unrelated seeds."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def stream(*key: int | str) -> torch.Generator:
    """A CPU generator for ``key``, such as ``stream(seed, "flip", step)``; equal keys draw equal numbers."""
    state = len(key)
    for part in key:
        number = part if isinstance(part, int) else int.from_bytes(part.encode(), "little")
        while True:  # long words in pieces of 64 bits
            state = _mixed(state ^ (number & _MASK))
            number >>= 64
            if number in (0, -1):
                break
    return torch.Generator().manual_seed(state)
