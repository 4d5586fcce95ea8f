"""IDX files, gzipped or not: MNIST, Fashion-MNIST and their like."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import UserError

_NAMES = {
    "train": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "test": (
        "t10k-images-idx3-ubyte",
        "t10k-images.idx3-ubyte",
        "test-images-idx3-ubyte",
        "test-images.idx3-ubyte",
    ),
}
_GZIP = b"\x1f\x8b"


def looks_like_idx(start: bytes) -> bool:
    """Whether a file that starts with these 4 bytes is an IDX file of uint8."""
    return len(start) >= 4 and start[:3] == b"\x00\x00\x08" and 1 <= start[3] <= 4


def find_images(folder: Path, split: str) -> Path | None:
    """The images of ``split`` in ``folder``, by the names that MNIST gave them."""
    for name in _NAMES[split]:
        for suffix in ("", ".gz"):
            if (folder / (name + suffix)).is_file():
                return folder / (name + suffix)
    return None


def is_idx_folder(folder: Path) -> bool:
    return any(find_images(folder, split) is not None for split in _NAMES)


def labels_beside(images: Path) -> Path | None:
    """The labels that belong to a file of images, zipped or not, or None."""
    name = images.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == images.name.removesuffix(".gz"):
        return None
    return next((file for s in ("", ".gz") if (file := images.with_name(name + s)).is_file()), None)


def read_idx_images(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Pixels uint8 ``[N, 1, H, W]``, and int64 ``[N]`` from the file of labels beside it, if there is one.

    Raises:
        UserError: one of them is truncated or of another kind, or they do not fit each other.
    """
    pixels = _read(path)
    if pixels.ndim != 3 or not pixels.size:
        kind = "labels, not images" if pixels.ndim == 1 else f"uint8 {list(pixels.shape)}"
        raise UserError(f"{path} holds {kind}; expected images [N,H,W]")
    beside = labels_beside(path)
    if beside is None:
        return pixels[:, None], None
    labels = _read(beside)
    if labels.shape != pixels.shape[:1]:
        raise UserError(f"{beside} holds {list(labels.shape)} labels for {len(pixels)} images in {path.name}")
    return pixels[:, None], labels.astype(np.int64)


def _read(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as plain:
            if plain.read(2) == _GZIP:
                with gzip.open(path) as unzipped:
                    return _parse(unzipped, path)
            plain.seek(0)
            return _parse(plain, path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): download it again") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None


def _parse(stream: IO[bytes] | gzip.GzipFile, path: Path) -> np.ndarray:
    start = stream.read(4)
    if not looks_like_idx(start):
        raise UserError(f"{path} is not an IDX file of uint8: it starts with {start.hex(' ') or 'nothing'}")
    head = stream.read(4 * start[3])
    if len(head) < 4 * start[3]:
        raise UserError(f"{path} is truncated: it ends within its header")
    shape = tuple(int(side) for side in np.frombuffer(head, ">u4"))
    content = stream.read()
    expected = math.prod(shape)
    if len(content) != expected:
        raise UserError(
            f"{path} is {'truncated' if len(content) < expected else 'damaged'}: {list(shape)} needs "
            f"{expected:,} bytes after its header, it has {len(content):,}; download it again"
        )
    return np.frombuffer(bytearray(content), np.uint8).reshape(shape)  # writable, as torch wants it
