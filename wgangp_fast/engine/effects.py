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
    """Write in place, as torch's batch norm updates its statistics: autograd does not count it as a change.
    Another score of the same critic may have saved the tensor, and its backward pass must still run."""
    tensor.data.copy_(value)
    return tensor


@_effect
def give_data(tensor: Tensor, value: Tensor) -> Tensor:
    """``tensor.data = value``: the same tensor gets other memory."""
    if checks.capturing(tensor.device):  # a replay runs no Python: keep the captured address
        return write(tensor, value)
    tensor.data = value.detach()
    return tensor


EFFECTS = {write, give_data}
