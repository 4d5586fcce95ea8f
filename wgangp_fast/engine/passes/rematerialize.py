"""Values that wait long for their next use are dropped, and made again before it.

A greedy search on the simulated memory: at the peak, the waiting value that costs least to make again for
the bytes it frees is dropped, as long as the pressure falls and the budget lasts. What it is made of is
what is alive at its next use; else that is made again as well, from kept values, in the end from x and the
weights. So a deep critic falls into segments by itself. Draws of random numbers are never repeated.

Without it 20 of the benchmark's 31 plans hold up to 46.8 % more at their peak, with up to 3 % less work
(``benchmarks/results/passes.json``).
"""

from __future__ import annotations

import bisect
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ...ops.registry import KERNELS
from ...rules.registry import OPERATOR
from ..ir import args_of
from ..torch_internals import schema_of
from .liveness import JointGraph, Liveness, facts, pressure
from .reorder import LEAST, Overwrites, drop_shape_only_inputs, reorder_for_peak_memory

#: shares of a plan's own cost that may be spent on making values again
FREE, ASKED = 0.03, 0.22
#: without ``recompute=True``, a repeated call must lower the peak by this many times the share of time that
#: it costs: 1 % more time must free 9 % of the peak
WORTH = 9
#: steps of the search, and candidates tried in each
STEPS, TRIED = 400, 6
#: one in so many candidates is taken in one step, where there are many
SHARE = 12

#: a peak in bytes that is not worth a search, which takes seconds for a deep critic, unless it was asked for
SMALL = 16 << 20
#: rounds of repeats and reordering
ROUNDS = 3
#: a difference of peaks that is worth no call
NEGLIGIBLE = 0.005

_OWN = {kernel.call for kernel in KERNELS.values()}


def reduce_peak_memory(joint: JointGraph, overwrites: Overwrites, asked: bool) -> None:
    """Lower the peak: by order and stand-ins alone, then by calls made again, whose new places give the order
    something to do, and so on.

    ``asked``: whether :data:`ASKED` or only :data:`FREE` of the program's cost may be added.
    """
    drop_shape_only_inputs(joint, overwrites, free=asked)
    reorder_for_peak_memory(joint, overwrites)
    most = cost_of(joint) * (1 + (ASKED if asked else FREE))
    peak = Liveness(joint, overwrites).peak
    for _ in range(ROUNDS if asked or peak > SMALL else 0):
        rematerialize(joint, overwrites, most - cost_of(joint), 0 if asked else WORTH)
        reorder_for_peak_memory(joint, overwrites)
        before, peak = peak, Liveness(joint, overwrites).peak
        if peak >= before * (1 - NEGLIGIBLE):
            break


def cost_of(joint: JointGraph) -> float:
    """The cost of all calls."""
    return sum(facts(node).cost for node in joint.graph.nodes)


def rematerialize(joint: JointGraph, overwrites: Overwrites, limit: float, worth: float) -> None:
    """Drop and repeat, for at most ``limit`` of cost, only what is ``worth`` it (see :data:`WORTH`)."""
    tried = joint.clone()
    peaks = _search(tried, overwrites, limit, worth, STEPS)
    enough = min(peaks) * (1 + NEGLIGIBLE)
    steps = next(k for k, peak in enumerate(peaks) if peak <= enough)
    if steps == len(peaks) - 1:
        joint.take(tried)
    else:
        _search(joint, overwrites, limit, worth, steps)


def _search(joint: JointGraph, overwrites: Overwrites, limit: float, worth: float, steps: int) -> list[int]:
    """Take up to ``steps`` steps; the peak before the first and after each."""
    liveness = Liveness(joint, overwrites)
    scale, peaks = float(max(liveness.peak, 1)), [liveness.peak]
    best, share = pressure(liveness.load, scale), worth * scale / max(cost_of(joint), 1.0)
    refused: set[Any] = set()
    while len(peaks) <= steps:
        every: list[Drop | Split] = [*_candidates(liveness, limit), *_splits(liveness)]
        found = [c for c in every if c.key not in refused and c.cost <= limit and c.gain >= share * c.cost]
        found.sort(key=lambda c: c.cost / c.gain)
        for group in [_independent(found, limit), *([c] for c in found[:TRIED])]:
            undo = [candidate.apply(joint) for candidate in group]
            value = pressure(Liveness(joint, overwrites).load, scale)
            if group and value < best * (1 - LEAST):
                limit -= sum(candidate.cost for candidate in group) - _remove_dead(joint)
                liveness = Liveness(joint, overwrites)
                best, refused = pressure(liveness.load, scale), set()
                peaks.append(liveness.peak)
                break
            for restore in reversed(undo):
                restore()
            if len(group) == 1:
                refused.add(group[0].key)
        else:
            break
    return peaks


def _independent(found: list[Drop | Split], limit: float) -> list[Drop | Split]:
    """The best of many candidates that have nothing to do with one another: deep critics in fewer steps."""
    group: list[Drop | Split] = []
    touched: set[fx.Node] = set()
    for candidate in found[: len(found) // SHARE]:
        nodes = set(candidate.touches())
        if candidate.cost <= limit and not nodes & touched:
            group.append(candidate)
            touched |= nodes
            limit -= candidate.cost
    return group if len(group) > 1 else []


def _remove_dead(joint: JointGraph) -> float:
    """Erase pure calls that nobody reads; what they cost."""
    saved = 0.0
    for node in reversed(list(joint.graph.nodes)):
        if not node.users and node is not joint.boundary and repeatable(node):
            saved += facts(node).cost
            joint.graph.erase_node(node)
    return saved


@dataclass
class Drop:
    """Make ``values`` again, by copies of ``chain`` before ``before``, for ``users``.

    Attributes:
        gain: bytes freed at the peak.
        key: what the candidate is about, across steps.
    """

    values: list[fx.Node]
    chain: list[fx.Node]
    before: fx.Node
    users: list[fx.Node]
    cost: float
    gain: int
    key: Any

    def touches(self) -> list[fx.Node]:
        """The values that it is about."""
        return [
            *self.chain,
            *(source for node in self.chain for source in node.all_input_nodes if source.users),
        ]

    def apply(self, joint: JointGraph) -> Any:
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.chain:
            with joint.graph.inserting_before(self.before):
                copies[node] = joint.graph.node_copy(node, lambda n: copies.get(n, n))
        kept = [(user, user.args, user.kwargs) for user in self.users]
        for user in self.users:
            for value in self.values:
                user.replace_input_with(value, copies[value])

        def undo() -> None:
            for user, args, kwargs in kept:
                user.args, user.kwargs = args, kwargs
            for node in reversed(self.chain):
                joint.graph.erase_node(copies[node])

        return undo


@dataclass
class Split:
    """Make the second-order term of an activation early, ``f''*g*t``, so that g and t need not wait for c.

    ``f'*c + f''*g*t`` of sweep 4 becomes a call before ``before``, and a call and a sum in its place.
    """

    node: fx.Node
    before: fx.Node
    cost: float
    gain: int
    key: Any

    def touches(self) -> list[fx.Node]:
        """The values that it is about."""
        return [self.node, *self.node.all_input_nodes]

    def apply(self, joint: JointGraph) -> Any:
        node, own = self.node, facts(self.node)
        target: Any = node.target
        args = args_of(node)
        c, g, t, *tail = args
        with joint.graph.inserting_before(self.before):
            second = joint.graph.call_function(target, (None, g, t, *tail))
        with joint.graph.inserting_before(node):
            turned = joint.graph.call_function(KERNELS["bias_act_grad"].call, (c, *tail))
        node.target, node.args = torch.add, (turned, second)
        second.meta["facts"] = turned.meta["facts"] = own

        def undo() -> None:
            node.target, node.args = target, args
            joint.graph.erase_node(second)
            joint.graph.erase_node(turned)

        return undo


def _splits(liveness: Liveness) -> list[Split]:
    top, found = int(liveness.load.argmax()), []
    for node in liveness.nodes[top + 1 :]:
        if node.target is not KERNELS["bias_act_adjoint"].call or args_of(node)[0] is None:
            continue
        value = facts(node).value
        g, t, *rest = (a for a in args_of(node)[1:] if isinstance(a, fx.Node))
        uses = [liveness.place[user] for source in (g, t) for user in source.users]
        last = max([*(u for u in uses if u <= top), *(liveness.place[n] for n in (g, t, *rest))])
        if last >= top or value.dtype not in (torch.float32, torch.float64):
            continue
        freed = {b for v in (g, t) for b in liveness.held[v] if liveness.dies[b] == liveness.place[node]}
        gain = int(sum(liveness.size[b] for b in freed)) - value.numel() * value.element_size()
        if gain > 0:
            cost = facts(node).cost * 1.2
            found.append(Split(node, liveness.nodes[last + 1], cost, gain, ("split", node.name)))
    return found


def _candidates(liveness: Liveness, limit: float) -> list[Drop]:
    top = int(liveness.load.argmax())
    least = liveness.peak / 512
    busy = set(liveness.held[liveness.nodes[top]])
    for source in liveness.nodes[top].all_input_nodes:
        busy |= set(liveness.held[source])
    holders: dict[int, list[fx.Node]] = {}
    for node in liveness.nodes[: top + 1]:
        for block in liveness.held[node]:
            holders.setdefault(block, []).append(node)
    found, ratios = [], list[float]()
    for block in liveness.alive(top):
        if liveness.size[block] < least:
            break
        if block in busy or liveness.dies[block] == top:
            continue
        most = limit
        if len(ratios) > 2 * TRIED:  # far dearer than what is there already: not worth its search
            most = min(limit, 4 * ratios[TRIED] * float(liveness.size[block]))
        drop = _Recipe(liveness, top, block, holders[block], most).drop()
        if drop is not None:
            found.append(drop)
            bisect.insort(ratios, drop.cost / drop.gain)
    return found


class _Recipe:
    """How to make again what is kept in one block of memory, if that is possible."""

    def __init__(
        self, liveness: Liveness, top: int, block: int, holders: list[fx.Node], limit: float
    ) -> None:
        self.liveness, self.top, self.block = liveness, top, block
        self.holders = holders
        self.place = liveness.place
        self.limit = limit  # of the cost
        self.chain: dict[fx.Node, None] = {}
        self.longer: set[int] = set()  # blocks that live longer for it

    def drop(self) -> Drop | None:
        place, top = self.place, self.top
        values = [v for v in self.holders if any(place[user] > top for user in v.users)]
        users = sorted({u for v in values for u in v.users if place[u] > top}, key=place.__getitem__)
        if not users or users[-1].op == "output" or any(isinstance(facts(v).value, tuple) for v in values):
            return None
        self.at = place[users[0]]
        if not all(self._make(value) for value in values):
            return None
        size = self.liveness.size
        gain = int(size[self.block]) - sum(int(size[b]) for b in self.longer if not self._alive(b, top))
        if gain <= 0:
            return None
        cost = sum(facts(node).cost for node in self.chain)
        return Drop(values, [*self.chain], users[0], users, cost, gain, (values[0].name, users[0].name))

    def _alive(self, block: int, place: int) -> bool:
        return bool(self.liveness.born[block] <= place <= self.liveness.dies[block])

    def _make(self, value: fx.Node) -> bool:
        """Add what makes ``value`` again to the chain."""
        if value in self.chain:
            return True
        if self.limit < 0:
            return False
        if not repeatable(value) or any(_draws(user) for user in value.users):
            return False
        size = self._bytes(value)
        for source in value.all_input_nodes:
            if source in self.chain or self._at_hand(source):
                continue
            if self._bytes(source) * 8 <= size and self._keep(source):
                continue
            if not self._make(source) and not self._keep(source):
                return False
        self.chain[value] = None
        self.limit -= facts(value).cost
        return self.limit >= 0

    def _bytes(self, value: fx.Node) -> int:
        return sum(int(self.liveness.size[b]) for b in self.liveness.held[value])

    def _at_hand(self, source: fx.Node) -> bool:
        """Whether ``source`` can be read at the place of the copy without living longer."""
        own = facts(source).value
        if isinstance(own, tuple):
            return False
        blocks = self.liveness.held[source]
        return not self._overwritten(source) and all(
            b != self.block and (not self.liveness.size[b] or self._alive(b, self.at)) for b in blocks
        )

    def _overwritten(self, source: fx.Node) -> bool:
        first, written = self.place[source], self.liveness.written
        return any(
            first < place <= self.at for b in self.liveness.held[source] for place in written.get(b, ())
        )

    def _keep(self, source: fx.Node) -> bool:
        """Let ``source`` live until the copy."""
        blocks = self.liveness.held[source]
        if (
            self.limit < 0
            or isinstance(facts(source).value, tuple)
            or self.block in blocks
            or self._overwritten(source)
        ):
            return False
        self.longer |= set(blocks)
        return True


def repeatable(node: fx.Node) -> bool:
    """Whether ``node`` may run twice, or not at all: no draw, no write, no code that cannot be judged."""
    if node.op == "call_method":
        return not str(node.target).endswith("_")
    if node.op != "call_function" or _draws(node):
        return False
    target: Any = node.target
    module = getattr(target, "__module__", None) or ""
    plain = isinstance(target, OPERATOR) or target in _OWN or target is operator.getitem
    return plain or not module.startswith("wgangp_fast")


def _draws(node: fx.Node) -> bool:
    target: Any = node.target
    schema, tags = schema_of(target), getattr(target, "tags", ())
    return bool(schema and schema.is_mutable) or torch.Tag.nondeterministic_seeded in tags
