"""The autograd boundary: first-order Functions over a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Protocol

import torch
from torch import Tensor
from torch.autograd import Function

from .engine import torch_internals
from .ops.norm_penalty import REDUCTIONS
from .request import Request

if TYPE_CHECKING:
    from .engine.ir import Leaf
    from .engine.plan import Plan

_THIRD = (
    "wgangp_fast computes the gradient penalty and its first derivative with explicit sweeps; a derivative "
    "of that gradient (a third derivative of the critic) is not available. Use impl='ref' for this call."
)


class Context(Protocol):
    """What a Function keeps from its forward pass to its backward pass: torch's part, and its own."""

    plan: Plan
    numbers: list[Leaf]
    lambda_gp: float
    score: tuple[torch.Size, torch.dtype, torch.device]
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def maybe_clear_saved_tensors(self) -> None: ...
    def mark_non_differentiable(self, *tensors: Tensor) -> None: ...
    def set_materialize_grads(self, value: bool) -> None: ...


def first_order_only(
    ctx: Context, gradients: Callable[[Context, Tensor], list[Tensor | None]], incoming: Tensor
) -> list[Tensor | None]:
    """``gradients(ctx, incoming)``; under ``create_graph=True`` using their graph raises and says why."""
    if not torch.is_grad_enabled():
        return gradients(ctx, incoming)
    with torch.no_grad():
        found = gradients(ctx, incoming)
    present = [(i, g.detach().requires_grad_()) for i, g in enumerate(found) if g is not None]
    for (i, _), g in zip(present, _NoDerivative.apply(*[g for _, g in present])):
        found[i] = g
    return found


class _NoDerivative(Function):
    """Identity whose derivative raises."""

    @staticmethod
    def forward(ctx: Context, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple([tensor.view_as(tensor) for tensor in tensors])

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> NoReturn:
        raise RuntimeError(_THIRD)


_NO_GRADIENT = (None, None, None)  # of the plan, the request and the points, which carry no history


def _norm_penalty(plan: Plan, request: Request, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The penalty, the norms ``[N]`` and the slope ``[N]`` that seeds sweep 3."""
    reduction = REDUCTIONS[request.reduction]
    return plan.kernels.norm_penalty(gradient, request.target, request.one_sided, reduction)


def _saved(ctx: Context) -> list[Tensor]:
    """The saved tensors, as a list that holds the only references to them (unless ``retain_graph`` is set).

    Stock code spreads them over a hundred autograd nodes, which free them one by one. This one Function would
    keep all of them to the end of its backward pass; so the sweeps take them out of the list.
    """
    saved = list(ctx.saved_tensors)
    if not torch_internals.keeps_graph():
        ctx.maybe_clear_saved_tensors()
    return saved


def _sweep34(
    ctx: Context, seed: list[Tensor], saved: list[Tensor]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Sweeps 3 and 4; both lists are emptied, so that each tensor is freed after its last use."""
    shape, dtype, device = seed[0].shape, seed[0].dtype, seed[0].device
    of_x, of_leaves = ctx.plan.backward(seed, saved, ctx.numbers)
    if of_x is None and ctx.plan.sweeps.wants_x:
        # piecewise linear: the penalty does not change with x
        of_x = torch.zeros(shape, dtype=dtype, device=device)
    return of_x, of_leaves


class GradientPenaltyFunction(Function):
    """``(plan, request, x, real, fake, alpha, *leaves) -> (penalty, norms [N])``: forward is sweeps 1, 2 and
    the norm, backward sweeps 3 and 4, scaled by the incoming gradient. ``x [N, ...]``: the penalty points,
    without history; ``real``, ``fake`` and ``alpha`` only where one of them gets a gradient."""

    @staticmethod
    def forward(
        ctx: Context,
        plan: Plan,
        request: Request,
        x: Tensor,
        real: Tensor | None,
        fake: Tensor | None,
        alpha: Tensor | None,
        *leaves: Leaf,
    ) -> tuple[Tensor, Tensor]:
        ctx.plan = plan
        gradient, tensors, ctx.numbers = plan.forward(x, leaves)
        value, norms, slope = _norm_penalty(plan, request, gradient)
        points = (real, fake, alpha) if plan.sweeps.wants_x else ()
        ctx.save_for_backward(gradient, slope, *points, *tensors)
        ctx.mark_non_differentiable(norms)
        ctx.set_materialize_grads(False)
        return value, norms

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *_NO_GRADIENT, *first_order_only(ctx, _penalty_gradients, grad_outputs[0])


def _penalty_gradients(ctx: Context, incoming: Tensor) -> list[Tensor | None]:
    saved = _saved(ctx)
    gradient, slope = saved[:2]
    points = saved[2 : 5 if ctx.plan.sweeps.wants_x else 2]
    del saved[: 2 + len(points)]
    seed = [ctx.plan.kernels.penalty_seed(gradient, slope, incoming)]
    del gradient
    of_x, of_leaves = _sweep34(ctx, seed, saved)
    return [*_of_points(ctx, of_x, points), *of_leaves]


def _of_points(ctx: Context, of_x: Tensor | None, points: list[Tensor]) -> list[Tensor | None]:
    """Gradients of real, fake and alpha from the adjoint of ``alpha*real + (1 - alpha)*fake``."""
    if of_x is None:
        return [None, None, None]
    real, fake, flat = points
    alpha = flat.view(-1, *[1] * (real.dim() - 1))
    of_alpha = None
    wants_real, wants_fake, wants_alpha = ctx.needs_input_grad[3:6]
    if wants_alpha:
        of_alpha = (of_x * (real - fake)).sum_to_size(alpha.shape).view(-1)
    return [
        alpha * of_x if wants_real else None,
        (1 - alpha) * of_x if wants_fake else None,
        of_alpha,
    ]


class CriticLossFunction(Function):
    """``(plan, request, x, real, fake, alpha, *leaves) -> (loss, wasserstein, penalty, norms [N])``: forward
    is the score of all three batches, sweep 2 and the norm of the penalty points; backward sweep 3 and one
    backward pass of all three. ``x [3N, ...]``: the penalty points, real and fake."""

    @staticmethod
    def forward(
        ctx: Context,
        plan: Plan,
        request: Request,
        x: Tensor,
        real: Tensor | None,
        fake: Tensor | None,
        alpha: Tensor | None,
        *leaves: Leaf,
    ) -> tuple[Tensor, ...]:
        ctx.plan = plan
        (gradient, score), tensors, ctx.numbers = plan.forward(x, leaves)
        penalty, norms, slope = _norm_penalty(plan, request, gradient)
        ctx.lambda_gp, ctx.score = request.lambda_gp, (score.shape, score.dtype, score.device)
        dim = plan.score_cut[0]
        thirds = score.reshape(3, -1) if dim == 0 else torch.stack(score.chunk(3, dim)).flatten(1)
        _, of_real, of_fake = thirds.mean(1, dtype=penalty.dtype).unbind()
        wasserstein = of_real - of_fake
        loss = torch.sub(penalty * request.lambda_gp, wasserstein)
        points = (real, fake, alpha) if plan.sweeps.wants_x else ()
        ctx.save_for_backward(gradient, slope, *points, *tensors)
        ctx.mark_non_differentiable(wasserstein, penalty, norms)
        ctx.set_materialize_grads(False)
        return loss, wasserstein, penalty, norms

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *_NO_GRADIENT, *first_order_only(ctx, _loss_gradients, grad_outputs[0])


def _loss_gradients(ctx: Context, incoming: Tensor) -> list[Tensor | None]:
    saved = _saved(ctx)
    plan = ctx.plan
    gradient, slope = saved[:2]
    points = saved[2 : 5 if plan.sweeps.wants_x else 2]
    del saved[: 2 + len(points)]
    seed = plan.kernels.penalty_seed(gradient, slope, incoming * ctx.lambda_gp)
    del gradient
    seeds = [(seed, plan.cotangent(*ctx.score) * incoming)]
    del seed
    (of_x, of_rest), of_leaves = plan.backward(seeds, saved, ctx.numbers)
    of_points = _of_points(ctx, of_x, points)
    if of_rest is not None:
        halves = of_rest.chunk(2)
        for k in (0, 1):
            if ctx.needs_input_grad[3 + k]:
                of_points[k] = halves[k] if of_points[k] is None else of_points[k] + halves[k]
    if plan.sweeps.wants_x and ctx.needs_input_grad[5] and of_points[2] is None:
        of_points[2] = torch.zeros_like(points[2])  # piecewise linear: the penalty does not change with x
    return [*of_points, *of_leaves]


class MlpPenaltyFunction(Function):
    """``(plan, request, real, fake, alpha, key, *leaves) -> (penalty, norms [N])`` of an MLP critic,
    interpolation and all: one launch forward, one backward, and the products. The kernel draws ``alpha`` at
    ``key``, a seed and an offset, where it is None."""

    @staticmethod
    def forward(
        ctx: Context,
        plan: Plan,
        request: Request,
        real: Tensor,
        fake: Tensor,
        alpha: Tensor | None,
        key: tuple[int, int],
        *leaves: Leaf,
    ) -> tuple[Tensor, Tensor]:
        mlp, rows = plan.mlp, len(real)
        assert mlp is not None
        real, fake = (v.detach().reshape(rows, -1).contiguous() for v in (real, fake))
        weights, biases = mlp.arguments(leaves)
        masks = mlp.masks(rows, real)
        value, norms, slope, _, x, gradient, h, g = mlp.kernels.mlp_penalty(
            real, fake, alpha, *key, 1, weights, biases, masks, mlp.act, mlp.slope,
            request.target, request.one_sided, REDUCTIONS[request.reduction],
        )  # fmt: skip
        ctx.plan = plan
        ctx.save_for_backward(slope, gradient, h, g, x, *weights, *(m for m in masks if m is not None))
        ctx.mark_non_differentiable(norms)
        ctx.set_materialize_grads(False)
        return value, norms

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *(None,) * 6, *first_order_only(ctx, _mlp_gradients, grad_outputs[0])


def _mlp_gradients(ctx: Context, incoming: Tensor) -> list[Tensor | None]:
    mlp = ctx.plan.mlp
    assert mlp is not None
    slope, gradient, h, g, x, *rest = _saved(ctx)
    count = len(mlp.weights)
    weights, drawn = rest[:count], iter(rest[count:])
    masks = [None if drop is None else next(drawn) for drop in mlp.dropouts]
    t, c = mlp.kernels.mlp_penalty_backward(
        incoming, slope, gradient, h, g, weights, masks, mlp.act, mlp.slope
    )
    return ctx.plan.complete(mlp.gradients(t, c, g, h, x, masks))


class InputGradientFunction(Function):
    """``(plan, points, x, grad_outputs, *leaves) -> gradient of (critic(x) * grad_outputs).sum()``,
    differentiable once more: the penalty's building block for callers with a norm of their own. ``points``:
    ``x`` without history; ``grad_outputs``: the score's cotangent; None: ones."""

    @staticmethod
    def forward(
        ctx: Context, plan: Plan, points: Tensor, x: Tensor, grad_outputs: Tensor | None, *leaves: Leaf
    ) -> Tensor:
        given = () if grad_outputs is None else (grad_outputs.detach(),)
        gradient, tensors, ctx.numbers = plan.forward(points, (*leaves, *given))
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return gradient

    @staticmethod
    def backward(ctx: Context, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *first_order_only(ctx, _input_gradient_gradients, grad_outputs[0])


def _input_gradient_gradients(ctx: Context, incoming: Tensor) -> list[Tensor | None]:
    if not ctx.plan.takes_cotangent:
        of_x, of_leaves = _sweep34(ctx, [incoming], _saved(ctx))
        return [of_x, None, *of_leaves]
    (of_x, of_cotangent), of_leaves = ctx.plan.backward([incoming], _saved(ctx), ctx.numbers)
    if of_x is None and ctx.plan.sweeps.wants_x:
        of_x = torch.zeros_like(incoming)
    return [of_x, of_cotangent, *of_leaves]
