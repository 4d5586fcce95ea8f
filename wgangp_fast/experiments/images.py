"""Image sets of the experiments: the user's, or the embedded digits, at the side an experiment wants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Stored, stream
from wgangp_fast.training.metrics.quality import to_pixels

from .study import Study

CHUNK = 4096  # images resized at a time
# Of the split: a set of this experiment's own, whatever the seed, so that runs can be compared.
SPLIT = "experiment split"


def image_set(study: Study, size: int, wanted: str) -> Stored:
    """Images of side ``size``, with their labels where they have any.

    Args:
        study: whose ``--data`` it is; without one, the embedded digits, except at paper scale.
        size: of the side; images of another one are resized, with smoothing.
        wanted: what the paper took, for the message.

    Returns:
        uint8 ``[N, C, size, size]``.

    Raises:
        UserError: paper scale without data, or data that holds no square images.
    """
    if study.data is None and study.scale == "paper":
        raise UserError(f"paper scale needs --data PATH: {wanted}; embedded digits do not stand in for it")
    found = data.load(study.data or "digits", study.seed, size=size, cache=study.path / "prepared")
    if not isinstance(found, Stored) or len(found.shape) != 3 or found.shape[1] != found.shape[2]:
        raise UserError(f"{found.name} holds samples of shape {list(found.shape)}; square images are needed")
    if found.shape[1] == size and found.samples.dtype == torch.uint8:
        return found
    pixels = torch.cat([resized(part, size) for part in found.samples.split(CHUNK)])
    return Stored(found.name, pixels, labels=found.all_labels)


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 ``[N, C, size, size]`` of images ``[N, C, H, W]``, uint8 or floats in [-1, 1]: bilinear."""
    x = to_pixels(images).float()
    if x.shape[2:] != (size, size):
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return x.round().clamp(0, 255).to(torch.uint8)


def split(images: Stored, *counts: int) -> list[Stored]:
    """Disjoint random parts of the images, the same ones for every seed.

    Args:
        counts: of images in each part.

    Raises:
        UserError: the set has fewer images.
    """
    total = images.size or 0
    if sum(counts) > total:
        raise UserError(f"{images.name} has {total} images; this experiment needs {sum(counts)}")
    order = torch.randperm(total, generator=stream(SPLIT))
    return [images.subset(rows) for rows in order[: sum(counts)].split(list(counts))]


def some(images: Stored, count: int) -> Tensor:
    """``count`` of the images, or all if there are fewer, uint8 ``[M, C, H, W]``; always the same ones."""
    total = images.size or 0
    rows = torch.randperm(total, generator=stream("some images"))[:count]
    return images.take(rows, stream("some images"))


def about(study: Study, images: Stored) -> str:
    """A sentence on the set, for the page."""
    channels, side = images.shape[:2]
    what = "scikit-learn's 8 x 8 digits" if study.data is None else images.name
    return f"Images: {images.size} of {what}, {channels} x {side} x {side}."
