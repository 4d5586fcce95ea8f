"""Files of weights: read with ``weights_only=True``, written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from wgangp_fast.errors import UserError
from wgangp_fast.files import write_whole


def read(path: Path, what: str) -> dict[str, Any]:
    """The dictionary in a file that ``torch.save`` wrote; tensors land on the CPU.

    Args:
        what: the file should be, for the message.

    Raises:
        UserError: there is no such file, it cannot be read, or it is something else.
    """
    if not path.is_file():
        raise UserError(f"{what}: no file at {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise UserError(f"{what}: no permission to read {path}") from None
    except Exception:  # what is no checkpoint makes the reader fail in every way there is
        raise UserError(f"{what}: {path} is not a file of weights, or it is damaged; get it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{what}: {path} holds no dictionary of weights but a {type(found).__name__}")
    return found


def write(path: Path, value: dict[str, Any]) -> None:
    """Write a file for :func:`read`.

    Raises:
        UserError: it cannot be written.
    """
    # Several processes may write it at once.
    temporary = f".{path.name}.{os.getpid()}.tmp"
    try:
        write_whole(path, lambda file: torch.save(value, file), temporary=temporary)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).partition("\n")[0]
        raise UserError(f"cannot write {path} ({reason})") from None


def misfit(found: dict[str, Any], wanted: dict[str, torch.Tensor]) -> str | None:
    """What in ``found`` is not as in ``wanted``, names and shapes, in a few words; None if all is there."""
    missing = [name for name in wanted if not isinstance(found.get(name), torch.Tensor)]
    if missing:
        return f"{len(missing)} of {len(wanted)} tensors are missing, {missing[0]} among them"
    for name, tensor in wanted.items():
        if found[name].shape != tensor.shape:
            return f"{name} is {list(found[name].shape)} and should be {list(tensor.shape)}"
    return None
