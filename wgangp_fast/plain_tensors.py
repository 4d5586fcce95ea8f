"""The caller's samples as plain tensors: no subclass, and with their numbers in ordinary memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .engine import torch_internals
from .ops.registry import result_like


def plain(x: Tensor) -> Tensor:
    """``x`` without its subclass (fastai's, MONAI's, torchvision's), its history kept.

    It is copied if autograd could not save it (an inference tensor), or if its memory holds the numbers with
    another sign (the imaginary part of a conjugate). A subclass without memory of its own (DTensor) stays.
    """
    if type(x) is not Tensor:
        if type(x).__torch_dispatch__ is not _ORDINARY:
            return x
        x = torch_internals.without_subclass(x)
    if x.is_inference() and not torch.is_inference_mode_enabled():
        x = x.clone()
    return x.resolve_neg()


_ORDINARY = Tensor.__torch_dispatch__


def samples(x: Tensor) -> Tensor:
    """``x`` as :func:`plain`, with the strides of ``alpha * x``: contiguous ones where a dimension of size
    one leaves a choice."""
    x = plain(x)
    if 1 in x.shape and x.is_contiguous():
        return x.reshape(-1).view(x.shape)
    return x


def points_like(x: Tensor) -> Tensor:
    """A tensor with the shape, strides, dtype and device of the penalty points, for :func:`samples`."""
    return x.detach() if x.is_contiguous() else result_like(x.detach(), "samples")
