"""How a captured critic writes into its inputs: running statistics, ``t.data = ...``."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .. import checks
from . import torch_internals

Write = Callable[[Tensor, Tensor], Tensor]


def _effect(function: Write) -> Write:
    torch_internals.describe(function, f"{function.__name__}(Tensor(a!) self, Tensor value) -> Tensor(a!)")
    return function


@_effect
def write(tensor: Tensor, value: Tensor) -> Tensor:
    """In place, as the library's batch norm updates its statistics: a score of the same critic that saved the
    tensor for its backward pass does not take it for changed. Where that would matter stock code raises."""
    tensor.data.copy_(value)
    return tensor


@_effect
def give_data(tensor: Tensor, value: Tensor) -> Tensor:
    """``tensor.data = value``: other memory for the same tensor."""
    if checks.capturing(tensor.device):  # a replay runs no Python: the numbers have to be where they were
        return write(tensor, value)
    tensor.data = value.detach()
    return tensor


EFFECTS = {write, give_data}
