"""Convolutions of images without groups, and their two gradients; the CPU kernels pack blocks of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .registry import operation

aten = torch.ops.aten
_STEPS = "int sh, int sw, int ph, int pw, int dh, int dw"


def _backward(g: Tensor, x: Tensor, weight: Tensor, steps: tuple[int, ...], which: int) -> Tensor:
    sh, sw, ph, pw, dh, dw = steps
    mask = [which == 0, which == 1, False]
    return aten.convolution_backward.default(
        g, x, weight, None, [sh, sw], [ph, pw], [dh, dw], False, [0, 0], 1, mask
    )[which].contiguous()


@operation(f"convolve(Tensor x, Tensor weight, Tensor? bias, {_STEPS}) -> Tensor")
def convolve_ref(
    x: Tensor, weight: Tensor, bias: Tensor | None, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int
) -> Tensor:
    """``[N, C, H, W]`` and ``[O, C, KH, KW]`` to ``[N, O, OH, OW]``: stride, padding and dilation."""
    return torch.conv2d(x, weight, bias, (sh, sw), (ph, pw), (dh, dw)).contiguous()


@operation(f"convolve_back(Tensor g, Tensor weight, int h, int w, {_STEPS}) -> Tensor")
def convolve_back_ref(
    g: Tensor, weight: Tensor, h: int, w: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int
) -> Tensor:
    """The transpose of :func:`convolve_ref` for ``x [N, C, h, w]``: ``[N, O, OH, OW]`` to its shape."""
    x = g.new_empty(g.shape[0], weight.shape[1], h, w)
    return _backward(g, x, weight, (sh, sw, ph, pw, dh, dw), 0)


@operation(f"weight_gradient(Tensor[] xs, Tensor[] gs, int kh, int kw, {_STEPS}) -> Tensor")
def weight_gradient_ref(
    xs: Sequence[Tensor], gs: Sequence[Tensor],
    kh: int, kw: int, sh: int, sw: int, ph: int, pw: int, dh: int, dw: int,
) -> Tensor:  # fmt: skip
    """The weight's gradient ``[O, C, kh, kw]``, summed over pairs ``[N, C, H, W]``, ``[N, O, OH, OW]``."""
    weight = xs[0].new_empty(gs[0].shape[1], xs[0].shape[1], kh, kw)
    terms = [_backward(g, x, weight, (sh, sw, ph, pw, dh, dw), 1) for x, g in zip(xs, gs, strict=True)]
    return torch.stack(terms).sum(0)
