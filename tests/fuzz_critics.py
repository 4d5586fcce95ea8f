"""Random critics against stock code: ``python tests/fuzz_critics.py --count 10000 --seed 0``.

One seed is one critic: the same on every machine and torch. Prints each failure with its smallest program, and
the totals: how many were wrong, how many raised what stock code does not, how many ran on the stock path and why.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import fuzz_blocks
import fuzz_layers
import fuzz_operators
import torch
from fuzz_program import Program, draw
from fuzz_truth import FIRST, SCENARIOS, Batch, Ours, Outcome, Stock, differences, outcome, points, short

GROUPS = fuzz_layers.groups() | fuzz_blocks.blocks()
OPERATORS = {"Elementwise": fuzz_operators.Elementwise, "Sample": fuzz_operators.Sample}
FAILED = ("wrong", "none", "crash")
CHUNK = 200  # critics in one process: what Dynamo keeps of each does not pile up


@dataclass
class Result:
    """Of one scenario of one critic."""

    seed: int
    scenario: str
    verdict: str  # right, wrong, none (None for zeros), crash, unstable
    detail: str = ""
    path: str = "engine"  # or why not
    program: str = ""


def critic_of(seed: int) -> tuple[Any, Batch, dict[str, Outcome]]:
    """The first critic drawn from this seed that stock code can run, and what stock code gives for it."""
    rng = random.Random(f"critic {seed}")
    for _ in range(200):
        program = draw(rng, GROUPS, fuzz_layers.HEADS, fuzz_operators.block)
        program = dataclasses.replace(program, more=OPERATORS)
        chosen = [*FIRST, rng.choice([name for name in SCENARIOS if name not in FIRST])]
        if program.random:  # a critic loss draws once for all rows
            chosen = [name for name in chosen if "loss" not in name and "step" not in name and name != "modes"]
        batch = points(program.shape)
        truths: dict[str, Outcome] = {}
        with contextlib.suppress(Exception):
            for scenario in chosen:
                truths[scenario] = outcome(Stock, program.build(), batch, scenario)
        if len(truths) == len(chosen) and all(_usable(t) for t in truths.values()):
            return program, batch, truths
    raise RuntimeError(f"seed {seed} draws no critic that stock code runs")


def _usable(truth: Outcome) -> bool:
    sizes = [float(g.abs().max()) for g in truth.gradients.values() if g is not None and g.numel()]
    return truth.finite() and any(s > 1e-9 for s in sizes) and max(sizes) < 1e8


def judge(program: Any, batch: Batch, scenario: str, truth: Outcome | None = None) -> tuple[str, str, str]:
    """(verdict, detail, path) of one scenario."""
    truth = truth or outcome(Stock, program.build(), batch, scenario)
    together = Ours.together
    try:
        ours = outcome(Ours, program.build(), batch, scenario)
    except Exception as error:
        place = [f for f in traceback.extract_tb(error.__traceback__) if "wgangp_fast" in f.filename]
        where = f"{os.path.basename(place[-1].filename)}:{place[-1].lineno} " if place else ""
        return "crash", f"{where}{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}", "engine"
    path = short(ours.reasons[0]) if ours.reasons else "engine"
    if path == "engine" and "loss" in scenario and Ours.together == together:
        path = "engine, apart"
    wrong, kinds = differences(ours, truth)
    if wrong and _unstable(program, batch, scenario, truth):
        return "unstable", "; ".join(wrong[:3]), path
    if wrong or kinds:
        return "wrong" if wrong else "none", "; ".join((wrong or kinds)[:4]), path
    return "right", "", path


def _unstable(program: Any, batch: Batch, scenario: str, truth: Outcome) -> bool:
    """Whether stock code itself gives something else a rounding error away (a score that sits on a step)."""
    generator = torch.Generator().manual_seed(9)
    for _ in range(3):
        moved = tuple(v * (1 + 1e-14 * torch.randn(v.shape, dtype=v.dtype, generator=generator)) for v in batch)
        if differences(outcome(Stock, program.build(), moved, scenario), truth)[0]:
            return True
    return False


def shrink(program: Program, batch: Batch, scenario: str, verdict: str, budget: int = 30) -> Program:
    """A smaller program with the same verdict."""
    smaller = True
    while smaller and budget > 0:
        smaller = False
        for candidate in program.smaller():
            budget -= 1
            with contextlib.suppress(Exception):
                truth = outcome(Stock, candidate.build(), batch, scenario)
                if _usable(truth) and judge(candidate, batch, scenario, truth)[0] == verdict:
                    program, smaller = candidate, True
                    break
            if budget <= 0:
                break
    return program


def examine(seed: int, smallest: bool = True) -> list[Result]:
    """All scenarios of one critic; the first that fails gives the smallest program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, batch, truths = critic_of(seed)
        results: list[Result] = []
        for scenario, truth in truths.items():
            verdict, detail, path = judge(program, batch, scenario, truth)
            found = program
            if verdict in FAILED and smallest and not any(r.verdict == verdict for r in results):
                found = shrink(program, batch, scenario, verdict)
                detail = judge(found, batch, scenario)[1] or detail
            source = "" if verdict == "right" else found.source()
            results.append(Result(seed, scenario, verdict, detail, path, source))
        return results


def totals(results: list[Result]) -> str:
    verdicts = collections.Counter(r.verdict for r in results)
    critics = len({r.seed for r in results})
    failed = {v: len({r.seed for r in results if r.verdict == v}) for v in verdicts if v != "right"}
    paths = collections.Counter(r.path for r in results)
    lines = [f"{critics} critics, {len(results)} scenarios: " + ", ".join(f"{n} {v}" for v, n in verdicts.items())]
    lines.append("critics with a failure: " + (", ".join(f"{n} {v}" for v, n in failed.items()) or "none"))
    lines += [f"{n:6d} {path}" for path, n in paths.most_common()]
    return "\n".join(lines)


def _chunk(first: int, count: int, smallest: bool, note: Callable[[Result], None]) -> None:
    """A range of seeds in a process of its own; what ends the process is a crash of the seed it was at."""
    command = [sys.executable, __file__, "--range", str(first), str(count), *([] if smallest else ["--no-shrink"])]
    last = first - 1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            if line.startswith("{"):
                result = Result(**json.loads(line))
                last = result.seed
                note(result)
    if process.returncode:
        note(Result(last + 1, "process", "crash", f"the process ended with {process.returncode}"))
        if last + 2 < first + count:
            _chunk(last + 2, first + count - last - 2, smallest, note)


def _range(first: int, count: int, smallest: bool) -> None:
    torch.set_num_threads(1)
    for seed in range(first, first + count):
        try:
            found = examine(seed, smallest)
        except Exception as error:
            found = [Result(seed, "drawing", "crash", f"{type(error).__name__}: {error}"[:300])]
        for result in found:
            print(json.dumps(asdict(result)), flush=True)
        if seed % 25 == 0:
            torch.compiler.reset()
            gc.collect()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", help="a file for all results, a line of JSON each")
    parser.add_argument("--no-shrink", action="store_true", help="report failures as drawn")
    parser.add_argument("--show", action="store_true", help="print the programs of these seeds, run nothing")
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.range:
        _range(*asked.range, not asked.no_shrink)
        return 0
    if asked.show:
        for seed in range(asked.seed, asked.seed + asked.count):
            print(f"seed {seed}\n{critic_of(seed)[0].source()}\n")
        return 0
    results: list[Result] = []
    begun, end, lock = time.time(), asked.seed + asked.count, threading.Lock()
    out = open(asked.out, "w", encoding="utf-8") if asked.out else contextlib.nullcontext()

    def note(result: Result) -> None:
        with lock:
            results.append(result)
            if result.verdict in FAILED:
                print(f"seed {result.seed}, {result.scenario}: {result.verdict}: {result.detail}")
                print(result.program, "\n", flush=True)
            if out is not None and asked.out:
                print(json.dumps(asdict(result)), file=out, flush=True)

    chunks = [(first, min(CHUNK, end - first)) for first in range(asked.seed, end, CHUNK)]
    with out as out, concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool:
        for future in [pool.submit(_chunk, *chunk, not asked.no_shrink, note) for chunk in chunks]:
            future.result()
            print(f"{time.time() - begun:.0f} s: {totals(results)}\n", flush=True)
    return int(any(r.verdict in FAILED for r in results))


if __name__ == "__main__":
    sys.exit(main())
