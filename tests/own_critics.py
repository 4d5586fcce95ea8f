"""What a user would bring to ``wgangp-fast bench --critic own_critics:NAME``; samples are ``[3, 2, 2]``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Critic = Callable[[Tensor], Tensor]


def rectified() -> nn.Module:
    layers = nn.Conv2d(3, 8, 2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.2)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 1))


def spectral() -> nn.Module:
    """Each pass changes a buffer."""
    inner = nn.utils.spectral_norm(nn.Linear(12, 8))
    return nn.Sequential(nn.Flatten(), inner, nn.Tanh(), nn.Linear(8, 1))


class Perceptron(nn.Module):
    """A base of critics that do something between the layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(12, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.outer(self.between(torch.tanh(self.inner(x.flatten(1)))))
        return scores

    def between(self, hidden: Tensor) -> Tensor:
        return hidden


class Branching(Perceptron):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden if hidden.sum().item() < 1e9 else -hidden


class Dropping(Perceptron):
    def between(self, hidden: Tensor) -> Tensor:
        return F.dropout(hidden, 0.5, self.training)


class Layer(Perceptron):
    """Dropout as a layer, whose masks a comparison can fix."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Dropout(0.5)

    def between(self, hidden: Tensor) -> Tensor:
        return hidden * self.mask(torch.ones_like(hidden))


class Narrow(Perceptron):
    """Some of its tensors are float32 whatever it is given."""

    def between(self, hidden: Tensor) -> Tensor:
        return hidden @ torch.ones(8, 8)


class Generic(Perceptron):
    def between(self, hidden: Tensor) -> Tensor:
        return hidden.logcumsumexp(1)


def plain() -> Critic:
    """No module, layers that do not know their sizes, and weights that torch's seed does not decide."""
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 1))
    with torch.no_grad():
        net[3].weight.copy_(torch.from_numpy(np.random.default_rng().standard_normal((1, 8))))
    return lambda x: net(x)[:, 0]


ONE = Perceptron()


def shared() -> nn.Module:
    return ONE


def pair() -> Callable[[Tensor], tuple[Tensor, int]]:
    critic = Perceptron()
    return lambda x: (critic(x), 1)


def untrainable() -> nn.Module:
    return nn.Flatten()


def raising() -> nn.Module:
    raise RuntimeError("no weights\nin this folder")


# penalties ---------------------------------------------------------------------------------------


def norms(critic: nn.Module, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.flatten(1).norm(2, dim=1)


def numpy_alpha(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The weight of the penalty in it, alpha from numpy."""
    alpha = torch.from_numpy(np.random.default_rng().random((len(real), 1, 1, 1))).to(real)
    return 10 * (norms(critic, alpha * real + (1 - alpha) * fake) - 1).square().mean()


def other_way(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Alpha is the weight of the fake samples."""
    alpha = torch.rand(len(real), 1, 1, 1, device=real.device)
    return (norms(critic, real + alpha * (fake - real)) - 1).square().mean()


def zero_centred(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return norms(critic, real).square().mean()


def perturbed(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """DRAGAN's points."""
    return (norms(critic, real + 0.5 * real.std() * torch.rand_like(real)) - 1).square().mean()


def one_gradient_off(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """The value is right."""
    found = other_way(critic, real, fake)
    weight = next(critic.parameters())
    return found + 0.01 * (weight.sum() - weight.sum().detach())


def not_finite(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return other_way(critic, real, fake) * float("nan")


def no_tensor(critic: nn.Module, real: Tensor, fake: Tensor) -> float:
    return float(other_way(critic, real, fake).detach())


def one_a_sample(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return norms(critic, real)
