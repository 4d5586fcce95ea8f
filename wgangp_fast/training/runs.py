"""Finished and running runs, opened for a look: the generator of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import stream

from . import checkpoint
from .config import Config
from .networks import build_networks
from .parallel import usable
from .recorder import signed
from .trainer import SAMPLE_BATCH, sample


@dataclass(frozen=True)
class Run:
    """A run folder and one of its checkpoints.

    Attributes:
        path: the folder. config: its settings.
        generator: on ``device``; ``average`` says whether it is the moving average.
        shape: of a sample. iteration: of the checkpoint.
        complaints: a line on each newer checkpoint that cannot be read.
    """

    path: Path
    config: Config
    generator: nn.Module
    average: bool
    shape: tuple[int, ...]
    iteration: int
    device: torch.device
    complaints: tuple[str, ...] = ()

    @property
    def image(self) -> bool:
        """Whether samples are images, not points."""
        return len(self.shape) == 3

    @property
    def classes(self) -> int:
        """How many labels the generator knows; 0: it takes none."""
        return int(getattr(self.generator, "classes", 0))

    def latents(self, count: int, seed: int, truncation: float | None = None) -> Tensor:
        """``[count, latent]`` standard normal; with ``truncation``, redrawn until within it (Brock et al.
        2019, the truncation trick). The first of a seed are the same however many are asked for."""
        parts = [
            self._latents(stream(seed, "sample", index), truncation)
            for index in range(-(-count // SAMPLE_BATCH))
        ]
        return torch.cat(parts)[:count]

    def _latents(self, random: torch.Generator, truncation: float | None) -> Tensor:
        z = torch.randn(SAMPLE_BATCH, self.config.latent, generator=random)
        while truncation is not None and bool((outside := z.abs() > truncation).any()):
            z[outside] = torch.randn(int(outside.sum()), generator=random)
        return z

    def draw(
        self, count: int, seed: int, truncation: float | None = None, label: int | None = None
    ) -> Tensor:
        """``count`` samples of a seed: the first are the same however many are asked for.

        Args:
            truncation: as for :meth:`latents`.
            label: of all of them; None: a generator with classes makes all in turn.

        Raises:
            UserError: a label that the generator does not know.
        """
        whole = count + -count % SAMPLE_BATCH  # batch norm sees full batches of latents
        if label is not None:
            self.check_label(label)
        labels = None if label is None else torch.full((whole,), label)
        return self.samples(self.latents(whole, seed, truncation), labels)[:count]

    def check_label(self, label: int) -> None:
        """Raise UserError unless the generator knows ``label``."""
        if not self.classes:
            raise UserError(f"{self.path}: its generator {self.config.generator} takes no labels")
        if not 0 <= label < self.classes:
            raise UserError(
                f"{self.path}: label {label} is not among its generator's, 0 to {self.classes - 1}"
            )

    def samples(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images in [-1, 1], or points, ``[N, *shape]`` on the CPU, for ``z [N, latent]``; a generator with
        classes makes them of ``labels [N]``, by default of all in turn."""
        made = sample(self.generator, z, self.device, labels)
        return signed(made, getattr(self.generator, "low", -1.0)) if self.image else made


def open_run(
    folder: Path, *, device: str = "auto", iteration: int | None = None, average: bool = True
) -> Run:
    """Open a run folder.

    Args:
        iteration: which checkpoint; None: the newest that can be read.
        average: the moving average of the weights, which snapshots show, or the last weights.

    Raises:
        UserError: not a run folder, or no such or no readable checkpoint.
    """
    config = Config(resume=str(folder))
    complaints: list[str] = []
    if iteration is None:
        state, complaints = checkpoint.newest(folder)
    else:
        path = folder / f"checkpoint_{iteration:06d}.pt"
        if not path.is_file():
            known = ", ".join(str(int(p.stem.rpartition("_")[2])) for p in checkpoint.listing(folder))
            raise UserError(f"{folder} has no checkpoint of iteration {iteration}; it has {known or 'none'}")
        state = checkpoint.load_run(path)
    where = usable(device)
    found = state.get("shape")
    if not isinstance(found, list) or not all(type(side) is int and side > 0 for side in found):
        raise UserError(f"{folder}: the checkpoint is damaged: its samples have the shape {found!r}")
    shape = tuple(found)
    _, generator = build_networks(config, shape)
    _load(generator, state, "average" if average else "generator", folder)
    generator = generator.to(where).requires_grad_(False)
    return Run(folder, config, generator, average, shape, state["iteration"], where, tuple(complaints))


def _load(generator: nn.Module, state: dict[str, Any], part: str, folder: Path) -> None:
    try:
        generator.load_state_dict(state[part])
    except (RuntimeError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: the checkpoint is of another generator than config.json's ({reason})"
        ) from None
