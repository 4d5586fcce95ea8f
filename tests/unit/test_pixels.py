"""What one picture becomes: crops, filters, modes, and what is skipped."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from typing import Any

import lsun_fixture as fixture
import numpy as np
import pytest

from wgangp_fast.training.data.pixels import CROPS, FILTERS, Converter, Recipe

pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")


def png(image: Any, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def photograph(width: int, height: int) -> Any:
    return fixture.photographs()[0].crop((100, 50, 100 + width, 50 + height))


def convert(content: Any, size: int = 16, channels: int = 3, crop: str = "center", filter: str = "lanczos"):
    (pixels,) = Converter(Recipe(size, channels, crop, filter)).block([("x", content)]).pixels
    return pixels


@pytest.mark.parametrize(("width", "height"), [(57, 40), (40, 57), (41, 41), (16, 16), (9, 14), (16, 90)])
@pytest.mark.parametrize("filter", FILTERS)
def test_crops_and_filters_are_pillows(width: int, height: int, filter: str) -> None:
    image = photograph(width, height)
    resample = getattr(Image.Resampling, filter.upper())
    side, size = min(width, height), 16
    left, top = (width - side) // 2, (height - side) // 2
    new = (int(size * width / side), int(size * height / side))
    x, y = round((new[0] - size) / 2), round((new[1] - size) / 2)
    expected = {
        "center": image.crop((left, top, left + side, top + side)).resize((size, size), resample),
        "top-left": image.crop((0, 0, side, side)).resize((size, size), resample),
        "stretch": image.resize((size, size), resample),
        "resize": image.resize(new, resample).crop((x, y, x + size, y + size)),
    }
    assert expected.keys() == CROPS.keys()
    for crop, picture in expected.items():
        np.testing.assert_array_equal(
            convert(png(image), size, 3, crop, filter), np.asarray(picture).transpose(2, 0, 1), crop
        )


def modes() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """A name, a file, and the eight-bit colours ``[16, 16, 3]`` that it shows."""
    colours = np.asarray(photograph(16, 16))
    image = Image.fromarray(colours)
    yield "palette", png(image.quantize(32)), np.asarray(image.quantize(32).convert("RGB"))
    cmyk = Image.fromarray(np.concatenate([255 - colours, 0 * colours[..., :1]], 2), "CMYK")
    yield "cmyk", png(cmyk, "TIFF"), colours
    grey = colours[..., 0]
    yield "grey", png(Image.fromarray(grey)), grey[..., None].repeat(3, 2)
    deep = grey.astype(np.uint16) * 256 + 77
    yield "16 bits", png(Image.fromarray(deep)), grey[..., None].repeat(3, 2)
    yield "16 bits, TIFF", png(Image.fromarray(deep), "TIFF"), grey[..., None].repeat(3, 2)
    bright = grey > 99
    yield "two levels", png(Image.fromarray(bright)), np.uint8(255) * bright[..., None].repeat(3, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown turned clockwise
    yield "turned", png(image, exif=exif), np.rot90(colours, -1)
    yield "damaged exif", png(image, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"), colours


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated")
def test_pictures_of_every_mode() -> None:
    for name, content, colours in modes():
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none may reach the user
            made = convert(content, filter="nearest")
        np.testing.assert_array_equal(made, colours.transpose(2, 0, 1), name)
        luma = colours.astype(float) @ (0.299, 0.587, 0.114)
        np.testing.assert_allclose(convert(content, channels=1)[0], luma, atol=1, err_msg=name)


def test_what_has_no_agreed_meaning_is_skipped_with_its_reason() -> None:
    floating = png(Image.fromarray(np.ones((16, 16), np.float32)), "TIFF")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
    made = Converter(Recipe(16, 3, "center", "box")).block([("a", floating), ("c", script)])
    assert made.pixels.shape == (0, 3, 16, 16)
    reasons = [row.reason for row in made.skipped]
    assert "no agreed range" in reasons[0]
    assert reasons[1] == "not a picture of a known format"  # Pillow would start Ghostscript for it
