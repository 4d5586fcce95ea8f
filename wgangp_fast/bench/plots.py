"""Pictures of results: bars by workload, and how cost grows. Drawn to be read at 900 pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contestants import BASELINE, is_ours

INK, GREY, FAINT = "#222222", "#555555", "#d9d9d9"
OURS, STOCK = "#0072b2", "#8a8a8a"
# Ours is the one strong colour; rivals are from Paul Tol's muted set, which colour-blind readers can tell
# apart. A contestant has its colour in every picture, whoever else takes part.
COLOURS = {
    BASELINE: STOCK,
    "eager": STOCK,
    "copy": "#ddcc77",
    "stock-channels-last": "#ddcc77",
    "stock-make-fx": "#44aa99",
    "stock-dynamo": "#117733",
    "torch-func": "#cc6677",
    "jax": "#aa4499",
    "stock-cuda-graph": "#882255",
    "ours-penalty-only": "#88ccee",
    "ours": OURS,
}
SPARE = ("#332288", "#999933", "#661100", "#6699cc", "#888888")
WIDTH, DPI = 9.0, 200
WHAT = {
    "penalty": "Gradient penalty and its gradients",
    "critic_step": "Whole critic loss and its gradients",
    "train_step": "Training iteration",
    "own": "Your critic",
    "ops": "Operations",
}

Entry = dict[str, Any]
Where = tuple[str, str | None]
"""Label of a row, and its step."""


@dataclass(frozen=True)
class Bar:
    """One bar: of which row, step and contestant, how long, its spread, and what to write behind it."""

    label: str
    step: str | None
    contestant: str
    value: float
    low: float
    high: float
    text: str


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'wgangp_fast[bench]'") from error
    pyplot.rcParams.update({
        "font.size": 10, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
        "axes.axisbelow": True, "legend.frameon": False, "figure.facecolor": "white",
    })  # fmt: skip
    return pyplot


def colour(name: str) -> str:
    """A contestant's colour: always the same one."""
    return COLOURS.get(name) or SPARE[sum(name.encode()) % len(SPARE)]


def of_suite(result: dict[str, Any], path: Path) -> None:
    """The picture that a result of its suite is about.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is nothing to draw.
    """
    draw = {"growth": growth, "memory": memory}.get(result["suite"], speedups)
    draw(result, path)


# bars --------------------------------------------------------------------------------------------


def speedup_bars(result: dict[str, Any]) -> Iterator[Bar]:
    """Median of the paired ratios, of everybody but the baseline."""
    for where, name, entry in _entries(result):
        if "ratio" in entry and name not in (BASELINE, "eager"):
            ratio = entry["ratio"]
            yield Bar(*where, name, ratio, entry["ratio_p10"], entry["ratio_p90"], f"{ratio:.2f}")


def memory_bars(result: dict[str, Any]) -> Iterator[Bar]:
    """Peak over the baseline's."""
    for where, name, entry in _entries(with_peak_ratios(result)):
        value = peak_ratio(entry)
        if value is not None and name != BASELINE:
            yield Bar(*where, name, value, value, value, f"{value:.2f}")


def floor_bars(result: dict[str, Any]) -> Iterator[Bar]:
    """Floor over median, in per cent, the baseline's too."""
    for where, name, entry in _entries(result):
        if "share_of_floor" in entry:
            share = 100 * entry["share_of_floor"]
            low, high = (share * entry["median_s"] / entry[key] for key in ("p90_s", "p10_s"))
            yield Bar(*where, name, share, low, high, f"{share:.0f}")


def speedups(result: dict[str, Any], path: Path) -> None:
    """Bars: times as fast as the baseline, with p10 to p90 of the paired ratios.

    Raises:
        ValueError: nothing but the baseline was timed.
    """
    base = "eager" if result["suite"] == "ops" else BASELINE
    title = f"{WHAT.get(result['suite'], result['suite'])}: times as fast as {base} (more is better)"
    _bars(result, list(speedup_bars(result)), title, f"{base}: 1", path)


def memory(result: dict[str, Any], path: Path) -> None:
    """Bars: peak bytes of one call over the baseline's.

    Raises:
        ValueError: nothing but the baseline was weighed.
    """
    title = f"Peak memory of one call over {BASELINE}'s (less is better)"
    _bars(result, list(memory_bars(result)), title, f"{BASELINE}: 1", path)


def floor_shares(result: dict[str, Any], path: Path) -> None:
    """Bars: the floor (products and bytes that no exact method can leave out) over each median.

    Raises:
        ValueError: no row has a floor.
    """
    title = f"{WHAT.get(result['suite'], result['suite'])}: % of the measured floor (more is better)"
    _bars(result, list(floor_bars(result)), title, "floor: 100", path, line=100)


def peak_ratio(entry: Entry) -> float | None:
    """Peak over the baseline's, where both were counted."""
    return entry.get("peak_ratio")


def with_peak_ratios(result: dict[str, Any]) -> dict[str, Any]:
    """``result``, entries with ``peak_bytes`` given their ``peak_ratio``."""
    for row in result["rows"]:
        base = row["contestants"].get(BASELINE, {}).get("peak_bytes")
        for entry in row["contestants"].values():
            if base and entry.get("peak_bytes") is not None:
                entry.setdefault("peak_ratio", entry["peak_bytes"] / base)
    return result


def _entries(result: dict[str, Any]) -> Iterator[tuple[Where, str, Entry]]:
    """Label and step of the row, contestant, entry: of all that are right."""
    for row in result["rows"]:
        label = f"{row['workload']} ({row['batch']})" if "batch" in row else row["workload"]
        for name, entry in row["contestants"].items():
            if entry["status"] == "ok":
                yield (label, row.get("step")), name, entry


def _order(names: Sequence[str]) -> list[str]:
    """The baseline, the rivals as they come, and ours at the end."""
    return sorted(names, key=lambda name: (is_ours(name), name != BASELINE, name == "ours"))


ROW, GAP = {True: 0.19, False: 0.085}, 0.16  # inches: a bar of ours, a rival's, between workloads


def _bars(
    result: dict[str, Any], bars: list[Bar], title: str, line_text: str, path: Path, line: float = 1.0
) -> None:
    if not bars:
        raise ValueError(f"nothing to plot: nothing but {BASELINE} was measured")
    pyplot = _pyplot()
    panels = _panels(bars)
    names = _order(list(dict.fromkeys(bar.contestant for bar in bars)))
    height = {name: ROW[is_ours(name) or name == names[-1]] for name in names}
    lane = sum(height.values()) + GAP
    most = max(len(labels) for _, labels in panels)
    top = max(max(bar.high for bar in bars), line) * (1.1 if len(panels) == 1 else 1.16)
    figure, found = pyplot.subplots(
        1, len(panels), figsize=(WIDTH, 1.5 + most * lane), squeeze=False, layout="constrained"
    )
    for axes, (step, labels) in zip(found[0], panels, strict=True):
        for bar in bars:
            if bar.label in labels and step in (None, bar.step):
                offset = sum(height[name] for name in names[: names.index(bar.contestant)])
                y = labels.index(bar.label) * lane + offset + height[bar.contestant] / 2
                _bar(axes, bar, y, height[bar.contestant])
        axes.axvline(line, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=3)
        axes.text(line, -0.04 - GAP / 2, line_text, ha="center", va="bottom", fontsize=8.5, color=GREY)
        repeated = step is not None and axes is not found[0][0]
        ticks = [i * lane + (lane - GAP) / 2 for i in range(len(labels))]
        axes.set_yticks(ticks, [""] * len(labels) if repeated else labels)
        axes.set_ylim(most * lane - GAP / 2, -GAP / 2)
        axes.set_xlim(0, top)
        axes.grid(axis="x", color=FAINT, lw=0.6)
        axes.tick_params(axis="y", length=0)
        if step is not None:
            axes.set_title(WHAT.get(step, step), fontsize=9.5, loc="left", pad=18)
    spread = "; line: p10 to p90" if any(bar.high > bar.low for bar in bars) else ""
    if len(names) > 1:
        _legend(figure, pyplot, names)
    _head(figure, result, title, spread)
    _save(pyplot, figure, path)


def _panels(bars: list[Bar]) -> list[tuple[str | None, list[str]]]:
    """Labels of each panel: one for each step where there are several, else two for many workloads."""
    labels = list(dict.fromkeys(bar.label for bar in bars))
    steps = list(dict.fromkeys(bar.step for bar in bars))
    if len(steps) > 1:
        return [(step, labels) for step in steps]
    each = math.ceil(len(labels) / 2) if len(labels) > 8 else len(labels)
    return [(None, labels[i : i + each]) for i in range(0, len(labels), each)]


def _bar(axes: Any, bar: Bar, y: float, height: float) -> None:
    strong = height == ROW[True]
    axes.barh(y, bar.value, 0.92 * height, color=colour(bar.contestant), zorder=2)
    if not strong:
        return
    end = bar.value
    if bar.high > bar.low:
        axes.plot([bar.low, bar.high], [y, y], color=INK, lw=1.1, zorder=4, solid_capstyle="butt")
        end = max(bar.value, bar.high)
    axes.annotate(
        bar.text, (end, y), (4, 0), textcoords="offset points", va="center", fontsize=9,
        fontweight="bold" if is_ours(bar.contestant) else "normal", zorder=5,
        bbox={"boxstyle": "square,pad=0.12", "fc": "white", "ec": "none", "alpha": 0.85},
    )  # fmt: skip


def _legend(figure: Any, pyplot: Any, names: Sequence[str]) -> None:
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=colour(name)) for name in names]
    columns = len(names) if len(names) < 7 else math.ceil(len(names) / 2)
    figure.legend(
        handles, names, loc="outside lower center", ncols=columns, fontsize=9, handlelength=1.1,
        columnspacing=1.6,
    )  # fmt: skip


# how cost grows ------------------------------------------------------------------------------------

AXES = {
    "batch": "samples in the batch",
    "width": "filters of the first layer",
    "depth": "hidden layers",
}


def growth(result: dict[str, Any], path: Path) -> None:
    """Three panels, log-log: time of a call against batch, width and depth, with p10 to p90.

    Raises:
        ValueError: no row says what grows.
    """
    kinds = [kind for kind in AXES if any(row.get("axis") == kind for row in result["rows"])]
    if not kinds:
        raise ValueError("nothing to plot: no row of this result says what grows")
    pyplot = _pyplot()
    figure, found = pyplot.subplots(
        1, len(kinds), figsize=(WIDTH, 3.9), squeeze=False, sharey=True, layout="constrained"
    )
    names: list[str] = []
    for axes, kind in zip(found[0], kinds, strict=True):
        rows = sorted((r for r in result["rows"] if r.get("axis") == kind), key=lambda r: r["value"])
        here = _order(list(dict.fromkeys(name for row in rows for name in row["contestants"])))
        names += [name for name in here if name not in names]
        for name in here:
            _curve(axes, name, rows)
        _ratios(axes, rows)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        values = [row["value"] for row in rows]
        axes.set_xticks(values, [str(value) for value in values], fontsize=9)
        axes.minorticks_off()
        axes.margins(x=0.14, y=0.09)
        axes.grid(color=FAINT, lw=0.6)
        axes.set_xlabel(AXES[kind])
        axes.set_title(rows[0].get("growing", ""), fontsize=9, color=GREY)
    found[0][0].set_ylabel("ms a call")
    found[0][0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    title = f"Gradient penalty and its gradients as the critic grows (figures: {BASELINE} / ours)"
    _legend(figure, pyplot, names)
    _head(figure, result, title, "; band: p10 to p90")
    _save(pyplot, figure, path)


def _curve(axes: Any, name: str, rows: Sequence[dict[str, Any]]) -> None:
    found = [(row["value"], row["contestants"].get(name, {})) for row in rows]
    found = [(value, entry) for value, entry in found if "median_s" in entry]
    if not found:
        return
    x = [value for value, _ in found]
    middle, low, high = ([1e3 * e[key] for _, e in found] for key in ("median_s", "p10_s", "p90_s"))
    strong = is_ours(name) or name == BASELINE
    axes.plot(x, middle, marker="o" if strong else None, ms=4.5, lw=2 if strong else 1.2, color=colour(name))
    axes.fill_between(x, low, high, color=colour(name), alpha=0.22, lw=0)


def _ratios(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Under each point of ours: how many times as fast it is."""
    for row in rows:
        entry = row["contestants"].get("ours", {})
        if "ratio" in entry:
            axes.annotate(
                f"{entry['ratio']:.1f}", (row["value"], 1e3 * entry["median_s"]), (4, -5),
                textcoords="offset points", ha="left", va="top", fontsize=8.5, fontweight="bold", color=OURS,
            )  # fmt: skip


def _head(figure: Any, result: dict[str, Any], title: str, more: str) -> None:
    """The title, and under it what was measured on, in an empty line that the layout leaves room for."""
    where = result["environment"]
    threads = "" if where["cuda"] else f", {where['threads']} thread{'s' * (where['threads'] != 1)}"
    head = figure.suptitle(f"{title}\n", fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    figure.draw_without_rendering()
    below = figure.transFigure.inverted().transform((0, head.get_window_extent().y0))[1]
    text = f"{where['device']}{threads}; torch {where['torch']}; {_dtype(result)}{more}"
    figure.text(0.01, below, text, fontsize=8.5, color=GREY, va="bottom")


def _dtype(result: dict[str, Any]) -> str:
    return "/".join(dict.fromkeys(str(row.get("dtype", "")) for row in result["rows"]))


def _save(pyplot: Any, figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    pyplot.close(figure)
