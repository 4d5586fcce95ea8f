"""Residual networks for images of Gulrajani et al. 2017: 64 x 64, CIFAR-10, 128 x 128.

``size`` is a multiple of 4; how many blocks resample follows from it (:func:`.blocks.halvings`), so that a
generator starts at a side of 4, or at an odd one. ``norm`` is None, ``"layer"``, ``"instance"`` or
``"batch"``; the last couples the samples of a batch, so a critic under a gradient penalty must not have it. A
generator's images are in (-1, 1).
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import capped_widths, conv, halvings, linear, make_norm
from .residual import BottleneckBlock, ResidualBlock


class GoodCritic(nn.Module):
    """``[N, channels, size, size] -> [N]``: 3x3 convolution, down blocks to a side of 4, linear (section 7).

    ``dim`` channels at first, twice as many after each block up to ``8 * dim``. No norm, no ReLU at the end.
    """

    def __init__(
        self, *, channels: int = 3, size: int = 64, dim: int = 64, norm: str | None = "layer"
    ) -> None:
        super().__init__()
        count = halvings(size)
        widths = capped_widths(dim, count)
        blocks = [ResidualBlock(a, b, resample="down", norm=norm, bias=False) for a, b in pairwise(widths)]
        self.features = nn.Sequential(conv(channels, dim, 3, he=False), *blocks)
        self.score = linear(widths[-1] * (size // 2**count) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.features(x).flatten(1)).squeeze(1)


class ResidualGenerator(nn.Module):
    """``[N, latent] -> [N, channels, size, size]``: linear, up blocks, norm, ReLU, convolution, tanh.

    With ``classes`` it takes ``(z [N, latent], labels [N] int64)``; labels choose scale and offset of every
    norm but the last.

    Args:
        dim: channels in front of the last layer.
        pyramid: channels halve from ``8 * dim`` on, else all layers have ``dim``.
        bias: of the first convolution of a block.
        late: the last doubling is nearest neighbours in front of the last convolution, not a block.
        kernel, he: side and initialisation of the last convolution.
        gain: factor on the initial weights of every convolution behind an up-sampling.
        classes: number of labels, or 0.
    """

    low = -1.0

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 64,
        norm: str | None = "batch",
        latent: int = 128,
        pyramid: bool = True,
        bias: bool = False,
        late: bool = False,
        kernel: int = 3,
        he: bool = True,
        gain: float = 1.0,
        classes: int = 0,
    ) -> None:
        super().__init__()
        doublings = halvings(size)
        count = doublings - late
        widths = capped_widths(dim, count)[::-1] if pyramid else [dim] * (count + 1)
        side = size // 2**doublings
        self.start, self.classes = (widths[0], side, side), classes
        self.project = linear(latent, widths[0] * side**2)
        self.blocks = nn.ModuleList(
            ResidualBlock(a, b, resample="up", norm=norm, bias=bias, gain=gain, classes=classes)
            for a, b in pairwise(widths)
        )
        self.end = nn.Sequential(
            make_norm(norm, dim),
            nn.ReLU(),
            nn.Upsample(scale_factor=2) if late else nn.Identity(),
            conv(dim, channels, kernel, he=he, gain=gain if late else 1.0),
            nn.Tanh(),
        )

    def forward(self, z: Tensor, *labels: Tensor) -> Tensor:
        h = self.project(z).unflatten(1, self.start)
        for block in self.blocks:
            h = block(h, *labels)
        return self.end(h)


class CifarCritic(nn.Module):
    """``[N, channels, size, size] -> [N]``: down blocks to a side of 8, two plain ones, ReLU, mean, linear.

    All blocks have ``dim`` channels; the first is that of an image (section 9). With ``classes``, the second
    head of an AC-GAN: the result is ``(scores [N], logits [N, classes])``.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 32,
        dim: int = 128,
        norm: str | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__()
        downs = ["down"] * (halvings(size) - 1)
        blocks = [ResidualBlock(channels, dim, resample="down", norm=norm, first=True)]
        for resample in (*downs[1:], None, None):
            blocks.append(ResidualBlock(dim, dim, resample=resample, norm=norm, pool_first=False))
        self.features = nn.Sequential(*blocks, nn.ReLU())
        self.score = linear(dim, 1)
        self.classify, self.classes = linear(dim, classes) if classes else None, classes

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        h = self.features(x).mean(dim=(2, 3))  # [N, dim]
        score = self.score(h).squeeze(1)
        return score if self.classify is None else (score, self.classify(h))


class Lsun128Critic(nn.Module):
    """``[N, channels, size, size] -> [N]``: strided 5x5, down blocks to a side of 8, two plain, mean, linear.

    ``dim`` channels at first, twice as many after each block up to ``8 * dim`` (section 10). Down blocks are
    strided in their second convolution. No norm and no ReLU at the end. ``padding`` as in :mod:`.blocks`.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 128,
        dim: int = 128,
        norm: str | None = "layer",
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        widths = capped_widths(dim, max(halvings(size) - 2, 0))
        last = widths[-1]
        blocks = [
            ResidualBlock(a, b, resample="down", norm=norm, strided=True, padding=padding)
            for a, b in pairwise(widths)
        ]
        blocks += [ResidualBlock(last, last, norm=norm) for _ in range(2)]
        self.features = nn.Sequential(conv(channels, dim, 5, stride=2, padding=padding), *blocks)
        self.score = linear(last, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.features(x).mean(dim=(2, 3))).squeeze(1)


OUTPUT_DIVISOR = 5.0  # of the 101-layer networks


class ResNet101Critic(nn.Module):
    """``[N, channels, size, size] -> [N]``: 1x1 convolution, bottleneck blocks, linear, over 5 (section 7).

    Stages of ``blocks`` blocks at every side from ``size`` to 4, one block less at the first, and a down
    block between stages that doubles the channels, which are ``dim / 2`` at first.

    Raises:
        ValueError: ``size`` or ``dim`` is no multiple of 4.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 64,
        norm: str | None = "layer",
        blocks: int = 6,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        plan = _stages(size, dim, blocks)
        layers = [
            BottleneckBlock(a, b, resample="down" if a != b else None, norm=norm, padding=padding)
            for a, b in pairwise(plan)
        ]
        self.features = nn.Sequential(conv(channels, plan[0], 1, he=False), *layers)
        self.score = linear(plan[-1] * (size // 2 ** halvings(size)) ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.features(x).flatten(1)).squeeze(1) / OUTPUT_DIVISOR


class ResNet101Generator(nn.Module):
    """``[N, latent] -> [N, channels, size, size]``: :class:`ResNet101Critic` mirrored; tanh of a fifth."""

    low = -1.0

    def __init__(
        self,
        *,
        channels: int = 3,
        size: int = 64,
        dim: int = 64,
        norm: str | None = "batch",
        blocks: int = 6,
        latent: int = 128,
        padding: str = "symmetric",
    ) -> None:
        super().__init__()
        plan = _stages(size, dim, blocks)[::-1]
        side = size // 2 ** halvings(size)
        self.start = (plan[0], side, side)
        self.project = linear(latent, plan[0] * side**2)
        layers = [
            BottleneckBlock(a, b, resample="up" if a != b else None, norm=norm, padding=padding)
            for a, b in pairwise(plan)
        ]
        self.layers = nn.Sequential(*layers, conv(plan[-1], channels, 1, he=False))

    def forward(self, z: Tensor) -> Tensor:
        return F.tanh(self.layers(self.project(z).unflatten(1, self.start)) / OUTPUT_DIVISOR)


def _stages(size: int, dim: int, blocks: int) -> list[int]:
    """Channels before and after each block, from the image on: the blocks where they change resample."""
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4; got {dim}")
    widths = [dim // 2 * 2**index for index in range(halvings(size) + 1)]
    return [widths[0]] * blocks + [width for width in widths[1:] for _ in range(blocks + 1)]
