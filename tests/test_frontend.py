"""What critics do in Python: numpy scalars, numbers read from tensors, random draws, library functions."""

from __future__ import annotations

import random
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from penalty_checks import assert_same, build, penalty, points
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint_sequential

import wgangp_fast
from wgangp_fast.engine import capture
from wgangp_fast.penalty import StockPathWarning

Forward = Callable[[Any, Tensor], Tensor]


class Critic(nn.Module):
    """``head`` after what ``forward_of`` does; attributes as given, tensors as buffers."""

    def __init__(self, forward_of: Forward, **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 1)
        self.forward_of = forward_of
        for name, value in attributes.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value.clone())
            else:
                setattr(self, name, value)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def head(self, x: Tensor) -> Tensor:
        return self.b(self.hidden(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_of(self, x)


def compare(forward_of: Forward, attributes: dict[str, Any], change: Any = None, calls: int = 1) -> nn.Module:
    """The engine against stock code, before and after ``change``: attributes to set, or a function."""
    ours, stock = (build(lambda: Critic(forward_of, **attributes)) for _ in range(2))
    batch = points((5, 6))
    for step in range(2 if change is not None else calls):
        if step and change is not None:
            for critic in (ours, stock):
                if callable(change):
                    change(critic)
                else:
                    for name, value in change.items():
                        setattr(critic, name, value)
        assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))
    return ours


# numpy ---------------------------------------------------------------------------------------------

NUMPY: dict[str, tuple[Forward, dict[str, Any], Any]] = {
    "width": (lambda c, x: c.head(x.view(-1, c.w)), {"w": np.int64(6)}, None),
    "gain": (lambda c, x: c.head(x) * c.g if c.g != 1 else x, {"g": np.sqrt(2)}, {"g": np.float64(3)}),
    "gain first": (lambda c, x: c.g * c.head(x), {"g": np.float32(0.1)}, {"g": np.float32(0.3)}),
    "kind": (
        lambda c, x: c.head(x) * (2 if isinstance(c.g, float) else 5), {"g": np.float64(2)}, {"g": np.int64(2)},
    ),
    "float32 arithmetic": (lambda c, x: c.head(x) * (c.g * 3.3), {"g": np.float32(0.1)}, {"g": np.float64(0.1)}),
    "integers": (lambda c, x: c.head(x) * (c.k // 2 + c.k / 3) - c.k**2, {"k": np.int64(7)}, {"k": np.int64(9)}),
    "reversed": (lambda c, x: c.head(x) * (9 // c.k + 1 / c.k - 2**c.k), {"k": np.int64(7)}, {"k": np.int64(2)}),
    "flag": (lambda c, x: c.head(x) * 3 if c.k else c.head(x), {"k": np.bool_(True)}, {"k": np.bool_(False)}),
    "loop": (lambda c, x: c.head(sum(x for _ in range(c.k))), {"k": np.int64(2)}, {"k": np.int64(3)}),
    "method": (lambda c, x: c.head(x) * c.k.astype(np.int32).item(), {"k": np.float32(2.1)}, {"k": np.float32(3)}),
    "in a list": (lambda c, x: c.head(x) * c.k[1][0], {"k": [1, (np.float64(2),)]}, {"k": [1, (np.float64(3),)]}),
    "NaN": (lambda c, x: c.head(x) * (2 if np.isnan(c.k) else 3), {"k": np.float64("nan")}, {"k": np.float64(1)}),
    "product of a shape": (lambda c, x: c.head(x.reshape(-1, np.prod(x.shape[1:]))), {}, None),
    "function": (lambda c, x: c.head(x) * np.sqrt(c.k) * int(np.log2(c.k)), {"k": 8}, {"k": 16}),
    "tensor of it": (
        lambda c, x: c.head(x * (100 * torch.tensor(c.k) * torch.tensor([c.k] * 6))),
        {"k": np.float32(0.1)}, {"k": np.float32(0.3)},
    ),
    "array": (
        lambda c, x: c.head(x * torch.from_numpy(c.k) + torch.as_tensor(c.k)),
        {"k": np.linspace(0, 1, 6)}, lambda c: setattr(c, "k", np.linspace(1, 2, 6)),
    ),
    "array in place": (
        lambda c, x: c.head(x * torch.from_numpy(c.k)), {"k": np.linspace(0, 1, 6)},
        lambda c: c.k.__setitem__(0, 5.0),
    ),
    "size in an array": (lambda c, x: c.head(x.view(-1, c.k[1])), {"k": np.array([1, 6])}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_values_are_constants_with_a_guard(name: str) -> None:
    forward_of, attributes, change = NUMPY[name]
    # each critic its own array: a change in place must not reach the other
    ours = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in attributes.items()}
    if name == "array in place":
        critic = build(lambda: Critic(forward_of, **ours))
        for _ in range(2):
            batch = points((5, 6))
            assert_same(penalty(critic, batch, "auto"), penalty(critic, batch, "ref"))
            change(critic)
        return
    compare(forward_of, ours, change)


_GAIN = np.float64(1.5)


def test_a_numpy_scalar_in_a_closure_and_a_global(monkeypatch: pytest.MonkeyPatch) -> None:
    gain = np.float32(0.1)

    def forward(c: Any, x: Tensor) -> Tensor:
        return c.head(x) * (gain * 3.3) * _GAIN

    def change(_: Any) -> None:
        nonlocal gain
        gain = np.float32(0.7)
        monkeypatch.setitem(globals(), "_GAIN", np.float64(2.5))

    compare(forward, {}, change)


# numbers and shapes read from tensors --------------------------------------------------------------

INDEX = torch.tensor([0, 0, 1, 1, 2])
OTHER = torch.tensor([0, 0, 1, 2, 3])
MASK = torch.tensor([True, False, True, True, False])
EDGES = torch.tensor([[0, 1, 2, 3, 1], [1, 1, 3, 3, 0]])
OTHER_EDGES = torch.tensor([[0, 1, 2, 3, 1], [1, 1, 3, 0, 0]])


def _pool(c: Any, x: Tensor) -> Tensor:
    size = int(c.i.max()) + 1
    return c.b(x.new_zeros(size, 8).index_add(0, c.i, c.hidden(x)))


def _without_loops(c: Any, x: Tensor) -> Tensor:
    edges, h = c.e[:, c.e[0] != c.e[1]], c.hidden(x)
    return c.b(h.index_add(0, edges[1], h[edges[0]]))


def _degree(c: Any, x: Tensor) -> Tensor:
    degree = torch.zeros(5)
    degree.scatter_add_(0, c.e[1], torch.ones(5))
    return c.head(x).expand(-1, int(degree.max()))


def _counts(c: Any, x: Tensor) -> Tensor:
    c.n.add_(1)
    return c.head(x).expand(-1, int(c.n))


def _written(c: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        c.r.copy_(x.mean(0))
    return c.head(x) * c.r.sum().item()


def _set(name: str, value: Tensor) -> Callable[[Any], None]:
    return lambda c: getattr(c, name).copy_(value)


VALUES: dict[str, tuple[Forward, dict[str, Any], Any]] = {
    "size": (_pool, {"i": INDEX}, _set("i", OTHER)),
    "self-loops": (_without_loops, {"e": EDGES}, _set("e", OTHER_EDGES)),
    "written in place before": (_degree, {"e": EDGES}, _set("e", torch.zeros(2, 5).long())),
    "changed by the call": (_counts, {"n": torch.tensor(1)}, lambda c: None),
    "written from x": (_written, {"r": torch.zeros(6, dtype=torch.float64)}, None),
    "branch": (lambda c, x: c.head(x) * 3 if c.m.all() else c.head(x), {"m": MASK}, _set("m", ~MASK | MASK)),
    "comparison": (lambda c, x: c.head(x) * 3 if c.s > 1 and c.s < 4 else c.head(x), {"s": torch.tensor(3)},
                   _set("s", torch.tensor(9))),
    "list": (lambda c, x: c.b(torch.cat(c.hidden(x).split(c.s.tolist())[::-1])), {"s": torch.tensor([2, 3])},
             _set("s", torch.tensor([1, 4]))),
    "slice": (lambda c, x: c.head(torch.cat([x[:, : c.s], x[:, c.s :] * 2], 1)), {"s": torch.tensor(3)},
              _set("s", torch.tensor(1))),
    "nonzero": (lambda c, x: c.b(c.hidden(x)[c.m.nonzero().squeeze(1)]), {"m": MASK}, _set("m", MASK & ~MASK | (INDEX == 1))),
    "mask": (lambda c, x: c.b(c.hidden(x)[c.m]), {"m": MASK}, _set("m", INDEX == 0)),
    "mask of columns": (lambda c, x: c.head(torch.cat([x[:, c.m], x[:, ~c.m]], 1)), {"m": torch.arange(6) > 2},
                        _set("m", torch.arange(6) == 2)),
    "unique": (lambda c, x: c.b(c.hidden(x)[torch.unique(c.i)]), {"i": INDEX}, _set("i", OTHER)),
    "repetition": (lambda c, x: c.b(c.hidden(x).repeat_interleave(c.i + 1, 0)), {"i": INDEX}, _set("i", OTHER)),
    "a tensor as a size": (lambda c, x: c.head(x.view(-1, c.s)), {"s": torch.tensor(6)}, None),
    "replaced data": (lambda c, x: c.b(c.hidden(x)[c.m]), {"m": MASK}, lambda c: setattr(c.m, "data", INDEX == 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_numbers_and_shapes_read_from_constant_tensors(name: str) -> None:
    compare(*VALUES[name])


def test_a_number_that_is_only_multiplied_with_needs_one_graph() -> None:
    critic = build(lambda: Critic(lambda c, x: c.head(x) * c.s.item(), s=torch.tensor(3.0)))
    batch = points((5, 6))
    for scale in (3.0, 0.5, 7.0):
        critic.s.fill_(scale)
        assert_same(penalty(critic, batch, "auto"), penalty(critic, batch, "ref"))
    (kind,) = capture.entry(critic).kinds.values()
    assert kind.count() == 1


# random numbers drawn in Python --------------------------------------------------------------------


def _shuffled(c: Any, x: Tensor) -> Tensor:
    shift = random.randint(-1, 1)
    return c.head(torch.roll(x, shift, 1) if shift else x)


def _augmented(c: Any, x: Tensor) -> Tensor:
    if random.random() < 0.5:
        x = x * (random.random() + 0.5)
    return c.head(x) + random.uniform(0, 1) * c.head(x * 2)


DRAWS: dict[str, Forward] = {
    "a whole number as a size": _shuffled,
    "a branch, and more draws in it": _augmented,
    "choice": lambda c, x: c.head(x) * random.choice([1.0, 2.0, 3.0]),
    "gauss": lambda c, x: c.head(x) * random.gauss(0, 1),
    "numpy": lambda c, x: c.head(x * np.random.rand()) * np.random.normal(1, 2),
    "numpy's whole number": lambda c, x: c.head(torch.roll(x, int(np.random.randint(0, 2)), 1)),
    "numpy's array": lambda c, x: c.head(x * torch.from_numpy(np.random.rand(6))),
    "numpy's permutation": lambda c, x: c.head(x[:, torch.from_numpy(np.random.permutation(6))]),
    "a stream of the critic's": lambda c, x: c.head(x) * c.python.random() * c.numpy.random(),
    "and torch's": lambda c, x: c.head(x * torch.rand(6, dtype=x.dtype) * random.random()),
    "random_": lambda c, x: c.head(x * torch.empty(6, dtype=x.dtype).random_(1, 5)),
}


def _seed(critic: Any, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    critic.python.seed(seed)
    critic.numpy.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def _next(critic: Any) -> list[float]:
    return [
        random.random(),
        np.random.rand(),
        critic.python.random(),
        critic.numpy.random(),
        float(torch.rand(())),
    ]


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_drawn_in_python_are_those_of_stock_code(name: str) -> None:
    def make() -> nn.Module:
        return Critic(DRAWS[name], python=random.Random(0), numpy=np.random.default_rng(0))

    ours, stock = build(make), build(make)
    batch = points((5, 6))
    values = set()
    for seed in range(4):
        _seed(ours, seed)
        mine = penalty(ours, batch, "auto", seed=seed)
        streams = _next(ours)
        _seed(stock, seed)
        theirs = penalty(stock, batch, "ref", seed=seed)
        assert streams == _next(stock), "a stream is elsewhere than after stock code"
        assert_same(mine, theirs)
        values.add(float(mine.value))
    assert len(values) > 1
    real, fake, alpha = batch
    losses = []
    for critic, impl in ((ours, "auto"), (stock, "ref")):
        _seed(critic, 7)
        torch.manual_seed(7)
        losses.append(wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, impl=impl).loss)
        losses.append(torch.tensor(_next(critic)))
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-9, atol=1e-12)
    assert torch.equal(losses[1], losses[3])


def test_floats_drawn_need_one_graph_and_another_stream_another() -> None:
    critic = build(lambda: Critic(lambda c, x: c.head(x) * c.python.random(), python=random.Random(0)))
    batch = points((5, 6))

    def check() -> None:
        state = critic.python.getstate()
        mine = penalty(critic, batch, "auto")
        critic.python.setstate(state)
        assert_same(mine, penalty(critic, batch, "ref"))

    for _ in range(3):
        check()
    (kind,) = capture.entry(critic).kinds.values()
    assert kind.count() == 1
    critic.python = random.Random(5)
    check()


# library functions ---------------------------------------------------------------------------------


class _Quiet(warnings.catch_warnings):
    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        return result


def _quiet(c: Any, x: Tensor) -> Tensor:
    with _Quiet():
        assert x.shape[1] == 6
    return c.head(x)


def _spectrum(c: Any, x: Tensor) -> Tensor:
    modes = torch.fft.rfft(x)
    out = torch.zeros_like(modes)
    out[:, :3] = torch.einsum("bi,io->bo", modes[:, :3], c.w)
    return c.head(torch.fft.irfft(out, n=6))


def _outer(x: Tensor) -> Tensor:
    return x[:, :, None] * x[:, None, :] + torch.eye(6, dtype=x.dtype)


def _typed(c: Any, x: Tensor) -> Tensor:
    both = [x, x]
    if torch.jit.isinstance(both, typing.List[Tensor]) and not torch.jit.isinstance(both, typing.List[int]):  # noqa: UP006
        return c.head(x) * 2
    return c.head(x)


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


LIBRARY: dict[str, tuple[Forward, Callable[[], dict[str, Any]]]] = {
    "catch_warnings": (_quiet, dict),
    "checkpoint_sequential": (
        lambda c, x: checkpoint_sequential(c.s, 2, x, use_reentrant=False), lambda: {"s": _layers()},
    ),
    "jit.isinstance": (_typed, dict),
    "inv": (lambda c, x: (x @ torch.linalg.inv(c.a.weight[:6])).tanh().sum(1), dict),
    "solve": (lambda c, x: torch.linalg.solve(c.a.weight[:6], x.T).tanh().sum(0), dict),
    "cholesky of x": (lambda c, x: c.head(torch.linalg.cholesky(_outer(x)).sum(1)), dict),
    "inverse of x": (lambda c, x: c.head(torch.linalg.inv(_outer(x)).sum(1)), dict),
    "cayley": (
        lambda c, x: c.head(c.o(x)),
        lambda: {"o": parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley")},
    ),
    "a slice of a spectrum": (
        _spectrum, lambda: {"w": nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIBRARY)
def test_library_functions(name: str) -> None:
    forward_of, attributes = LIBRARY[name]
    ours, stock = (build(lambda: Critic(forward_of, **attributes())) for _ in range(2))
    batch = points((5, 6))
    assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))


def test_a_matrix_that_has_no_factor_raises_as_in_stock_code() -> None:
    critic = build(
        lambda: Critic(
            lambda c, x: c.head(torch.linalg.cholesky(_outer(x) * c.s).sum(1)), s=torch.tensor(1.0)
        )
    )
    batch = points((5, 6))
    penalty(critic, batch, "auto")
    critic.s.neg_()
    with pytest.raises(torch.linalg.LinAlgError):
        penalty(critic, batch, "auto")


def _differentiated(how: str) -> Forward:
    def forward(c: Any, x: Tensor) -> Tensor:
        if how == "grad":
            return c.head(torch.func.grad(lambda y: c.n(y).sum())(x).tanh())
        if how == "vjp":
            y, back = torch.func.vjp(c.n, x)
            return c.head(back(torch.ones_like(y))[0].tanh())
        if how == "jvp":
            return c.head(torch.func.jvp(c.n, (x,), (torch.ones_like(x),))[1].tanh())
        jacobian = getattr(torch.func, how)(c.n if how != "hessian" else lambda y: c.n(y).sum())
        return c.head(x) + torch.vmap(jacobian)(x).sum((1, 2))[:, None]

    return forward


@pytest.mark.parametrize("how", ["grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian"])
def test_torch_func_inside(how: str) -> None:
    inner = {"n": lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))}
    ours, stock = (build(lambda: Critic(_differentiated(how), n=inner["n"]())) for _ in range(2))
    batch = points((5, 6))
    assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))


# refusals ------------------------------------------------------------------------------------------


def _derived(c: Any, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(c.hidden(x).sum(), x, create_graph=True)  # the line
    return c.head(x) + gradient.square().sum(1, keepdim=True)


def _packed(c: Any, x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x.view(5, 3, 2), [3, 3, 2, 2, 1], batch_first=True)  # the line
    return c.b(torch.tanh(c.g(packed)[1][-1]))


def _drawn(c: Any, x: Tensor) -> Tensor:
    return c.head(torch.roll(x, int(torch.randint(0, 3, (1,))), 1))  # the line


def _permuted(c: Any, x: Tensor) -> Tensor:
    order = list(range(6))
    random.shuffle(order)  # the line
    return c.head(x[:, order])


REFUSED: dict[str, tuple[Forward, Callable[[], dict[str, Any]], str]] = {
    "autograd.grad": (_derived, dict, "torch.func"),
    "packed sequences": (_packed, lambda: {"g": nn.GRU(2, 8, batch_first=True)}, "padded batch"),
    "torch's random number as a size": (_drawn, dict, "keep it a tensor"),
    "shuffle": (_permuted, dict, "draw with"),
    "a scripted module": (
        lambda c, x: c.s(x),
        lambda: {"s": torch.jit.script(_layers())},
        "that was scripted",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_line_and_its_remedy(name: str) -> None:
    forward_of, attributes, remedy = REFUSED[name]
    ours, stock = (build(lambda: Critic(forward_of, **attributes())) for _ in range(2))
    real, fake, alpha = points((5, 6))
    values = []
    for critic, impl in ((ours, "auto"), (stock, "ref")):
        random.seed(0)
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            values.append(wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl))
        if impl == "auto":
            (message,) = [str(w.message) for w in said if issubclass(w.category, StockPathWarning)]
            assert remedy in message
            assert "test_frontend.py" in message and (
                "the line" in message or "lambda c, x: c.s(x)" in message
            )
    assert torch.equal(*values)


def test_nothing_of_torch_stays_changed() -> None:
    from torch._dynamo.variables.builder import VariableBuilder

    before = VariableBuilder._wrap
    compare(*NUMPY["gain"])
    assert VariableBuilder._wrap is before
