"""Multilayer perceptrons, for points and for images."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from .blocks import ACTIVATIONS, linear, width_factor


class MLP(nn.Module):
    """Perceptron ``[N, inputs] -> [N, outputs]``, or ``[N]`` for one output (a critic).

    Hidden layers are initialised after He, the last after Glorot (paper section 4; Gulrajani et al.,
    gan_toy.py).

    Args:
        inputs, outputs: features in and out.
        dim: width of the hidden layers, behind the activation.
        depth: number of hidden layers.
        activation: one of :data:`.blocks.ACTIVATIONS`.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self, inputs: int, outputs: int, *, dim: int = 512, depth: int = 3, activation: str = "relu"
    ) -> None:
        super().__init__()
        factor = width_factor(activation)
        widths = [inputs] + [dim] * depth
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [linear(a, factor * b, he=True), ACTIVATIONS[activation]()]
        self.net = nn.Sequential(*layers, linear(widths[-1], outputs))
        self.scalar = outputs == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)  # [N, outputs]
        return y.squeeze(1) if self.scalar else y


class PointCritic(MLP):
    """:class:`MLP` ``[N, 2] -> [N]``."""

    def __init__(self, *, dim: int = 512, depth: int = 3, activation: str = "relu") -> None:
        super().__init__(2, 1, dim=dim, depth=depth, activation=activation)


class PointGenerator(MLP):
    """:class:`MLP` ``[N, latent] -> [N, 2]``."""

    def __init__(self, *, latent: int = 2, dim: int = 512, depth: int = 3, activation: str = "relu") -> None:
        super().__init__(latent, 2, dim=dim, depth=depth, activation=activation)


class ImageMLPCritic(MLP):
    """:class:`MLP` on flat images, ``[N, channels, size, size] -> [N]``; depth counts hidden layers."""

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 512,
        depth: int = 4,
        activation: str = "leaky_relu",
    ) -> None:
        super().__init__(channels * size**2, 1, dim=dim, depth=depth, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class ImageMLPGenerator(MLP):
    """:class:`MLP` and tanh, ``[N, latent] -> [N, channels, size, size]`` in (-1, 1)."""

    low = -1.0

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 512,
        depth: int = 4,
        activation: str = "relu",
        latent: int = 128,
    ) -> None:
        sample = (channels, size, size)
        super().__init__(latent, math.prod(sample), dim=dim, depth=depth, activation=activation)
        self.sample = sample

    def forward(self, z: Tensor) -> Tensor:
        return self.net(z).tanh().unflatten(1, self.sample)
