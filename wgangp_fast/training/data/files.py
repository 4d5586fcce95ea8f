"""The user's own data: one .npy file of images or of points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError

IMAGE_CHANNELS = (1, 3)


def read_npy(path: Path) -> Tensor:
    """Read samples from a .npy file.

    Args:
        path: uint8 images ``[N, H, W]``, ``[N, H, W, C]`` or ``[N, C, H, W]`` with C of 1 or 3, square,
            the side a multiple of 4 and at least 8, or float points ``[N, 2]``.

    Returns:
        uint8 ``[N, C, H, W]`` (a view of the file, which is not read here) or float32 ``[N, 2]``.

    Raises:
        UserError: no such file, not a .npy file, or an array of another kind.
    """
    array = _load(path)
    if array.ndim == 2 and array.shape[1] == 2 and np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise UserError(f"{path} has values that are not finite")
        return torch.from_numpy(np.array(array, dtype=np.float32))
    images = _planes(path, array)
    check_square(f"{path} holds {array.dtype} {list(array.shape)}", images)
    return torch.from_numpy(images)


def read_pixels(path: Path) -> np.ndarray:
    """The images of a .npy file, of any height and width: uint8 ``[N, C, H, W]``, a view of the file.

    Raises:
        UserError: no such file, not a .npy file, or an array of another kind.
    """
    return _planes(path, _load(path))


def check_square(found: str, images: np.ndarray) -> None:
    """Refuse images ``[N, C, H, W]`` that the networks do not take; ``found`` begins the message.

    Raises:
        UserError: they are not square, or the side is not a multiple of 4 from 8 on.
    """
    height, width = images.shape[2:]
    if height != width or height % 4 or height < 8:
        raise UserError(f"{found}; images must be square, the side a multiple of 4 and at least 8")


def _load(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"no data file at {path}")
    try:
        # Mapped, not read; copy on write, because torch has no read-only tensors.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
        if "pickle" in str(error) or "Python objects" in str(error):
            # numpy's own words advise to allow it, which would run code that the file names.
            reason = "it holds Python objects, not numbers, and was not loaded"
        raise UserError(f"{path} is not a readable .npy file ({reason})") from None
    if not isinstance(array, np.ndarray) or array.size == 0 or array.ndim == 0:
        raise UserError(f"{path} holds no samples")
    return array


def _planes(path: Path, array: np.ndarray) -> np.ndarray:
    """As ``[N, C, H, W]``, without a copy."""
    found = f"{path} holds {array.dtype} {list(array.shape)}"
    if array.dtype != np.uint8 or array.ndim not in (3, 4):
        raise UserError(f"{found}; expected uint8 images [N,H,W], [N,H,W,C], [N,C,H,W] or float points [N,2]")
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[1] not in IMAGE_CHANNELS and array.shape[3] in IMAGE_CHANNELS:
        array = array.transpose(0, 3, 1, 2)
    if array.shape[1] not in IMAGE_CHANNELS:
        raise UserError(f"{found}; images must have 1 or 3 channels")
    return array
