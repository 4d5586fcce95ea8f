"""The DCGAN family: stride-2 convolutions down to a score, transposed ones up to an image."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from .blocks import (
    ACTIVATIONS,
    conv,
    down_conv,
    halvings,
    linear,
    norm_and_activation,
    start_conv,
    up_conv,
    width_factor,
)


class ConvCritic(nn.Module):
    """DCGAN critic ``[N, channels, size, size] -> [N]`` (paper sections 7 and 15.2).

    ``depth`` stride-2 convolutions, the first with ``dim`` filters and each next with twice as many, no
    norm behind the first, then one linear layer to the score. No sigmoid.

    Args:
        channels, size: of the images; ``size`` must be divisible by ``2**depth``.
        dim: filters of the first layer, behind the activation.
        depth: number of stride-2 convolutions; by default :func:`.blocks.halvings` of ``size``.
        kernel: side of the convolutions.
        norm: None, ``"layer"``, ``"instance"`` or ``"batch"`` (the last couples the samples of a batch,
            so it has no place under a gradient penalty).
        activation: ``"leaky_relu"`` (slope .2), ``"relu"``, ``"tanh"``, ``"gate"``, ``"elu"`` or
            ``"shifted_softplus"``.
        sigma: deviation of all weights; None: He-type convolutions, Glorot's linear layer.
        extra: 3x3 convolutions of stride 1, each with norm and activation, behind the last but one of the
            others (at 8 x 8 for 32 x 32 images).
        uneven: sides may become odd on the way and are rounded up: 28, 14, 7, 4. ``size`` must then be a
            multiple of 4.
        padding: ``"symmetric"`` or ``"same"`` (see :mod:`.blocks`).

    Raises:
        ValueError: an unknown name, or a size that cannot be halved ``depth`` times.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 64,
        depth: int | None = None,
        kernel: int = 5,
        norm: str | None = None,
        activation: str = "leaky_relu",
        sigma: float | None = None,
        extra: int = 0,
        uneven: bool = False,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        sides = _sides(size, depth, uneven, extra)
        depth = len(sides) - 1
        factor = width_factor(activation)
        layers: list[nn.Module] = []
        inputs = channels
        for index in range(depth):
            outputs = dim * 2**index
            layers.append(down_conv(inputs, factor * outputs, kernel, sigma=sigma, padding=padding))
            layers += norm_and_activation(factor * outputs, norm if index else None, activation)
            if index == depth - 2:
                layers += _extra(extra, outputs, norm, activation, sigma)
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.score = linear(inputs * sides[-1] ** 2, 1, sigma=sigma)

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)  # [N, dim * 2^(depth-1), size / 2^depth, size / 2^depth]
        return self.score(h.flatten(1)).squeeze(1)


class Crop(nn.Module):
    """``[N, C, H, W] -> [N, C, side, side]``, the first rows and columns."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self.side, : self.side]


OUTPUTS = {"tanh": (nn.Tanh, -1.0), "sigmoid": (nn.Sigmoid, 0.0)}
"""Last activation to its class and its lower bound; the upper one is 1."""


class ConvGenerator(nn.Module):
    """DCGAN generator ``[N, latent] -> [N, channels, size, size]`` (paper section 7).

    The mirror image of :class:`ConvCritic`: linear, ``depth`` stride-2 transposed convolutions. Attribute
    ``low`` is the lower bound of its images, whose upper bound is 1.

    Args:
        latent: length of z.
        dim: channels in front of the last layer.
        norm: None, ``"batch"`` (statistics of the current batch, always), ``"layer"``, ``"instance"``.
        extra: as in the critic, behind the first transposed convolution.
        uneven: images are cropped to the critic's sides on the way: 4, 8 cropped to 7, 14, 28.
        constant: every layer has ``dim`` channels, where otherwise they halve.
        flat_norm: batch norm of the linear layer is a feature's, not a channel's.
        project: ``"linear"``, or ``"conv"`` for a first layer whose bias is a channel's.
        output: ``"tanh"``, images in (-1, 1), or ``"sigmoid"``, images in (0, 1).

    The other arguments and errors are those of :class:`ConvCritic`.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 64,
        depth: int | None = None,
        kernel: int = 5,
        norm: str | None = "batch",
        activation: str = "relu",
        sigma: float | None = None,
        latent: int = 128,
        extra: int = 0,
        uneven: bool = False,
        constant: bool = False,
        flat_norm: bool = False,
        project: str = "linear",
        output: str = "tanh",
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        sides = _sides(size, depth, uneven, extra)[::-1]
        depth = len(sides) - 1
        factor = width_factor(activation)
        widths = [dim if constant else dim * 2 ** (depth - 1 - index) for index in range(depth)]
        if output not in OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(map(repr, OUTPUTS))}; got {output!r}")
        last, self.low = OUTPUTS[output]
        self.start = (factor * widths[0], sides[0], sides[0])
        self.project = _projection(project, latent, self.start, sigma)
        layers: list[nn.Module] = []
        if flat_norm and norm == "batch":
            features = math.prod(self.start)
            per_feature = nn.BatchNorm1d(features, track_running_stats=False)
            self.project = nn.Sequential(self.project, per_feature)
            layers.append(ACTIVATIONS[activation]())
        else:
            layers += norm_and_activation(self.start[0], norm, activation)
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            layers.append(up_conv(inputs, factor * outputs, kernel, sigma=sigma, padding=padding))
            layers += norm_and_activation(factor * outputs, norm, activation)
            if index == 0:
                layers += _extra(extra, outputs, norm, activation, sigma)
            layers += _crop(sides, index)
        layers.append(up_conv(widths[-1], channels, kernel, sigma=sigma, padding=padding))
        layers += _crop(sides, depth - 1)
        self.layers = nn.Sequential(*layers, last())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).reshape(-1, *self.start))


def _projection(kind: str, latent: int, start: tuple[int, int, int], sigma: float | None) -> nn.Module:
    if kind == "linear":
        return linear(latent, math.prod(start), sigma=sigma)
    if kind == "conv":
        return start_conv(latent, start[0], start[1], sigma=sigma)
    raise ValueError(f"project must be 'linear' or 'conv'; got {kind!r}")


def _crop(sides: list[int], index: int) -> list[nn.Module]:
    """What follows up-sampling from ``sides[index]``: a crop where the next side is odd."""
    return [] if sides[index + 1] == 2 * sides[index] else [Crop(sides[index + 1])]


def _extra(
    count: int, channels: int, norm: str | None, activation: str, sigma: float | None
) -> list[nn.Module]:
    factor = width_factor(activation)
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(conv(channels, factor * channels, 3, sigma=sigma))
        layers += norm_and_activation(factor * channels, norm, activation)
    return layers


def _sides(size: int, depth: int | None, uneven: bool, extra: int) -> list[int]:
    """Sides of the maps from ``size`` on, ``depth + 1`` of them, each half the one before, rounded up."""
    if depth is None or uneven:
        natural = halvings(size)  # refuses what is no multiple of 4
        depth = natural if depth is None else depth
    if depth < 1 or (size % 2**depth and not uneven):
        raise ValueError(
            f"size must be divisible by 2**depth with depth >= 1; got size {size}, depth {depth}"
        )
    if extra and depth < 2:
        raise ValueError(f"extra convolutions need a depth of 2 at least; got depth {depth}")
    return [math.ceil(size / 2**index) for index in range(depth + 1)]
