"""CIFAR-10 and CIFAR-100 in their python version: a tarball, or the folder it unpacks to.

The batches are pickles, and a pickle can name any function to be called. Here it can name only what a real
batch needs, and gets stand-ins for those that are written below: nothing of numpy is called with what a
file says, apart from viewing its bytes as plain numbers.
"""

from __future__ import annotations

import io
import pickle
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...errors import UserError

_TRAIN = re.compile(r"data_batch_\d+|train")
_TEST = re.compile(r"test_batch|test")
_CODES: dict[str, np.dtype[Any]] = {code: np.dtype(f"<{code}") for code in ("u1", "i4", "i8")}


def is_cifar(folder: Path) -> bool:
    return (folder / "data_batch_1").is_file() or (
        (folder / "meta").is_file() and (folder / "train").is_file()
    )


def read_cifar(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 ``[N, 3, 32, 32]`` and labels int64 ``[N]`` (the fine ones of CIFAR-100).

    Raises:
        UserError: batches are missing, truncated, or not what CIFAR's are.
    """
    wanted = {"train": _TRAIN, "test": _TEST}[split]
    members = _members(path) if path.is_file() else _files(path)
    batches = {}
    try:
        for name, content in members:
            if wanted.fullmatch(name):
                batches[name] = _read_batch(content, f"{path}: {name}")
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}): download it again") from None
    _complete(path, split, batches)
    parts = [batches[name] for name in sorted(batches, key=_number)]
    pixels = np.concatenate([part[0] for part in parts]).reshape(-1, 3, 32, 32)
    return pixels, np.concatenate([part[1] for part in parts])


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            name = member.name.rpartition("/")[2]
            if content is not None and (_TRAIN.fullmatch(name) or _TEST.fullmatch(name)):
                yield name, content.read()


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    for file in batch_files(path):
        yield file.name, file.read_bytes()


def batch_files(folder: Path) -> list[Path]:
    """The batches of both splits in an extracted folder."""
    names = (_TRAIN, _TEST)
    return [file for file in sorted(folder.iterdir()) if any(name.fullmatch(file.name) for name in names)]


def _number(name: str) -> int:
    digits = re.search(r"\d+", name)
    return int(digits[0]) if digits else 0


def _complete(path: Path, split: str, batches: dict[str, Any]) -> None:
    """A set that lacks one of its batches is refused: it would train on less than its name says."""
    if not batches:
        raise UserError(f"{path} has no {split} batches of CIFAR-10 or CIFAR-100")
    numbers = sorted(_number(name) for name in batches)
    if numbers == [0]:
        return
    said = max((part[2] for part in batches.values()), default=0)
    missing = sorted(set(range(1, max(said, numbers[-1]) + 1)) - set(numbers))
    if missing:
        raise UserError(f"{path} lacks data_batch_{missing[0]}: download it again")


def _read_batch(content: bytes, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Pixels ``[n, 3072]``, labels ``[n]``, and of how many batches it says to be one (0: it does not)."""
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _Refused as error:
        raise UserError(f"{name} is no CIFAR batch and was not loaded: {error}") from None
    except Exception as error:  # a damaged pickle can fail anywhere
        raise UserError(f"{name} is truncated or no CIFAR batch ({type(error).__name__}: {error})") from None
    if not isinstance(batch, dict):
        raise UserError(f"{name} is no CIFAR batch: it holds no dictionary")
    entries = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    pixels = _plain(entries.get("data"))
    labels = _plain(entries.get("fine_labels", entries.get("labels")))
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
        raise UserError(f"{name} is no CIFAR batch: its data is not uint8 [N, 3072]")
    if labels is None or labels.shape != (len(pixels),):
        raise UserError(f"{name} is no CIFAR batch: it does not have one label for each row")
    label = entries.get("batch_label", b"")
    said = re.search(rb"\d+ of (\d+)", label) if isinstance(label, bytes) else None
    return pixels, labels.astype(np.int64), int(said[1]) if said else 0


def _plain(value: Any) -> np.ndarray | None:
    """A stand-in, or a list of integers, as an array."""
    if isinstance(value, _Array):
        return value.numbers
    if isinstance(value, list) and all(isinstance(number, int) for number in value):
        return np.array(value, np.int64)
    return None


class _Refused(Exception):
    pass


class _Dtype:
    """Stands in for ``numpy.dtype``: its code alone."""

    def __init__(self, code: Any, *_: Any) -> None:
        text = code.decode() if isinstance(code, bytes) else str(code)
        self.code = text.lstrip("|<=")
        if self.code not in _CODES:
            raise _Refused(f"it holds an array of {text}")

    def __setstate__(self, state: Any) -> None:
        if state[1] not in (b"|", b"<", "|", "<"):
            raise _Refused("it holds numbers whose bytes are reversed")


class _Array:
    """Stands in for ``numpy.ndarray``."""

    numbers: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_columns, content = state
        self._fill(content, dtype, shape, "F" if by_columns else "C")

    def _fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
            raise _Refused("it holds an array that is not plain numbers")
        flat = np.frombuffer(bytes(content), _CODES[dtype.code])
        self.numbers = flat.reshape(tuple(shape), order="F" if order == "F" else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array._fill(content, dtype, shape, order)
    return array


def _scalar(dtype: Any, content: Any) -> int:
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
        raise _Refused("it holds a number that is none")
    return int.from_bytes(content, "little", signed=dtype.code != "u1")


def _latin(text: Any, encoding: Any) -> bytes:
    """How newer pickles of an old protocol write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise _Refused("it encodes text")
    return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _latin,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # numpy 2 moved its core; files name the place of the numpy that wrote them.
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise _Refused(f"it asks for {module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> NoReturn:
        raise _Refused("it refers to objects outside it")
