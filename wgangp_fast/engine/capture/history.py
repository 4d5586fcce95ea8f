"""Keeps the derivative that autograd gives to in-place changes when a graph is functionalised.

Functionalisation turns ``h.clamp_()`` into a new value of ``h``. But autograd follows tensors, not values: a
change under ``no_grad`` leaves the history of ``h`` as it was, even if it is made through a view or a
detached alias. The functional graph must have the derivatives of the eager code.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

import torch
from torch import Tensor

from ...errors import CaptureError
from ...rules.nodes import Argument, Operator
from ...rules.replace_data import replace_data
from ..torch_internals import (
    functional,
    functional_value,
    give_functional_value,
    schema_of,
    storage_key,
    synchronise,
    tree,
)

aten = torch.ops.aten
#: what ``t.data = ...`` is captured as; the second from torch 2.15 on
_NEW_MEMORY = {
    getattr(getattr(aten, name), overload)
    for name in ("set_", "shallow_copy_data_")
    if hasattr(aten, name)
    for overload in getattr(aten, name).overloads()
}


class RecordHistory:
    """Handles each operator between autograd and functionalisation, with the tensors that autograd saw.

    Functionalisation updates an alias when it is next read. Here the update is a step of its own, with
    gradients on: otherwise the grad mode of the code that reads it would decide its derivative.
    """

    def __init__(self, inputs: Iterable[Argument]) -> None:
        self.inputs = [tensor for tensor in inputs if isinstance(tensor, Tensor)]
        # storage -> the first tensor seen with it; others are views of that
        self.roots: dict[Hashable, Tensor] = {}
        self.detached: set[Hashable] = set()  # storages with an alias that has no history
        self.replaced: list[Tensor] = []  # tensors that were given other memory (``t.data = ...``)

    def __call__(self, func: Operator, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Argument:
        FunctionalTensor = functional.FunctionalTensor
        given = [v for v in tree.tree_leaves((args, kwargs)) if isinstance(v, FunctionalTensor)]
        for tensor in given:
            self._refresh(tensor)
        if not schema_of(func).is_mutable:
            result = func(*args, **kwargs)
            if func is aten.detach.default and given:
                self.detached.add(storage_key(given[0]))
            return result
        changed = list(_written(func, args, kwargs))
        given_data = func in _NEW_MEMORY
        if given_data:
            self.replaced += changed
        roots = {
            storage_key(t): self.roots[storage_key(t)] for t in changed if isinstance(t, FunctionalTensor)
        }
        before = {key: functional_value(root) for key, root in roots.items()}
        tracked = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        if tracked and not self.detached.isdisjoint(roots):
            raise CaptureError(
                "the critic changes in place a tensor that shares its memory with a detached one"
            )
        result = func(*args, **kwargs)
        for key, root in roots.items():
            self._refresh(root)
            saved = root.requires_grad or any(root is tensor for tensor in self.inputs)
            if given_data or (not tracked and (saved or any(t.requires_grad for t in changed))):
                self._keep_history(root, before[key])
        for tensor in changed:
            if isinstance(tensor, FunctionalTensor):
                self._refresh(tensor)
        return result

    def _refresh(self, tensor: Tensor) -> None:
        """Bring an alias up to date with what was written through others."""
        self.roots.setdefault(storage_key(tensor), tensor)
        with torch.enable_grad():
            synchronise(tensor)

    def _keep_history(self, root: Tensor, before: Tensor) -> None:
        after = functional_value(root)
        if before.shape != after.shape or before.dtype != after.dtype:
            raise CaptureError("the critic gives a tensor that carries a gradient data of another shape")
        if after is not before and (after.dtype.is_floating_point or after.dtype.is_complex):
            with torch.enable_grad():
                give_functional_value(root, replace_data(before, after))


def _written(func: Operator, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Iterator[Argument]:
    """The arguments that an operator writes into."""
    for i, argument in enumerate(schema_of(func).arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs[argument.name] if argument.name in kwargs else (args[i] if i < len(args) else None)
            yield from value if isinstance(value, (list, tuple)) else () if value is None else (value,)
