"""Which implementation of the penalty runs: one resolver for every public function.

Order of precedence: the ``impl=`` argument, then the environment variable ``WGANGP_FAST_IMPL``, then
``"auto"``. ``auto`` may fall back to the stock path; a name that was asked for must run or raise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

NAMES = ("auto", "ref", "cpu", "cuda", "triton")
ENVIRONMENT = "WGANGP_FAST_IMPL"


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run here; the message says why and what to do."""


def resolve(impl: str = "auto") -> str:
    """Return ``"auto"`` (the engine, stock where the critic cannot be captured) or ``"ref"`` (stock).

    Raises:
        ValueError: ``impl``, or the environment variable behind it, is not one of :data:`NAMES`.
        BackendError: the named backend has no kernels in this installation.
    """
    source = "impl"
    if impl == "auto":
        from_environment = os.environ.get(ENVIRONMENT)
        if from_environment:
            impl, source = from_environment, ENVIRONMENT
    if impl not in NAMES:
        raise ValueError(f"{source} must be one of {', '.join(map(repr, NAMES))}; got {impl!r}")
    if impl in ("cpu", "cuda", "triton"):
        raise BackendError(
            f"{source}={impl!r}: this version of wgangp_fast has no {impl} kernels yet; the sweeps run on "
            f"torch's own operators. Use impl='auto' (fast) or impl='ref' (stock)."
        )
    return impl


F = TypeVar("F", bound=Callable[..., object])


def compile_boundary(function: F) -> F:
    """Mark a function that torch.compile must call, not trace: it manages compiled code of its own.

    What ``torch.compiler.disable`` does, without importing Dynamo: a traced caller breaks its graph
    here (with ``fullgraph=True``: an error that says so), and no frame below is compiled.
    """
    marked: Any = function
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = "wgangp_fast runs its own plan here"
    frames = torch._C._dynamo.eval_frame
    skip = frames._FrameAction.SKIP
    frames.set_code_exec_strategy(function.__code__, frames._FrameExecStrategy(skip, skip))
    return function
