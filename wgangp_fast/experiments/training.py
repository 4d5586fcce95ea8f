"""Trainings inside an experiment: the package's trainer without a run folder, resumed where it stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training import Config, checkpoint, data
from wgangp_fast.training.data import Samples
from wgangp_fast.training.folder import Progress
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import Trainer

from .study import Study, _slug

SAVED_EVERY = 20.0  # seconds between checkpoints: what an interruption may cost
TOLD_EVERY = 15.0  # seconds between lines on the screen

Row = dict[str, Any]


@dataclass
class Trained:
    """A training that is at its end.

    Attributes:
        trainer: networks and counters as they are now.
        rows: numbers by iteration; means since the row before.
        diverged: a loss was not finite, and the training stopped there.
    """

    trainer: Trainer
    rows: list[Row] = field(default_factory=list)
    diverged: bool = False

    def column(self, name: str) -> list[Any]:
        """A number of every row; None where a row lacks it."""
        return [row.get(name) for row in self.rows]


class ClipWatch(Trainer):
    """Looks at every critic parameter after every critic step.

    Attributes:
        checked: critic steps that were looked at.
        largest: the largest magnitude of a parameter after any of them.
    """

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.checked = 0
        self.largest = torch.zeros((), device=self.device)

    def critic_update(self, real: Tensor, fake: Tensor, alpha: Tensor, *labels: Tensor) -> dict[str, Tensor]:
        found = super().critic_update(real, fake, alpha, *labels)
        largest = torch.nn.utils.get_total_norm([p.detach() for p in self.critic.parameters()], math.inf)
        self.largest = torch.maximum(self.largest, largest)
        self.checked += 1
        return found

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "checked": self.checked, "largest": self.largest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.checked, self.largest = state["checked"], state["largest"].to(self.device)


def trained(
    study: Study,
    name: str,
    config: Config,
    *,
    samples: Samples | None = None,
    held_out: Samples | None = None,
    networks: Callable[[], tuple[nn.Module, nn.Module]] | None = None,
    kind: type[Trainer] = Trainer,
    every: int = 0,
    watch: Callable[[Trainer], Row] | None = None,
    prepare: Callable[[Trainer], None] | None = None,
) -> Trained:
    """Train as ``config`` says, or take up a training of this name where it stopped.

    Args:
        study: whose part it is; the state is kept in its ``parts/``.
        config: its iterations are the training's length.
        samples: the set; None: that of ``config.data``. held_out: another one to compare with.
        networks: makes critic and generator, called with torch's generator seeded by ``config.seed``; None:
            the networks that ``config`` names.
        kind: of trainer.
        every: iterations between rows; 0: one row, at the end.
        watch: more numbers for a row, called after its means were taken, and once before the first iteration.
        prepare: changes the new trainer, before any state is loaded.
    """
    path = study.parts / f"{_slug(name)}.pt"
    with (
        torch.random.fork_rng([study.device] if study.device.type == "cuda" else []),
        using_threads(config.threads),
    ):
        torch.manual_seed(config.seed)
        source = samples or data.load(
            config.data, config.seed, size=config.size, cache=study.path / "prepared"
        )
        pair = networks() if networks is not None else None
        trainer = kind(config, source, held_out, Group(study.device), pair)
        if prepare is not None:
            prepare(trainer)
        torch.manual_seed(config.seed)
        found = Trained(trainer)
        try:
            _run(study, name, path, found, every or config.iters, watch)
        finally:
            trainer.close()
    study.seconds[name] = round(trainer.seconds, 3)
    return found


def _run(
    study: Study,
    name: str,
    path: Path,
    found: Trained,
    every: int,
    watch: Callable[[Trainer], Row] | None,
) -> None:
    trainer, iters = found.trainer, found.trainer.config.iters
    if path.exists():
        state = checkpoint.load(path)
        trainer.load_state_dict(state)
        found.rows, found.diverged = state["rows"], state["diverged"]
    if trainer.iteration >= iters or found.diverged:
        return
    at = f", from iteration {trainer.iteration}" if trainer.iteration else ""
    study.say(f"{name}: {iters} iterations{at}")
    if watch is not None and not trainer.iteration:
        found.rows.append({"iteration": 0, "seconds": 0.0, **watch(trainer)})
    progress = Progress(trainer.iteration, iters)
    saved = told = time.perf_counter()
    try:
        while trainer.iteration < iters and not found.diverged:
            begin = time.perf_counter()
            trainer.iterate()
            row = trainer.iteration % every == 0 or trainer.iteration == iters
            means = trainer.take_means() if row else {}
            now = time.perf_counter()
            trainer.seconds += now - begin
            progress.step()
            if row:
                found.diverged = not math.isfinite(means["critic_loss"] or 0.0) or not trainer.finite()
                numbers = {} if watch is None or found.diverged else watch(trainer)
                place = {"iteration": trainer.iteration, "seconds": round(trainer.seconds, 3)}
                found.rows.append({**place, **means, **trainer.held_out_means(), **numbers})
            if now - saved > SAVED_EVERY:
                _save(path, found)
                saved = time.perf_counter()
            if progress.bar is None and now - told > TOLD_EVERY:
                left = trainer.seconds / max(1, trainer.iteration) * (iters - trainer.iteration)
                study.say(f"{name}: {trainer.iteration}/{iters}, about {left:.0f} s left")
                told = now
    finally:
        progress.close()
    if found.diverged:
        study.say(f"{name}: a loss is not finite at iteration {trainer.iteration}; stopped")
    _save(path, found)


def _save(path: Path, found: Trained) -> None:
    trainer = found.trainer
    state = {"format": checkpoint.FORMAT, "rows": found.rows, "diverged": found.diverged}
    checkpoint.write(path, {**state, **trainer.state_dict()})
