"""What a CUDA graph freezes: the host's part of a step, noted at capture and compared at each replay.

A graph replays kernels with the addresses and numbers of its capture. What the host decided then (which
memory, which learning rate, train or eval) must still hold at each replay; otherwise the replay computes
something else than the step would. :class:`Frozen` takes note of it, and says what has changed.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ..engine import torch_internals
from ..errors import GraphError

NUMBERS = (bool, int, float, str, type(None), np.generic)


def reachable(step: Callable[..., Any]) -> list[Any]:
    """Modules, optimisers and gradient scalers that a step's closure, globals and object name."""
    found: dict[int, Any] = {}
    seen: set[int] = set()

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth < 0:
            return
        seen.add(id(value))
        if isinstance(value, (nn.Module, Optimizer, torch.amp.GradScaler)):
            found[id(value)] = value
        elif isinstance(value, functools.partial):
            look(value.func, depth)
            for inner in (*value.args, *value.keywords.values()):
                look(inner, depth - 1)
        elif isinstance(value, types.MethodType):
            look(value.__func__, depth)
            look(value.__self__, depth)
        elif isinstance(value, types.FunctionType):
            for inner in (*_closure(value).values(), *_globals(value)):
                look(inner, depth - 1)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                look(inner, depth - 1)
        elif isinstance(value, dict):
            for inner in value.values():
                look(inner, depth - 1)
        elif hasattr(value, "__dict__") and not isinstance(value, (type, types.ModuleType)):
            for inner in vars(value).values():
                look(inner, depth - 1)

    look(step, 3)
    return list(found.values())


def _closure(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return {name: cell.cell_contents for name, cell in cells if _filled(cell)}


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # a name that is assigned later
        return False


def _globals(function: types.FunctionType) -> Iterator[Any]:
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield function.__globals__[name]


def refuse(watched: Iterable[Any], device_type: str) -> None:
    """Raise :class:`GraphError` for what cannot be captured correctly; the message says what to do."""
    for item in watched:
        if isinstance(item, torch.amp.GradScaler):
            raise GraphError(
                "a GradScaler decides on the host, at every step, whether the optimiser runs, which a CUDA "
                "graph cannot: use bfloat16 autocast, which needs no scaler, or leave the step eager "
                "(enabled=False)"
            )
        if isinstance(item, Optimizer):
            _refuse_optimizer(item)
        if isinstance(item, nn.Module):
            _refuse_module(item, device_type)


def _refuse_optimizer(optimizer: Optimizer) -> None:
    name = type(optimizer).__name__
    if any(group.get("capturable", True) is False for group in optimizer.param_groups):
        raise GraphError(
            f"{name} counts its steps on the host unless it is capturable: make it as "
            f"torch.optim.{name}(..., capturable=True)"
        )


def _refuse_module(module: nn.Module, device_type: str) -> None:
    for part in module.modules():
        if isinstance(part, DistributedDataParallel):
            raise GraphError(
                "DistributedDataParallel all-reduces from hooks that it rebuilds after the first steps: a "
                "graph of it needs NCCL, DDP made inside the capture's side stream and eleven warm-up steps. "
                "Capture the bare module and average the gradients in the step, or leave the step eager "
                "(enabled=False)"
            )
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if type(tensor.data).__name__ == "DTensor" or type(tensor).__name__ == "DTensor":
            raise GraphError(
                f"{name} is sharded (fully_shard, a DTensor): it is gathered into memory that moves from "
                f"step to step. Leave the step eager (enabled=False)"
            )
        if tensor.device.type != device_type:
            raise GraphError(
                f"{name} is on {tensor.device}: a CUDA graph cannot read or update it there; move the "
                f"module to the GPU, or leave the step eager (enabled=False)"
            )


class Gradient:
    """What a capture did to ``.grad`` of one parameter, and what each replay has to do about it.

    Made before the capture, :meth:`close` d after it.
    """

    def __init__(self, parameter: Tensor) -> None:
        self.parameter, self.before = parameter, parameter.grad
        self.fresh = self.before is None
        self.after: Tensor | None = None

    def close(self) -> None:
        """Note what the capture left; a gradient that it replaced is let go."""
        self.after = self.parameter.grad
        self.fresh = self.fresh and self.after is not None
        if self.before is not self.after:
            self.before = None
        if self.fresh:
            self.parameter.grad = None  # what the first replay has to find

    def fault(self) -> str | None:
        """Why a replay now would not do what the step does; None if it would."""
        now = self.parameter.grad
        if self.fresh and now is not None:
            return (
                "gradients are there that were None at the capture: the graph would overwrite them where the "
                "step adds. Call zero_grad(set_to_none=True) in the step, or before every call"
            )
        if self.before is not None and now is not self.before:
            return (
                ".grad is not the tensor that the graph adds to: call zero_grad(set_to_none=True) in the "
                "step, or zero_grad(set_to_none=False) outside it"
            )
        return None


class Frozen:
    """The host's part of a step, as it is now.

    Args:
        watched: the modules and optimisers that the step uses, and :class:`Gradient` s of their parameters.
        step: its closure's numbers are noted too.

    Attributes:
        gradients: those that a replay has to put into ``.grad``.
    """

    def __init__(self, watched: Iterable[Any], step: Callable[..., Any], gradients: list[Gradient]) -> None:
        self.gradients = gradients
        self._mode = mode()
        self._cells = [
            (name, cell, cell.cell_contents)
            for name, cell in zip(
                getattr(getattr(step, "__code__", None), "co_freevars", ()),
                getattr(step, "__closure__", None) or (),
            )
            if _filled(cell) and isinstance(cell.cell_contents, NUMBERS)
        ]
        # (dictionary, key, tensor, address, requires_grad, name to show)
        self._tensors: list[tuple[dict[Any, Any], Any, Tensor, int, bool, str]] = []
        self._numbers: list[tuple[dict[Any, Any], Any, Any, str]] = []
        self._states: list[tuple[Optimizer, Tensor, Any]] = []
        for item in watched:
            if isinstance(item, nn.Module):
                self._note_module(item)
            elif isinstance(item, Optimizer):
                self._note_optimizer(item)

    def _note_module(self, module: nn.Module) -> None:
        for path, part in module.named_modules():
            prefix = f"{type(module).__name__}.{path}." if path else f"{type(module).__name__}."
            for held in torch_internals.own_tensors(part):
                for key, tensor in held.items():
                    if tensor is not None:
                        self._tensor(held, key, tensor, prefix + key)
            for key, value in vars(part).items():
                if isinstance(value, NUMBERS) and not key.startswith("_"):
                    self._numbers.append((vars(part), key, value, prefix + key))

    def _note_optimizer(self, optimizer: Optimizer) -> None:
        name = type(optimizer).__name__
        for group in optimizer.param_groups:
            for key, value in group.items():
                if isinstance(value, (*NUMBERS, tuple)):
                    self._numbers.append((group, key, value, f"{name}'s {key}"))
                elif isinstance(value, Tensor):
                    self._tensor(group, key, value, f"{name}'s {key}")
        for parameter, state in optimizer.state.items():
            self._states.append((optimizer, parameter, state))
            for key, value in state.items():
                if isinstance(value, Tensor):
                    if value.device != parameter.device:
                        raise GraphError(
                            f"{name} keeps {key!r} on {value.device}, which a graph would freeze: use an "
                            f"optimiser that is capturable (Adam, AdamW, RMSprop with capturable=True; SGD)"
                        )
                    self._tensor(state, key, value, f"{name}'s {key}")
                elif isinstance(value, (int, float)) and not isinstance(value, bool):
                    raise GraphError(
                        f"{name} keeps {key!r} as a number on the host, which a graph would freeze: use an "
                        f"optimiser that is capturable (Adam, AdamW, RMSprop with capturable=True; SGD)"
                    )

    def _tensor(self, held: dict[Any, Any], key: Any, tensor: Tensor, name: str) -> None:
        self._tensors.append((held, key, tensor, tensor.data_ptr(), tensor.requires_grad, name))

    def fault(self) -> str | None:
        """What changed on the host since the capture, a sentence; None if nothing did."""
        for held, key, tensor, address, trains, name in self._tensors:
            now = held[key] if key in held else None  # noqa: SIM401 - a scripted module's have no get
            if now is not tensor or tensor.data_ptr() != address:
                return f"{name} is in other memory than at the capture"
            if tensor.requires_grad != trains:
                return f"{name}.requires_grad was {trains} at the capture"
        for held, key, value, name in self._numbers:
            if held.get(key) != value:
                what = "a tensor is read anew by every replay, a number is not"
                return f"{name} was {value!r} at the capture and is {held.get(key)!r} now ({what})"
        for optimizer, parameter, state in self._states:
            if optimizer.state.get(parameter) is not state:
                return f"the state of {type(optimizer).__name__} was replaced (load_state_dict)"
        for name, cell, value in self._cells:
            if not _filled(cell) or cell.cell_contents != value:
                return f"the step reads {name}, a number on the host that changed since the capture"
        if mode() != self._mode:
            return "autocast or the grad mode differs from the capture's"
        return next(filter(None, (gradient.fault() for gradient in self.gradients)), None)

    def hand_back(self) -> None:
        """Leave ``.grad`` as the step leaves it: a replay writes memory, not attributes."""
        for gradient in self.gradients:
            if gradient.parameter.grad is not gradient.after:
                gradient.parameter.grad = gradient.after


def mode() -> tuple[Any, ...]:
    """The modes of this thread that decide which kernels a step launches."""
    return (
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.are_deterministic_algorithms_enabled(),
    )


def parameters(watched: Iterable[Any]) -> list[Tensor]:
    """Every parameter that trains, of the modules and the optimisers, once."""
    found: dict[int, Tensor] = {}
    for item in watched:
        own: Iterable[Tensor] = ()
        if isinstance(item, nn.Module):
            own = item.parameters()
        elif isinstance(item, Optimizer):
            own = (p for group in item.param_groups for p in group["params"])
        found.update((id(p), p) for p in own if p.requires_grad)
    return list(found.values())
