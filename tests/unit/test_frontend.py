"""What critics do in Python: numpy scalars and arrays, numbers and shapes read from tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from frontend_critic import Critic, Forward, compare
from penalty_checks import assert_same, build, penalty, points
from torch import Tensor

from wgangp_fast.engine.capture import dynamo as capture

# numpy ---------------------------------------------------------------------------------------------

NUMPY: dict[str, tuple[Forward, dict[str, Any], Any]] = {
    "width": (lambda c, x: c.head(x.view(-1, c.w)), {"w": np.int64(6)}, None),
    "gain": (lambda c, x: c.head(x) * c.g if c.g != 1 else x, {"g": np.sqrt(2)}, {"g": np.float64(3)}),
    "gain first": (lambda c, x: c.g * c.head(x), {"g": np.float32(0.1)}, {"g": np.float32(0.3)}),
    "kind": (
        lambda c, x: c.head(x) * (2 if isinstance(c.g, float) else 5),
        {"g": np.float64(2)},
        {"g": np.int64(2)},
    ),
    "float32 arithmetic": (
        lambda c, x: c.head(x) * (c.g * 3.3),
        {"g": np.float32(0.1)},
        {"g": np.float64(0.1)},
    ),
    "integers": (
        lambda c, x: c.head(x) * (c.k // 2 + c.k / 3) - c.k**2,
        {"k": np.int64(7)},
        {"k": np.int64(9)},
    ),
    "reversed": (
        lambda c, x: c.head(x) * (9 // c.k + 1 / c.k - 2**c.k),
        {"k": np.int64(7)},
        {"k": np.int64(2)},
    ),
    "flag": (lambda c, x: c.head(x) * 3 if c.k else c.head(x), {"k": np.bool_(True)}, {"k": np.bool_(False)}),
    "loop": (lambda c, x: c.head(sum(x for _ in range(c.k))), {"k": np.int64(2)}, {"k": np.int64(3)}),
    "method": (
        lambda c, x: c.head(x) * c.k.astype(np.int32).item(),
        {"k": np.float32(2.1)},
        {"k": np.float32(3)},
    ),
    "in a list": (
        lambda c, x: c.head(x) * c.k[1][0],
        {"k": [1, (np.float64(2),)]},
        {"k": [1, (np.float64(3),)]},
    ),
    "NaN": (
        lambda c, x: c.head(x) * (2 if np.isnan(c.k) else 3),
        {"k": np.float64("nan")},
        {"k": np.float64(1)},
    ),
    "signed zero": (
        lambda c, x: c.head(x) * (2 if np.signbit(c.k) else 3),
        {"k": np.float64(0.0)},
        {"k": np.float64(-0.0)},
    ),
    "product of a shape": (lambda c, x: c.head(x.reshape(-1, np.prod(x.shape[1:]))), {}, None),
    "function": (lambda c, x: c.head(x) * np.sqrt(c.k) * int(np.log2(c.k)), {"k": 8}, {"k": 16}),
    "tensor of it": (
        lambda c, x: c.head(x * (100 * torch.tensor(c.k) * torch.tensor([c.k] * 6))),
        {"k": np.float32(0.1)},
        {"k": np.float32(0.3)},
    ),
    "array": (
        lambda c, x: c.head(x * torch.from_numpy(c.k) + torch.as_tensor(c.k)),
        {"k": np.linspace(0, 1, 6)},
        {"k": np.linspace(1, 2, 6)},
    ),
    "array in place": (
        lambda c, x: c.head(x * torch.from_numpy(c.k)),
        {"k": np.linspace(0, 1, 6)},
        lambda c: c.k.__setitem__(0, 5.0),
    ),
    "size in an array": (lambda c, x: c.head(x.view(-1, c.k[1])), {"k": np.array([1, 6])}, None),
}


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
    "written from x": (_written, {"r": torch.zeros(6, dtype=torch.float64)}, None),
    "branch": (lambda c, x: c.head(x) * 3 if c.m.all() else c.head(x), {"m": MASK}, _set("m", ~MASK | MASK)),
    "comparison": (
        lambda c, x: c.head(x) * 3 if c.s > 1 and c.s < 4 else c.head(x),
        {"s": torch.tensor(3)},
        _set("s", torch.tensor(9)),
    ),
    "list": (
        lambda c, x: c.b(torch.cat(c.hidden(x).split(c.s.tolist())[::-1])),
        {"s": torch.tensor([2, 3])},
        _set("s", torch.tensor([1, 4])),
    ),
    "slice": (
        lambda c, x: c.head(torch.cat([x[:, : c.s], x[:, c.s :] * 2], 1)),
        {"s": torch.tensor(3)},
        _set("s", torch.tensor(1)),
    ),
    "nonzero": (
        lambda c, x: c.b(c.hidden(x)[c.m.nonzero().squeeze(1)]),
        {"m": MASK},
        _set("m", MASK & ~MASK | (INDEX == 1)),
    ),
    "mask": (lambda c, x: c.b(c.hidden(x)[c.m]), {"m": MASK}, _set("m", INDEX == 0)),
    "mask of columns": (
        lambda c, x: c.head(torch.cat([x[:, c.m], x[:, ~c.m]], 1)),
        {"m": torch.arange(6) > 2},
        _set("m", torch.arange(6) == 2),
    ),
    "unique": (lambda c, x: c.b(c.hidden(x)[torch.unique(c.i)]), {"i": INDEX}, _set("i", OTHER)),
    "repetition": (
        lambda c, x: c.b(c.hidden(x).repeat_interleave(c.i + 1, 0)),
        {"i": INDEX},
        _set("i", OTHER),
    ),
    "a tensor as a size": (lambda c, x: c.head(x.view(-1, c.s)), {"s": torch.tensor(6)}, None),
    "replaced data": (
        lambda c, x: c.b(c.hidden(x)[c.m]),
        {"m": MASK},
        lambda c: setattr(c.m, "data", INDEX == 0),
    ),
}


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


def test_nothing_of_torch_stays_changed() -> None:
    from torch._dynamo.variables.builder import VariableBuilder

    before = VariableBuilder._wrap
    compare(*NUMPY["gain"])
    assert VariableBuilder._wrap is before
