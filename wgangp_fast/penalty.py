"""The public penalties: argument checks, the choice between the engine and the stock path, the call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import backend, reference
from .autograd import Call, GradientPenaltyFunction, InputGradientFunction
from .ops import interpolate, norm_penalty

Critic = Callable[[Tensor], Any]
Output = Callable[[Any], Tensor]

REDUCTIONS = ("mean", "sum", "none")


class StockPathWarning(UserWarning):
    """The critic could not be captured; the stock penalty runs instead (same result, stock speed)."""


class BatchNormWarning(UserWarning):
    """The critic normalises over the batch, which the paper advises against (section 4)."""


@backend.compile_boundary
def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    alpha: Tensor | None = None,
    target: float = 1.0,
    one_sided: bool = False,
    reduction: str = "mean",
    output: Output | None = None,
    generator: torch.Generator | None = None,
    impl: str = "auto",
) -> Tensor:
    """The WGAN-GP gradient penalty, unweighted: ``mean_i (||grad_x D(x_i)||_2 - 1)^2``.

    At ``x_i = a_i * real_i + (1 - a_i) * fake_i`` with one uniform ``a_i`` a sample (Gulrajani et al.
    2017, eq. 3, algorithm 1; appendix C for ``one_sided``). The value and every gradient equal the stock
    ``autograd.grad(..., create_graph=True)`` code; multiply by lambda yourself.

    Args:
        critic: any callable; its output may have any shape and is summed. Several outputs: see ``output``.
        real: ``[N, ...]``, floating point.
        fake: shape, dtype and device of ``real``. Gradients flow to ``real`` and ``fake`` if they ask.
        alpha: ``[N]`` or ``[N, 1, ...]``, floating point: weight of REAL in each sample. Drawn uniformly if
            not given.
        target: the gradient norm that costs nothing.
        one_sided: penalise only norms above ``target``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (then ``[N]``).
        output: picks the score out of what the critic returns, e.g. ``lambda result: result[0]``.
        generator: source of ``alpha``, on the device of ``real``.
        impl: ``"auto"`` (the engine; the stock path with one warning if the critic cannot be captured) or
            ``"ref"`` (the stock path).

    Returns:
        A scalar, or ``[N]``; float32 at least. Differentiable once: a derivative of its gradient raises.

    Raises:
        ValueError, TypeError: an argument is wrong; raised before any work.
    """
    chosen = backend.resolve(impl)
    _check_pair(real, fake)
    _check_options(reduction, target)
    weights = _weights(alpha, real, generator)
    critic, finish = _enter(critic)
    if chosen == "auto":
        wants_x = torch.is_grad_enabled() and (
            real.requires_grad or fake.requires_grad or weights.requires_grad
        )
        with torch.no_grad():
            x = interpolate(real, fake, weights)
        plan, leaves = _plan(critic, output, x, wants_x)
        if plan is not None:
            call = Call(plan, x, weights, float(target), one_sided, reduction)
            return finish(GradientPenaltyFunction.apply(call, real, fake, weights, *leaves))
    with torch.enable_grad():
        penalty = reference.gradient_penalty(
            _scored(critic, output), real, fake, weights,
            target=target, one_sided=one_sided, reduction=reduction,
        )  # fmt: skip
    return finish(penalty if torch.is_grad_enabled() else penalty.detach())


@backend.compile_boundary
def r1_penalty(
    critic: Critic,
    real: Tensor,
    *,
    gamma: float = 1.0,
    reduction: str = "mean",
    output: Output | None = None,
    impl: str = "auto",
) -> Tensor:
    """The zero-centred penalty ``gamma/2 * mean_i ||grad_x D(x_i)||^2`` at the given points.

    On real samples this is R1 (Mescheder et al. 2018); on fakes it is R2.

    Args:
        critic, reduction, output, impl: as in :func:`gradient_penalty`.
        real: ``[N, ...]``, floating point. Gradients flow back to it if it asks.
        gamma: the weight.
    """
    chosen = backend.resolve(impl)
    _check_samples("real", real)
    _check_options(reduction, 0.0)
    if not isinstance(gamma, (int, float)) or not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number; got {gamma!r}")
    gradient = input_gradient(critic, real, output=output, impl=chosen)
    squares = reference.sample_norm(gradient).square()
    return reference.reduce(squares, reduction) * (gamma / 2)


@backend.compile_boundary
def input_gradient(critic: Critic, x: Tensor, *, output: Output | None = None, impl: str = "auto") -> Tensor:
    """Gradient of ``critic(x).sum()`` with respect to ``x``, differentiable once more.

    The building block for penalties with a norm of their own: compute anything from the result with
    ordinary torch code and call ``backward()``.

    Args:
        critic, output, impl: as in :func:`gradient_penalty`.
        x: ``[N, ...]``, floating point.

    Returns:
        ``[N, ...]``, dtype of ``x``.
    """
    chosen = backend.resolve(impl)
    _check_samples("x", x)
    critic, finish = _enter(critic)
    if chosen == "auto":
        points = x.detach()
        plan, leaves = _plan(critic, output, points, torch.is_grad_enabled() and x.requires_grad)
        if plan is not None:
            return finish(InputGradientFunction.apply(Call(plan, points), x, *leaves))
    gradient = reference.input_gradient(_scored(critic, output), x)
    return finish(gradient if torch.is_grad_enabled() else gradient.detach())


@backend.compile_boundary
def gradient_norm(critic: Critic, x: Tensor, *, output: Output | None = None, impl: str = "auto") -> Tensor:
    """Norm of the critic's input gradient, for each sample: ``[N, ...]`` to ``[N]``, without history."""
    with torch.no_grad():
        return norm_penalty(input_gradient(critic, x, output=output, impl=impl))[1]


# the engine --------------------------------------------------------------------------------------

_warned_batch_norm: set[int] = set()


def _plan(critic: Critic, output: Output | None, x: Tensor, wants_x: bool) -> tuple[Any, tuple[Any, ...]]:
    """The plan and its leaves, or (None, ()) where the stock path has to run."""
    from .engine import capture, plan
    from .engine.derive import DeriveError

    try:
        with torch.enable_grad():
            binding = capture.bind(critic, output, x.requires_grad_())
        x.requires_grad_(False)
        found = plan.plan_of(binding, wants_x)
    except (capture.CaptureError, DeriveError) as error:
        x.requires_grad_(False)
        _refuse(capture.entry(critic), str(error))
        return None, ()
    if binding.captured.batch_norm is not None:
        _warn_batch_norm(binding.captured)
    return found, binding.leaves


def _refuse(entry: Any, reason: str) -> None:
    """Remember that this critic takes the stock path, and say so once."""
    if "does not depend on x" in reason:
        raise ValueError(
            f"critic: its output does not depend on x, so there is no gradient to penalise ({reason})"
        )
    if entry.refused is None:
        entry.refused = reason
        warnings.warn(
            f"the stock gradient penalty runs for this critic, at stock speed: it cannot be captured as one graph. "
            f"{reason} Remedy: remove what breaks the graph, or pass impl='ref' to accept it.",
            StockPathWarning,
            stacklevel=4,
        )


def _warn_batch_norm(captured: Any) -> None:
    if id(captured) not in _warned_batch_norm:
        _warned_batch_norm.add(id(captured))
        warnings.warn(
            f"the critic normalises over the batch ({captured.batch_norm}): the penalty is then not a property of "
            f"single samples (paper, section 4). Use torch.nn.GroupNorm(1, channels), a layer norm, instead.",
            BatchNormWarning,
            stacklevel=4,
        )


def _scored(critic: Critic, output: Output | None) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        result = critic(x)
        result = result if output is None else output(result)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"the critic must return one tensor, got {type(result).__name__}: pass output=, a function that "
                f"picks the score (for example output=lambda result: result[0])"
            )
        return result

    return score


def _identity(penalty: Tensor) -> Tensor:
    return penalty


def _enter(critic: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
    """Unwrap the critic; for DistributedDataParallel do what its forward does around the module."""
    if not callable(critic):
        raise TypeError(f"critic must be callable, got {type(critic).__name__}")
    if isinstance(critic, torch.nn.Module) or hasattr(critic, "_torchdynamo_orig_callable"):
        from .engine.capture import unwrap

        if isinstance(critic, torch.nn.parallel.DistributedDataParallel):
            critic._pre_forward()
            return unwrap(critic), critic._post_forward
        return unwrap(critic), _identity
    return critic, _identity


# checks ------------------------------------------------------------------------------------------


def _check_samples(name: str, value: Any) -> None:
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


def _check_pair(real: Any, fake: Any) -> None:
    _check_samples("real", real)
    _check_samples("fake", fake)
    for what in ("shape", "dtype", "device"):
        of_real, of_fake = getattr(real, what), getattr(fake, what)
        if of_real != of_fake:
            raise ValueError(
                f"fake must have the {what} of real: real has {_show(of_real)}, fake has {_show(of_fake)}"
            )


def _show(value: Any) -> Any:
    return tuple(value) if isinstance(value, torch.Size) else value


def _check_options(reduction: Any, target: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}; got {reduction!r}")
    if not isinstance(target, (int, float)) or not math.isfinite(target) or target < 0:
        raise ValueError(f"target must be a finite number, at least 0; got {target!r}")


def _weights(alpha: Any, real: Tensor, generator: torch.Generator | None) -> Tensor:
    """``[N, 1, ...]`` in the dtype of ``real``."""
    shape = [real.shape[0]] + [1] * (real.dim() - 1)
    if alpha is None:
        return torch.rand(shape, generator=generator, device=real.device, dtype=real.dtype)
    if not isinstance(alpha, Tensor):
        raise TypeError(f"alpha must be a tensor, got {type(alpha).__name__}")
    if not alpha.is_floating_point():
        raise TypeError(f"alpha must be floating point, got {alpha.dtype}")
    if alpha.numel() != real.shape[0] or alpha.shape[0] != real.shape[0]:
        raise ValueError(
            f"alpha must hold one weight a sample, shape [{real.shape[0]}] or {shape}; got {tuple(alpha.shape)}"
        )
    if alpha.device != real.device:
        raise ValueError(f"alpha must be on the device of real, {real.device}; it is on {alpha.device}")
    return alpha.reshape(shape).to(real.dtype)
