"""Nothing goes stale: whatever changes between two calls, the penalty is that of the critic as it is now."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from penalty_checks import assert_same, build, compare, penalty, points
from torch import Tensor, nn
from zoo import IMAGE, ROWS, Critic, image, rows

import wgangp_fast
from wgangp_fast.errors import StockPathWarning


class Pair:
    """The same critic for the engine and for stock code; every change is made to both."""

    def __init__(self, make) -> None:
        self.ours, self.stock = build(make), build(make)

    def change(self, function) -> None:
        for seed, module in ((1, self.ours), (1, self.stock)):
            torch.manual_seed(seed)
            function(module)

    def check(self, shape=ROWS, dtype=torch.float64, **options):
        batch = points(shape, dtype)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        ours = penalty(self.ours, batch, "auto", **options)
        assert_same(ours, penalty(self.stock, batch, "ref", **options), tolerance)
        return ours


class Fading(nn.Module):
    """Progressive growing: a Python number that moves at every call, a switch, and a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head, self.fade, self.steps, self.deep = nn.Linear(6, 1), 0.0, 1, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x
        for layer in self.layers:
            h = torch.tanh(layer(h))
        h = self.fade * h + (1 - self.fade) * F.leaky_relu(x, 0.2)
        if self.deep:
            h = h * torch.sigmoid(h)
        return self.head(h) * self.steps


def test_a_number_that_changes_at_every_call() -> None:
    pair, values = Pair(Fading), set()
    for i in range(8):
        pair.change(lambda m, i=i: setattr(m, "fade", 0.11 * i))
        pair.change(lambda m, i=i: setattr(m, "steps", i + 1))
        values.add(float(pair.check().value))
    assert len(values) == 8


def test_a_switch_and_a_new_layer() -> None:
    pair = Pair(Fading)
    pair.change(lambda m: setattr(m, "fade", 0.5))
    for deep in (False, True, False, True):
        pair.change(lambda m, deep=deep: setattr(m, "deep", deep))
        pair.check()
    pair.change(lambda m: m.layers.append(nn.Linear(6, 6).double()))
    assert len(pair.check().gradients) == 8


def test_train_and_eval() -> None:
    pair = Pair(lambda: image(norm=lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.Dropout(0.3))))
    for training in (True, False, True, False):
        pair.change(lambda m, training=training: m.train(training))
        pair.check(IMAGE)


def _step(module: nn.Module) -> None:
    torch.optim.SGD(module.parameters(), lr=0.3).step()


CHANGES = {
    "a step of the optimiser": _step,
    "load_state_dict": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}),
    "a replaced parameter": lambda m: setattr(m[0], "weight", nn.Parameter(torch.randn(8, 6).double())),
    "a replaced layer": lambda m: m.__setitem__(3, nn.Linear(8, 8).double()),
    "another activation": lambda m: m.__setitem__(2, nn.SiLU()),
    "a parameter of another shape": lambda m: (
        m.__setitem__(3, nn.Linear(8, 5).double()),
        m.__setitem__(5, nn.Linear(5, 1).double()),
    ),
    "a frozen layer": lambda m: m[0].requires_grad_(False),
    "a frozen critic's last layer": lambda m: m[5].requires_grad_(False),
    "data written in place": lambda m: m[3].weight.data.mul_(1.7),
    "data replaced": lambda m: setattr(m[3].weight, "data", torch.randn(8, 8).double()),
    "a shared parameter": lambda m: setattr(m[3], "bias", m[0].bias),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_critic(change: str) -> None:
    pair = Pair(lambda: rows(nn.Tanh))
    before = pair.check().value
    pair.change(CHANGES[change])
    after = pair.check()
    assert after.value != before
    pair.check()


def test_a_layer_that_thaws() -> None:
    pair = Pair(lambda: rows(nn.Tanh))
    for frozen in (True, False, True):
        pair.change(lambda m, frozen=frozen: m[0].requires_grad_(not frozen))
        assert (pair.check().gradients["0.weight"] is None) == frozen


def test_parameters_freeze_and_thaw_in_turn() -> None:
    pair = Pair(lambda: rows(nn.Tanh))
    for trained in ((), ("0.weight", "0.bias", "2.weight"), ("0.weight",), (), ("2.weight",), ("0.bias",)):

        def change(critic: nn.Module, trained: tuple[str, ...] = trained) -> None:
            for name, parameter in critic.named_parameters():
                parameter.requires_grad_(name in trained)

        pair.change(change)
        pair.check()


def test_batch_sizes_and_image_sizes() -> None:
    pair = Pair(lambda: Critic(lambda m, x: torch.tanh(m.c(x)).mean((1, 2, 3)), c=nn.Conv2d(2, 3, 3, 2)))
    for shape in ((4, 2, 8, 8), (1, 2, 8, 8), (7, 2, 8, 8), (4, 2, 9, 6), (4, 2, 8, 8)):
        pair.check(shape)


def test_another_dtype() -> None:
    pair = Pair(lambda: rows(nn.Tanh))
    pair.check()
    pair.change(lambda m: m.float())
    pair.check(dtype=torch.float32)
    pair.change(lambda m: m.double())
    pair.check()


def test_two_critics_of_one_class() -> None:
    one, other = Pair(lambda: rows(nn.Tanh)), Pair(lambda: rows(nn.Tanh))
    other.change(lambda m: m[0].weight.data.add_(1))
    assert one.check().value != other.check().value
    one.check()


def test_copies_are_independent() -> None:
    pair = Pair(lambda: rows(nn.Tanh))
    pair.check()
    pair.ours, pair.stock = copy.deepcopy(pair.ours), copy.deepcopy(pair.stock)
    pair.change(_step)
    pair.check()


# callables that are no modules -------------------------------------------------------------------


def _gradients(function, tensors, batch, impl):
    for tensor in tensors:
        tensor.grad = None
    real, fake, alpha = batch
    value = wgangp_fast.gradient_penalty(function, real, fake, alpha=alpha, impl=impl)
    value.backward()
    return value.detach(), [t.grad for t in tensors]


def _assert_equal(function, tensors) -> torch.Tensor:
    batch = points(ROWS)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        value, found = _gradients(function, tensors, batch, "auto")
    expected, theirs = _gradients(function, tensors, batch, "ref")
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    for mine, stock in zip(found, theirs):
        torch.testing.assert_close(mine, stock, rtol=1e-9, atol=1e-12)
    return value


def test_fresh_lambdas_over_other_tensors() -> None:
    for _ in range(4):
        w, v = torch.randn(6, 5).double().requires_grad_(), torch.randn(5).double().requires_grad_()
        _assert_equal(lambda x, w=w, v=v: torch.tanh(x @ w) @ v, [w, v])


def test_functions_closing_over_a_tensor_and_a_number() -> None:
    w, scale = torch.randn(6).double().requires_grad_(), 1.0

    def critic(x):
        return torch.sigmoid(x * w * scale).sum(1)

    values = set()
    for scale in (1.0, 1.5, 2.5, 0.5):  # noqa: B007  (the closure reads it)
        values.add(float(_assert_equal(critic, [w])))
    w = torch.randn(6).double().requires_grad_()
    values.add(float(_assert_equal(critic, [w])))
    assert len(values) == 5


def test_a_method_and_a_module_in_a_lambda() -> None:
    module = rows(nn.SiLU).double()
    parameters = list(module.parameters())
    _assert_equal(lambda x: module(x).square(), parameters)
    _assert_equal(module.forward, parameters)


def test_a_labelled_critic() -> None:
    """A label per call, closed over as conditional GANs do it."""
    embedding, weight = nn.Embedding(5, 6).double(), torch.randn(6).double().requires_grad_()
    values = set()
    for labels in ([0, 1, 2, 3], [4, 4, 0, 1]):
        y = torch.tensor(labels)
        tensors = [embedding.weight, weight]
        values.add(
            float(_assert_equal(lambda x, y=y: (torch.tanh(x * embedding(y)) * weight).sum(1), tensors))
        )
    assert len(values) == 2


# options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "sum"},
        {"reduction": "none"},
        {"target": 0.0},
        {"target": 3.5},
        {"one_sided": True, "target": 0.2},
    ],
    ids=str,
)
def test_options(options) -> None:
    compare(lambda: rows(nn.Tanh, lambda: nn.LayerNorm(8)), points(ROWS), **options)


def test_output_picks_the_score() -> None:
    def make() -> nn.Module:
        return Critic(lambda m, x: (x * 2, {"score": m.o(torch.tanh(x))}), o=nn.Linear(6, 1))

    compare(make, points(ROWS), output=lambda result: result[1]["score"])


def test_float32_is_as_exact_as_stock_code() -> None:
    make, batch = (lambda: image(nn.SiLU, lambda c: nn.GroupNorm(2, c))), points((8, 2, 8, 8), torch.float32)
    wide = tuple(v.double() for v in batch)
    # the same float32 parameters in all three
    exact = penalty(build(make, torch.float32).double(), wide, "ref")
    ours, stock = (penalty(build(make, torch.float32), batch, impl) for impl in ("auto", "ref"))
    assert ours.value.dtype == torch.float32
    for name, truth in {**exact.gradients, "value": exact.value}.items():
        mine, theirs = (o.value if name == "value" else o.gradients[name] for o in (ours, stock))
        if truth is None:
            assert mine is theirs is None, name
            continue
        assert mine.dtype == torch.float32
        limit = 4 * float((theirs - truth).abs().max()) + 1e-6 * float(truth.abs().max())
        assert float((mine - truth).abs().max()) <= limit, name


def test_a_gradient_of_zero_is_no_nan() -> None:
    critic = rows(nn.Tanh).double()
    with torch.no_grad():
        critic[5].weight.zero_()
    ours = penalty(critic, points(ROWS), "auto", of_points=True)
    assert ours.value == 1
    assert all(g is None or g.isfinite().all() for g in ours.gradients.values())


def test_without_gradients_only_the_value() -> None:
    critic, (real, fake, alpha) = rows(nn.Tanh).double(), points(ROWS)
    with torch.no_grad():
        value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha)
        stock = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl="ref")
    assert not value.requires_grad
    torch.testing.assert_close(value, stock, rtol=1e-9, atol=0)


# the stock path ----------------------------------------------------------------------------------

REFUSED = {
    "noise that depends on the input": lambda: rows(nn.RReLU),
    "a cumulative batch norm": lambda: image(norm=lambda c: nn.BatchNorm2d(c, momentum=None)),
    "a branch on data": lambda: Critic(
        lambda m, x: m.o(x * 2 if x.sum() > 0 else x.tanh()), o=nn.Linear(6, 1)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_captured_runs_as_stock_code(name: str) -> None:
    """One warning, the right answer, buffers updated once."""
    batch = points(IMAGE if "batch norm" in name else ROWS)
    critic, other = build(REFUSED[name]), build(REFUSED[name])
    stock = penalty(other, batch, "ref")
    real, fake, alpha = batch
    torch.manual_seed(0)
    with pytest.warns(StockPathWarning, match="stock"):
        value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha)
    assert torch.equal(value.detach(), stock.value)
    for name_, buffer in critic.named_buffers():
        assert torch.equal(buffer, stock.buffers[name_]), name_
    assert_same(
        penalty(critic, batch, "auto", seed=1), penalty(other, batch, "ref", seed=1)
    )  # no second warning


class PartlyWide(nn.Module):
    """A part of it runs without autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.w = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x))
        with torch.autocast("cpu", enabled=False):
            h = torch.tanh(self.b(h.float()) @ (self.w @ self.w.t()) / 16)
        return self.c(h)


@pytest.mark.parametrize("backward_inside", [False, True])
def test_a_part_without_autocast_stays_without(backward_inside: bool) -> None:
    critic, outcomes = PartlyWide(), []
    real, fake, alpha = torch.randn(8, 4), torch.randn(8, 4), torch.rand(8)
    for impl in ("ref", "auto"):
        critic.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("error", StockPathWarning)
            with torch.autocast("cpu", torch.bfloat16):
                value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
                if backward_inside:
                    value.backward()
        if not backward_inside:
            value.backward()
        outcomes.append([value.detach(), *(p.grad for p in critic.parameters() if p.grad is not None)])
    for stock, ours in zip(*outcomes):
        assert float((stock - ours).norm()) <= 0.05 * float(stock.norm()) + 1e-6
