"""``input_gradient`` with ``grad_outputs``: equal to ``torch.autograd.grad``; so are its own gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from penalty_checks import points
from torch import Tensor, nn
from zoo import ZOO

import wgangp_fast
from wgangp_fast import input_gradient
from wgangp_fast.engine.capture import dynamo
from wgangp_fast.engine.derive.given_cotangent import CotangentDerivation

CRITICS = (
    *("ReLU", "Tanh", "Softmax", "GLU", "PReLU", "bilinear layer", "arithmetic", "detach", "dropout"),
    *("layer norm", "batch norm 1-D", "instance norm, affine", "spectral norm", "weight norm", "max pool"),
    *("projection critic", "patch scores", "score [N]", "score scalar", "score of norms", "DCGAN"),
)


def numbers(critic: nn.Module, x: Tensor, weights: Tensor, impl: str) -> list[Tensor | None]:
    """The gradient, and those of a penalty of it, of all that require one."""
    torch.manual_seed(1)
    found = input_gradient(critic, x, grad_outputs=weights, impl=impl)
    asked = [t for t in (x, weights, *critic.parameters()) if t.requires_grad]
    penalty = (found.flatten(1).norm(dim=1) - 1).square().mean()
    return [found.detach(), *torch.autograd.grad(penalty, asked, allow_unused=True)]


@pytest.mark.parametrize("weights_require", [False, True], ids=["constant", "differentiable"])
@pytest.mark.parametrize("name", CRITICS)
def test_equals_autograd(name: str, weights_require: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")
    entry = ZOO[name]
    torch.manual_seed(0)
    critic = entry.build().double()
    state = {key: value.clone() for key, value in critic.state_dict().items()}
    x = points(entry.shape)[0].clone().requires_grad_()
    score = critic(x.detach())
    critic.load_state_dict(state)
    weights = torch.randn_like(score).requires_grad_(weights_require)
    ours = numbers(critic, x, weights, "auto")
    critic.load_state_dict(state)
    stock = numbers(critic, x, weights, "ref")
    assert dynamo.entry(critic).refused is None
    for mine, theirs in zip(ours, stock, strict=True):
        if theirs is None:
            assert mine is None or not mine.any()
        else:
            assert mine is not None
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)


def small() -> tuple[nn.Module, Tensor]:
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    return critic, torch.randn(4, 3, dtype=torch.float64)


def test_ones_are_the_default() -> None:
    critic, x = small()
    ones = torch.ones(4, 2, dtype=torch.float64)
    torch.testing.assert_close(input_gradient(critic, x, grad_outputs=ones), input_gradient(critic, x))


def test_the_cotangent_alone_may_require_a_gradient() -> None:
    critic, x = small()
    critic.requires_grad_(False)
    weights = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    for impl in ("auto", "ref"):
        found = input_gradient(critic, x, grad_outputs=weights, impl=impl)
        (of_weights,) = torch.autograd.grad(found.square().sum(), weights)
        if impl == "auto":
            ours = of_weights
    torch.testing.assert_close(ours, of_weights)


@pytest.mark.parametrize("impl", ["auto", "ref"])
@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (torch.ones(4), ValueError),
        (torch.ones(4, 2), ValueError),  # float32 beside a float64 score
        ([1.0, 2.0], TypeError),
    ],
    ids=["shape", "dtype", "no tensor"],
)
def test_wrong_cotangents(weights: Any, error: type[Exception], impl: str) -> None:
    critic, x = small()
    with pytest.raises(error, match="grad_outputs must"):
        input_gradient(critic, x, grad_outputs=weights, impl=impl)


def test_a_lost_gradient_of_the_cotangent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CotangentDerivation, "_has_backward", lambda self: bool(self.requires_grad))
    results = CotangentDerivation._results

    def forgetful(self: CotangentDerivation) -> Any:
        result, (of_x, _) = results(self)
        return result, (of_x, None)

    monkeypatch.setattr(CotangentDerivation, "_results", forgetful)
    critic, x = small()
    weights = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    with pytest.warns(wgangp_fast.StockPathWarning, match="the gradient of a sample"):
        input_gradient(critic, x, grad_outputs=weights)
