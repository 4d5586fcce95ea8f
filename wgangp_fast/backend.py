"""Which implementations exist here, and which one runs: one resolver for every public function.

Order of precedence: the ``impl=`` argument, then the environment variable ``WGANGP_FAST_IMPL``, then
``"auto"``. ``auto`` may fall back; a name that was asked for must run or raise.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TypeVar

import torch

from .engine import torch_internals
from .errors import BackendError
from .native import load as native

NAMES = ("auto", "ref", "cpu", "cuda", "triton")
ENVIRONMENT = "WGANGP_FAST_IMPL"

#: what ``auto`` takes on a GPU where both exist, from measurements; an operation that is not named: Triton
FASTER_ON_CUDA: dict[str, str] = {}


def named(impl: str = "auto") -> tuple[str, str]:
    """``(backend, where the name came from)``: the argument, or the environment behind ``"auto"``.

    Raises:
        ValueError: not one of :data:`NAMES`.
    """
    source = "impl"
    if impl == "auto":
        from_environment = os.environ.get(ENVIRONMENT)
        if from_environment:
            impl, source = from_environment, ENVIRONMENT
    if impl not in NAMES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, NAMES))}; got {impl!r}")
    return impl, source


def resolve(impl: str, device: torch.device) -> str:
    """The backend of a penalty: ``"auto"``, ``"ref"`` (the stock path), or one that can run on ``device``.

    Raises:
        ValueError: ``impl``, or the environment variable behind it, is not one of :data:`NAMES`.
        BackendError: the named backend cannot run here, or not on ``device``.
    """
    impl, source = named(impl)
    if impl not in ("auto", "ref"):
        require(impl, source)
        _fits(impl, device, source)
    return impl


def pick(name: str, impl: str, device: torch.device) -> str:
    """The backend of one operation, never ``"auto"``; raises like :func:`resolve`."""
    chosen = resolve(impl, device)
    return automatic(name, device.type) if chosen == "auto" else chosen


def automatic(name: str, device: str) -> str:
    """The fastest implementation of an operation that can run on a device of this type."""
    if device == "cpu":
        return "cpu" if missing("cpu") is None else "ref"
    if device == "cuda":
        first = FASTER_ON_CUDA.get(name, "triton")
        for which in (first, "triton", "cuda"):
            if missing(which) is None:
                return which
    return "ref"


def no_gpu() -> str | None:
    """Why torch has no GPU here, with the remedy; None if it has one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch is built without CUDA: install one with CUDA (https://pytorch.org)"
    return (
        f"this torch is built with CUDA {torch.version.cuda}, but there is no GPU, or no driver for it: see "
        "nvidia-smi, and CUDA_VISIBLE_DEVICES"
    )


def missing(which: str) -> str | None:
    """Why a backend cannot run here, with the remedy; None if it can."""
    if which in ("cpu", "cuda"):
        reason = no_gpu() if which == "cuda" else None
        if reason is not None:
            return reason
        if not native.library():
            return native.status().reason
        return native.without_cuda(torch.cuda.get_device_capability()) if which == "cuda" else None
    if which == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed: pip install triton"
        if not _interpreted():
            reason = no_gpu()
            return reason and f"{reason} (TRITON_INTERPRET=1 runs the kernels slowly on a CPU)"
    return None


def require(which: str, source: str = "impl") -> None:
    """Raise :class:`BackendError` if ``which`` cannot run here."""
    reason = missing(which)
    if reason is not None:
        raise BackendError(
            f"{source}={which!r} cannot run here: {reason}. `wgangp-fast doctor` says more; "
            f"impl='auto' takes what there is."
        )


def _fits(which: str, device: torch.device, source: str) -> None:
    wanted = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda", "cpu") if _interpreted() else ("cuda",)}
    if device.type not in wanted[which]:
        raise BackendError(
            f"{source}={which!r} needs tensors on {' or '.join(wanted[which])}; these are on {device}. "
            f"Move them, or use impl='auto'."
        )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


F = TypeVar("F", bound=Callable[..., object])


def compile_boundary(function: F) -> F:
    """Mark a function that torch.compile must call, not trace: it manages compiled code of its own.

    A traced caller breaks its graph here (with ``fullgraph=True``: an error that says so), and no frame below
    is compiled.
    """
    return torch_internals.never_traced(function, "wgangp_fast runs its own plan here")
