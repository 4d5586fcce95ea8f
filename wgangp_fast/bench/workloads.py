"""The table of workloads: one critic, one batch of inputs, one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import models
from . import critics


@dataclass(frozen=True)
class Workload:
    """One row of a benchmark.

    Attributes:
        critic: builds the critic, float32 on the CPU, from torch's default generator.
        sample: shape of one sample, without the batch.
        batch: samples on the CPU.
        cuda_batch: samples on a GPU, where a batch that fits a CPU measures launches alone.
        preset: ``"quick"`` rows are in every preset, ``"full"`` rows in that one alone.
        about: one line for ``--list``.
    """

    critic: Callable[[], nn.Module]
    sample: tuple[int, ...]
    batch: int
    cuda_batch: int
    preset: str
    about: str

    def build(
        self,
        device: str | torch.device,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
        batch: int | None = None,
    ) -> tuple[nn.Module, Tensor, Tensor]:
        """Return ``(critic, real, fake)``; both inputs are ``[batch, *sample]``, standard normal.

        Everything is drawn in float32 on the CPU and then converted, so that a seed means the same numbers
        in every dtype and on every device. torch's global generator is left as it was.

        Args:
            batch: samples; by default what the row says for ``device``.
        """
        device = torch.device(device)
        if batch is None:
            batch = self.cuda_batch if device.type == "cuda" else self.batch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            critic = self.critic()
            real, fake = torch.randn(2, batch, *self.sample)
        return critic.to(device, dtype), real.to(device, dtype), fake.to(device, dtype)


IMAGE64, IMAGE32 = (3, 64, 64), (3, 32, 32)


def _dcgan64(**settings: object) -> Callable[[], nn.Module]:
    return lambda: models.build("dcgan64-critic", **settings)


def _mlp(*widths: int) -> Callable[[], nn.Module]:
    return lambda: critics.perceptron(widths)


def _cifar() -> nn.Module:
    return models.build("dcgan64-critic", size=32, dim=128, sigma=None)


# Preset "quick" has the seven for every day; "full" adds the families that other people train.
# fmt: off
WORKLOADS: dict[str, Workload] = {
    "toy": Workload(
        lambda: models.build("toy-critic"), (2,), 256, 256, "quick",
        "MLP 2-512-512-512-1, ReLU"),
    "ctgan": Workload(
        critics.ctgan, (1000,), 50, 50, "quick",
        "CTGAN 1000-256-256-1 (pac 10 x 100 columns), LeakyReLU, dropout .5"),
    "amp": Workload(
        _mlp(60, 1024, 512, 1), (60,), 1024, 4096, "quick",
        "MLP 60-1024-512-1, ReLU"),
    "dcgan64": Workload(
        _dcgan64(), IMAGE64, 16, 64, "quick",
        "DCGAN-64 dim 64, LeakyReLU, no norm"),
    "dcgan64-layernorm": Workload(
        _dcgan64(norm="layer"), IMAGE64, 16, 64, "quick",
        "DCGAN-64 dim 64, LeakyReLU, LayerNorm (affine a channel)"),
    "dcgan64-instancenorm": Workload(
        _dcgan64(norm="instance"), IMAGE64, 16, 64, "quick",
        "DCGAN-64 dim 64, LeakyReLU, InstanceNorm (affine)"),
    "dcgan64-tanh": Workload(
        _dcgan64(dim=32, activation="tanh"), IMAGE64, 16, 64, "quick",
        "DCGAN-64 dim 32, tanh, no norm"),
    "mnist": Workload(
        critics.mnist, (1, 28, 28), 50, 50, "full",
        "MNIST convolutions dim 64, LeakyReLU"),
    "cifar": Workload(
        _cifar, IMAGE32, 64, 64, "full",
        "CIFAR convolutions dim 128, LeakyReLU"),
    "resnet64": Workload(
        lambda: critics.resnet64(16), IMAGE64, 16, 64, "full",
        "'Good' ResNet-64 dim 16, LayerNorm, ReLU"),
    "spectral": Workload(
        critics.spectral, IMAGE32, 64, 64, "full",
        "convolutions 32 x 32 dim 64, LeakyReLU, spectral norm"),
    "attention": Workload(
        critics.attention, IMAGE32, 64, 64, "full",
        "convolutions 32 x 32 dim 64, LeakyReLU, self-attention at 8 x 8"),
}
# fmt: on


def select(names: list[str] | None, preset: str) -> dict[str, Workload]:
    """The rows called ``names``, or those of ``preset``, in the table's order.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    unknown = sorted(set(names or []) - set(WORKLOADS))
    if unknown:
        raise ValueError(f"unknown workload {', '.join(unknown)}; known: {', '.join(WORKLOADS)}")
    if names:
        return {name: row for name, row in WORKLOADS.items() if name in names}
    return {name: row for name, row in WORKLOADS.items() if preset == "full" or row.preset == "quick"}
