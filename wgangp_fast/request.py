"""One call's checked arguments, as one value from the public function to the autograd Function."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import backend, checks, options, wrappers
from .options import Options
from .wrappers import Critic, Finish, Output


@dataclass(frozen=True)
class Request:
    """The arguments of one call. All of them are checked, and nothing of the critic has run.

    Attributes:
        critic: without the wrappers that it came in (see ``wrappers.py``).
        output: picks the score out of what the critic returns; None: what it returns is the score.
        real: ``[N, ...]``, as the caller gave it.
        fake: ``[N, ...]``, as the caller gave it.
        alpha: ``[N]``; None: still to be drawn.
        generator: source of ``alpha``.
        target, one_sided, reduction: of the penalty.
        lambda_gp: the penalty's weight in the critic loss.
        backend: ``"auto"``, ``"ref"``, or the name of kernels that can run on the samples' device.
        options: how the plan is run.
    """

    critic: Critic
    output: Output | None
    real: Tensor
    fake: Tensor
    alpha: Tensor | None
    generator: torch.Generator | None
    target: float
    one_sided: bool
    reduction: str
    lambda_gp: float
    backend: str
    options: Options

    def score(self, x: Tensor) -> Tensor:
        """The critic's score at ``x``, by the critic itself.

        Raises:
            TypeError: it is not one tensor.
        """
        return score_of(self.critic, self.output, x)


def checked(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    alpha: Tensor | None,
    target: float,
    one_sided: bool,
    output: Output | None,
    generator: torch.Generator | None,
    impl: str,
    recompute: bool,
    executor: str,
    reduction: str = "mean",
    lambda_gp: float = 1.0,
) -> tuple[Request, Finish]:
    """The request, and a function to apply to its result: what DDP does there, if the critic came in DDP.

    Raises:
        ValueError, TypeError: an argument is wrong.
        BackendError: ``impl`` names kernels that cannot run here; says why.
    """
    checks.pair(real, fake)
    chosen = backend.resolve(impl, real.device)
    checks.no_transform()
    checks.reduction_and_target(reduction, target)
    if not isinstance(lambda_gp, (int, float)) or not math.isfinite(lambda_gp):
        raise ValueError(f"lambda_gp must be a finite number; got {lambda_gp!r}")
    weights = checks.weights(alpha, real)
    how = options.checked(recompute, executor)
    critic, finish = wrappers.enter(critic)
    request = Request(
        critic, output, real, fake, weights, generator,
        float(target), one_sided, reduction, float(lambda_gp), chosen, how,
    )  # fmt: skip
    return request, finish


def score_of(critic: Critic, output: Output | None, x: Tensor) -> Tensor:
    """The critic's score, picked by ``output`` and checked to be one tensor."""
    result = critic(x)
    result = result if output is None else output(result)
    if not isinstance(result, Tensor):
        raise TypeError(
            f"the critic must return one tensor, got {type(result).__name__}: pass output=, a function "
            f"that picks the score (for example output=lambda result: result[0])"
        )
    return result
