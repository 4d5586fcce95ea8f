"""Checkpoints: plain tensors and numbers, written so that a crash never leaves a half-written file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from wgangp_fast.data import UserError

FORMAT = 1
_NAME = re.compile(r"checkpoint_(\d+)\.pt")


def listing(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, oldest first."""
    return [path for _, path in sorted(_numbered(folder))]


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if match := _NAME.fullmatch(path.name):
            yield int(match[1]), path


def save(folder: Path, iteration: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``checkpoint_<iteration>.pt`` and delete all but the newest ``keep``.

    The file takes its name only when its bytes are on the disk, so an interrupted save leaves the older
    checkpoints as they were.
    """
    path = folder / f"checkpoint_{iteration:06d}.pt"
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save({"format": FORMAT, "iteration": iteration, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    for old in listing(folder)[:-keep]:
        old.unlink()
    return path


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``; tensors land on the CPU.

    Raises:
        UserError: the file is damaged, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a torn file makes the reader fail in every way there is
        raise UserError(f"cannot read {path} ({_first_line(error)}); delete it to use an older one") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of format {FORMAT}")
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def newest(folder: Path) -> Path:
    """The newest checkpoint of a run folder.

    Raises:
        UserError: there is none.
    """
    paths = listing(folder)
    if not paths:
        raise UserError(f"cannot resume: {folder} has no checkpoint")
    return paths[-1]
