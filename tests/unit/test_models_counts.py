"""The networks against the paper's tables, and the fast path under each critic."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast.training import models
from wgangp_fast.training.models.architectures import CHOICES
from wgangp_fast.training.models.residual import BottleneckBlock, ResidualBlock


def multiplications(network: nn.Module, *inputs: Tensor, part: nn.Module | None = None) -> int:
    """Multiply-adds of one sample, padding counted, in the layers of ``part`` when ``network`` runs."""
    total = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features
        elif isinstance(layer, nn.ConvTranspose2d):
            total += given[0][0].numel() * layer.out_channels * math.prod(layer.kernel_size)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            total += made[0].numel() * layer.in_channels * math.prod(layer.kernel_size)

    hooks = [layer.register_forward_hook(count) for layer in (network if part is None else part).modules()]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return total


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def inputs_of(name: str, batch: int, device: str, **settings: Any) -> list[Tensor]:
    """What the network called ``name`` takes: samples, or latents and, where it knows classes, labels."""
    about = models.info(name)
    found = {**about.defaults, **settings}
    if about.role == "generator":
        z = torch.randn(batch, found["latent"], device=device)
        return [z, torch.arange(batch, device=device)] if about.classes else [z]
    sides = {"points": (), "images": (found.get("size"),) * 2, "sequences": (found.get("size"),)}
    shape = (2,) if about.samples == "points" else (found["channels"], *sides[about.samples])
    return [torch.randn(batch, *shape, device=device)]


V = 77
COUNTS: list[tuple[str, dict[str, Any], int, int]] = [
    ("toy-critic", {}, 525_824, 527_361),
    ("toy-critic", {"dim": 1024, "depth": 2}, 1_051_648, 1_053_697),
    ("toy12-critic", {}, 2_885_120, 2_891_265),
    ("mnist-critic", {}, 23_460_096, 1_030_145),
    ("mnist32-critic", {}, 269_500_416, 10_511_105),
    ("cifar-critic", {}, 107_323_392, 4_114_689),
    ("cifar-critic", {"norm": "batch"}, 107_323_392, 4_116_225),
    ("cifar-critic", {"dim": 64}, 27_447_296, 1_033_345),
    ("cifar-resnet-critic", {}, 272_072_832, 1_053_825),
    ("cifar-resnet-acgan-critic", {}, 272_074_112, 1_055_115),
    ("dcgan64-critic", {}, 162_209_792, 4_314_753),
    ("dcgan64-critic", {"norm": "layer"}, 162_209_792, 4_316_545),
    ("dcgan64-critic", {"norm": "layer", "activation": "tanh"}, 162_209_792, 4_316_545),
    ("dcgan64-critic", {"norm": "layer", "dim": 128}, 638_992_384, 17_234_689),
    ("gated64-critic", {}, 324_411_392, 8_624_897),
    ("good64-critic", {}, 1_697_390_592, 7_491_841),
    ("good64-critic", {"dim": 128}, 6_775_390_208, 29_934_081),
    ("resnet101-critic", {}, 439_754_752, 7_618_801),
    ("fc64-critic", {}, 7_078_400, 7_080_449),
    ("language-critic", {"channels": V}, 419_446_784 + 16_384 * V, 13_129_217 + 512 * V),
    ("lsun128-critic", {}, 5_273_814_016, 47_757_697),
    ("toy-generator", {}, 526_336, 527_874),
    ("mnist-generator", {}, 23_980_288, 1_554_177),
    ("cifar-generator", {}, 108_363_776, 5_179_907),
    ("cifar-generator", {"dim": 64}, 27_967_488, 1_565_955),
    ("cifar-resnet-generator", {}, 422_182_912, 1_204_483),
    ("cifar-resnet-acgan-generator", {}, 422_182_912, 1_218_307),
    ("dcgan64-generator", {}, 163_250_176, 5_364_739),
    ("dcgan64-generator", {"norm": None}, 163_250_176, 5_362_819),
    ("crippled64-generator", {}, 39_452_672, 444_291),
    ("gated64-generator", {}, 321_585_152, 10_724_675),
    ("fc64-generator", {}, 7_143_424, 7_157_760),
    ("good64-generator", {}, 1_786_511_360, 8_540_483),
    ("resnet101-generator", {}, 465_960_960, 9_189_587),
    ("language-generator", {"channels": V}, 421_527_552 + 16_384 * V, 15_225_856 + 513 * V),
    ("lsun128-generator", {}, 1_858_076_672, 8_544_515),
]


@pytest.mark.parametrize(("name", "settings", "multiplied", "parameters"), COUNTS)
def test_counts_of_the_paper(name: str, settings: dict[str, Any], multiplied: int, parameters: int) -> None:
    with torch.device("meta"):  # shapes alone: these networks are large
        network = models.build(name, **settings)
    assert weights(network) == parameters
    assert multiplications(network, *inputs_of(name, 2, "meta", **settings)) == multiplied


def test_every_paper_network_is_counted() -> None:
    # Of the others the paper's tables have no totals.
    missing = set(models.names()) - {name for name, *_ in COUNTS}
    assert missing == {"digits-critic", "digits-generator", "mnist32-generator", "toy12-generator"}


@pytest.mark.parametrize(
    ("block", "inputs", "side", "parts"),
    [
        (ResidualBlock(64, 128, resample="down", norm="layer", bias=False), 64, 64,
            {"conv1": (150_994_944, 36_864), "conv2": (301_989_888, 73_856), "shortcut": (8_388_608, 8_320)}),
        (ResidualBlock(512, 512, resample="down", norm="layer", bias=False), 512, 8,
            {"conv1": (150_994_944, 2_359_296), "conv2": (150_994_944, 2_359_808),
             "shortcut": (4_194_304, 262_656)}),
        (ResidualBlock(3, 128, resample="down", first=True), 3, 32,
            {"conv1": (3_538_944, 3_584), "conv2": (150_994_944, 147_584), "shortcut": (98_304, 512)}),
        (ResidualBlock(128, 128, resample="down", pool_first=False), 128, 16,
            {"conv1": (37_748_736, 147_584), "conv2": (37_748_736, 147_584),
             "shortcut": (4_194_304, 16_512)}),
        (ResidualBlock(128, 128), 128, 8,
            {"conv1": (9_437_184, 147_584), "conv2": (9_437_184, 147_584), "shortcut": (0, 0)}),
        (ResidualBlock(128, 256, resample="down", strided=True), 128, 64,
            {"conv1": (603_979_776, 147_584), "conv2": (301_989_888, 295_168),
             "shortcut": (33_554_432, 33_024)}),
        (BottleneckBlock(64, 64), 64, 32, {"branch": (13_631_488, 13_376)}),
        (BottleneckBlock(64, 128, resample="down"), 64, 32,
            {"branch": (11_010_048 - 2_097_152, 37_088 - 8_320), "shortcut": (2_097_152, 8_320)}),
    ],
)  # fmt: skip
def test_blocks_have_the_layers_of_the_tables(
    block: nn.Module, inputs: int, side: int, parts: dict[str, tuple[int, int]]
) -> None:
    x = torch.randn(1, inputs, side, side, device="meta")
    block.to("meta")
    found = {}
    for name in parts:
        part = block.get_submodule(name)
        found[name] = (multiplications(block, x, part=part), weights(part))
    assert found == parts


SMALL: dict[str, dict[str, Any]] = {
    "toy-critic": {"dim": 8},
    "toy12-critic": {"dim": 8},
    "digits-critic": {"dim": 4},
    "mnist-critic": {"dim": 2},
    "mnist32-critic": {"dim": 2, "size": 16, "norm": "layer"},
    "cifar-critic": {"dim": 2, "size": 16, "activation": "shifted_softplus"},
    "cifar-resnet-critic": {"dim": 4, "size": 8},
    "cifar-resnet-acgan-critic": {"dim": 4, "size": 32},
    "dcgan64-critic": {"dim": 2, "size": 16, "norm": "layer", "padding": "same"},
    "gated64-critic": {"dim": 2, "size": 16},
    "good64-critic": {"dim": 4, "size": 8},
    "resnet101-critic": {"dim": 8, "size": 4, "blocks": 1},
    "fc64-critic": {"dim": 8, "size": 8},
    "lsun128-critic": {"dim": 4, "size": 32},
    "language-critic": {"dim": 8, "channels": 5, "size": 6, "depth": 2},
}


@pytest.mark.parametrize("name", [name for name in models.names() if name.endswith("critic")])
def test_critics_run_on_the_fast_path(name: str) -> None:
    settings = SMALL[name]
    critic = models.build(name, **settings).double()
    real, fake = (inputs_of(name, 3, "cpu", **settings)[0].double() for _ in range(2))
    alpha = torch.rand(3, dtype=torch.float64)
    output = (lambda y: y[0]) if models.info(name).classes else None
    with torch.no_grad():  # biases and norms start at 0 and 1, where mistakes hide
        for parameter in critic.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", wgangp_fast.StockPathWarning)
        for impl in ("auto", "ref"):
            loss = wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, impl=impl, output=output).loss
            gradients = torch.autograd.grad(loss, list(critic.parameters()), allow_unused=True)
            results.append((loss, gradients))
    (loss, gradients), (stock_loss, stock_gradients) = results
    torch.testing.assert_close(loss, stock_loss, rtol=1e-9, atol=1e-9)
    for mine, stock in zip(gradients, stock_gradients, strict=True):
        assert (mine is None) == (stock is None)
        if mine is not None:
            torch.testing.assert_close(mine, stock, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dim", "parameters"), [(32, 260_673), (64, 1_033_345), (128, 4_114_689)])
def test_random_critics_of_depth_four(dim: int, parameters: int) -> None:
    architecture = models.Architecture("relu", "tanh", 4, 4, False, False, dim, dim)
    assert weights(architecture.build_critic()) == parameters


@pytest.mark.parametrize("depth", [4, 8, 12, 20])
def test_depth_of_random_networks_counts_layers(depth: int) -> None:
    """Those beyond four are 3x3 of stride 1 with 2b channels at 8 x 8, followed by a norm each."""
    architecture = models.Architecture("relu", "tanh", depth, depth, True, True, 4, 4)
    for network, inputs, without_norm in (
        (architecture.build_critic("layer"), torch.randn(2, 3, 32, 32), 2),
        (architecture.build_generator(latent=5), torch.randn(2, 5), 1),
    ):
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
        assert len(layers) == depth
        seen: list[tuple[int, ...]] = []
        for layer in layers:
            if layer.weight.dim() == 4 and layer.kernel_size == (3, 3):
                layer.register_forward_hook(lambda layer, given, made, seen=seen: seen.append(made.shape[1:]))
        network(inputs)
        assert seen == [(8, 8, 8)] * (depth - 4)
        norms = [m for m in network.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))]
        assert len(norms) == depth - without_norm


def test_random_architectures_are_drawn_evenly_and_repeatably() -> None:
    assert math.prod(map(len, CHOICES.values())) == 9216
    assert models.random_architecture(7) == models.random_architecture(7)
    random = torch.Generator().manual_seed(7)
    drawn = [models.random_architecture(random) for _ in range(2000)]
    assert drawn[0] == models.random_architecture(7)
    assert len(set(drawn)) > 1500
    for name, choices in CHOICES.items():
        counts = Counter(getattr(architecture, name) for architecture in drawn)
        assert set(counts) == set(choices)
        for count in counts.values():  # five deviations of a binomial
            p = 1 / len(choices)
            assert abs(count - 2000 * p) < 5 * math.sqrt(2000 * p * (1 - p))
    for a, b in itertools.combinations(CHOICES, 2):  # no two settings go together
        assert len({(getattr(d, a), getattr(d, b)) for d in drawn}) == len(CHOICES[a]) * len(CHOICES[b])


@pytest.mark.parametrize("mine", ["generator", "critic"])
def test_settings_of_one_random_network_leave_the_other_alone(mine: str) -> None:
    base = models.Architecture("relu", "relu", 4, 4, False, False, 4, 4)
    more = {f"{mine}_activation": "tanh", f"{mine}_depth": 8, f"{mine}_norm": True, f"{mine}_dim": 8}
    changed = dataclasses.replace(base, **more)
    layouts = {
        role: [str(getattr(architecture, f"build_{role}")()) for architecture in (base, changed)]
        for role in ("generator", "critic")
    }
    for role, (before, after) in layouts.items():
        assert (before == after) == (role != mine)
    norm = {"generator": "BatchNorm2d", "critic": "GroupNorm"}[mine]
    before, after = layouts[mine]
    assert norm not in before
    assert (
        after.count(norm) == {"generator": 7, "critic": 6}[mine]
    )  # all but the last; nor the first of a critic
    assert "ReLU" not in after
