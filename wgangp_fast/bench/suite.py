"""The penalty suite: check every contestant, then time and weigh the ones that are right."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import contestants as table
from .contestants import Contestant, Step, clear_gradients
from .correctness import FACTOR, TOLERANCE, Judge, sample_alpha
from .environment import command_line, environment
from .memory import METHOD, peak_bytes
from .timing import first_call, interleave, paired_ratios, spread, warm_up
from .workloads import Workload

FORMAT = 1
TIMED = (
    "parameter.grad = None, forward, penalty, backward to the parameters; alpha given; float32; warm caches"
)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        rounds: samples of each contestant.
        budget: seconds for the rounds of one workload; at least five rounds are done.
        batch: samples of every workload, or None for the table's.
        memory: also count peak bytes.
    """

    rounds: int = 15
    budget: float = math.inf
    seed: int = 0
    batch: int | None = None
    memory: bool = False


class _Entry:
    """One contestant on one workload: its own critic, its step, and what is known of it."""

    def __init__(
        self, contestant: Contestant, workload: Workload, device: torch.device, settings: Settings
    ) -> None:
        self.contestant = contestant
        self.critic: nn.Module
        self.critic, real, fake = workload.build(device, torch.float32, settings.seed, settings.batch)
        self.inputs = real, fake, sample_alpha(real, settings.seed)
        self.step: Step | None = None
        self.result: dict[str, Any] = {}

    def call(self) -> None:
        """What is timed."""
        clear_gradients(self.critic)
        if self.step is None:
            self.step = self.contestant(self.critic, *self.inputs)
        self.step()


def run(
    workloads: Mapping[str, Workload],
    device: torch.device,
    settings: Settings,
    argv: list[str],
    contestants: Mapping[str, Contestant] | None = None,
    progress: Callable[[str], None] = lambda name: None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Run the suite, and return a result ready for JSON.

    A contestant that is wrong, or raises, gets a status and a message, and no time.

    Args:
        contestants: name to contestant, ``"stock"`` among them; by default the table's.
        progress: told the name of each workload that begins.
        keep: given the result so far after each workload, so that a run cut short leaves something.

    Raises:
        ValueError: ``contestants`` lacks the baseline.
    """
    contestants = dict(table.CONTESTANTS if contestants is None else contestants)
    if table.BASELINE not in contestants:
        raise ValueError(f"contestants must contain {table.BASELINE!r}; got {', '.join(contestants)}")
    result: dict[str, Any] = {
        "format": FORMAT,
        "suite": "penalty",
        "command": command_line(argv),
        "environment": environment(device),
        "settings": asdict(settings) | {"budget": settings.budget if settings.budget < math.inf else None},
        "timed": TIMED,
        "rule": {"factor": FACTOR, "tolerance": TOLERANCE, "truth": "stock in float64"},
        "memory_method": METHOD[device.type] if settings.memory else None,
        "process_first_call_s": {name: _one_time_cost(c, device) for name, c in contestants.items()},
        "rows": [],
    }
    for name, workload in workloads.items():
        progress(name)
        result["rows"].append(_row(name, workload, device, settings, contestants))
        keep(result)
    return result


def _one_time_cost(contestant: Contestant, device: torch.device) -> float | None:
    """Seconds of a first call on the smallest critic: imports and start-up that a process pays once."""
    critic = nn.Linear(2, 1).to(device)
    points = torch.ones(4, 2, device=device)
    try:
        return first_call(lambda: contestant(critic, points, points, points[:, 0])(), device)
    except Exception:
        return None  # the workloads will say so, with the message


def _row(
    name: str,
    workload: Workload,
    device: torch.device,
    settings: Settings,
    contestants: Mapping[str, Contestant],
) -> dict[str, Any]:
    entries = {key: _Entry(value, workload, device, settings) for key, value in contestants.items()}
    judge = Judge(workload, device, settings.seed, settings.batch)
    for entry in entries.values():
        _check(entry, judge, device)
    right = {key: entry for key, entry in entries.items() if entry.result["status"] == "ok"}
    prepared = {key: (entry.call, warm_up(entry.call, device)) for key, entry in right.items()}
    samples = interleave(prepared, device, settings.rounds, settings.budget)
    for key, entry in right.items():
        entry.result |= {"calls_per_sample": prepared[key][1], "seconds": samples[key]}
        entry.result |= statistics(samples.get(table.BASELINE), samples[key])
        if settings.memory:
            entry.result["peak_bytes"] = _peak(entry, device)
    some = next(iter(entries.values()))
    return {
        "workload": name,
        "about": workload.about,
        "device": device.type,
        "dtype": "float32",
        "batch": some.inputs[0].shape[0],
        "sample": list(workload.sample),
        "parameters": sum(p.numel() for p in some.critic.parameters()),
        "contestants": {key: entry.result for key, entry in entries.items()},
    }


def _check(entry: _Entry, judge: Judge, device: torch.device) -> None:
    """Fill in status, first call and draws. The first call comes first: the check would pay for it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            seconds = first_call(entry.call, device)
            right, draws = judge.judge(entry.contestant)
        except Exception as error:  # a rival may fail in any way; the run goes on
            message = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            entry.result |= {"status": "error", "message": message}
            return
    entry.result |= {
        "status": "ok" if right else "wrong",
        "draws": [asdict(draw) | {"kept": draw.kept} for draw in draws],
        "warnings": sorted({str(w.message) for w in caught}),
    }
    if right:
        entry.result["first_call_s"] = seconds
    else:
        worst = max(draws, key=lambda draw: draw.error / draw.limit)
        entry.result["message"] = (
            f"{worst.where}: relative error {worst.error:.1e}, allowed {worst.limit:.1e}"
        )


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


def _peak(entry: _Entry, device: torch.device) -> int:
    clear_gradients(entry.critic)
    assert entry.step is not None  # it was timed
    return peak_bytes(entry.step, device)


def all_right(result: dict[str, Any]) -> bool:
    """Whether no contestant was wrong or failed."""
    return all(entry["status"] == "ok" for row in result["rows"] for entry in row["contestants"].values())


def save(result: dict[str, Any], path: Path) -> None:
    """Write ``result`` as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote.

    Raises:
        ValueError: not a result of this suite, or of another format.
    """
    result = json.loads(path.read_text())
    known = isinstance(result, dict) and result.get("suite") in ("penalty", "ops")
    if not known or result.get("format") != FORMAT:
        raise ValueError(f"{path} must be a result of `wgangp-fast bench` in format {FORMAT}")
    return result
