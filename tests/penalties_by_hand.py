"""Penalties as people write them, and what they give for a critic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from penalty_checks import points
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from zoo import Entry

from wgangp_fast import accelerate

Penalty = Callable[[nn.Module, Tensor], Tensor]


def gradient(critic: nn.Module, x: Tensor, weights: Tensor | None = None) -> Tensor:
    score = critic(x)
    weights = torch.ones_like(score) if weights is None else weights
    return torch.autograd.grad(score, x, weights, create_graph=True, retain_graph=True)[0].flatten(1)


def wgan_gp(critic: nn.Module, x: Tensor) -> Tensor:
    return ((gradient(critic, x).norm(2, dim=1) - 1) ** 2).mean()


def with_score(critic: nn.Module, x: Tensor) -> Tensor:
    """Both derivatives of one score: the penalty's and the score's own."""
    score = critic(x)
    (g,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return 10 * ((g.flatten(1).norm(dim=1) - 1) ** 2).mean() - 0.3 * score.mean()


def r1(critic: nn.Module, x: Tensor) -> Tensor:
    return 5 * gradient(critic, x).square().sum(1).mean()


def weighted(critic: nn.Module, x: Tensor) -> Tensor:
    """A cotangent that depends on the score itself, as in penalties of a loss."""
    score = critic(x)
    (g,) = torch.autograd.grad(score, x, torch.sigmoid(score), create_graph=True)
    return g.flatten(1).square().sum(1).mean()


def two(critic: nn.Module, x: Tensor) -> Tensor:
    """Two penalties in one graph, of which one shares the score."""
    score = critic(x)
    (a,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    (b,) = torch.autograd.grad((2 * score).sum(), x, create_graph=True)
    return a.square().mean() + b.abs().mean() + wgan_gp(critic, x * 1.1)


def scaled(critic: nn.Module, x: Tensor) -> Tensor:
    """As a GradScaler does."""
    weights = torch.full_like(critic(x.detach()), 1024.0)
    return ((gradient(critic, x, weights) / 1024).norm(dim=1) - 1).square().mean()


def of_parameters(critic: nn.Module, x: Tensor) -> Tensor:
    """Gradients of x and of the parameters, each with a graph."""
    weights = [p for p in critic.parameters() if p.requires_grad]
    found = torch.autograd.grad(critic(x).square().sum(), [x, *weights], create_graph=True, allow_unused=True)
    return sum((g.square().sum() for g in found if g is not None), x.new_zeros(()))


def generator(critic: nn.Module, x: Tensor) -> Tensor:
    return -critic(x * 1.5).mean()


PENALTIES: dict[str, Penalty] = {
    f.__name__: f for f in (wgan_gp, with_score, r1, weighted, two, scaled, of_parameters, generator)
}


def numbers(critic: nn.Module, penalty: Penalty, x: Tensor) -> list[Tensor | None]:
    """The value and the gradients of x and the parameters; the same random numbers each time."""
    critic.zero_grad()
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # for the module's own code: other kernels have no second derivative
        value = penalty(critic, x)
        value.backward()
    return [value.detach(), x.grad, *(p.grad for p in critic.parameters())]


def assert_equal(ours: list[Tensor | None], stock: list[Tensor | None]) -> None:
    for mine, theirs in zip(ours, stock, strict=True):
        if mine is None or theirs is None:
            assert mine is None or not mine.any()
            assert theirs is None or not theirs.any()
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def batch() -> Tensor:
    return torch.randn(5, 3, dtype=torch.float64)


def on_engine(score: Tensor) -> bool:
    return type(score.grad_fn).__name__ == "_ScoreBackward"


def compare(entry: Entry, penalty: Penalty, calls: int = 2) -> None:
    """Two copies of a critic, one accelerated, live through the same calls."""
    copies = []
    for _ in range(2):  # not by deepcopy, which old weight norms do not allow
        torch.manual_seed(0)
        copies.append(entry.build().double())
    own, ours = copies[0], accelerate(copies[1])
    x = points(entry.shape)[0]
    for _ in range(calls):
        assert_equal(numbers(ours, penalty, x), numbers(own, penalty, x))
    for mine, theirs in zip(ours.state_dict().values(), own.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)
