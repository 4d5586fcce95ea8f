"""The two families of networks: multilayer perceptrons for points, DCGANs for square images."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from .blocks import down_conv, linear, norm_and_activation, up_conv, width_factor


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


class MLP(nn.Module):
    """ReLU perceptron ``[N, inputs] -> [N, outputs]``, or ``[N]`` for one output (a critic).

    Hidden layers are initialised after He, the last after Glorot (paper section 4; Gulrajani et al.,
    gan_toy.py).

    Args:
        inputs, outputs: features in and out.
        dim: width of the hidden layers.
        depth: number of hidden layers.
    """

    def __init__(self, inputs: int, outputs: int, *, dim: int = 512, depth: int = 3) -> None:
        super().__init__()
        widths = [inputs] + [dim] * depth
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [linear(a, b, he=True), nn.ReLU()]
        self.net = nn.Sequential(*layers, linear(widths[-1], outputs))
        self.scalar = outputs == 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)  # [N, outputs]
        return y.squeeze(1) if self.scalar else y


class ConvCritic(nn.Module):
    """DCGAN critic ``[N, channels, size, size] -> [N]`` (paper sections 7 and 15.2).

    ``depth`` stride-2 convolutions, the first with ``dim`` filters and each next with twice as many, no
    norm behind the first, then one linear layer to the score. No sigmoid.

    Args:
        channels, size: of the images; ``size`` must be divisible by ``2**depth``.
        dim: filters of the first layer, behind the activation.
        depth: number of convolutions; by default :func:`halvings` of ``size``.
        kernel: side of the convolutions, odd.
        norm: None, ``"layer"``, ``"instance"`` or ``"batch"`` (the last couples the samples of a batch,
            so it has no place under a gradient penalty).
        activation: ``"leaky_relu"`` (slope .2), ``"relu"``, ``"tanh"`` or ``"gate"``.
        sigma: deviation of all weights; None: He-type convolutions, Glorot's linear layer.

    Raises:
        ValueError: an unknown norm or activation, or a size that cannot be halved ``depth`` times.
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
    ) -> None:
        super().__init__()
        depth = halvings(size) if depth is None else depth
        _check_size(size, depth)
        factor = width_factor(activation)
        layers: list[nn.Module] = []
        inputs = channels
        for index in range(depth):
            outputs = dim * 2**index
            layers.append(down_conv(inputs, factor * outputs, kernel, sigma=sigma))
            layers += norm_and_activation(factor * outputs, norm if index else None, activation)
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.score = linear(inputs * (size // 2**depth) ** 2, 1, sigma=sigma)

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)  # [N, dim * 2^(depth-1), size / 2^depth, size / 2^depth]
        return self.score(h.flatten(1)).squeeze(1)


class ConvGenerator(nn.Module):
    """DCGAN generator ``[N, latent] -> [N, channels, size, size]`` in (-1, 1) (paper section 7).

    The mirror image of :class:`ConvCritic`: linear, ``depth`` stride-2 transposed convolutions, tanh.

    Args:
        latent: length of z.
        dim: channels in front of the last layer.
        norm: None, ``"batch"`` (statistics of the current batch, always), ``"layer"``, ``"instance"``.

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
    ) -> None:
        super().__init__()
        depth = halvings(size) if depth is None else depth
        _check_size(size, depth)
        factor = width_factor(activation)
        width, side = dim * 2 ** (depth - 1), size // 2**depth
        self.start = (factor * width, side, side)
        self.project = linear(latent, factor * width * side**2, sigma=sigma)
        layers = norm_and_activation(factor * width, norm, activation)
        for index in range(depth - 1):
            outputs = width // 2 ** (index + 1)
            layers.append(up_conv(2 * outputs, factor * outputs, kernel, sigma=sigma))
            layers += norm_and_activation(factor * outputs, norm, activation)
        self.layers = nn.Sequential(*layers, up_conv(dim, channels, kernel, sigma=sigma), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.project(z).unflatten(1, self.start))


def _check_size(size: int, depth: int) -> None:
    if depth < 1 or size % 2**depth:
        raise ValueError(
            f"size must be divisible by 2**depth with depth >= 1; got size {size}, depth {depth}"
        )
