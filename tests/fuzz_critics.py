"""Random critics against stock code: ``python tests/fuzz_critics.py --count 10000 --seed 0``.

One seed is one critic, on every machine (with operators of this torch's own table). Prints each failure with
its smallest program, and the totals: how many were wrong, how many raised what stock code does not, how many
ran on the stock path and why. The engine is judged alone: the check of a critic's first call is off.
``--alarms float32|bfloat16|float64`` has it on instead, counts the critics it finds fault with, and judges
each of them in float64 without it: right there is a false alarm.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import itertools
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
FAILED = ("wrong", "none", "crash", "alarm")
ALARMS = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.float32}
ENGINE = 0.8  # the share of calls that must run on the engine: else stock code is compared with itself
FOUND_FAULT = "compared with the stock code"
CHUNK = 200  # critics in one process: what Dynamo keeps of each does not pile up


@dataclass
class Result:
    """Of one scenario of one critic."""

    seed: int
    scenario: str
    verdict: str  # right, wrong, none (None for zeros), crash, unstable, alarm
    detail: str = ""
    path: str = "engine"  # or why not
    program: str = ""


def critic_of(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Program, Batch, list[str]]:
    """The first critic drawn from this seed that stock code can run, its points, and what is called of it."""
    rng = random.Random(f"critic {seed}")
    for _ in range(200):
        program = draw(rng, GROUPS, fuzz_layers.HEADS, fuzz_operators.block)
        program = dataclasses.replace(program, more=OPERATORS, dtype=dtype)
        chosen = [*FIRST, rng.choice([name for name in SCENARIOS if name not in FIRST])]
        if program.random:  # a critic loss draws once for all rows
            chosen = [name for name in chosen if not any(word in name for word in ("loss", "step", "modes"))]
        batch = points(program.shape, dtype)
        with contextlib.suppress(Exception):
            critic = program.build()
            if all(_usable(outcome(Stock, critic, batch, scenario)) for scenario in chosen):
                return program, batch, chosen
    raise RuntimeError(f"seed {seed} draws no critic that stock code runs")


def _usable(truth: Outcome) -> bool:
    sizes = [float(g.abs().max()) for g in truth.gradients.values() if g is not None and g.numel()]
    return truth.finite() and any(s > 1e-9 for s in sizes) and max(sizes) < 1e8


class Pair:
    """One critic twice, for ours and for stock code: both live through the same calls."""

    def __init__(self, program: Any, batch: Batch) -> None:
        self.program, self.batch = program, batch
        self.ours, self.stock, self.before = program.build(), program.build(), []

    def judge(self, scenario: str) -> tuple[str, str, str]:
        """(verdict, detail, path) of one scenario."""
        truth = outcome(Stock, self.stock, self.batch, scenario)
        self.before.append(scenario)
        if not _usable(truth):
            return "unusable", "", ""
        together = Ours.together
        try:
            ours = outcome(Ours, self.ours, self.batch, scenario)
        except Exception as error:
            place = [f for f in traceback.extract_tb(error.__traceback__) if "wgangp_fast" in f.filename]
            where = f"{os.path.basename(place[-1].filename)}:{place[-1].lineno} " if place else ""
            return "crash", f"{where}{type(error).__name__}: {str(error).strip()[:200]}", "engine"
        path = short(ours.reasons[0]) if ours.reasons else "engine"
        if path == "engine" and "loss" in scenario and Ours.together == together:
            path = "engine, apart"
        wrong, kinds = differences(ours, truth)
        if wrong and self._unstable(truth):
            return "unstable", "; ".join(wrong[:3]), path
        if wrong or kinds:
            return "wrong" if wrong else "none", "; ".join((wrong or kinds)[:4]), path
        return "right", "", path

    def _unstable(self, truth: Outcome) -> bool:
        """Whether stock code gives something else a rounding error away (a score that sits on a step)."""
        generator = torch.Generator().manual_seed(9)
        for _ in range(3):
            noise = (1e-14 * torch.randn(v.shape, dtype=v.dtype, generator=generator) for v in self.batch)
            moved = tuple(v * (1 + e) for v, e in zip(self.batch, noise))
            critic = self.program.build()
            again = [outcome(Stock, critic, moved, scenario) for scenario in self.before]
            if differences(again[-1], truth)[0]:
                return True
        return False


def shrink(program: Program, batch: Batch, scenario: str, verdict: str, budget: int = 25) -> Program | None:
    """The smallest program found with the same verdict; None if other calls must come before."""

    def fails(candidate: Program) -> bool:
        with contextlib.suppress(Exception):
            return Pair(candidate, batch).judge(scenario)[0] == verdict
        return False

    if not fails(program):
        return None
    smaller = True
    while smaller and budget > 0:
        smaller = False
        for candidate in itertools.islice(program.smaller(), budget):
            budget -= 1
            if fails(candidate):
                program, smaller = candidate, True
                break
    return program


def examine(seed: int, smallest: bool = True, calls: int = len(FIRST) + 1) -> list[Result]:
    """``calls`` scenarios of one critic, the penalty among them; the first that fails gives the smallest
    program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program, batch, chosen = critic_of(seed)
        if calls < len(chosen):
            chosen = [chosen[0], *random.Random(seed).sample(chosen[1:], calls - 1)]
        results: list[Result] = []
        pair = Pair(program, batch)
        for scenario in chosen:
            verdict, detail, path = pair.judge(scenario)
            found = program
            if verdict in FAILED:
                if pair.before != [scenario]:
                    detail += f" (after {', '.join(pair.before[:-1])})"
                if smallest and not any(r.verdict == verdict for r in results):
                    least = shrink(program, batch, scenario, verdict)
                    if least is not None:
                        found, detail = least, Pair(least, batch).judge(scenario)[1]
                pair = Pair(program, batch)
            source = "" if verdict == "right" else found.source()
            results.append(Result(seed, scenario, verdict, detail, path, source))
        return results


def examine_alarms(seed: int, precision: str, calls: int = len(FIRST) + 1) -> list[Result]:
    """Whether the check of a critic's first calls (``calls`` of them) finds fault in this precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        with autocast:
            program, batch, chosen = critic_of(seed, ALARMS[precision])
        critic, results = program.build(), []
        for scenario in chosen[:calls]:
            try:
                with autocast:
                    reasons = outcome(Ours, critic, batch, scenario).reasons
            except Exception as error:
                results.append(Result(seed, scenario, "crash", f"{type(error).__name__}: {error}"[:300]))
                continue
            path = short(reasons[0]) if reasons else "engine"
            alarms = [reason for reason in reasons if FOUND_FAULT in reason]
            if not alarms:
                results.append(Result(seed, scenario, "right", path=path))
                continue
            detail = alarms[0].split(FOUND_FAULT)[-1].split("Remedy:")[0]
            results.append(Result(seed, scenario, "alarm", f"{_alone(program, scenario)}: {detail}", path))
            results[-1].program = program.source()
        return results


def _alone(program: Program, scenario: str) -> str:
    """The verdict on the engine without the check, in float64."""
    exact = dataclasses.replace(program, dtype=torch.float64)
    before, os.environ["WGANGP_FAST_VERIFY"] = os.environ["WGANGP_FAST_VERIFY"], "never"
    try:
        return Pair(exact, points(exact.shape)).judge(scenario)[0] + " in float64"
    except Exception as error:
        return f"{type(error).__name__} in float64"
    finally:
        os.environ["WGANGP_FAST_VERIFY"] = before


def on_engine(paths: list[str]) -> float:
    """The share of calls that ran on the engine."""
    return sum(path.startswith("engine") for path in paths) / max(len(paths), 1)


def totals(results: list[Result]) -> str:
    verdicts = collections.Counter(r.verdict for r in results)
    critics = len({r.seed for r in results})
    failed = {v: len({r.seed for r in results if r.verdict == v}) for v in verdicts if v != "right"}
    paths = collections.Counter(r.path for r in results)
    counted = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
    lines = [f"{critics} critics, {len(results)} scenarios: {counted}"]
    lines.append("critics with a failure: " + (", ".join(f"{n} {v}" for v, n in failed.items()) or "none"))
    lines += [f"{n:6d} {path}" for path, n in paths.most_common()]
    return "\n".join(lines)


def _chunk(first: int, count: int, options: list[str], note: Callable[[Result], None]) -> None:
    """A range of seeds in a process of its own; what ends the process is a crash of the seed it was at."""
    command = [sys.executable, __file__, "--range", str(first), str(count), *options]
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
            _chunk(last + 2, first + count - last - 2, options, note)


def _range(first: int, count: int, examined: Callable[[int], list[Result]]) -> None:
    torch.set_num_threads(1)
    for seed in range(first, first + count):
        try:
            found = examined(seed)
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
    parser.add_argument("--out", default=os.devnull, help="a file for all results, a line of JSON each")
    parser.add_argument("--calls", type=int, default=len(FIRST) + 1, help="what is called of each critic")
    parser.add_argument("--no-shrink", action="store_true", help="report failures as drawn")
    parser.add_argument("--show", action="store_true", help="print the programs of these seeds, run nothing")
    parser.add_argument("--alarms", choices=ALARMS, help="count the first calls that their check finds wrong")
    parser.add_argument("--range", type=int, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    os.environ["WGANGP_FAST_VERIFY"] = "first" if asked.alarms else "never"
    examined = functools.partial(examine, smallest=not asked.no_shrink, calls=asked.calls)
    if asked.alarms:
        examined = functools.partial(examine_alarms, precision=asked.alarms, calls=asked.calls)
    if asked.range:
        _range(*asked.range, examined)
        return 0
    options = ["--calls", str(asked.calls), *(["--no-shrink"] if asked.no_shrink else [])]
    options += ["--alarms", asked.alarms] if asked.alarms else []
    if asked.show:
        for seed in range(asked.seed, asked.seed + asked.count):
            print(f"seed {seed}\n{critic_of(seed)[0].source()}\n")
        return 0
    results: list[Result] = []
    begun, end, lock = time.time(), asked.seed + asked.count, threading.Lock()

    def note(result: Result) -> None:
        with lock:
            results.append(result)
            if result.verdict in FAILED:
                print(f"seed {result.seed}, {result.scenario}: {result.verdict}: {result.detail}")
                print(result.program, "\n", flush=True)
            print(json.dumps(asdict(result)), file=out, flush=True)

    chunks = [(first, min(CHUNK, end - first)) for first in range(asked.seed, end, CHUNK)]
    with (
        open(asked.out, "w", encoding="utf-8") as out,
        concurrent.futures.ThreadPoolExecutor(asked.jobs) as pool,
    ):
        for future in [pool.submit(_chunk, *chunk, options, note) for chunk in chunks]:
            future.result()
            print(f"{time.time() - begun:.0f} s: {totals(results)}\n", flush=True)
    share = on_engine([r.path for r in results])
    print(f"{share:.0%} of the calls ran on the engine, {ENGINE:.0%} wanted")
    return int(share < ENGINE or any(r.verdict in FAILED for r in results))


if __name__ == "__main__":
    sys.exit(main())
