"""One picture, encoded or as pixels, to a square of uint8.

Nothing here imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..extras import require

# Pillow's names for what is opened; its other formats run programs (EPS), or are no photographs.
FORMATS = ("JPEG", "MPO", "WEBP", "PNG", "AVIF", "JPEG2000", "BMP", "DIB", "GIF", "TIFF", "PPM")


@cache
def suffixes() -> frozenset[str]:
    """How the names of pictures end, in lower case, with the dot.

    Raises:
        UserError: Pillow is not installed.
    """
    known = require("PIL.Image").registered_extensions()
    return frozenset(suffix for suffix, name in known.items() if name in FORMATS)


Content = bytes | np.ndarray | Exception


class Recipe(NamedTuple):
    """What every picture becomes: uint8 ``[channels, size, size]``."""

    size: int
    channels: int
    crop: str  # a key of CROPS
    filter: str  # one of FILTERS


class Skipped(NamedTuple):
    """A row that did not decode: its place in its block, its name in the source, and why."""

    place: int
    name: str
    reason: str


class Converted(NamedTuple):
    """A block of rows: ``pixels`` uint8 ``[n, C, S, S]``, and for each of these n pictures its place in
    the block and whether it had to be enlarged; then the rows that are missing."""

    pixels: np.ndarray
    places: list[int]
    enlarged: list[bool]
    skipped: list[Skipped]


def _square(image: Any, left: int, top: int, side: int, size: int, resample: int) -> Any:
    # Crop, then resize: with resize(box=...) the filter would see pixels beyond the square.
    return image.crop((left, top, left + side, top + side)).resize((size, size), resample)


def _center(image: Any, size: int, resample: int) -> Any:
    side = min(image.size)
    return _square(image, (image.width - side) // 2, (image.height - side) // 2, side, size, resample)


def _top_left(image: Any, size: int, resample: int) -> Any:
    return _square(image, 0, 0, min(image.size), size, resample)


def _resize(image: Any, size: int, resample: int) -> Any:
    # The rounding is that of torchvision's Resize and CenterCrop.
    short = min(image.size)
    width, height = (int(size * side / short) for side in image.size)
    image = image.resize((width, height), resample)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _stretch(image: Any, size: int, resample: int) -> Any:
    return image.resize((size, size), resample)


CROPS: dict[str, Callable[[Any, int, int], Any]] = {
    "center": _center,
    "resize": _resize,
    "top-left": _top_left,
    "stretch": _stretch,
}
FILTERS = ("lanczos", "bicubic", "bilinear", "box", "hamming", "nearest")


class Converter:
    """Contents of rows to pixels, by Pillow.

    Raises:
        UserError: Pillow is not installed.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._image: Any = require("PIL.Image")
        self._ops: Any = require("PIL.ImageOps")
        self._image.init()
        self._formats = [name for name in FORMATS if name in self._image.OPEN]
        self._resample = int(self._image.Resampling[recipe.filter.upper()])
        self._mode = {1: "L", 3: "RGB"}[recipe.channels]

    def block(
        self, rows: Iterable[tuple[str, Content]], check: Callable[[], None] = lambda: None
    ) -> Converted:
        """Convert ``(name, content)`` pairs; what cannot be decoded is left out and listed.

        ``check`` is called before each row and may raise.
        """
        made, places, enlarged, skipped = [], [], [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about pictures that are odd but do decode
            for place, (name, content) in enumerate(rows):
                check()
                try:
                    pixels, grown = self(content)
                except MemoryError:
                    raise  # the machine's fault, not the row's
                except Exception as error:  # decoders raise whatever they like
                    skipped.append(Skipped(place, name, _reason(error)))
                    continue
                made.append(pixels)
                places.append(place)
                enlarged.append(grown)
        shape = (self.recipe.channels, self.recipe.size, self.recipe.size)
        stacked = np.stack(made) if made else np.empty((0, *shape), np.uint8)
        return Converted(stacked, places, enlarged, skipped)

    def __call__(self, content: Content) -> tuple[np.ndarray, bool]:
        """``[C, S, S]``, and whether the picture was smaller than that."""
        if isinstance(content, Exception):
            raise content
        size = self.recipe.size
        if isinstance(content, np.ndarray):
            if content.shape == (self.recipe.channels, size, size):
                return content, False
            planes = content[0] if len(content) == 1 else np.ascontiguousarray(content.transpose(1, 2, 0))
            image = self._image.fromarray(planes)
        else:
            image = self._open(content)
        grown = min(image.size) < size
        image = CROPS[self.recipe.crop](self._eight_bits(image), size, self._resample)
        pixels = np.asarray(image)
        return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), grown

    def _open(self, content: bytes) -> Any:
        if not content:
            raise ValueError("empty")
        image = self._image.open(io.BytesIO(content), formats=self._formats)
        image.load()
        try:
            self._ops.exif_transpose(image, in_place=True)
        except Exception:  # damaged EXIF data is no reason to lose a picture that decodes
            return image
        return image

    def _eight_bits(self, image: Any) -> Any:
        if image.mode.startswith("I"):
            # Grey of 16 bits: its high byte, as Pillow does for colours of 16 bits; convert() would clip.
            wide = np.clip(np.asarray(image), 0, 65535)
            image = self._image.fromarray((wide >> 8).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("floating-point pixels, which have no agreed range")
        return image if image.mode == self._mode else image.convert(self._mode)


def _reason(error: Exception) -> str:
    """One line, without the addresses that Pillow's messages contain."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture of a known format"
    text = re.sub(r"\s*<\S+ object at 0x[0-9a-fA-F]+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__
