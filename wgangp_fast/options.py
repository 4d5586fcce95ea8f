"""How a plan is run: what the callers of a penalty may choose besides its mathematics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXECUTORS = ("eager", "inductor", "graph")


@dataclass(frozen=True)
class Execution:
    """How a plan is run; part of what chooses a plan.

    Attributes:
        recompute: keep less between forward and backward, and make it again.
        executor: ``"eager"``: straight-line Python; ``"inductor"``: compiled by torch.compile's back end;
            ``"graph"``: a CUDA graph of each half.
    """

    recompute: bool = False
    executor: str = "eager"


DEFAULT = Execution()


def execution(recompute: Any, executor: Any) -> Execution:
    """The checked choice.

    Raises:
        ValueError: an unknown executor.
        TypeError: ``recompute`` is not a bool.
    """
    if not isinstance(recompute, bool):
        raise TypeError(f"recompute must be True or False; got {recompute!r}")
    if executor not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(map(repr, EXECUTORS))}; got {executor!r}")
    return DEFAULT if (recompute, executor) == (False, "eager") else Execution(recompute, executor)
