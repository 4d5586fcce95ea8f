"""What no exact method can leave out: the products of a critic, and the bytes of everything else.

Counted on the critic's ATen graph as it was captured, before the engine rewrites it, and for each node by
itself: whether a product takes part in sweep 4 is a matter of what lies behind it, not of the critic.

**Products** (convolution, linear, matrix products). Write ``y = a * b``, with N penalty points:

====================  =======================================  ==================================
call                  penalty                                  whole critic loss
====================  =======================================  ==================================
forward               sweep 1: N                               sweep 1: 3N in one call
gradient a, b         sweep 2: N, for each factor that moves   the same
forward               sweep 3: N, for each factor that moves   the same
gradient of a factor  2nd order: N, where the other moves and  the same
                      this one leads to a parameter
gradient a, b         sweep 4: N, where y has an adjoint, for  sweep 4: 2N for real and fake, 3N
                      each factor that leads to a parameter    where y has an adjoint
====================  =======================================  ==================================

A factor *moves* if it depends on the input. Both weight-gradient terms sum over the batch, so they may be one
call (of 2N, or of 3N or 4N). A piecewise-linear critic comes to 4 forward-units, a smooth one to 6.

**Bytes** of a node that is no product: one pass a sweep, which reads its inputs and writes its output once,
fused with nothing. I: inputs (moving ones from sweep 2 on), O: output, R: what the derivative is made of.

============  =================  =====================================================================
sweep         moves              note
============  =================  =====================================================================
1 primal      I + O
2 vjp         O + R + I          R = I for a nonlinear node, 0 for a linear one
3 jvp         I + R + O
4 adjoint     O + R + I          where the output has an adjoint
2nd order     O + I more         where it has a second-order term (R and I too, if there is no adjoint)
fan-out of k  (k + 1) values     the sum of k cotangents (adjoints), k > 1
============  =================  =====================================================================

Views move nothing; a sum hands its cotangents on and moves nothing backward. Besides, the interpolation moves
3 inputs and the norm with its seed 2. Random draws (dropout) count as the generator's own calls. In the whole
loss sweep 1 is of 3N, sweep 4 of 2N or 3N.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from ..engine.ir import differentiable
from ..engine.torch_internals import schema_of
from ..rules import Rule, Site, find, linear_map, rule_of
from ..rules.nodes import info_of
from ..rules.registry import bind

aten = torch.ops.aten

FORWARD, OF_A, OF_B = "forward", "gradient a", "gradient b"

#: operator to (family, slot of a, slot of b); the last two numbers of a linear node's b are the weight
FAMILIES: dict[Any, tuple[str, str, str]] = {
    aten.convolution.default: ("convolution", "input", "weight"),
    aten.linear.default: ("linear", "input", "weight"),
    aten.mm.default: ("mm", "self", "mat2"),
    aten.bmm.default: ("bmm", "self", "mat2"),
    aten.mv.default: ("mv", "self", "vec"),
}
GEOMETRY = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
# what a floor can be put under
LOSSES = ("penalty", "critic_step")


@dataclass(frozen=True)
class Product:
    """``y = a * b`` by shape, the batch of N penalty points in it.

    Attributes:
        family: ``"convolution"``, ``"linear"``, ``"mm"``, ``"bmm"`` or ``"mv"``.
        batch: ``"a"``, ``"b"``, ``"ab"`` or ``""``: which factors depend on the critic's input.
        geometry: of a convolution, as ATen takes it.
    """

    family: str
    a: tuple[int, ...]
    b: tuple[int, ...]
    y: tuple[int, ...]
    batch: str
    geometry: tuple[Any, ...] = ()

    def times(self, k: int) -> Product | None:
        """The same product at ``k`` times the batch; None where the shapes don't say where the batch is."""
        if k == 1 or not self.batch:
            return self
        if self.batch == "ab" and self.family == "bmm":
            axes = {"a": 0, "b": 0, "y": 0}
        elif self.batch == "a":
            axes = dict.fromkeys(("a", "y"), 1 if self.family == "bmm" else 0)
        elif self.batch == "b" and self.family in ("mm", "bmm"):
            axes = {name: len(self.b) - 1 for name in ("b", "y")}
        else:
            return None
        shapes: dict[str, Any] = {}
        for name, axis in axes.items():
            shape = list(getattr(self, name))
            shape[axis] *= k
            shapes[name] = tuple(shape)
        return replace(self, **shapes)

    def flops(self) -> int:
        """Of one call at N: two a multiply-add, padding counted."""
        if self.family == "convolution":
            transposed = self.geometry[3]
            return 2 * _size(self.a if transposed else self.y) * _size(self.b[1:])
        return 2 * _size(self.y) * self.a[-1]

    def __str__(self) -> str:
        a, b = ("x".join(map(str, shape)) for shape in (self.a, self.b))
        extra = ""
        if self.family == "convolution":
            stride, _, dilation, transposed, _, groups = self.geometry
            extra += f" stride {stride[0]}" if max(stride) > 1 else ""
            extra += f" dilation {dilation[0]}" if max(dilation) > 1 else ""
            extra += " transposed" if transposed else ""
            extra += f" groups {groups}" if groups > 1 else ""
        return f"{self.family} {a} * {b}{extra}"


@dataclass(frozen=True)
class Unit:
    """One function of a product, at these multiples of the batch (which one call may also take together)."""

    function: str
    multiples: tuple[int, ...]


@dataclass
class Count:
    """What one critic costs at least.

    Attributes:
        products: name of the node, the product, its units.
        draws: numbers of each call of a random generator (dropout), which three batches make three times.
        transfers: bytes of each pass over memory.
        forward_flops: of the products of one forward pass at N.
    """

    products: list[tuple[str, Product, list[Unit]]] = field(default_factory=list)
    draws: list[int] = field(default_factory=list)
    transfers: list[int] = field(default_factory=list)
    forward_flops: int = 0

    @property
    def forward_units(self) -> float:
        """FLOPs of all units over those of one forward pass at N."""
        total = sum(p.flops() * sum(unit.multiples) for _, p, units in self.products for unit in units)
        return total / self.forward_flops if self.forward_flops else 0.0


def count(critic: fx.Graph, prologue: fx.Graph | None, trains: set[fx.Node], loss: str) -> Count:
    """Count one captured critic.

    Args:
        critic: functional ATen graph; placeholders are x, then the leaves; fake values in ``meta["val"]``.
        prologue: what depends on parameters alone, or None.
        trains: the leaves of ``critic`` whose gradients are wanted.
        loss: ``"penalty"`` or ``"critic_step"``.

    Raises:
        ValueError: another ``loss``.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    found = _Walk(critic, trains, joint=loss == "critic_step").run()
    if prologue is not None:
        found.products += _prologue(prologue)
    return found


class _Walk:
    """One pass over the critic's graph: what moves, what is needed, what has an adjoint."""

    def __init__(self, graph: fx.Graph, trains: set[fx.Node], joint: bool) -> None:
        self.calls = [n for n in graph.nodes if n.op == "call_function"]
        self.x = next(n for n in graph.nodes if n.op == "placeholder")
        self.joint = joint
        self.moves, self.needed = {self.x}, set(trains)
        self.sites: dict[fx.Node, tuple[Site, Rule, dict[str, fx.Node]]] = {}
        self.adjoint: set[fx.Node] = set()
        self.bent: dict[fx.Node, frozenset[str]] = {}

    def run(self) -> Count:
        for node in self.calls:
            self._enter(node)
        for node in reversed(self.calls):
            self._turn(node)
        found = Count()
        found.transfers += [3 * _bytes(self.x), 2 * _bytes(self.x)]  # interpolation; norm and seed
        for node in (self.x, *self.calls):
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                found.draws += [node.meta["val"].numel()] * (3 if self.joint else 1)
            self._fan_out(node, found.transfers)
            if node in self.sites:
                if node.target in FAMILIES:
                    self._product(node, found)
                else:
                    found.transfers += [size for size in self._passes(node) if size]
        return found

    def _enter(self, node: fx.Node) -> None:
        sources = set(node.all_input_nodes)
        if info_of(node).no_grad or not _floats(node):
            return
        if node.target is operator.getitem:
            (source,) = sources
            if source in self.moves and node.args[1] == 0:
                self.moves.add(node)
            if source in self.needed:
                self.needed.add(node)
            return
        if not differentiable(node) or not sources & (self.moves | self.needed):
            return
        slots = _slots(node)
        active = frozenset(slot for slot, source in slots.items() if source in self.moves)
        site = Site(node.target, _fakes(node), _unread, active, node.meta["val"])
        try:
            rule = rule_of(site)
        except Exception:
            return  # carries no derivative
        if active:
            self.moves.add(node)
            self.sites[node] = site, rule, slots
        if any(source in self.needed for source in slots.values()):
            self.needed.add(node)

    def _turn(self, node: fx.Node) -> None:
        if node.target is operator.getitem:
            if node in self.adjoint:
                self.adjoint.add(node.all_input_nodes[0])
            return
        if node not in self.sites:
            return
        site, rule, slots = self.sites[node]
        self.bent[node] = frozenset(
            s for s in rule.second_order_slots(site, site.active) if slots.get(s) in self.needed
        )
        for slot, source in slots.items():
            if source in self.needed and (slot in self.bent[node] or node in self.adjoint):
                self.adjoint.add(source)

    def _product(self, node: fx.Node, found: Count) -> None:
        site, _, slots = self.sites[node]
        product = _product(node, site.active)
        assert product is not None  # every node of the critic itself has a fake value
        a, b = (slots[name] for name in FAMILIES[node.target][1:])
        adjoint = 1 if node in self.adjoint else 0
        rides = (2 if self.joint else 0) + adjoint
        units = {FORWARD: [3 if self.joint else 1], OF_A: [], OF_B: []}
        for function, factor, other in ((OF_A, a, b), (OF_B, b, a)):
            if factor in self.moves:
                units[function].append(1)  # sweep 2
                units[FORWARD].append(1)  # sweep 3
            if factor in self.needed:
                bends = 1 if other in self.moves else 0
                together = [bends + rides] if factor not in self.moves else [bends, rides]
                units[function] += [k for k in together if k]
        found.forward_flops += product.flops()
        found.products.append((node.name, product, [Unit(f, tuple(k)) for f, k in units.items() if k]))

    def _passes(self, node: fx.Node) -> Iterator[int]:
        """Bytes of each pass over a node that is no product."""
        site, rule, slots = self.sites[node]
        if _is_view(node) or node.target in (aten.reshape.default, aten.detach.default):
            return
        moving = sum({n: _bytes(n) for s, n in slots.items() if s in site.active}.values())
        still = sum({n: _bytes(n) for s, n in slots.items() if s not in site.active}.values())
        result = _bytes(node)
        k = 3 if self.joint else 1
        linear = isinstance(rule, linear_map.LinearMap)
        hands_on = _is_sum(node)
        rest = 0 if linear or hands_on else moving
        yield k * (moving + result) + still  # 1 primal
        if not hands_on:
            yield result + rest + moving  # 2 vjp
        if not hands_on or len(site.active) > 1:
            yield moving + rest + result  # 3 jvp
        adjoint = self._has(node)
        rides = (2 if self.joint and node in self.needed else 0) + (1 if adjoint else 0)
        bends = bool(self.bent[node] & site.active)
        if rides and not hands_on:
            yield rides * (result + rest + moving)
        if bends:
            yield result + moving + (0 if adjoint else rest + moving)

    def _has(self, node: fx.Node) -> bool:
        return node in self.adjoint and node in self.needed

    def _fan_out(self, node: fx.Node, transfers: list[int]) -> None:
        if node not in self.moves or not isinstance(node.meta["val"], Tensor):
            return
        users = [user for user in node.users if user in self.sites or user in self.moves]
        if len(users) < 2:
            return
        size = (len(users) + 1) * _bytes(node)
        transfers.append(size)
        if node in self.needed and node is not self.x:
            rides = (2 if self.joint else 0) + (1 if self._has(node) else 0)
            transfers += [rides * size] if rides else []


def _prologue(graph: fx.Graph) -> list[tuple[str, Product, list[Unit]]]:
    """Products of parameters alone, under ordinary autograd: forward, and the gradients of what trains.

    Its inputs carry no shapes; a product of two of them is left out, which lowers the floor.
    """
    found = []
    for node in graph.nodes:
        if node.target not in FAMILIES or node.op != "call_function":
            continue
        product = _product(node, frozenset())
        if product is None:
            continue
        units = [Unit(FORWARD, (1,))]
        ends = all(user.target is aten.detach.default for user in node.users)  # a power iteration
        bound = bind(node.target, node.args, node.kwargs)
        for function, slot in zip((OF_A, OF_B), FAMILIES[node.target][1:]):
            factor = bound[slot]
            if info_of(node).requires_grad and not ends and info_of(factor).requires_grad:
                units.append(Unit(function, (1,)))
        found.append((node.name, product, units))
    return found


def _product(node: fx.Node, active: frozenset[str]) -> Product | None:
    family, a, b = FAMILIES[node.target]
    bound = _fakes(node)
    geometry: tuple[Any, ...] = ()
    if family == "convolution":
        geometry = tuple(tuple(v) if isinstance(v, list) else v for v in (bound[name] for name in GEOMETRY))
    shapes = [None if bound[name] is None else tuple(bound[name].shape) for name in (a, b)]
    y = tuple(node.meta["val"].shape)
    if family == "mv" and shapes[1] is None and shapes[0] is not None:
        shapes[1] = shapes[0][1:]
    left, right = shapes
    if left is None or right is None:
        return None
    if family == "linear":  # [..., k] is rows of k
        left, y = ((_size(shape[:-1]), shape[-1]) for shape in (left, y))
    batch = "".join(letter for letter, name in (("a", a), ("b", b)) if name in active)
    return Product(family, left, right, y, batch, geometry)


def _unread(kind: str, key: Any) -> Any:
    raise AssertionError("counting reads no values")


def _fakes(node: fx.Node) -> dict[str, Any]:
    return {
        name: fx.map_arg(value, _value) for name, value in bind(node.target, node.args, node.kwargs).items()
    }


def _slots(node: fx.Node) -> dict[str, fx.Node]:
    """Slot to node, for the floating-point tensor arguments."""
    found: dict[str, fx.Node] = {}
    for name, value in bind(node.target, node.args, node.kwargs).items():
        members = enumerate(value) if isinstance(value, (list, tuple)) else [("", value)]
        for i, member in members:
            if isinstance(member, fx.Node) and _is_float(_value(member)):
                found[f"{name}.{i}" if i != "" else name] = member
    return found


def _value(node: fx.Node) -> Any:
    """The fake value; of a prologue's detachments that of their argument, of its inputs None."""
    if "val" in node.meta:
        return node.meta["val"]
    return _value(node.all_input_nodes[0]) if node.all_input_nodes else None


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _floats(node: fx.Node) -> bool:
    value = node.meta["val"]
    return any(map(_is_float, value)) if isinstance(value, (tuple, list)) else _is_float(value)


def _is_view(node: fx.Node) -> bool:
    schema = schema_of(node.target)
    return schema is not None and any(r.alias_info and not r.alias_info.is_write for r in schema.returns)


def _is_sum(node: fx.Node) -> bool:
    return type(find(node.target)) in (type(find(aten.add.Tensor)), type(find(aten.sub.Tensor)))


def _bytes(node: fx.Node) -> int:
    """Of a value; of the first of several outputs (the others are statistics)."""
    value = node.meta["val"]
    if isinstance(value, (tuple, list)):
        value = value[0]
    return value.numel() * value.element_size()


def _size(shape: Iterable[int]) -> int:
    total = 1
    for s in shape:
        total *= s
    return total
