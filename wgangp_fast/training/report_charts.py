"""Curves as inline SVG: no script, no file beside the page, colours from the page's style."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 10, 34
POINTS = 400  # of a curve, at most: more than the eye or the screen tells apart
SMOOTH = 120  # points of the line through a curve's middle, which one that has twice as many gets
OUTLIER = 4.0  # the frame leaves points out that would make it this many times as high

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


def chart(
    title: str, curves: Sequence[Curve], unit: str, reference: float | None = None, zero: bool = False
) -> str:
    """A figure: title, legend with each curve's last value, and the drawing.

    Args:
        title: what is drawn. curves: at least one with a finite point.
        unit: of x: ``seconds`` are drawn as minutes or hours where they are many.
        reference: a y that deserves a faint line. zero: whether y begins at 0.
    """
    drawn = [(curve, finite(curve.points)) for curve in curves]
    drawn = [(curve, points) for curve, points in drawn if points]
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    scale, unit = _time(max(xs)) if unit == "seconds" else (1.0, unit)
    low, high = _frame(ys, ([] if reference is None else [reference]) + ([0.0] if zero else []))
    left = min(0.0, min(xs))
    frame = _Frame(left, max(xs) if max(xs) > left else left + 1, low, high)
    body = [_axes(frame, unit, scale)]
    if reference is not None:
        body.append(_line("reference", (LEFT, frame.y(reference)), (WIDTH - RIGHT, frame.y(reference))))
    body += [_path(frame, curve) for curve, _ in drawn]
    outside = [y for y in ys if not low <= y <= high]
    notes = [f"{len(outside)} values outside, as far as {number(max(outside, key=abs))}"] if outside else []
    broken = sum(_gaps(curve.points) for curve, _ in drawn)
    notes += [f"{broken} values missing or not finite"] if broken else []
    last = ", ".join(f"{curve.label} {number(points[-1][1])}" for curve, points in drawn)
    spoken = html.escape(f"{title} over {unit}; last values: {last}", quote=True)
    legend = "".join(_legend(curve, points[-1][1]) for curve, points in drawn)
    note = f'<p class="note">{"; ".join(notes)}</p>' if notes else ""
    return (
        f'<figure class="chart"><figcaption><b>{html.escape(title)}</b>{legend}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">{"".join(body)}</svg>'
        f"{note}</figure>"
    )


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


@dataclass(frozen=True)
class _Frame:
    left: float
    right: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.left) / (self.right - self.left)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        share = max(-0.5, min(1.5, share))  # far outside of the frame, no further
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _frame(ys: Sequence[float], wanted: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest y of the drawing: of all values, or of all but the 2 % that would flatten them, and
    of those that are ``wanted``."""
    ordered = sorted(ys)
    low, high = ordered[0], ordered[-1]
    inner_low, inner_high = (ordered[round(share * (len(ordered) - 1))] for share in (0.01, 0.99))
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


def _ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high, ``about`` so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * k for k in range(first, last + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 9.999 or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}" if abs(value) > 1e-12 else "0"


def _line(kind: str, start: Point, end: Point) -> str:
    (a, b), (c, d) = start, end
    return f'<line class="{kind}" x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}"/>'


def _axes(frame: _Frame, unit: str, scale: float) -> str:
    bottom = HEIGHT - BOTTOM
    parts = []
    for value in _ticks(frame.low, frame.high, 4):
        y = frame.y(value)
        parts.append(_line("grid", (LEFT, y), (WIDTH - RIGHT, y)))
        parts.append(f'<text class="y" x="{LEFT - 7}" y="{y + 4:.1f}">{_short(value)}</text>')
    for value in _ticks(frame.left / scale, frame.right / scale, 5):
        x = frame.x(value * scale)
        parts.append(_line("tick", (x, bottom), (x, bottom + 4)))
        parts.append(f'<text class="x" x="{x:.1f}" y="{bottom + 16}">{_short(value)}</text>')
    parts.append(_line("axis", (LEFT, bottom), (WIDTH - RIGHT, bottom)))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="x unit" x="{middle:.1f}" y="{HEIGHT - 3}">{html.escape(unit)}</text>')
    return "".join(parts)


def _path(frame: _Frame, curve: Curve) -> str:
    kind = f"curve run{curve.run}" + (" dashed" if curve.dashed else "")
    points = [(x, y) for x, y in curve.points if math.isfinite(x)]
    if len(points) < 2 * SMOOTH:
        drawn = _lines(frame, kind, points)
    else:
        drawn = _lines(frame, f"raw run{curve.run}", _thinned(points)) + _lines(frame, kind, _middle(points))
    clip = f'<svg x="0" y="{TOP}" width="{WIDTH}" height="{HEIGHT - TOP - BOTTOM}"'
    view = f'viewBox="0 {TOP} {WIDTH} {HEIGHT - TOP - BOTTOM}">'
    return f"{clip} {view}{''.join(drawn)}</svg>"


def _lines(frame: _Frame, kind: str, points: Sequence[Point]) -> list[str]:
    """A line, interrupted where y is not finite; a lonely point is a spot."""
    pieces: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            pieces[-1].append((frame.x(x), frame.y(y)))
        elif pieces[-1]:
            pieces.append([])
    drawn = []
    for piece in filter(None, pieces):
        if len(piece) == 1:
            (x, y), *_ = piece
            drawn.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>')
        else:
            spots = " ".join(f"{x:.1f},{y:.1f}" for x, y in piece)
            drawn.append(f'<polyline class="{kind}" points="{spots}"/>')
    return drawn


def _middle(points: Sequence[Point]) -> list[Point]:
    """The medians of :data:`SMOOTH` stretches, which noise and single spikes do not move."""
    found = []
    for k in range(SMOOTH):
        part = finite(points[len(points) * k // SMOOTH : len(points) * (k + 1) // SMOOTH])
        if part:
            found.append((statistics.fmean(x for x, _ in part), statistics.median(y for _, y in part)))
    return found


def _thinned(points: Sequence[Point]) -> list[Point]:
    """At most :data:`POINTS`: of each stretch its lowest, its highest and any value that is not finite."""
    if len(points) <= POINTS:
        return list(points)
    stretch = math.ceil(len(points) / (POINTS // 2))
    kept = []
    for start in range(0, len(points), stretch):
        part = range(start, min(start + stretch, len(points)))
        good = [i for i in part if math.isfinite(points[i][1])]
        chosen = {next(i for i in part if i not in good)} if len(good) < len(part) else set()
        if good:
            chosen |= {min(good, key=lambda i: points[i][1]), max(good, key=lambda i: points[i][1])}
        kept += [points[i] for i in sorted(chosen)]
    return kept


def _legend(curve: Curve, last: float) -> str:
    kind = f"key run{curve.run}" + (" dashed" if curve.dashed else "")
    return (
        f'<span class="entry"><svg class="{kind}" viewBox="0 0 18 8" aria-hidden="true">'
        f'<line x1="0" y1="4" x2="18" y2="4"/></svg>{html.escape(curve.label)} '
        f'<span class="value">{number(last)}</span></span>'
    )
