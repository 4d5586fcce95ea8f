"""What plans hold at a time: the simulation, the passes that lower the peak, and ``recompute=True``."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import zoo_deep  # noqa: F401 - fills ZOO
from paths import TESTS
from penalty_checks import build, points
from torch import Tensor, fx, nn
from zoo import ZOO

import wgangp_fast
from wgangp_fast.bench.critics import resnet64
from wgangp_fast.bench.memory import peak_bytes
from wgangp_fast.engine import plan
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.ir import Sweeps
from wgangp_fast.engine.passes import liveness as memory
from wgangp_fast.engine.passes import pipeline as run_passes
from wgangp_fast.engine.passes import rematerialize as remat
from wgangp_fast.engine.passes import reorder as reorder_for_peak_memory
from wgangp_fast.options import Options

MEBI = 1 << 20


def planned(critic: Any, x: Tensor, recompute: bool = False) -> plan.Plan:
    with torch.enable_grad():
        binding = capture.bind(critic, None, x.detach().requires_grad_())
        return plan.plan_of(binding.captured, False, None, Options(recompute))


def peak(critic: nn.Module, shape: tuple[int, ...], **options: Any) -> int:
    """Of the second penalty and its backward pass; the gradients count, as results."""
    real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])

    def once() -> None:
        critic.zero_grad()
        wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, **options).backward()

    once()
    critic.zero_grad()
    return peak_bytes(once)


def smooth(depth: int, width: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(width, width), nn.Tanh()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 1))


# the simulation -----------------------------------------------------------------------------------


def program_of(forward: Callable[[fx.Graph], Any], backward: Callable[[fx.Graph], Any], *inputs: Any) -> Any:
    """A program of two graphs written by hand."""
    graphs = []
    for write in (forward, backward):
        graph = fx.Graph()
        graph.output(write(graph))
        graphs.append(fx.GraphModule(nn.Module(), graph))
    return memory.JointGraph(Sweeps(graphs[0], graphs[1], (), False), inputs)


def test_a_view_keeps_all_of_its_base_alive() -> None:
    def forward(graph: fx.Graph) -> Any:
        x = graph.placeholder("x")
        base = graph.call_function(torch.exp, (x,))
        part = graph.call_function(torch.narrow, (base, 0, 0, 1))
        return graph.call_function(torch.sin, (x,)), part

    def backward(graph: fx.Graph) -> Any:
        seed, part = graph.placeholder("seed"), graph.placeholder("saved")
        return (graph.call_function(torch.mul, (seed, part)),)

    joint = program_of(forward, backward, torch.empty(64, 4))
    liveness = memory.Liveness(joint, lambda node: False)
    held = {node.name: liveness.held[node] for node in liveness.nodes}
    assert held["narrow"] == held["exp"]
    assert liveness.dies[held["exp"][0]] == liveness.place[joint.end.all_input_nodes[0]]
    # x, exp(x), sin(x) and the seed stand side by side.
    assert liveness.load[liveness.place[joint.boundary]] == 4 * 64 * 4 * 4
    joint.split()
    assert "narrow" in joint.sweeps.forward.code
    assert joint.sweeps.saved_is_tensor == (True,)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_simulated_peak_is_the_measured_one(recompute: bool) -> None:
    """In a process of its own, where nothing else allocates."""
    folders = [str(TESTS), str(Path(__file__).parent)]
    code = f"import sys; sys.path[:0] = {folders}; import test_memory; test_memory.compare_peaks({recompute})"
    subprocess.run([sys.executable, "-c", code], check=True)


def compare_peaks(recompute: bool) -> None:
    critic, shape = smooth(4, 256), (2048, 256)
    ready = planned(critic, torch.randn(shape), recompute)
    inputs = [torch.empty(shape), *critic.parameters()]
    joint = memory.JointGraph(ready.sweeps, inputs)
    simulated = memory.Liveness(joint, lambda node: False).peak
    measured = peak(critic, shape, recompute=recompute)
    assert abs(simulated - measured) <= 0.05 * measured + shape[0] * 256 * 4


# order and stand-ins ------------------------------------------------------------------------------


def test_a_call_that_reads_a_shape_alone_holds_nothing() -> None:
    def forward(graph: fx.Graph) -> Any:
        x = graph.placeholder("x")
        h = graph.call_function(torch.exp, (x,))
        return graph.call_function(torch.sin, (h,)), h

    def backward(graph: fx.Graph) -> Any:
        seed, h = graph.placeholder("seed"), graph.placeholder("saved")
        pooled = graph.call_function(torch.ops.aten.avg_pool2d.default, (seed, [2, 2]))
        back = torch.ops.aten.avg_pool2d_backward.default
        return (graph.call_function(back, (pooled, h, [2, 2], [], [0, 0], False, True, None)),)

    joint = program_of(forward, backward, torch.empty(2, 3, 8, 8))
    reorder_for_peak_memory.drop_shape_only_inputs(joint, lambda node: False)
    joint.split()
    assert joint.sweeps.saved_is_tensor == ()
    assert joint.sweeps.backward is not None
    assert joint.sweeps.backward(torch.ones(2, 3, 8, 8))[0].shape == (2, 3, 8, 8)


def test_large_weight_gradients_do_not_wait() -> None:
    """Their order is free; the sweeps write them where most else is alive."""

    def forward(graph: fx.Graph) -> Any:
        x = graph.placeholder("x")
        h = graph.call_function(torch.exp, (x,))
        return graph.call_function(torch.sin, (h,)), h

    def backward(graph: fx.Graph) -> Any:
        seed, h = graph.placeholder("seed"), graph.placeholder("saved")
        large = graph.call_method("expand", (seed, 50, 64))
        large = graph.call_function(torch.exp, (large,))
        chain = graph.call_function(torch.mul, (seed, h))
        for _ in range(3):
            chain = graph.call_function(torch.exp, (chain,))
        return large, chain

    joint = program_of(forward, backward, torch.empty(1, 64))
    before = memory.Liveness(joint, lambda node: False).peak
    reorder_for_peak_memory.reorder_for_peak_memory(joint, lambda node: False)
    after = memory.Liveness(joint, lambda node: False)
    assert after.peak < before
    assert after.nodes[-2].target is torch.exp
    assert after.held[after.nodes[-2]] == after.held[joint.end.args[0][0]]
    joint.graph.lint()


def test_nothing_moves_across_the_middle() -> None:
    critic = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 1)
    )
    for recompute in (False, True):
        sweeps = planned(critic, torch.randn(2, 3, 8, 8), recompute).sweeps
        assert sweeps.backward is not None
        for module in (sweeps.forward, sweeps.backward):
            module.graph.lint()
        assert next(iter(sweeps.backward.graph.nodes)).name == "seed"


# recompute=True -----------------------------------------------------------------------------------

#: every fifth critic, and those with draws, buffers, views, and sums of several paths
CHOSEN = sorted(
    {*list(ZOO)[::5]}
    | {
        name
        for name in ZOO
        if any(word in name.lower() for word in ("dropout", "spectral", "resid", "attention"))
    }
)


@pytest.mark.parametrize("name", CHOSEN)
def test_recomputed_gradients_are_the_same(name: str) -> None:
    entry, found = ZOO[name], {}
    real, fake, alpha = points(entry.shape)
    for recompute in (False, True):
        critic = build(entry.build)
        torch.manual_seed(3)
        penalty = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, recompute=recompute)
        penalty.backward(retain_graph=True)
        drawn = torch.rand(2)
        once = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
        critic.zero_grad()
        penalty.backward()  # nothing kept may have been written
        for p, q in zip(once, [p.grad for p in critic.parameters() if p.grad is not None]):
            assert torch.equal(p, q)
        found[recompute] = (penalty.detach(), drawn, once, [*map(torch.clone, critic.buffers())])
    for kept, again in zip(found[False][2], found[True][2]):
        scale = max(1.0, float(kept.abs().max())) if kept.numel() else 1.0
        torch.testing.assert_close(again, kept, rtol=0, atol=1e-12 * scale)
    assert torch.equal(found[False][0], found[True][0])
    assert torch.equal(found[False][1], found[True][1])  # as many random numbers
    for kept, again in zip(found[False][3], found[True][3]):
        assert torch.equal(kept, again)


def test_masks_are_drawn_once() -> None:
    critic = nn.Sequential(
        *(layer for _ in range(5) for layer in (nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.3)))
    )
    x, codes = torch.randn(512, 64), {}
    for recompute in (False, True):
        sweeps = planned(critic, x, recompute).sweeps
        assert sweeps.backward is not None
        codes[recompute] = sweeps.forward.code + sweeps.backward.code
    assert codes[True] != codes[False]
    assert codes[True].count("bernoulli") == codes[False].count("bernoulli") > 0


DEEP = {
    "tanh and layer norm": (lambda: smooth(8, 128), (4096, 128)),
    "residual blocks": (lambda: resnet64(8), (8, 3, 64, 64)),
    "piecewise linear": (
        lambda: nn.Sequential(
            *(
                layer
                for i in range(6)
                for layer in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.LeakyReLU(0.2))
            ),
            nn.Flatten(),
            nn.Linear(8 * 32 * 32, 1),
        ),
        (8, 3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", DEEP)
def test_recompute_lowers_the_peak_to_half_of_stock(name: str) -> None:
    make, shape = DEEP[name]
    critic = make()
    kept, again, stock = (
        peak(critic, shape, **options) for options in ({}, {"recompute": True}, {"impl": "ref"})
    )
    assert again < 0.9 * kept
    assert again <= 0.5 * stock


def test_the_budget_is_kept() -> None:
    critic, x = smooth(8, 128), torch.randn(4096, 128)
    costs = {}
    for recompute in (False, True):
        ready = planned(critic, x, recompute)
        joint = memory.JointGraph(ready.sweeps, [x, *critic.parameters()])
        costs[recompute] = remat.cost_of(joint)
    assert costs[False] < costs[True] <= (1 + remat.ASKED) * costs[False]


def test_an_operator_without_fake_values_keeps_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, shape = smooth(2, 8), (4, 8)
    expected = wgangp_fast.gradient_penalty(critic, torch.ones(shape), torch.zeros(shape))

    def refuse(*args: Any) -> None:
        raise memory.Unknown("a test")

    monkeypatch.setattr(memory, "JointGraph", refuse)
    found = wgangp_fast.gradient_penalty(copy.deepcopy(critic), torch.ones(shape), torch.zeros(shape))
    assert found.shape == expected.shape
    assert run_passes.memory.JointGraph is refuse
