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
