"""What cannot be captured: the stock path for that kind of call, and one warning with a line and a remedy."""

from __future__ import annotations

import gc
import linecache
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import wgangp_fast
from wgangp_fast.engine import plan
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.capture import refusals
from wgangp_fast.errors import StockPathWarning

Penalty = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
ALPHA = torch.rand(4, dtype=torch.float64)


class Critic(nn.Module):
    """Two layers, and a function of the input that multiplies the score."""

    def __init__(self, extra: Callable[..., object] = lambda x: 1.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
        self.extra, self.seen = extra, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * self.extra(x)


class First(Critic):
    """Looks at its data in its first call alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.seen:
            self.seen = True
            self.spread = x.std().item()
        return self.layers(x)


def batch(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 4).double(), torch.randn(n, 4).double()


@contextmanager
def recorded() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always")
        yield got


def stock_warnings(got: list[warnings.WarningMessage]) -> list[str]:
    return [str(w.message) for w in got if issubclass(w.category, StockPathWarning)]


def path(critic: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> str:
    """What runs a penalty, which is checked against stock code."""
    penalty = wgangp_fast.gradient_penalty(critic, x, x + 1, alpha=ALPHA)
    stock = wgangp_fast.gradient_penalty(critic, x, x + 1, alpha=ALPHA, impl="ref")
    torch.testing.assert_close(penalty, stock, rtol=1e-9, atol=0)
    return "engine" if "Penalty" in type(penalty.grad_fn).__name__ else "stock"


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    original = capture._compile
    monkeypatch.setattr(capture, "_compile", lambda *a: (count.append(1), original(*a))[1])
    return count


# any exception of the front end --------------------------------------------------------------------


def truth(x):
    return 1.0 if x.sum().item() else 2.0


def branch(x):
    return 1.0 if x.sum() > 0 else 2.0


def whole_number(x):
    return 1.0 if (x > 0).sum().item() else 2.0


def printed(x):
    print(end="+"[: int(x.sum().item() > 1e9)])
    return 1.0


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g * 2


def custom(x):
    return Doubled.apply(x).sum(1, keepdim=True)


def in_library(x):
    linecache.checkcache("no such file")  # Python's own library stops the capture, this line called it
    return 1.0


def noisy(x):
    return nn.functional.rrelu(x, training=True).sum(1, keepdim=True) * 0 + 1


def number(x):
    return float(x.sum())


#: function -> the line that its warning shows, and a word of the remedy
LINES = {
    truth: ("item()", "torch.where"),
    branch: ("x.sum() > 0", "torch.where"),
    whole_number: ("item()", "torch.where"),
    printed: ("print(end", ""),
    custom: ("Doubled.apply", "torch's own operators"),
    in_library: ("linecache.checkcache", ""),
    noisy: ("rrelu", "noise"),
    number: ("", ""),
}


@pytest.mark.parametrize("call", ["penalty", "loss"])
@pytest.mark.parametrize("extra", LINES, ids=lambda f: f.__name__)
def test_what_stops_the_front_end_means_the_stock_path(extra: Callable[..., object], call: str) -> None:
    critic, (real, fake) = Critic(extra), batch()

    def run(impl: str) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        critic.zero_grad()
        torch.manual_seed(0)
        if call == "penalty":
            value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=ALPHA, impl=impl)
        else:
            value = wgangp_fast.critic_loss(critic, real, fake, alpha=ALPHA, impl=impl).loss
        value.backward()
        return value.detach(), [p.grad for p in critic.parameters()]

    with recorded() as got:
        value, gradients = run("auto")
        run("auto")
    said = stock_warnings(got)
    assert len(said) <= 1, said
    stock, expected = run("ref")
    torch.testing.assert_close(value, stock, rtol=1e-9, atol=0)
    for mine, theirs in zip(gradients, expected):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    if not said:
        assert extra in (number, in_library)  # what newer front ends follow
        return
    line, remedy = LINES[extra]
    assert re.search(r"test_refusals\.py, line \d+ \(", said[0]), said
    assert line in said[0], said
    assert remedy in said[0], said
    assert not re.search(rf"{re.escape(torch.__path__[0])}|lib/python3[.\d]*/(?!site-packages)", said[0]), (
        said
    )
    assert "Remedy: " in said[0]
    assert all(w.filename == __file__ for w in got if issubclass(w.category, StockPathWarning))


def test_a_function_with_a_backward_of_its_own_is_not_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped over batches, Dynamo would follow its forward alone."""

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return -7 * g

    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")
    critic, (real, fake) = Critic(lambda x: Reversed.apply(x).sum(1, keepdim=True)), batch()
    with pytest.warns(StockPathWarning, match=r"custom autograd\.Function"):
        ours = wgangp_fast.critic_loss(critic, real, fake, alpha=ALPHA).loss
    stock = wgangp_fast.critic_loss(critic, real, fake, alpha=ALPHA, impl="ref").loss
    torch.testing.assert_close(ours, stock, rtol=1e-9, atol=0)


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("mine"), RuntimeError("mine")], ids=repr)
def test_the_critics_own_error_reaches_its_caller_unchanged(error: Exception) -> None:
    def raises(x: torch.Tensor) -> float:
        raise error

    with recorded() as got, pytest.raises(type(error)) as raised:
        wgangp_fast.gradient_penalty(Critic(raises), *batch())
    assert raised.value is error
    assert not got


@pytest.mark.parametrize("stage", [(capture, "split"), (plan, "derive")], ids=lambda stage: stage[1])
def test_an_error_that_nobody_thought_of_means_the_stock_path(
    stage: tuple[object, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("what comes next")

    monkeypatch.setattr(*stage, broken)
    with pytest.warns(StockPathWarning, match="what comes next.*Remedy"):
        assert path(Critic(), batch()[0]) == "stock"


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError("all of it"), torch.OutOfMemoryError("all of it")], ids=repr
)
def test_an_interrupt_and_no_memory_are_not_swallowed(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise error

    monkeypatch.setattr(capture, "split", broken)
    with pytest.raises(type(error)):
        wgangp_fast.gradient_penalty(Critic(), *batch())


# what a refusal is about ---------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::wgangp_fast.StockPathWarning")
def test_a_refusal_ends_when_the_critic_takes_another_way() -> None:
    critic, (x, _) = First(), batch()
    wgangp_fast.gradient_penalty(critic, x, x + 1)
    assert path(critic, x) == "engine"


@pytest.mark.filterwarnings("ignore::wgangp_fast.StockPathWarning")
def test_a_refused_kind_is_tried_a_bounded_number_of_times(compiles: list[int]) -> None:
    critic, (x, _) = Critic(branch), batch()
    for _ in range(30):
        wgangp_fast.gradient_penalty(critic, x, x + 1)
    assert len(compiles) == 3
    refused, seen = refusals.Refusals(), []
    refused.add(critic, None, x, refusals.refusal("no", "none"))
    for i in range(2000):
        if refused.standing(critic, None, x) is None:
            seen.append(i)
            refused.add(critic, None, x, refusals.refusal("no", "none"))
    assert seen == [0, 8, 72]


@pytest.mark.filterwarnings("ignore::wgangp_fast.StockPathWarning")
def test_a_critic_that_looks_at_its_data_now_and_then_is_fast_in_between(compiles: list[int]) -> None:
    class Logging(Critic):
        loud = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.loud:
                self.last = x.sum().item()
                print(end="+"[: int(self.last > 1e9)])
            return self.layers(x)

    critic, (x, _) = Logging(), batch()
    found = []
    for step in range(12):
        critic.loud = step % 3 == 1
        found.append(path(critic, x))
    assert found == ["engine", "stock", "engine"] * 4
    assert len(compiles) <= 4


@pytest.mark.filterwarnings("ignore::wgangp_fast.StockPathWarning")
def test_critics_behind_one_lambda_are_refused_one_by_one() -> None:
    def through_a_lambda(inner: nn.Module) -> str:
        return path(lambda x: inner(x), x)

    x, good, other = batch()[0], Critic(), Critic()
    assert [through_a_lambda(c) for c in (good, Critic(branch), good, other)] == [
        "engine", "stock", "engine", "engine",
    ]  # fmt: skip


def test_a_kind_is_layout_mode_and_what_is_reached() -> None:
    critic, (x, _) = Critic(), batch()

    def kind(critic: object, x: torch.Tensor) -> object:
        return refusals._kind(critic, None, x)

    def made(inner: nn.Module, y: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: inner(x) + y

    same = kind(critic, x)
    assert kind(critic, x.clone()) == same
    assert kind(critic, x[:2]) != same
    assert kind(critic, x.t().contiguous().t()) != same
    assert kind(critic, x.float()) != same
    critic.layers[1].eval()
    assert kind(critic, x) != same
    critic.layers[1].train()
    assert kind(made(critic, x), x) == kind(made(critic, x + 1), x)  # fresh labels are one kind
    assert kind(made(critic, x), x) != kind(made(Critic(), x), x)


def test_a_refusal_of_an_object_that_died_is_no_refusal() -> None:
    class Bad:
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x

    refused, critic, (x, _) = refusals.Refusals(), Bad(), batch()
    refused.add(critic, None, x, refusals.refusal("no", "none"))
    (kind,) = refused._of
    assert refusals._kind(critic, None, x) in refused._of
    del critic
    gc.collect()
    copies = [Bad() for _ in range(100)]  # one may lie where the dead one lay
    assert not any(refusals._kind(other, None, x) in refused._of for other in copies)
    refused.add(copies[0], None, x, refusals.refusal("no", "none"))
    assert kind not in list(refused._of)


def test_a_layout_that_arithmetic_changes_is_taken_as_it_becomes() -> None:
    """One channel in channels_last: stock's interpolation makes it contiguous, and ``view`` works."""

    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.out = nn.Conv2d(1, 8, 4, 2, 1).double(), nn.Linear(8 * 16, 1).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(nn.functional.leaky_relu(self.conv(x), 0.2).view(x.shape[0], -1))

    critic, x = Image(), torch.randn(4, 1, 8, 8).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        assert [path(critic, v) for v in (x, x.to(memory_format=torch.channels_last), x)] == ["engine"] * 3
    assert wgangp_fast.explain(critic, x.to(memory_format=torch.channels_last)).path == "engine"


def test_explain_names_the_reason_of_now() -> None:
    critic, (x, _) = Critic(branch), batch()
    with pytest.warns(StockPathWarning):
        path(critic, x)
    critic.extra = custom
    assert "custom autograd.Function" in wgangp_fast.explain(critic, x).reason
    critic.extra = Critic().extra
    assert wgangp_fast.explain(critic, x).path == "engine"


# many captures -------------------------------------------------------------------------------------


def test_many_shapes_are_announced_and_end_on_the_stock_path(
    monkeypatch: pytest.MonkeyPatch, compiles: list[int]
) -> None:
    monkeypatch.setattr(capture, "MOST", 4)
    monkeypatch.setattr(capture, "MANY", 2)
    critic = Critic()
    with recorded() as got:
        for n in (1, 2, 3, 4, 5, 6, 1, 2, 5):
            value = wgangp_fast.gradient_penalty(critic, *batch(n))
            assert ("Penalty" in type(value.grad_fn).__name__) == (n < 5), n
    many = [str(w.message) for w in got if issubclass(w.category, capture.ManyCapturesWarning)]
    assert len(many) == 1
    assert "drop_last" in many[0]
    assert len(stock_warnings(got)) == 1
    assert len(compiles) == 4


def test_a_python_value_that_keeps_changing_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "MANY_ALIKE", 3)
    critic, (real, fake) = Critic(), batch()
    with recorded() as got:
        for step in range(6):
            critic.name = f"step {step}"
            critic.extra = lambda x: 1.0 if critic.name else 2.0
            wgangp_fast.gradient_penalty(
                lambda x, name=f"{step}": critic.layers(x) * len(name + "a"), real, fake
            )
    many = [str(w.message) for w in got if issubclass(w.category, capture.ManyCapturesWarning)]
    assert len(many) == 1
    assert "Python value" in many[0]


def test_torchs_own_limit_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    said = refusals.explained(FailOnRecompileLimitHit("Hard failure due to fullgraph=True"))
    assert "Python value" in str(said)
    assert "tensor" in said.remedy
