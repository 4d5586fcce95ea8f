"""The whole critic loss of a WGAN-GP: Wasserstein estimate and gradient penalty in one call."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import backend, checks, reference, wrappers
from .autograd import CriticLossFunction
from .ops.interpolate import draw_key
from .ops.registry import Kernels
from .penalty import penalty_and_norms
from .plain_tensors import plain, points_like, samples
from .request import Critic, Output, Request, checked
from .run import Wanted, critic_step_plan, verified


class CriticLossOutput(NamedTuple):
    """What :func:`critic_loss` returns.

    Attributes:
        loss: scalar, to be minimised; the only member with a gradient.
        wasserstein: scalar, ``mean D(real) - mean D(fake)``: the estimate of the distance.
        penalty: scalar, the penalty, not weighted.
        grad_norm: ``[N]``, norms of the critic's input gradient at the penalty points.

    All stay on the device of the samples; only reading a number (``item()``) waits for the device.
    """

    loss: Tensor
    wasserstein: Tensor
    penalty: Tensor
    grad_norm: Tensor


@backend.compile_boundary
def critic_loss(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    lambda_gp: float = 10.0,
    alpha: Tensor | None = None,
    target: float = 1.0,
    one_sided: bool = False,
    output: Output | None = None,
    generator: torch.Generator | None = None,
    impl: str = "auto",
    recompute: bool = False,
    executor: str = "eager",
) -> CriticLossOutput:
    """The critic's whole WGAN-GP loss: ``mean D(fake) - mean D(real) + lambda_gp * penalty``.

    Gulrajani et al. 2017, algorithm 1. The value and the gradients equal those of the three terms in stock
    code. The critic runs once, on real, fake and penalty points together, and one backward pass gives all
    gradients. Some critics cannot run so: those whose forward pass changes buffers (batch norm or spectral
    norm in training) or asks whether its input requires a gradient. These, and samples of two dtypes, run as
    in stock code: on real, on fake, then for the penalty. Statistics over a batch are taken for real, fake
    and points each; random numbers (dropout) are drawn once for all three.

    Args:
        critic: any callable, as for :func:`wgangp_fast.gradient_penalty`.
        real: ``[N, ...]``, floating point.
        fake: shape and device of ``real``, floating point. Gradients flow to ``real`` and ``fake`` where
            they require them.
        lambda_gp: weight of the penalty.
        alpha: ``[N]`` or ``[N, 1, ...]``: weight of REAL in each sample; drawn uniformly if not given.
        target: the gradient norm that costs nothing.
        one_sided: penalise only norms above ``target``.
        output: picks the score out of what the critic returns.
        generator: source of ``alpha``.
        impl: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"ref"``.
        recompute: keep less between forward and backward, and compute it again: less memory, more time.
        executor: ``"eager"``, ``"inductor"`` or ``"graph"``: how the plan is run.

    Returns:
        :class:`CriticLossOutput`; only its ``loss`` has a gradient.

    Raises:
        ValueError, TypeError: an argument is wrong; raised before any work.
        BackendError: ``impl`` names kernels that cannot run here; says why.
    """
    request, finish = checked(
        critic, real, fake, alpha=alpha, target=target, one_sided=one_sided, output=output,
        generator=generator, impl=impl, recompute=recompute, executor=executor, lambda_gp=lambda_gp,
    )  # fmt: skip
    found = None
    # Without gradients one pass saves nothing, and in stock code the critic sees another grad mode. If the
    # dtypes differ, the critic must see real, fake and points each in its own: they cannot be one batch.
    promoted = checks.promoted(real, fake, request.alpha)
    alike = all(v.dtype == real.dtype for v in (fake, *promoted) if v is not None)
    if request.backend != "ref" and torch.is_grad_enabled() and alike:
        found = _at_once(request)
    if found is None:
        found = _separately(request)
    return found._replace(loss=finish(found.loss))


def _at_once(request: Request) -> CriticLossOutput | None:
    """One pass for real, fake and the penalty points; None if the critic does not allow it."""
    real, fake = samples(request.real), plain(request.fake)
    weights = None if request.alpha is None else plain(request.alpha).to(real.dtype)
    wants_x = real.requires_grad or fake.requires_grad or (weights is not None and weights.requires_grad)
    kernels = Kernels.of(request.backend, real.device.type)
    wanted = Wanted(request.critic, request.output, wants_x, kernels, request.options, critic_step=True)
    watch = wanted.verification(real.device)
    # Capture needs only shape, strides, dtype and device; the points are computed once the plan is known.
    like = points_like(real)
    plan, leaves = critic_step_plan(wanted, like, watch)
    if plan is None:
        return None
    n, *rest = like.shape
    strides = (math.prod(rest), *like.stride()[1:])  # channels_last stays channels_last
    whole = torch.empty_strided((3 * n, *rest), strides, dtype=real.dtype, device=real.device)
    key = (0, 0) if weights is not None else draw_key(request.generator, real.device)
    if watch is not None:
        watch.alpha_is_drawn()
    with torch.no_grad():
        x, drawn = kernels.interpolate(real, fake, weights, *key)
        torch.cat([x, real, fake], out=whole)
    weights = drawn if weights is None else weights
    points = (real, fake, weights) if wants_x else (None, None, None)
    stock = _Stock(request, plan.score_cut[0] if plan.draws else None)
    result, refusal = verified(
        lambda: CriticLossFunction.apply(plan, request, whole, *points, *leaves),
        watch, wanted, plan, stock, lambda: (request.real, request.fake, weights),
    )  # fmt: skip
    if refusal is not None:
        refusal.note()
        return None
    return CriticLossOutput(*result)


@dataclass
class _Stock:
    """The loss by stock code, ``(real, fake, alpha)`` to a scalar: the plan's first call is compared with it.

    Attributes:
        at_once: None: the critic runs on real, fake and points one after the other. If the plan draws random
            numbers, the critic runs on all three at once, as in the plan; this is the score's batch
            dimension.
        scale: size of the scores. The loss, a difference of them, may be far smaller than its rounding error.
    """

    request: Request
    at_once: int | None
    scale: float = 0.0

    def __call__(self, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        weight = alpha.view(-1, *[1] * (real.dim() - 1))
        request, dim = self.request, self.at_once
        if dim is not None:
            x = weight * real + (1 - weight) * fake
            rest: list[Tensor] = []

            def of_points(x: Tensor) -> Tensor:
                of_x, *rest[:] = request.score(torch.cat([x, real, fake])).chunk(3, dim or 0)
                return of_x

            norms = reference.sample_norm(reference.input_gradient(of_points, x))
            of_real, of_fake = rest
        else:
            of_real, of_fake = request.score(real), request.score(fake)
            norms = reference.penalty_norms(request.score, real, fake, weight)
        penalty = reference.penalty_of_norm(norms, request.target, request.one_sided).mean()
        self.scale = float((of_real.abs().mean() + of_fake.abs().mean()).detach())
        return of_fake.mean() - of_real.mean() + request.lambda_gp * penalty


def _separately(request: Request) -> CriticLossOutput:
    """The critic on real, on fake, and then the penalty, as in stock code."""
    with wrappers.reaching() as reach:
        of_real, of_fake = request.score(request.real).mean(), request.score(request.fake).mean()
        scores = reach(of_fake - of_real)
    penalty, norms = penalty_and_norms(request)
    wasserstein = (of_real - of_fake).detach()
    return CriticLossOutput(scores + request.lambda_gp * penalty, wasserstein, penalty.detach(), norms)


_OPTIONS = tuple(
    n for n in inspect.signature(critic_loss).parameters if n not in ("critic", "real", "fake", "lambda_gp")
)


class CriticLoss(nn.Module):
    """:func:`critic_loss` as a module around its critic: what DistributedDataParallel and fully_shard wrap.

    Args:
        critic: the critic.
        lambda_gp: weight of the penalty.
        options: other keyword arguments of :func:`critic_loss`.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> loss = CriticLoss(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), lambda_gp=10.0)
        >>> loss(torch.zeros(4, 2), torch.ones(4, 2)).loss.backward()
    """

    def __init__(self, critic: nn.Module, lambda_gp: float = 10.0, **options: Any) -> None:
        super().__init__()
        unknown = set(options) - set(_OPTIONS)
        if unknown:
            raise TypeError(f"unknown option {', '.join(sorted(unknown))}; known: {', '.join(_OPTIONS)}")
        self.critic, self.lambda_gp, self.options = critic, lambda_gp, options

    def forward(self, real: Tensor, fake: Tensor, **options: Any) -> CriticLossOutput:
        """The loss of ``real`` and ``fake`` ``[N, ...]``; ``options`` such as ``alpha`` are for this call."""
        return critic_loss(self.critic, real, fake, lambda_gp=self.lambda_gp, **(self.options | options))
