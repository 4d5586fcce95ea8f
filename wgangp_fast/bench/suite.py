"""The suites: check every contestant of a task, then time it, weigh it, or measure its errors.

A suite (:data:`SUITES`) is which tasks are computed (:mod:`.steps`), and what is measured of those that are
right (:mod:`.measures`); everything else is the same for all.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import accuracy, measures, own
from . import contestants as table
from .correctness import FACTOR, TOLERANCE, Judge, load_weights, make
from .environment import command_line, environment
from .limits import time_limit
from .measures import Entry, Measure, Settings, as_json
from .memory import METHOD
from .modes import MODES
from .steps import CRITIC_STEP, PENALTY, Absent, Contestant, Task
from .timing import first_call
from .train_step import TRAIN_STEP, with_generators
from .workloads import Workload

FORMAT = 1
WHERE = "on a CPU warm caches, on a GPU inputs that are not in the L2 cache"

COMPILES = "compiles for too long to be asked on every row; name it, or the workload, to have it here"

Table = Callable[[Task], Mapping[str, Contestant]]


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        tasks: what is computed; a row for each task, workload and batch.
        measure: what is found out of the contestants that are right.
        about: one line for ``--help``.
        checked: whether contestants are built and judged here, before ``measure``.
        names: the only contestants that take part, or None for the preset's.
        judge: decides who is right.
    """

    tasks: tuple[Task, ...]
    measure: Measure
    about: str
    checked: bool = True
    names: tuple[str, ...] | None = None
    judge: type[Judge] = Judge

    @property
    def timed(self) -> str:
        """What a timed call contains."""
        return "; ".join(
            task.timed if len(self.tasks) == 1 else f"{task.name}: {task.timed}" for task in self.tasks
        )


SUITES = {
    "penalty": Suite((PENALTY,), measures.times, "the penalty and its parameter gradients"),
    "critic_step": Suite((CRITIC_STEP,), measures.times, "the critic's whole loss and its gradients"),
    "train_step": Suite((TRAIN_STEP,), measures.times, "five critic steps and a generator step, with Adam"),
    "memory": Suite((PENALTY, CRITIC_STEP), measures.peaks, "peak bytes of one call, no times"),
    "compile_time": Suite(
        (PENALTY, CRITIC_STEP),
        measures.first_calls,
        "first call and second shape, each contestant in a fresh process",
        checked=False,
    ),
    "accuracy": Suite(
        (PENALTY, CRITIC_STEP),
        accuracy.accuracy,
        "errors against float64 of fp32, tf32 and bf16 autocast over many draws, no times",
        checked=False,
        names=(table.BASELINE, "ours"),
    ),
    "own": Suite(
        (PENALTY, CRITIC_STEP),
        own.measured,
        "your own critic, and your own penalty: see --critic",
        judge=own.OwnJudge,
    ),
}


def run(
    workloads: Mapping[str, Workload],
    device: torch.device,
    settings: Settings,
    argv: list[str],
    which: str = "penalty",
    contestants: Table | None = None,
    progress: Callable[[str], None] = lambda name: None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Run a suite, and return a result ready for JSON.

    A contestant that is wrong, absent, or raises, gets a status and a message, and no time.

    Args:
        which: one of :data:`SUITES`.
        contestants: task to contestants, ``"stock"`` among them; by default the table's, as ``settings`` say.
        progress: told what begins.
        keep: given the result so far after each row, so that a run cut short leaves something.

    Raises:
        ValueError: ``contestants`` lacks the baseline, or ``settings`` name an unknown one.
    """
    suite, mode = SUITES[which], MODES[settings.dtype]
    takes_part = chosen(which, settings, contestants)
    counts_memory = settings.memory or suite.measure is measures.peaks
    with mode.flags():
        result: dict[str, Any] = {
            "format": FORMAT,
            "suite": which,
            "command": command_line(argv),
            "environment": environment(device),
            "settings": as_json(settings),
            "timed": f"{suite.timed}; {mode.about}; {WHERE}",
            "rule": {"factor": FACTOR, "tolerance": TOLERANCE, "truth": "stock in float64"},
            "memory_method": METHOD[device.type] if counts_memory else None,
            "process_first_call_s": {},
            "rows": [],
        }
        for task in suite.tasks:
            if suite.measure is measures.times and task.rivals:
                result["process_first_call_s"] |= {
                    name: _one_time_cost(c, device, settings) for name, c in takes_part[task.name].items()
                }
            rows = with_generators(workloads) if task is TRAIN_STEP else workloads
            for name, workload in rows.items():
                for batch in [settings.batch] if settings.batch else workload.batches(device):
                    progress(f"{task.name}: {name}, batch {batch}")
                    here = Row(suite, task, name, workload, batch, device, settings)
                    result["rows"].append(here.run(takes_part[task.name]))
                    keep(result)
    return result


def chosen(
    which: str, settings: Settings, contestants: Table | None = None
) -> dict[str, dict[str, Contestant]]:
    """Who takes part: the name of each task of the suite to its contestants by name.

    Raises:
        ValueError: the baseline is missing, or ``settings`` name an unknown contestant.
    """
    suite = SUITES[which]

    def known(task: Task) -> Mapping[str, Contestant]:
        preset = "full" if settings.contestants or suite.names else settings.rivals
        everybody = table.table(task, MODES[settings.dtype], preset)
        return table.select(everybody, suite.names or settings.contestants or None)

    found = {task.name: dict((contestants or known)(task)) for task in suite.tasks}
    for names in found.values():
        if table.BASELINE not in names:
            raise ValueError(f"contestants must contain {table.BASELINE!r}; got {', '.join(names)}")
    return found


def _one_time_cost(contestant: Contestant, device: torch.device, settings: Settings) -> float | None:
    """Seconds of a first call on the smallest critic: imports and start-up that a process pays once."""
    critic = nn.Linear(2, 1).to(device)
    points = torch.ones(4, 2, device=device)
    inputs = points, points, points[:, 0]
    try:
        with time_limit(settings.first_call_limit):
            return first_call(lambda: contestant(critic, *inputs)(*inputs), device)
    except Exception:
        return None  # the workloads will say so, with the message


@dataclass(frozen=True)
class Row:
    """One row of a result: a task on a workload at a batch size."""

    suite: Suite
    task: Task
    name: str
    workload: Workload
    batch: int
    device: torch.device
    settings: Settings

    def run(self, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
        """Check and measure; return the row, ready for JSON."""
        judge = self.suite.judge(
            self.workload,
            self.device,
            self.settings.seed,
            self.batch,
            self.task,
            MODES[self.settings.dtype],
        )
        entries = {
            key: Entry(key, table.absent(COMPILES) if self._spared(key) else value)
            for key, value in contestants.items()
        }
        critic = self.workload.build("cpu", seed=self.settings.seed, batch=1)[0]
        row: dict[str, Any] = {
            "workload": self.name,
            "step": self.task.name,
            "about": self.workload.describe(self.device),
            "device": self.device.type,
            "dtype": self.settings.dtype,
            "batch": self.batch,
            "sample": list(self.workload.sample),
            "parameters": sum(p.numel() for p in critic.parameters()),
            "contestants": {key: entry.result for key, entry in entries.items()},
        }
        if self.suite.checked:
            for entry in entries.values():
                self._check(entry, judge)
            entries = {key: entry for key, entry in entries.items() if entry.result["status"] == "ok"}
        row |= self.suite.measure(entries, judge, self.name, self.settings)
        for entry in entries.values():
            if self.task.critic_batches and "median_s" in entry.result:
                images = self.task.critic_batches * self.batch
                entry.result["sec_per_kimg"] = entry.result["median_s"] * 1000 / images
        return row

    def _spared(self, name: str) -> bool:
        """Whether a contestant that compiles is left out of this row."""
        rival = table.RIVALS.get(name)
        return (
            not self.settings.named
            and self.workload.preset == "full"
            and rival is not None
            and rival.compiles
        )

    def _check(self, entry: Entry, judge: Judge) -> None:
        """Build; fill in status, first call and draws; the first call first: the check would pay."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with time_limit(self.settings.first_call_limit):
                    seconds = first_call(lambda: self._begin(entry), self.device)
                right, draws = judge.judge(entry.contestant, entry.built)
            except Absent as reason:
                entry.result |= {"status": "absent", "message": str(reason)}
                return
            except Exception as error:  # a rival may fail in any way; the run goes on
                entry.result |= {"status": "error", "message": measures.first_line(error)}
                return
        entry.result |= {
            "status": "ok" if right else "wrong",
            "draws": [
                asdict(draw) | {"error": min(draw.error, sys.float_info.max), "kept": draw.kept}
                for draw in draws
            ],
            "warnings": sorted({measures.short(str(w.message)) for w in caught}),
        }
        if right:
            entry.result["first_call_s"] = seconds
        else:
            worst = max(draws, key=lambda draw: draw.error / draw.limit)
            entry.result["message"] = (
                f"{worst.where}: relative error {worst.error:.1e}, allowed {worst.limit:.1e}"
            )
        if entry.built is not None:
            load_weights(entry.built.critic, self._critic()[0])

    def _critic(self) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
        return self.workload.build(self.device, torch.float32, self.settings.seed, self.batch)

    def _begin(self, entry: Entry) -> None:
        entry.built = make(entry.contestant, *self._critic(), self.settings.seed)
        entry.call()


def all_right(result: dict[str, Any]) -> bool:
    """Whether stock code and the package's own were all right; rivals may be wrong or absent."""
    return all(
        entry["status"] == "ok"
        for row in result["rows"]
        for name, entry in row["contestants"].items()
        if result["suite"] == "ops" or name == table.BASELINE or table.is_ours(name)
    )


def save(result: dict[str, Any], path: Path) -> None:
    """Write ``result`` as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        ValueError: not a result of this command, or of another format.
    """
    result = json.loads(path.read_text(encoding="utf-8"))
    known = isinstance(result, dict) and result.get("suite") in (*SUITES, "ops", "growth")
    if not known or result.get("format") != FORMAT:
        raise ValueError(f"{path} must be a result of `wgangp-fast bench` in format {FORMAT}")
    return result
