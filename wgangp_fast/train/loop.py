"""The loop around the iterations: run folder, statistics, pictures, checkpoints, interruption."""

from __future__ import annotations

import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from wgangp_fast import __version__, data
from wgangp_fast.data import UserError

from . import checkpoint, folder, metrics, pictures
from .config import Config, check_resumable, read_config
from .trainer import Trainer

GRID_IMAGES = 100
PLOT_POINTS = 1000
METRIC_IMAGES = 2000
METRIC_POINTS = 10_000


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
    """The critic's loss is no longer finite."""


def train(config: Config) -> Path:
    """Train a generator and a critic.

    Args:
        config: settings; ``Config(preset=...)`` fills what is not given, ``Config(resume=folder)`` goes on
            where a run stopped, bit for bit on the CPU.

    Returns:
        The run folder: config.json, log.txt, stats.jsonl, metrics.json (digits and toys), reals.png,
        fakes_*.png, loss.png, checkpoint_*.pt. With ``dry_run`` the path that would be made.

    Raises:
        UserError: settings, files or packages that do not allow the run.
        Interrupted: SIGINT or SIGTERM came; the state is saved.
        Diverged: a loss became infinite or NaN; the last checkpoint is from before.
    """
    with _threads(config.threads):
        return _train(config)


def _train(config: Config) -> Path:
    device = _device(config.device)
    source = data.load(config.data, config.seed)
    if source.size is not None and config.batch > source.size:
        raise UserError(
            f"batch {config.batch} is larger than the data: {source.name} has {source.size} samples"
        )
    trainer = Trainer(config, source, device)
    label = Path(config.data).stem if config.data not in data.names() else config.preset
    if config.dry_run:
        path = folder.next_path(Path(config.outdir), label)
        print(_describe(trainer) + f"\ndry run: nothing was written; a run would go to {path}")
        return path
    for package in ("PIL.Image", "matplotlib.figure"):
        data.require(package)  # before the training, not at its first picture
    path = _resume(config, trainer, label) if config.resume else folder.create(Path(config.outdir), label)
    saved = {k: v for k, v in config.to_dict().items() if k not in ("resume", "dry_run")}
    folder.write_json(path / "config.json", saved)
    log = folder.Log(path, trainer.iteration)
    log.line(_describe(trainer))
    if config.resume:
        log.line(f"continues {config.resume} at iteration {trainer.iteration}")
    pictures_of_run = _Pictures(trainer, path, label)
    if trainer.iteration == 0:
        pictures_of_run.real()
        pictures_of_run.fakes()
    _run(trainer, path, log, pictures_of_run)
    _finish(trainer, path, log)
    return path


def _run(trainer: Trainer, path: Path, log: folder.Log, pictures_of_run: _Pictures) -> None:
    config = trainer.config
    progress = folder.Progress(trainer.iteration, config.iters)
    ticked, ticked_seconds = trainer.iteration, trainer.seconds
    started, started_seconds = trainer.iteration, trainer.seconds
    with _signals() as received:
        while trainer.iteration < config.iters:
            begin = time.perf_counter()
            trainer.iterate()
            trainer.seconds += time.perf_counter() - begin
            progress.step()
            last = trainer.iteration == config.iters
            if trainer.iteration % config.tick == 0 or last:
                values = _tick(trainer, trainer.iteration - ticked, trainer.seconds - ticked_seconds)
                ticked, ticked_seconds = trainer.iteration, trainer.seconds
                pace = (trainer.seconds - started_seconds) / (trainer.iteration - started)
                progress.pause()
                log.tick(values)
                log.line(_status(values, config, pace * (config.iters - trainer.iteration)))
                if not math.isfinite(values["critic_loss"]):
                    progress.close()
                    raise Diverged(
                        f"{path}: the critic's loss is {values['critic_loss']} at {trainer.iteration}"
                    )
            if trainer.iteration % config.snapshot == 0 or last or received:
                checkpoint.save(path, trainer.iteration, trainer.state_dict(), config.keep)
            if trainer.iteration % config.snapshot == 0 or last:
                pictures_of_run.fakes()
                pictures_of_run.loss(log.ticks)
            if received and not last:
                progress.close()
                log.line(f"signal {received[0]}: saved at iteration {trainer.iteration}")
                raise Interrupted(path, received[0])
    progress.close()


def _finish(trainer: Trainer, path: Path, log: folder.Log) -> None:
    quality = evaluate(trainer)
    if quality:
        folder.write_json(path / "metrics.json", {"iteration": trainer.iteration, **quality})
        log.line(quality_line(quality))


def evaluate(trainer: Trainer) -> dict[str, Any]:
    """Quality of the averaged generator (see :mod:`.metrics`); empty for data without such a measure."""
    random = torch.Generator().manual_seed(trainer.config.seed + 3)
    latent = trainer.config.latent
    if modes := data.modes(trainer.config.data):
        samples = trainer.sample(torch.randn(METRIC_POINTS, latent, generator=random))
        return metrics.mode_coverage(samples, modes)
    if trainer.config.data == "digits":
        return metrics.digit_quality(trainer.sample(torch.randn(METRIC_IMAGES, latent, generator=random)))
    return {}


def quality_line(quality: dict[str, Any]) -> str:
    """One sentence for what :func:`evaluate` found."""
    least = max(1, quality["samples"] // (10 * quality.get("modes", 10)))
    if "modes" in quality:
        return (
            f"modes covered: {quality['modes_covered']} of {quality['modes']} (at least {least} of "
            f"{quality['samples']} samples within {metrics.SIGMAS:g} sigma of its centre); samples within "
            f"{metrics.SIGMAS:g} sigma of any: {quality['high_quality']:.1%}"
        )
    return (
        f"classes covered: {quality['classes_covered']} of {quality['classes']} (at least {least} of "
        f"{quality['samples']} samples each); mean confidence {quality['confidence']:.3f} (real held-out "
        f"digits: {quality['classifier_confidence']:.3f}); score {quality['score']:.2f} of 10; the "
        f"classifier's held-out accuracy is {quality['classifier_accuracy']:.3f}"
    )


class _Pictures:
    """Pictures of one run, all from the same latents and the same real samples."""

    def __init__(self, trainer: Trainer, path: Path, label: str) -> None:
        self.trainer, self.path, self.label = trainer, path, label
        config = trainer.config
        self.image = len(trainer.data.shape) == 3
        count = GRID_IMAGES if self.image else PLOT_POINTS
        # A second copy of the data, so that looking at it does not move the training's position.
        size = trainer.data.size or count
        self.reals = data.load(config.data, config.seed).batch(min(count, size))
        random = torch.Generator().manual_seed(config.seed + 2)
        self.latents = torch.randn(count, config.latent, generator=random)

    def real(self) -> None:
        path = self.path / "reals.png"
        if self.image:
            pictures.image_grid(path, self.reals)
        else:
            pictures.points(path, f"{self.label}: real samples", self.reals)

    def fakes(self) -> None:
        path = self.path / f"fakes_{self.trainer.iteration:06d}.png"
        samples = self.trainer.sample(self.latents)
        if self.image:
            pictures.image_grid(path, samples)
        else:
            title = f"{self.label}: iteration {self.trainer.iteration}"
            device = self.trainer.device
            critic = self.trainer.critic
            pictures.points(path, title, self.reals, samples, lambda x: critic(x.to(device)))

    def loss(self, ticks: list[dict[str, Any]]) -> None:
        config = self.trainer.config
        pictures.loss_curve(
            self.path / "loss.png", f"{self.label}, {config.loss}, batch {config.batch}", ticks
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used ({str(error).splitlines()[0]})") from None
    return device


def _resume(config: Config, trainer: Trainer, label: str) -> Path:
    """Load the newest checkpoint; return the folder to go on in."""
    assert config.resume is not None
    old = Path(config.resume)
    check_resumable(read_config(old), config)
    state = checkpoint.load(checkpoint.newest(old))
    if state["iteration"] >= config.iters:
        raise UserError(f"{old} already is at iteration {state['iteration']}; ask for more with --iters")
    trainer.load_state_dict(state)
    if Path(config.outdir).resolve() == old.parent.resolve():
        return old
    path = folder.create(Path(config.outdir), label)
    if (old / "stats.jsonl").exists():
        (path / "stats.jsonl").write_text((old / "stats.jsonl").read_text())
    return path


def _describe(trainer: Trainer) -> str:
    config, source = trainer.config, trainer.data
    counts = [sum(p.numel() for p in net.parameters()) for net in (trainer.critic, trainer.generator)]
    size = "drawn anew" if source.size is None else f"{source.size} samples"
    settings = ", ".join(f"{name} {value}" for name, value in config.to_dict().items() if name != "dry_run")
    return (
        f"wgangp_fast {__version__}, torch {torch.__version__}, {trainer.device}, "
        f"{torch.get_num_threads()} threads\n"
        f"data {source.name}: {size} of {list(source.shape)}; critic {config.critic}: {counts[0]:,} "
        f"parameters; generator {config.generator}: {counts[1]:,} parameters\n"
        f"settings: {settings}"
    )


def _tick(trainer: Trainer, iterations: int, seconds: float) -> dict[str, Any]:
    images = iterations * trainer.config.n_critic * trainer.config.batch
    return {
        "iteration": trainer.iteration,
        "kimg": round(trainer.kimg, 3),
        "seconds": round(trainer.seconds, 3),
        "img_per_s": round(images / seconds, 1),
        **trainer.take_means(),
    }


def _status(values: dict[str, Any], config: Config, remaining: float) -> str:
    # ru_maxrss counts KiB on Linux and bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    names = {
        "critic_loss": "critic",
        "wasserstein": "W",
        "penalty": "gp",
        "grad_norm": "norm",
        "generator_loss": "gen",
    }
    losses = "  ".join(
        f"{short} {values[name]:.3f}" for name, short in names.items() if values[name] is not None
    )
    minutes, seconds = divmod(round(remaining), 60)
    pace = f"img/s {values['img_per_s']:.0f}  sec/kimg {1000 / values['img_per_s']:.2f}"
    return (
        f"iter {values['iteration']}/{config.iters}  kimg {values['kimg']:.1f}  {pace}  "
        f"eta {minutes}m{seconds:02d}s  mem {peak:.0f} MiB  {losses}"
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
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
