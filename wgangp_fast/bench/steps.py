"""What a benchmark computes: the penalty alone, the critic's whole loss, or a training iteration.

A :class:`Task` names one of them and holds the lines that the field copies; whoever competes is made from
a task (:mod:`.contestants`, :mod:`.rivals`), so that a way of computing is written once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..loss import critic_loss
from ..penalty import gradient_penalty
from .modes import FLOAT32, Mode

LAMBDA = 10.0

Score = Callable[[Any], Any]
"""``[N, ...]`` to scores; a module, or its function in torch.func or JAX, whose arrays have ``mean`` too."""
Combine = Callable[[Score, Any, Any, Callable[[], Any]], Any]
"""``combine(score, real, fake, penalty)``: the loss, from a function that computes the penalty."""
Loss = Callable[[Score, Tensor, Tensor, Tensor], Tensor]
"""``loss(score, real, fake, alpha)``: a scalar that autograd can differentiate."""

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``step(real, fake, alpha)`` adds the loss's gradients to ``parameter.grad`` and returns the loss, detached.
Each call may bring other tensors of the shapes that the step was made for."""
Contestant = Callable[[nn.Module, Tensor, Tensor, Tensor], Step]
"""``contestant(critic, real, fake, alpha)`` does what may be done once (trace, compile); returns a step."""


class Absent(Exception):
    """Raised by a contestant that is not installed, or does not apply; the message says why."""


def interpolate(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * real + (1 - alpha) * fake``, ``alpha`` ``[N]``; also on JAX arrays."""
    a = alpha.reshape(-1, *[1] * (real.ndim - 1))
    return a * real + (1 - a) * fake


def stock_penalty(score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """The lines that the field copies, with ``reshape`` for their ``view``."""
    interpolates = interpolate(real, fake, alpha).requires_grad_(True)
    scores = score(interpolates)
    gradients = torch.autograd.grad(
        outputs=scores,
        inputs=interpolates,
        grad_outputs=torch.ones_like(scores),
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    gradients = gradients.reshape(gradients.shape[0], -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean()


def _our_penalty(score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return gradient_penalty(score, real, fake, alpha=alpha)


def _our_loss(score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return critic_loss(score, real, fake, lambda_gp=LAMBDA, alpha=alpha).loss


def _whole(score: Score, real: Any, fake: Any, penalty: Callable[[], Any]) -> Any:
    # Real first: a critic whose buffers move (spectral norm) sees the batches in the package's order.
    of_real, of_fake = score(real).mean(), score(fake).mean()
    return of_fake - of_real + LAMBDA * penalty()


def _our_penalty_alone(score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    loss: Tensor = _whole(score, real, fake, lambda: _our_penalty(score, real, fake, alpha))
    return loss


def eager(loss: Loss, mode: Mode = FLOAT32) -> Contestant:
    """Compute ``loss`` as it is written, then ``backward()``."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            with mode.loss(real.device):
                value = loss(critic, real, fake, alpha)
            value.backward()
            return value.detach()

        return step

    return contestant


@dataclass(frozen=True)
class Task:
    """One thing to compute.

    Attributes:
        name: as in ``--suite`` and in the rows of a result.
        timed: what a timed call contains.
        combine: the loss, given the penalty.
        ours: name to loss, for each of the package's own entries.
        one_pass: the critic may run once on all samples together, so that random masks come in another
            order than stock code's; answers are then compared with the masks fixed.
        around: makes the contestant that computes a loss; a training iteration has an optimiser in it.
        stateful: steps keep more than the model's tensors (an optimiser's), so each check builds its own.
        rivals: whether the ways of computing a loss that other people use can compute this.
        critic_batches: real batches that a call shows to the critic, where training is timed: what seconds a
            thousand images (sec/kimg) are counted from.
    """

    name: str
    timed: str
    combine: Combine
    ours: Mapping[str, Loss]
    one_pass: bool = False
    around: Callable[[Loss, Mode], Contestant] = eager
    stateful: bool = False
    rivals: bool = True
    critic_batches: int = 0

    def stock(self, score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        """The loss as stock code computes it."""
        return self.combined(stock_penalty)(score, real, fake, alpha)

    def combined(self, penalty: Loss) -> Loss:
        """The loss with stock code's scores and another's penalty."""

        def loss(score: Score, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            found: Tensor = self.combine(score, real, fake, lambda: penalty(score, real, fake, alpha))
            return found

        return loss


PENALTY = Task(
    "penalty",
    "parameter.grad = None, forward, penalty, backward to the parameters; alpha given",
    lambda score, real, fake, penalty: penalty(),
    {"ours": _our_penalty},
)
CRITIC_STEP = Task(
    "critic_step",
    f"parameter.grad = None, mean D(fake) - mean D(real) + {LAMBDA:g} * penalty, backward to the parameters; "
    "alpha given",
    _whole,
    {"ours": _our_loss, "ours-penalty-only": _our_penalty_alone},
    one_pass=True,
)


def clear_gradients(critic: nn.Module) -> None:
    """Set every ``parameter.grad`` to None, as ``zero_grad`` does; part of each timed call."""
    for parameter in critic.parameters():
        parameter.grad = None


def give(parameters: Iterable[nn.Parameter], gradients: Iterable[Tensor | None]) -> None:
    """Add ``gradients`` to ``parameter.grad``, as ``backward`` does."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
