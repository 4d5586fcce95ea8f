"""Results for readers: a table on the terminal, the same in Markdown, and a bar chart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import ops_suite
from .contestants import BASELINE

BUSY = 0.5
"""Load average per core above which a result says that the machine was not its own."""

COLUMNS = (
    "workload", "batch", "contestant", "median ms", "p10-p90 ms", f"{BASELINE} / it", "by medians",
    "first call s", "error", "peak MiB",
)  # fmt: skip


def header(result: dict[str, Any]) -> list[str]:
    """What was measured, where and how, a line each."""
    e = result["environment"]
    commit = (e["commit"] or "unknown")[:10] + (" with local changes" if e["dirty"] else "")
    where = f"{e['device']}, {e['threads']} threads on {e['cores']} cores; torch {e['torch']}"
    if e["cuda"]:
        flags = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in e["tf32"].items())
        where += f", CUDA {e['cuda']}, cuDNN {e['cudnn']}, driver {e['driver']}, TF32: {flags}"
    first = f"{where}; Python {e['python']}; commit {commit}; {e['date']}"
    if result["suite"] == "ops":
        return [first, *ops_suite.header(result)]
    rule = result["rule"]
    return [
        first,
        f"timed: {result['timed']}; interleaved rounds; '{BASELINE} / it' is the median of paired ratios",
        f"error: relative, against {rule['truth']}; allowed {rule['factor']:g} times {BASELINE}'s own in the "
        f"same dtype, or {rule['tolerance']:.1e}",
    ]


def columns(result: dict[str, Any]) -> tuple[str, ...]:
    """Heads of the table."""
    return ops_suite.COLUMNS if result["suite"] == "ops" else COLUMNS


def cells(result: dict[str, Any]) -> list[list[str]]:
    """Strings as :func:`columns`, a list for each workload and contestant; no time beside a wrong answer."""
    if result["suite"] == "ops":
        return ops_suite.cells(result)
    return [
        [row["workload"], str(row["batch"]), name, *_numbers(entry)]
        for row in result["rows"]
        for name, entry in row["contestants"].items()
    ]


def _numbers(entry: dict[str, Any]) -> list[str]:
    if entry["status"] != "ok":
        return [entry["status"].upper(), *[""] * (len(COLUMNS) - 4)]
    ms = {key: entry[f"{key}_s"] * 1e3 for key in ("median", "p10", "p90")}
    peak = entry.get("peak_bytes")
    return [
        f"{ms['median']:.4g}",
        f"{ms['p10']:.4g}-{ms['p90']:.4g}",
        f"{entry['ratio']:.2f}" if "ratio" in entry else "",
        f"{entry['ratio_of_medians']:.2f}" if "ratio_of_medians" in entry else "",
        f"{entry['first_call_s']:.2g}",
        f"{max(draw['error'] for draw in entry['draws'] if draw['kept']):.1e}",
        "" if peak is None else f"{peak / 2**20:.1f}",
    ]


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know of single cells: faults, warnings, and draws that met a kink."""
    lines = []
    load, cores = result["environment"]["load"], result["environment"]["cores"]
    if load is not None and load > BUSY * cores:
        lines.append(
            f"the machine was busy: load {load:.1f} on {cores} cores when it began. Threads that wait for "
            "each other then dominate the times, and the ratios are not those of a machine at rest"
        )
    for row in result["rows"]:
        for name, entry in row["contestants"].items():
            lines += [f"{row['workload']}, {name}: {text}" for text in entry.get("warnings", [])]
            if entry["status"] != "ok":
                lines.append(f"{row['workload']}, {name}: {entry['status']}: {entry['message']}")
            elif not all(draw["kept"] for draw in entry.get("draws", [])):
                first = entry["draws"][0]
                lines.append(
                    f"{row['workload']}, {name}: the first draw broke the rule at {first['where']} "
                    f"({first['error']:.1e}, allowed {first['limit']:.1e}), the next two kept it"
                )
    return lines


def markdown(result: dict[str, Any]) -> str:
    """The table, ready for a README."""
    lines = [*(f"- {line}" for line in header(result)), f"- command: `{result['command']}`", ""]
    lines += ["| " + " | ".join(columns(result)) + " |", "|" + "---|" * len(columns(result))]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells(result)]
    if notes(result):
        lines += ["", *(f"- {note}" for note in notes(result))]
    return "\n".join(lines)


def plain(result: dict[str, Any]) -> str:
    """The table in columns of text."""
    rows = [list(columns(result)), *cells(result)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def show(result: dict[str, Any]) -> None:
    """Print header, table and notes: with rich if it is installed, else as plain text."""
    for line in header(result):
        print(line)
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(plain(result))
    else:
        table = Table()
        for column in columns(result):
            text = column in ("workload", "operation", "about", "contestant", "error")
            table.add_column(column, justify="left" if text else "right", overflow="fold")
        for row in cells(result):
            table.add_row(*row)
        # A file or a pipe has no width; rich would fold the table to 80 columns there.
        console = Console()
        Console(width=console.width if console.is_terminal else 160).print(table)
    for note in notes(result):
        print(f"note: {note}")


def _bars(result: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for row in result["rows"]:
        for name, entry in row["contestants"].items():
            if name != BASELINE and "ratio" in entry:
                yield f"{row['workload']} ({row['batch']})", name, entry


def plot(result: dict[str, Any], path: Path) -> None:
    """Write a bar chart of the speed-ups, with the 10th to 90th percentile of the paired ratios.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
        ValueError: nothing but the baseline was timed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("a plot needs matplotlib: pip install 'wgangp_fast[bench]'") from error
    bars = list(_bars(result))
    if not bars:
        raise ValueError(f"nothing to plot: only {BASELINE} was timed")
    labels = list(dict.fromkeys(label for label, _, _ in bars))
    names = list(dict.fromkeys(name for _, name, _ in bars))
    thickness = 0.8 / len(names)
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.45 * len(labels) * max(1, len(names) / 2)))
    for index, name in enumerate(names):
        mine = [(labels.index(label), entry) for label, other, entry in bars if other == name]
        y = [row + (index - (len(names) - 1) / 2) * thickness for row, _ in mine]
        ratio = [entry["ratio"] for _, entry in mine]
        low = [entry["ratio"] - entry["ratio_p10"] for _, entry in mine]
        high = [entry["ratio_p90"] - entry["ratio"] for _, entry in mine]
        axes.barh(
            y, ratio, 0.9 * thickness, label=name, xerr=[low, high], error_kw={"lw": 1, "ecolor": "0.3"}
        )
        for at, (_, entry) in zip(y, mine, strict=True):
            axes.text(entry["ratio_p90"], at, f"  {entry['ratio']:.2f}", va="center", fontsize=9)
    axes.axvline(1, color="0.2", lw=1, ls="--")
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(entry["ratio_p90"] for _, _, entry in bars))
    axes.set_xlabel(f"times as fast as {BASELINE}: median, p10 to p90 of paired rounds")
    where = result["environment"]
    axes.set_title(
        f"penalty and its gradients (batch), {where['device']}, torch {where['torch']}", fontsize=10
    )
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
