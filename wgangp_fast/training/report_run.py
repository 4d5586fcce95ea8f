"""What a run folder holds, for the report: as much as can be read."""

from __future__ import annotations

import contextlib
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

from wgangp_fast.errors import UserError

from .report_charts import Point, finite

LOG_LINES = 40
MISSING = "\u2013"
# Settings that say where a run is, not what.
PLACES = {"outdir", "resume"}
# What two evaluations must have in common for their numbers to stand side by side.
WAYS = ("iteration", "features", "data", "average")
NAMING = 2  # settings that a run's label mentions, if no more differ


@dataclass(frozen=True)
class Run:
    """What a run folder holds, as far as it can be read."""

    path: Path
    label: str
    config: dict[str, Any]
    ticks: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    log: list[str]

    def values(self, name: str, over: str = "iteration") -> list[Point]:
        """A statistic by iteration or by seconds; NaN where it has no value, as at a divergence."""
        rows = ((tick.get(over), tick.get(name)) for tick in self.ticks)
        return [(float(x), float(y) if is_number(y) else math.nan) for x, y in rows if is_number(x)]

    def setting(self, name: str) -> str:
        value = self.config.get(name, MISSING)
        return value if isinstance(value, str) else json.dumps(value)

    def last(self, name: str) -> float | None:
        points = finite(self.values(name))
        return points[-1][1] if points else None

    def pace(self) -> float | None:
        """Median images per second: the first tick has the compilation in it."""
        values = [y for _, y in finite(self.values("img_per_s"))]
        return statistics.median(values) if values else None

    def quality(self, judge: str | None = None) -> dict[str, Any]:
        """What was measured at the newest evaluated iteration, as far as it was measured in one way.

        Args:
            judge: the feature network whose word counts; None: the newest.
        """
        found: dict[str, Any] = {}
        for evaluation in reversed(self.evaluations):
            if judge is not None and evaluation.get("features", judge) != judge:
                continue
            if all(evaluation[k] == found.get(k, evaluation[k]) for k in WAYS if k in evaluation):
                found = evaluation | found
        return found


def read_all(paths: Sequence[Path]) -> list[Run]:
    """Read run folders, and name each by its folder and by the one or two settings that differ.

    Raises:
        UserError: one is no folder.
    """
    runs = [read(Path(path), label) for path, label in zip(paths, labels(paths), strict=True)]
    differing = differences(runs)
    if not 0 < len(differing) <= NAMING:
        return runs
    return [
        replace(run, label=f"{run.label} ({', '.join(f'{name} {run.setting(name)}' for name in differing)})")
        for run in runs
    ]


def settings(runs: Sequence[Run]) -> list[str]:
    """The names of all settings."""
    return list(dict.fromkeys(name for run in runs for name in run.config))


def shared_judge(runs: Sequence[Run]) -> str | None:
    """The feature network that judged every run, the newest if there are several; None: there is none."""
    judges = [[e["features"] for e in run.evaluations if isinstance(e.get("features"), str)] for run in runs]
    return next((name for name in reversed(judges[0]) if all(name in others for others in judges)), None)


def differences(runs: Sequence[Run]) -> list[str]:
    """The names of settings in which the runs differ, as far as they have any, but for where they are."""
    runs = [run for run in runs if run.config]
    return [n for n in settings(runs) if n not in PLACES and len({run.setting(n) for run in runs}) > 1]


def read(path: Path, label: str) -> Run:
    if not path.is_dir():
        raise UserError(f"{path} is not a run folder: there is no such folder")
    configs = _dictionaries(_text(path / "config.json"))
    evaluations = _dictionaries(_text(path / "metrics.json"))  # where earlier versions kept the only one
    evaluations += [e for line in _text(path / "metrics.jsonl").splitlines() for e in _dictionaries(line)]
    ticks = [tick for line in _text(path / "stats.jsonl").splitlines() for tick in _dictionaries(line)]
    log = _text(path / "log.txt").splitlines()[-LOG_LINES:]
    return Run(path, label, configs[0] if configs else {}, ticks, evaluations, log)


def inside(path: Path) -> bool:
    """Whether a run folder's file is its own: the page must not show what a link points at elsewhere."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: links in a circle
        return path.resolve().parent == path.parent.resolve()
    return False


def _text(path: Path) -> str:
    if not inside(path):
        return ""
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _dictionaries(text: str) -> list[dict[str, Any]]:
    """The dictionary that a JSON text is, in a list; none if it is torn or something else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [value] if isinstance(value, dict) else []


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def labels(runs: Sequence[Path]) -> list[str]:
    """The folders' names, with as many folders above as tell them apart."""
    parts = [Path(path).absolute().parts for path in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(set(parts)):
            break
    return labels
