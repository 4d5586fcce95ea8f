"""The growth suite: what the penalty costs as the batch, the critic's width, and its depth grow.

Convolutions are of 16 x 16 images, so that a batch of 1024 and a width of 512 fit a small machine. Every
point is a row like those of the penalty suite, checked before it is timed, with stock and ours alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..training import models
from . import suite
from .measures import Settings
from .workloads import Workload

SIZE, FILTERS, BATCH = 16, 32, 16
MLP_WIDTH, MLP_BATCH = 128, 256


@dataclass(frozen=True)
class Axis:
    """One thing that grows.

    Attributes:
        values: the points, smallest first.
        workload: the row of a point.
        about: what stays as it is.
    """

    values: tuple[int, ...]
    workload: Callable[[int], Workload]
    about: str


def _dcgan(dim: int, batch: int) -> Workload:
    def build() -> nn.Module:
        return models.build("dcgan64-critic", size=SIZE, dim=dim)

    about = f"DCGAN {SIZE} x {SIZE} of {dim} filters, LeakyReLU, no norm"
    return Workload(build, (3, SIZE, SIZE), batch, batch, "quick", about)


def _mlp(depth: int) -> Workload:
    def build() -> nn.Module:
        return models.build("toy-critic", dim=MLP_WIDTH, depth=depth)

    return Workload(build, (2,), MLP_BATCH, MLP_BATCH, "quick", f"MLP of {depth} x {MLP_WIDTH}, ReLU")


AXES = {
    "batch": Axis(
        (1, 4, 16, 64, 256, 1024),
        lambda batch: _dcgan(FILTERS, batch),
        f"DCGAN {SIZE} x {SIZE}, {FILTERS} filters",
    ),
    "width": Axis(
        (16, 32, 64, 128, 256, 512),
        lambda dim: _dcgan(dim, BATCH),
        f"DCGAN {SIZE} x {SIZE}, batch {BATCH}",
    ),
    "depth": Axis((2, 5, 10, 20, 50, 100), _mlp, f"MLP of width {MLP_WIDTH}, batch {MLP_BATCH}"),
}
POINTS = {f"{axis}-{value}": (axis, value) for axis, row in AXES.items() for value in row.values}


def select(names: list[str] | None, preset: str) -> dict[str, Workload]:
    """The points called ``names``, an axis standing for all of its own; all points for None.

    Raises:
        ValueError: an unknown name.
    """
    wanted = set(names or AXES)
    unknown = sorted(wanted - set(AXES) - set(POINTS))
    if unknown:
        raise ValueError(f"unknown point {', '.join(unknown)}; known: {', '.join((*AXES, *POINTS))}")
    return {
        name: AXES[axis].workload(value)
        for name, (axis, value) in POINTS.items()
        if axis in wanted or name in wanted
    }


def run(
    workloads: dict[str, Workload],
    device: torch.device,
    settings: Settings,
    argv: list[str],
    progress: Callable[[str], None] = lambda name: None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure the points; the result is the penalty suite's, its rows told ``axis`` and ``value``."""

    def told(result: dict[str, Any]) -> dict[str, Any]:
        result["suite"] = "growth"
        for row in result["rows"]:
            axis, value = POINTS[row["workload"]]
            row |= {"axis": axis, "value": value, "growing": AXES[axis].about}
        return result

    if not settings.contestants:
        settings = replace(settings, contestants=("ours",))
    return told(
        suite.run(
            workloads,
            device,
            replace(settings, floor=False),
            argv,
            progress=progress,
            keep=lambda result: keep(told(result)),
        )
    )
