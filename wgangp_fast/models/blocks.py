"""Blocks that every network here is made of: initialisation, convolutions, norms, activations.

Sizes and initialisation follow the released code of Gulrajani et al. 2017. Convolutions use symmetric
padding where that code (TensorFlow "SAME") pads one row less in front and one more behind: a shift by
one pixel with the same shapes, parameters and arithmetic, and one operator fewer in a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

LEAKY_SLOPE = 0.2


def uniform_(weight: Tensor, sigma: float) -> None:
    """Fill ``weight`` in place from U(-sqrt(3) sigma, sqrt(3) sigma), whose deviation is ``sigma``."""
    bound = math.sqrt(3.0) * sigma
    nn.init.uniform_(weight, -bound, bound)


def linear(inputs: int, outputs: int, *, he: bool = False, sigma: float | None = None) -> nn.Linear:
    """``[N, inputs] -> [N, outputs]``; weights of deviation ``sigma``, else He's or Glorot's; zero bias."""
    layer = nn.Linear(inputs, outputs)
    if sigma is None:
        sigma = math.sqrt(2 / inputs) if he else math.sqrt(2 / (inputs + outputs))
    uniform_(layer.weight, sigma)
    nn.init.zeros_(layer.bias)
    return layer


def down_conv(inputs: int, outputs: int, kernel: int, *, sigma: float | None = None) -> nn.Conv2d:
    """Stride-2 convolution, ``[N, inputs, H, W] -> [N, outputs, H/2, W/2]``; ``kernel`` is odd."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2)
    if sigma is None:
        fan_in, fan_out = inputs * kernel**2, outputs * kernel**2 / 4
        sigma = math.sqrt(4 / (fan_in + fan_out))
    uniform_(layer.weight, sigma)
    nn.init.zeros_(_bias(layer))
    return layer


def up_conv(inputs: int, outputs: int, kernel: int, *, sigma: float | None = None) -> nn.ConvTranspose2d:
    """Stride-2 transposed convolution, ``[N, inputs, H, W] -> [N, outputs, 2H, 2W]``; ``kernel`` is odd."""
    layer = nn.ConvTranspose2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, output_padding=1)
    if sigma is None:
        fan_in, fan_out = inputs * kernel**2 / 4, outputs * kernel**2
        sigma = math.sqrt(4 / (fan_in + fan_out))
    uniform_(layer.weight, sigma)
    nn.init.zeros_(_bias(layer))
    return layer


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    assert layer.bias is not None  # these layers are always built with one
    return layer.bias


class Gate(nn.Module):
    """The PixelCNN gate: ``[N, 2C, ...] -> [N, C, ...]``, sigmoid(even channels) * tanh(odd channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x[:, 0::2]) * torch.tanh(x[:, 1::2])


NORMS: dict[str, Callable[[int], nn.Module]] = {
    # The paper's layer norm has one scale and one offset a channel over C, H, W: GroupNorm of one group.
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    # Batch statistics also when sampling, no moving averages, as in the paper's code.
    "batch": lambda channels: nn.BatchNorm2d(channels, track_running_stats=False),
}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gate": Gate,
}


def norm_and_activation(channels: int, norm: str | None, activation: str) -> list[nn.Module]:
    """The modules between two convolutions; ``channels`` counts what the convolution puts out.

    Raises:
        ValueError: an unknown ``norm`` or ``activation``; the message lists the known ones.
    """
    if norm in (None, "none"):
        layers = []
    elif norm in NORMS:
        layers = [NORMS[norm](channels)]
    else:
        raise ValueError(f"norm must be None or one of {', '.join(map(repr, NORMS))}; got {norm!r}")
    return [*layers, ACTIVATIONS[activation]()]


def width_factor(activation: str) -> int:
    """Channels that a layer needs in front of ``activation`` for each one behind it: 2 for the gate."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}; got {activation!r}")
    return 2 if activation == "gate" else 1
