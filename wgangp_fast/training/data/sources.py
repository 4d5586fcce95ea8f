"""Finds out what a path holds, by content where there is a choice, and opens it."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from . import idx
from .cache import is_cache, is_unfinished
from .cifar import batch_files, is_cifar, read_cifar
from .files import check_square, read_npy, read_pixels
from .pixels import suffixes
from .readers import ArrayReader, Source, fingerprint
from .readers.files import folder_source, zip_source
from .readers.lmdb import LmdbSource

UNDERSTOOD = (
    "an LMDB folder of pictures (LSUN), a folder or zip of pictures, CIFAR-10 or CIFAR-100 (python version), "
    "IDX files (MNIST) or a .npy file of uint8 images"
)
SPLITS = ("train", "test")
_LMDB_MAGIC = b"\xde\xc0\xef\xbe"  # at byte 16 of the first page


class Images(NamedTuple):
    """A set that is an array already.

    pixels: uint8 ``[N, C, H, W]``, square; or float32 points ``[N, 2]``. labels: int64 ``[N]``, or None.
    """

    pixels: np.ndarray
    labels: np.ndarray | None
    name: str


class Found(NamedTuple):
    """What a path holds: ``path`` may be a folder or file within the one that was given."""

    kind: str
    path: Path


def read_array(path: str | Path, split: str = "train") -> Images | None:
    """Read a set that fits in memory: IDX, CIFAR or .npy.

    Returns:
        None where ``path`` holds photographs, which have to be prepared first.

    Raises:
        UserError: nothing of what is understood, damaged, or images that are not square with a side that is
            a multiple of 4 from 8 on.
    """
    path = Path(path)
    found = find(path)
    if found.kind not in _ARRAYS:
        return None
    _check_split(found, split)
    if found.kind == "npy":
        return Images(read_npy(found.path).numpy(), None, path.name)
    pixels, labels, _ = _ARRAYS[found.kind](found.path, split)
    check_square(f"{found.path} holds images {list(pixels.shape)}", pixels)
    return Images(pixels, labels, path.name)


def open_source(path: str | Path, split: str = "train") -> Source:
    """Open everything that :func:`prepare` takes; use it in a ``with`` statement.

    Raises:
        UserError: nothing of what is understood, or it is damaged or empty.
    """
    found = find(Path(path))
    _check_split(found, split)
    if found.kind in _PICTURES:
        return _PICTURES[found.kind](found.path)
    pixels, labels, files = _ARRAYS[found.kind](found.path, split)
    identity = fingerprint(files, found.path if found.path.is_dir() else found.path.parent)
    return Source(
        found.kind,
        found.path,
        ArrayReader(),
        len(pixels),
        identity,
        channels=pixels.shape[1],
        labels=labels,
        rows=pixels,
        split=split if _has_splits(found) else None,
    )


def find(path: Path) -> Found:
    """What ``path`` holds.

    Raises:
        UserError: nothing that is understood, or no such path.
    """
    try:
        if path.is_dir():
            return _find_in_folder(path)
        if path.is_file():
            return _find_in_file(path)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    raise UserError(f"no data at {path}; expected {UNDERSTOOD}")


def _recognise(folder: Path) -> Found | None:
    if (folder / "data.mdb").is_file():
        return Found("lmdb", folder)
    if is_cifar(folder):
        return Found("cifar", folder)
    if idx.is_idx_folder(folder):
        return Found("idx", folder)
    return None


def _find_in_folder(path: Path) -> Found:
    here = _recognise(path)
    if here is not None:
        return here
    if is_cache(path):
        raise UserError(f"{path} is a cache already: prepare its source instead")
    if is_unfinished(path):
        raise UserError(f"{path} is not finished: run the same prepare command again, it continues")
    if path.name.endswith("_lmdb") or (path / "lock.mdb").is_file():
        raise UserError(f"{path} has no data.mdb: this LMDB folder is not complete; download it again")
    # Sets are often unpacked into a folder: cifar/cifar-10-batches-py, MNIST/raw, lsun/bedroom_train_lmdb.
    inner = sorted(entry for entry in path.iterdir() if entry.is_dir())
    below = [found for folder in inner for found in (_recognise(folder), _recognise(folder / "raw")) if found]
    if len(below) > 1:
        listed = ", ".join(str(found.path.relative_to(path)) for found in below[:8])
        raise UserError(f"{path} holds {len(below)} sets: give one of {listed}")
    return below[0] if below else Found("folder", path)


def _find_in_file(path: Path) -> Found:
    with path.open("rb") as stream:
        start = stream.read(20)
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return Found("zip", path)
    if start[:6] == b"\x93NUMPY" or path.suffix == ".npy":
        return Found("npy", path)
    if start[16:20] == _LMDB_MAGIC:
        return Found("lmdb", path.parent if path.name == "data.mdb" else path)
    if start[:2] == b"\x1f\x8b":
        start = _unzipped(path)
    if idx.looks_like_idx(start):
        return Found("idx", path)
    if _is_tar(path):
        return Found("cifar", path)
    if path.suffix.lower() in suffixes():
        raise UserError(f"{path} is a single picture: give the folder that holds it")
    raise UserError(f"{path} is a file of no known kind; expected {UNDERSTOOD}")


def _unzipped(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(4)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): download it again") from None


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error):
        raise UserError(f"{path} is truncated or damaged: download it again") from None


def _has_splits(found: Found) -> bool:
    return found.kind == "cifar" or (found.kind == "idx" and found.path.is_dir())


def _check_split(found: Found, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if split != "train" and not _has_splits(found):
        raise UserError(f"{found.path} is one set without splits: leave out --split")


Loaded = tuple[np.ndarray, np.ndarray | None, Iterable[Path]]


def _idx(path: Path, split: str) -> Loaded:
    images = idx.find_images(path, split) if path.is_dir() else path
    if images is None:
        raise UserError(f"{path} has no {split} images among its IDX files")
    beside = idx.labels_beside(images)
    return *idx.read_idx_images(images), [images, *([beside] if beside else [])]


def _cifar(path: Path, split: str) -> Loaded:
    return *read_cifar(path, split), batch_files(path) if path.is_dir() else [path]


def _npy(path: Path, split: str) -> Loaded:
    return read_pixels(path), None, [path]


# To pixels, labels and the files that they are in; photographs have too many pixels for that.
_ARRAYS: dict[str, Callable[[Path, str], Loaded]] = {"idx": _idx, "cifar": _cifar, "npy": _npy}
_PICTURES: dict[str, Callable[[Path], Source]] = {
    "lmdb": LmdbSource,
    "folder": folder_source,
    "zip": zip_source,
}
