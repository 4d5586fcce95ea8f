"""Treats numpy scalars as constants.

A width, a size or a gain computed with numpy (``np.sqrt(2)``, a sum of column counts) is a numpy scalar.
Dynamo makes a tensor of it, whose value a size or a branch cannot use. It is a constant, guarded by value,
and keeps its numpy type, so that arithmetic between such scalars rounds as numpy does; an operator of torch
takes it as the Python number of the same value, which is what eager torch does.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..torch_internals import dynamo, tree, without_dispatch_modes
from . import frontend_guards as guards
from .patching import Method, Patch, Translator, Variable

_NUMERIC: dict[str, Callable[..., object]] = {
    "nb_add_impl": operator.add,
    "nb_subtract_impl": operator.sub,
    "nb_multiply_impl": operator.mul,
    "nb_true_divide_impl": operator.truediv,
    "nb_floor_divide_impl": operator.floordiv,
    "nb_remainder_impl": operator.mod,
    "nb_divmod_impl": divmod,
    "nb_power_impl": operator.pow,
    "nb_and_impl": operator.and_,
    "nb_or_impl": operator.or_,
    "nb_xor_impl": operator.xor,
    "nb_lshift_impl": operator.lshift,
    "nb_rshift_impl": operator.rshift,
    "nb_negative_impl": operator.neg,
    "nb_positive_impl": operator.pos,
    "nb_absolute_impl": abs,
    "nb_index_impl": operator.index,
    "nb_int_impl": int,
    "nb_float_impl": float,
}


def _is_scalar(value: object) -> bool:
    return isinstance(value, (np.number, np.bool_))


def _scalar_variable() -> Any:
    ConstantVariable: Any = dynamo.ConstantVariable
    VariableTracker = dynamo.VariableTracker

    class NumpyScalarVariable(ConstantVariable):
        """A numpy scalar whose value is guarded, or was computed from guarded values."""

        def __init__(self, value: np.generic, **kwargs: Any) -> None:
            VariableTracker.__init__(self, **kwargs)
            self.value = value

        def python_type(self) -> type:
            return type(self.value)

        def as_proxy(self) -> object:
            return self.value.item()

        def call_method(
            self, tx: Translator, name: str, args: list[Variable], kwargs: dict[str, Variable]
        ) -> Variable:
            constants = [a.as_python_constant() for a in args]
            named = {k: v.as_python_constant() for k, v in kwargs.items()}
            return VariableTracker.build(tx, getattr(self.value, name)(*constants, **named))

    def number(name: str, compute: Callable[..., object]) -> Method:
        before = getattr(ConstantVariable, name)

        def slot(self: Variable, tx: Translator, *rest: Variable, **options: Variable) -> Variable:
            others = [other for other in rest if isinstance(other, VariableTracker)]
            reverse = options.get("reverse", True in rest)
            if not all(other.is_python_constant() for other in others):
                return before(self, tx, *rest, **options)
            values = [self.value, *(other.as_python_constant() for other in others)]
            return VariableTracker.build(tx, compute(*(values[::-1] if reverse else values)))

        return slot

    for name, compute in _NUMERIC.items():
        if hasattr(ConstantVariable, name):
            setattr(NumpyScalarVariable, name, number(name, compute))
    return NumpyScalarVariable


def patches() -> list[Patch]:
    ConstantVariable, SourcelessBuilder = dynamo.ConstantVariable, dynamo.SourcelessBuilder
    scalar = _scalar_variable()

    def wrap(original: Method) -> Method:
        def _wrap(self: Variable, value: object) -> Variable:
            if not _is_scalar(value):
                return original(self, value)
            self.install_guards(guards.equals)
            return scalar(value, source=self.source)

        return _wrap

    def create(original: Method) -> Method:
        def create(*args: Any, **kwargs: Any) -> Variable:
            value = args[-1] if args else kwargs.get("value")
            if isinstance(value, scalar):
                return value
            return scalar(value) if _is_scalar(value) else original(*args, **kwargs)

        return create

    return [
        (dynamo.VariableBuilder, "_wrap", wrap),
        (SourcelessBuilder, "create", create),
        (ConstantVariable, "create", create),
        (ConstantVariable, "__init__", _plain),
        (dynamo.NumpyVariable, "call_function", _fold),
        (dynamo.TorchInGraphFunctionVariable, "call_function", _typed),
    ]


def _plain(original: Method) -> Method:
    """The result of comparing numpy scalars is a constant; torch 2.11 does not know its type."""

    def __init__(self: Variable, value: object, **kwargs: Any) -> None:
        original(self, bool(value) if isinstance(value, np.bool_) else value, **kwargs)

    return __init__


def _fold(original: Method) -> Method:
    """Let numpy compute its functions of constants."""

    def call_function(
        self: Variable, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]
    ) -> Variable:
        members = [*args, *kwargs.values()]
        pure = isinstance(self.value, np.ufunc) or "random" not in str(
            getattr(self.value, "__module__", "random")
        )
        if pure and all(a.is_python_constant() for a in members):
            named = {k: v.as_python_constant() for k, v in kwargs.items()}
            try:
                result = self.value(*[a.as_python_constant() for a in args], **named)
            except Exception:
                return original(self, tx, args, kwargs)
            if _is_scalar(result) or type(result) in (bool, int, float):
                return dynamo.SourcelessBuilder.create(tx, result)
        return original(self, tx, args, kwargs)

    return call_function


def _typed(original: Method) -> Method:
    """``torch.tensor`` of numpy scalars has their dtype, not the default one."""

    def call_function(
        self: Variable, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]
    ) -> Variable:
        if (
            self.value in (torch.tensor, torch.as_tensor, torch.asarray)
            and "dtype" not in kwargs
            and len(args) == 1
            and args[0].is_python_constant()
        ):
            data = args[0].as_python_constant()
            if any(_is_scalar(leaf) for leaf in tree.tree_leaves(data)):
                with without_dispatch_modes():
                    dtype = torch.tensor(data).dtype
                kwargs = {**kwargs, "dtype": dynamo.ConstantVariable.create(dtype)}
        return original(self, tx, args, kwargs)

    return call_function
