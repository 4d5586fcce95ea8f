"""The whole critic step as one plan: sweeps of ``[x; real; fake]``, of which x alone is penalised.

Sweep 1 runs on all 3N rows, sweeps 2 and 3 on the N penalty points. Sweep 4 is the backward pass of the loss:
the adjoints of real and fake start at the score, those of the penalty points at operators with a second-order
term. Where both pass through a product, one call serves both. Piecewise-linear critics need 10 forward-units,
where stock code needs 12 or more.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from ...rules.bilinear import Bilinear
from ...rules.nodes import Argument, Operator, Value
from ...rules.registry import Rule, Slots
from ..ir import REST, WHOLE, Sweeps, args_of, is_float, value_of
from .batch_match import BatchMatch
from .four_sweeps import Derivation
from .graph_builder import GraphBuilder, TracedSite, slot_nodes


class CriticStepDerivation(Derivation):
    """One use: ``CriticStepDerivation(match, wants_x, wanted).run()``; see :class:`Derivation`.

    The forward graph returns ``((input gradient [N, ...], scores of all rows), *saved)``; the backward graph
    takes ``((seed [N, ...], cotangent of the scores of real and fake), *saved)`` and returns
    ``((adjoint of x, adjoint of [real; fake]), *gradients of the wanted leaves)``.
    """

    def __init__(self, match: BatchMatch, wants_x: bool, wanted: Iterable[int]) -> None:
        super().__init__(match.one, wants_x, wanted)
        self.match = match
        self.rest: dict[fx.Node, Value] = {}  # adjoints of the rows of real and fake
        self.others: dict[tuple[fx.Node, str], tuple[TracedSite, Rule]] = {}  # nodes at some rows
        self.pieces: dict[tuple[GraphBuilder, fx.Node, int | None, str], Value] = {}
        self.counted = self._counted()

    def _at_rows(self, node: fx.Node, rows: str) -> fx.Node:
        return self.match.at_rows[rows][node]

    def _base_node(self, at_rows: fx.Node) -> fx.Node:
        return self.match.base_node[at_rows]

    def _rows(self, value: Value, node: fx.Node, key: int | None, rows: str) -> Value:
        cut = None if not isinstance(value, fx.Proxy) else self.match.cut(node, key, rows)
        if cut is None:
            return value
        if node in self.counted:
            return self._again(node, rows)
        name = (self.builder, node, key, rows)
        if name not in self.pieces:
            self.pieces[name] = torch.narrow(value, *cut)
        return self.pieces[name]

    def _again(self, node: fx.Node, rows: str) -> Value:
        """A value made from the number of rows, ``arange`` for instance, computed again for these rows: cut
        out of the value for all rows it would not begin at zero."""
        name = (self.builder, node, None, rows)
        if name not in self.pieces:
            at_rows, one = (
                self._at_rows(node, rows),
                {self._at_rows(n, rows): n for n in node.all_input_nodes},
            )
            args, kwargs = fx.map_arg((args_of(at_rows), at_rows.kwargs), lambda n: self._read(one[n], rows))
            target: Operator = at_rows.target
            self.pieces[name] = self.builder.create(target, args, kwargs)
        return self.pieces[name]

    def _counted(self) -> set[fx.Node]:
        """Nodes that are computed from the number of rows alone, and integers computed from those."""
        found: set[fx.Node] = set()
        for node in self.calls:
            sources = node.all_input_nodes
            made = not sources or any(n in found for n in sources)
            fixed = all(n in found for n in sources) or not is_float(value_of(node))
            drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
            if made and fixed and not drawn and isinstance(value_of(node), Tensor):
                found.add(node)
        return found

    def _take_seeds(self) -> None:
        seeds: Value = self.backward.placeholder("seed")
        seeds.node.meta["val"] = value_of(self.x), value_of(self._at_rows(self.score, REST))
        self.tangent[self.x], self.rest[self.score] = seeds[0], seeds[1]

    def _results(self) -> tuple[Argument, Argument]:
        result = (self.cotangent[self.x].node, self.primal[self.score].node)
        adjoints = (self.adjoint.get(self.x), self.rest.get(self.x)) if self.wants_x else (None, None)
        return result, tuple(None if a is None else a.node for a in adjoints)

    # sweeps ---------------------------------------------------------------------------------------

    def _early(self, node: fx.Node, with_adjoint: set[fx.Node]) -> bool:
        return self._second_order_in_sweep3(node) or not (self._has(with_adjoint, node) or self._meets(node))

    def _second_order_in_sweep3(self, node: fx.Node) -> bool:
        rule = self.rules[node]
        return rule.second_order_in_sweep3(
            self._other(node)[0] if isinstance(rule, Bilinear) else self.sites[node]
        )

    def _other(self, node: fx.Node, rows: str = REST) -> tuple[TracedSite, Rule]:
        """The node at the rows of real and fake, and its rule there."""
        if (node, rows) not in self.others:
            active = self.sites[node].active
            site = self._site(node, active, rows)
            moving = active or frozenset(s for s, n in slot_nodes(node).items() if n in self.requires_grad)
            self.others[node, rows] = (
                site,
                self._rule(self._at_rows(node, rows), site, moving, self.asked[node]),
            )
        return self.others[node, rows]

    def _meets(self, node: fx.Node) -> bool:
        """Whether one call of a product can serve the penalty points and the other rows: rows are its first
        dimension, and its other factor is the same for all."""
        rule, slots = self.rules[node], slot_nodes(node)
        if not isinstance(rule, Bilinear) or rule.merge != 0 or node not in self.requires_grad:
            return False
        a, b = slots.get(rule.a), slots.get(rule.b)
        return (
            a in self.depends_on_x
            and b is not None
            and b not in self.depends_on_x
            and self.match.dim(a) == 0
            and self.match.dim(node) == 0
            and self.match.dim(b) is None
        )

    def _sweep4(self, with_adjoint: set[fx.Node]) -> None:
        for node in reversed(self.calls):
            if node not in self.rules or node not in self.requires_grad:
                continue
            d = self._gather(self.rest, node)
            # Where copying costs more than a second call (large activations on a CPU), each has its own call.
            separate = self._gather(self.adjoint, node) is not None and self._second_order_in_sweep3(node)
            if d is not None and self._meets(node) and not separate:
                self._meet(node, d)
                continue
            if self._has(with_adjoint, node) or self._gather(self.adjoint, node) is not None:
                self._adjoint_at(node)
            if d is not None:
                site, rule = self._other(node)
                wanted = frozenset(s for s, n in slot_nodes(node).items() if n in self.requires_grad)
                self._add_rest(node, rule.vjp(site, d, wanted))

    def _add_rest(self, node: fx.Node, found: Slots) -> None:
        slots = slot_nodes(node)
        batched = {slot for slot in found if self.match.dim(slots[slot]) is not None}
        self._add(self.rest, node, {s: v for s, v in found.items() if s in batched}, self.requires_grad)
        self._add(
            self.adjoint, node, {s: v for s, v in found.items() if s not in batched}, self.requires_grad
        )

    def _meet(self, node: fx.Node, d: Value) -> None:
        """Sweep 4 at a product, with the adjoints of the penalty points and of the other rows in one call."""
        c = self._gather(self.adjoint, node)
        rows = REST if c is None else WHOLE
        (site, rule), slots = self._other(node, rows), slot_nodes(node)
        assert isinstance(rule, Bilinear)
        t = self._tangents(node)
        g = None if self._second_order_in_sweep3(node) else self._gather(self.cotangent, node)
        parts = [p for p in (c, d) if p is not None]
        size = value_of(node).shape[0]
        pair = rule.a in t and g is not None and slots[rule.b] in self.requires_grad
        listed = pair and rule.takes_pairs(site)
        if pair and not listed:
            right = torch.cat([self._there(g), *parts], 0)
            both = torch.narrow(right, 0, size, (2 if c is None else 3) * size)
        else:
            both = right = parts[0] if c is None else torch.cat(parts, 0)
        if slots[rule.b] in self.requires_grad:
            primal = site.primal(rule.a)
            if listed:
                found = rule.transpose_b_of(site, [(t[rule.a], self._there(g)), (primal, both)])
            else:
                found = rule.transpose_b(site, torch.cat([t[rule.a], primal], 0) if pair else primal, right)
            self._add(self.adjoint, node, {rule.b: found}, self.requires_grad)
        if rule.bias is not None and slots.get(rule.bias) in self.requires_grad:
            self._add(self.adjoint, node, {rule.bias: rule.bias_gradient(site, both)}, self.requires_grad)
        if slots[rule.a] in self.requires_grad:
            back = rule.transpose_a(site, both, site.primal(rule.b))
            if c is None:
                self._add(self.rest, node, {rule.a: back}, self.requires_grad)
            else:
                inner = value_of(slots[rule.a]).shape[0]
                self._add(self.adjoint, node, {rule.a: torch.narrow(back, 0, 0, inner)}, self.requires_grad)
                self._add(
                    self.rest, node, {rule.a: torch.narrow(back, 0, inner, 2 * inner)}, self.requires_grad
                )


def derive_critic_step(match: BatchMatch, wants_x: bool, wanted: Iterable[int]) -> Sweeps:
    """Write the sweeps of the whole critic step; see :class:`CriticStepDerivation`."""
    return CriticStepDerivation(match, wants_x, wanted).run()
