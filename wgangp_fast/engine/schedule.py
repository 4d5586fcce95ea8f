"""The order of a program's calls, and stand-ins for values of which only the shape is read.

Neither changes a number or adds a call. Weight gradients need not be made where the sweeps write them: one
that is made before the next product frees its cotangent first, and a large one is best made last.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from .memory import SHAPE_ONLY, Facts, Program, Timeline, facts, pressure, shape_only
from .torch_internals import schema_of
from .writer import args_of

aten = torch.ops.aten
Overwrites = Callable[[fx.Node], bool]

#: what a move or a copy has to gain, of the measure of pressure
LEAST = 1e-3
#: rounds of search, places tried for a call in each
ROUNDS, PLACES = 6, 24


# stand-ins ----------------------------------------------------------------------------------------


def stand_in(program: Program, overwrites: Overwrites, free: bool = False) -> None:
    """Where a call reads a shape alone, give it a value that is alive anyway, or one without memory.

    ``free``: rather none at all, so that no other value is held at that place.
    """
    for node in list(program.graph.nodes):
        if node.target not in SHAPE_ONLY or (free and _transposed(program, node)):
            continue
        for source in shape_only(node):
            timeline = Timeline(program, overwrites)
            here = timeline.place[node]
            blocks = [b for b in timeline.held[source] if timeline.size[b]]
            lives_on = all(
                any(timeline.place[user] >= here and user is not node for user in holder.users)
                for holder in timeline.nodes
                if set(timeline.held[holder]) & set(blocks)
            )
            if not blocks or (lives_on and source.target != "new_empty"):
                continue
            other = _alike(timeline, node, source)
            if other is None and program.device == "cpu":
                if _transposed(program, node):
                    break
                other = _hollow(program, node, source)
            if other is None:
                continue
            node.replace_input_with(source, other)
            if not source.users and source.op != "placeholder":
                program.graph.erase_node(source)


def _transposed(program: Program, node: fx.Node) -> bool:
    """Write oneDNN's gradient for an input as what it is, a transposed convolution: the same call inside,
    which takes numbers for the shape."""
    if node.target is not aten.convolution_backward.default or program.device != "cpu":
        return False
    g, x, weight, _, stride, padding, dilation, transposed, _, groups, mask = args_of(node)
    like, rows, kernel = (facts(v).value for v in (x, g, weight))
    members = list(node.users)
    plain = like.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    alone = len(members) == 1 and members[0].target is operator.getitem
    if transposed or list(mask) != [True, False, False] or not (plain and alone) or like.dim() != 4:
        return False
    more = [
        size - ((made - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, made, k, s, p, d in zip(
            like.shape[2:], rows.shape[2:], kernel.shape[2:], stride, padding, dilation
        )
    ]
    if any(rest < 0 or rest >= max(s, d) for rest, s, d in zip(more, stride, dilation)):
        return False
    with program.graph.inserting_before(node):
        made = program.graph.call_function(
            torch.convolution, (g, weight, None, stride, padding, dilation, True, more, groups)
        )
    own, member = facts(node), facts(members[0])
    made.meta["facts"] = replace(own, value=member.value, holds=(("new", _bytes(member.value)),))
    members[0].replace_all_uses_with(made)
    for dead in (members[0], node):
        program.graph.erase_node(dead)
    if not x.users and x.target == "new_empty":
        program.graph.erase_node(x)
    return True


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _alike(timeline: Timeline, node: fx.Node, source: fx.Node) -> fx.Node | None:
    """A value of the same shape and layout that is alive before and after ``node`` whatever it reads."""
    like, here = facts(source).value, timeline.place[node]
    own = set(timeline.held[source])
    for other in timeline.nodes[:here]:
        value = facts(other).value
        if not isinstance(value, Tensor) or other is source or own & set(timeline.held[other]):
            continue
        same = value.shape == like.shape and value.stride() == like.stride() and value.dtype == like.dtype
        if same and other.target != "new_empty" and any(timeline.place[u] >= here for u in other.users):
            return other
    return None


def _hollow(program: Program, node: fx.Node, source: fx.Node) -> fx.Node | None:
    """One element expanded, for the CPU's kernels that look at the sizes and touch nothing."""
    value = facts(source).value
    if node.target is aten.convolution_backward.default or not value.is_contiguous():
        return None
    with program.graph.inserting_before(node):
        one = program.graph.call_method("new_empty", (args_of(node)[0], [1]))
        wide = program.graph.call_method("expand", (one, list(value.shape)))
    tiny = value.new_empty(1)
    one.meta["facts"] = Facts(tiny, (("new", tiny.element_size()),))
    wide.meta["facts"] = Facts(tiny.expand(value.shape), ((0, 0),))
    return wide


# order --------------------------------------------------------------------------------------------


def schedule(program: Program, overwrites: Overwrites) -> None:
    """Move calls within their half of the program as long as the peak falls."""
    timeline = Timeline(program, overwrites)
    if not timeline.peak:
        return
    search, scale = _Search(program, timeline), float(timeline.peak)
    order, load = list(range(len(timeline.nodes))), timeline.load
    best = pressure(load, scale)
    for _ in range(ROUNDS):
        before = best
        for head in search.heads(load):
            found = None
            for candidate in search.moved(head, order, load):
                tried = timeline.reordered(candidate)
                value = pressure(tried, scale)
                if value < best * (1 - LEAST):
                    best, found, load = value, candidate, tried
            order = found or order
        if best == before:
            break
    last = timeline.nodes[order[0]]
    for i in order[1:]:
        last.append(timeline.nodes[i])
        last = timeline.nodes[i]


class _Search:
    """Orders that differ from one by the place of one call."""

    def __init__(self, program: Program, timeline: Timeline) -> None:
        self.timeline, self.nodes = timeline, timeline.nodes
        self.middle, self.end = timeline.place[program.middle], timeline.place[program.end]
        place = timeline.place
        self.inputs = [[place[n] for n in node.all_input_nodes] for node in self.nodes]
        self.users = [[place[n] for n in node.users] for node in self.nodes]
        self.fixed = [
            node.op in ("placeholder", "output") or node is program.middle or not self._pure(node)
            for node in self.nodes
        ]
        self.bulk = [self._bytes(i) for i in range(len(self.nodes))]

    def _pure(self, node: fx.Node) -> bool:
        """Draws and writes keep their order."""
        tags = getattr(node.target, "tags", ())
        written = any(self.timeline.written.get(b) for b in self.timeline.held[node])
        explicit = written and getattr(schema_of(node.target), "is_mutable", False)
        return not explicit and torch.Tag.nondeterministic_seeded not in tags

    def _bytes(self, i: int) -> int:
        """The memory that the call at ``i`` reads or makes."""
        values = [self.nodes[i], *self.nodes[i].all_input_nodes]
        sizes = [self.timeline.size[b] for node in values for b in self.timeline.held[node]]
        return max(sizes, default=0)

    def cluster(self, head: int) -> set[int]:
        """A call with the members read from it and the views and copies that it alone reads."""
        found, frontier = {head}, [head]
        while frontier:
            i = frontier.pop()
            for user in self.users[i]:
                if self.nodes[user].target is operator.getitem and user not in found:
                    found.add(user)
            for source in self.inputs[i]:
                alone = all(user in found for user in self.users[source])
                if alone and source not in found and not self.fixed[source] and self._light(source):
                    found.add(source)
                    frontier.append(source)
        return found

    def _light(self, i: int) -> bool:
        node = self.nodes[i]
        return node.op == "call_method" or node.target in (torch.cat, operator.getitem)

    def heads(self, load: Any) -> list[int]:
        """The calls that weigh enough to be moved, heaviest first."""
        least = load.max() / 200
        found = [
            i
            for i, node in enumerate(self.nodes)
            if self.bulk[i] >= least and not self.fixed[i] and node.target is not operator.getitem
        ]
        return sorted(found, key=lambda i: -self.bulk[i])

    def moved(self, head: int, order: list[int], load: Any) -> Any:
        """Orders in which ``head`` and what clings to it stands elsewhere, across the peak or off it."""
        group = self.cluster(head)
        if any(self.fixed[i] for i in group):
            return
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        top, at = int(load.argmax()), int(place[head])
        first = max((int(place[s]) for i in group for s in self.inputs[i] if s not in group), default=0)
        last = min((int(place[u]) for i in group for u in self.users[i] if u not in group), default=0)
        half = at > self.middle
        low = max(first + 1, self.middle + 1) if half else first + 1
        high = min(last, self.end if half else self.middle)
        if high <= low or (high <= top and at < top) or (low > top and at > top):
            return
        inside = sorted(group, key=lambda i: place[i])
        rest = [i for i in order if i not in group]
        spots = [k for k in range(low, high + 1) if k == high or order[k] not in group]
        spots = [k for k in spots if k in (low, high) or self._weighs(order[k - 1], load)]
        step = max(1, len(spots) // PLACES)
        for k in spots[::step] + ([spots[-1]] if (len(spots) - 1) % step else []):
            cut = k - sum(1 for i in group if place[i] < k)
            yield rest[:cut] + inside + rest[cut:]

    def _weighs(self, i: int, load: Any) -> bool:
        return bool(self.timeline.scratch[i]) or self.bulk[i] * 64 >= load.max()
