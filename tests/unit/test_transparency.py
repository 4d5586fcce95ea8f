"""Transparent pictures lie on a background that is stated, and pictures of too many pixels are left out."""

from __future__ import annotations

import io
import json
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lsun_fixture as fixture
import numpy as np
import pytest
from lsun_fixture import quick

from wgangp_fast import cli
from wgangp_fast.errors import UserError
from wgangp_fast.training.data import pixels
from wgangp_fast.training.data.pixels import Converter, Recipe, colour, decode

lmdb = pytest.importorskip("lmdb")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")
features = pytest.importorskip("PIL.features")

RNG = np.random.default_rng(0)
SIDE = 16
COLOURS = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
ALPHA = RNG.choice(np.array([0, 1, 100, 254, 255], np.uint8), (SIDE, SIDE))
GREY_KEY, RGB_KEY = 0, 2  # PNG's colour types
BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "#80a0ff": (128, 160, 255)}


def saved(image: Any, kind: str = "PNG", **settings: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def png(samples: np.ndarray, bits: int, kind: int, key: tuple[int, ...]) -> bytes:
    """A PNG of ``samples [H, W, C]`` with ``bits`` each, of which the colour ``key`` is transparent."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    binary = (samples.reshape(height, -1)[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # high bit first
    rows = np.packbits(binary.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join([
        chunk(b"IHDR", head), chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)),
        chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b""),
    ])  # fmt: skip


def with_alpha() -> Iterator[tuple[str, bytes, np.ndarray, np.ndarray]]:
    """A name, a file, and what is in it: colours ``[16, 16, 3]`` of 8 bits and alpha ``[16, 16]``."""
    rgba = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    grey = COLOURS[..., :1].repeat(3, 2)
    grey_alpha = Image.merge("LA", (Image.fromarray(COLOURS[..., 0]), Image.fromarray(ALPHA)))
    yield "RGBA, PNG", saved(rgba), COLOURS, ALPHA
    yield "RGBA, TIFF", saved(rgba, "TIFF"), COLOURS, ALPHA
    yield "RGBA, WebP", saved(rgba, "WEBP", lossless=True, exact=True), COLOURS, ALPHA
    if features.check("jpg_2000"):
        yield "RGBA, JPEG 2000", saved(rgba, "JPEG2000"), COLOURS, ALPHA
    yield "LA, PNG", saved(grey_alpha), grey, ALPHA
    yield "LA, TIFF", saved(grey_alpha, "TIFF"), grey, ALPHA
    few = Image.fromarray(COLOURS).quantize(8)
    codes, shown = np.asarray(few), np.asarray(few.convert("RGB"))
    alphas = np.array([0, 255, 10, 128, 255, 0, 200, 255], np.uint8)
    yield "palette, alphas", saved(few, transparency=alphas.tobytes()), shown, alphas[codes]
    yield "palette, one colour", saved(few, transparency=3), shown, np.where(codes == 3, 0, 255)
    yield "palette, GIF", saved(few, "GIF", transparency=3), shown, np.where(codes == 3, 0, 255)
    both = Image.merge("PA", (few, Image.fromarray(ALPHA)))
    both.putpalette(few.getpalette())
    yield "palette and alpha, TIFF", saved(both, "TIFF"), shown, ALPHA
    for bits in (1, 2, 4, 8, 16):
        most = 2**bits - 1
        samples = RNG.integers(0, min(most, 7) + 1, (SIDE, SIDE, 1))
        shades = samples >> 8 if bits == 16 else samples * 255 // most
        yield (
            f"grey of {bits} bits, one shade", png(samples, bits, GREY_KEY, (1,)),
            shades.repeat(3, 2), np.where(samples[..., 0] == 1, 0, 255),
        )  # fmt: skip
    for bits in (8, 16):
        samples = RNG.integers(0, 2, (SIDE, SIDE, 3)) * 2 ** (bits - 8) * 200
        yield (
            f"colours of {bits} bits, one colour", png(samples, bits, RGB_KEY, tuple(samples[0, 0])),
            samples >> (bits - 8), np.where((samples == samples[0, 0]).all(2), 0, 255),
        )  # fmt: skip


PICTURES = {name: rest for name, *rest in with_alpha()}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_transparent_pictures_lie_on_the_background(name: str, background: str) -> None:
    content, colours, alpha = PICTURES[name]
    assert Image.open(io.BytesIO(content)).has_transparency_data
    share = np.asarray(alpha)[..., None] / 255
    expected = share * np.asarray(colours, float) + (1 - share) * np.array(BACKGROUNDS[background], float)
    recipe = Recipe(SIDE, 3, "center", "nearest", colour(background))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = Converter(recipe).block([("x", content)])
    assert not made.skipped
    np.testing.assert_allclose(made.pixels[0].transpose(1, 2, 0), expected, atol=1)
    grey = Converter(recipe._replace(channels=1)).block([("x", content)]).pixels[0, 0]
    np.testing.assert_allclose(grey, expected @ (0.299, 0.587, 0.114), atol=2)


def test_hidden_colours_do_not_bleed_when_pictures_shrink() -> None:
    """A white disc's edge beside hidden red: composited before it is resized."""
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, 29:] = 255
    colours = np.where(alpha[..., None] > 0, 255, np.array([255, 0, 0])).astype(np.uint8)
    content = saved(Image.fromarray(np.dstack([colours, alpha])))
    (made,) = Converter(Recipe(16, 3, "center", "lanczos")).block([("x", content)]).pixels
    assert (made == 255).all()


def test_a_turned_transparent_picture_is_turned_as_a_whole() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rgba = Image.fromarray(np.dstack([COLOURS, np.where(ALPHA > 99, 255, 0).astype(np.uint8)]))
    upright = np.asarray(decode(saved(rgba)))
    turned = np.asarray(decode(saved(rgba, exif=exif)))
    np.testing.assert_array_equal(turned, np.rot90(upright, -1))


def cache_of(kind: str, folder: Path) -> Path:
    """One transparent picture as a set of that kind."""
    content = PICTURES["RGBA, PNG"][0]
    if kind == "lmdb":
        (folder / "x_lmdb").mkdir()
        with (
            lmdb.open(str(folder / "x_lmdb"), map_size=1 << 20) as environment,
            environment.begin(write=True) as transaction,
        ):
            transaction.put(b"0", content)
        return folder / "x_lmdb"
    (folder / "photos").mkdir()
    (folder / "photos" / "0.png").write_bytes(content)
    if kind == "zip":
        fixture.write_zip(folder / "photos.zip", folder / "photos")
        return folder / "photos.zip"
    return folder / "photos"


@pytest.mark.parametrize("kind", ["folder", "zip", "lmdb"])
def test_every_source_has_the_background_and_the_cache_says_which(kind: str, tmp_path: Path) -> None:
    source = cache_of(kind, tmp_path)
    white = quick(source, tmp_path / "white")
    black = quick(source, tmp_path / "black", background="black")
    assert [c.header["request"]["background"] for c in (white, black)] == ["#ffffff", "#000000"]
    hidden = ALPHA == 0
    assert (white.images[0][:, hidden] == 255).all()
    assert (black.images[0][:, hidden] == 0).all()
    assert quick(source, tmp_path / "black", background="#000").path == black.path
    with pytest.raises(UserError, match=r"with background #000000 \(asked: #ffffff\): choose another name"):
        quick(source, tmp_path / "black")


def test_a_cache_of_before_backgrounds_is_not_taken_for_one_of_now(tmp_path: Path) -> None:
    source = cache_of("folder", tmp_path)
    header = quick(source, tmp_path / "c").path / "header.json"
    old = json.loads(header.read_text(encoding="utf-8"))
    del old["request"]["background"]
    header.write_text(json.dumps(old), encoding="utf-8")
    with pytest.raises(UserError, match=r"with background None \(asked: #ffffff\)"):
        quick(source, tmp_path / "c")
    np.save(tmp_path / "x.npy", np.zeros((4, 16, 16), np.uint8))  # arrays are not transparent
    assert quick(tmp_path / "x.npy", tmp_path / "a").header["request"]["background"] is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--background", "whitish"], "background must be a colour such as white"),
        (["--background", "#ffffff80"], "background must be an opaque colour; got '#ffffff80'"),
        (["--max-pixels", "-1"], "max_pixels must be at least 0"),
        (["--max-pixels", "255"], "16 x 16 pixels are more than 255: --max-pixels sets the limit"),
    ],
)
def test_mistakes_get_one_line(
    settings: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = cache_of("folder", tmp_path)
    assert cli.main(["prepare", str(source), str(tmp_path / "c"), "--size", "16", *settings]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_the_limit_of_pixels_is_ours_on_any_number_of_workers(tmp_path: Path, processes: int) -> None:
    """Neither Pillow's, which a program may have changed, nor left changed behind."""
    (tmp_path / "photos").mkdir()
    for k in range(80):
        side = 40 if k == 3 else 20
        (tmp_path / "photos" / f"{k:02d}.png").write_bytes(saved(Image.new("L", (side, side))))
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = 10
    try:
        cache = quick(tmp_path / "photos", tmp_path / "c", max_pixels=1599, workers=processes)
        everything = quick(tmp_path / "photos", tmp_path / "d", max_pixels=0, workers=processes)
        assert Image.MAX_IMAGE_PIXELS == 10
    finally:
        Image.MAX_IMAGE_PIXELS = before
    assert (cache.header["count"], cache.header["skipped"]) == (79, 1)
    listed = (tmp_path / "c" / "skipped.txt").read_text(encoding="utf-8")
    assert listed == "3\t03.png\t40 x 40 pixels are more than 1,599: --max-pixels sets the limit\n"
    assert everything.header["count"] == 80
    assert pixels.MAX_PIXELS == 2 * (1 << 30) // 4 // 3  # what Pillow refuses unless told otherwise
