"""Replaces library functions that the front end cannot trace by equivalents that it can."""

from __future__ import annotations

import functools
import logging
import types
import typing
import warnings
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..torch_internals import dynamo
from . import frontend_draws, frontend_values
from .frontend_draws import Front
from .patching import Method, Patch, Translator, Variable

_LOGS = frozenset(["debug", "info", "warning", "error", "critical", "log"])
LOGS = frozenset(getattr(logging, name) for name in _LOGS)

#: what is called instead of a function, with the front end and the variables that the function was given
StandIn = Callable[[Front, Translator, list[Variable], dict[str, Variable]], Variable]


def patches(front: Front) -> list[Patch]:
    tensor = dynamo.TensorVariable

    def called(original: Method) -> Method:
        def call_function(
            self: Translator, fn: Variable, args: list[Variable], kwargs: dict[str, Variable]
        ) -> None:
            function = fn.realize() if hasattr(fn, "realize") else fn
            result = frontend_draws.drawn(front, self, function, args, kwargs)
            if result is None:
                stands_for, owner = _stand_in(function, tensor)
                if stands_for is not None:
                    result = stands_for(front, self, [*owner, *args], kwargs)
            if result is None:
                original(self, fn, args, kwargs)
            else:
                self.push(result)

        return call_function

    return [(dynamo.InstructionTranslatorBase, "call_function", called)]


def printing(front: Front) -> list[Patch]:
    def later(
        tx: Translator, function: Variable, args: list[Variable], kwargs: dict[str, Variable]
    ) -> Variable:
        """Print or log after the graph, at each call. Dynamo does so itself only for what the outermost
        function prints, and drops the rest."""
        if kwargs or not all(arg.is_python_constant() for arg in args):
            raise front.blame(
                tx,
                "the critic prints or logs what it computes",
                "print and log outside of the critic's forward",
            )
        tx.output.root_tx.debug_locals.append((function, list(args)))
        return dynamo.ConstantVariable.create(None)

    def printed(original: Method) -> Method:
        def call_function(
            self: Variable, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]
        ) -> Variable:
            if self.value is warnings.warn:  # called later, it would name another line than the user's
                args, kwargs = [*args, *(v for name, v in kwargs.items() if name == "category")][:2], {}
            return later(tx, self, args, kwargs)

        return call_function

    def logged(original: Method) -> Method:
        def call_method(
            self: Variable, tx: Translator, name: str, args: list[Variable], kwargs: dict[str, Variable]
        ) -> Variable:
            if name not in _LOGS or self.source is None:
                return original(self, tx, name, args, kwargs)
            method = dynamo.DebuggingVariable(
                getattr(self.value, name), source=dynamo.AttrSource(self.source, name)
            )
            return later(tx, method, args, kwargs)

        return call_method

    return [
        (dynamo.LoggingLoggerVariable, "call_method", logged),
        (dynamo.DebuggingVariable, "call_function", printed),
    ]


def _stand_in(function: Variable, tensor: type) -> tuple[StandIn | None, list[Variable]]:
    """The replacement for a function, and the tensor to pass first if the function is a method of it."""
    value, owner = getattr(function, "value", None) or getattr(function, "fn", None), []
    if isinstance(getattr(function, "obj", None), tensor):
        value, owner = getattr(torch, getattr(function, "name", ""), None), [function.obj]
    try:
        return _table().get(value), owner
    except TypeError:  # not hashable
        return None, []


@functools.cache
def _table() -> dict[object, StandIn]:
    import _warnings

    from torch.utils.checkpoint import checkpoint_sequential

    # Warning filters change what is shown, not what is computed, and a with block restores them.
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
        torch.istft: _inlined(_istft),
        torch.nn.functional.one_hot: _one_hot,
        torch.jit.isinstance: _jit_isinstance,
    }


def _nothing(front: Front, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]) -> Variable:
    return dynamo.ConstantVariable.create(None)


def _inlined(function: Method) -> StandIn:
    """Trace ``function`` instead."""

    def call(front: Front, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]) -> Variable:
        return dynamo.SourcelessBuilder.create(tx, function).call_function(tx, args, kwargs)

    return call


def _sequential(
    functions: torch.nn.Sequential | Iterable[Callable[[Tensor], Tensor]],
    segments: int,
    input: Tensor,
    use_reentrant: bool | None = None,
    **kwargs: object,
) -> Tensor:
    """``checkpoint_sequential``: the number of checkpoints changes memory, not results."""
    if isinstance(functions, torch.nn.Sequential):
        functions = list(functions.children())
    for function in functions:
        input = torch.utils.checkpoint.checkpoint(function, input, use_reentrant=False)
    return input


def _one_hot(
    front: Front, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]
) -> Variable | None:
    """``one_hot`` without ``num_classes``: read their number from the constant tensor."""
    if len(args) != 1 or kwargs:
        return None
    if frontend_values.known(front, tx.output, args[0].as_proxy().node, guarded=False) is None:
        return None
    return _inlined(_counted)(front, tx, args, kwargs)


def _counted(tensor: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(tensor, int(tensor.max()) + 1)


def _istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """``torch.istft`` reads a number from its input, to see whether the windows leave a gap. Here the check
    uses the window alone. Input that it does not accept raises, and then the stock path says why."""
    hop = n_fft // 4 if hop_length is None else hop_length
    width = n_fft if win_length is None else win_length
    bins, frames = input.shape[-2:]
    onesided = bins != n_fft if onesided is None else onesided
    if window is None:
        window = torch.ones(width, dtype=input.real.dtype, device=input.device)
    fits = window.shape == (width,) and bins == (n_fft // 2 + 1 if onesided else n_fft)
    if not (fits and 0 < hop <= width <= n_fft and 2 <= input.dim() <= 3 and input.is_complex()):
        raise ValueError("istft: arguments that do not fit")
    if onesided if return_complex else window.is_complex():
        raise ValueError("istft: a complex result has two sides, and a complex window a complex result")
    left = (n_fft - width) // 2
    window = torch.nn.functional.pad(window, (left, n_fft - width - left))
    norm, spectrum = "ortho" if normalized else None, input.transpose(-1, -2)
    if return_complex:
        pieces = torch.fft.ifft(spectrum, norm=norm)
    else:
        pieces = torch.fft.irfft(spectrum[..., : n_fft // 2 + 1], n=n_fft, norm=norm)
    whole = n_fft + hop * (frames - 1)
    start = n_fft // 2 if center else 0
    end = whole - start if length is None else start + length

    def added(overlapping: Tensor) -> Tensor:
        sizes = [*overlapping.shape[:-2], whole]
        dim = overlapping.dim() - 2
        return torch.ops.aten.unfold_backward(overlapping, sizes, dim, n_fft, hop)[..., start:end]

    weight = added(window.square().expand(frames, n_fft))
    if weight.abs().min() < 1e-11:
        raise ValueError("istft: the windows leave a gap")
    return torch.nn.functional.pad(added(pieces * window) / weight, (0, max(end - whole, 0)))


def _jit_isinstance(
    front: Front, tx: Translator, args: list[Variable], kwargs: dict[str, Variable]
) -> Variable | None:
    """``torch.jit.isinstance``, from the types that the front end knows, of containers' members too."""
    if kwargs or len(args) != 2 or not args[1].is_python_constant():
        return None
    kinds = args[1].as_python_constant()
    answer = any(_is(args[0], kind) for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
    return dynamo.ConstantVariable.create(answer)


def _is(variable: Variable, kind: type) -> bool:
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
