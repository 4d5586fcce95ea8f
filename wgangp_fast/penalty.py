"""The public penalties: argument checks, the choice between the engine and the stock path, the call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backend, checks, reference, verify, wrappers
from .autograd import Call, GradientPenaltyFunction, InputGradientFunction, MlpCall, MlpPenaltyFunction
from .errors import BatchNormWarning, StockPathWarning, VerificationError
from .ops.interpolate import draw_key
from .ops.norm_penalty import REDUCTIONS
from .ops.registry import Kernels
from .options import DEFAULT, Execution, execution
from .plain_tensors import plain, points_like, samples

if TYPE_CHECKING:
    from .errors import CaptureError

Critic = Callable[[Tensor], Any]
Output = Callable[[Any], Tensor]


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
        recompute: keep less between forward and backward, and make it again: less memory, more time.
        executor: how the engine's code runs, ``"eager"``, ``"inductor"`` or ``"graph"``; see
            :mod:`wgangp_fast.options`.

    Returns:
        A scalar, or ``[N]``; float32 at least. Differentiable once: a derivative of its gradient raises.

    Raises:
        ValueError, TypeError: an argument is wrong; raised before any work.
        BackendError: ``impl`` names kernels that cannot run here; says why.
    """
    checks.pair(real, fake)
    chosen = backend.resolve(impl, real.device)
    checks.no_transform()
    checks.options(reduction, target)
    weights = checks.weights(alpha, real)
    how = execution(recompute, executor)
    critic, finish = wrappers.enter(critic)
    return finish(
        penalty_and_norms(
            critic, real, fake, weights=weights, target=target, one_sided=one_sided, reduction=reduction,
            output=output, generator=generator, chosen=chosen, how=how,
        )[0]
    )  # fmt: skip


def penalty_and_norms(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    *,
    weights: Tensor | None,
    target: float,
    one_sided: bool,
    reduction: str,
    output: Output | None,
    generator: torch.Generator | None,
    chosen: str,
    how: Execution,
) -> tuple[Tensor, Tensor]:
    """The penalty and, without history, the norms ``[N]``; checked arguments, an unwrapped critic."""
    real, fake, weights = checks.promoted(real, fake, weights)
    kernels = Kernels.of("auto" if chosen == "ref" else chosen, real.device.type)
    key = (0, 0) if weights is not None else draw_key(generator, real.device)
    given = (real, fake)  # the critic may look at what it is given
    real, fake = samples(real), plain(fake)
    weights = None if weights is None else plain(weights)

    def drawn() -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return kernels.interpolate(real, fake, weights, *key)

    def stock(real: Tensor, fake: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        alpha = weights.view(-1, *[1] * (real.dim() - 1))
        norms = reference.penalty_norms(scored(critic, output), real, fake, alpha)
        return reference.reduce(reference.penalty_of_norm(norms, target, one_sided), reduction), norms

    refusal = None
    if chosen != "ref":
        asking = any(v is not None and v.requires_grad for v in (real, fake, weights))
        wants_x = torch.is_grad_enabled() and asking
        plan_key = (wants_x, torch.is_grad_enabled(), kernels, how, False)
        watch = verify.begin(critic, output, real.device, plan_key)
        # Capture looks at shape, strides, dtype and device; the points themselves come when the plan is
        # known, which may make them in a kernel of its own.
        plan, leaves, refusal = _plan(critic, output, points_like(real), wants_x, kernels, how, watch)
        if plan is not None:
            options = (float(target), one_sided, REDUCTIONS[reduction])

            def run() -> Any:
                if plan.mlp is not None:
                    return MlpPenaltyFunction.apply(
                        MlpCall(plan, real, fake, weights, key, *options), *leaves
                    )
                x, alpha = drawn()
                asked = (real, fake, weights if weights is not None else alpha) if wants_x else (None,) * 3
                return GradientPenaltyFunction.apply(Call(plan, x, *options), *asked, *leaves)

            def points() -> tuple[Tensor, ...]:
                return *given, weights if weights is not None else drawn()[1]

            result, refusal = trusted(run, watch, critic, plan, lambda *p: stock(*p)[0], points)
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
    checks.options(reduction, 0.0)
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
        critic: any callable, as for :func:`gradient_penalty`.
        output: picks the score out of what the critic returns.
        impl: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"triton"`` or ``"ref"``.
        x: ``[N, ...]``, floating point.

    Returns:
        ``[N, ...]``, dtype of ``x``.
    """
    checks.samples("x", x)
    chosen = backend.resolve(impl, x.device)
    checks.no_transform()
    critic, finish = wrappers.enter(critic)
    refusal = None
    if chosen != "ref":
        own, kernels = plain(x), Kernels.of(chosen, x.device.type)
        points, wants_x = own.detach(), torch.is_grad_enabled() and own.requires_grad
        key = (wants_x, torch.is_grad_enabled(), kernels, DEFAULT, False)
        watch = verify.begin(critic, output, x.device, key)
        plan, leaves, refusal = _plan(critic, output, points, wants_x, kernels, DEFAULT, watch)
        if plan is not None:
            stock = functools.partial(reference.input_gradient, scored(critic, output))
            result, refusal = trusted(
                lambda: InputGradientFunction.apply(Call(plan, points), own, *leaves),
                watch, critic, plan, stock, lambda: (x,),
            )  # fmt: skip
            if refusal is None:
                return finish(result)
    with wrappers.reaching() as reach:
        gradient = reference.input_gradient(scored(critic, output), x)
    gradient = reach(gradient)
    if refusal is not None:
        refusal.note()
    return finish(gradient if torch.is_grad_enabled() else gradient.detach())


@backend.compile_boundary
def gradient_norm(critic: Critic, x: Tensor, *, output: Output | None = None, impl: str = "auto") -> Tensor:
    """Norm of the critic's input gradient, for each sample: ``[N, ...]`` to ``[N]``, without history."""
    with torch.no_grad():
        return reference.sample_norm(input_gradient(critic, x, output=output, impl=impl))


# the engine --------------------------------------------------------------------------------------


_said_of_torch: set[str] = set()  # what this torch lacks is no matter of one critic


class _Refusal:
    """Why the stock path runs; noted once it has: what it raises is the critic's own error."""

    def __init__(self, critic: Critic, error: CaptureError) -> None:
        self.critic, self.error = critic, error

    def note(self) -> None:
        from .engine.capture import dynamo as capture
        from .engine.capture import refusals

        entry, error = capture.entry(self.critic), self.error
        if not isinstance(error, capture.NotNow):
            entry.refused = str(error)
        if str(error) in entry.warned | _said_of_torch:
            return
        entry.warned.add(str(error))
        if isinstance(error, capture.Unavailable):
            _said_of_torch.add(str(error))
        refusals.warn_user(
            f"the stock gradient penalty runs for this critic, at stock speed. "
            f"{refusals.with_remedy(error)}; or pass impl='ref' to accept it.",
            StockPathWarning,
        )


def _plan(
    critic: Critic,
    output: Output | None,
    x: Tensor,
    wants_x: bool,
    kernels: Kernels,
    how: Execution,
    watch: verify.Verification | None,
) -> tuple[Any, tuple[Any, ...], _Refusal | None]:
    """The plan and its leaves, or why the stock path has to run; chosen before autograd records anything."""
    from .engine.capture import dynamo as capture  # by the first call: it brings Dynamo with it

    grad = torch.is_grad_enabled()
    key = (wants_x, grad, kernels, how, False)
    watch = watch or verify.before_planning(critic, output, x.device, key)
    try:
        torch.set_grad_enabled(True)  # the grad mode is among the guards: always ask in the same one
        with capture.shown(None if watch is None else watch.look):
            binding = capture.bind(critic, output, x.requires_grad_())
        torch.set_grad_enabled(grad)
        found = planned(binding, wants_x, kernels, how)
    except capture.CaptureError as error:
        if watch is not None and watch.before is not None:
            watch.before.restore()  # the hoisted part ran, the plan could not be made
        x.requires_grad_(False)
        checks.stock_path_in_capture(x.device, error)
        return None, (), _Refusal(critic, error)
    finally:
        torch.set_grad_enabled(grad)
    if binding.captured.batch_norm is not None:
        _warn_batch_norm(critic, binding.captured)
    return found, binding.leaves, None


def critic_step_plan(
    critic: Critic,
    output: Output | None,
    x: Tensor,
    wants_x: bool,
    kernels: Kernels,
    how: Execution,
    watch: verify.Verification | None,
) -> tuple[Any, tuple[Any, ...]]:
    """The plan of the whole critic step and its leaves; ``(None, ())`` where each batch has to run alone."""
    from .engine import plan
    from .engine.capture import critic_step as joint
    from .engine.capture import dynamo as capture
    from .engine.capture import refusals

    try:
        with capture.shown(None if watch is None else watch.look):
            binding = joint.bind(critic, output, x.requires_grad_(), x.detach())
    except capture.CaptureError:
        return None, ()
    finally:
        x.requires_grad_(False)
    if isinstance(binding, str):
        return None, ()
    try:
        return plan.plan_of(binding, wants_x, kernels, how, critic_step=True), binding.leaves
    except Exception as error:  # nothing has run yet, and the penalty's own plan may do
        refusals.raise_out_of_memory(error)
        binding.captured.critic_step = str(error) or type(error).__name__
        return None, ()


def trusted(
    run: Callable[[], Any],
    watch: verify.Verification | None,
    critic: Critic,
    plan: Any,
    stock: Callable[..., Tensor],
    points: Callable[[], tuple[Any, ...]],
    whole_loss: bool = False,
) -> tuple[Any, _Refusal | None]:
    """What the plan gives, or why it is not to be used: its first call is compared with the stock code."""
    from .engine.capture import refusals

    if watch is None or watch.before is None:
        return run(), None
    try:
        with watch.guarded():
            result = run()
            watch.compare(plan, result[0] if isinstance(result, tuple) else result, stock, points())
        return result, None
    except VerificationError as error:
        remedy = "none is needed, the stock path is exact; please report the critic"
        refused = f"compared with the stock code, the plan's first call was wrong: {error}", remedy
        if whole_loss:
            watch.captured.critic_step = refused[0]  # the penalty alone has a plan of its own
        else:
            watch.captured.refused = refused
        return None, _Refusal(critic, refusals.refusal(*refused))


def planned(binding: Any, *options: Any, **more: Any) -> Any:
    """The plan for a binding; what cannot be planned is a refusal of that capture."""
    from .engine import plan
    from .engine.capture import refusals

    try:
        return plan.plan_of(binding, *options, **more)
    except Exception as error:
        refusals.raise_out_of_memory(error)
        refused = refusals.explained(error)
        binding.captured.refused = str(refused), refused.remedy
        raise refused from error


def _warn_batch_norm(critic: Critic, captured: Any) -> None:
    from .engine.capture import dynamo as capture
    from .engine.capture import refusals

    entry = capture.entry(critic)
    if captured.batch_norm not in entry.warned:
        entry.warned.add(captured.batch_norm)
        refusals.warn_user(
            f"the critic normalises over the batch ({captured.batch_norm}): the penalty is then not a "
            f"property of single samples (paper, section 4). Use GroupNorm(1, channels), a layer norm.",
            BatchNormWarning,
        )


def scored(critic: Critic, output: Output | None) -> Callable[[Tensor], Tensor]:
    """The critic's score, picked by ``output`` and checked to be one tensor."""

    def score(x: Tensor) -> Tensor:
        result = critic(x)
        result = result if output is None else output(result)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"the critic must return one tensor, got {type(result).__name__}: pass output=, a function "
                f"that picks the score (for example output=lambda result: result[0])"
            )
        return result

    return score
