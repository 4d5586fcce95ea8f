"""What the penalties of existing code have in common: alpha, labels, dtypes, checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..checks import samples as check_samples
from ..penalty import gradient_penalty as _penalty
from ..wrappers import enter

Device = str | int | torch.device
Critic = Callable[..., Any]
Named = tuple[str, Any]


def labelled(critic: Critic, labels: Any) -> tuple[Critic, Callable[[Tensor], Tensor]]:
    """The critic as a function of x alone, and a function to apply to its penalty; ``labels`` may be None."""
    return (critic, lambda penalty: penalty) if labels is None else given(critic, labels)


def given(critic: Critic, *more: Any) -> tuple[Critic, Callable[[Tensor], Tensor]]:
    """``critic(x, *more)`` as a function of x alone, and a function to apply to its penalty.

    DDP in a closure is hidden from the engine, which could then neither capture the critic nor prepare the
    reduction of its gradients. So DDP is taken off first, and the closure holds the critic inside.
    """
    inner, finish = enter(critic)
    return lambda x: inner(x, *more), finish


def first(result: Any) -> Any:
    """The score: the first of several outputs."""
    return result[0] if isinstance(result, (tuple, list)) else result


def draw(count: int, device: torch.device | None = None) -> Tensor:
    """``[N]`` uniform weights in the default dtype; None: from the CPU's generator."""
    return torch.rand(count, device=device)


def between(critic: Critic, one: Tensor, other: Tensor, alpha: Tensor, **options: Any) -> Tensor:
    """The engine's penalty; ``alpha [N]`` weights ``one``."""
    one, other, alpha = promoted(one, other, alpha)
    return _penalty(critic, one, other, alpha=alpha, output=first, **options)


def promoted(one: Tensor, other: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three in the dtype of ``alpha * one + (1 - alpha) * other``."""
    dtype = torch.promote_types(torch.promote_types(one.dtype, other.dtype), alpha.dtype)
    return one.to(dtype), other.to(dtype), alpha.to(one.device, dtype)


def mixed(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """``alpha * real + (1 - alpha) * fake``: ``[N, ...]``, alpha ``[N]``, with history."""
    real, fake, alpha = promoted(real, fake, alpha)
    return torch.lerp(fake, real, alpha.view(-1, *[1] * (real.dim() - 1)))


def of_graph(x: Named, outputs: Sequence[Named], weights: Sequence[float] | None = None) -> Tensor:
    """Gradient of the sum of ``outputs``, each times its weight, with respect to ``x``, with history.

    Args:
        x: name and value, ``[N, ...]``.
        outputs: name and value of what the critic made of ``x``, any shapes.
    """
    check_samples(*x)
    if not x[1].requires_grad:
        raise ValueError(f"{x[0]} must require a gradient before the critic runs: {x[0]}.requires_grad_()")
    for name, output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"{name} must be a tensor, got {kind(output)}")
        if not output.requires_grad:
            raise ValueError(f"{name} must be the critic's output at {x[0]}; it has no history")
    cotangents = [torch.ones_like(output) for _, output in outputs]
    if weights is not None:
        cotangents = [ones * weight for ones, weight in zip(cotangents, weights)]
    (gradient,) = torch.autograd.grad(
        [output for _, output in outputs], x[1], cotangents, create_graph=True, allow_unused=True
    )
    if gradient is None:
        names = ", ".join(name for name, _ in outputs)
        raise ValueError(f"{names} must be the critic's output at {x[0]}; it does not depend on it")
    return gradient


def kind(value: Any) -> str:
    return value.__class__.__name__


def is_device(value: Any) -> bool:
    return isinstance(value, (str, int, torch.device))


def check_callable(name: str, critic: Any) -> None:
    if not callable(critic):
        raise TypeError(f"{name} must be callable, got {kind(critic)}")


def check_pair(real: Named, fake: Named) -> None:
    check_samples(*real)
    check_samples(*fake)
    for what in ("shape", "device"):
        of_real, of_fake = getattr(real[1], what), getattr(fake[1], what)
        if of_real != of_fake:
            raise ValueError(f"{fake[0]} must have the {what} of {real[0]}, {of_real}; it has {of_fake}")


def check_number(name: str, value: Any) -> None:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def check_device(device: Any) -> None:
    try:
        if device is not None:
            torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must name a device, like 'cpu' or 'cuda:0'; got {device!r}") from None


def check_weight(name: str, weight: Any, samples: Tensor) -> None:
    if not isinstance(weight, Tensor):
        raise TypeError(f"{name} must be a tensor, got {kind(weight)}")
    try:
        fits = torch.broadcast_shapes(weight.shape, samples.shape) == samples.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} must broadcast to the samples {tuple(samples.shape)}; it has shape {tuple(weight.shape)}"
        )
