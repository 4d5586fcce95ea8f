"""Plans: derived sweeps made ready to run, one for each thing that may be asked of a captured critic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .capture import Binding, Captured
from .derive import Sweeps, derive
from .fuse import fuse


class Plan:
    """Runs the four sweeps of one captured critic.

    Attributes:
        sweeps: the code; ``print(plan.sweeps.forward.code)`` reads well.
        wanted: which leaves get a gradient.
    """

    def __init__(self, captured: Captured, wants_x: bool, leaves: tuple[Any, ...]) -> None:
        grad = torch.is_grad_enabled()
        self.wanted = tuple(
            i for i, leaf in enumerate(leaves) if grad and isinstance(leaf, Tensor) and leaf.requires_grad
        )
        self.count = len(leaves)
        self.sweeps: Sweeps = derive(captured.critic, wants_x, self.wanted)
        fuse(self.sweeps)
        self._forward = self.sweeps.forward.forward
        self._backward = self.sweeps.backward.forward if self.sweeps.backward is not None else None
        kinds = self.sweeps.saved_is_tensor
        self._all_tensors = all(kinds)
        self._tensors = [i for i, is_tensor in enumerate(kinds) if is_tensor]
        self._numbers = [i for i, is_tensor in enumerate(kinds) if not is_tensor]
        self._zero = sorted(self.sweeps.leaf_zero)
        zeros = [leaves[self.wanted[k]] for k in self._zero]
        self._zero_like = [(tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in zeros]

    def forward(self, x: Tensor, leaves: tuple[Any, ...]) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Sweeps 1 and 2: ``x [N, ...]`` to (input gradient ``[N, ...]``, saved tensors, saved numbers)."""
        gradient, *saved = self._forward(x, *leaves)
        if self._all_tensors:
            return gradient, saved, []
        return gradient, [saved[i] for i in self._tensors], [saved[i] for i in self._numbers]

    def backward(
        self, seed: Tensor, tensors: tuple[Tensor, ...], numbers: list[Any]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Sweeps 3 and 4: the seed ``[N, ...]`` to (adjoint of x, gradients of all leaves)."""
        assert self._backward is not None
        if numbers:
            saved: list[Any] = [None] * (len(tensors) + len(numbers))
            for i, value in zip(self._tensors, tensors):
                saved[i] = value
            for i, value in zip(self._numbers, numbers):
                saved[i] = value
        else:
            saved = list(tensors)
        of_x, *found = self._backward(seed, *saved)
        for k, (shape, dtype, device) in zip(self._zero, self._zero_like):
            found[k] = torch.zeros(shape, dtype=dtype, device=device)
        gradients: list[Tensor | None] = [None] * self.count
        for i, value in zip(self.wanted, found):
            gradients[i] = value
        return of_x, gradients


def plan_of(binding: Binding, wants_x: bool) -> Plan:
    """The plan for this binding, derived on first use.

    What the leaves require is guarded by the capture, so the grad mode and ``wants_x`` choose the plan.
    """
    plans = binding.captured.plans
    key = (wants_x, torch.is_grad_enabled())
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = Plan(binding.captured, wants_x, binding.leaves)
    return plan
