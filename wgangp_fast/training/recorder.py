"""What a run leaves behind: log, statistics, pictures, checkpoints. One process of a run has a recorder."""

from __future__ import annotations

import importlib.util
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from wgangp_fast import __version__
from wgangp_fast.training import data

from . import checkpoint, folder, pictures
from .trainer import Trainer

MOST_COLUMNS = 20  # a column for each class, up to this many
GRID_IMAGES = 100
PLOT_POINTS = 1000


class Recorder:
    """Writes into the folder of a run.

    Args:
        trainer: the run; loaded, if it is continued.
        path: the run folder, which exists.
        label: for titles.
        real: samples to compare with, ``[N, ...]`` as the networks see them.
    """

    def __init__(self, trainer: Trainer, path: Path, label: str, real: torch.Tensor) -> None:
        self.trainer, self.path, self.label, self.real = trainer, path, label, real
        self.config = trainer.config
        self.image = len(trainer.shape) == 3
        count = GRID_IMAGES if self.image else PLOT_POINTS
        generator = data.stream(self.config.seed, "grid")
        self.latents = torch.randn(count, self.config.latent, generator=generator)
        self.log = folder.Log(path, trainer.iteration)
        self.progress = folder.Progress(trainer.iteration, self.config.iters)
        self.plots = importlib.util.find_spec("matplotlib") is not None
        self.board: Any = None
        if self.config.tensorboard:
            data.require("tensorboard")
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(path), purge_step=trainer.iteration + 1)

    def tick(self, values: dict[str, Any], remaining: float) -> None:
        """A line of statistics; ``remaining`` seconds until the end."""
        self.progress.pause()
        self.log.tick(values)
        self.log.line(status(values, self.config.iters, remaining, self.trainer.device))
        if self.board is not None:
            for name, value in values.items():
                if name != "iteration" and value is not None:
                    self.board.add_scalar(name, value, values["iteration"])

    def checkpoint(self) -> None:
        checkpoint.save(self.path, self.trainer.iteration, self.trainer.state_dict(), self.config.keep)

    def diverged(self) -> Path:
        """Keep the state of a run that diverged, for a look; resuming takes the last good checkpoint."""
        path = self.path / "diverged.pt"
        checkpoint.write(path, {"format": checkpoint.FORMAT, **self.trainer.state_dict()})
        return path

    @property
    def picture(self) -> Path:
        """The samples of this iteration, drawn or not."""
        return self.path / f"fakes_{self.trainer.iteration:06d}.png"

    def pictures(self) -> None:
        """A grid of samples and the losses so far."""
        if self.image or self.plots:
            self._samples(self.picture)
        if self.plots:
            title = f"{self.label}, {self.config.loss}, batch {self.config.batch}"
            pictures.loss_curve(self.path / "loss.png", title, self.log.ticks)

    def reals(self) -> None:
        """A picture of the data."""
        path = self.path / "reals.png"
        if self.image:
            pictures.image_grid(path, signed(self.real[:GRID_IMAGES], self.trainer.low))
        elif self.plots:
            pictures.points(path, f"{self.label}: real samples", self.real)

    def _samples(self, path: Path) -> None:
        samples = self.trainer.sample(self.latents)
        if self.image:
            samples = signed(samples, self.trainer.low)
            columns = class_columns(self.trainer.classes)
            pictures.image_grid(path, samples, columns)
            if self.board is not None:
                grid = pictures.sheet(samples, columns)
                self.board.add_image("fakes", grid, self.trainer.iteration)
        else:
            title = f"{self.label}: iteration {self.trainer.iteration}"
            device, critic = self.trainer.device, self.trainer.critic
            pictures.points(path, title, self.real, samples, lambda x: critic(x.to(device)))

    def close(self) -> None:
        self.progress.close()
        if self.board is not None:
            self.board.close()


def class_columns(classes: int) -> int | None:
    """Columns of a sheet whose labels take turns, so that a column is a class; None: any number will do."""
    return classes if 0 < classes <= MOST_COLUMNS else None


def signed(images: torch.Tensor, low: float) -> torch.Tensor:
    """Images in [low, 1] as images in [-1, 1]."""
    return images if low == -1.0 else (images - low) * (2 / (1 - low)) - 1


def describe(trainer: Trainer, source: data.Samples) -> str:
    """Versions, data, networks and settings of a run, for the head of its log."""
    config, group = trainer.config, trainer.group
    counts = [sum(p.numel() for p in net.parameters()) for net in (trainer.critic, trainer.generator)]
    size = "drawn anew" if source.size is None else f"{source.size} samples"
    settings = ", ".join(f"{name} {value}" for name, value in config.lasting().items())
    processes = (
        f", {group.world} processes of {config.batch // group.world} samples" if group.world > 1 else ""
    )
    return (
        f"wgangp_fast {__version__}, torch {torch.__version__}, {trainer.device}, "
        f"{torch.get_num_threads()} threads{processes}\n"
        f"data {source.name}: {size} of {list(source.shape)}; critic {config.critic}: {counts[0]:,} "
        f"parameters; generator {config.generator}: {counts[1]:,} parameters\n"
        f"settings: {settings}"
    )


def peak_mib(device: torch.device) -> float:
    """Peak memory in MiB: of torch's allocations on a GPU, of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # ru_maxrss counts KiB on Linux and bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


_SHORT = {
    "critic_loss": "critic",
    "held_out_critic_loss": "held-out",
    "wasserstein": "W",
    "penalty": "gp",
    "grad_norm": "norm",
    "generator_loss": "gen",
    "class_loss": "classes",
}


def status(values: dict[str, Any], iters: int, remaining: float, device: torch.device) -> str:
    """The line that a tick prints."""
    losses = "  ".join(
        f"{short} {values[name]:.3f}" for name, short in _SHORT.items() if values.get(name) is not None
    )
    minutes, seconds = divmod(round(remaining), 60)
    hours, minutes = divmod(minutes, 60)
    eta = f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s"
    rate = values["img_per_s"]
    pace = f"img/s {rate:.0f}" if rate >= 10 else f"img/s {rate:.2g}"
    pace += f"  sec/kimg {1000 / rate:.2f}"
    return (
        f"iter {values['iteration']}/{iters}  kimg {values['kimg']:.1f}  {pace}  "
        f"eta {eta}  mem {peak_mib(device):.0f} MiB  {losses}"
    )
