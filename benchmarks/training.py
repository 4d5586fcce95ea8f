"""The same training with the stock penalty and with the fast one, side by side: quality, curves, time.

Both runs advance in turns, slice by slice, each continued exactly where it stopped, so that both meet the
same machine; seconds are those of the iterations. After every slice but the first both are judged by one
feature network. Writes two run folders, one report of both, and a JSON file with every number.

    python benchmarks/training.py --data FOLDER --outdir DIR [--preset mnist] [--iters N] [--slices K]
        [--set NAME=VALUE ...] [--num SAMPLES] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import ast
import json
import time
from pathlib import Path
from typing import Any

import torch

from wgangp_fast.bench.environment import environment
from wgangp_fast.training import Config, eval_cli, train
from wgangp_fast.training.report import write_report

PENALTIES = ("stock", "fast")


def value(text: str) -> tuple[str, Any]:
    """``name=value`` of a setting; what is no Python value is a word."""
    name, _, given = text.partition("=")
    try:
        return name, ast.literal_eval(given)
    except (ValueError, SyntaxError):
        return name, given


def ticks(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "stats.jsonl").read_text(encoding="utf-8").splitlines()]


def judged(run: Path, count: int) -> dict[str, Any]:
    if eval_cli.main(["--run", str(run), "--num", str(count)]):
        raise SystemExit(f"{run} could not be judged")
    found: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return found


def slice_ratios(runs: dict[str, Path], ends: list[int]) -> list[float]:
    """Stock's seconds over the fast one's, for each slice."""
    spent: dict[str, list[float]] = {}
    for name, run in runs.items():
        clock = {0: 0.0} | {tick["iteration"]: tick["seconds"] for tick in ticks(run)}
        spent[name] = [clock[b] - clock[a] for a, b in zip([0, *ends], ends, strict=False)]
    return [a / b for a, b in zip(spent["stock"], spent["fast"], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True)
    parser.add_argument("--outdir", type=Path, required=True)
    parser.add_argument("--preset", default="mnist")
    parser.add_argument("--iters", type=int, default=3000)
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--num", type=int, default=5000, help="samples that are judged")
    parser.add_argument("--set", type=value, action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    ends = [asked.iters * (index + 1) // asked.slices for index in range(asked.slices)]
    settings = {"data": asked.data, "preset": asked.preset, **dict(asked.set), "snapshot": ends[0]}
    began = time.perf_counter()
    runs: dict[str, Path] = {}
    quality: dict[str, list[dict[str, Any]]] = {name: [] for name in PENALTIES}
    for index, end in enumerate(ends):
        for name in PENALTIES if index % 2 == 0 else PENALTIES[::-1]:
            if index == 0:
                outdir = str(asked.outdir / name)
                runs[name] = train(Config(**settings, outdir=outdir, penalty=name, iters=end))
            else:
                train(Config(resume=str(runs[name]), iters=end))
                quality[name].append(judged(runs[name], asked.num))
    report = write_report([runs[name] for name in PENALTIES], asked.outdir / "report.html")
    ratios = slice_ratios(runs, ends)
    seconds = {name: ticks(run)[-1]["seconds"] for name, run in runs.items()}
    print(f"seconds of {asked.iters} iterations: {seconds}; stock / fast by slice: {ratios}; {report}")
    if asked.out:
        document = {
            "environment": environment(torch.device("cpu")),
            "settings": json.loads((runs["fast"] / "config.json").read_text(encoding="utf-8"))
            | {"data": Path(asked.data).name},
            "wall_seconds": time.perf_counter() - began,
            "seconds": seconds,
            "slice_ends": ends,
            "slice_ratios": ratios,
            "quality": quality,
            "stats": {name: ticks(run) for name, run in runs.items()},
        }
        for name in PENALTIES:
            for row in document["quality"][name]:
                row["data"] = Path(str(row["data"])).name
        document["settings"].pop("outdir")
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
