"""What a suite finds out of the contestants that are right: times, peaks, first calls.

Errors are in :mod:`.accuracy`.

A measure fills in the entries' results, and returns what it adds to the row.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from .. import verify
from . import contestants as table
from . import floor
from .correctness import Built, Judge
from .memory import peak_bytes
from .steps import Contestant, clear_gradients
from .timing import cold_sets, interleave, paired_ratios, spread, warm_up

FRESH_LIMIT = 4.0
"""A fresh process may take this many times the limit of a first call, which it makes twice, and its start."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: samples of each contestant.
        budget: seconds for the rounds of one row; at least five rounds are done.
        batch: samples of every workload, or None for the table's.
        memory: also count peak bytes.
        dtype: the arithmetic, a name in :data:`.modes.MODES`.
        rivals: ``"quick"`` or ``"full"``: which contestants.
        contestants: names of the only contestants, besides the baseline; empty for those of ``rivals``.
        named: somebody asked for these contestants or workloads by name.
        floor: also measure the floor of each row that has one (:mod:`.floor`).
        draws: how many draws of weights, inputs and alpha the accuracy suite takes.
        first_call_limit: seconds that a contestant may take to trace, compile and run once.
    """

    rounds: int = 15
    budget: float = math.inf
    seed: int = 0
    batch: int | None = None
    memory: bool = False
    dtype: str = "float32"
    rivals: str = "quick"
    contestants: tuple[str, ...] = ()
    named: bool = False
    floor: bool = True
    draws: int = 20
    first_call_limit: float = 120.0


def as_json(settings: Settings) -> dict[str, Any]:
    """``settings`` as JSON has them: lists, and None for infinity."""
    facts = asdict(settings) | {"contestants": list(settings.contestants)}
    return facts | {"budget": settings.budget if settings.budget < math.inf else None}


@dataclass
class Entry:
    """One contestant on one row: how it was built, and what is known of it."""

    name: str
    contestant: Contestant
    built: Built | None = None
    result: dict[str, Any] = field(default_factory=dict)

    def call(self) -> None:
        """What is timed, on the inputs that the step was made with."""
        assert self.built is not None
        clear_gradients(self.built.critic)
        self.built.step(*self.built.inputs)

    def cold(self, sets: int) -> Callable[[], object]:
        """:meth:`call`, but going round ``sets`` copies of the inputs."""
        built = self.built
        assert built is not None
        turn = itertools.cycle(
            [built.inputs, *(tuple(t.clone() for t in built.inputs) for _ in range(sets - 1))]
        )

        def once() -> None:
            clear_gradients(built.critic)
            built.step(*next(turn))

        return once


_CHOICES: floor.Choices = {}

Measure = Callable[[Mapping[str, Entry], Judge, str, Settings], dict[str, Any]]
"""``measure(entries by name, judge, the workload's name, settings)``; returns additions to the row."""


def times(entries: Mapping[str, Entry], judge: Judge, name: str, settings: Settings) -> dict[str, Any]:
    """Interleaved samples of every entry."""
    if not entries:
        return {}
    device = judge.device
    some = next(iter(entries.values())).built
    assert some is not None
    sets = cold_sets(sum(t.numel() * t.element_size() for t in some.inputs), device)
    calls = {key: entry.cold(sets) for key, entry in entries.items()}
    prepared = {key: (call, warm_up(call, device)) for key, call in calls.items()}
    below = floor.beside(judge, _CHOICES) if settings.floor else None
    takes = {"floor": (below.take, 1)} if isinstance(below, floor.Floor) else {}
    samples = interleave(prepared | takes, device, settings.rounds, settings.budget)
    for key, entry in entries.items():
        entry.result |= {"calls_per_sample": prepared[key][1], "seconds": samples[key]}
        entry.result |= statistics(samples.get(table.BASELINE), samples[key])
    if settings.memory:
        peaks(entries, judge, name, settings)
    if below is None:
        return {"sets": sets}
    if isinstance(below, str):
        return {"sets": sets, "floor": {"missing": below}}
    found = below.result()
    for entry in entries.values():
        entry.result |= floor.shares(found, entry.result)
    return {"sets": sets, "floor": found}


def statistics(baseline: list[float] | None, seconds: list[float]) -> dict[str, Any]:
    """Summary of one contestant's samples, against the baseline's of the same rounds (None: it failed)."""
    summary: dict[str, Any] = {f"{key}_s": value for key, value in spread(seconds).items()}
    if baseline is not None:
        ratios = spread(paired_ratios(baseline, seconds))
        summary |= {
            "ratio": ratios["median"],
            "ratio_p10": ratios["p10"],
            "ratio_p90": ratios["p90"],
            "ratio_of_medians": spread(baseline)["median"] / summary["median_s"],
        }
    return summary


def peaks(entries: Mapping[str, Entry], judge: Judge, name: str, settings: Settings) -> dict[str, Any]:
    """Peak bytes of one call; ``peak_ratio`` is the entry's over the baseline's."""
    for key, entry in entries.items():
        reason = table.RIVALS[key].uncounted if key in table.RIVALS else None
        if reason is not None:
            entry.result |= {"peak_bytes": None, "peak_absent": reason}
            continue
        assert entry.built is not None
        entry.call()
        clear_gradients(entry.built.critic)
        step, inputs = entry.built.step, entry.built.inputs
        entry.result["peak_bytes"] = peak_bytes(functools.partial(step, *inputs), judge.device)
        clear_gradients(entry.built.critic)
    base = entries[table.BASELINE].result["peak_bytes"] if table.BASELINE in entries else None
    for entry in entries.values():
        if base and entry.result["peak_bytes"] is not None:
            entry.result["peak_ratio"] = entry.result["peak_bytes"] / base
    return {}


def first_calls(entries: Mapping[str, Entry], judge: Judge, name: str, settings: Settings) -> dict[str, Any]:
    """Each entry in a process of its own, with an empty cache of compiled code (:mod:`.fresh`); ours again
    without the comparison of its first call with the stock code."""
    for key, entry in entries.items():
        question = {
            "workload": name,
            "task": judge.task.name,
            "contestant": key,
            "device": judge.device.type,
            "dtype": settings.dtype,
            "batch": judge.batch,
            "seed": settings.seed,
            "limit": settings.first_call_limit,
        }
        entry.result |= _ask(question)
        if key == "ours" and "first_call_s" in entry.result:
            bare = _ask(question, {verify.ENVIRONMENT: "never"})
            entry.result["first_call_unverified_s"] = bare.get("first_call_s")
    return {}


def _ask(question: dict[str, Any], settings: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    limit = FRESH_LIMIT * question["limit"]
    with tempfile.TemporaryDirectory() as cache:
        caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": os.path.join(cache, "triton")}
        try:
            run = subprocess.run(
                [sys.executable, "-W", "ignore", "-m", "wgangp_fast.bench.fresh", json.dumps(question)],
                capture_output=True,
                timeout=limit,
                env=os.environ | caches | dict(settings),
                encoding="utf-8",
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return {"status": "error", "message": f"TimeoutError: the process took more than {limit:g} s"}
    lines = run.stdout.strip().splitlines()
    if run.returncode or not lines:
        said = run.stderr.strip().splitlines() or ["nothing"]
        return {"status": "error", "message": f"exit code {run.returncode}: {short(said[-1])}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def first_line(error: BaseException) -> str:
    """``Type: first line of the message``, or the reason of an :class:`.steps.Absent`."""
    lines = str(error).strip().splitlines()
    return short(f"{type(error).__name__}: {lines[0] if lines else ''}")


def short(text: str, most: int = 300) -> str:
    """``text`` in one line of at most ``most`` characters, without names of folders."""
    words = " ".join(text.split()).split(" ")
    text = " ".join(word if not word.lstrip("'\"(").startswith("/") else "..." for word in words)
    return text if len(text) <= most else text[: most - 3] + "..."
