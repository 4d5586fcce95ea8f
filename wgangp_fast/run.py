"""From a request to numbers: the plan, compared with the stock code at its first call, or the stock path."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import checks, verify
from .errors import BatchNormWarning, CaptureError, NotNow, StockPathWarning, Unavailable, VerificationError
from .ops.registry import Kernels
from .options import Options, plan_key
from .request import Critic, Output

if TYPE_CHECKING:  # the first call imports them: they bring Dynamo with them
    from .engine.capture.hoist_parameters import Captured
    from .engine.ir import Leaf
    from .engine.plan import Plan

_said_of_torch: set[str] = set()  # warnings about this torch: once, not for every critic


class Refusal:
    """Why the stock path runs. :meth:`note` warns after it has run: a broken critic raises its own error
    there, and needs no warning."""

    def __init__(self, critic: Critic, error: CaptureError) -> None:
        self.critic, self.error = critic, error

    def note(self) -> None:
        from .engine.capture import dynamo, refusals

        entry, error = dynamo.entry(self.critic), self.error
        if not isinstance(error, NotNow):
            entry.refused = str(error)
        if str(error) in entry.warned | _said_of_torch:
            return
        entry.warned.add(str(error))
        if isinstance(error, Unavailable):
            _said_of_torch.add(str(error))
        refusals.warn_user(
            f"the stock gradient penalty runs for this critic, at stock speed. "
            f"{refusals.with_remedy(error)}; or pass impl='ref' to accept it.",
            StockPathWarning,
        )


@dataclass(frozen=True)
class Wanted:
    """Which of a critic's plans a call needs.

    Attributes:
        critic: without its wrappers.
        output: picks the score out of what the critic returns.
        wants_x: whether the samples get a gradient.
        kernels: the implementations of the package's own operations.
        options: how the plan is run.
        critic_step: the plan of the whole critic loss, not of the penalty alone.
        grad_outputs: whether the score's cotangent, which the caller gives, gets a gradient; None: ones.
    """

    critic: Critic
    output: Output | None
    wants_x: bool
    kernels: Kernels
    options: Options
    critic_step: bool = False
    grad_outputs: bool | None = None

    def key(self) -> tuple[Hashable, ...]:
        """The key under which a captured critic keeps this plan; it includes the present grad mode."""
        return plan_key(self.wants_x, self.kernels, self.options, self.critic_step, self.grad_outputs)

    def verification(self, device: torch.device) -> verify.Verification | None:
        """The comparison of this call with the stock code, if it may be due."""
        return verify.begin(self.critic, self.output, device, self.key())

    def make(self, captured: Captured) -> Plan:
        """The plan; derived on first use.

        Raises:
            CaptureError: no plan can be made. The capture remembers why, so that it is not tried again.
        """
        from .engine import plan
        from .engine.capture import refusals

        try:
            return plan.plan_of(
                captured, self.wants_x, self.kernels, self.options, self.critic_step, self.grad_outputs
            )
        except Exception as error:
            refusals.raise_out_of_memory(error)
            refused = refusals.explained(error)
            captured.refused = str(refused), refused.remedy
            raise refused from error


def penalty_plan(
    wanted: Wanted, x: Tensor, watch: verify.Verification | None
) -> tuple[Plan | None, tuple[Leaf, ...], Refusal | None]:
    """The plan and its leaves (what it takes beside the samples), or why the stock path has to run.

    This is decided before autograd records anything.

    Args:
        x: ``[N, ...]`` like the penalty points; its numbers do not matter.
    """
    from .engine.capture import dynamo

    key = wanted.key()

    def before(captured: Captured, inputs: tuple[Leaf, ...]) -> None:
        if key not in captured.plans:
            raise dynamo.Stopped(captured)  # plan first: if that fails, nothing may have run
        if watch is not None:
            watch.look(captured, inputs)

    binding = None
    try:
        while binding is None:
            try:
                with torch.enable_grad():  # Dynamo guards the grad mode: always capture in the same one
                    binding = dynamo.bind(wanted.critic, wanted.output, x.requires_grad_(), before)
            except dynamo.Stopped as stopped:
                wanted.make(stopped.captured)
    except CaptureError as error:
        x.requires_grad_(False)
        checks.stock_path_in_capture(x.device, error)
        return None, (), Refusal(wanted.critic, error)
    if binding.captured.batch_norm is not None:
        _warn_batch_norm(wanted.critic, binding.captured.batch_norm)
    return binding.captured.plans[key], binding.leaves, None


def critic_step_plan(
    wanted: Wanted, x: Tensor, watch: verify.Verification | None
) -> tuple[Plan | None, tuple[Leaf, ...]]:
    """The plan of the whole critic step and its leaves; ``(None, ())`` if each batch has to run alone."""
    from .engine.capture import critic_step, refusals

    try:
        look = None if watch is None else watch.look
        binding = critic_step.bind(wanted.critic, wanted.output, x.requires_grad_(), x.detach(), look)
    except CaptureError:
        return None, ()
    finally:
        x.requires_grad_(False)
    if isinstance(binding, str):
        return None, ()
    from .engine import plan

    try:
        found = plan.plan_of(binding.captured, wanted.wants_x, wanted.kernels, wanted.options, True)
    except Exception as error:  # nothing has run yet; a plan of the penalty alone may still work
        refusals.raise_out_of_memory(error)
        binding.captured.critic_step = str(error) or type(error).__name__
        return None, ()
    return found, binding.leaves


def verified(
    run: Callable[[], Any],
    watch: verify.Verification | None,
    wanted: Wanted,
    plan: Plan,
    stock: Callable[..., Tensor],
    points: Callable[[], tuple[Tensor, ...]],
) -> tuple[Any, Refusal | None]:
    """The plan's result, or why it must not be used: its first call is compared with stock code.

    Args:
        run: runs the plan and returns a tensor, or a tuple that begins with one.
        stock: computes that tensor from the points by stock code.
        points: the samples that ``stock`` takes.
    """
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
        if wanted.critic_step:
            watch.captured.critic_step = refused[0]  # the penalty alone has a plan of its own
        else:
            watch.captured.refused = refused
        return None, Refusal(wanted.critic, refusals.refusal(*refused))


def _warn_batch_norm(critic: Critic, layer: str) -> None:
    from .engine.capture import dynamo, refusals

    entry = dynamo.entry(critic)
    if layer not in entry.warned:
        entry.warned.add(layer)
        refusals.warn_user(
            f"the critic normalises over the batch ({layer}): the penalty is then not a "
            f"property of single samples (paper, section 4). Use GroupNorm(1, channels), a layer norm.",
            BatchNormWarning,
        )
