"""Executors of plans: the same numbers from Python, Inductor and (emulated) CUDA graphs, and what runs."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graph_emulation import EmulatedCapture, Recorder, capturing
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import BackendError, checks
from wgangp_fast.cuda_graphs import capture as cudagraph
from wgangp_fast.engine import executors as engine
from wgangp_fast.engine.capture import dynamo
from wgangp_fast.engine.executors import Report
from wgangp_fast.engine.plan import Plan

BATCH = 5
COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "c++", "clang++"))

CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1)
        ),
        (3,),
    ),
    "convolution and norm": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, 2, 1)),
            *(nn.LayerNorm([3, 2, 2]), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1)),
        ),
        (2, 8, 8),
    ),
    # A random mask, and an operator of the generic rule, which calls autograd within a sweep.
    "dropout, generic rule": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Mish(), nn.Linear(8, 1)),
        (3,),
    ),
}


def build(name: str) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    build, shape = CRITICS[name]
    critic = build().double()
    real, fake = torch.randn(2, BATCH, *shape, dtype=torch.float64)
    return critic, real, fake, torch.rand(BATCH, dtype=torch.float64)


def plans(critic: nn.Module, executor: str) -> list[Plan]:
    """The plans of a critic that run so."""
    made = [reference() for kind in dynamo.entry(critic).kinds.values() for reference in kind.made]
    found = [plan for captured in made if captured is not None for plan in captured.plans.values()]
    return [plan for plan in found if plan.options.executor == executor]


def found(critic: nn.Module, call: Callable[[], Tensor]) -> list[Tensor]:
    """Value and gradients; the same masks at every call."""
    torch.manual_seed(3)
    critic.zero_grad()
    value = call()
    value.backward()
    return [value.detach(), *(p.grad.clone() for p in critic.parameters() if p.grad is not None)]


def assert_close(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert (x - y).abs().max() <= 1e-9 * y.abs().max().clamp(min=1e-3)


@pytest.mark.skipif(not COMPILER, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize(
    ("name", "whole"), [("mlp", True), ("convolution and norm", False), ("dropout, generic rule", False)]
)
def test_inductor_has_the_numbers_of_stock(name: str, whole: bool) -> None:
    critic, real, fake, alpha = build(name)

    def call(**options: Any) -> Tensor:
        if whole:
            return wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, **options).loss
        return wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, **options)

    results = [found(critic, lambda: call(executor="inductor")) for _ in range(2)]
    (plan,) = plans(critic, "inductor")
    assert str(plan.executor) == "inductor"
    assert plan.executor.runs == "inductor"
    expected = found(critic, call) if "dropout" in name else found(critic, lambda: call(impl="ref"))
    for result in results:
        assert_close(result, [*expected, *result[len(expected) :]])
        assert all(not rest.any() for rest in result[len(expected) :])  # None by stock, zeros by the engine


def test_what_inductor_cannot_compile_runs_as_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(engine, "_inductor", broken)
    critic, real, fake, alpha = build("mlp")
    result = found(
        critic,
        lambda: wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, executor="inductor").loss,
    )
    assert_close(result, found(critic, lambda: wgangp_fast.critic_loss(critic, real, fake, alpha=alpha).loss))
    explained = wgangp_fast.explain(critic, real, executor="inductor", loss=True)
    reason = "eager (inductor was asked for: RuntimeError: no compiler here)"
    assert explained.executor == reason
    assert f"executor: {reason}" in str(explained)
    choice = wgangp_fast.choose_executor(critic, real, rounds=3)
    assert (choice.name, choice.refused["inductor"]) == ("eager", reason)
    assert "needs tensors on a CUDA device" in choice.refused["graph"]
    assert choice.seconds.keys() == {"eager"}
    assert [line.split()[0] for line in str(choice).splitlines()] == ["eager", "inductor", "graph"]


def test_compiled_variants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that changes at every call must not be compiled for ever."""
    made = []

    def fake_inductor(module: Any, flat: list[Any], spec: Any) -> Any:
        made.append(flat)
        return lambda values: (module, values)

    monkeypatch.setattr(engine, "_inductor", fake_inductor)
    monkeypatch.setattr(engine, "_plain", lambda module, kernels: "compiled")
    report = Report("inductor")
    half = engine._Compiled(torch.fx.GraphModule({}, torch.fx.Graph()), None, lambda *a: "eager", report)
    x = torch.ones(2, 3)
    assert half(x, 1.0) == ("compiled", [x, 1.0])
    assert half(x, 1.0)[1][1] == 1.0
    assert half(x.t().contiguous().t(), 1.0)[0] == "compiled"
    assert len(made) == 2
    results = [half(x, float(i)) for i in range(2, 10)]
    assert results[-2:] == ["eager", "eager"]
    assert len(made) == engine.VARIANTS
    assert "its strides or numbers change from call to call" in str(report)
    assert half(x, 1.0)[0] == "compiled"  # what is there is used


def test_arguments_of_choose_executor_are_checked() -> None:
    critic, real, _, _ = build("mlp")
    with pytest.raises(ValueError, match="executors must be among 'eager', 'inductor', 'graph'; got 'jit'"):
        wgangp_fast.choose_executor(critic, real, executors=["jit"])
    with pytest.raises(ValueError, match="rounds must be at least 1; got 0"):
        wgangp_fast.choose_executor(critic, real, rounds=0)


def test_choosing_leaves_no_trace() -> None:
    critic = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    before = copy.deepcopy(critic.state_dict())
    state = torch.get_rng_state()
    with pytest.warns(wgangp_fast.BatchNormWarning):
        choice = wgangp_fast.choose_executor(critic, torch.randn(4, 3), executors=(), rounds=2)
    assert choice.name == "eager"
    torch.set_rng_state(state)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), critic.state_dict().values()))
    assert all(p.grad is None for p in critic.parameters())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_graph_without_a_gpu_is_an_error() -> None:
    critic, real, fake, alpha = build("mlp")
    with pytest.raises(BackendError, match=r"executor='graph' needs tensors on a CUDA device.*on cpu"):
        wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, executor="graph")


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraph, "Capture", EmulatedCapture)
    monkeypatch.setattr(checks, "capturing", capturing)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("whole", [False, True])
def test_graphs_of_both_halves_equal_python(name: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    critic, *_ = build(name)
    replays: list[int] = []
    replay = Recorder.replay
    monkeypatch.setattr(Recorder, "replay", lambda self: (replays.append(1), replay(self))[1])
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.01)
    for step in range(5):
        _, real, fake, alpha = build(name)

        def call(executor: str, real: Tensor = real, fake: Tensor = fake, alpha: Tensor = alpha) -> Tensor:
            if whole:
                return wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, executor=executor).loss
            return wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, executor=executor)

        expected = found(critic, lambda: call("eager"))
        result = found(critic, lambda: call("graph"))
        assert all(torch.equal(a, b) for a, b in zip(expected, result, strict=True)), step
        optimizer.step()
    assert len(replays) == 4 + 3  # both halves: one call warms up, the next captures


@pytest.mark.usefixtures("emulated")
def test_a_graph_is_not_replayed_over_results_in_use() -> None:
    critic, *_ = build("mlp")
    pairs = [build("mlp")[1:] for _ in range(2)]

    def total(executor: str) -> Tensor:
        return sum(
            (wgangp_fast.gradient_penalty(critic, r, f, alpha=a, executor=executor) for r, f, a in pairs),
            torch.zeros((), dtype=torch.float64),
        )

    for _ in range(4):
        assert_close(found(critic, lambda: total("graph")), found(critic, lambda: total("eager")))
    (plan,) = [p for p in plans(critic, "graph") if "in use" in p.executor.reason]
    assert (
        str(plan.executor) == "eager (graph was asked for: the results of the call before are still in use)"
    )
    # A gradient that the caller keeps is not written over either.
    kept = [wgangp_fast.input_gradient(critic, r) for r, _, _ in pairs]
    assert not torch.equal(*kept)


@pytest.mark.usefixtures("emulated")
def test_gradients_of_a_graph_may_be_kept_and_added() -> None:
    critic, real, fake, alpha = build("mlp")

    def penalty(executor: str) -> Tensor:
        return wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, executor=executor)

    expected = found(critic, lambda: penalty("eager"))[1:]
    for _ in range(3):
        found(critic, lambda: penalty("graph"))
    critic.zero_grad()
    for _ in range(3):
        penalty("graph").backward()
    grads = [p.grad for p in critic.parameters() if p.grad is not None]
    assert_close(grads, [3 * g for g in expected])
    weights = [p for p in critic.parameters() if p.grad is not None]
    first = torch.autograd.grad(penalty("graph"), weights)
    kept = [g.clone() for g in first]
    torch.autograd.grad(7 * penalty("graph"), weights)
    assert_close(list(first), kept)


@pytest.mark.usefixtures("emulated")
def test_leaves_that_move_are_captured_again_and_then_run_as_python() -> None:
    critic, real, fake, alpha = build("mlp")

    def penalty(executor: str) -> Tensor:
        return wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, executor=executor)

    kept = []
    for _ in range(engine.VARIANTS + 2):
        weight = critic.get_submodule("0").weight
        kept.append(weight.data)
        weight.data = weight.data.clone() * 1.1
        for _ in range(3):
            assert_close(found(critic, lambda: penalty("graph")), found(critic, lambda: penalty("eager")))
    assert any("parameters move from call to call" in p.executor.reason for p in plans(critic, "graph"))


@pytest.mark.usefixtures("emulated")
def test_inside_another_capture_a_graph_runs_as_python() -> None:
    critic, real, fake, alpha = build("mlp")

    def penalty(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        critic.zero_grad()
        loss = wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, executor="graph").loss
        loss.backward()
        return loss

    run = wgangp_fast.make_graphed_step(penalty, watch=[critic], warmup=3)
    for _ in range(6):
        _, real, fake, alpha = build("mlp")
        result = run(real, fake, alpha).clone()
        expected = wgangp_fast.critic_loss(critic, real, fake, alpha=alpha).loss
        assert_close([result], [expected.detach()])
    assert run.captured
