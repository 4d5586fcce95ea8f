"""Checkpoints: plain tensors and numbers, written so that a crash never leaves a half-written file."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from wgangp_fast.errors import UserError
from wgangp_fast.files import write_whole

FORMAT = 2
_NAME = re.compile(r"checkpoint_(\d+)\.pt")
LEFTOVER = ".checkpoint.tmp"


def listing(folder: Path) -> list[Path]:
    """Checkpoints of a run folder, oldest first."""
    return [path for _, path in sorted(_numbered(folder))]


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for path in folder.iterdir():
        if match := _NAME.fullmatch(path.name):
            yield int(match[1]), path


def save(folder: Path, iteration: int, state: dict[str, Any], keep: int) -> Path:
    """Write ``checkpoint_<iteration>.pt`` and delete all but the newest ``keep``.

    Raises:
        UserError: the disk is full, or the folder cannot be written to; the older ones are as they were.
    """
    path = folder / f"checkpoint_{iteration:06d}.pt"
    write(path, {"format": FORMAT, "iteration": iteration, **state})
    for old in listing(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def write(path: Path, state: dict[str, Any]) -> None:
    """Write a file that has its name only when its bytes are on the disk: after a crash at any moment there
    is the old file or the new one, whole.

    Raises:
        UserError: it cannot be written.
    """
    try:
        write_whole(path, lambda file: torch.save(state, file), temporary=LEFTOVER)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UserError(
            f"cannot write {path} ({reason or _first_line(error)}); the checkpoints before it are intact"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``; tensors land on the CPU.

    Raises:
        UserError: the file is damaged, of another format, or not one of this package's.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, about files that it then refuses
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from None
    except Exception as error:  # a torn file makes the reader fail in every way there is
        raise UserError(f"cannot read {path}: {_unreadable(error)}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else None
        raise UserError(f"{path} is not a checkpoint of format {FORMAT} (found {found})")
    return state


def load_run(path: Path) -> dict[str, Any]:
    """:func:`load` for a checkpoint of a run, which has an iteration."""
    state = load(path)
    if type(state.get("iteration")) is not int:
        raise UserError(f"{path} is not a checkpoint of a run: its iteration is {state.get('iteration')!r}")
    return state


def _unreadable(error: Exception) -> str:
    """Why torch could not read a file. Its own words advise to turn ``weights_only`` off, which would run
    whatever code the file names."""
    if isinstance(error, pickle.UnpicklingError) or "weights" in str(error).lower():
        return "it is not a checkpoint of wgangp_fast, which holds nothing but tensors and plain values"
    return "it is damaged, or not a checkpoint of wgangp_fast"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def newest(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The newest checkpoint of a run folder that can be read, and a line on each newer one that cannot.

    Raises:
        UserError: there is none, or none that can be read.
    """
    paths = listing(folder) if folder.is_dir() else []
    complaints: list[str] = []
    for path in reversed(paths):
        try:
            return load_run(path), complaints
        except UserError as error:
            complaints.append(str(error))
    if complaints:
        raise UserError(f"no checkpoint of {folder} can be read: {complaints[0]}")
    raise UserError(f"{folder} has no checkpoint")
