"""Residual blocks: pre-activation, bottleneck and character blocks (Gulrajani et al. 2017, released code)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import conv, conv1d, make_norm, up_conv

RESIDUAL_SCALE = 0.3  # of bottleneck and character blocks


class ResidualBlock(nn.Module):
    """Pre-activation block ``[N, inputs, H, W] -> [N, outputs, H', W']``.

    (Norm, ReLU, 3x3 convolution) twice, plus a shortcut.
    ``resample="down"`` halves the side: the first convolution keeps the channels, the second is followed by
    a mean pool, the shortcut is a mean pool and a 1x1. ``"up"`` doubles it: nearest neighbours in front of
    the first convolution and of the shortcut's 1x1. None keeps it; the shortcut is then the identity, or a
    1x1 where the channels differ.

    Args:
        norm: None or ``"none"``, ``"layer"``, ``"instance"``, ``"batch"``.
        first: the block of an image: no norm, no first ReLU, and the first convolution widens.
        bias: of the first convolution; the others have one.
        strided: the second convolution has stride 2 in place of the mean pool.
        pool_first: whether the shortcut pools in front of its 1x1 or behind it: the same numbers, but for
            rounding, at four times the arithmetic.
        gain: factor on the initial weights of an up block's first convolution and shortcut.
        classes: how many :class:`~.blocks.ConditionalNorm` knows, whose labels ``[N]`` follow ``x``; or 0.
        padding: of a strided convolution (see :mod:`.blocks`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        resample: str | None = None,
        norm: str | None = None,
        first: bool = False,
        bias: bool = True,
        strided: bool = False,
        pool_first: bool = True,
        gain: float = 1.0,
        classes: int = 0,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        down, up = resample == "down", resample == "up"
        middle = inputs if down and not first else outputs
        self.first = first
        self.norm1 = make_norm(None if first else norm, inputs, classes)
        self.norm2 = make_norm(None if first else norm, middle, classes)
        self.before = nn.Upsample(scale_factor=2) if up else nn.Identity()
        self.conv1 = conv(inputs, middle, 3, bias=bias, gain=gain)
        self.conv2 = conv(middle, outputs, 3, stride=2 if strided else 1, padding=padding)
        self.after = nn.AvgPool2d(2) if down and not strided else nn.Identity()
        plain = inputs == outputs and resample is None
        steps: list[nn.Module] = [] if plain else [conv(inputs, outputs, 1, he=False, gain=gain)]
        if down:
            steps.insert(0 if pool_first else 1, nn.AvgPool2d(2))
        if up:
            steps.insert(0, nn.Upsample(scale_factor=2))
        self.shortcut = nn.Sequential(*steps)

    def forward(self, x: Tensor, *labels: Tensor) -> Tensor:
        h = x if self.first else F.relu(self.norm1(x, *labels))
        h = self.conv1(self.before(h))
        h = self.after(self.conv2(F.relu(self.norm2(h, *labels))))
        return self.shortcut(x) + h


class BottleneckBlock(nn.Module):
    """Block of the 101-layer networks, ``[N, inputs, H, W] -> [N, outputs, H', W']``.

    ReLU, 1x1, ReLU, 3x3, ReLU, 1x1 without bias, norm; shortcut + .3 of that. ``resample="down"``: the 3x3
    and the shortcut's 1x1 have stride 2. ``"up"``: the 3x3 is a transposed convolution of stride 2, the
    shortcut a 1x1 to four times the channels and a pixel shuffle, in PyTorch's order of channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        resample: str | None = None,
        norm: str | None = None,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        down, up = resample == "down", resample == "up"
        stride = 2 if down else 1
        middle: nn.Module
        if up:
            middle = up_conv(inputs // 2, outputs // 2, 3, padding=padding)
            steps: list[nn.Module] = [conv(inputs, 4 * outputs, 1, he=False), nn.PixelShuffle(2)]
        else:
            middle = conv(inputs // 2, outputs // 2, 3, stride=stride, padding=padding)
            plain = inputs == outputs and not down
            steps = [] if plain else [conv(inputs, outputs, 1, stride=stride, he=False, padding=padding)]
        self.branch = nn.Sequential(
            nn.ReLU(),
            conv(inputs, inputs // 2, 1),
            nn.ReLU(),
            middle,
            nn.ReLU(),
            conv(outputs // 2, outputs, 1, bias=False),
            make_norm(norm, outputs),
        )
        self.shortcut = nn.Sequential(*steps)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + RESIDUAL_SCALE * self.branch(x)


class CharacterBlock(nn.Module):
    """Block of the language networks, ``[N, C, L]`` unchanged: x + .3 (ReLU, conv 5, ReLU, conv 5)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (conv1d(channels, channels, 5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.conv2(F.relu(self.conv1(F.relu(x))))
