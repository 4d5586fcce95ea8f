"""One table of operations: schema, plain reference, and where each implementation is found.

The reference defines the meaning and the order of the arguments; the native kernels (``csrc``) and the
Triton launchers (``wgangp_fast.kernels``) have the same names, arguments and results. Backends are
``"ref"``, ``"cpu"``, ``"cuda"`` and ``"triton"``.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .. import backend
from ..engine import torch_internals
from ..errors import BackendError

Function = Callable[..., Any]
R = TypeVar("R", bound=Function)


@dataclass(frozen=True)
class Kernel:
    """One operation.

    Attributes:
        name: also its name in ``torch.ops.wgangp_fast`` and in ``wgangp_fast.kernels``.
        schema: as in ``csrc/ops.cpp``.
        reference: plain PyTorch, the meaning; also the fake implementation.
        file: the file of its family, in ``ops`` and in ``kernels``.
        call: runs the implementation that ``auto`` chooses for its tensors; plans call it until their
            backend is known. Has the schema and the tags of an operator.
        mutates: whether it writes into its first argument and returns nothing.
    """

    name: str
    schema: str
    reference: Function
    file: str
    call: Function
    mutates: bool


KERNELS: dict[str, Kernel] = {}
"""Every operation by name."""


def operation(schema: str) -> Callable[[R], R]:
    """Decorator of a reference: registers the operation under the name in ``schema``."""

    def enter(reference: R) -> R:
        name, file = schema.partition("(")[0], reference.__module__.rpartition(".")[2]

        def call(*args: object) -> object:
            flat = [v for value in args for v in (value if isinstance(value, (list, tuple)) else (value,))]
            if has_torch_function(flat):  # a plan is being written: record the call
                return handle_torch_function(call, flat, *args)
            return implementation(name, backend.automatic(name, _device(args)))(*args)

        call.__name__, call.__module__ = name, "wgangp_fast.ops.registry"
        torch_internals.describe(call, schema)
        KERNELS[name] = Kernel(name, schema, reference, file, call, schema.endswith("-> ()"))
        return reference

    return enter


def _device(args: tuple[object, ...]) -> str:
    for value in args:
        if isinstance(value, Tensor):
            return value.device.type
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            return value[0].device.type
    return "cpu"


def implementation(name: str, which: str) -> Function:
    """The function behind ``name`` in one backend.

    Raises:
        BackendError: the backend cannot run here, or has no such operation; says why and what to do.
    """
    kernel = KERNELS[name]
    if which == "ref":
        return kernel.reference
    backend.require(which)
    if which == "triton":
        found = getattr(importlib.import_module(f"wgangp_fast.kernels.{kernel.file}"), name, None)
    else:
        _register_fakes()
        found = getattr(torch.ops.wgangp_fast, name, None)
        found = found.default if found is not None else None
    if found is None:
        raise BackendError(f"{which!r} has no operation {name!r}; use impl='auto' or impl='ref'")
    return found


class Kernels:
    """The operations of one backend on one type of device, looked up once: ``kernels.norm_act(...)``.

    Attributes:
        which: the backend, or ``"auto"``.
        device: its type.
    """

    def __init__(self, which: str, device: str) -> None:
        self.which, self.device = which, device

    @classmethod
    @functools.cache
    def of(cls, which: str, device: str) -> Kernels:
        """The one object of a backend and a type of device."""
        return cls(which, device)

    def backend_of(self, name: str) -> str:
        """The backend that runs ``name``, never ``"auto"``."""
        return backend.automatic(name, self.device) if self.which == "auto" else self.which

    def __getattr__(self, name: str) -> Function:
        if name not in KERNELS:
            raise AttributeError(name)
        found = implementation(name, self.backend_of(name))
        setattr(self, name, found)
        return found


_fakes = False


def _register_fakes() -> None:
    """Shapes of the native operations, for torch.compile and torch.library.opcheck: the references'."""
    global _fakes
    if _fakes:
        return
    _fakes = True
    for kernel in KERNELS.values():
        if hasattr(torch.ops.wgangp_fast, kernel.name):
            fake = (lambda *args: None) if kernel.mutates else kernel.reference
            torch.library.register_fake(f"wgangp_fast::{kernel.name}", fake)


def result_like(x: Tensor, layouts: str) -> Tensor:
    """An empty result for ``x``: its strides where the kernels read them in place, else contiguous.

    Args:
        layouts: ``"samples"``: any dense layout with the batch outermost; ``"images"``: contiguous and
            channels_last.
    """
    if layouts == "samples":
        rest = x[0] if x.dim() and x.shape[0] else x
        kept = rest is not x and _dense(rest) and (x.shape[0] == 1 or x.stride(0) == rest.numel())
    else:
        kept = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        kept = kept or (x.dim() == 5 and x.is_contiguous(memory_format=torch.channels_last_3d))
    return torch.empty_like(x) if kept else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _dense(x: Tensor) -> bool:
    return torch.empty_like(x).stride() == x.stride()  # it keeps the strides of dense tensors alone


def acc(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: float64 for float64, else float32."""
    return torch.promote_types(dtype, torch.float32)
