"""Compares a plan's first call with stock code: the value, and every gradient.

A mistake that the tests of the rules did not find must not reach an optimiser. So the first call of each plan
also runs stock code, from the same random state. If the two differ, stock code's result is used, for this
call and for all later ones.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from . import checks
from .cuda_graphs.guards import reachable
from .engine import torch_internals
from .errors import BackendError, VerificationError

ENVIRONMENT = "WGANGP_FAST_VERIFY"
POLICIES = ("first", "always", "never")
ROUNDINGS = 64  # rounding errors, in units of the last place, that may add up in a critic's sums
SPREADS = 16  # a difference may be so many times the largest seen in TRIES runs
TRIES = 6  # stock runs at points moved by rounding, to tell a fault from a kink


def policy() -> str:
    """``"first"`` (the default), ``"always"`` or ``"never"``, from :data:`ENVIRONMENT`."""
    named = os.environ.get(ENVIRONMENT, "first")
    if named not in POLICIES:
        raise ValueError(f"{ENVIRONMENT} must be one of {', '.join(POLICIES)}; got {named!r}")
    return named


class Verification:
    """One call of a plan that may have to be compared.

    Args:
        critic, output: as the caller gave them, unwrapped.
        device: of the points.
        due: tells whether this call is compared, from the captured graph and before anything of it runs.
    """

    def __init__(self, critic: Any, output: Any, device: torch.device, due: Callable[[Any], bool]) -> None:
        self.critic, self.output, self.device, self.due = critic, output, device, due
        self.before: _State | None = None
        self.captured: Any = None
        self.kinds: set[torch.dtype] = set()  # floating dtypes that the critic computes in
        self.inputs: tuple[Any, ...] = ()

    def look(self, captured: Any, inputs: tuple[Any, ...]) -> None:
        """Note the state before the call; ``captured`` is its graph, of which nothing has run yet."""
        self.before = None
        if self.due(captured) and not (captured.python_effects and not isinstance(self.critic, nn.Module)):
            self.captured = captured
            values = [node.meta.get("val") for node in captured.nodes()]
            self.kinds = {v.dtype for v in values if isinstance(v, Tensor) and v.is_floating_point()}
            if torch.is_autocast_enabled(self.device.type):  # stock code's first backward pass casts too
                self.kinds.add(torch.get_autocast_dtype(self.device.type))
            self.inputs = tuple(v for i, v in enumerate(inputs) if i != captured.x_index)
            written = [inputs[i] for i in captured.written]
            self.before = _State(_modules(self.critic, self.output), written)

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Around a first call: an error is taken for the plan's fault, and stock code runs. If it was the
        critic's, stock code raises it again."""
        before = self.before
        try:
            yield
        except VerificationError:
            raise
        except Exception as error:
            if _is_out_of_memory(error) or isinstance(error, BackendError) or before is None:
                raise
            before.restore()
            raise VerificationError(f"it raised {type(error).__name__}: {error}"[:300]) from error

    def alpha_is_drawn(self) -> None:
        """Let stock code begin with torch's random state as it is now, after alpha was drawn. (Python's state
        stays that of before the call: what the critic draws in Python is drawn before alpha.)"""
        if self.before is not None:
            self.before.random = _torch_random()

    def compare(self, plan: Any, ours: Tensor, stock: Callable[..., Tensor], points: Sequence[Any]) -> None:
        """Run ``stock`` as it would have run in place of the plan; ``plan.verified`` gets the outcome.

        Args:
            ours: what the plan gave, with its history.
            stock: computes the same from the points by stock code, with its history.
            points: the samples that ``stock`` takes; those that require a gradient are compared too.

        Raises:
            VerificationError: they differ. The critic's state is put back to that before the call.
        """
        before, self.before = self.before, None
        if before is None:
            return
        after = before.again()
        try:
            plan.verified = _Comparison(before, ours, stock, points, self.inputs, self.kinds).run()
        except VerificationError:
            before.restore()
            raise
        except Exception as error:
            if _is_out_of_memory(error):
                plan.verified = "not compared: out of memory"
            else:  # the engine also runs what stock code cannot
                plan.verified = f"not compared: the stock code raised {type(error).__name__}: {error}"[:300]
        after.restore()


def begin(critic: Any, output: Any, device: torch.device, key: Any) -> Verification | None:
    """The comparison for a call whose plan has this key; None if the call is not to be compared."""
    chosen = policy()
    if chosen == "never" or checks.capturing(device) or torch.is_inference_mode_enabled():
        return None
    if torch_internals.dispatch_modes_are_active():  # a FLOP counter would count stock code too
        return None

    def due(captured: Any) -> bool:
        plan = captured.plans.get(key)
        return chosen == "always" or plan is None or plan.verified is None

    return Verification(critic, output, device, due)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def _modules(*callables: Any) -> list[nn.Module]:
    """Every module that the callables refer to, each once."""
    roots = [value for one in callables for value in reachable(one) if isinstance(value, nn.Module)]
    return list({id(m): m for root in roots for m in root.modules()}.values())


def _parameters(result: Tensor) -> list[Tensor]:
    """The parameters that autograd's graph of ``result`` ends at."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    stack: list[Any] = [result.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, nn.Parameter):  # not the points, of which stock code makes a leaf
            found[id(variable)] = variable
        stack += [following for following, _ in node.next_functions]
    return list(found.values())


# what a forward pass changes ---------------------------------------------------------------------


class _State:
    """All that a call of the critic may change: random states, tensors, attributes of its modules."""

    def __init__(self, modules: list[nn.Module], written: list[Tensor]) -> None:
        self.modules, self.written = modules, written
        held = [torch_internals.own_tensors(module)[1] for module in modules]
        buffers = [b for of_module in held for b in of_module.values() if b is not None]
        tensors = {id(t): t for t in (*written, *buffers) if not isinstance(t, nn.UninitializedBuffer)}
        with torch.no_grad():
            self.tensors = [(t, t.data, t.detach().clone()) for t in tensors.values()]
        self.attributes = [(m, dict(m.__dict__), own, dict(own)) for m, own in zip(modules, held)]
        kept = [v for m in modules for name, v in vars(m).items() if not name.startswith("_")]
        self.containers = [(v, v.copy()) for v in kept if type(v) in (list, dict, set)]
        self.random, self.python_random = _torch_random(), _python_random(modules)

    def again(self) -> _State:
        """The same things, as they are now."""
        return _State(self.modules, self.written)

    def versions_kept(self) -> AbstractContextManager[Any]:
        """Around stock code, which changes the same tensors as the plan did. Tensors that the plan saved for
        its backward pass count as unchanged, because :meth:`restore` puts their numbers back."""
        tensors = tuple(t for t, _, _ in self.tensors if not t.is_inference())
        return torch_internals.versions_kept(tensors)

    def restore(self) -> None:
        for module, attributes, own, buffers in self.attributes:
            for name in [n for n in module.__dict__ if n not in attributes]:
                del module.__dict__[name]
            module.__dict__.update(attributes)
            own.clear()
            own.update(buffers)
        for container, members in self.containers:
            container.clear()
            (container.extend if isinstance(container, list) else container.update)(members)
        with torch.no_grad():
            for tensor, memory, numbers in self.tensors:
                if tensor.data.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape:
                    tensor.data = memory
                if not torch.equal(tensor.data, numbers):
                    tensor.data.copy_(numbers)
        for put, state in self.random:
            put(state)
        from . import rng as streams

        streams.restore(self.python_random)


def _python_random(modules: list[nn.Module]) -> list[tuple[Any, Any]]:
    """The generators of Python and numpy, and those that the modules hold, with their states."""
    from . import rng as streams  # numpy.random, which importing the package does not need

    held = [value for module in modules for value in vars(module).values() if streams.is_stream(value)]
    return streams.states([*streams.GLOBAL, *held])


def _torch_random() -> list[tuple[Callable[[Any], Any], Any]]:
    found: list[tuple[Callable[[Any], Any], Any]] = [(torch.set_rng_state, torch.get_rng_state())]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        for index in range(torch.cuda.device_count()):
            put = functools.partial(torch.cuda.set_rng_state, device=index)
            found.append((put, torch.cuda.get_rng_state(index)))
    return found


# the comparison ----------------------------------------------------------------------------------


class _Comparison:
    """One use: ``_Comparison(...).run()``."""

    def __init__(
        self,
        before: _State,
        ours: Tensor,
        stock: Callable[..., Tensor],
        points: Sequence[Any],
        inputs: tuple[Any, ...],
        kinds: set[torch.dtype],
    ) -> None:
        self.before, self.ours, self.stock, self.points, self.inputs = before, ours, stock, points, inputs
        self.epsilon = max(torch.finfo(kind).eps for kind in {ours.dtype, *kinds})
        # A wrong derivative differs by far more. If rounding does too, _spread measures by how much.
        self.tolerance = min(max(1e4 * self.epsilon, 1e-7), 0.05)

    def run(self) -> str:
        """What was found, in a line.

        Raises:
            VerificationError: the numbers differ.
        """
        with self.before.versions_kept():
            self.before.restore()
            theirs = self._of_stock(self.points)
            self.targets = self._targets(theirs)
            stock = self._gradients(theirs, self.points)
        try:
            mine = self._gradients(self.ours, self.points)
        except RuntimeError as error:
            if _is_out_of_memory(error):
                raise
            raise VerificationError(f"its backward pass raised {type(error).__name__}: {error}") from error
        if not all(bool(torch.isfinite(v).all()) for v in stock if v is not None):
            return "not compared: the stock code's numbers are not finite"
        for (name, strict), a, b in zip(self.names, mine, stock):
            # For sign, floor or bernoulli autograd returns zeros, and the engine None.
            if strict and a is None and b is not None and bool(b.any()):
                raise VerificationError(f"the gradient of {name} is missing")
            if strict and a is not None and b is None and bool(a.any()):
                raise VerificationError(f"{name} has a gradient, which stock code does not give it")
        worst, off = self._differences(mine, stock)
        if not off:
            return f"equal to the stock code's, to {worst:.0e}"
        with self.before.versions_kept():
            spread = self._spread(stock)
        for i in off:
            difference, size = _norm(mine[i], stock[i]), _norm(stock[i])
            if i and spread[i] > size:
                continue  # stock code's own gradient is rounding alone
            if not difference <= SPREADS * spread[i] + self.tolerance * size + self._cancelled(i):
                size = max(size, 1e-30)
                raise VerificationError(
                    f"{self._name(i)} differs by {difference / size:.1e}, where points and weights moved by "
                    f"rounding change the stock code's by {spread[i] / size:.1e}"
                )
        return f"equal to the stock code's within what rounding of the points changes ({worst:.0e})"

    def _of_stock(self, points: Sequence[Any]) -> Tensor:
        with torch.enable_grad():
            return self.stock(*points)

    def _targets(self, theirs: Tensor) -> list[Tensor]:
        """Every tensor whose gradient is compared; ``self.names`` has the value first, then these."""
        modules = [(n, p) for m in self.before.modules for n, p in m.named_parameters(recurse=True)]
        named: dict[int, str] = {}
        for name, parameter in modules:
            named.setdefault(id(parameter), name)
        found: dict[int, Tensor] = {}
        for value in (*self.inputs, *(p for _, p in modules), *_parameters(theirs), *_parameters(self.ours)):
            if isinstance(value, Tensor) and value.requires_grad:
                found.setdefault(id(value), value)
        own = {id(p) for p in self.points if isinstance(p, Tensor)}
        targets = [t for i, t in found.items() if i not in own] if torch.is_grad_enabled() else []
        self.names = [("the value", True)]
        self.names += [(named.get(id(t), f"a tensor {list(t.shape)}"), True) for t in targets]
        if torch.is_grad_enabled():
            self.names += [("a sample", False) for p in self._asking(self.points)]
        return targets

    @staticmethod
    def _asking(points: Sequence[Any]) -> list[Tensor]:
        return [p for p in points if isinstance(p, Tensor) and p.requires_grad]

    def _gradients(self, result: Tensor, points: Sequence[Any]) -> list[Tensor | None]:
        """The result and its gradients, for a cotangent whose entries differ: errors must not cancel."""
        targets = [*self.targets, *(self._asking(points) if torch.is_grad_enabled() else [])]
        value = result.detach()
        if not targets:
            return [value]
        if not result.requires_grad:
            return [value, *[None] * len(targets)]
        weights = torch.linspace(1, 2, result.numel(), dtype=result.dtype, device=result.device)
        found = torch.autograd.grad(
            result, targets, weights.view_as(result), retain_graph=True, allow_unused=True
        )
        return [value, *found]

    def _differences(self, mine: list[Tensor | None], stock: list[Tensor | None]) -> tuple[float, list[int]]:
        """The largest relative difference, and the places where it is more than rounding explains."""
        whole = sum(_norm(b) ** 2 for b in stock[1:]) ** 0.5
        worst, off = 0.0, []
        for i, (a, b) in enumerate(zip(mine, stock)):
            difference, size = _norm(a, b), _norm(b)
            scale = size + (self._terms() if i == 0 else 0.01 * whole)
            if not difference <= self.tolerance * scale:  # also where it is NaN
                off.append(i)
            worst = max(worst, difference / scale if scale else difference)
        return worst, off

    def _terms(self) -> float:
        """Size of the terms whose difference the value is: a loss may be near zero."""
        return float(getattr(self.stock, "scale", 0.0))

    def _cancelled(self, i: int) -> float:
        """What rounding leaves where terms cancel: of the value, and of a gradient, which times its parameter
        has the size of the terms."""
        if i == 0:
            return self.tolerance * self._terms()
        targets = [*self.targets, *self._asking(self.points)]
        return ROUNDINGS * self.epsilon * self._terms() / max(_norm(targets[i - 1]), 1e-30)

    def _spread(self, stock: list[Tensor | None]) -> list[float]:
        """How far the stock code's own numbers move when its points and parameters move by a few roundings: a
        unit at the kink of a (leaky) ReLU falls to the other side."""
        spread = [0.0] * len(stock)
        own = torch.Generator().manual_seed(0)
        for _ in range(TRIES):
            self.before.restore()
            moved = [self._moved(p, own) if i < 2 else p for i, p in enumerate(self.points)]
            with self._parameters_moved(own):
                numbers = self._gradients(self._of_stock(moved), moved)
            spread = [max(s, _norm(a, b)) for s, a, b in zip(spread, numbers, stock)]
        return spread

    def _moved(self, point: Any, generator: torch.Generator) -> Any:
        if not isinstance(point, Tensor):
            return point
        return (point.detach() * self._factors(point, generator)).requires_grad_(point.requires_grad)

    @contextlib.contextmanager
    def _parameters_moved(self, generator: torch.Generator) -> Iterator[None]:
        """Inside, the parameters are moved too: points that fall on one entry of a codebook move nothing."""
        own = [t for t in self.targets if t.is_leaf and type(t) in (Tensor, nn.Parameter)]
        kept = [t.detach().clone() for t in own]
        with torch_internals.versions_kept(tuple(own)):
            try:
                with torch.no_grad():
                    for tensor in own:
                        tensor.mul_(self._factors(tensor, generator))
                yield
            finally:
                with torch.no_grad():
                    for tensor, before in zip(own, kept):
                        tensor.copy_(before)

    def _factors(self, value: Tensor, generator: torch.Generator) -> Tensor:
        """One, but for a few roundings."""
        noise = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
        return 1 + 4 * self.epsilon * noise

    def _name(self, i: int) -> str:
        return self.names[i][0] if i == 0 else f"the gradient of {self.names[i][0]}"


def _norm(a: Tensor | None, b: Tensor | None = None) -> float:
    """Of ``a``, or of ``a - b``; None is zero."""
    if a is None or b is None:
        a = b if a is None else a
        return 0.0 if a is None else float(torch.linalg.vector_norm(_wide(a)))
    return float(torch.linalg.vector_norm(_wide(a) - _wide(b)))


def _wide(value: Tensor) -> Tensor:
    value = value.detach()
    return value.to(torch.complex128 if value.is_complex() else torch.float64)
