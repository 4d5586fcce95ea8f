"""Losses of the critic and of the generator, as pure functions of scores (paper section 2).

``real`` and ``fake`` are raw critic scores ``[N]``, no sigmoid; every reduction is a mean over the batch;
every result is a scalar to be minimised. The gradient penalty and the clipping are steps of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """``mean f - mean r``; minus this is the estimate of the Wasserstein distance."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """``-mean f``."""
    return -fake.mean()


def nonsaturating_critic(real: Tensor, fake: Tensor) -> Tensor:
    """``(mean softplus(f) + mean softplus(-r)) / 2``: sigmoid cross-entropy, halved."""
    return (softplus(fake).mean() + softplus(-real).mean()) / 2


def nonsaturating_generator(fake: Tensor) -> Tensor:
    """``mean softplus(-f)``."""
    return softplus(-fake).mean()


def least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    """``(mean (r - 1)^2 + mean f^2) / 2``."""
    return ((real - 1).square().mean() + fake.square().mean()) / 2


def least_squares_generator(fake: Tensor) -> Tensor:
    """``mean (f - 1)^2``, without a half."""
    return (fake - 1).square().mean()


def classes(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of ``logits [N, K]`` (raw) and ``labels [N]`` int64: the second head of an AC-GAN.

    The critic adds it for real samples alone, the generator for its own (paper section 9).
    """
    return cross_entropy(logits.float(), labels)


class Loss(NamedTuple):
    """A pair of losses, and what the loop adds to the critic's."""

    critic: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    penalised: bool = False
    clipped: bool = False

    @property
    def whole(self) -> bool:
        """Whether the critic's part is what :func:`wgangp_fast.critic_loss` computes in one pass."""
        return self.penalised and self.critic is wasserstein_critic


LOSSES = {
    "wgan-gp": Loss(wasserstein_critic, wasserstein_generator, penalised=True),
    "wgan": Loss(wasserstein_critic, wasserstein_generator, clipped=True),
    "gan": Loss(nonsaturating_critic, nonsaturating_generator),
    "gan-gp": Loss(nonsaturating_critic, nonsaturating_generator, penalised=True),
    "lsgan": Loss(least_squares_critic, least_squares_generator),
}


def clip_(parameters: Iterable[Tensor], bound: float) -> None:
    """Clamp every parameter to ``[-bound, bound]`` in place: weights, biases, norm scales and offsets."""
    with torch.no_grad():
        for parameter in parameters:
            parameter.clamp_(-bound, bound)
