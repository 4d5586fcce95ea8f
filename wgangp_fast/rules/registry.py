"""What a rule is, and the table from ATen operators to rules.

A rule says how one operator takes part in the four sweeps (see ``engine/derive``). It is written
with ordinary torch calls on *slots*: the operator's tensor arguments, called by their schema names
(``"self"``, ``"weight"``; the members of a list are ``"tensors.0"``, ``"tensors.1"`` ...). The values
that it gets are FX proxies while a plan is being written and real tensors in the tests of the rules,
so a rule must not look at a tensor's data; shapes come from the fake tensors of :meth:`Site.val`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from ..engine.torch_internals import schema_of
from .nodes import Argument as Argument
from .nodes import NodeInfo
from .nodes import Operator as Operator
from .nodes import Value as Value

Slots = Mapping[str, Value]  # slot -> value; a slot that is absent is zero, and nothing is computed for it


#: the classes of ``torch.ops.aten.add.Tensor`` and of ``torch.ops.aten.add``
OPERATOR, PACKET = type(torch.ops.aten.add.Tensor), type(torch.ops.aten.add)


class DeriveError(Exception):
    """The sweeps of this critic cannot be written; the message says which node and why."""


class Site:
    """One node of the critic's graph, as its rule sees it.

    Args:
        op: the operator.
        arguments: its arguments by schema name, tensors as fake tensors.
        read: turns ``("in", slot)`` or ``("out", index or None)`` into the value of that primal tensor
            in the sweep that is being written. Reading makes it saved, so rules read late.
        active: slots that depend on the critic's input (they have tangents and cotangents).
        result: the operator's fake output, a tensor or a tuple.
    """

    def __init__(
        self,
        op: Operator,
        arguments: dict[str, Argument],
        read: Callable[[str, str | int | None], Value],
        active: frozenset[str],
        result: Argument,
    ) -> None:
        self.op, self.arguments, self._read, self.active, self.result = op, arguments, read, active, result

    #: what the engine knows of the node; outside plans nothing
    info = NodeInfo()

    def __getitem__(self, name: str) -> Argument:
        """A constant argument (a number, a list of sizes, ...) by its schema name."""
        return self.arguments[name]

    def primal(self, slot: str) -> Value:
        """The primal value of an input slot."""
        return self._read("in", slot)

    def output(self, index: int | None = None) -> Value:
        """The primal output, or one member of a tuple of outputs."""
        return self._read("out", index)

    def has(self, slot: str) -> bool:
        """Whether an optional tensor argument was given."""
        return self.val(slot) is not None

    def is_tensor(self, name: str) -> bool:
        """Whether an argument is a tensor. Unlike ``self[name]`` this reads nothing: a number that the
        graph computes, read where no sweep is being written, would become an input in the wrong place."""
        return isinstance(dict.get(self.arguments, name), Tensor)

    def val(self, slot: str) -> Tensor:
        """Shape, dtype and device of an input slot, as a fake tensor (None if it was not given)."""
        name, _, index = slot.partition(".")
        value = self.arguments[name]
        return value[int(index)] if index else value

    def shape(self, slot: str) -> list[int]:
        return list(self.val(slot).shape)

    def slots(self) -> list[str]:
        """Every tensor slot, in schema order."""
        return list(tensor_slots(self.arguments))

    def apply(self, function: Callable[..., Value], op: Operator, *args: Value) -> Value:
        """``function(op, *args)`` as one node of the plan (or at once, on real tensors)."""
        return function(op, *args)

    def remember(self, name: str, value: Value) -> None:
        """Keep a value of sweep 2 for a later sweep; only plans have a memory."""

    def recall(self, name: str) -> Value:
        """What :meth:`remember` kept, or None."""
        return None

    def values(self, /, **changes: Value) -> dict[str, Value]:
        """Every argument by schema name: tensors read as primals, those in ``changes`` replaced."""
        values: dict[str, Value] = {}
        for name, value in self.arguments.items():
            if name in changes:
                values[name] = changes[name]
            elif isinstance(value, Tensor):
                values[name] = self.primal(name)
            elif isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value):
                values[name] = [
                    self.primal(f"{name}.{i}") if isinstance(v, Tensor) else v for i, v in enumerate(value)
                ]
            else:
                values[name] = value
        return values

    def call(self, /, **changes: Value) -> Value:
        """Apply the operator again, some arguments replaced, tensors not named read as primals."""
        return call_operator(self.op, self.values(**changes))


def tensor_slots(arguments: Mapping[str, Argument]) -> Iterable[str]:
    """The slots of a node's arguments: tensors and members of tensor lists."""
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            yield name
        elif isinstance(value, (list, tuple)):
            for i, member in enumerate(value):
                if isinstance(member, Tensor):
                    yield f"{name}.{i}"


def bind(op: Operator, args: tuple[Argument, ...], kwargs: Mapping[str, Argument]) -> dict[str, Argument]:
    """Arguments by schema name, defaults filled in."""
    bound: dict[str, Argument] = {}
    for i, argument in enumerate(schema_of(op).arguments):
        if argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        elif i < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[i]
        else:
            bound[argument.name] = argument.default_value
    return bound


def call_operator(op: Operator, values: Mapping[str, Value]) -> Value:
    """Call ``op`` with arguments by schema name (trailing defaults dropped, so that plans read well)."""
    schema = schema_of(op).arguments
    positional = [values[a.name] for a in schema if not a.kwarg_only]
    plain = [a for a in schema if not a.kwarg_only]
    while positional and plain[-1].has_default_value() and _same(positional[-1], plain[-1].default_value):
        positional.pop()
        plain.pop()
    keywords = {
        a.name: values[a.name] for a in schema if a.kwarg_only and not _same(values[a.name], a.default_value)
    }
    return op(*positional, **keywords)


def _same(a: object, b: object) -> bool:
    return a is b or (isinstance(a, (bool, int, float, str)) and type(a) is type(b) and a == b)


class Rule:
    """The derivative rule of one operator; subclasses say what they need and nothing more.

    Write ``y = f(h, w)``. ``g`` is the cotangent of ``y`` (sweep 2), ``t`` the tangents of the slots
    (sweep 3), ``c`` the adjoint of ``y`` (sweep 4). For operators with a tuple of outputs ``g``, ``t_y``
    and ``c`` are tuples with None for a zero member.
    """

    #: autograd's own second-order formula for this operator returns explicit zeros (ReLU's for
    #: instance): decides which parameters get a zero gradient and which get None, as in stock code.
    piecewise_linear = False
    #: a cheap linear view of a parameter may stay inside the plan instead of the autograd prologue.
    inline = False
    #: every member of a tuple of outputs moves; otherwise only the first (the others are indices, masks
    #: and statistics that autograd does not differentiate either).
    every_output = False
    #: linear with real coefficients (views, casts, assignments), and so right for complex numbers as it
    #: stands. Others leave those to autograd.
    complex_too = False

    def specialise(self, site: Site) -> Rule:
        """The rule for these arguments, where an argument decides the structure."""
        return self

    def accepts(self, site: Site) -> bool:
        """False where the rule does not cover these arguments; the generic rule then takes the node."""
        return True

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        """``(df/dslot)^T g`` for each of ``slots``."""
        raise NotImplementedError

    def jvp(self, site: Site, t: Slots) -> Value:
        """``sum over slots of (df/dslot) t_slot``."""
        raise NotImplementedError

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        """Slots that :meth:`second_order` can reach when the slots in ``moving`` carry tangents."""
        return frozenset()

    def explicit_zeros(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        """Slots that autograd's second order of this operator reaches with nothing but zeros."""
        return moving if self.piecewise_linear else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        """``d/dslot <g, jvp(t)>`` for each of ``slots`` (a subset of :meth:`second_order_slots`)."""
        return {}

    def second_order_in_sweep3(self, site: Site) -> bool:
        """Whether the second-order term is better computed in sweep 3, where its tangent can be freed at
        once, than in sweep 4 together with the adjoint."""
        return False

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        """Sweep 4 at a node with a nonzero adjoint: vjp of ``c`` plus the second-order term.

        Bilinear rules override it to make one call of the two weight-gradient terms.
        """
        contributions = dict(self.vjp(site, c, slots))
        moving = frozenset(t)
        second = self.second_order_slots(site, moving) & slots if g is not None else frozenset()
        if second:
            for slot, value in self.second_order(site, g, t, second).items():
                contributions[slot] = plus(contributions.get(slot), value)
        return contributions


def filled(site: Site, slot: str, value: Value) -> Value:
    """A slot's tangent in the shape and dtype of the result."""
    if site.shape(slot) != list(site.result.shape):
        value = value.expand(list(site.result.shape))
    return value if site.val(slot).dtype == site.result.dtype else value.to(site.result.dtype)


def plus(a: Value, b: Value) -> Value:
    """``a + b``, where None is zero; both of one shape and dtype, so that a pass may overwrite ``a``."""
    if a is None or b is None:
        return b if a is None else a
    return torch.add(a, b)


def cast(value: Value, source: torch.dtype, target: torch.dtype) -> Value:
    """``value`` of dtype ``source`` as ``target``; of complex numbers that become real, the real part."""
    if source.is_complex and not target.is_complex:
        value, source = torch.real(value), source.to_real()
    return value if source == target else value.to(target)


def unbroadcast(value: Value, shape: Iterable[int], given: Iterable[int]) -> Value:
    """Sum ``value`` of shape ``given`` down to ``shape``: the transpose of broadcasting."""
    shape, given = list(shape), list(given)
    if shape == given:
        return value
    return torch.ops.aten.sum_to_size.default(value, shape)


_TABLE: dict[Operator, Rule] = {}


def register(*ops: Operator) -> Callable[[type[Rule]], type[Rule]]:
    """Class decorator: this rule serves these operators (overloads such as ``aten.mm.default``)."""

    def decorate(cls: type[Rule]) -> type[Rule]:
        add_rule(cls(), *ops)
        return cls

    return decorate


def add_rule(rule: Rule, *ops: Operator) -> None:
    """Enter ``rule`` for ``ops``; two rules for one operator are an error."""
    for op in ops:
        if op in _TABLE:
            raise ValueError(f"{op} already has the rule {type(_TABLE[op]).__name__}")
        _TABLE[op] = rule


def find(op: Operator) -> Rule | None:
    """The hand-written rule of ``op``, or None (the generic rule then serves it)."""
    return _TABLE.get(op)


def operators() -> dict[Operator, Rule]:
    """A copy of the table."""
    return dict(_TABLE)
