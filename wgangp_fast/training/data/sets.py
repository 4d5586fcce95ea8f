"""Sets by name: embedded ones, prepared folders, arrays, and photographs that are prepared first."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...optional_dependencies import require
from . import toy
from .cache import Cache, is_cache
from .dataset import Fresh, Samples, Stored
from .preparation import prepare
from .rng import stream
from .sources import read_array

_FRESH = {"toy-8gaussians": toy.eight_gaussians, "toy-swissroll": toy.swiss_roll}
_MODES = {
    "toy-8gaussians": toy.eight_modes,
    "toy-25gaussians": toy.grid_modes,
    "toy-swissroll": toy.roll_modes,
}


def names() -> list[str]:
    """Embedded sets, which need no file and no network."""
    return ["digits", *_MODES]


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits: float32 ``[1797, 1, 8, 8]`` in [-1, 1], and labels int64 ``[1797]``.

    Raises:
        UserError: scikit-learn is not installed.
    """
    bunch = require("sklearn.datasets").load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 8 - 1  # they are 0..16
    return images, torch.as_tensor(bunch.target, dtype=torch.int64)


def modes(name: str) -> toy.Modes | None:
    """Centres and noise of a toy distribution, None for every other set."""
    return _MODES[name]() if name in _MODES else None


def load(source: str, seed: int = 0, *, size: int = 0, cache: Path | None = None) -> Samples:
    """Open a set, with its labels where it has any.

    Args:
        source: one of :func:`names`, a prepared folder, an array that fits in memory (IDX, CIFAR-10, .npy),
            or photographs (LSUN LMDB, image folder, zip), which are prepared first.
        seed: of the samples where they are drawn.
        size: side that photographs get.
        cache: folder where photographs are prepared, once for each source and size.

    Raises:
        UserError: none of these, or it cannot be read.
    """
    if source in _FRESH:
        return Fresh(source, _FRESH[source])
    if source == "toy-25gaussians":
        points = toy.twenty_five_gaussians(stream(seed, source))
        return Stored(source, points, shuffled=False)
    if source == "digits":
        images, labels = digits()
        return Stored(source, images, labels=labels)
    path = Path(source)
    if not path.exists():
        if path.suffix or "/" in source:
            raise UserError(f"no data at {path}")
        raise UserError(f"unknown data {source!r}: neither a file or folder nor one of {', '.join(names())}")
    if is_cache(path):
        return _stored(path.name, Cache.open(path))
    array = read_array(path)
    if array is not None:
        return Stored(array.name, torch.as_tensor(array.pixels), labels=_labels(array.labels))
    if not size or cache is None:
        raise UserError(
            f"{path} holds photographs of any size: choose one with --size, or prepare them with "
            f"wgangp-fast prepare {path} FOLDER --size 64"
        )
    return _stored(path.stem, _prepared(path, size, cache))


def labelled(source: str) -> tuple[Tensor, Tensor] | None:
    """The images of a set that has labels, uint8 ``[N, C, H, W]``, and those, int64 ``[N]``; else None.

    Raises:
        UserError: the set cannot be read.
    """
    if source == "digits":
        images, labels = digits()
        return ((images + 1) * 127.5).round().to(torch.uint8), labels
    path = Path(source)
    if source in names() or not path.exists():
        return None
    if is_cache(path):
        cache = Cache.open(path)
        return None if cache.labels is None else (_tensor(cache), torch.as_tensor(cache.labels))
    array = read_array(path)
    if array is None or array.labels is None:
        return None
    return torch.as_tensor(array.pixels), torch.as_tensor(array.labels)


def mark(source: str) -> str:
    """A short name for a set, other for every path: for files that belong to it."""
    if source in names():
        return source
    path = Path(source)
    # The letters tell sources of one name apart.
    letters = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', path.stem)}-{letters}"


def _prepared(path: Path, size: int, folder: Path) -> Cache:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make {folder} ({error.strerror})") from None
    return prepare(path, folder / f"{mark(str(path))}-{size}", size=size)


def _stored(name: str, cache: Cache) -> Stored:
    return Stored(name, _tensor(cache), labels=_labels(cache.labels))


def _labels(found: np.ndarray | None) -> Tensor | None:
    return None if found is None else torch.as_tensor(found, dtype=torch.int64)


def _tensor(cache: Cache) -> Tensor:
    return torch.from_numpy(cache.images)
