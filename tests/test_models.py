"""The networks: parameter counts of the paper, initialisation, what the blocks compute, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from wgangp_fast import models
from wgangp_fast.models.blocks import Gate, down_conv, linear, up_conv
from wgangp_fast.models.networks import halvings


def parameters(name: str, **settings: object) -> int:
    return sum(p.numel() for p in models.build(name, **settings).parameters())


@pytest.mark.parametrize(
    ("count", "name", "settings"),
    [
        (527_361, "toy-critic", {}),
        (1_053_697, "toy-critic", {"dim": 1024, "depth": 2}),
        (2_891_265, "toy-critic", {"depth": 12}),
        (527_874, "toy-generator", {}),
        (4_314_753, "dcgan64-critic", {}),
        (4_314_753, "dcgan64-critic", {"activation": "tanh"}),
        (4_316_545, "dcgan64-critic", {"norm": "layer"}),
        (17_234_689, "dcgan64-critic", {"norm": "layer", "dim": 128}),
        (8_624_897, "dcgan64-critic", {"norm": "layer", "activation": "gate"}),
        (4_114_689, "dcgan64-critic", {"size": 32, "dim": 128}),  # the CIFAR critic
        (5_364_739, "dcgan64-generator", {}),
        (5_362_819, "dcgan64-generator", {"norm": None}),
        (10_724_675, "dcgan64-generator", {"activation": "gate"}),
    ],
)
def test_parameter_counts_of_the_paper(count: int, name: str, settings: dict[str, object]) -> None:
    assert parameters(name, **settings) == count


@pytest.mark.parametrize("name", models.names())
def test_critics_score_what_generators_make(name: str) -> None:
    family, role = name.rsplit("-", 1)
    generator = models.build(f"{family}-generator", dim=8)
    critic = models.build(f"{family}-critic", dim=8)
    z = torch.randn(3, 2 if family == "toy" else 128)
    samples = generator(z)
    expected = {"toy": (3, 2), "digits": (3, 1, 8, 8), "dcgan64": (3, 3, 64, 64)}[family]
    assert samples.shape == expected
    scores = critic(samples)
    assert scores.shape == (3,)
    # A score is of its own sample alone: changing one sample moves that score only.
    changed = samples.clone()
    changed[1] += 1
    moved = critic(changed) != scores
    assert moved.tolist() == [False, True, False]
    if role == "generator" and family != "toy":
        assert samples.abs().max() <= 1


@pytest.mark.parametrize("norm", ["layer", "instance"])
def test_norms_do_not_couple_samples_and_follow_the_first_layer(norm: str) -> None:
    critic = models.build("dcgan64-critic", dim=4, norm=norm)
    kinds = [type(layer).__name__ for layer in critic.features]
    name = {"layer": "GroupNorm", "instance": "InstanceNorm2d"}[norm]
    assert kinds == ["Conv2d", "LeakyReLU"] + ["Conv2d", name, "LeakyReLU"] * 3
    x = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(critic(x)[:2], critic(x[:2]))


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
    ],
)
def test_initialisation(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, sigma: float) -> None:
    weight = layer.weight.detach()
    bound = math.sqrt(3) * sigma
    assert weight.abs().max() <= bound
    # 150,000 and more uniform numbers: their deviation and their largest are this close.
    assert weight.std().item() == pytest.approx(sigma, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.001)
    assert layer.bias is not None
    assert not layer.bias.any()


def test_dcgan64_weights_have_the_deviation_of_the_released_script() -> None:
    critic = models.build("dcgan64-critic")
    gated = models.build("dcgan64-critic", activation="gate")
    assert critic.features[2].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert gated.features[2].weight.std().item() == pytest.approx(
        math.sqrt(4 / (64 * 25 + 256 * 25 / 4)), rel=0.02
    )


@pytest.mark.parametrize(("size", "count"), [(8, 2), (16, 2), (28, 2), (32, 3), (64, 4), (128, 5)])
def test_halvings(size: int, count: int) -> None:
    assert halvings(size) == count


def test_the_same_seed_builds_the_same_network() -> None:
    torch.manual_seed(3)
    first = models.build("digits-critic")
    torch.manual_seed(3)
    second = models.build("digits-critic")
    third = models.build("digits-critic")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), third(x))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("dcgan65-critic", {}, "unknown model 'dcgan65-critic'; known: dcgan64-critic"),
        ("dcgan64-critic", {"norm": "spectral"}, "norm must be .*got 'spectral'"),
        ("dcgan64-critic", {"activation": "elu"}, "activation must be .*got 'elu'"),
        ("dcgan64-critic", {"size": 30}, "multiple of 4; got 30"),
        ("dcgan64-critic", {"size": 24, "depth": 4}, "divisible.*size 24, depth 4"),
    ],
)
def test_refusals(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.build(name, **settings)
