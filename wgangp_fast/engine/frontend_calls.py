"""Library functions that the front end does not enter, replaced by what they mean for a critic."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import frontend_draws
from .patching import Patch


def patches(front: Any) -> list[Patch]:
    from torch._dynamo import symbolic_convert

    def called(original: Any) -> Any:
        def call_function(self: Any, fn: Any, args: Any, kwargs: Any) -> None:
            function = fn.realize() if hasattr(fn, "realize") else fn
            result = frontend_draws.drawn(front, self, function, args, kwargs)
            if result is None:
                stands_for = _stand_in(function)
                result = stands_for(self, args, kwargs) if stands_for is not None else None
            if result is None:
                original(self, fn, args, kwargs)
            else:
                self.push(result)

        return call_function

    return [(symbolic_convert.InstructionTranslatorBase, "call_function", called)]


def _stand_in(function: Any) -> Any:
    value = getattr(function, "value", None) or getattr(function, "fn", None)
    try:
        return _table().get(value)
    except TypeError:  # not hashable
        return None


@functools.cache
def _table() -> dict[Any, Callable[[Any, Any, Any], Any]]:
    import _warnings
    import warnings

    from torch.utils.checkpoint import checkpoint_sequential

    # Filters decide what is shown, not what is computed; around a with block they are put back anyway.
    silent = [warnings.simplefilter, warnings.filterwarnings, warnings.resetwarnings]
    silent += [
        getattr(owner, name)
        for owner in (_warnings, warnings)
        for name in ("_filters_mutated", "_filters_mutated_lock_held")
        if hasattr(owner, name)
    ]
    return {
        **dict.fromkeys(silent, _nothing),
        checkpoint_sequential: _inlined(_sequential),
        torch.jit.isinstance: _jit_isinstance,
    }


def _nothing(tx: Any, args: Any, kwargs: Any) -> Any:
    from torch._dynamo.variables import ConstantVariable

    return ConstantVariable.create(None)


def _inlined(function: Callable[..., Any]) -> Callable[[Any, Any, Any], Any]:
    """Trace ``function`` instead."""

    def call(tx: Any, args: Any, kwargs: Any) -> Any:
        from torch._dynamo.variables.builder import SourcelessBuilder

        return SourcelessBuilder.create(tx, function).call_function(tx, args, kwargs)

    return call


def _sequential(
    functions: Any, segments: int, input: Tensor, use_reentrant: Any = None, **kwargs: Any
) -> Any:
    """``checkpoint_sequential``: checkpoints change memory, not numbers."""
    if isinstance(functions, torch.nn.Sequential):
        functions = list(functions.children())
    for function in functions:
        input = function(input)
    return input


def _jit_isinstance(tx: Any, args: Any, kwargs: Any) -> Any:
    """``torch.jit.isinstance``: by what the front end knows of the types, containers' members included."""
    from torch._dynamo.variables import ConstantVariable

    if kwargs or len(args) != 2 or not args[1].is_python_constant():
        return None
    kinds = args[1].as_python_constant()
    answer = any(_is(args[0], kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    return ConstantVariable.create(answer)


def _is(variable: Any, kind: Any) -> bool:
    origin, members = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any(_is(variable, member) for member in members)
    plain = origin or kind
    if not issubclass(variable.python_type(), plain):
        return False
    if plain in (list, set):
        return all(_is(item, members[0]) for item in variable.items)
    if plain is tuple:
        return len(variable.items) == len(members) and all(map(_is, variable.items, members))
    if plain is dict:
        pairs = [(key.vt, value) for key, value in variable.items.items()]
        return all(_is(key, members[0]) and _is(value, members[1]) for key, value in pairs)
    return True
