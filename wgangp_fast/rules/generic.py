"""The rule for every operator that has no other: differentiate that one node with autograd, twice.

Exact for whatever autograd differentiates twice, complex operators included; slower than a written
rule, because each sweep runs the operator again. Which outputs depend on the active slots, and which
slots have a second-order term, is found on fake tensors while the plan is written, and only when it
is asked: a critic may compute indices with an operator that has no second derivative.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..engine import torch_internals
from .registry import Argument, DeriveError, Operator, Rule, Site, Slots, Value, call_operator

T = TypeVar("T")


def _detached(value: Value) -> Value:
    """The same values as constants: autograd must not differentiate by a parameter among them."""
    if isinstance(value, (list, tuple)):
        return [_detached(member) for member in value]
    return value.detach() if isinstance(value, Tensor) else value


def _members(value: Value) -> list[Value]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _leaves(values: Mapping[str, Argument], slots: Sequence[str]) -> tuple[dict[str, Argument], list[Tensor]]:
    """``values`` without their history, and autograd leaves in ``slots``; also returns the leaves."""
    fresh = {name: _detached(value) for name, value in values.items()}
    leaves = []
    for slot in slots:
        name, _, index = slot.partition(".")
        leaves.append((fresh[name][int(index)] if index else fresh[name]).requires_grad_())
    return fresh, leaves


def _moving(result: Value, cotangents: Value) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs that have a cotangent and a graph, with those cotangents."""
    given = zip(_members(result), _members(_detached(cotangents)))
    pairs = [(r, c) for r, c in given if c is not None and r.requires_grad]
    return [r for r, _ in pairs], [c for _, c in pairs]


def _gradients(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of all ``inputs``, zeros where nothing is reached."""
    if not outputs:
        return tuple(torch.zeros_like(tensor) for tensor in inputs)
    return torch.autograd.grad(outputs, inputs, cotangents, allow_unused=True, materialize_grads=True)


def node_vjp(
    op: Operator, values: Mapping[str, Argument], slots: Sequence[str], g: Value
) -> tuple[Tensor, ...]:
    """Cotangents of ``slots``."""
    with torch.enable_grad():
        fresh, leaves = _leaves(values, slots)
        outputs, cotangents = _moving(call_operator(op, fresh), g)
    return _gradients(outputs, leaves, cotangents)


def node_jvp(
    op: Operator,
    values: Mapping[str, Argument],
    slots: Sequence[str],
    tangents: Sequence[Tensor],
    reached: Sequence[int],
) -> Value:
    """Tangents of the outputs ``reached``: the gradient, with respect to their cotangents, of the vjp.

    No others: complex singular vectors have a phase that nothing fixes, and autograd chooses it by which
    outputs have a cotangent. It must be the same choice in every sweep.

    The vjp is linear in its cotangent, so its derivative may be taken at any. Ones are tried first: some
    operators (logcumsumexp) take logarithms of their cotangent, whose derivative at zero is NaN. Others
    (complex eigenvectors and singular vectors) are defined up to a phase only, and raise for a cotangent
    that depends on it; zeros never do.
    """
    with torch.enable_grad():
        fresh, leaves = _leaves(values, slots)
        result = call_operator(op, fresh)
        moving = {i: r for i, r in enumerate(_members(result)) if i in reached and r.requires_grad}
        outputs = list(moving.values())
        try:
            pushed = _pushed(outputs, leaves, _detached(tangents), torch.ones_like)
        except RuntimeError:
            pushed = _pushed(outputs, leaves, _detached(tangents), torch.zeros_like)
    found = dict(zip(moving, pushed))
    moved = tuple(found.get(i) for i in range(len(_members(result))))
    return moved if isinstance(result, (tuple, list)) else moved[0]


def _pushed(
    outputs: list[Tensor], leaves: list[Tensor], tangents: list[Tensor], probe: Callable[[Tensor], Tensor]
) -> Sequence[Tensor]:
    probes = [probe(output.detach()).requires_grad_() for output in outputs]
    pulled = torch.autograd.grad(outputs, leaves, probes, create_graph=True, allow_unused=True)
    pairs = [(p, t) for p, t in zip(pulled, tangents) if p is not None and p.requires_grad]
    return _gradients([p for p, _ in pairs], probes, [t for _, t in pairs])


def node_adjoint(
    op: Operator,
    values: Mapping[str, Argument],
    slots: Sequence[str],
    moving: Sequence[str],
    g: Value,
    tangents: Sequence[Tensor],
    c: Value,
) -> tuple[Tensor, ...]:
    """``vjp(c) + d/dslot <g, jvp(t)>`` for each of ``slots``, in one double-backward of the node."""
    both = list(dict.fromkeys([*slots, *moving]))
    with torch.enable_grad():
        fresh, leaves = _leaves(values, both)
        result = call_operator(op, fresh)
        outputs, cotangents = _moving(result, c)
        second, moving_cotangents = _moving(result, g)
        if second:
            of_moving = [leaves[both.index(m)] for m in moving]
            pulled = torch.autograd.grad(
                second, of_moving, moving_cotangents, create_graph=True, allow_unused=True
            )
            for p, t in zip(pulled, _detached(tangents)):
                if p is not None and p.requires_grad:
                    outputs.append(p)
                    cotangents.append(t)
    return _gradients(outputs, [leaves[both.index(s)] for s in slots], cotangents)


@functools.cache
def has_derivative(op: Operator) -> bool:
    """Whether the operator is registered with autograd, if only as not differentiable (``argmax``). If
    not, torch warns in the backward pass, and uses whatever derivative the kernel happens to have."""
    return torch_internals.has_autograd_kernel(op)


class _Unregistered:
    """Notes which operators without a registered derivative run. (To raise here would end the process: torch
    also asks for a tensor's device through a mode, where it cannot pass an exception on.)"""

    def __init__(self) -> None:
        self.found: list[Operator] = []

    def __call__(
        self, func: Operator, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]
    ) -> Argument:
        result = func(*args, **kwargs)
        if any(map(_is_float, _members(result))) and not has_derivative(func):
            self.found.append(func)
        return result


UNREGISTERED = "has no derivative registered with autograd (see torch.library.register_autograd)"


def _numbers(value: Argument) -> Argument:
    """Made-up numbers in place of fake tensors."""
    if isinstance(value, (list, tuple)):
        return [_numbers(member) for member in value]
    if not isinstance(value, Tensor):
        return value
    if not _is_float(value):
        return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
    generator = torch.Generator(value.device).manual_seed(0)  # the user's random numbers stay as they are
    return torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device) + 0.5


class Generic(Rule):
    """Autograd on one node. ``reason`` says why no written rule took it (shown by ``explain``)."""

    def __init__(self, site: Site, reason: str) -> None:
        self.reason, self.op, self.active = reason, site.op, site.active
        self.arguments = site.arguments
        self.slots = frozenset(s for s in site.slots() if _is_float(site.val(s)))
        self.refused: dict[str, str] = {}  # slots that autograd cannot differentiate by, and why
        self._once: frozenset[str] = frozenset()  # slots whose first derivative was tried
        self._reached: frozenset[int] = frozenset()  # the outputs that have a cotangent in sweep 2

    @functools.cached_property
    def outputs(self) -> frozenset[int]:
        """The outputs that depend on the active slots."""
        known = has_derivative(self.op)

        def work(values: Mapping[str, Argument]) -> frozenset[int]:
            with self._probing(self.active, values) as (_, results):
                moves = [_is_float(r) and (r.requires_grad or not known) for r in results]
            return frozenset(i for i, yes in enumerate(moves) if yes)

        return self._attempt("once", work)

    @functools.cached_property
    def bends(self) -> frozenset[str]:
        """The slots for which autograd finds a second-order term when the active slots have tangents.

        Raises:
            DeriveError: autograd cannot differentiate the operator twice by the active slots.
        """
        try:
            return self._second_order(self.slots)
        except DeriveError:  # perhaps only for a slot whose gradient nobody wants
            found = self._second_order(self.active)
        for slot in sorted(self.slots - self.active):
            try:
                found |= self._second_order(self.active | {slot}) & {slot}
            except DeriveError as error:
                self.refused[slot] = str(error)
        return found | self.refused.keys()

    @contextlib.contextmanager
    def _probing(
        self, slots: frozenset[str], values: Mapping[str, Argument], seen: _Unregistered | None = None
    ) -> Iterator[tuple[dict[str, Tensor], list[Value]]]:
        """Leaves by slot, and the operator's results on ``values``; ``seen`` is called with what runs."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            names = sorted(slots)
            fresh, leaves = _leaves(values, names)
            mode = getattr(leaves[0], "fake_mode", None) if leaves else None
            if mode is not None:
                stack.enter_context(mode)
            if seen is not None:
                stack.enter_context(torch_internals.each_operator(seen))
            yield dict(zip(names, leaves)), _members(call_operator(self.op, fresh))

    def _attempt(self, how: str, work: Callable[[Mapping[str, Argument]], frozenset[T]]) -> frozenset[T]:
        """``work`` on fake tensors; on numbers where the derivative looks at its data.

        Raises:
            DeriveError: neither can be done.
        """
        try:
            return work(self.arguments)
        except DeriveError:
            raise
        except Exception:
            try:
                return work({name: _numbers(value) for name, value in self.arguments.items()})
            except Exception as error:
                raise DeriveError(f"{self.op} cannot be differentiated {how}: {error}") from error

    def _second_order(self, slots: frozenset[str]) -> frozenset[str]:
        """Which of ``slots`` autograd reaches when it differentiates the vjp by the active slots."""

        def work(values: Mapping[str, Argument]) -> frozenset[str]:
            seen = _Unregistered()
            fake = values is self.arguments  # with numbers, no mode: some formulas are others in a mode
            with self._probing(slots, values, seen if fake else None) as (leaves, results):
                outputs, probes = self._outputs(results)
                if not outputs:
                    return frozenset()
                active = [leaves[slot] for slot in sorted(self.active)]
                pulled = torch.autograd.grad(outputs, active, probes, create_graph=True, allow_unused=True)
                if seen.found:
                    raise DeriveError(
                        f"{self.op} cannot be differentiated twice: {seen.found[0]} {UNREGISTERED}"
                    )
                moving = [p for p in pulled if p is not None and p.requires_grad]
                if not moving:
                    return frozenset()
                by = [*leaves.values(), *probes]  # by the cotangents too: that makes the tangent
                ones = [torch.ones_like(p) for p in moving]
                second = torch.autograd.grad(moving, by, ones, allow_unused=True)
                return frozenset(slot for slot, found in zip(leaves, second) if found is not None)

        return self._attempt("twice", work)

    @property
    def reached(self) -> frozenset[int]:
        """The outputs whose derivative is asked for: those that reach the score, once sweep 2 is written."""
        return self._reached or self.outputs

    def _outputs(self, results: list[Value]) -> tuple[list[Tensor], list[Tensor]]:
        """The results that are differentiated, and a cotangent for each."""
        outputs = [r for i, r in enumerate(results) if i in self.reached and r.requires_grad]
        return outputs, [torch.zeros_like(o).requires_grad_() for o in outputs]

    def _require(self, slots: frozenset[str], twice: bool) -> None:
        """Raise here, while the plan is written, what autograd would raise in every call."""
        if twice:
            self.bends  # noqa: B018 - computes `refused`
            for slot in sorted(slots & self.refused.keys()):
                raise DeriveError(self.refused[slot])
        elif not slots <= self._once:
            if not has_derivative(self.op):
                raise DeriveError(f"{self.op} {UNREGISTERED}")

            def work(values: Mapping[str, Argument]) -> frozenset[str]:
                with self._probing(slots, values) as (leaves, results):
                    outputs, cotangents = self._outputs(results)
                    if outputs:
                        torch.autograd.grad(outputs, list(leaves.values()), cotangents, allow_unused=True)
                return slots

            self._once |= self._attempt("by " + ", ".join(sorted(slots)), work)

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        self._reached |= {i for i, member in enumerate(_members(g)) if member is not None}
        self._require(slots, twice=False)
        names = sorted(slots)
        found = site.apply(node_vjp, site.op, site.values(), names, g)
        return {name: found[i] for i, name in enumerate(names)}

    def jvp(self, site: Site, t: Slots) -> Value:
        names = sorted(t)
        tangents = [t[name] for name in names]
        moved = site.apply(node_jvp, site.op, site.values(), names, tangents, sorted(self.reached))
        if isinstance(site.result, (tuple, list)):
            return tuple(moved[i] if i in self.reached else None for i in range(len(site.result)))
        return moved

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return self.bends if moving else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self.adjoint(site, None, g, t, slots)

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        self._require(slots, twice=g is not None)
        names, moving = sorted(slots), sorted(t)
        found = site.apply(node_adjoint, site.op, site.values(), names, moving, g, [t[m] for m in moving], c)
        return {name: found[i] for i, name in enumerate(names)}


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
