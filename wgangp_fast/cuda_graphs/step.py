"""CUDA graphs of training steps: one launch for a critic step, or for all n_critic of them.

    step = GraphedCriticStep(critic, optimizer, n_critic=5)
    for reals, fakes in batches:             # lists of five, or [5, N, ...]
        losses = step(reals, fakes).loss     # [5]

The first calls run the step as it is, on a side stream, with their own data; the next captures it; from
then on each call copies its arguments into the graph's memory and replays. So nothing is computed that
eager training would not compute, and the parameters after any number of calls are eager's, bit for bit
where the kernels are deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import checks, wrappers
from ..backend import compile_boundary
from ..engine.torch_internals import not_warned_of_capture, tree
from ..errors import BackendError, GraphError
from ..loss import CriticLoss, CriticLossOutput
from ..ops.interpolate import draw_key
from ..ops.registry import Kernels
from . import capture as cudagraph
from .guards import Frozen, Gradient, parameters, reachable, refuse

#: what kills most captures, for the error's text
HINT = (
    "a captured step must not read a number from the GPU (.item(), print, `if loss > x`), use tensors on the "
    "CPU, or do its first-time work (compilation, optimiser state) inside the capture"
)


class GraphedStep:
    """What :func:`make_graphed_step` returns: call it like the step.

    Attributes:
        enabled: whether there will be a graph.
        captured: whether there is one.
    """

    def __init__(
        self,
        step: Callable[..., Any],
        warmup: int,
        enabled: bool,
        watch: Sequence[Any] | None,
        generators: Sequence[torch.Generator],
    ) -> None:
        if not callable(step):
            raise TypeError(f"step must be callable, got {type(step).__name__}")
        if not isinstance(warmup, int) or warmup < 1:
            raise ValueError(
                f"warmup must be at least 1: an optimiser makes its state in its first step; got {warmup!r}"
            )
        self.step, self.warmup, self.enabled = step, warmup, enabled
        self.generators = list(generators)
        self.watched = list(reachable(step) if watch is None else watch)
        if enabled:
            reason = cudagraph.Capture.missing()
            if reason is not None:
                raise BackendError(
                    f"a CUDA graph was asked for, but {reason}: enabled=False runs the same step eagerly"
                )
            refuse(self.watched, cudagraph.Capture.device_type)
            for item in self.watched:
                if isinstance(item, Optimizer):  # it would warn that the warm-up is not captured
                    not_warned_of_capture(item)
        self.reset()

    def reset(self) -> None:
        """Forget the graph: the next calls warm up and capture again.

        For what a replay refuses: loaded state, moved parameters, another learning rate or batch size.
        """
        self._capture: cudagraph.Capture | None = None
        self._calls = 0
        self._shape: tuple[Any, list[Any]] | None = None
        self._static: list[Any] = []
        self._outputs: Any = None
        self._frozen: Frozen | None = None

    @property
    def captured(self) -> bool:
        return self._frozen is not None

    @compile_boundary
    def __call__(self, *inputs: Any) -> Any:
        if not self.enabled:
            with _no_autocast_cache():
                return _detached(self.step(*inputs))
        flat, spec = tree.tree_flatten(inputs)
        self._check(flat, spec)
        if self._capture is None:
            device = next((v.device for v in flat if isinstance(v, Tensor)), None)
            self._capture = cudagraph.Capture(device, self.generators)
        if self._calls < self.warmup:
            self._calls += 1
            with _no_autocast_cache():
                return self._capture.aside(lambda: _detached(self.step(*inputs)))
        if self._frozen is None:
            self._record(flat, spec)
        assert self._frozen is not None
        fault = self._frozen.fault()
        if fault is not None:
            raise GraphError(
                f"the graph of this step is stale: {fault}. Call reset() after such a change, and the step "
                f"is captured again; or leave it eager (enabled=False)"
            )
        for static, given in zip(self._static, flat):
            if isinstance(given, Tensor):
                static.copy_(given)
        self._capture.replay()
        self._frozen.hand_back()
        return self._outputs

    def _check(self, flat: list[Any], spec: Any) -> None:
        """Inputs are tensors on the GPU, without history, and as the first call's."""
        now = [_description(value) for value in flat]
        if self._shape is None:
            for i, value in enumerate(flat):
                if not isinstance(value, Tensor):
                    continue
                if value.device.type != cudagraph.Capture.device_type:
                    raise GraphError(
                        f"input {i} is on {value.device}: a CUDA graph reads GPU memory; move it there, or "
                        f"leave the step eager (enabled=False)"
                    )
                if value.requires_grad:
                    raise GraphError(
                        f"input {i} requires a gradient, which cannot leave a graphed step: detach() it"
                    )
            self._shape = (spec, now)
            return
        if self._shape[0] != spec:
            raise GraphError(
                f"a graph has fixed inputs: the structure was {self._shape[0]}, now it is {spec}; reset() "
                f"captures anew"
            )
        for i, (then, new) in enumerate(zip(self._shape[1], now)):
            if then != new:
                raise GraphError(
                    f"a graph has fixed inputs: input {i} was {_show(then)}, now it is {_show(new)}. Drop "
                    f"the last, smaller batch (drop_last=True); reset() captures anew"
                )

    def _record(self, flat: list[Any], spec: Any) -> None:
        refuse(self.watched, cudagraph.Capture.device_type)
        assert self._capture is not None
        static = [v.detach().clone() if isinstance(v, Tensor) else v for v in flat]
        gradients = [Gradient(parameter) for parameter in parameters(self.watched)]
        inputs = tree.tree_unflatten(static, spec)
        host = Frozen(self.watched, self.step, [])
        try:
            with _no_autocast_cache():
                outputs = self._capture.record(lambda: _detached(self.step(*inputs)))
        except Exception as error:
            self.reset()
            raise GraphError(
                f"the step cannot be captured in a CUDA graph: {_cause(error)}. Usual reason: {HINT}. "
                f"Leave it eager with enabled=False"
            ) from error
        moved = host.fault()
        if moved is not None:
            self.reset()
            raise GraphError(
                f"the step cannot be captured in a CUDA graph: it changes the host's state, which no replay "
                f"would do: {moved}. Leave it eager with enabled=False"
            )
        for gradient in gradients:
            gradient.close()
        self._static, self._outputs = static, outputs
        self._frozen = Frozen(self.watched, self.step, gradients)


def make_graphed_step(
    step: Callable[..., Any],
    *,
    warmup: int = 3,
    enabled: bool = True,
    watch: Sequence[Any] | None = None,
    generators: Sequence[torch.Generator] = (),
) -> GraphedStep:
    """A training step as a CUDA graph: losses, ``backward()``, ``zero_grad()`` and ``optimizer.step()``.

    Unlike ``torch.cuda.make_graphed_callables`` it captures whole steps, and needs no sample inputs: the
    first ``warmup`` calls are ordinary steps of the training, so no state has to be put back.

    Args:
        step: a function of tensors (also in lists, tuples, dicts) that does all its work on one GPU. Random
            numbers must come from the GPU's default generator, from ``generators``, or as an input:
            ``critic_loss`` and ``gradient_penalty`` need ``alpha=`` (:class:`GraphedCriticStep` draws it).
        warmup: calls before the capture.
        enabled: False: the same step without a graph, on any device.
        watch: modules and optimisers that the step uses; by default, those that its closure, its globals
            and the object of a bound method name. Before each replay it is checked that their memory and
            their numbers (learning rate, train or eval) are the capture's.
        generators: CUDA generators that operators in the step draw from.

    Returns:
        A callable with the arguments of ``step``. Its results have no history; from the capture on they are
        always the SAME tensors, overwritten by the next call: ``clone()`` what is to be kept.

    Raises:
        BackendError: there is no CUDA device, and ``enabled`` is true.
        GraphError: from the call that meets it: inputs on the CPU or of another shape, an optimiser that is
            not capturable, a GradScaler, DistributedDataParallel, sharded parameters, a step that waits for
            the GPU; or something that the graph has frozen was changed since.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.5)
        >>> def train(x):
        ...     optimizer.zero_grad()
        ...     loss = (weight * x).sum()
        ...     loss.backward()
        ...     optimizer.step()
        ...     return loss
        >>> step = make_graphed_step(train, enabled=torch.cuda.is_available() and weight.is_cuda)
        >>> step(torch.ones(2)).item(), weight.tolist()
        (2.0, [0.5, 0.5])
    """
    return GraphedStep(step, warmup, enabled, watch, generators)


class GraphedCriticStep:
    """Critic steps of a WGAN-GP as one CUDA graph: ``zero_grad``, ``critic_loss``, ``backward``, ``step``.

    Args:
        critic: the critic, or a :class:`~wgangp_fast.CriticLoss` around it. The generator's average (EMA) and
            its own step stay outside.
        optimizer: of the critic's parameters; on CUDA ``capturable=True`` where it has that option.
        n_critic: steps in one call.
        lambda_gp: weight of the penalty; default 10, or the CriticLoss's own.
        warmup: ordinary steps before the capture, as for :func:`make_graphed_step`.
        enabled: False runs every step without a graph, on every device.
        generator: source of alpha, which is drawn outside the graph for every step: the numbers of
            ``critic_loss(..., generator=generator)``.
        options: of :func:`wgangp_fast.critic_loss`.

    Raises:
        As :func:`make_graphed_step`; also GraphError for a critic that runs on the stock path.
    """

    def __init__(
        self,
        critic: nn.Module | Callable[[Tensor], Any],
        optimizer: Optimizer,
        *,
        n_critic: int = 1,
        lambda_gp: float | None = None,
        warmup: int = 3,
        enabled: bool = True,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        if isinstance(optimizer, torch.amp.GradScaler):
            refuse([optimizer], cudagraph.Capture.device_type)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if not isinstance(n_critic, int) or n_critic < 1:
            raise ValueError(f"n_critic must be at least 1; got {n_critic!r}")
        if isinstance(critic, CriticLoss):
            self.loss = CriticLoss(critic.critic, critic.lambda_gp, **(critic.options | options))
            if lambda_gp is not None:
                self.loss.lambda_gp = lambda_gp
        else:
            self.loss = CriticLoss(critic, 10.0 if lambda_gp is None else lambda_gp, **options)  # type: ignore[arg-type]  # any callable
        self.optimizer, self.n_critic, self.generator = optimizer, n_critic, generator
        watch = [*reachable(self.loss.critic), optimizer]
        self.graphed = GraphedStep(self._steps, warmup, enabled, watch, ())

    def reset(self) -> None:
        """Capture anew, after a change that a replay refuses (see :meth:`GraphedStep.reset`)."""
        self.graphed.reset()

    @property
    def captured(self) -> bool:
        return self.graphed.captured

    def __call__(
        self,
        real: Tensor | Sequence[Tensor],
        fake: Tensor | Sequence[Tensor],
        alpha: Tensor | Sequence[Tensor] | None = None,
    ) -> CriticLossOutput:
        """``n_critic`` steps.

        Args:
            real: ``[N, ...]``; with ``n_critic > 1`` a batch for each step, ``[n_critic, N, ...]`` or a
                sequence of ``[N, ...]``.
            fake: as ``real``, without history.
            alpha: ``[N]``, or one for each step; by default drawn from ``generator``.

        Returns:
            The losses before each update: members of :class:`~wgangp_fast.CriticLossOutput`, stacked
            ``[n_critic, ...]`` if ``n_critic > 1``. Overwritten by the next call.
        """
        reals, fakes = self._batches("real", real), self._batches("fake", fake)
        for one_real, one_fake in zip(reals, fakes):
            checks.pair(one_real, one_fake)
            if one_fake.requires_grad:
                raise ValueError("fake requires a gradient, which a critic step does not use: detach() it")
        alphas = [self._draw(one) for one in reals] if alpha is None else self._batches("alpha", alpha)
        found = self.graphed(reals, fakes, alphas)
        if self.graphed.enabled and not self.graphed.captured:
            self._on_the_engine()
        return found

    def _batches(self, name: str, given: Tensor | Sequence[Tensor]) -> list[Tensor]:
        batches = [given] if self.n_critic == 1 and isinstance(given, Tensor) else list(given)
        if len(batches) != self.n_critic:
            raise ValueError(f"{name} must hold {self.n_critic} batches, one a step; got {len(batches)}")
        return batches

    def _draw(self, real: Tensor) -> Tensor:
        """``[N]`` weights: what ``critic_loss`` would draw inside."""
        points = real.new_zeros(len(real), 1)
        kernels = Kernels.of("auto", real.device.type)
        return kernels.interpolate(points, points, None, *draw_key(self.generator, real.device))[1]

    def _on_the_engine(self) -> None:
        from ..engine.capture import dynamo as capture

        refused = capture.entry(wrappers.unwrap(self.loss.critic)).refused
        if refused is not None and self.loss.options.get("impl", "auto") != "ref":
            raise GraphError(
                f"the critic runs on the stock path ({refused}), and what breaks its graph would be frozen "
                f"in a CUDA graph as well. Remove it, or leave the step eager (enabled=False)"
            )

    def _steps(self, reals: list[Tensor], fakes: list[Tensor], alphas: list[Tensor]) -> CriticLossOutput:
        found = []
        for real, fake, alpha in zip(reals, fakes, alphas):
            self.optimizer.zero_grad(set_to_none=True)
            result = self.loss(real, fake, alpha=alpha)  # which checks the weights
            result.loss.backward()
            self.optimizer.step()
            found.append(_detached(result))
        return found[0] if len(found) == 1 else CriticLossOutput(*(torch.stack(m) for m in zip(*found)))


def _detached(value: Any) -> Any:
    return tree.tree_map_only(Tensor, torch.detach, value)


def _description(value: Any) -> Any:
    return (tuple(value.shape), value.dtype, value.device) if isinstance(value, Tensor) else value


def _show(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{list(value[0])} {value[1]} on {value[2]}"
    return repr(value)


def _cause(error: BaseException) -> str:
    """The first line of the error; where ending a broken capture raised another, of the one before it."""
    while error.__context__ is not None and "CUDA error" in str(error):
        error = error.__context__
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class _no_autocast_cache:
    """Weights that autocast cast before an update, or outside the graph, would not follow the updates."""

    def __enter__(self) -> None:
        self.before = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)

    def __exit__(self, *_: object) -> None:
        torch.set_autocast_cache_enabled(self.before)
