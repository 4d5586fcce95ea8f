"""Critics that are measured but not trained by this package, so :mod:`wgangp_fast.models` lacks them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.blocks import LEAKY_SLOPE, down_conv, linear


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
    """``[N, 1, 28, 28] -> [N, 1]``: three stride-2 convolutions, 28 to 14 to 7 to 4 (paper section 11)."""
    layers: list[nn.Module] = []
    inputs = 1
    for outputs in (dim, 2 * dim, 4 * dim):
        layers += [down_conv(inputs, outputs, 5), nn.LeakyReLU(LEAKY_SLOPE)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Flatten(), linear(16 * inputs, 1))


class DownBlock(nn.Module):
    """Pre-activation residual block that halves the side (paper section 3.4, the 64 x 64 script).

    ``[N, inputs, H, W] -> [N, outputs, H/2, W/2]``: norm, ReLU, 3x3 without bias, norm, ReLU, 3x3 and mean
    pool; the shortcut is mean pool and 1x1. The norm is over C, H, W with a scale and offset a channel.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, inputs), nn.GroupNorm(1, inputs)
        self.conv1 = nn.Conv2d(inputs, inputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.norm1(x)))
        h = F.avg_pool2d(self.conv2(F.relu(self.norm2(h))), 2)
        return cast(Tensor, self.shortcut(F.avg_pool2d(x, 2)) + h)


def resnet64(dim: int = 64) -> nn.Module:
    """The "Good" critic, ``[N, 3, 64, 64] -> [N, 1]``: four down blocks (paper sections 3.4 and 15.2)."""
    widths = (dim, 2 * dim, 4 * dim, 8 * dim, 8 * dim)
    blocks = [DownBlock(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(
        nn.Conv2d(3, dim, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(16 * widths[-1], 1)
    )


class BottleneckBlock(nn.Module):
    """Residual block of the 101-layer critic (paper section 3.4): ``[N, a, H, W] -> [N, b, H', W']``.

    ReLU, 1x1, ReLU, 3x3 (stride 2 with ``down``), ReLU, 1x1 without bias, norm; shortcut + .3 of that. The
    shortcut is a 1x1 of the same stride where shapes differ.
    """

    def __init__(self, inputs: int, outputs: int, down: bool = False) -> None:
        super().__init__()
        stride = 2 if down else 1
        self.branch = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(inputs, inputs // 2, 1),
            nn.ReLU(),
            nn.Conv2d(inputs // 2, outputs // 2, 3, stride, 1),
            nn.ReLU(),
            nn.Conv2d(outputs // 2, outputs, 1, bias=False),
            nn.GroupNorm(1, outputs),
        )
        plain = inputs == outputs and not down
        self.shortcut = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.shortcut(x) + 0.3 * self.branch(x))


def resnet101(dim: int = 64) -> nn.Module:
    """The 101-layer critic, ``[N, 3, 64, 64] -> [N, 1]``: 33 bottleneck blocks (paper sections 3.4, 15.2)."""
    blocks: list[nn.Module] = [BottleneckBlock(dim // 2, dim // 2) for _ in range(5)]
    width = dim // 2
    for _ in range(4):
        blocks.append(BottleneckBlock(width, 2 * width, down=True))
        width *= 2
        blocks += [BottleneckBlock(width, width) for _ in range(6)]
    return nn.Sequential(nn.Conv2d(3, dim // 2, 1), *blocks, nn.Flatten(), nn.Linear(16 * width, 1))


class CharacterBlock(nn.Module):
    """Residual block of the language critic, ``[N, C, L]`` unchanged: x + .3 (ReLU, conv 5, ReLU, conv 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv1d(channels, channels, 5, padding=2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + 0.3 * self.conv2(F.relu(self.conv1(F.relu(x)))))


def language(dim: int = 512, characters: int = 100, length: int = 32) -> nn.Module:
    """The character critic, ``[N, characters, length] -> [N, 1]``: 1x1, five blocks, linear (section 12)."""
    blocks = [CharacterBlock(dim) for _ in range(5)]
    return nn.Sequential(nn.Conv1d(characters, dim, 1), *blocks, nn.Flatten(), nn.Linear(length * dim, 1))


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
