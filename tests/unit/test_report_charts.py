"""The report's charts: whether the drawing has the curves, and the axes their numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from report_drawings import decoded, pieces

from wgangp_fast.training import report_charts
from wgangp_fast.training.report_charts import Chart, Curve, chart

pytest.importorskip("matplotlib")


def drawn(points: list[tuple[float, float]], unit: str = "iterations", **options: Any) -> tuple[Chart, str]:
    made = chart("T", [Curve("c", points)], unit, **options)
    return made, decoded(made.source)


def test_points_are_where_the_axes_say() -> None:
    _, drawing = drawn([(0, 0), (50, 3), (100, 10)])
    ((first, second, third),) = pieces(drawing, "curve-0")
    tick = r'<g id="ytick_\d+">\s*<g id="\w+">\s*<path d="M [\d.]+ ([\d.]+)[^>]*>.*?>([^<>]+)</text>'
    levels = {text: float(y) for y, text in re.findall(tick, drawing, re.DOTALL)}
    assert first[1] == pytest.approx(levels["0"])
    assert third[1] == pytest.approx(levels["10"])
    assert second[1] == pytest.approx(levels["0"] + 0.3 * (levels["10"] - levels["0"]))
    across = below(drawing)
    assert first[0] == pytest.approx(across[0])
    assert second[0] == pytest.approx((across[40] + across[60]) / 2)
    assert third[0] == pytest.approx(across[100])


def below(drawing: str) -> dict[float, float]:
    """Where the x axis has which number."""
    places = re.findall(r'<g id="xtick_\d+">.*?</text>', drawing, re.DOTALL)
    found = [re.findall(r' x="([\d.]+)"[^>]*>([^<>]+)</text>', place)[0] for place in places]
    return {float(text): float(x) for x, text in found}


@pytest.mark.parametrize(
    ("longest", "unit", "last"), [(100, "seconds", 100), (1200, "minutes", 20), (36000, "hours", 10)]
)
def test_time_has_a_readable_unit(longest: float, unit: str, last: float) -> None:
    made, drawing = drawn([(0, 1), (longest, 2)], "seconds")
    assert f">{unit}</text>" in drawing
    assert f"T over {unit};" in made.spoken
    assert below(drawing)[last] == pytest.approx(pieces(drawing, "curve-0")[0][-1][0])


def test_a_spike_neither_flattens_the_chart_nor_gets_lost() -> None:
    points = [(float(k), float(k % 7)) for k in range(1, 1001)]
    points[333] = (334.0, 1e9)
    made, drawing = drawn(points)
    assert made.notes == ["1 values outside, as far as 1e+09"]
    ((left, bottom), (right, _), (_, top), *_) = frame(drawing)
    raw = [point for piece in pieces(drawing, "raw-0") for point in piece]
    assert len(raw) <= report_charts.POINTS + 2  # where the spike leaves the picture and comes back
    above = [x for x, y in raw if y <= 0]  # cut off where the picture ends
    share = [(x - left) / (right - left) for x in above]
    assert sum(share) / len(share) == pytest.approx(0.334, abs=0.002)
    (middle,) = pieces(drawing, "curve-0")
    assert len(middle) == report_charts.SMOOTH
    assert all(top < y < bottom for _, y in middle)
    levels = [y for _, y in middle]
    assert max(levels) - min(levels) < 0.33 * (bottom - top)  # near the median of 0..6


def frame(drawing: str) -> list[tuple[float, float]]:
    """The corners between the axes, from the lower left."""
    return pieces(drawing, "patch_2")[0]


def test_thinned_curves_keep_their_gaps_and_extremes() -> None:
    points = np.stack([np.arange(5000.0), np.sin(np.arange(5000.0))], 1)
    points[[17, 4321], 1] = 100, -100
    points[1000:1010, 1] = np.nan
    kept = report_charts._thinned(points)
    assert len(kept) <= report_charts.POINTS
    assert all(row in kept.tolist() for row in points[[17, 4321]].tolist())
    assert len(np.flatnonzero(np.isnan(kept[:, 1]))) == 1
    assert (np.diff(kept[:, 0]) > 0).all()


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0)],
        [(5, 5)],
        [(1, 2), (2, 2)],
        [(1, -1e-9), (2, 1e-9)],
        [(-3, 1), (-2, 2)],
        [(1, 1e300), (2, -1e300)],
    ],
)
def test_charts_of_little(points: list[tuple[float, float]]) -> None:
    made, drawing = drawn(points, reference=1.0, zero=True)
    assert "nan" not in drawing
    assert "inf" not in drawing
    assert drawing.count("<text") >= 4
    assert drawn(points, reference=1.0, zero=True) == (made, drawing)  # the same bytes again
