"""Pictures of a run: sample grids, scatter plots over the critic's contours, loss curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.console import drawable
from wgangp_fast.files import write_whole
from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.metrics.quality import to_pixels

GRID_SIDE = 640  # pixels: small images are enlarged to about this
SEPARATOR = 96  # grey level of the lines between images
GREY, ORANGE, GREEN = "#444444", "#e8710a", "#1a8a3a"


def image_grid(path: Path, images: Tensor, columns: int | None = None) -> None:
    """Write images ``[N, C, H, W]`` in [-1, 1] as one sheet (see :func:`sheet`).

    Raises:
        UserError: Pillow is not installed.
    """
    write_png(path, sheet(images, columns))


def write_png(path: Path, pixels: Tensor) -> None:
    """Write uint8 ``pixels [C, H, W]``, C of 1 or 3, whole or not at all; in another format where the ending
    is another's.

    Raises:
        UserError: Pillow is not installed.
    """
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy()
    image = require("PIL.Image").fromarray(array)
    kind = require("PIL.Image").registered_extensions().get(path.suffix.lower(), "PNG")
    write_whole(path, lambda file: image.save(file, kind), sync=False)


def sheet(images: Tensor, columns: int | None = None) -> Tensor:
    """Images ``[N, C, H, W]`` in [-1, 1] side by side, uint8 ``[C, H', W']``: small ones enlarged without
    smoothing, grey lines between them; by default as many columns as rows, or one more."""
    count, channels, height, width = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    scale = max(1, GRID_SIDE // (columns * width))
    gap = max(1, scale * width // 16)
    pixels = to_pixels(images.detach()).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    high, wide = height * scale + gap, width * scale + gap
    whole = torch.full((channels, rows * high + gap, columns * wide + gap), SEPARATOR, dtype=torch.uint8)
    for index, image in enumerate(pixels):
        top, left = gap + index // columns * high, gap + index % columns * wide
        whole[:, top : top + height * scale, left : left + width * scale] = image
    return whole


def points(
    path: Path,
    title: str,
    real: Tensor,
    fake: Tensor | None = None,
    critic: Callable[[Tensor], Tensor] | None = None,
    resolution: int = 128,
) -> None:
    """Draw points ``[N, 2]`` over the contour lines of a critic.

    Args:
        title: above the axes.
        real, fake: orange and green; fakes are left out where there are none.
        critic: ``[M, 2] -> [M]``, called on a grid of ``resolution**2`` points.

    Raises:
        UserError: matplotlib is not installed.
    """
    figure, (axes,) = _figure(1, size=(6.4, 6.0))
    extent = 1.25 * float(real.abs().max())
    if critic is not None:
        line = torch.linspace(-extent, extent, resolution)
        grid = torch.cartesian_prod(line, line)
        with torch.no_grad():
            value = critic(grid.to(real.device)).cpu().view(resolution, resolution).T
        filled = axes.contourf(line, line, value, levels=18, cmap="Greys", alpha=0.45)
        axes.contour(line, line, value, levels=18, colors="white", linewidths=0.6)
        bar = figure.colorbar(filled, ax=axes, shrink=0.8)
        bar.set_label("critic score")
    axes.plot(*real.cpu().T, "+", color=ORANGE, markersize=6, alpha=0.7, label="real")
    if fake is not None:
        axes.plot(*fake.cpu().T, ".", color=GREEN, markersize=4, alpha=0.6, label="generated")
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), xlabel="$x_1$", ylabel="$x_2$")
    axes.set_title(drawable(title), parse_math=False)  # it has the name of a file
    axes.set_aspect("equal")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    _save(figure, path)


def loss_curve(path: Path, title: str, ticks: list[dict[str, Any]]) -> None:
    """Draw the ticks of stats.jsonl over the iterations; nothing if there are none.

    Raises:
        UserError: matplotlib is not installed.
    """
    if not ticks:
        return
    figure, (above, below) = _figure(2, size=(7.5, 6.5))
    iterations = [tick["iteration"] for tick in ticks]
    style = {"marker": "." if len(ticks) < 30 else None, "linewidth": 1.3}
    above.plot(iterations, [tick["critic_loss"] for tick in ticks], color=GREY, label="critic loss", **style)
    above.plot(
        iterations,
        [tick["wasserstein"] for tick in ticks],
        color=ORANGE,
        label="mean D(real) - mean D(fake)",
        **style,
    )
    held_out = [(t["iteration"], t["held_out_critic_loss"]) for t in ticks if "held_out_critic_loss" in t]
    if held_out:
        above.plot(
            *zip(*held_out, strict=True), color=GREY, linestyle=":", label="critic loss, held-out samples"
        )
    generator = [
        (tick["iteration"], tick["generator_loss"]) for tick in ticks if tick["generator_loss"] is not None
    ]
    if generator:
        above.plot(*zip(*generator, strict=True), color=GREEN, label="generator loss", **style)
    above.set(ylabel="loss")
    above.set_title(drawable(title), parse_math=False)
    below.plot(
        iterations,
        [tick["grad_norm"] for tick in ticks],
        color=GREY,
        label="mean gradient norm of the critic",
        **style,
    )
    if ticks[-1]["penalty"] is not None:
        below.plot(
            iterations, [t["penalty"] for t in ticks], color=ORANGE, label="penalty, before lambda", **style
        )
    below.set(xlabel="generator iteration", ylabel="norm, penalty", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    kind = path.suffix[1:].lower() or "png"
    write_whole(path, lambda file: figure.savefig(file, dpi=100, format=kind), sync=False)


def _figure(rows: int, size: tuple[float, float]) -> tuple[Any, Any]:
    # Figure instead of pyplot: no global state, and no window system is ever asked for.
    figure = require("matplotlib.figure").Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0]
