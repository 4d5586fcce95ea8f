"""Curves of a training, made readable."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def median_filter(values: Sequence[float] | Tensor, width: int = 101) -> Tensor:
    """Running median, as of the loss curves of the WGAN paper (its code's README: 101 taps).

    A value becomes the median of the ``width`` values around it. Near an end the window is cut at the end on
    both sides alike, so that it stays centred: the first and the last value are unchanged, and a curve of
    fewer than ``width`` values is filtered by what there is.

    Args:
        values: ``[N]``, finite. width: odd, at least 1.

    Returns:
        float64 ``[N]`` on the CPU.

    Raises:
        ValueError: another shape, values that are not finite, or a width that is even or below 1.
    """
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width must be odd and at least 1; got {width}")
    x = torch.as_tensor(values, dtype=torch.float64).cpu()
    if x.dim() != 1 or not bool(x.isfinite().all()):
        raise ValueError(f"values must be finite, [N]; got {list(x.shape)}")
    half = width // 2
    found = x.clone()
    if len(x) >= width:
        found[half : len(x) - half] = x.unfold(0, width, 1).median(dim=1).values  # odd: the middle one
    for place in range(len(x)):
        reach = min(place, len(x) - 1 - place)
        if reach < half:
            found[place] = x[place - reach : place + reach + 1].median()
    return found
