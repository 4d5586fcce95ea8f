"""The table of contestants: ways to compute the penalty and its parameter gradients.

To add one, write a function that takes ``(critic, real, fake, alpha)``, does whatever it may do once
(trace, compile), and returns a step: a function of no arguments that computes the penalty at
``alpha * real + (1 - alpha) * fake``, adds its gradients to ``parameter.grad``, and returns the penalty.
Then add it to :data:`CONTESTANTS`. :mod:`.suite` checks it, clears the gradients and times it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..penalty import gradient_penalty

Step = Callable[[], Tensor]
Contestant = Callable[[nn.Module, Tensor, Tensor, Tensor], Step]


def stock(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    """The lines that the field copies, with ``reshape`` for their ``view``; every ratio is against this."""

    def step() -> Tensor:
        a = alpha.reshape(-1, *[1] * (real.dim() - 1))
        interpolates = (a * real + (1 - a) * fake).requires_grad_(True)
        scores = critic(interpolates)
        gradients = torch.autograd.grad(
            outputs=scores,
            inputs=interpolates,
            grad_outputs=torch.ones_like(scores),
            create_graph=True,
            retain_graph=True,
            only_inputs=True,
        )[0]
        gradients = gradients.reshape(gradients.shape[0], -1)
        penalty = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        penalty.backward()
        return penalty.detach()

    return step


def ours(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    """``wgangp_fast.gradient_penalty`` with its default implementation."""

    def step() -> Tensor:
        penalty = gradient_penalty(critic, real, fake, alpha=alpha)
        penalty.backward()
        return penalty.detach()

    return step


BASELINE = "stock"
CONTESTANTS: dict[str, Contestant] = {BASELINE: stock, "ours": ours}


def clear_gradients(critic: nn.Module) -> None:
    """Set every ``parameter.grad`` to None, as ``zero_grad`` does; part of each timed call."""
    for parameter in critic.parameters():
        parameter.grad = None
