"""Blocks that every network here is made of: initialisation, convolutions, norms, activations, sizes.

Sizes and initialisation follow the released code of Gulrajani et al. 2017. Layers of stride 2 use symmetric
padding by default, where that code (TensorFlow's "SAME") pads one row less in front: a shift by one pixel
with the same shapes, parameters and arithmetic, and one operator fewer in a layer. ``padding="same"`` is the
released code's own alignment, for weights that come from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2
PADDINGS = ("symmetric", "same")


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


class SameConv2d(nn.Conv2d):
    """A convolution that pads as TensorFlow's "SAME" does: ``ceil(side / stride)``, the odd row behind."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = (
            _same_pair(x.shape[axis], self.kernel_size[axis - 2], self.stride[axis - 2]) for axis in (2, 3)
        )
        return super().forward(F.pad(x, [*width, *height]))


def _same_pair(side: int, kernel: int, stride: int) -> tuple[int, int]:
    whole = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return whole // 2, whole - whole // 2


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The transpose of :class:`SameConv2d` of stride 2: ``[N, inputs, H, W] -> [N, outputs, 2H, 2W]``."""

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        height, width = x.shape[2:]
        return super().forward(x, output_size)[:, :, : 2 * height, : 2 * width]


def conv(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    bias: bool = True,
    he: bool = True,
    sigma: float | None = None,
    gain: float = 1.0,
    padding: str = "symmetric",
) -> nn.Conv2d:
    """Convolution ``[N, inputs, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]``; zero bias.

    Args:
        kernel: side, odd unless ``stride`` is 2.
        he: He-type deviation of the weights, else Glorot's.
        sigma: deviation of the weights instead of either.
        gain: factor on the deviation.
        padding: ``"symmetric"`` or ``"same"`` (see the module); they differ for ``stride`` 2 alone.
    """
    check_padding(padding)
    if padding == "same" and stride > 1:
        layer: nn.Conv2d = SameConv2d(inputs, outputs, kernel, stride, bias=bias)
    else:
        layer = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=bias)
    _draw(layer, he, sigma, gain)
    return layer


def down_conv(
    inputs: int, outputs: int, kernel: int, *, sigma: float | None = None, padding: str = "symmetric"
) -> nn.Conv2d:
    """Stride-2 :func:`conv`, ``[N, inputs, H, W] -> [N, outputs, H/2, W/2]``; odd sides are rounded up."""
    return conv(inputs, outputs, kernel, stride=2, sigma=sigma, padding=padding)


def up_conv(
    inputs: int, outputs: int, kernel: int, *, sigma: float | None = None, padding: str = "symmetric"
) -> nn.ConvTranspose2d:
    """Stride-2 transposed convolution, ``[N, inputs, H, W] -> [N, outputs, 2H, 2W]``; as :func:`conv`."""
    check_padding(padding)
    if padding == "same":
        layer: nn.ConvTranspose2d = SameConvTranspose2d(inputs, outputs, kernel, 2, (kernel - 2) // 2)
    else:
        layer = nn.ConvTranspose2d(inputs, outputs, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2)
    _draw(layer, True, sigma)
    return layer


def start_conv(latent: int, outputs: int, side: int, *, sigma: float | None = None) -> nn.Sequential:
    """``[N, latent] -> [N, outputs, side, side]``: a linear map whose bias is one number a channel."""
    layer = nn.ConvTranspose2d(latent, outputs, side)
    _draw(layer, True, sigma)
    return nn.Sequential(nn.Unflatten(1, (latent, 1, 1)), layer)


def conv1d(inputs: int, outputs: int, kernel: int) -> nn.Conv1d:
    """``[N, inputs, L] -> [N, outputs, L]``, He-type weights, zero bias; ``kernel`` is odd."""
    layer = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
    _draw(layer, True, None)
    return layer


def _draw(
    layer: nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d, he: bool, sigma: float | None, gain: float = 1.0
) -> None:
    """Draw the weights. A fan counts the taps that meet one input or output: a stride thins one of them."""
    if sigma is None:
        taps, strides = math.prod(layer.kernel_size), math.prod(layer.stride)
        fan_in, fan_out = layer.in_channels * taps, layer.out_channels * taps
        fans = fan_in / strides + fan_out if layer.transposed else fan_in + fan_out / strides
        sigma = math.sqrt((4 if he else 2) / fans)
    uniform_(layer.weight, gain * sigma)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check_padding(padding: str) -> None:
    """Raise ValueError unless ``padding`` is one of :data:`PADDINGS`."""
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {', '.join(map(repr, PADDINGS))}; got {padding!r}")


NORMS: dict[str, Callable[[int, bool], nn.Module]] = {
    # The paper's layer norm has one scale and one offset a channel over C, H, W: GroupNorm of one group.
    "layer": lambda channels, affine: nn.GroupNorm(1, channels, affine=affine),
    "instance": lambda channels, affine: nn.InstanceNorm2d(channels, affine=affine),
    # Batch statistics also when sampling, no moving averages, as in the paper's code.
    "batch": lambda channels, affine: nn.BatchNorm2d(channels, affine=affine, track_running_stats=False),
}


class ConditionalNorm(nn.Module):
    """A norm whose scale and offset are looked up by class: ``[N, C, H, W]``, labels ``[N]`` int64.

    Statistics are those of the plain norm, over all classes together.
    """

    def __init__(self, norm: str, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = NORMS[norm](channels, False)
        self.scale = nn.Parameter(torch.ones(classes, channels))
        self.offset = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, offset = self.scale[labels], self.offset[labels]  # [N, C] each
        return self.norm(x) * scale[:, :, None, None] + offset[:, :, None, None]


def make_norm(norm: str | None, channels: int, classes: int = 0) -> nn.Module:
    """The norm of ``channels`` channels; with ``classes``, a :class:`ConditionalNorm`; Identity for none.

    Raises:
        ValueError: an unknown ``norm``, or none where classes need one.
    """
    if norm in (None, "none"):
        if classes:
            raise ValueError(
                f"norm must be one of {', '.join(map(repr, NORMS))}, through which labels act; got {norm!r}"
            )
        return nn.Identity()
    if norm not in NORMS:
        raise ValueError(f"norm must be None or one of {', '.join(map(repr, NORMS))}; got {norm!r}")
    return ConditionalNorm(norm, channels, classes) if classes else NORMS[norm](channels, True)


class Gate(nn.Module):
    """The PixelCNN gate: ``[N, 2C, ...] -> [N, C, ...]``, sigmoid(even channels) * tanh(odd channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x[:, 0::2]) * torch.tanh(x[:, 1::2])


class ShiftedSoftplus(nn.Module):
    """``softplus(2x + 2) / 2 - 1``, the paper's smooth stand-in for ELU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x + 1, beta=2) - 1


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE),
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gate": Gate,
    "shifted_softplus": ShiftedSoftplus,
    "elu": nn.ELU,
}


def norm_and_activation(channels: int, norm: str | None, activation: str) -> list[nn.Module]:
    """The modules between two convolutions; ``channels`` counts what the convolution puts out.

    Raises:
        ValueError: an unknown ``norm`` or ``activation``; the message lists the known ones.
    """
    width_factor(activation)
    layer = make_norm(norm, channels)
    return [*([] if isinstance(layer, nn.Identity) else [layer]), ACTIVATIONS[activation]()]


def width_factor(activation: str) -> int:
    """Channels that a layer needs in front of ``activation`` for each one behind it: 2 for the gate."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}; got {activation!r}")
    return 2 if activation == "gate" else 1


def halvings(size: int) -> int:
    """How many stride-2 layers suit images of side ``size``: down to a side of 4, or odd, but two at least.

    64 gives 4, 32 gives 3, 28 gives 2 (a side of 7), 8 gives 2 (a side of 2).

    Raises:
        ValueError: ``size`` is no multiple of 4.
    """
    if size < 4 or size % 4:
        raise ValueError(f"size must be a multiple of 4; got {size}")
    count = 0
    while size % 2 == 0 and (size > 4 or count < 2):
        size, count = size // 2, count + 1
    return count


def capped_widths(dim: int, count: int) -> list[int]:
    """``dim`` times 1, 2, 4, 8, 8, ..., ``count + 1`` numbers: channels between ``count`` blocks."""
    return [dim * min(2**index, 8) for index in range(count + 1)]
