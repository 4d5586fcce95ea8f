"""A report of one or more results: ``report.md`` with the tables, and the pictures beside it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import plots, report, suite

Result = dict[str, Any]

TITLES = {
    "penalty": "The gradient penalty",
    "critic_step": "The whole critic loss",
    "train_step": "A training iteration",
    "memory": "Memory",
    "compile_time": "Time to the first answer",
    "accuracy": "Accuracy",
    "own": "Your critic",
    "growth": "How cost grows",
    "ops": "Single operations",
}


def pictures(result: Result) -> Iterator[tuple[str, str, Callable[[Result, Path], None]]]:
    """Name, caption and drawing function of each picture that ``result`` has numbers for."""
    entries = [
        entry
        for row in result["rows"]
        for name, entry in row["contestants"].items()
        if entry["status"] == "ok" and name != report.baseline(result)
    ]
    kind, base = result["suite"], report.baseline(result)
    if kind == "growth":
        yield "growth", f"Time of a call of {base} and ours against batch, width and depth", plots.growth
        return
    if any("ratio" in entry for entry in entries):
        yield f"{kind}-speedup", f"Times as fast as {base}", plots.speedups
    if any("share_of_floor" in entry for entry in entries):
        yield f"{kind}-floor", "Per cent of the measured floor", plots.floor_shares
    plots.with_peak_ratios(result)
    if any(plots.peak_ratio(entry) is not None for entry in entries):
        yield kind if kind == "memory" else f"{kind}-memory", f"Peak memory over {base}'s", plots.memory


def write(results: list[Result], folder: Path) -> list[Path]:
    """Write ``report.md`` and the pictures into ``folder``; return what was written.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: two results are of the same suite, arithmetic and device, so that their files would clash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Benchmark report", ""]
    written: list[Path] = []
    for result in results:
        lines += [f"## {_title(result, results)}", ""]
        for name, caption, draw in pictures(result):
            path = folder / f"{_prefix(result, results)}{name}.png"
            if path in written:
                raise ValueError(f"two results would both be drawn as {path.name}: report them apart")
            draw(result, path)
            written.append(path)
            lines += [f"![{caption}]({path.name})", ""]
        lines += [report.markdown(result), *_floors(result), ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return [path, *written]


def _title(result: Result, results: list[Result]) -> str:
    prefix = _prefix(result, results)
    title = TITLES.get(result["suite"], str(result["suite"]))
    return f"{title} ({prefix.rstrip('-')})" if prefix else title


def _prefix(result: Result, results: list[Result]) -> str:
    """What sets apart results of one suite: device and arithmetic."""
    same = [other for other in results if other["suite"] == result["suite"]]
    if len(same) == 1:
        return ""
    row = result["rows"][0]
    return f"{row['device']}-{row['dtype']}-"


def _floors(result: Result) -> list[str]:
    """A table of what each floor is made of."""
    rows = [row for row in result["rows"] if "seconds" in row.get("floor", {})]
    if not rows:
        return []
    lines = ["", "What the floors are made of, in ms; forward-units by arithmetic:", ""]
    lines += ["| workload | batch | floor | products | draws | bytes | MB moved | forward-units | GFLOP/s |"]
    lines += ["|" + "---|" * 9]
    for row in rows:
        f = row["floor"]
        ms = " | ".join(f"{1e3 * f[key]:.3g}" for key in ("seconds", "products_s", "draws_s", "bytes_s"))
        lines.append(
            f"| {row['workload']} | {row['batch']} | {ms} | {f['bytes'] / 1e6:.3g} | "
            f"{f['forward_units']:.2f} | {f['flops'] / f['products_s'] / 1e9:.0f} |"
        )
    return lines


def main(argv: list[str]) -> int:
    """Write a report; return 0, or 2 for files that it cannot be made of."""
    p = argparse.ArgumentParser(
        prog="wgangp-fast bench report",
        description="Write report.md, with a table for each result, and its pictures as PNG files.",
    )
    p.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    p.add_argument("--out", type=Path, default=Path("report"), metavar="DIR", help="default: ./report")
    args = p.parse_args(argv)
    try:
        written = write([suite.load(path) for path in args.results], args.out)
    except (ValueError, OSError, ImportError, json.JSONDecodeError) as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return 2
    print("\n".join(str(path) for path in written))
    return 0
