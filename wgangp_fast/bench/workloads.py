"""The table of workloads: one critic, one batch of inputs, one row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..training import models
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
        about: one line for ``--list``; ``{dim}`` in it stands for the width.
        generator: builds the generator that trains against the critic, ``[N, latent] -> [N, *sample]``.
        dims: width on the CPU and on a GPU, given to ``critic`` where it is not None.
        more_cuda_batches: further batches on a GPU.
    """

    critic: Callable[..., nn.Module]
    sample: tuple[int, ...]
    batch: int
    cuda_batch: int
    preset: str
    about: str
    generator: Callable[[], nn.Module] | None = None
    dims: tuple[int, int] | None = None
    more_cuda_batches: tuple[int, ...] = ()

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
            critic = self.network(device)
            real, fake = torch.randn(2, batch, *self.sample)
        return critic.to(device, dtype), real.to(device, dtype), fake.to(device, dtype)

    def network(self, device: str | torch.device) -> nn.Module:
        """The critic for ``device``, fresh, float32 on the CPU."""
        return self.critic() if self.dims is None else self.critic(self._dim(device))

    def batches(self, device: str | torch.device) -> list[int]:
        """The batch sizes of this row on ``device``."""
        if torch.device(device).type != "cuda":
            return [self.batch]
        return [self.cuda_batch, *self.more_cuda_batches]

    def describe(self, device: str | torch.device) -> str:
        """:attr:`about`, with the width on ``device``."""
        return self.about if self.dims is None else self.about.format(dim=self._dim(device))

    def _dim(self, device: str | torch.device) -> int:
        assert self.dims is not None
        return self.dims[torch.device(device).type == "cuda"]


IMAGE64, IMAGE32 = (3, 64, 64), (3, 32, 32)


def _dcgan64(about: str, *more_cuda_batches: int, preset: str = "quick", **settings: object) -> Workload:
    """Critic and the generator that mirrors it; the generator keeps its batch norm and ReLU."""
    size = {"dim": settings["dim"]} if "dim" in settings else {}
    return Workload(
        lambda: models.build("dcgan64-critic", **settings),
        IMAGE64,
        16,
        64,
        preset,
        f"DCGAN-64 {about}",
        lambda: models.build("dcgan64-generator", **size),
        more_cuda_batches=more_cuda_batches,
    )


def _mlp(*widths: int) -> Callable[[], nn.Module]:
    return lambda: critics.perceptron(widths)


def _cifar(name: str) -> Callable[[], nn.Module]:
    return lambda: models.build(name, size=32, dim=128, sigma=None)


# Preset "quick" has the seven for every day; "full" adds the families that other people train.
# fmt: off
WORKLOADS: dict[str, Workload] = {
    "toy": Workload(
        lambda: models.build("toy-critic"), (2,), 256, 256, "quick",
        "MLP 2-512-512-512-1, ReLU", lambda: models.build("toy-generator")),
    "ctgan": Workload(
        critics.ctgan, (1000,), 50, 50, "quick",
        "CTGAN 1000-256-256-1 (pac 10 x 100 columns), LeakyReLU, dropout .5"),
    "amp": Workload(
        _mlp(60, 1024, 512, 1), (60,), 1024, 4096, "quick",
        "MLP 60-1024-512-1, ReLU"),
    "dcgan64": _dcgan64("dim 64, LeakyReLU, no norm", 256),
    "dcgan64-layernorm": _dcgan64("dim 64, LeakyReLU, LayerNorm (affine a channel)", 256, norm="layer"),
    "dcgan64-instancenorm": _dcgan64("dim 64, LeakyReLU, InstanceNorm (affine)", norm="instance"),
    "dcgan64-tanh": _dcgan64("dim 32, tanh, no norm", dim=32, activation="tanh"),
    "dcgan64-gated": _dcgan64(
        "dim 32, PixelCNN gate, LayerNorm", 256, preset="full", dim=32, activation="gate", norm="layer"),
    "mnist": Workload(
        critics.mnist, (1, 28, 28), 50, 50, "full",
        "MNIST convolutions dim 64, LeakyReLU",
        lambda: models.build("dcgan64-generator", size=28, channels=1, sigma=None)),
    "cifar": Workload(
        _cifar("dcgan64-critic"), IMAGE32, 64, 64, "full",
        "CIFAR convolutions dim 128, LeakyReLU", _cifar("dcgan64-generator")),
    "resnet64": Workload(
        critics.resnet64, IMAGE64, 16, 64, "full",
        "'Good' ResNet-64 dim {dim}, LayerNorm, ReLU", dims=(16, 64)),
    "resnet101": Workload(
        critics.resnet101, IMAGE64, 8, 64, "full",
        "ResNet-101 dim {dim}, bottleneck blocks, LayerNorm, ReLU", dims=(16, 64)),
    "spectral": Workload(
        critics.spectral, IMAGE32, 64, 64, "full",
        "convolutions 32 x 32 dim 64, LeakyReLU, spectral norm"),
    "attention": Workload(
        critics.attention, IMAGE32, 64, 64, "full",
        "convolutions 32 x 32 dim 64, LeakyReLU, self-attention at 8 x 8"),
    "audio": Workload(
        critics.audio, (1, 16384), 16, 64, "full",
        "WaveGAN 16,384 samples dim {dim}, 1-D convolutions of 25, LeakyReLU", dims=(8, 64)),
    "language": Workload(
        critics.language, (100, 32), 64, 64, "full",
        "language 32 x 100 characters dim {dim}, residual 1-D convolutions, ReLU", dims=(128, 512)),
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
