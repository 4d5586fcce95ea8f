"""Argument checks. Each raises before any work, and says what was given, what must hold and what to do."""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from .engine import torch_internals

REDUCTIONS = ("mean", "sum", "none")


def samples(name: str, value: object) -> None:
    """``value`` is a nonempty floating-point tensor ``[N, ...]``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {value.dtype}: convert images with .float() and scale them"
        )
    if value.dim() == 0:
        raise ValueError(f"{name} must be [N, ...], one row a sample; got a tensor without dimensions")
    if value.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {tuple(value.shape)}")


def pair(real: object, fake: object) -> None:
    """Both are samples of one shape and device."""
    samples("real", real)
    samples("fake", fake)
    for what in ("shape", "device"):
        of_real, of_fake = getattr(real, what), getattr(fake, what)
        if of_real != of_fake:
            raise ValueError(
                f"fake must have the {what} of real: real has {_show(of_real)}, fake has {_show(of_fake)}"
            )


def _show(value: object) -> object:
    return tuple(value) if isinstance(value, torch.Size) else value


def no_transform() -> None:
    """Inside ``torch.func.grad``, ``vmap`` and their like neither the engine nor autograd.grad can run."""
    if torch_internals.inside_functorch_transform():
        raise RuntimeError(
            "a gradient penalty cannot run inside a torch.func transform (grad, vmap, jvp, ...): call it "
            "outside, its result is an ordinary differentiable tensor"
        )


def reduction_and_target(reduction: object, target: object) -> None:
    """``reduction`` is known and ``target`` a finite number, at least 0."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}; got {reduction!r}")
    if not isinstance(target, (int, float)) or not math.isfinite(target) or target < 0:
        raise ValueError(f"target must be a finite number, at least 0; got {target!r}")


def weights(alpha: object, real: Tensor) -> Tensor | None:
    """``alpha`` as ``[N]``. None stays None, but is an error while a CUDA graph is captured."""
    if alpha is None:
        if capturing(real.device):
            raise RuntimeError(
                "alpha must be given while a CUDA graph is captured: drawn inside, every replay would repeat "
                "the same numbers. Draw it outside, copy it into a static [N] tensor and pass alpha=; "
                "wgangp_fast.GraphedCriticStep does"
            )
        return None
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha must be a tensor, got {type(alpha).__name__}")
    if not alpha.is_floating_point():
        raise TypeError(f"alpha must be floating point, got {alpha.dtype}")
    if alpha.numel() != real.shape[0] or alpha.shape[0] != real.shape[0]:
        shape = [real.shape[0]] + [1] * (real.dim() - 1)
        raise ValueError(
            f"alpha must hold one weight a sample, shape [{real.shape[0]}] or {shape}; "
            f"got {tuple(alpha.shape)}"
        )
    if alpha.device != real.device:
        raise ValueError(f"alpha must be on the device of real, {real.device}; it is on {alpha.device}")
    return alpha if alpha.dim() == 1 else alpha.reshape(-1)


def cotangent(value: Tensor, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """``grad_outputs`` is like the score."""
    found = tuple(value.shape), value.dtype, value.device
    if found != (shape, dtype, device):
        raise ValueError(
            f"grad_outputs must have the shape, dtype and device of the score: {list(shape)}, {dtype}, "
            f"on {device}; got {list(value.shape)}, {value.dtype}, on {value.device}"
        )


def promoted(real: Tensor, fake: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All three in the dtype that torch gives ``alpha * real + (1 - alpha) * fake``: bfloat16 samples and
    float32 weights give float32 points. Gradients flow back through the casts, each in its own dtype."""
    dtype = torch.promote_types(real.dtype, fake.dtype)
    if alpha is not None:
        dtype = torch.promote_types(dtype, alpha.dtype)
        alpha = alpha.to(dtype)
    return real.to(dtype), fake.to(dtype), alpha


def as_traced(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Context for captured code, in which autocast is off: the casts that it made at capture are part of the
    code, and a part of the critic may have switched it off."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


def capturing(device: torch.device) -> bool:
    """Whether work for ``device`` is being captured in a CUDA graph, not run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def stock_path_in_capture(device: torch.device, reason: object) -> None:
    """Raise while a CUDA graph is captured: it would freeze what the critic decides in Python."""
    if capturing(device):
        raise RuntimeError(
            f"the critic runs on the stock path ({reason}), which a CUDA graph would freeze as it is now. "
            f"Remove what breaks the graph, pass impl='ref' to accept it, or do not capture this step"
        )
