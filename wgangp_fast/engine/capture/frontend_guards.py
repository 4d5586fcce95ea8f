"""Guards for values that torch's own guards cannot compare."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..torch_internals import dynamo
from .patching import Guard, GuardBuilder, Source


def equals(builder: GuardBuilder, guard: Guard) -> None:
    """Guard that a value keeps its type and its value, which may be NaN."""
    value = builder.get(guard)
    kind, text = type(value), repr(value)
    # compared as text: 0.0 differs from -0.0, and NaN equals itself
    _add_guard(builder, guard, lambda v: type(v) is kind and repr(v) == text, f"== {text}")


def _add_guard(builder: GuardBuilder, guard: Guard, check: Callable[[object], bool], text: str) -> None:
    manager = builder.get_guard_manager(guard)
    parts = [f"{builder.arg_ref(guard)} {text}"]
    try:
        manager.add_lambda_guard(check, parts, guard.user_stack)
    except TypeError:  # before torch 2.12
        manager.add_lambda_guard(check, parts)


def same_numbers(builder: GuardBuilder, guard: Guard) -> None:
    """Guard that a tensor keeps its numbers."""
    kept = builder.get(guard).detach().clone()

    def check(value: object) -> bool:
        if not isinstance(value, Tensor) or value.dtype != kept.dtype or value.device != kept.device:
            return False
        return torch.equal(value, kept) or (
            kept.shape == value.shape and torch.allclose(value, kept, rtol=0, atol=0, equal_nan=True)
        )

    _add_guard(builder, guard, check, "has the same numbers")


def install(source: Source, kind: Callable[[GuardBuilder, Guard], None]) -> None:
    dynamo.install_guard(source.make_guard(kind))
