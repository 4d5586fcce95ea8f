"""The floor's counts against counts by hand, its ways against each other, its sums. No time is asserted."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wgangp_fast import explain
from wgangp_fast.bench import critics, floor, library
from wgangp_fast.bench.counting import FORWARD, OF_A, OF_B, Count, Product, Unit
from wgangp_fast.errors import CaptureError
from wgangp_fast.training import models

CPU = torch.device("cpu")
N = 4


def counted(critic: nn.Module, shape: tuple[int, ...], loss: str = "penalty") -> Count:
    return floor.count_critic(critic, torch.zeros(N, *shape), loss)


def units(count: Count) -> list[dict[str, tuple[int, ...]]]:
    return [{unit.function: unit.multiples for unit in found} for _, _, found in count.products]


def mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    return critics.perceptron((3, 8, 8, 1), lambda: [activation()])


FIRST = {FORWARD: (1, 1), OF_A: (1,), OF_B: (1,)}  # and every other layer, if second order is zero
BENT = {FORWARD: (1, 1), OF_A: (1, 1), OF_B: (2,)}
STEP_FIRST = {FORWARD: (3, 1), OF_A: (1,), OF_B: (3,)}
STEP = {FORWARD: (3, 1), OF_A: (1, 2), OF_B: (3,)}
STEP_BENT = {FORWARD: (3, 1), OF_A: (1, 3), OF_B: (4,)}


@pytest.mark.parametrize(
    ("activation", "penalty", "step"),
    [
        (nn.ReLU, [FIRST, FIRST, FIRST], [STEP_FIRST, STEP, STEP]),
        # The adjoint begins at the last activation, in front of the last layer; x's own needs no gradient.
        (
            nn.Tanh,
            [BENT | {OF_A: (1,)}, BENT, FIRST],
            [STEP_BENT | {OF_A: (1,)}, STEP_BENT, STEP],
        ),
    ],
)
def test_units_of_an_mlp(activation: Any, penalty: Any, step: Any) -> None:
    critic = mlp(activation)
    assert units(counted(critic, (3,))) == penalty
    assert units(counted(critic, (3,), "critic_step")) == step


def test_units_and_shapes_of_a_dcgan() -> None:
    critic = models.build("dcgan64-critic", size=16, dim=4)
    count = counted(critic, (3, 16, 16))
    assert [str(p) for _, p, _ in count.products] == [
        "convolution 4x3x16x16 * 4x3x5x5 stride 2",
        "convolution 4x4x8x8 * 8x4x5x5 stride 2",
        "linear 4x128 * 1x128",
    ]
    flops = [2 * N * 4 * 64 * 75, 2 * N * 8 * 16 * 100, 2 * N * 128]
    assert [p.flops() for _, p, _ in count.products] == flops
    assert count.forward_flops == sum(flops)
    assert units(count) == [FIRST] * 3
    assert count.forward_units == 4
    joint = counted(critic, (3, 16, 16), "critic_step")
    assert units(joint) == [STEP_FIRST, STEP, STEP]
    assert joint.forward_units * sum(flops) == pytest.approx(10 * sum(flops) - 2 * flops[0])


def test_sweep_4_is_decided_a_layer() -> None:
    """One tanh in the middle: what lies behind it keeps four units."""
    layers = [
        nn.Linear(3, 8),
        nn.ReLU(),
        nn.Linear(8, 8),
        nn.Tanh(),
        nn.Linear(8, 8),
        nn.ReLU(),
        nn.Linear(8, 1),
    ]
    critic = nn.Sequential(*layers)
    count = counted(critic, (3,))
    assert units(count) == [BENT | {OF_A: (1,)}, BENT, FIRST, FIRST]
    rows = [row for row in explain(critic, torch.zeros(N, 3)).rows if row.op == "aten.linear.default"]
    assert [OF_B in found and found[OF_B] == (2,) for found in units(count)] == [row.sweep4 for row in rows]


def test_frozen_layers_need_no_weight_gradient_and_stop_the_adjoint() -> None:
    critic = mlp(nn.Tanh)
    critic[0].requires_grad_(False)
    assert units(counted(critic, (3,))) == [
        {FORWARD: (1, 1), OF_A: (1,)},
        {FORWARD: (1, 1), OF_A: (1,), OF_B: (2,)},
        FIRST,
    ]


def test_units_of_attention() -> None:
    """Scores q k: both factors move, and the softmax bends; weights v: nothing bends behind it."""
    count = counted(critics.attention(4), (3, 32, 32))
    bmm = [found for (_, p, _), found in zip(count.products, units(count)) if p.family == "bmm"]
    assert bmm == [
        {FORWARD: (1, 1, 1), OF_A: (1, 1, 1), OF_B: (1, 1, 1)},
        {FORWARD: (1, 1, 1), OF_A: (1, 1), OF_B: (1, 1)},
    ]


def test_spectral_norm_counts_its_power_iteration() -> None:
    count = counted(critics.spectral(2, 16), (3, 16, 16))
    found = [(str(p), {u.function for u in us}) for _, p, us in count.products if p.family == "mv"]
    assert found[:3] == [
        ("mv 2x48 * 48", {FORWARD}),
        ("mv 48x2 * 2", {FORWARD}),
        ("mv 2x48 * 48", {FORWARD, OF_A}),  # sigma = u^T W v
    ]


def test_bytes_of_an_activation() -> None:
    x, h = 4 * N * 3, 4 * N * 8
    ends = [3 * x, 2 * x]

    def linear(activation: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), activation, nn.Linear(8, 1))

    relu = [2 * h, 3 * h, 3 * h]  # primal, vjp, jvp: the mask is made of one more tensor
    assert counted(linear(nn.ReLU()), (3,)).transfers == ends + relu
    # tanh bends, but its output has no adjoint: curvature reads g, t, h and writes c
    assert counted(linear(nn.Tanh()), (3,)).transfers == [*ends, *relu, 4 * h]
    joint = counted(linear(nn.ReLU()), (3,), "critic_step").transfers
    assert joint == [*ends, 6 * h, 3 * h, 3 * h, 6 * h]
    joint = counted(linear(nn.Tanh()), (3,), "critic_step").transfers
    assert joint == [*ends, 6 * h, 3 * h, 3 * h, 6 * h, 4 * h]


def test_bytes_of_a_chain_that_bends_twice() -> None:
    x, h = 4 * N * 3, 4 * N * 8
    critic = mlp(nn.Tanh)
    first = [
        2 * h,
        3 * h,
        3 * h,
        3 * h,
        2 * h,
    ]  # sweep 4 reads c, h and writes c; curvature reads g and t too
    assert counted(critic, (3,)).transfers == [3 * x, 2 * x, *first, 2 * h, 3 * h, 3 * h, 4 * h]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        out: Tensor = self.c((h + self.b(h)).view(-1, 8))
        return out


def test_bytes_of_a_residual_block() -> None:
    """Two cotangents of h meet: two reads, one write; the sum itself costs sweeps 1 and 3, views nothing."""
    x, h = 4 * N * 3, 4 * N * 8
    assert counted(Residual(), (3,)).transfers == [3 * x, 2 * x, 3 * h, 3 * h, 3 * h]
    joint = counted(Residual(), (3,), "critic_step").transfers
    assert joint == [3 * x, 2 * x, 3 * h, 6 * h, 9 * h, 3 * h]


def test_dropout_draws_for_each_batch() -> None:
    critic = critics.perceptron((3, 8, 1), lambda: [nn.Dropout(0.5)])
    assert counted(critic, (3,)).draws == [N * 8]
    assert counted(critic, (3,), "critic_step").draws == [N * 8] * 3


def test_unknown_loss() -> None:
    with pytest.raises(ValueError, match="penalty, critic_step; got 'r1'"):
        counted(mlp(nn.ReLU), (3,), "r1")


def test_times() -> None:
    conv = Product("convolution", (2, 3, 8, 8), (4, 3, 3, 3), (2, 4, 6, 6), "a", ((1, 1),) * 3)
    assert conv.times(3) == Product(
        "convolution", (6, 3, 8, 8), (4, 3, 3, 3), (6, 4, 6, 6), "a", ((1, 1),) * 3
    )
    both = Product("bmm", (2, 3, 5), (2, 5, 7), (2, 3, 7), "ab").times(2)
    assert both == Product("bmm", (4, 3, 5), (4, 5, 7), (4, 3, 7), "ab")
    left = Product("bmm", (2, 3, 5), (2, 5, 7), (2, 3, 7), "a").times(2)
    assert left == Product("bmm", (2, 6, 5), (2, 5, 7), (2, 6, 7), "a")
    right = Product("mm", (3, 5), (5, 7), (3, 7), "b").times(2)
    assert right == Product("mm", (3, 5), (5, 14), (3, 14), "b")
    assert Product("mm", (3, 5), (5, 7), (3, 7), "ab").times(2) is None
    still = Product("mv", (3, 5), (5,), (3,), "")
    assert still.times(3) is still


PLAIN = ((2, 2), (2, 2), (1, 1), False, (0, 0), 1)
PRODUCTS = [
    Product("linear", (6, 5), (7, 5), (6, 7), "a"),
    Product("mm", (6, 5), (5, 7), (6, 7), "a"),
    Product("bmm", (3, 6, 5), (3, 5, 7), (3, 6, 7), "ab"),
    Product("mv", (6, 5), (5,), (6,), "a"),
    Product("convolution", (2, 3, 8, 8), (4, 3, 5, 5), (2, 4, 4, 4), "a", PLAIN),
    Product("convolution", (2, 4, 9), (6, 2, 3), (2, 6, 4), "a", ((2,), (0,), (1,), False, (0,), 2)),
    Product("convolution", (2, 3, 4, 4), (3, 5, 4, 4), (2, 5, 8, 8), "a",
            ((2, 2), (1, 1), (1, 1), True, (0, 0), 1)),
]  # fmt: skip


@pytest.mark.parametrize("function", [FORWARD, OF_A, OF_B])
@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_all_ways_give_the_same(product: Product, function: str) -> None:
    """The same numbers, so the same shapes; and they are the derivatives of the forward product."""
    torch.manual_seed(0)
    calls = library.ways(product, function, CPU)
    found = {name: call() for name, call in calls.items()}
    first = next(iter(found.values()))
    shape = {FORWARD: product.y, OF_A: product.a, OF_B: product.b}[function]
    assert tuple(first.shape) == shape
    for result in found.values():
        torch.testing.assert_close(result, first, rtol=1e-4, atol=1e-5)
    if product.family == "convolution" and len(product.a) == 4 and not product.geometry[3]:
        assert {"contiguous", "channels_last", "unfold + mm"} <= set(found)


@pytest.mark.parametrize("product", PRODUCTS, ids=str)
def test_ways_are_transposes(product: Product) -> None:
    """``<y, g> = <a, gradient a> = <b, gradient b>`` for the tensors that all three functions draw."""
    inner = []
    for function in (FORWARD, OF_A, OF_B):
        torch.manual_seed(0)
        result = next(iter(library.ways(product, function, CPU, torch.float64).values()))()
        torch.manual_seed(0)
        a, b, g = (
            torch.rand(shape, dtype=torch.float64).sub_(0.5) for shape in (product.a, product.b, product.y)
        )
        inner.append((result * {FORWARD: g, OF_A: a, OF_B: b}[function]).sum().item())
    assert inner[1] == pytest.approx(inner[0])
    assert inner[2] == pytest.approx(inner[0])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call takes as many seconds as its product has batches of one sample; "mm" is the fast way."""

    def sample(run: Callable[[], Any], calls: int, device: torch.device) -> float:
        result = run()
        return float(result.numel())

    monkeypatch.setattr(floor, "sample", sample)


def test_the_sum(clock: None) -> None:
    critic = mlp(nn.Tanh)
    found = floor.Floor(critic, torch.zeros(N, 3), "critic_step")
    for _ in range(3):
        found.take()
    result = found.result()
    # Results: forward 4N*8 and 4N*8 and 4N, gradient a: N*3, 4N*8, 3N*8; gradient b: one of 4N.
    forward, inputs, weights = [4 * N * 8, 4 * N * 8, 4 * N], [N * 3, 4 * N * 8, 3 * N * 8], [3 * 8, 64, 8]
    seconds = [sum(values) for values in zip(forward, inputs, weights, strict=True)]
    assert [entry["seconds"] for entry in result["per_product"]] == seconds
    assert result["products_s"] == sum(seconds)
    sizes = found.count.transfers
    about = [max(floor.LEAST_COPY, 2 ** math.ceil(math.log2(size))) for size in sizes]
    copies = [size / power * (power // 8) for size, power in zip(sizes, about, strict=True)]
    assert result["bytes_s"] == pytest.approx(sum(copies))
    assert result["seconds"] == pytest.approx(sum(seconds) + sum(copies))
    assert {len(entry["seconds"]) >= floor.LEAST_SAMPLES for entry in result["samples"]} == {True}
    shares = floor.shares(result, {"median_s": 2 * result["seconds"]})
    assert shares["share_of_floor"] == 0.5
    assert shares["share_of_products"] == pytest.approx(result["products_s"] / result["seconds"] / 2)


def test_one_call_or_several_whichever_is_faster(clock: None, monkeypatch: pytest.MonkeyPatch) -> None:
    critic, x = mlp(nn.Tanh), torch.zeros(N, 3)
    product = Product("linear", (N, 8), (8, 8), (N, 8), "a")
    found = floor.Floor(critic, x, "penalty")
    ((call, times),) = found._calls(product, Unit(OF_B, (2,)))
    assert (times, call) == (1, found.calls[product.times(2), OF_B])  # one pass over the weights
    monkeypatch.setattr(floor, "sample", lambda run, calls, device: float(run().numel() ** 2))
    apart = floor.Floor(critic, x, "penalty")
    ((call, times),) = apart._calls(product, Unit(FORWARD, (3,)))
    assert (times, call) == (3, apart.calls[product, FORWARD])


def test_the_median_counts_and_the_choice_is_kept(clock: None) -> None:
    choices: floor.Choices = {}
    critic, x = mlp(nn.ReLU), torch.zeros(N, 3)
    found = floor.Floor(critic, x, "penalty", choices)
    call = next(iter(found.calls.values()))
    call.seconds = [1.0, 2.0, 2.0, 3.0, 90.0, 3.0, 3.0]
    assert call.median() == statistics.median(call.seconds) == 3.0
    key = next(key for key in choices if isinstance(key[0], Product) and key[1] == OF_B)
    choices[key] = "mm, transposed"
    again = floor.Floor(critic, x, "penalty", choices)
    assert again.calls[key[:2]].way == "mm, transposed"


def test_a_real_floor_is_ready_for_json() -> None:
    critic = critics.attention(4)
    found = floor.Floor(critic, torch.randn(2, 3, 32, 32), "penalty")
    found.take()
    result = json.loads(json.dumps(found.result(), allow_nan=False))
    assert result["seconds"] > 0
    assert result["forward_units"] == pytest.approx(found.count.forward_units)
    assert len(result["per_product"]) == len(found.count.products)


def test_a_critic_without_a_graph() -> None:
    class Opaque(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            return x.sum(1)

    with pytest.raises(CaptureError):
        floor.count_critic(Opaque(), torch.zeros(N, 3), "penalty")
