"""The public penalties: each makes a request, which runs on the engine or by stock code."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from . import backend, checks, reference, wrappers
from .autograd import GradientPenaltyFunction, InputGradientFunction, MlpPenaltyFunction
from .ops.interpolate import draw_key
from .ops.registry import Kernels
from .options import DEFAULT
from .plain_tensors import plain, points_like, samples
from .request import Critic, Output, Request, checked, score_of
from .run import Wanted, penalty_plan, verified


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
    recompute: bool = False,
    executor: str = "eager",
) -> Tensor:
    """The WGAN-GP gradient penalty, unweighted: ``mean_i (||grad_x D(x_i)||_2 - 1)^2``.

    At ``x_i = a_i * real_i + (1 - a_i) * fake_i`` with one uniform ``a_i`` a sample (Gulrajani et al.
    2017, eq. 3, algorithm 1; appendix C for ``one_sided``). The value and every gradient equal the stock
    ``autograd.grad(..., create_graph=True)`` code; multiply by lambda yourself.

    Args:
        critic: any callable; its output may have any shape and is summed. Several outputs: see ``output``.
        real: ``[N, ...]``, floating point.
        fake: shape and device of ``real``, floating point. Gradients flow to ``real`` and ``fake`` if they
            require them.
        alpha: ``[N]`` or ``[N, 1, ...]``, floating point: weight of REAL in each sample. Drawn uniformly if
            not given. Where dtypes differ the points have the one that torch promotes them to, as in stock
            code: float32 for bfloat16 samples and float32 ``alpha``.
        target: the gradient norm that costs nothing.
        one_sided: penalise only norms above ``target``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"`` (then ``[N]``).
        output: picks the score out of what the critic returns, e.g. ``lambda result: result[0]``.
        generator: source of ``alpha``: the same numbers on every device and from every ``impl``.
        impl: ``"auto"``: the engine with the fastest kernels for the device (the stock path with one
            warning if the critic cannot be captured); ``"cpu"``, ``"cuda"``, ``"triton"``: the engine with
            these kernels; ``"ref"``: the stock path.
        recompute: keep less between forward and backward, and compute it again: less memory, more time.
        executor: how the engine's code runs, ``"eager"``, ``"inductor"`` or ``"graph"``; see
            :mod:`wgangp_fast.options`.

    Returns:
        A scalar, or ``[N]``; float32 at least. Differentiable once: a derivative of its gradient raises.

    Raises:
        ValueError, TypeError: an argument is wrong; raised before any work.
        BackendError: ``impl`` names kernels that cannot run here; says why.
    """
    request, finish = checked(
        critic, real, fake, alpha=alpha, target=target, one_sided=one_sided, output=output,
        generator=generator, impl=impl, recompute=recompute, executor=executor, reduction=reduction,
    )  # fmt: skip
    return finish(penalty_and_norms(request)[0])


def penalty_and_norms(request: Request) -> tuple[Tensor, Tensor]:
    """The penalty and, without history, the norms ``[N]``."""
    real, fake, weights = checks.promoted(request.real, request.fake, request.alpha)
    kernels = Kernels.of("auto" if request.backend == "ref" else request.backend, real.device.type)
    key = (0, 0) if weights is not None else draw_key(request.generator, real.device)
    given = (real, fake)  # for stock code: the critic must see the caller's own tensors
    real, fake = samples(real), plain(fake)
    weights = None if weights is None else plain(weights)

    def drawn() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return kernels.interpolate(real, fake, weights, *key)

    def stock(real: Tensor, fake: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        alpha = weights.view(-1, *[1] * (real.dim() - 1))
        norms = reference.penalty_norms(request.score, real, fake, alpha)
        each = reference.penalty_of_norm(norms, request.target, request.one_sided)
        return reference.reduce(each, request.reduction), norms

    refusal = None
    if request.backend != "ref":
        asking = any(v is not None and v.requires_grad for v in (real, fake, weights))
        wants_x = torch.is_grad_enabled() and asking
        wanted = Wanted(request.critic, request.output, wants_x, kernels, request.options)
        watch = wanted.verification(real.device)
        # Capture needs only shape, strides, dtype and device. The points are computed once the plan is known:
        # that of an MLP computes them inside its kernel.
        plan, leaves, refusal = penalty_plan(wanted, points_like(real), watch)
        if plan is not None:
            ready = plan

            def run() -> Any:
                if ready.mlp is not None:
                    return MlpPenaltyFunction.apply(ready, request, real, fake, weights, key, *leaves)
                x, alpha = drawn()
                asked = (real, fake, weights if weights is not None else alpha) if wants_x else (None,) * 3
                return GradientPenaltyFunction.apply(ready, request, x, *asked, *leaves)

            def points() -> tuple[Tensor, ...]:
                return *given, weights if weights is not None else drawn()[1]

            result, refusal = verified(run, watch, wanted, ready, lambda *p: stock(*p)[0], points)
            if refusal is None:
                return result
    real, fake = given
    with torch.enable_grad(), wrappers.reaching() as reach:
        penalty, norms = stock(real, fake, drawn()[1] if weights is None else weights)
        penalty = reach(penalty)
    if refusal is not None:
        refusal.note()
    return penalty if torch.is_grad_enabled() else penalty.detach(), norms.detach()


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
        critic: any callable, as for :func:`gradient_penalty`.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        output: picks the score out of what the critic returns.
        impl: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"ref"``.
        real: ``[N, ...]``, floating point. Gradients flow back to it if it asks.
        gamma: the weight.
    """
    checks.samples("real", real)
    chosen = backend.resolve(impl, real.device)
    checks.reduction_and_target(reduction, 0.0)
    if not isinstance(gamma, (int, float)) or not math.isfinite(gamma):
        raise ValueError(f"gamma must be a finite number; got {gamma!r}")
    gradient = input_gradient(critic, real, output=output, impl=chosen)
    squares = reference.sample_norm(gradient).square()
    return reference.reduce(squares, reduction) * (gamma / 2)


@backend.compile_boundary
def input_gradient(
    critic: Critic,
    x: Tensor,
    *,
    grad_outputs: Tensor | None = None,
    output: Output | None = None,
    impl: str = "auto",
) -> Tensor:
    """Gradient of ``(critic(x) * grad_outputs).sum()`` with respect to ``x``, differentiable once more.

    The building block for penalties with a norm of their own: compute anything from the result with
    ordinary torch code and call ``backward()``.

    Args:
        critic: any callable, as for :func:`gradient_penalty`.
        grad_outputs: the score's cotangent, as in ``torch.autograd.grad``: in its shape, dtype and device;
            None: ones. A gradient flows back to it if it requires one.
        output: picks the score out of what the critic returns.
        impl: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"ref"``.
        x: ``[N, ...]``, floating point.

    Returns:
        ``[N, ...]``, dtype of ``x``.

    Raises:
        ValueError, TypeError: an argument is wrong.
        BackendError: ``impl`` names kernels that cannot run here; says why.
    """
    checks.samples("x", x)
    if grad_outputs is not None and not isinstance(grad_outputs, Tensor):
        raise TypeError(f"grad_outputs must be a tensor, got {type(grad_outputs).__name__}")
    chosen = backend.resolve(impl, x.device)
    checks.no_transform()
    critic, finish = wrappers.enter(critic)
    stock = functools.partial(reference.input_gradient, functools.partial(score_of, critic, output))
    refusal = None
    if chosen != "ref":
        own = plain(x)
        wants_x = torch.is_grad_enabled() and own.requires_grad
        of_cotangent = None
        if grad_outputs is not None:
            of_cotangent = torch.is_grad_enabled() and grad_outputs.requires_grad
        kernels = Kernels.of(chosen, x.device.type)
        wanted = Wanted(critic, output, wants_x, kernels, DEFAULT, grad_outputs=of_cotangent)
        watch, points = wanted.verification(x.device), own.detach()
        plan, leaves, refusal = penalty_plan(wanted, points, watch)
        if plan is not None:
            ready = plan
            cotangent = None
            if grad_outputs is not None:
                checks.cotangent(grad_outputs, plan.score_shape, plan.score_dtype, x.device)
                cotangent = plain(grad_outputs)
            result, refusal = verified(
                lambda: InputGradientFunction.apply(ready, points, own, cotangent, *leaves),
                watch, wanted, ready, stock, lambda: (x,) if grad_outputs is None else (x, grad_outputs),
            )  # fmt: skip
            if refusal is None:
                return finish(result)
    with wrappers.reaching() as reach:
        gradient = reach(stock(x, grad_outputs))
    if refusal is not None:
        refusal.note()
    return finish(gradient if torch.is_grad_enabled() else gradient.detach())


@backend.compile_boundary
def gradient_norm(critic: Critic, x: Tensor, *, output: Output | None = None, impl: str = "auto") -> Tensor:
    """Norm of the critic's input gradient, for each sample: ``[N, ...]`` to ``[N]``, without history."""
    with torch.no_grad():
        return reference.sample_norm(input_gradient(critic, x, output=output, impl=impl))
