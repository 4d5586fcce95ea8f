"""The blocks: what they compute, how they start, how they pad."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from wgangp_fast.training import models
from wgangp_fast.training.models.blocks import (
    ConditionalNorm,
    Gate,
    ShiftedSoftplus,
    conv,
    conv1d,
    down_conv,
    halvings,
    linear,
    up_conv,
)
from wgangp_fast.training.models.residual import BottleneckBlock, CharacterBlock, ResidualBlock


def test_layer_norm_is_over_channels_and_pixels_with_an_affine_pair_per_channel() -> None:
    norm = models.build("dcgan64-critic", dim=4, norm="layer").features[3]
    x = torch.randn(5, 8, 6, 6) * 3 + 2
    with torch.no_grad():
        norm.weight.copy_(torch.randn(8))
        norm.bias.copy_(torch.randn(8))
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    variance = x.var(dim=(1, 2, 3), keepdim=True, correction=0)
    expected = (x - mean) / (variance + 1e-5).sqrt() * norm.weight.view(8, 1, 1) + norm.bias.view(8, 1, 1)
    torch.testing.assert_close(norm(x), expected)


def test_gate_takes_even_channels_for_the_sigmoid() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    expected = torch.tensor([[0.5 * math.tanh(1.0), math.tanh(-1.0) / (1 + math.exp(-2.0))]])
    torch.testing.assert_close(Gate()(x), expected)


@pytest.mark.parametrize(
    ("layer", "sigma"),
    [
        (linear(300, 500), math.sqrt(2 / 800)),
        (linear(300, 500, he=True), math.sqrt(2 / 300)),
        (linear(300, 500, sigma=0.02), 0.02),
        (down_conv(64, 128, 5), math.sqrt(4 / (64 * 25 + 128 * 25 / 4))),
        (up_conv(128, 64, 5), math.sqrt(4 / (128 * 25 / 4 + 64 * 25))),
        (up_conv(128, 64, 5, padding="same"), math.sqrt(4 / (128 * 25 / 4 + 64 * 25))),
        (down_conv(64, 128, 5, padding="same"), math.sqrt(4 / (64 * 25 + 128 * 25 / 4))),
        (conv(128, 256, 3), math.sqrt(4 / (384 * 9))),
        (conv(128, 256, 3, gain=0.5), math.sqrt(1 / (384 * 9))),
        (conv(512, 512, 1, he=False), math.sqrt(2 / 1024)),
        (conv(512, 512, 1, stride=2, he=False), math.sqrt(2 / (512 + 128))),
        (conv1d(256, 256, 5), math.sqrt(4 / (512 * 5))),
    ],
)
def test_initialisation(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Conv1d, sigma: float) -> None:
    weight = layer.weight.detach()
    bound = math.sqrt(3) * sigma
    assert weight.abs().max() <= bound
    # 150,000 and more uniform numbers: their deviation and their largest are this close.
    assert weight.std().item() == pytest.approx(sigma, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.001)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_same_padding_is_the_released_alignment() -> None:
    """Padding 1 in front and 2 behind for 5x5 on even sides, 2 and 2 where 7 becomes 4; 0 and 1 for 3x3."""
    for kernel, side, pads in ((5, 8, (1, 2, 1, 2)), (5, 7, (2, 2, 2, 2)), (3, 8, (0, 1, 0, 1))):
        layer = down_conv(2, 3, kernel, padding="same")
        x = torch.randn(2, 2, side, side)
        expected = F.conv2d(F.pad(x, pads), layer.weight, layer.bias, stride=2)
        torch.testing.assert_close(layer(x), expected)
        assert layer(x).shape == down_conv(2, 3, kernel)(x).shape
    for kernel, padding in ((5, 1), (3, 0)):
        up = up_conv(2, 3, kernel, padding="same")
        x = torch.randn(2, 2, 4, 4)
        whole = F.conv_transpose2d(x, up.weight, up.bias, stride=2, padding=padding)
        torch.testing.assert_close(up(x), whole[:, :, :8, :8])
        # It is the transpose of the convolution with the same weights, whose bias is 0.
        down = down_conv(3, 2, kernel, padding="same")
        down.weight.data = up.weight.data
        y = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close((up(x) * y).sum(), (x * down(y)).sum(), rtol=1e-4, atol=1e-4)


def upsampled(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


DOWN = ({}, {"first": True}, {"strided": True}, {"pool_first": False}, {"bias": False})


@pytest.mark.parametrize(
    ("resample", "options"), [(None, {}), ("up", {}), *(("down", options) for options in DOWN)]
)
def test_residual_block_computes_what_it_says(resample: str | None, options: dict[str, Any]) -> None:
    block = ResidualBlock(3, 4, resample=resample, norm="layer", **options)
    for parameter in block.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 3, 8, 8)
    first, strided = options.get("first", False), options.get("strided", False)
    h = x if first else F.relu(F.group_norm(x, 1, block.norm1.weight, block.norm1.bias))
    if resample == "up":
        h, shortcut = upsampled(h), upsampled(x)
    else:
        shortcut = F.avg_pool2d(x, 2) if resample == "down" else x
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.relu(h if first else F.group_norm(h, 1, block.norm2.weight, block.norm2.bias))
    h = F.conv2d(h, block.conv2.weight, block.conv2.bias, padding=1, stride=2 if strided else 1)
    if resample == "down" and not strided:
        h = F.avg_pool2d(h, 2)
    (one,) = (layer for layer in block.shortcut if isinstance(layer, nn.Conv2d))
    torch.testing.assert_close(block(x), h + F.conv2d(shortcut, one.weight, one.bias))
    channels = {None: 4, "down": 4 if first else 3, "up": 4}[resample]
    assert block.conv1.out_channels == channels


def test_other_blocks_compute_what_they_say() -> None:
    x = torch.randn(2, 8, 6, 6)
    plain = BottleneckBlock(8, 8, norm="layer")
    h = F.conv2d(F.relu(x), plain.branch[1].weight, plain.branch[1].bias)
    h = F.conv2d(F.relu(h), plain.branch[3].weight, plain.branch[3].bias, padding=1)
    h = F.group_norm(F.conv2d(F.relu(h), plain.branch[5].weight), 1)
    torch.testing.assert_close(plain(x), x + 0.3 * h)
    up = BottleneckBlock(8, 4, resample="up")
    h = up.branch(x)
    torch.testing.assert_close(up(x), F.pixel_shuffle(up.shortcut[0](x), 2) + 0.3 * h)
    assert h.shape == (2, 4, 12, 12)
    line = torch.randn(2, 3, 7)
    block = CharacterBlock(3)
    h = F.conv1d(F.relu(line), block.conv1.weight, block.conv1.bias, padding=2)
    h = F.conv1d(F.relu(h), block.conv2.weight, block.conv2.bias, padding=2)
    torch.testing.assert_close(block(line), line + 0.3 * h)


def test_shifted_softplus_is_the_papers() -> None:
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    torch.testing.assert_close(ShiftedSoftplus()(x), torch.log1p(torch.exp(2 * x + 2)) / 2 - 1)


def test_conditional_norm_looks_up_scale_and_offset_by_class() -> None:
    norm = ConditionalNorm("batch", 3, 4)
    for parameter in norm.parameters():
        parameter.data.normal_()
    x, labels = torch.randn(5, 3, 4, 4) * 2 + 1, torch.tensor([0, 3, 3, 1, 0])
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    scale, offset = norm.scale[labels].view(5, 3, 1, 1), norm.offset[labels].view(5, 3, 1, 1)
    expected = (x - mean) / (variance + 1e-5).sqrt() * scale + offset
    torch.testing.assert_close(norm(x, labels), expected)


@pytest.mark.parametrize(("size", "count"), [(8, 2), (16, 2), (28, 2), (32, 3), (64, 4), (128, 5)])
def test_halvings(size: int, count: int) -> None:
    assert halvings(size) == count
