"""Prepared images: a folder with ``images.npy``, which is mapped, and a header that says what they are.

``images.npy`` is uint8 ``[N, C, S, S]`` and can be opened with ``numpy.load(mmap_mode="r")`` alone;
``labels.npy`` is int64 ``[N]``, where the source has labels; ``skipped.txt`` lists the rows that did not
decode, where there were any; ``header.json`` has the settings, the source and the digests.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import UserError

FORMAT = "wgangp_fast cache"
VERSION = 1
HEADER, IMAGES, LABELS, SKIPPED = "header.json", "images.npy", "labels.npy", "skipped.txt"
PROGRESS = "progress.json"  # while it is made
# Rows of one digest: small enough to say where damage is, large enough for a short header.
DIGEST_ROWS = 1024
# Bytes before the pixels, whatever the shape, so that it can be written last.
NPY_HEADER = 128


class Damaged(UserError):
    """A cache whose bytes are not those that were written."""


@dataclass(frozen=True)
class Cache:
    """A prepared set.

    Attributes:
        images: uint8 ``[N, C, S, S]``, mapped; what is written to it does not reach the file.
        labels: int64 ``[N]``, or None.
        header: what ``header.json`` says.
        path: the folder.
    """

    images: np.ndarray
    labels: np.ndarray | None
    header: dict[str, Any]
    path: Path

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a cache; its pixels are not read here.

        Raises:
            Damaged: its files do not fit its header.
            UserError: no cache at ``path``, or one of another version.
        """
        path = Path(path)
        header = read_header(path)
        shape = (header["count"], header["channels"], header["size"], header["size"])
        images = _map(path / IMAGES, np.dtype(np.uint8), shape)
        labels = _map(path / LABELS, np.dtype("<i8"), shape[:1]) if header["labels_digest"] else None
        return cls(images, labels, header, path)


def is_cache(path: str | Path) -> bool:
    """Whether ``path`` is meant to be a cache, readable or not."""
    return _is_file(Path(path) / HEADER) and _is_file(Path(path) / IMAGES)


def is_unfinished(path: Path) -> bool:
    """Whether ``path`` is where a cache is being made, or was when the process ended."""
    return _is_file(path / PROGRESS) and not _is_file(path / HEADER)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that may not be entered: who opens it says so
        return False


def verify(path: str | Path, advance: Callable[[int], None] = lambda rows: None) -> None:
    """Read a whole cache and compare it with its digests.

    Args:
        advance: called with the number of rows that were found good.

    Raises:
        Damaged: it is not what was written; the message names the first bad rows.
        UserError: no cache at ``path``, of another version, or it cannot be read.
    """
    cache = Cache.open(path)
    header, path = cache.header, cache.path
    if combined_digest(header["digests"], header["labels_digest"]) != header["digest"]:
        raise Damaged(f"{path / HEADER} is damaged: its digests do not fit each other; prepare it again")
    row_bytes, count = math.prod(cache.images.shape[1:]), header["count"]
    try:
        with (path / IMAGES).open("rb") as stream:
            stream.seek(NPY_HEADER)
            for first, digest in zip(range(0, count, header["digest_rows"]), header["digests"], strict=True):
                rows = min(header["digest_rows"], count - first)
                if _digest(stream, rows * row_bytes) != digest:
                    raise Damaged(
                        f"{path / IMAGES} is damaged in rows {first}..{first + rows - 1}: prepare it again"
                    )
                advance(rows)
        if header["labels_digest"]:
            with (path / LABELS).open("rb") as stream:
                stream.seek(NPY_HEADER)
                if _digest(stream, 8 * count) != header["labels_digest"]:
                    raise Damaged(f"{path / LABELS} is damaged: prepare it again")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None


def combined_digest(digests: Iterable[str], labels_digest: str | None) -> str:
    """One digest over those of the blocks and of the labels: equal for equal contents."""
    return hashlib.sha256("\n".join([*digests, labels_digest or ""]).encode()).hexdigest()


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """A .npy header, version 1.0, of exactly :data:`NPY_HEADER` bytes."""
    text = repr({"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    filled = text.ljust(NPY_HEADER - 11).encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(filled)) + filled


def read_header(path: Path) -> dict[str, Any]:
    """``header.json``, its version and its fields checked.

    Raises:
        Damaged: it is not what was written.
        UserError: no cache at ``path``, or one of another version.
    """
    if is_unfinished(path):
        raise UserError(f"{path} is not finished: run the same prepare command again, it continues")
    try:
        header = json.loads((path / HEADER).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"no cache at {path}: wgangp-fast prepare makes one") from None
    except OSError as error:
        raise UserError(f"cannot read {path / HEADER} ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Damaged(f"{path / HEADER} is damaged: it is not JSON; prepare the cache again") from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UserError(f"{path} is no cache: its header.json is of something else")
    if header.get("version") != VERSION:
        raise UserError(
            f"{path} is a cache of version {header.get('version')}, and this wgangp_fast reads version "
            f"{VERSION}: prepare it again, or use the release that made it"
        )
    for key, kind in _FIELDS.items():
        value = header.get(key)
        wrong = isinstance(value, bool) or (isinstance(value, int) and value < 0)
        if wrong or not isinstance(value, kind):
            raise Damaged(f"{path / HEADER} is damaged: {key!r} is missing or wrong; prepare the cache again")
    rows = header["digest_rows"]
    known = all(isinstance(digest, str) for digest in header["digests"])
    if rows < 1 or not known or len(header["digests"]) != -(-header["count"] // rows):
        raise Damaged(f"{path / HEADER} is damaged: it lacks digests; prepare the cache again")
    return header


_FIELDS: dict[str, Any] = {
    "count": int,
    "channels": int,
    "size": int,
    "skipped": int,
    "digest_rows": int,
    "digests": list,
    "digest": str,
    "labels_digest": (str, type(None)),
    "request": dict,
}

# Private and writable, as torch wants it, and without a claim on memory for pages that nobody writes:
# a cache may be larger than the machine's memory.
if sys.platform == "linux":
    _MAPPING = {
        "flags": mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0x4000),
        "prot": mmap.PROT_READ | mmap.PROT_WRITE,
    }
else:
    _MAPPING = {"access": mmap.ACCESS_COPY}


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    expected = NPY_HEADER + math.prod(shape) * dtype.itemsize
    try:
        with path.open("rb") as stream:
            there = stream.seek(0, 2)
            if there != expected:
                word = "truncated" if there < expected else "damaged"
                raise Damaged(f"{path} is {word}: {there:,} bytes instead of {expected:,}; prepare it again")
            stream.seek(0)
            if stream.read(NPY_HEADER) != npy_header(dtype, shape):
                raise Damaged(f"{path} is damaged: it does not begin as {list(shape)} does; prepare it again")
            mapped = mmap.mmap(stream.fileno(), 0, **_MAPPING)
    except FileNotFoundError:
        raise Damaged(f"{path} is missing: prepare the cache again") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    return np.ndarray(shape, dtype, buffer=mapped, offset=NPY_HEADER)


def _digest(stream: BinaryIO, length: int) -> str:
    digest = hashlib.sha256()
    while length:
        piece = stream.read(min(length, 1 << 20))
        if not piece:
            break
        digest.update(piece)
        length -= len(piece)
    return digest.hexdigest()
