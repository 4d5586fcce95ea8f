"""Inception-v3 of 2015-12-05 without its weights: names, shapes, pooling, and a second network beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training.metrics import inception
from wgangp_fast.training.metrics.inception import FILE, Inception, Trunk
from wgangp_fast.training.metrics.quality import judge


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random ones that let signals through, with batch norms that do something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Trunk().state_dict().items() if value.dim()}
    found = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=generator)
        if name.endswith("conv.weight"):
            x *= (2 / shape[1:].numel()) ** 0.5
        elif name.endswith("running_var") or name.endswith("bn.weight"):
            x = 0.5 + torch.rand(shape, generator=generator)
        else:
            x *= 0.05
        found[name] = x
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("weights") / FILE
    torch.save(weights(), found)
    return found


@pytest.fixture(scope="module")
def network(path: Path) -> Inception:
    return Inception(path)


# The second network, written from the description of the layers, one function a block.


class Reference:
    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = {name: value.double() for name, value in state.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int | tuple[int, int] = 0) -> Tensor:
        w = self.state
        y = F.conv2d(x, w[f"{name}.conv.weight"], stride=stride, padding=padding)
        mean, var, scale, shift = (
            w[f"{name}.bn.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / (var + 0.001).sqrt() * scale + shift).clamp(min=0)

    def a(self, x: Tensor, n: str) -> Tensor:
        five = self.conv(self.conv(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", padding=2)
        three = self.conv(self.conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        three = self.conv(three, f"{n}.branch3x3dbl_3", padding=1)
        pool = self.conv(mean_of_existing(x), f"{n}.branch_pool")
        return torch.cat([self.conv(x, f"{n}.branch1x1"), five, three, pool], 1)

    def b(self, x: Tensor, n: str) -> Tensor:
        three = self.conv(self.conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        three = self.conv(three, f"{n}.branch3x3dbl_3", stride=2)
        return torch.cat([self.conv(x, f"{n}.branch3x3", stride=2), three, F.max_pool2d(x, 3, 2)], 1)

    def c(self, x: Tensor, n: str) -> Tensor:
        wide, high = (0, 3), (3, 0)
        seven = self.conv(self.conv(x, f"{n}.branch7x7_1"), f"{n}.branch7x7_2", padding=wide)
        seven = self.conv(seven, f"{n}.branch7x7_3", padding=high)
        double = self.conv(x, f"{n}.branch7x7dbl_1")
        for k, padding in ((2, high), (3, wide), (4, high), (5, wide)):
            double = self.conv(double, f"{n}.branch7x7dbl_{k}", padding=padding)
        pool = self.conv(mean_of_existing(x), f"{n}.branch_pool")
        return torch.cat([self.conv(x, f"{n}.branch1x1"), seven, double, pool], 1)

    def d(self, x: Tensor, n: str) -> Tensor:
        three = self.conv(self.conv(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2", stride=2)
        seven = self.conv(self.conv(x, f"{n}.branch7x7x3_1"), f"{n}.branch7x7x3_2", padding=(0, 3))
        seven = self.conv(seven, f"{n}.branch7x7x3_3", padding=(3, 0))
        seven = self.conv(seven, f"{n}.branch7x7x3_4", stride=2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def e(self, x: Tensor, n: str, pool: Callable[[Tensor], Tensor]) -> Tensor:
        three = self.conv(x, f"{n}.branch3x3_1")
        double = self.conv(self.conv(x, f"{n}.branch3x3dbl_1"), f"{n}.branch3x3dbl_2", padding=1)
        return torch.cat([
            self.conv(x, f"{n}.branch1x1"),
            self.conv(three, f"{n}.branch3x3_2a", padding=(0, 1)),
            self.conv(three, f"{n}.branch3x3_2b", padding=(1, 0)),
            self.conv(double, f"{n}.branch3x3dbl_3a", padding=(0, 1)),
            self.conv(double, f"{n}.branch3x3dbl_3b", padding=(1, 0)),
            self.conv(pool(x), f"{n}.branch_pool"),
        ], 1)  # fmt: skip

    def __call__(self, pixels: Tensor) -> Tensor:
        x = F.interpolate(pixels.double() / 255, (299, 299), mode="bilinear", align_corners=False)
        x = self.conv(2 * x - 1, "Conv2d_1a_3x3", stride=2)
        x = self.conv(self.conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", padding=1)
        x = self.conv(self.conv(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
        x = F.max_pool2d(x, 3, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.a(x, name)
        x = self.b(x, "Mixed_6a")
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.c(x, name)
        x = self.d(x, "Mixed_7a")
        x = self.e(x, "Mixed_7b", mean_of_existing)
        x = self.e(x, "Mixed_7c", largest_around)
        return x.mean((2, 3))


def neighbours(x: Tensor, outside: float) -> Tensor:
    """The 3 x 3 values around each pixel of ``x [N, C, H, W]``: ``[9, N, C, H, W]``."""
    high, wide = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), value=outside)
    return torch.stack([padded[:, :, i : i + high, j : j + wide] for i in range(3) for j in range(3)])


def mean_of_existing(x: Tensor) -> Tensor:
    return neighbours(x, 0.0).sum(0) / neighbours(torch.ones_like(x), 0.0).sum(0)


def largest_around(x: Tensor) -> Tensor:
    return neighbours(x, -torch.inf).amax(0)


def test_parameters_and_names() -> None:
    with torch.device("meta"):
        trunk = Trunk()
    counts = {name: value.numel() for name, value in trunk.named_parameters()}
    last = {name: counts.pop(name) for name in ("fc.weight", "fc.bias")}
    assert sum(counts.values()) == 21_785_568
    assert last == {"fc.weight": 2048 * 1008, "fc.bias": 1008}
    assert len([name for name in counts if name.endswith("conv.weight")]) == 94
    for name in (
        "Conv2d_1a_3x3.conv.weight", "Conv2d_4a_3x3.bn.bias", "Mixed_5b.branch1x1.bn.weight",
        "Mixed_5d.branch_pool.conv.weight", "Mixed_6a.branch3x3.conv.weight",
        "Mixed_6e.branch7x7dbl_5.bn.bias", "Mixed_7a.branch7x7x3_4.conv.weight",
        "Mixed_7c.branch3x3dbl_3b.conv.weight",
    ):  # fmt: skip
        assert name in counts


def test_features_are_those_of_the_second_network(network: Inception) -> None:
    pixels = torch.randint(0, 256, (1, 3, 40, 24), dtype=torch.uint8)
    features, probabilities = network(pixels)
    expected = Reference(weights())(pixels)
    assert features.shape == (1, 2048)
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(
        features.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )
    assert probabilities is not None
    logits = expected @ weights()["fc.weight"].double().T
    torch.testing.assert_close(probabilities.double(), logits.softmax(1), rtol=1e-2, atol=1e-6)


BLOCKS = {
    "Mixed_5b": (192, mean_of_existing),
    "Mixed_5d": (288, mean_of_existing),
    "Mixed_6b": (768, mean_of_existing),
    "Mixed_6e": (768, mean_of_existing),
    "Mixed_7b": (1280, mean_of_existing),
    "Mixed_7c": (2048, largest_around),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_pooling_at_the_borders(name: str, network: Inception) -> None:
    """The mean is of the pixels that exist, without the padding; the last block takes the largest."""
    inputs, pool = BLOCKS[name]
    x = 1 + torch.rand(1, inputs, 4, 5)
    block = network.network.get_submodule(name)
    pooled = block.get_submodule("branch_pool")
    expected = pooled(pool(x))
    found = block(x)[:, -expected.shape[1] :]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with_zeros = pooled(F.avg_pool2d(x, 3, 1, 1))
    assert not torch.allclose(found[..., 0, 0], with_zeros[..., 0, 0], rtol=1e-2, atol=1e-2)


def test_bias_is_left_out_unless_asked_for(path: Path, network: Inception) -> None:
    pixels = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    features, without = network(pixels)
    state = weights()
    logits = features @ state["fc.weight"].T
    with_bias = Inception(path, bias=True)
    torch.testing.assert_close(without, logits.softmax(1), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(
        with_bias(pixels)[1], (logits + state["fc.bias"]).softmax(1), rtol=1e-4, atol=1e-7
    )
    assert "with bias" in with_bias.name
    assert "bias" not in network.name


def test_grey_images_are_three_equal_channels(network: Inception) -> None:
    grey = torch.randint(0, 256, (1, 1, 10, 10), dtype=torch.uint8)
    assert torch.equal(network.features(grey), network.features(grey.expand(-1, 3, -1, -1)))
    for wrong in (grey.float(), grey.expand(-1, 2, -1, -1), grey[0]):
        with pytest.raises(ValueError):
            network(wrong)


def test_name_says_whose_weights(path: Path, network: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert f"sha256 {digest}, published 6726825d" in network.name
    assert not network.published
    monkeypatch.setattr(inception, "CHECKSUM", digest)
    assert Inception(path).name == "Inception-v3 of 2015-12-05"
    assert Inception(path).published


def test_only_its_distance_is_called_fid(network: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(images: Tensor) -> tuple[Tensor, Tensor]:
        features = images.flatten(1)[:, :5]
        return features, features.softmax(1)

    monkeypatch.setattr(network, "_outputs", outputs)
    monkeypatch.setattr(network, "published", True)
    real = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8)
    found = judge(real, real.flip(0), network)
    assert {"fid", "real_fid", "inception_score", "inception_score_std", "real_inception_score"} <= set(found)
    assert not [name for name in found if "frechet" in name or "type" in name]
    assert found["fid"] == pytest.approx(0, abs=1e-9)
    monkeypatch.setattr(network, "published", False)  # other weights of the same shapes are another extractor
    found = judge(real, real.flip(0), network)
    assert {"frechet_distance", "inception_type_score"} <= set(found)
    assert "fid" not in found


def test_files_with_counters_and_half_precision_are_read(tmp_path: Path, network: Inception) -> None:
    state: dict[str, Tensor] = {name: value.half() for name, value in weights().items()}
    counters = {name.replace("running_mean", "num_batches_tracked"): torch.tensor(7) for name in state}
    torch.save(state | {k: v for k, v in counters.items() if k not in state}, tmp_path / "half.pth")
    pixels = torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8)
    found = Inception(tmp_path / "half.pth").features(pixels)
    assert found.dtype == torch.float32
    assert float((found - network.features(pixels)).norm() / found.norm()) < 0.01


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights().items() if key != name}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no file"),
        (b"<!DOCTYPE html><html></html>", "not a file of weights"),
        (b"", "not a file of weights"),
        ([1, 2], "list"),
        ({"weights": 1}, "missing"),
        (
            lambda: without("Mixed_6c.branch7x7_2.conv.weight"),
            "1 of 472 tensors are missing, Mixed_6c.branch7x7_2",
        ),
        (
            lambda: weights() | {"fc.weight": torch.ones(1000, 2048)},
            "fc.weight is [1000, 2048] and should be [1008, 2048]",
        ),
        (lambda: weights() | {"fc.bias": "text"}, "missing"),
    ],
    ids=["absent", "html", "empty", "list", "other", "one short", "torchvision's", "text"],
)
def test_other_files_are_refused_in_one_line(content: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content() if callable(content) else content, path)
    with pytest.raises(UserError) as error:
        Inception(path)
    message = str(error.value)
    assert told in message
    assert str(path) in message
    assert FILE in message
    assert "\n" not in message
