"""Critics that look at what a tensor is beside its numbers: the engine's x is another object than stock's."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from frontend_critic import Critic
from penalty_checks import assert_same, build, penalty, points
from torch import Tensor

import wgangp_fast
from wgangp_fast.errors import StockPathWarning


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine alone has to be right: no comparison with stock code."""
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")


def _leaf() -> Tensor:
    return torch.randn(5, 6, dtype=torch.float64)


def _with_gradient() -> Tensor:
    x = _leaf().requires_grad_()
    x.sum().backward()
    return x


def _carrying() -> Tensor:
    x = _leaf()
    x.note = 1  # what users put on their tensors
    return x


def _retaining() -> Tensor:
    x = _leaf().requires_grad_() * 2
    x.retain_grad()
    return x


SAMPLES: dict[str, Callable[[], Tensor]] = {
    "a leaf": _leaf,
    "a leaf that asks": lambda: _leaf().requires_grad_(),
    "with a gradient": _with_gradient,
    "no leaf": lambda: _leaf().requires_grad_() * 2,
    "that retains its gradient": _retaining,
    "a view": lambda: torch.randn(7, 6, dtype=torch.float64)[1:6],
    "written to": lambda: _leaf().add_(1),
    "with an attribute": _carrying,
}
CALLS: dict[str, Callable[..., Tensor]] = {
    "penalty": wgangp_fast.gradient_penalty,
    "loss": lambda *a, **k: wgangp_fast.critic_loss(*a, **k).loss,
    "input gradient": lambda critic, real, fake, alpha, impl: wgangp_fast.input_gradient(
        critic, real, impl=impl
    ),
}
LOOKS: dict[str, Callable[[Tensor], Any]] = {
    "is_leaf": lambda x: x.is_leaf,
    "is_leaf of x by another name": lambda x: x.contiguous().to(x.dtype).is_leaf,
    "is_leaf of the base of a view": lambda x: x.view(-1)._base.is_leaf,  # type: ignore[union-attr]
    "grad_fn": lambda x: x.grad_fn is None,
    "retains_grad": lambda x: x.retains_grad,
    "grad": lambda x: x.grad is None,
    "_base": lambda x: x._base is None,
    "_version": lambda x: x._version == 0,
    "_is_view": lambda x: x._is_view(),
    "hasattr": lambda x: hasattr(x, "note"),
    "getattr": lambda x: getattr(x, "note", None) is None,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("look", LOOKS)
def test_what_x_is_beside_its_numbers_is_stock_codes(look: str, call: str) -> None:
    """Also where the answer differs from sample to sample: one critic sees all kinds."""
    ours, stock = (
        build(lambda: Critic(lambda c, x: c.head(x) * (2 if LOOKS[look](x) else 3))) for _ in range(2)
    )
    said = ""
    for make in SAMPLES.values():
        values = []
        for critic, impl in ((ours, "auto"), (stock, "ref")):
            torch.manual_seed(3)
            real, fake, alpha = make(), _leaf(), torch.rand(5, dtype=torch.float64)
            with warnings.catch_warnings(record=True) as met:
                warnings.simplefilter("always")
                values.append(CALLS[call](critic, real, fake, alpha=alpha, impl=impl))
            said += "".join(str(w.message) for w in met if issubclass(w.category, StockPathWarning))
        torch.testing.assert_close(*values, rtol=1e-9, atol=1e-12)
    assert re.search(r"looks at \.|returned non-Tensor", said)
    assert "test_frontend_objects.py" in said


def test_what_does_not_differ_stays_on_the_engine() -> None:
    """Of x what its kind decides; of intermediate tensors and parameters all."""

    def forward(c: Any, x: Tensor) -> Tensor:
        h = x * 2
        size = x.ndim + x.itemsize + int(x.requires_grad) + int(h.is_leaf) + int(x.detach().is_leaf)
        return c.head(h) * (size if c.a.weight.is_leaf and c.a.weight.grad_fn is None else 1)

    for of_points in (False, True):
        ours, stock = (build(lambda: Critic(forward)) for _ in range(2))
        batch = points((5, 6))
        assert_same(penalty(ours, batch, "auto", of_points), penalty(stock, batch, "ref", of_points))


@pytest.mark.parametrize("look", ["is_leaf", "grad_fn", "retains_grad"])
def test_what_another_tensor_is_may_change(look: str) -> None:
    def forward(c: Any, x: Tensor) -> Tensor:
        return c.head(x) * c.scale * (2 if LOOKS[look](c.scale) else 3)

    ours, stock = (build(lambda: Critic(forward)) for _ in range(2))
    batch = points((5, 6))
    leaf = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    for scale in (leaf, leaf * 2, _kept(leaf), leaf):
        outcomes = []
        for critic, impl in ((ours, "auto"), (stock, "ref")):
            critic.scale = scale
            real, fake, alpha = batch
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StockPathWarning)  # grad_fn of a tensor that has one
                outcomes.append(wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl))
        torch.testing.assert_close(*outcomes, rtol=1e-9, atol=1e-12)


def _kept(leaf: Tensor) -> Tensor:
    scale = leaf * 3
    scale.retain_grad()
    return scale
