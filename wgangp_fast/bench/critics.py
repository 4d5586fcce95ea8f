"""Critics that are measured: those of ``training.models`` at a width, and others that it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..training import models
from ..training.models.blocks import LEAKY_SLOPE, down_conv, linear
from ..training.models.resnet import ResNet101Critic


def perceptron(
    widths: Sequence[int], hidden: Callable[[], list[nn.Module]] = lambda: [nn.ReLU()]
) -> nn.Module:
    """``[N, widths[0]] -> [N, widths[-1]]``; the modules of ``hidden()`` follow every hidden layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths[:-1]):
        layers += [nn.Linear(inputs, outputs), *hidden()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def ctgan(columns: int = 100, pac: int = 10) -> nn.Module:
    """CTGAN's critic on ``pac`` packed rows, ``[N, pac * columns] -> [N, 1]`` (Xu et al. 2019)."""
    return perceptron((pac * columns, 256, 256, 1), lambda: [nn.LeakyReLU(0.2), nn.Dropout(0.5)])


def mnist(dim: int = 64) -> nn.Module:
    """``[N, 1, 28, 28] -> [N]``: three stride-2 convolutions, 28 to 14 to 7 to 4 (paper section 11)."""
    return models.build("mnist-critic", dim=dim)


def resnet64(dim: int = 64) -> nn.Module:
    """The "Good" critic, ``[N, 3, 64, 64] -> [N]``: four down blocks, layer norm (paper section 7)."""
    return models.build("good64-critic", dim=dim)


def resnet101(dim: int = 64) -> nn.Module:
    """The 101-layer critic without its division by 5, ``[N, 3, 64, 64] -> [N, 1]`` (paper section 7)."""
    critic = ResNet101Critic(dim=dim)
    return nn.Sequential(critic.features, nn.Flatten(), critic.score)


def language(dim: int = 512, characters: int = 100, length: int = 32) -> nn.Module:
    """The character critic, ``[N, characters, length] -> [N]``: 1x1, five blocks, linear (section 12)."""
    return models.build("language-critic", dim=dim, channels=characters, size=length)


def audio(dim: int = 64, samples: int = 16384) -> nn.Module:
    """WaveGAN's critic, ``[N, 1, samples] -> [N, 1]``: five convolutions of 25 taps, stride 4 (Donahue 2019).

    Without its phase shuffle, which draws random shifts.
    """
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in (dim, 2 * dim, 4 * dim, 8 * dim, 16 * dim):
        layers += [nn.Conv1d(inputs, outputs, 25, 4, 11), nn.LeakyReLU(LEAKY_SLOPE)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * samples // 4**5, 1))


def spectral(dim: int = 64, size: int = 32) -> nn.Module:
    """``[N, 3, size, size] -> [N, 1]``: three convolutions and a linear layer, each spectrally normalised.

    Each forward pass in training mode makes one power iteration, which changes buffers.
    """
    normed = torch.nn.utils.parametrizations.spectral_norm
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (dim, 2 * dim, 4 * dim):
        layers += [normed(nn.Conv2d(inputs, outputs, 4, 2, 1)), nn.LeakyReLU(LEAKY_SLOPE)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), normed(nn.Linear(inputs * (size // 8) ** 2, 1)))


class SelfAttention(nn.Module):
    """Self-attention over the positions of a feature map (SAGAN, Zhang et al. 2018), shapes unchanged.

    ``[N, C, H, W]``: queries and keys of C/8 channels, softmax over the H*W keys, and a gain, here started
    at 1, not 0, so that the attention takes part in what is measured.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))  # [N, *, H*W]
        weights = torch.softmax(q.transpose(1, 2) @ k, dim=-1)  # [N, H*W queries, H*W keys]
        return x + self.gain * (v @ weights.transpose(1, 2)).view_as(x)


def attention(dim: int = 64) -> nn.Module:
    """``[N, 3, 32, 32] -> [N, 1]``: a convolutional critic with self-attention on its 8 x 8 map."""
    return nn.Sequential(
        down_conv(3, dim, 5),
        nn.LeakyReLU(LEAKY_SLOPE),
        down_conv(dim, 2 * dim, 5),
        nn.LeakyReLU(LEAKY_SLOPE),
        SelfAttention(2 * dim),
        down_conv(2 * dim, 4 * dim, 5),
        nn.LeakyReLU(LEAKY_SLOPE),
        nn.Flatten(),
        linear(64 * dim, 1),
    )
