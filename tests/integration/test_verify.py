"""A plan's first call compared with the stock code: planted faults are found, healthy critics left alone."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_history import IN_PLACE, STILL, critic_of, samples, stock_loss, stock_penalty
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import critic_loss, explain, gradient_penalty, input_gradient, verify
from wgangp_fast.engine import ir as sweeps
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.capture import history
from wgangp_fast.engine.derive import four_sweeps as derive
from wgangp_fast.errors import StockPathWarning
from wgangp_fast.rules import elementwise

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(verify.ENVIRONMENT, "first")


def found_by(critic: nn.Module, call: Callable[..., Tensor], stock: Callable[..., Tensor]) -> str:
    """What the one warning of a first call says. Its numbers must be stock's, and later calls silent."""
    twin = copy.deepcopy(critic)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StockPathWarning)
        for _ in range(2):
            critic.zero_grad()
            value = call(critic, *samples())
            value.backward()
    expected = stock(twin, *samples())
    expected.backward()
    torch.testing.assert_close(value, expected)
    for mine, theirs in zip(critic.parameters(), twin.parameters()):
        assert (mine.grad is None) == (theirs.grad is None)
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad)
    (one,) = [w for w in caught if issubclass(w.category, StockPathWarning)]
    return str(one.message)


def penalty(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return gradient_penalty(critic, real, fake, alpha=alpha)


def loss(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return critic_loss(critic, real, fake, alpha=alpha).loss


def smooth() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Mish(), nn.Linear(6, 6), nn.Mish(), nn.Linear(6, 1)).double()


# faults planted, those that were there among them -----------------------------------------------------


@pytest.mark.parametrize("wrong", [-1.0, 1.01])
def test_a_wrong_second_derivative(monkeypatch: pytest.MonkeyPatch, wrong: float) -> None:
    row = elementwise.UNARY[aten.mish.default]
    second = row.second
    assert second is not None
    monkeypatch.setattr(row, "second", lambda site: second(site) * wrong)
    assert "differs by" in found_by(smooth(), penalty, stock_penalty)


def test_a_wrong_first_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    row = elementwise.UNARY[aten.mish.default]
    multiply = row.multiply
    monkeypatch.setattr(row, "multiply", lambda site, v: multiply(site, v) * 1.0001)
    assert "the value differs" in found_by(smooth(), penalty, stock_penalty)


@pytest.mark.parametrize("call", [penalty, loss])
def test_a_lost_gradient(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Tensor]) -> None:
    analyse = derive.Derivation._analyse

    def forgetful(self: Any) -> None:
        analyse(self)
        self.requires_grad -= {n for n in self.calls if n not in self.depends_on_x}

    monkeypatch.setattr(derive.Derivation, "_analyse", forgetful)
    said = found_by(critic_of(STILL["mask"]), call, stock_penalty if call is penalty else stock_loss)
    assert "the gradient of t is missing" in said


def test_a_foreign_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "differentiable", lambda node: True)
    monkeypatch.setattr(derive, "differentiable", lambda node: node.target is not aten.detach.default)
    said = found_by(critic_of(STILL["no_grad features"]), penalty, stock_penalty)
    assert "g.weight has a gradient" in said or "differs" in said


def test_forgotten_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history.RecordHistory, "_keep_history", lambda self, root, before: None)
    assert "is missing" in found_by(critic_of(IN_PLACE["cosine similarity"]), penalty, stock_penalty)


def test_a_detach_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch 2.14 made of ``detach`` where the trace gave it no table of decompositions."""
    trace = capture.trace

    def rewritten(gm: Any, inputs: Any) -> Any:
        found = trace(gm, inputs)
        for node in found[1].graph.nodes:
            if node.target is aten.detach.default:
                node.target = aten.alias.default
        return found

    monkeypatch.setattr(capture, "trace", rewritten)
    critic = critic_of(lambda m, x: m.b(torch.tanh(m.a(x)) * torch.tanh(m.g(x)).detach()))
    assert "g.weight has a gradient" in found_by(critic, penalty, stock_penalty)


def test_a_half_of_a_gate_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    from wgangp_fast.rules import kernels

    def forgets_b(self: Any, site: Any, t: Any) -> Any:
        return self.vjp(site, t["a"], frozenset({"a"}))["a"]

    monkeypatch.setattr(kernels.Gate, "jvp", forgets_b)
    critic = critic_of(lambda m, x: m.b(torch.tanh(m.a(x)) * torch.sigmoid(m.g(x))))
    assert "differs" in found_by(critic, penalty, stock_penalty)


def test_a_backward_pass_that_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    from wgangp_fast.engine.plan import Plan

    def crash(*_: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(Plan, "backward", crash)
    assert "planted" in found_by(smooth(), penalty, stock_penalty)


def test_the_input_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    row = elementwise.UNARY[aten.mish.default]
    multiply = row.multiply
    monkeypatch.setattr(row, "multiply", lambda site, v: multiply(site, v) * 1.0001)
    x, critic = samples()[0], smooth()
    with pytest.warns(StockPathWarning, match="differs"):
        found = input_gradient(critic, x)
    torch.testing.assert_close(found, input_gradient(critic, x, impl="ref"))


def test_the_state_is_that_of_one_stock_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused first call leaves buffers, attributes and random states as one stock call does."""
    row = elementwise.UNARY[aten.mish.default]
    multiply = row.multiply
    monkeypatch.setattr(row, "multiply", lambda site, v: multiply(site, v) * 1.0001)
    for call, stock in ((penalty, stock_penalty), (loss, stock_loss)):
        mine, theirs = counting(), counting()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            states = [one_call(mine, call), one_call(theirs, stock)]
        assert states[0] == states[1]


# healthy critics --------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts its calls in an attribute and in a buffer, and keeps spectral norm's vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6))
        self.rest = nn.Sequential(nn.Softplus(), nn.Dropout(0.3), nn.Linear(6, 1))
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1
        return self.rest(self.first(x))


def counting() -> nn.Module:
    torch.manual_seed(0)
    return Counting().double()


def one_call(critic: Any, call: Callable[..., Tensor]) -> list[Any]:
    torch.manual_seed(3)
    random.seed(3)
    call(critic, *samples())
    buffers = [b.tolist() for b in critic.buffers()]
    return [critic.calls, buffers, torch.get_rng_state().tolist(), random.random()]


@pytest.mark.parametrize("call", [penalty, loss])
def test_a_first_call_leaves_the_state_of_one_call(
    monkeypatch: pytest.MonkeyPatch, call: Callable[..., Tensor]
) -> None:
    compared = one_call(counting(), call)
    monkeypatch.setenv(verify.ENVIRONMENT, "never")
    assert compared == one_call(counting(), call)


def test_zeros_that_autograd_hands_through_a_step_are_no_fault() -> None:
    critic = critic_of(lambda m, x: m.b(torch.tanh(m.a(x)) * torch.round(m.g(x))))
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        penalty(critic, *samples()).backward()
    assert all(note is not None and note.startswith("equal") for note in notes(critic))


def notes(critic: Any) -> list[str | None]:
    kinds = capture.entry(critic).kinds.values()
    graphs = [graph for kind in kinds for reference in kind.made if (graph := reference()) is not None]
    return [plan.verified for graph in graphs for plan in graph.plans.values()]


def test_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []
    compare = verify.Verification.compare
    monkeypatch.setattr(
        verify.Verification, "compare", lambda self, *a: compared.append(a) or compare(self, *a)
    )
    critic = smooth()
    for named, calls, expected in (("never", 2, 0), ("first", 3, 1), ("always", 2, 2)):
        monkeypatch.setenv(verify.ENVIRONMENT, named)
        compared.clear()
        for _ in range(calls):
            penalty(critic, *samples())
        assert len(compared) == expected, named
    assert notes(critic) == [f"equal to the stock code's, to {notes(critic)[0][-5:]}"]  # type: ignore[index]
    monkeypatch.setenv(verify.ENVIRONMENT, "sometimes")
    with pytest.raises(ValueError, match="first, always, never"):
        penalty(critic, *samples())


def test_explain_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, x = smooth(), samples()[0]
    assert "not compared with the stock code yet" in str(explain(critic, x))
    penalty(critic, *samples())
    assert "equal to the stock code's" in str(explain(critic, x))
    row = elementwise.UNARY[aten.mish.default]
    multiply = row.multiply
    monkeypatch.setattr(row, "multiply", lambda site, v: multiply(site, v) * 1.0001)
    wrong = smooth()
    with pytest.warns(StockPathWarning):
        penalty(wrong, *samples())
    assert "the value differs" in explain(wrong, x).reason


def test_out_of_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("planted")

    monkeypatch.setattr(verify.reference if hasattr(verify, "reference") else wgangp_fast.penalty.reference,
                        "penalty_norms", full)  # fmt: skip
    critic = smooth()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        penalty(critic, *samples()).backward()
    assert notes(critic) == ["not compared: out of memory"]


def test_a_kink_is_no_fault() -> None:
    """A unit that lies on the kink falls to either side, by rounding alone."""
    for seed in range(8):
        torch.manual_seed(seed)
        critic = nn.Sequential(
            nn.Linear(4, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
        )
        real, fake, alpha = (v.float() for v in samples())
        x = alpha[:, None] * real + (1 - alpha[:, None]) * fake
        with torch.no_grad():  # bring units to the kink at the penalty points
            critic[0].bias -= critic[0](x)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("error", StockPathWarning)
            penalty(critic, real, fake, alpha).backward()
        assert all(note is not None and note.startswith("equal") for note in notes(critic))


def test_terms_that_cancel_are_no_fault() -> None:
    """A score of one size everywhere: real and fake leave a rounding of the last weight's gradient, or
    nothing, and the other gradients are rounding alone."""
    for seed in range(8):
        critic = critic_of(lambda m, x: F.normalize(m.b(m.a(x)).square(), dim=1) @ m.p.view(1))
        torch.manual_seed(seed)
        nn.init.normal_(critic.p)
        real, fake, alpha = (v.float() for v in samples())
        with warnings.catch_warnings():
            warnings.simplefilter("error", StockPathWarning)
            loss(critic.float(), real[:3], fake[:3], alpha[:3]).backward()
        assert all(note is not None and note.startswith("equal") for note in notes(critic))


class Decaying(nn.Module):
    """Its forward pass changes a parameter that the backward pass needs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 1)
        self.gain = nn.Parameter(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        with torch.no_grad():
            self.gain.mul_(0.9)
        return self.last(h * self.gain)


def test_a_changed_parameter_is_no_fault() -> None:
    """Stock's run changes it once more while the plan's backward pass is still to come."""
    torch.manual_seed(0)
    critic = Decaying().double()
    twin = copy.deepcopy(critic)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        penalty(critic, *samples()).backward()
    stock_penalty(twin, *samples()).backward()
    assert all(note is not None and note.startswith("equal") for note in notes(critic))
    for mine, theirs in zip(critic.parameters(), twin.parameters()):
        torch.testing.assert_close(mine, theirs)
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_casts_of_autocast_in_the_backward_pass_are_no_fault() -> None:
    """Autocast casts the products of stock's first backward pass too, where none was cast before."""
    torch.manual_seed(0)
    critic = critic_of(lambda m, x: torch.logsumexp(m.mix(x, x), 1)).float()
    critic.mix = nn.Bilinear(4, 4, 4)
    real, fake, alpha = (v.float() for v in samples())
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("error", StockPathWarning)
        penalty(critic, real, fake, alpha).backward()
    assert all(note is not None and note.startswith("equal") for note in notes(critic))


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Faults are planted in rules: no plan may outlive its test."""
    yield
    capture._entries.clear()
