"""How a plan is run: what callers choose apart from the mathematics of the penalty."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

EXECUTORS = ("eager", "inductor", "graph")


@dataclass(frozen=True)
class Options:
    """How a plan is run. Each combination has a plan of its own.

    Attributes:
        recompute: keep less between forward and backward, and compute it again.
        executor: ``"eager"``: straight-line Python; ``"inductor"``: compiled by torch.compile's back end;
            ``"graph"``: a CUDA graph of each half.
    """

    recompute: bool = False
    executor: str = "eager"


DEFAULT = Options()


def checked(recompute: object, executor: object) -> Options:
    """The options of a call, checked.

    Raises:
        ValueError: an unknown executor.
        TypeError: ``recompute`` is not a bool.
    """
    if not isinstance(recompute, bool):
        raise TypeError(f"recompute must be True or False; got {recompute!r}")
    if executor not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(map(repr, EXECUTORS))}; got {executor!r}")
    return DEFAULT if (recompute, executor) == (False, "eager") else Options(recompute, executor)


def plan_key(
    wants_x: bool, kernels: Hashable, options: Options, critic_step: bool, grad_outputs: bool | None
) -> tuple[Hashable, ...]:
    """The key under which a captured critic keeps a plan; it includes the present grad mode."""
    return wants_x, torch.is_grad_enabled(), kernels, options, critic_step, grad_outputs
