"""A critic whose double backward is fast by itself: penalties that people have written stay as they are."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function

from .autograd import first_order_only
from .engine import torch_internals
from .errors import StockPathWarning
from .ops.registry import Kernels
from .options import DEFAULT
from .plain_tensors import plain
from .reference import input_gradient
from .run import Wanted, penalty_plan, verified

if TYPE_CHECKING:
    from collections.abc import Hashable

    from .engine.capture.hoist_parameters import Captured
    from .engine.ir import Leaf
    from .engine.score_plan import ScorePlan

Module = TypeVar("Module", bound=nn.Module)


def accelerate(critic: Module, enabled: bool = True) -> Module:
    """Make any gradient penalty that is written over ``critic`` fast; the penalty's code stays as it is.

    Changes the module in place, as :meth:`torch.nn.Module.compile` does, and returns it: class, parameters
    and ``state_dict`` are what they were; a copy (``copy.deepcopy``, pickle) is not accelerated. From then
    on, for an input that requires a gradient, the engine computes the score; ``torch.autograd.grad(critic(x),
    x, ..., create_graph=True)`` runs sweep 2, and the backward pass of whatever is made of that gradient runs
    sweeps 3 and 4. Values and gradients equal those of the module's own code.

    For inputs that require no gradient, under ``torch.no_grad()`` and inside ``torch.compile`` the module's
    own code runs. So it does, with one :class:`StockPathWarning`, if the critic cannot be captured, and
    without one if it returns something other than one tensor. Gradients of parameters that need a graph of
    their own (``critic(x).sum().backward(create_graph=True)``) are computed by autograd, at its speed.

    Args:
        critic: a module. Its first argument is ``x [N, ...]``, floating point; others (labels) may follow.
        enabled: False undoes it.

    Raises:
        TypeError: ``critic`` is no module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> critic = accelerate(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)))
        >>> x = torch.randn(4, 2, requires_grad=True)
        >>> (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
        >>> ((gradient.norm(dim=1) - 1) ** 2).mean().backward()
    """
    if not isinstance(critic, nn.Module):
        raise TypeError(f"critic must be a torch.nn.Module, got {type(critic).__name__}")
    if torch_internals.can_accelerate():
        torch_internals.call_through(critic, _Call(critic) if enabled else None)
    elif enabled:
        said = f"torch {torch.__version__} lacks what accelerate stands on: the critic runs its own code"
        warnings.warn(said, StockPathWarning, stacklevel=2)
    return critic


class _Own(nn.Module):
    """The module's own code as a function of ``x`` alone, for the capture."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module
        self.rest: tuple[Any, ...] = ()
        self.keywords: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Any:
        return self.inner._call_impl(x, *self.rest, **self.keywords)


class _Call:
    """What an accelerated module does when it is called."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.own, self.lock = module, _Own(module), threading.Lock()

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if torch.compiler.is_compiling() or not (args and _differentiable(args[0])):
            return self.module._call_impl(*args, **keywords)
        with self.lock:  # the other arguments are read while the critic is bound, and where it is compared
            self.own.rest, self.own.keywords = args[1:], keywords
            try:
                score = self._score(plain(args[0]))
            finally:
                self.own.rest, self.own.keywords = (), {}
        return self.module._call_impl(*args, **keywords) if score is None else score

    def _score(self, x: Tensor) -> Tensor | None:
        """The score by a plan; None: the module's own code has to run."""
        wanted = _WantedScore(self.own, None, True, Kernels.of("auto", x.device.type), DEFAULT)
        watch = wanted.verification(x.device)
        try:
            plan, leaves, refusal = penalty_plan(wanted, x.detach(), watch)
        except TypeError:  # several outputs
            return None
        if plan is not None:
            compared = watch is not None and watch.before is not None
            result, refusal = verified(
                lambda: _with_gradient(_Score.apply(plan, x, *leaves), x, compared),
                watch, wanted, plan, functools.partial(_by_module, self.own), lambda: (x,),
            )  # fmt: skip
            if refusal is None:
                return result[1]
        if refusal is not None:
            refusal.note()
        return None


def _differentiable(x: Any) -> bool:
    return (
        torch.is_grad_enabled()
        and isinstance(x, Tensor)
        and x.requires_grad
        and x.is_floating_point()
        and x.dim() > 0
        and x.numel() > 0
        and not torch_internals.inside_functorch_transform()
    )


def _with_gradient(score: Tensor, x: Tensor, compared: bool) -> tuple[Tensor, Tensor]:
    """What the first call is compared by, and the score."""
    if not compared:
        return score, score
    (gradient,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
    return torch.cat([gradient.flatten(), score.flatten().to(gradient.dtype)]), score


def _by_module(own: nn.Module, x: Tensor) -> Tensor:
    """The same by the module's own code."""
    scores: list[Tensor] = []

    def score(x: Tensor) -> Tensor:
        scores.append(own(x))
        return scores[-1]

    gradient = input_gradient(score, x)
    return torch.cat([gradient.flatten(), scores[-1].flatten().to(gradient.dtype)])


class _WantedScore(Wanted):
    """The plan of a score that is differentiated later."""

    def key(self) -> tuple[Hashable, ...]:
        return "score", self.kernels

    def make(self, captured: Captured) -> Any:  # another kind of plan, with the same part in a first call
        from .engine.capture import refusals
        from .engine.score_plan import ScorePlan

        try:
            plan = captured.plans.get(self.key())
            if plan is None:
                plan = captured.plans[self.key()] = ScorePlan(captured, self.kernels)
            return plan
        except Exception as error:
            refusals.raise_out_of_memory(error)
            refused = refusals.explained(error)
            captured.refused = str(refused), refused.remedy
            raise refused from error


def _keep(ctx: Any, values: Sequence[Leaf], *first: Tensor) -> None:
    """Save tensors for the backward pass, and numbers beside them."""
    ctx.numbers = [None if isinstance(value, Tensor) else value for value in values]
    ctx.save_for_backward(*first, *(value for value in values if isinstance(value, Tensor)))


def _kept(ctx: Any, tensors: Sequence[Tensor]) -> list[Leaf]:
    """What :func:`_keep` was given as ``values``."""
    rest = iter(tensors)
    return [next(rest) if number is None else number for number in ctx.numbers]


class _Score(Function):
    """``(plan, x, *leaves) -> score``. Its derivative is an ordinary backward pass; under
    ``create_graph=True`` it is :class:`_Gradient` if x alone is asked for, else what autograd makes of the
    captured operators."""

    @staticmethod
    def forward(ctx: Any, plan: ScorePlan, x: Tensor, *leaves: Leaf) -> Tensor:
        ctx.plan, ctx.count = plan, len(leaves)
        ctx.random = plan.random_state(x.device)
        score, kept = plan.score(x.detach(), leaves)  # the tensors themselves: ``t.data = ...`` changes them
        _keep(ctx, [*leaves, *kept], x)
        ctx.set_materialize_grads(False)
        return score

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = grad_outputs
        if cotangent is None:
            return None, None, *[None] * ctx.count
        x, *tensors = ctx.saved_tensors
        values = _kept(ctx, tensors)
        leaves, kept = values[: ctx.count], values[ctx.count :]
        if not torch.is_grad_enabled():
            of_x, of_leaves = ctx.plan.first(cotangent, kept)
            return None, of_x, *of_leaves
        others = [fn for fn, _ in ctx.next_functions[1:] if fn is not None]
        if not any(torch_internals.engine_will_run(fn) for fn in others):
            return None, _Gradient.apply(ctx.plan, kept, cotangent, x, *leaves), *[None] * ctx.count
        return None, *_by_autograd(ctx, x, leaves, cotangent)


def _by_autograd(ctx: Any, x: Tensor, leaves: list[Leaf], cotangent: Tensor) -> list[Tensor | None]:
    """Gradients of x and of the leaves with a graph of their own, by the captured operators."""
    asked = {i: v for i, v in enumerate(leaves) if isinstance(v, Tensor) and v.requires_grad}
    score = ctx.plan.by_autograd(x, leaves, ctx.random)
    of_x, *found = torch.autograd.grad(
        score, [x, *asked.values()], cotangent, create_graph=True, allow_unused=True
    )
    of_leaves = dict(zip(asked, found))
    return [of_x, *(of_leaves.get(i) for i in range(len(leaves)))]


class _Gradient(Function):
    """``(plan, kept, grad_outputs, x, *leaves) -> input gradient [N, ...]``: sweep 2, and sweeps 3 and 4."""

    @staticmethod
    def forward(
        ctx: Any, plan: ScorePlan, kept: list[Leaf], grad_outputs: Tensor, x: Tensor, *leaves: Leaf
    ) -> Tensor:
        ctx.plan = plan
        gradient, saved = plan.gradient(grad_outputs, kept)
        _keep(ctx, saved)
        return gradient

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *first_order_only(ctx, _second, grad_outputs[0])


def _second(ctx: Any, incoming: Tensor) -> list[Tensor | None]:
    saved = _kept(ctx, ctx.saved_tensors)
    if not torch_internals.keeps_graph():
        ctx.maybe_clear_saved_tensors()
    of_x, of_cotangent, of_leaves = ctx.plan.second(incoming, saved)
    return [of_cotangent, of_x, *of_leaves]
