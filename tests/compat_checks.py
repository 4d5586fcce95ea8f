"""How a penalty of ``wgangp_fast.compat`` is compared with the code that it replaces.

Same seed, float64: value, gradients of every parameter, of the generator behind ``fake``, and the state of
the random generator afterwards must agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compat_originals import CRITICS, Generator
from torch import Tensor, nn

TOLERANCE = 1e-9  # relative to the largest element of each tensor

Penalty = Callable[..., Any]


def outcome(penalty: Penalty, critic: nn.Module, real: Tensor, generator: Generator) -> dict[str, Any]:
    """What a training step sees of ``penalty``: value, gradients, where the random generator stands."""
    critic.zero_grad(set_to_none=True)
    generator.zero_grad(set_to_none=True)
    torch.manual_seed(11)
    result = penalty(critic, real, generator())
    value, *more = result if isinstance(result, tuple) else (result,)
    # cal_gradient_penalty's gradients must be right and differentiable too, hence a function of them.
    (value.sum() + sum(extra.pow(3).sum() for extra in more)).backward()
    found = {f"critic {name}": p.grad for name, p in critic.named_parameters()}
    # Autograd has None for a parameter that cannot matter, the engine zeros: the same to an optimizer.
    found = {name: torch.zeros(()) if grad is None else grad for name, grad in found.items()}
    found |= {f"returned {i}": tensor.detach() for i, tensor in enumerate([value, *more])}
    return found | {"generator": generator.scale.grad, "next draw": torch.rand(1)}


def agree(ours: dict[str, Any], truth: dict[str, Any]) -> None:
    assert ours.keys() == truth.keys()
    for name, expected in truth.items():
        if expected is None or ours[name] is None:
            assert ours[name] is None, f"{name}: the original gives none"
            assert expected is None, f"{name}: the original gives one"
            continue
        # A bias in front of a normalisation has rounding errors for a gradient; all others are above 1e-3.
        scale = expected.abs().max().clamp(min=1e-3)
        assert (ours[name] - expected).abs().max() <= TOLERANCE * scale, name


def same(ours: Penalty, original: Penalty, kind: str) -> dict[str, Any]:
    torch.manual_seed(0)
    make, shape = CRITICS[kind]
    critic = make().double()
    real = torch.randn(shape, dtype=torch.float64)
    generator = Generator(shape)
    truth = outcome(original, critic, real, generator)
    assert any(grad.abs().max() > 1e-3 for name, grad in truth.items() if name.startswith("critic"))
    agree(outcome(ours, critic, real, generator), truth)
    return truth


def case(ours: Penalty, original: Penalty, kinds: str, name: str = "", attached: bool = True) -> list[Any]:
    name = name or original.__name__
    return [pytest.param(ours, original, kind, attached, id=f"{name}-{kind}") for kind in kinds.split()]


def given(function: Penalty, *args: Any, **named: Any) -> Penalty:
    """``function`` of critic, real and fake with the rest filled in behind."""
    return lambda critic, real, fake: function(critic, real, fake, *args, **named)


def on_graph(function: Penalty) -> Penalty:
    """A function of points and scores as one of critic, real and fake; the points stay attached."""

    def penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Any:
        x = 0.3 * real + 0.7 * fake
        return function(x, critic(x))

    return penalty


def imitations(function: Penalty, *args: Any) -> Penalty:
    """``function`` of critic, expert's state and action, policy's state and action as one of three."""
    return lambda critic, real, fake: function(
        critic, real[:, :4], real[:, 4:], fake[:, :4], fake[:, 4:], *args
    )


def on_graph_of_both(function: Penalty, *args: Any, **named: Any) -> Penalty:
    """A function of points and several scores; the critic's first and second output are two of them."""

    def penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Any:
        x = 0.3 * real + 0.7 * fake
        return function(x, list(critic(x)), *args, **named)

    return penalty


def partial_of(function: Penalty, *args: Any, **named: Any) -> Penalty:
    """``function`` of points and scores with the rest filled in behind."""
    return lambda x, output: function(x, output, *args, **named)


class Scaler:
    """What a penalty needs of a GradScaler."""

    def scale(self, output: Tensor) -> Tensor:
        return output * 1024.0

    def get_scale(self) -> float:
        return 1024.0


def transitions(function: Penalty, *args: Any) -> Penalty:
    """``function`` of critic, state and next state as one of critic, real and fake."""
    return lambda critic, real, _: function(critic, real[:, :3], real[:, 3:], *args)
