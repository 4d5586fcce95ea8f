"""Curves as SVG pictures inside the report."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wgangp_fast.optional_dependencies import require

POINTS = 400  # of a curve, at most about: more than the eye or the screen tells apart
SMOOTH = 120  # points of the line through a curve's middle, which one that has twice as many gets
OUTLIER = 4.0  # the frame leaves points out that would make it this many times as high
# Okabe and Ito's colours, which colour-blind readers can tell apart, darker for thin lines.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a8437f", "#6b5bb5", "#8a6d00")
GREY, FAINT = "#5b636d", "#dde1e5"
# Text stays text, and the same curves give the same bytes.
SVG = {"svg.fonttype": "none", "svg.hashsalt": "wgangp_fast"}

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A line.

    Attributes:
        label: what it is. points: by x; a y that is not finite interrupts it.
        run: which run's colour it has. dashed: the run's second line.
    """

    label: str
    points: Sequence[Point]
    run: int = 0
    dashed: bool = False

    @property
    def colour(self) -> str:
        return COLOURS[self.run % len(COLOURS)]

    @property
    def last(self) -> str:
        """The last finite value."""
        return number(finite(self.points)[-1][1])


@dataclass(frozen=True)
class Chart:
    """Curves with a finite point each; ``source`` is the picture as a data address, ``spoken`` its text."""

    title: str
    curves: Sequence[Curve]
    notes: Sequence[str]
    spoken: str
    source: str


def chart(
    title: str, curves: Sequence[Curve], unit: str, reference: float | None = None, zero: bool = False
) -> Chart:
    """A chart.

    Args:
        title: what is drawn. curves: at least one with a finite point.
        unit: of x: ``seconds`` are drawn as minutes or hours where they are many.
        reference: a y that deserves a faint line. zero: whether y begins at 0.

    Raises:
        UserError: matplotlib is not installed.
    """
    curves = [curve for curve in curves if finite(curve.points)]
    figure, unit, notes = draw(curves, unit, reference, zero)
    broken = sum(_gaps(curve.points) for curve in curves)
    notes += [f"{broken} values missing or not finite"] if broken else []
    last = ", ".join(f"{curve.label} {curve.last}" for curve in curves)
    return Chart(title, curves, notes, f"{title} over {unit}; last values: {last}", _address(figure))


def draw(
    curves: Sequence[Curve], unit: str, reference: float | None, zero: bool
) -> tuple[Any, str, list[str]]:
    """A matplotlib figure, the unit of its x, and what it leaves out; arguments as of :func:`chart`."""
    xs, ys = zip(*(point for curve in curves for point in finite(curve.points)), strict=True)
    scale, unit = _time(max(xs)) if unit == "seconds" else (1.0, unit)
    low, high = _frame(ys, ([] if reference is None else [reference]) + ([0.0] if zero else []))
    left, right = min(0.0, min(xs)) / scale, max(xs) / scale
    figure = require("matplotlib.figure").Figure(figsize=(6.4, 3.2))
    axes = figure.add_axes((0.12, 0.15, 0.84, 0.8))  # the same in all: a layout engine takes twice the time
    for index, curve in enumerate(curves):
        _plot(axes, index, curve, scale)
    if reference is not None:
        axes.axhline(reference, color=GREY, linestyle=":", linewidth=1)
    axes.set(xlim=(left, right if right > left else left + 1), ylim=(low, high), xlabel=unit)
    axes.grid(axis="y", color=FAINT)
    axes.tick_params(axis="y", length=0)
    axes.spines[["left", "top", "right"]].set_visible(False)
    outside = [y for y in ys if not low <= y <= high]
    far = number(max(outside, key=abs)) if outside else ""
    return figure, unit, [f"{len(outside)} values outside, as far as {far}"] if outside else []


def _plot(axes: Any, index: int, curve: Curve, scale: float) -> None:
    points = np.array([(x / scale, y if math.isfinite(y) else math.nan) for x, y in curve.points])
    points = points[np.isfinite(points[:, 0])]
    style = {"color": curve.colour, "linestyle": "--" if curve.dashed else "-"}
    if len(points) >= 2 * SMOOTH:
        _line(axes, _thinned(points), color=curve.colour, linewidth=0.8, alpha=0.3, gid=f"raw-{index}")
        points = _middle(points)
    _line(axes, points, linewidth=1.8, gid=f"curve-{index}", **style)


def _line(axes: Any, points: np.ndarray, **style: Any) -> None:
    """A line, interrupted where y is NaN; a lonely point is a spot."""
    there = np.isfinite(np.pad(points[:, 1], 1, constant_values=np.nan))
    alone = there[1:-1] & ~there[:-2] & ~there[2:]
    axes.plot(*points.T, marker=".", markevery=alone, **style)


def _thinned(points: np.ndarray) -> np.ndarray:
    """Of each of many stretches its lowest, its highest and a value that is not finite, if it has one."""
    kept = []
    for part in np.array_split(points, POINTS // 3):
        y = part[:, 1]
        rows = {np.nan_to_num(y, nan=np.inf).argmin(), np.nan_to_num(y, nan=-np.inf).argmax()}
        kept.append(part[sorted(rows | {np.isfinite(y).argmin()})])
    return np.concatenate(kept)


def _middle(points: np.ndarray) -> np.ndarray:
    """The medians of :data:`SMOOTH` stretches, which noise and single spikes do not move."""
    parts = (part[np.isfinite(part[:, 1])] for part in np.array_split(points, SMOOTH))
    return np.array([(part[:, 0].mean(), np.median(part[:, 1])) for part in parts if len(part)])


def _address(figure: Any) -> str:
    """The figure as an SVG that is part of the page."""
    file = io.BytesIO()
    about = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with require("matplotlib").rc_context(SVG):
        figure.savefig(file, format="svg", transparent=True, metadata=about)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"


def finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _gaps(points: Sequence[Point]) -> int:
    """Values that are not finite, after the first that is."""
    good = [math.isfinite(y) for _, y in points]
    return good[good.index(True) :].count(False)


def number(value: float) -> str:
    """About four digits, thousands apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if 1000 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _frame(ys: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest y of the drawing: of all values, or of all but the 2 % that would flatten them, and
    of those that are ``wanted``."""
    low, high = min(ys), max(ys)
    inner_low, inner_high = map(float, np.percentile(ys, (1, 99), method="nearest"))
    if inner_high > inner_low and high - low > OUTLIER * (inner_high - inner_low):
        low, high = inner_low, inner_high
    low, high = min([low, *wanted]), max([high, *wanted])
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    # A quantity that is never negative has a frame that begins at 0, if 0 is near.
    floor = 0.0 if low >= 0 and low - margin < 0.25 * (high - low) else low - margin
    return floor, high + margin


def _time(longest: float) -> tuple[float, str]:
    for most, seconds, name in ((180, 1, "seconds"), (10_800, 60, "minutes"), (math.inf, 3600, "hours")):
        if longest <= most:
            return float(seconds), name
    return 1.0, "seconds"
