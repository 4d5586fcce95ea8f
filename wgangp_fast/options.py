"""How a plan is run: what the callers of a penalty may choose besides its mathematics."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch

EXECUTORS = ("eager", "inductor", "graph")


@dataclass(frozen=True)
class Options:
    """How a plan is run; part of what chooses a plan.

    Attributes:
        recompute: keep less between forward and backward, and make it again.
        executor: ``"eager"``: straight-line Python; ``"inductor"``: compiled by torch.compile's back end;
            ``"graph"``: a CUDA graph of each half.
    """

    recompute: bool = False
    executor: str = "eager"


DEFAULT = Options()


def checked(recompute: object, executor: object) -> Options:
    """The choice as a value that plans are told apart by.

    Raises:
        ValueError: an unknown executor.
        TypeError: ``recompute`` is not a bool.
    """
    if not isinstance(recompute, bool):
        raise TypeError(f"recompute must be True or False; got {recompute!r}")
    if executor not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(map(repr, EXECUTORS))}; got {executor!r}")
    return DEFAULT if (recompute, executor) == (False, "eager") else Options(recompute, executor)


def plan_key(wants_x: bool, kernels: Hashable, options: Options, critic_step: bool) -> tuple[Hashable, ...]:
    """Under what a captured critic keeps a plan; the present grad mode is part of it."""
    return wants_x, torch.is_grad_enabled(), kernels, options, critic_step
