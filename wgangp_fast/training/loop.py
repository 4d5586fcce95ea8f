"""The loop around the iterations: run folder, ticks, snapshots, interruption, divergence."""

from __future__ import annotations

import contextlib
import glob
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Samples

from . import checkpoint, folder
from .config import Config, changes, read_config
from .parallel import Group, launched
from .quality import final_quality
from .recorder import PLOT_POINTS, Recorder, describe
from .report import write_report
from .trainer import Trainer

# Of photographs and of points alike: what a tenth of a set may be held out at most.
HELD_OUT = 256
# Rollbacks in a row without a new checkpoint between them.
ROLLBACKS = 3


class Interrupted(Exception):
    """A signal ended the run after a checkpoint was saved.

    Attributes:
        folder: the run folder, ready to be resumed.
        signal: its number; the command line leaves with 128 more.
    """

    def __init__(self, folder: Path, number: int) -> None:
        super().__init__(f"interrupted; continue with: wgangp-fast train --resume {folder}")
        self.folder, self.signal = folder, number


class Diverged(Exception):
    """The critic's loss is no longer finite, or beyond ``loss_limit``."""


def train(config: Config) -> Path:
    """Train a generator and a critic; with torchrun's environment, as one process of several.

    Args:
        config: settings; ``Config(preset=...)`` fills what is not given, ``Config(resume=folder)`` goes on
            where a run stopped, bit for bit on the CPU.

    Returns:
        The run folder: config.json, log.txt, stats.jsonl, metrics.jsonl (digits and toys), reals.png,
        fakes_*.png, loss.png, report.html, checkpoint_*.pt. With ``dry_run`` the path that would be made.

    Raises:
        UserError: settings, files, packages or disks that do not allow the run.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        Diverged: a loss became infinite, NaN or too large; the last checkpoint is from before.
        ProcessLost: another process of the run died.
    """
    began = time.perf_counter()
    with using_threads(config.threads), launched(config.device) as group:
        devices = [group.device] if group.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(config.seed)  # for networks that draw by themselves; saved and restored
            return _train(config, group, began)


def _train(config: Config, group: Group, began: float) -> Path:
    source = _load(config, group)
    samples, held_out = data.hold_out(source, _held_out_count(config, source))
    trainer = Trainer(config, samples, held_out, group)
    try:
        label = _label(config)
        if config.dry_run:
            path = folder.next_path(Path(config.outdir), label)
            if group.main:
                print(describe(trainer, source) + f"\ndry run: nothing was written; a run would go to {path}")
            return path
        data.require("PIL.Image")  # before the training, not at its first picture
        with contextlib.ExitStack() as held:
            path, complaints = _open_folder(config, trainer, label, held)
            with _recording(trainer, path, label, source, complaints, began) as recorder:
                _Loop(trainer, path, recorder).run()
                if recorder is not None:
                    _finish(trainer, path, recorder)
        return path
    finally:
        trainer.close()


def _load(config: Config, group: Group) -> Samples:
    """The data, which rank 0 prepares while the others wait."""

    def load() -> Samples:
        cache = Path(config.outdir) / "prepared"
        return data.load(config.data, config.seed, size=config.size, cache=cache)

    source: list[Samples] = []
    group.tell_of(lambda: source.append(load()))
    return source[0] if source else load()


def _held_out_count(config: Config, source: Samples) -> int:
    if config.holdout >= 0 or source.size is None:
        return config.holdout if config.holdout >= 0 else 1
    return max(0, min(HELD_OUT, source.size // 10, source.size - config.batch))


def _label(config: Config) -> str:
    return config.preset if config.data in data.names() else f"{config.preset}-{Path(config.data).stem}"


def _open_folder(
    config: Config, trainer: Trainer, label: str, held: contextlib.ExitStack
) -> tuple[Path, list[str]]:
    """The folder to write to, the state loaded where a run is continued; lines on what was odd.

    ``held`` keeps other processes out of the folder until it is closed.
    """
    group, complaints = trainer.group, []

    def claim(path: Path) -> Path:
        lock = folder.claim(path)
        held.callback(lock.close)
        if lock.missing:
            complaints.append(
                f"{path} cannot be locked ({lock.missing}): nothing keeps a second run out of it"
            )
        return path

    def new() -> Path:
        return claim(folder.create(Path(config.outdir), label))

    old = group.tell_of(lambda: _continued(config, label))
    if old is None:
        return group.tell_of(new), complaints
    here = Path(config.outdir).resolve() == old.parent.resolve()
    if here:  # before its checkpoint is read, which another process may be about to replace
        group.tell_of(lambda: claim(old))
    # Rank 0 will write the new settings into this file: the others must not find those.
    saved = group.tell_of(lambda: read_config(old))
    changed = changes(saved, config)
    if changed and not config.force:
        raise UserError(
            f"cannot resume {old} with other settings ({'; '.join(changed)}); --force resumes all the same"
        )
    state, unreadable = checkpoint.newest(old)
    complaints += [f"{text}: an older one is taken" for text in unreadable]
    if state["iteration"] >= config.iters:
        raise UserError(f"{old} already is at iteration {state['iteration']}; ask for more with --iters")
    if "images" not in state:  # of an earlier version: every iteration had the batch of its settings
        state["images"] = state["iteration"] * saved["n_critic"] * saved["batch"]
    trainer.load_state_dict(state)
    if changed:
        complaints.append(f"settings changed by force: {'; '.join(changed)}")
    if here:
        return old, complaints
    path = group.tell_of(new)
    if group.main:
        for name in ("stats.jsonl", "reals.png"):
            if (old / name).exists():
                (path / name).write_bytes((old / name).read_bytes())
    return path, complaints


def _continued(config: Config, label: str) -> Path | None:
    """The run folder that is to be continued: a given one, or with ``auto``, which a restart by torchrun
    implies, the newest of these settings that can be."""
    if config.resume not in (None, "auto"):
        return Path(str(config.resume))
    if config.resume is None and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return None
    outdir = Path(config.outdir)
    for path in sorted(outdir.glob(f"[0-9]*-{glob.escape(label)}"), reverse=True) if outdir.is_dir() else []:
        paths = checkpoint.listing(path)
        done = int(paths[-1].stem.rpartition("_")[2]) if paths else config.iters
        if done < config.iters and not changes(read_config(path), config):
            return path
    return None


@contextmanager
def _recording(trainer: Trainer, path: Path, *facts: Any) -> Iterator[Recorder | None]:
    """The recorder, in the process that has one; what the disk refuses is the user's to mend."""
    if not trainer.group.main:
        yield None
        return
    recorder = None
    try:
        recorder = _recorder(trainer, path, *facts)
        yield recorder
    except OSError as error:
        raise UserError(f"cannot write into {path} ({error.strerror or error})") from None
    finally:
        if recorder is not None:
            recorder.close()


def _recorder(
    trainer: Trainer, path: Path, label: str, source: Samples, complaints: list[str], began: float
) -> Recorder:
    count = min(source.size or PLOT_POINTS, PLOT_POINTS)
    rows = torch.randperm(source.size or count, generator=data.stream("grid"))[:count]
    real = data.to_unit(source.take(rows, data.stream("grid")), low=trainer.low)
    folder.write_json(path / "config.json", trainer.config.lasting())
    recorder = Recorder(trainer, path, label, real)
    recorder.log.line(describe(trainer, source))
    for text in complaints:
        recorder.log.line(f"warning: {text}")
    if not recorder.plots:
        recorder.log.line("matplotlib is not installed: loss.png and plots of points are left out")
    if trainer.iteration:
        recorder.log.line(f"continues at iteration {trainer.iteration}")
    if not (path / "reals.png").exists():
        recorder.reals()
    # A kill may have come between a checkpoint and its picture.
    if trainer.iteration % trainer.config.snapshot == 0 and not recorder.picture.exists():
        recorder.pictures()
    recorder.log.line(f"ready after {time.perf_counter() - began:.1f} s")
    return recorder


class _Loop:
    """Iterations until the last one, a signal, or divergence."""

    def __init__(self, trainer: Trainer, path: Path, recorder: Recorder | None) -> None:
        self.trainer, self.path, self.recorder = trainer, path, recorder
        self.config, self.group = trainer.config, trainer.group
        # Where the clock stood at the last tick, and when this process began.
        self.ticked = self.started = (trainer.iteration, trainer.seconds)
        self.rollbacks = 0

    def run(self) -> None:
        trainer, config = self.trainer, self.config
        with _signals() as received:
            while trainer.iteration < config.iters:
                begin = time.perf_counter()
                trainer.iterate()
                last = trainer.iteration == config.iters
                ticking = last or trainer.iteration % config.tick == 0
                # Reading the sums waits for the device, so that the clock shows what the device did.
                means = trainer.take_means() if ticking else None
                trainer.seconds += time.perf_counter() - begin
                if self.recorder is not None:
                    self.recorder.progress.step()
                stop = self.group.largest(received[0] if received else 0)
                snapshot = last or trainer.iteration % config.snapshot == 0
                if not self._healthy(means, last, check=snapshot or stop > 0):
                    continue
                if snapshot or stop:
                    self._snapshot(pictures=snapshot)
                if stop and not last:
                    if self.recorder is not None:
                        self.recorder.progress.close()
                        self.recorder.log.line(f"signal {stop}: saved at iteration {trainer.iteration}")
                    raise Interrupted(self.path, stop)

    def _healthy(self, means: dict[str, float | None] | None, last: bool, check: bool) -> bool:
        """Record a tick; False after a rollback."""
        trainer, config = self.trainer, self.config
        loss = 0.0
        if means is not None:
            loss = means["critic_loss"] or 0.0
            self._tick(means)
        bad = not abs(loss) <= config.loss_limit  # a NaN too
        if not bad and check:
            # A checkpoint must not hold what the next tick would find. All look, as all must agree.
            bad = self.group.largest(int(not trainer.finite())) > 0
            loss = math.nan if bad else loss
        if not bad:
            return True
        at = f"{self.path}: the critic's loss is {loss:g} at iteration {trainer.iteration}"
        if config.on_divergence == "rollback" and self._roll_back(at):
            return False
        kept = f"; the state is kept in {self.recorder.diverged().name}" if self.recorder is not None else ""
        hint = "a lower --lr, or --on-divergence rollback, may help"
        raise Diverged(f"{at}, limit {config.loss_limit:g}{kept}; {hint}")

    def _roll_back(self, at: str) -> bool:
        paths = checkpoint.listing(self.path)
        if self.rollbacks == ROLLBACKS or not paths:
            return False
        self.rollbacks += 1
        before = self.trainer.rollbacks
        seconds = self.trainer.seconds
        self.trainer.load_state_dict(checkpoint.newest(self.path)[0])
        # The time was spent all the same, and other numbers must be drawn than the last time.
        self.trainer.seconds, self.trainer.rollbacks = seconds, before + 1
        self.ticked = (self.trainer.iteration, seconds)
        if self.recorder is not None:
            self.recorder.log.line(f"{at}: rolled back to iteration {self.trainer.iteration}")
            self.recorder.log.keep(self.trainer.iteration)
        return True

    def _tick(self, means: dict[str, float | None]) -> None:
        trainer, config = self.trainer, self.config
        now = (trainer.iteration, trainer.seconds)
        held_out = trainer.held_out_means()
        if self.recorder is not None:
            iterations, seconds = now[0] - self.ticked[0], now[1] - self.ticked[1]
            values = {
                "iteration": trainer.iteration,
                "kimg": round(trainer.kimg, 3),
                "seconds": round(trainer.seconds, 3),
                "img_per_s": float(f"{iterations * trainer.shown / max(seconds, 1e-9):.5g}"),
                "learning_rate": trainer.learning_rate,
                **means,
                **held_out,
            }
            done = max(1, now[0] - self.started[0])
            pace = (now[1] - self.started[1]) / done
            self.recorder.tick(values, pace * (config.iters - trainer.iteration))
        self.ticked = now

    def _snapshot(self, pictures: bool) -> None:
        self.rollbacks = 0
        if self.recorder is not None:
            self.recorder.checkpoint()
            if pictures:
                self.recorder.pictures()


def _finish(trainer: Trainer, path: Path, recorder: Recorder) -> None:
    quality, sentence = final_quality(trainer)
    if quality:
        folder.append_line(path / "metrics.jsonl", {"iteration": trainer.iteration, **quality})
        recorder.log.line(sentence)
    write_report([path], path / "report.html")


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """``count`` threads of torch; 0: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that an iteration is never cut in half; a second one acts at once."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield received
        return
    for wanted in (signal.SIGINT, signal.SIGTERM):
        previous[wanted] = signal.signal(wanted, handle)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
