"""The Inception-v3 whose features the FID is defined by (Heusel et al. 2017).

The weights are those of the TensorFlow graph of 2015-12-05, as pytorch-fid distributes them in
``pt_inception-2015-12-05-6726825d.pth``. That graph differs from torchvision's Inception-v3 in its pooling,
its last block and its 1008 classes, so other weights give other numbers.

The network is written here because torch-fidelity, pytorch-fid and (by way of the first) torchmetrics cannot
be imported without torchvision, even where a local file of weights is given. torchvision works only with the
torch that it was built for, which this package must not choose for its users.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wgangp_fast.errors import UserError

from . import weights
from .features import Network, Outputs

FILE = "pt_inception-2015-12-05-6726825d.pth"
CHECKSUM = "6726825d"  # how the sha256 of that file begins, which torch.hub puts into names
SIDE = 299
FEATURES, CLASSES = 2048, 1008
# A counter that evaluation never reads, and that old files lack.
IGNORED = ".num_batches_tracked"


class Inception(Network):
    """Inception-v3 of 2015-12-05: features ``[N, 2048]`` behind the last average pooling, 1008 probabilities.

    Images of 1 or 3 channels and any size are resized to 299 x 299, bilinear and without antialiasing, as
    pytorch-fid does.

    Args:
        path: the file of weights, see :data:`FILE`.
        device: where it runs.
        bias: whether the last layer's bias is added. Salimans et al. and Gulrajani et al. left it out of
            their inception scores.

    Attributes:
        published: whether the file is the published one, without which no number may be called FID.

    Raises:
        UserError: no such file, or its weights are of another network.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu", *, bias: bool = False) -> None:
        super().__init__(device)
        path = Path(path)
        found = weights.read(path, f"Inception weights ({FILE})")
        with torch.device("meta"):
            network = Trunk()
        wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(IGNORED)}
        fault = weights.misfit(found, wanted)
        if fault:
            raise UserError(f"{path} does not hold the weights of {FILE}: {fault}")
        network.load_state_dict({name: found[name].float() for name in wanted}, assign=True, strict=False)
        self.network = network.eval().requires_grad_(False).to(self.device)
        self.bias = bias
        digest = _digest(path)
        self.published = digest == CHECKSUM
        self.name = (
            "Inception-v3 of 2015-12-05"
            if self.published
            else f"Inception-v3 with the weights of {path.name} (sha256 {digest}, published {CHECKSUM})"
        )
        if bias:
            self.name += ", scores with bias"

    def _outputs(self, images: Tensor) -> Outputs:
        x = images.expand(-1, 3, -1, -1)
        x = 2 * F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        features = self.network(x)
        last = self.network.fc
        return features, F.linear(features, last.weight, last.bias if self.bias else None).softmax(1)


def _digest(path: Path) -> str:
    """The beginning of a file's sha256: names and shapes do not tell whose weights it holds."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[: len(CHECKSUM)]


class Conv(nn.Module):
    """Convolution without bias, batch norm with TensorFlow's epsilon, ReLU.

    Args:
        same: pad so that stride 1 keeps the size.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = True
    ) -> None:
        super().__init__()
        high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (high // 2, wide // 2) if same else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


# The graph averages over the pixels that exist, and its very last block takes the largest.
average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
largest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
halved = partial(F.max_pool2d, kernel_size=3, stride=2)

Step = tuple[str, int, int | tuple[int, int]]
"""A convolution: name, channels that it makes, kernel."""
WIDE, HIGH = (1, 7), (7, 1)


class Mixed(nn.Module):
    """Branches side by side, concatenated: chains of convolutions, then a pooling.

    Args:
        inputs: channels.
        chains: each from its first to its last convolution; the last two, where their names end in a and b,
            both take what the one before them made.
        pool: of the last branch. pooled: channels of the convolution behind it; 0: none.
        halve: the last convolution of each chain has stride 2 and no padding.
    """

    def __init__(
        self,
        inputs: int,
        chains: list[list[Step]],
        pool: Callable[[Tensor], Tensor],
        pooled: int = 0,
        *,
        halve: bool = False,
    ) -> None:
        super().__init__()
        self.pool, self.pooled = pool, bool(pooled)
        self.chains: list[tuple[list[str], list[str]]] = []
        for chain in chains:
            names = [name for name, _, _ in chain]
            ends = 2 if names[-1].endswith("b") else 1
            self.chains.append((names[:-ends], names[-ends:]))
            width = inputs
            for name, outputs, kernel in chain:
                last = halve and name == names[-1]
                self.add_module(name, Conv(width, outputs, kernel, 2 if last else 1, same=not last))
                width = width if name in names[-ends:] else outputs
        if pooled:
            self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain, ends in self.chains:
            y = x
            for name in chain:
                y = self.get_submodule(name)(y)
            found += [self.get_submodule(name)(y) for name in ends]
        y = self.pool(x)
        return torch.cat([*found, self.branch_pool(y) if self.pooled else y], 1)


def mixed_a(inputs: int, pooled: int) -> Mixed:
    return Mixed(inputs, [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ], average, pooled)  # fmt: skip


def mixed_b(inputs: int) -> Mixed:
    return Mixed(inputs, [
        [("branch3x3", 384, 3)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
    ], halved, halve=True)  # fmt: skip


def mixed_c(inputs: int, width: int) -> Mixed:
    return Mixed(inputs, [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", width, 1), ("branch7x7_2", width, WIDE), ("branch7x7_3", 192, HIGH)],
        [
            ("branch7x7dbl_1", width, 1), ("branch7x7dbl_2", width, HIGH), ("branch7x7dbl_3", width, WIDE),
            ("branch7x7dbl_4", width, HIGH), ("branch7x7dbl_5", 192, WIDE),
        ],
    ], average, 192)  # fmt: skip


def mixed_d(inputs: int) -> Mixed:
    return Mixed(inputs, [
        [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
        [
            ("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, WIDE), ("branch7x7x3_3", 192, HIGH),
            ("branch7x7x3_4", 192, 3),
        ],
    ], halved, halve=True)  # fmt: skip


def mixed_e(inputs: int, pool: Callable[[Tensor], Tensor]) -> Mixed:
    return Mixed(inputs, [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), ("branch3x3_2a", 384, (1, 3)), ("branch3x3_2b", 384, (3, 1))],
        [
            ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), ("branch3x3dbl_3a", 384, (1, 3)),
            ("branch3x3dbl_3b", 384, (3, 1)),
        ],
    ], pool, 192)  # fmt: skip


class Trunk(nn.Module):
    """The network under torchvision's names: images ``[N, 3, 299, 299]`` in [-1, 1] to ``[N, 2048]``.

    ``fc`` is the last layer, which its caller applies.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, same=False)
        self.Mixed_5b = mixed_a(192, 32)
        self.Mixed_5c = mixed_a(256, 64)
        self.Mixed_5d = mixed_a(288, 64)
        self.Mixed_6a = mixed_b(288)
        self.Mixed_6b = mixed_c(768, 128)
        self.Mixed_6c = mixed_c(768, 160)
        self.Mixed_6d = mixed_c(768, 160)
        self.Mixed_6e = mixed_c(768, 192)
        self.Mixed_7a = mixed_d(768)
        self.Mixed_7b = mixed_e(1280, average)
        self.Mixed_7c = mixed_e(2048, largest)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(halved(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(halved(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))
