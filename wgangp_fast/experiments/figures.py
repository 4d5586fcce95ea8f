"""What the experiments' pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.pictures import sheet, write_png

GREY, ORANGE, GREEN, BLUE, RED = "#444444", "#e8710a", "#1a8a3a", "#1f5fbf", "#b3261e"
COLOURS = (BLUE, ORANGE, GREEN, RED, GREY, "#7a4fbf", "#0a8f9e", "#a06a00")


def figure(
    rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None, **subplots: Any
) -> tuple[Any, Any]:
    """A figure and its axes ``[rows, columns]``, without pyplot: no global state, no window system.

    Args:
        size: inches; by default 4.5 x 3.6 for each of the axes.
        subplots: for ``Figure.subplots``, such as ``sharex``.

    Raises:
        UserError: matplotlib is not installed.
    """
    size = size or (4.5 * columns, 3.6 * rows)
    made = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False, **subplots)


def save(made: Any, path: Path) -> None:
    """Write a figure as a PNG of at most 256 colours: a third of the bytes, and no eye sees it."""
    made.set_dpi(100)
    _picture(made).quantize(256, dither=0).save(path, optimize=True)


def image_sheet(images: Tensor, columns: int | None = None) -> Any:
    """A function of a path that writes images ``[N, C, H, W]`` in [-1, 1] as one sheet."""
    pixels = sheet(images, columns)

    def write(path: Path) -> None:
        write_png(path, pixels)

    return write


def animation(frames: Sequence[Any], seconds: float = 0.2, last: float = 2.0) -> Any:
    """A function of a path that writes matplotlib figures as an animated GIF.

    Args:
        seconds: that a frame is shown. last: that the last one is.

    Raises:
        UserError: Pillow is not installed.
    """

    def write(path: Path) -> None:
        images = [_image(frame) for frame in frames]
        durations = [round(1000 * seconds)] * (len(images) - 1) + [round(1000 * last)]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)

    return write


def _image(frame: Any) -> Any:
    frame.set_dpi(80)
    return _picture(frame).quantize(48, dither=0)


def _picture(made: Any) -> Any:
    canvas = require("matplotlib.backends.backend_agg").FigureCanvasAgg(made)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return require("PIL.Image").fromarray(pixels.copy())
