"""Windows of an image as the rows of a matrix, and back (a CPU's way to convolve with many weights)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .registry import operation

_WINDOW = "int kh, int kw, int sh, int sw, int ph, int pw, int dh, int dw"


@operation(f"unfold_rows(Tensor x, {_WINDOW}) -> Tensor")
def unfold_rows_ref(
    x: Tensor, kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int
) -> Tensor:
    """``[N, C, H, W]`` to ``[N*OH*OW, C*kh*kw]``: kernel, stride, padding and dilation of a convolution."""
    columns = F.unfold(x, (kh, kw), (dh, dw), (ph, pw), (sh, sw))
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


@operation(f"fold_rows(Tensor rows, int n, int c, int h, int w, {_WINDOW}) -> Tensor")
def fold_rows_ref(
    rows: Tensor, n: int, c: int, h: int, w: int,
    kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int,
) -> Tensor:  # fmt: skip
    """The transpose of :func:`unfold_rows_ref`: ``[N*OH*OW, C*kh*kw]`` summed to ``[N, C, H, W]``."""
    columns = rows.reshape(n, -1, c * kh * kw).transpose(1, 2)
    return torch.empty(n, c, h, w, dtype=rows.dtype, device=rows.device).copy_(
        F.fold(columns, (h, w), (kh, kw), (dh, dw), (ph, pw), (sh, sw))
    )
