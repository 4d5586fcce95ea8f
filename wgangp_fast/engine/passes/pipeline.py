"""The ordered list of passes over derived sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ir import Sweeps
from . import liveness as memory
from . import rematerialize as remat
from .fold_ones import fold_ones
from .in_place import overwrite, overwrites
from .recompute import recompute


def run_passes(sweeps: Sweeps, inputs: Sequence[Any] | None = None, repeat: bool = False) -> None:
    """Rewrite both graphs in place.

    Args:
        inputs: fake values of x and the leaves; without them nothing is done about memory.
        repeat: make values again, products too, rather than keep them.
    """
    fold_ones(sweeps)
    if sweeps.backward is not None:
        recompute(sweeps)
        if inputs is not None:
            reduce_peak_memory(sweeps, inputs, repeat)
    for module in (sweeps.forward, sweeps.backward):
        if module is not None:
            overwrite(module.graph)


def reduce_peak_memory(sweeps: Sweeps, inputs: Sequence[Any], repeat: bool) -> None:
    """Lower the peak of memory."""
    try:
        joint = memory.JointGraph(sweeps, inputs)
    except memory.Unknown:
        return  # an operator without fake values: the plan is right as it is
    remat.reduce_peak_memory(joint, overwrites, repeat)
    joint.split()
