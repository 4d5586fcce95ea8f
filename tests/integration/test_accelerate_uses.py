"""``accelerate`` in programs: what runs where, labels, compiled steps, threads, faults."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from penalties_by_hand import (
    Penalty,
    assert_equal,
    batch,
    compare,
    mlp,
    numbers,
    on_engine,
    r1,
    two,
    wgan_gp,
    with_score,
)
from torch import Tensor, nn
from torch.func import functional_call
from zoo import Entry

import wgangp_fast
from wgangp_fast import StockPathWarning, accelerate, compat
from wgangp_fast.engine import torch_internals
from wgangp_fast.engine.score_plan import ScorePlan


def test_where_the_engine_runs() -> None:
    critic, x = accelerate(mlp()), batch()
    assert on_engine(critic(x.clone().requires_grad_()))
    assert not on_engine(critic(x))
    with torch.no_grad():
        assert not critic(x.clone().requires_grad_()).requires_grad
    assert accelerate(critic, False) is critic
    assert not on_engine(critic(x.clone().requires_grad_()))


def test_the_module_stays_what_it_is() -> None:
    plain = mlp()
    critic = accelerate(copy.deepcopy(plain))
    assert type(critic) is nn.Sequential
    assert list(critic.state_dict()) == list(plain.state_dict())
    x = batch().requires_grad_()
    for other in (copy.deepcopy(critic), pickle.loads(pickle.dumps(critic))):
        assert not on_engine(other(x))
        torch.testing.assert_close(other(x), critic(x))
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        accelerate(lambda x: x)


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.table = mlp(), nn.Embedding(4, 3).double()

    def forward(self, x: Tensor, labels: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.body(x * self.table(labels)) * scale


@pytest.mark.usefixtures("no_stock_path")
def test_labels_and_keywords_change_from_call_to_call() -> None:
    own = Labelled()
    ours = accelerate(copy.deepcopy(own))
    for k, scale in enumerate((1.0, 2.0, 2.0, 0.5)):
        labels = torch.tensor([0, 1, 2, 3, k % 4])

        def penalty(critic: nn.Module, x: Tensor, labels: Tensor = labels, scale: float = scale) -> Tensor:
            (g,) = torch.autograd.grad(critic(x, labels, scale=scale).sum(), x, create_graph=True)
            return (g.norm(dim=1) - 1).square().mean()

        x = batch()
        assert_equal(numbers(ours, penalty, x), numbers(own, penalty, x))
        assert on_engine(ours(x.requires_grad_(), labels, scale=scale))


class Centred(nn.Module):
    """Replaces the data of a buffer and of a parameter in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))
        self.weight, self.head = nn.Parameter(torch.randn(3, 3)), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.data = 0.9 * self.mean.data + 0.1 * x.detach().mean(0)
        h = torch.tanh((x - self.mean) @ self.weight.t())
        self.weight.data = 0.9 * self.weight.data
        return self.head(h)


@pytest.mark.usefixtures("no_stock_path")
@pytest.mark.parametrize("penalty", [wgan_gp, with_score, r1, two])
@pytest.mark.parametrize("verify", ["first", "never"])
def test_replaced_data(penalty: Penalty, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", verify)
    compare(Entry(Centred, (5, 3), True), penalty, calls=3)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return h, h.square()


def test_several_outputs_are_the_modules_own() -> None:
    own = Pair()
    ours = accelerate(copy.deepcopy(own))

    def penalty(critic: nn.Module, x: Tensor) -> Tensor:
        a, b = critic(x)
        return torch.autograd.grad((a + b).sum(), x, create_graph=True)[0].square().sum()

    x = batch()
    assert_equal(numbers(ours, penalty, x), numbers(own, penalty, x))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() > -1e9 else x


def test_what_cannot_be_captured_runs_its_own_code_and_says_so_once() -> None:
    own = Branches()
    ours = accelerate(copy.deepcopy(own))
    x = batch()
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always")
        for _ in range(3):
            assert_equal(numbers(ours, wgan_gp, x), numbers(own, wgan_gp, x))
    assert [w.category for w in got].count(StockPathWarning) == 1


@pytest.mark.parametrize(
    "fault",
    ["score", "gradient", "first", "second"],
)
def test_a_wrong_plan_is_found_at_its_first_call(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = getattr(ScorePlan, fault)

    def wrong(self: ScorePlan, *arguments: Any) -> Any:
        first, *rest = right(self, *arguments)
        return (first * 1.01, *rest)

    monkeypatch.setattr(ScorePlan, fault, wrong)
    own = mlp()
    ours = accelerate(copy.deepcopy(own))
    x = batch()
    with pytest.warns(StockPathWarning, match="first call was wrong"):
        found = numbers(ours, with_score, x)
    assert_equal(found, numbers(own, with_score, x))


@pytest.mark.parametrize(
    "penalty",
    [
        lambda x, score: compat.lucidrains_gradient_penalty(x, score, center=1.0),
        compat.wasserstein_gradient_penalty,
        lambda x, score: compat.ZeroCenteredGradientPenalty(x, score).mean(),
    ],
    ids=["lucidrains", "torchgan", "R3GAN"],
)
@pytest.mark.usefixtures("no_stock_path")
def test_penalties_that_take_a_graph(penalty: Callable[[Tensor, Tensor], Tensor]) -> None:
    own = mlp()
    ours, x = accelerate(copy.deepcopy(own)), batch()

    def of_graph(critic: nn.Module, x: Tensor) -> Tensor:
        score = critic(x)
        assert on_engine(score) == (critic is ours)
        return penalty(x, score)

    assert_equal(numbers(ours, of_graph, x), numbers(own, of_graph, x))


def test_a_torch_without_what_it_stands_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_internals, "perhaps", lambda path: None)
    with pytest.warns(StockPathWarning, match="lacks what accelerate stands on"):
        critic = accelerate(mlp())
    assert not on_engine(critic(batch().requires_grad_()))


def test_each_sweep_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first call, which is compared with the module's own code."""
    ran: list[str] = []
    for name in ("score", "gradient", "first", "second"):
        right = getattr(ScorePlan, name)

        def counted(self: ScorePlan, *arguments: Any, name: str = name, right: Any = right) -> Any:
            ran.append(name)
            return right(self, *arguments)

        monkeypatch.setattr(ScorePlan, name, counted)
    critic, x = accelerate(mlp()), batch()
    numbers(critic, wgan_gp, x)
    ran.clear()
    numbers(critic, wgan_gp, x)
    assert ran == ["score", "gradient", "second"]


def test_the_packages_own_functions_take_an_accelerated_critic() -> None:
    own = mlp()
    ours, real, fake = accelerate(copy.deepcopy(own)), batch(), batch()
    alpha = torch.rand(5, dtype=torch.float64)
    for call in (
        lambda c: wgangp_fast.gradient_penalty(c, real, fake, alpha=alpha),
        lambda c: wgangp_fast.critic_loss(c, real, fake, alpha=alpha).loss,
        lambda c: wgangp_fast.r1_penalty(c, real),
    ):
        torch.testing.assert_close(call(ours), call(own))
    assert wgangp_fast.explain(ours, real).path == wgangp_fast.explain(own, real).path == "engine"


def test_a_compiled_step_runs_the_modules_own_code() -> None:
    own = mlp()
    ours, x = accelerate(copy.deepcopy(own)), batch()
    step = torch.compile(lambda c, x: c(x).square().mean(), backend="eager", fullgraph=True)
    torch.testing.assert_close(step(ours, x.clone().requires_grad_()), own(x).square().mean())


def test_a_third_derivative_says_that_there_is_none() -> None:
    critic, x = accelerate(mlp()), batch().requires_grad_()
    (g,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="third derivative"):
        h.sum().backward()


def test_points_made_by_a_generator() -> None:
    """The points have a history: gradients flow through them, also those of the penalty."""
    torch.manual_seed(0)
    own, maker = mlp(), nn.Linear(2, 3).double()
    ours, z = accelerate(copy.deepcopy(own)), torch.randn(5, 2, dtype=torch.float64)
    found = []
    for critic in (ours, own):
        maker.zero_grad()
        x = maker(z)
        wgan_gp(critic, x).backward()
        found.append([p.grad.clone() for p in maker.parameters()])
    assert_equal(*found)


def test_parameters_given_by_functional_call() -> None:
    own = mlp()
    ours, x = accelerate(copy.deepcopy(own)), batch()
    for scale in (1.0, 1.3):
        found = []
        for critic in (ours, own):
            weights = {k: (scale * v.detach()).requires_grad_() for k, v in own.state_dict().items()}
            y = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(functional_call(critic, weights, (y,)).sum(), y, create_graph=True)
            found.append(torch.autograd.grad(g.square().sum(), list(weights.values()), allow_unused=True))
        assert_equal(list(found[0]), list(found[1]))


def test_a_grad_scaler_whose_scale_overflows_once() -> None:
    """Fifty steps: the same scales, the same weights."""
    found = []
    for prepare in (accelerate, lambda critic: critic):
        torch.manual_seed(0)
        critic = prepare(mlp().float())
        optimizer = torch.optim.Adam(critic.parameters(), 1e-3)
        scaler, scales = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=10), []
        for step in range(50):
            x = torch.randn(8, 3, requires_grad=True)
            score = critic(x)
            (g,) = torch.autograd.grad(scaler.scale(score.sum()), x, create_graph=True)
            penalty = ((g / scaler.get_scale()).norm(dim=1) - 1).square().mean()
            loss = penalty + score.mean() * (float("inf") if step == 25 else 1)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        found.append((scales, [p.detach() for p in critic.parameters()]))
    (scales, ours), (expected, own) = found
    assert scales == expected
    assert scales[25] < scales[24]
    for mine, theirs in zip(ours, own, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_autocast() -> None:
    own = mlp().float()
    ours, x = accelerate(copy.deepcopy(own)), batch().float()
    found = []
    for critic in (ours, own):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(numbers(critic, wgan_gp, x))
    for mine, theirs in zip(*found, strict=True):
        if theirs is not None:
            assert mine is not None
            assert (mine - theirs).abs().max() <= 0.05 * theirs.abs().max()


def test_threads() -> None:
    """Each thread gets the numbers of its own labels."""
    own = Labelled()
    ours, x = accelerate(copy.deepcopy(own)), batch()
    found: dict[int, Tensor] = {}

    def work(k: int) -> None:
        labels = torch.full((5,), k)
        for _ in range(20):
            y = x.clone().requires_grad_()
            found[k] = torch.autograd.grad(ours(y, labels).sum(), y, create_graph=True)[0].detach()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k in range(4):
        y = x.clone().requires_grad_()
        expected = torch.autograd.grad(own(y, torch.full((5,), k)).sum(), y)[0]
        torch.testing.assert_close(found[k], expected)


def test_a_dropped_critic_goes() -> None:
    critic = accelerate(mlp())
    wgan_gp(critic, batch().requires_grad_()).backward()
    gone = weakref.ref(critic)
    del critic
    gc.collect()
    assert gone() is None
