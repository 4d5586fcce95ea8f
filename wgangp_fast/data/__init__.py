"""Data to train on: embedded sets by name, or the user's .npy file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from . import toy
from .dataset import Dataset, Fresh, Stored, to_unit
from .extras import UserError, require
from .files import read_npy

__all__ = ["Dataset", "Fresh", "Stored", "UserError", "load", "modes", "names", "require", "to_unit"]

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


def load(source: str, seed: int = 0) -> Dataset:
    """Open a set.

    Args:
        source: one of :func:`names`, or the path of a .npy file (see :func:`.files.read_npy`).
        seed: of the order of the samples, and of the samples themselves where they are drawn.

    Raises:
        UserError: neither a name nor a readable file.
    """
    generator = torch.Generator().manual_seed(seed)
    if source in _FRESH:
        return Fresh(source, partial(_FRESH[source]), generator)
    if source == "toy-25gaussians":
        return Stored(source, toy.twenty_five_gaussians(generator), generator, reshuffle=False)
    if source == "digits":
        return Stored(source, digits()[0], generator)
    path = Path(source)
    if path.suffix != ".npy" and not path.exists():
        raise UserError(f"unknown data {source!r}: neither a .npy file nor one of {', '.join(names())}")
    return Stored(path.stem, read_npy(path), generator)
