"""One picture, encoded or as pixels, to a square of uint8.

Nothing here imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ...optional_dependencies import require

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


WHITE = "#ffffff"
# Pillow's own limit, from which on it takes a picture for an attack on the memory.
MAX_PIXELS = 178_956_970

Content = bytes | np.ndarray | Exception


class Recipe(NamedTuple):
    """What every picture becomes: uint8 ``[channels, size, size]``."""

    size: int
    channels: int
    crop: str  # a key of CROPS
    filter: str  # one of FILTERS
    background: str = WHITE  # of transparent pictures, #rrggbb
    max_pixels: int = MAX_PIXELS  # a picture of more is skipped; 0: none is


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


def colour(text: str) -> str:
    """A colour, by its name in CSS or in one of CSS's notations, as ``#rrggbb``.

    Raises:
        UserError: it is none, or not opaque; or Pillow is not installed.
    """
    try:
        red, green, blue, *alpha = require("PIL.ImageColor").getrgb(text)
    except ValueError:
        raise UserError(
            f"background must be a colour such as white, black or #80a0ff; got {text!r}"
        ) from None
    if alpha not in ([], [255]):
        raise UserError(f"background must be an opaque colour; got {text!r}")
    return f"#{red:02x}{green:02x}{blue:02x}"


_pillow = threading.RLock()


@contextmanager
def _own_limit() -> Iterator[None]:
    """Pillow's limit of pixels, which holds for the whole process, off: :func:`decode` has its own.

    One thread at a time, so that each leaves Pillow as it was.
    """
    module = require("PIL.Image")
    with _pillow:
        before, module.MAX_IMAGE_PIXELS = module.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            module.MAX_IMAGE_PIXELS = before


def decode(content: bytes, background: str = WHITE, max_pixels: int = MAX_PIXELS) -> Any:
    """The picture in an encoded file, as people see it: upright, on ``background`` where it is transparent.
    Every encoded picture is opened here.

    Returns:
        an image of Pillow's without transparency, 8 bits a channel.

    Raises:
        ValueError: empty, of more than ``max_pixels`` pixels (0: no limit), or in floating point.
        Exception: whatever Pillow's decoders raise.
    """
    if not content:
        raise ValueError("empty")
    with _own_limit():
        image = require("PIL.Image").open(io.BytesIO(content), formats=_formats())
        if 0 < max_pixels < image.width * image.height:
            raise ValueError(
                f"{image.width} x {image.height} pixels are more than {max_pixels:,}: --max-pixels sets the "
                "limit"
            )
        raw = image.tile[0][3] if image.tile else None  # how pixels are stored; gone once they are read
        image.load()
    with suppress(Exception):  # damaged EXIF data is no reason to lose a picture that decodes
        require("PIL.ImageOps").exif_transpose(image, in_place=True)
    return _opaque(image, raw if isinstance(raw, str) else "", background)


@cache
def _formats() -> list[str]:
    """Of :data:`FORMATS`, those that this Pillow reads."""
    module = require("PIL.Image")
    module.init()
    return [name for name in FORMATS if name in module.OPEN]


def _opaque(image: Any, raw: str, background: str) -> Any:
    """``image`` in 8 bits, laid on ``background`` where it is transparent. ``raw``: Pillow's name of how its
    pixels are stored in a file."""
    module = require("PIL.Image")
    if image.mode == "F":
        raise ValueError("floating-point pixels, which have no agreed range")
    transparent = image.has_transparency_data
    if image.mode.startswith("I"):
        # Grey of 16 bits: its high byte, as Pillow does for colours of 16 bits; convert() would clip.
        wide = np.clip(np.asarray(image), 0, 65535)
        grey = module.fromarray((wide >> 8).astype(np.uint8))
        if not transparent:
            return grey
        mask = module.fromarray(np.where(wide == image.info["transparency"], 0, 255).astype(np.uint8))
        image = module.merge("LA", (grey, mask))
    elif not transparent:
        return image
    elif image.mode in ("L", "RGB"):
        image.info["transparency"] = _key(image.info["transparency"], raw)
    elif image.mode == "La":  # premultiplied
        image = image.convert("LA")
    canvas = module.new("RGBA", image.size, background)
    canvas.alpha_composite(image.convert("RGBA"))
    return canvas.convert("RGB")


def _key(value: Any, raw: str) -> Any:
    """The transparent colour of a picture, on the scale of its pixels: Pillow spreads 2 and 4 bits over 8 and
    takes the high byte of 16, but leaves this value as the file has it."""
    if isinstance(value, tuple):
        return tuple(part >> 8 if raw.startswith("RGB;16") else part & 255 for part in value)
    bits = {"L;2": 2, "L;4": 4}.get(raw, 8)
    return (value & (2**bits - 1)) * 255 // (2**bits - 1)


class Converter:
    """Contents of rows to pixels, by Pillow.

    Raises:
        UserError: Pillow is not installed.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._image: Any = require("PIL.Image")
        self._resample = int(self._image.Resampling[recipe.filter.upper()])
        self._mode = {1: "L", 3: "RGB"}[recipe.channels]

    def block(
        self, rows: Iterable[tuple[str, Content]], check: Callable[[], None] = lambda: None
    ) -> Converted:
        """Convert ``(name, content)`` pairs; what cannot be decoded is left out and listed.

        ``check`` is called before each row and may raise.
        """
        made, places, enlarged, skipped = [], [], [], []
        with warnings.catch_warnings(), _own_limit():
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
            image = decode(content, self.recipe.background, self.recipe.max_pixels)
        if image.mode != self._mode:
            image = image.convert(self._mode)
        grown = min(image.size) < size
        image = CROPS[self.recipe.crop](image, size, self._resample)
        pixels = np.asarray(image)
        return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), grown


def _reason(error: Exception) -> str:
    """One line, without the addresses that Pillow's messages contain."""
    if type(error).__name__ == "UnidentifiedImageError":
        return "not a picture of a known format"
    text = re.sub(r"\s*<\S+ object at 0x[0-9a-fA-F]+>", "", str(error))
    return " ".join(text.split()) or type(error).__name__
