"""From the critic's graph to the four sweeps, as two FX graphs of straight-line code.

The derivation is reverse mode over the pair (primal, tangent). Its forward graph holds sweep 1 (primal)
and sweep 2 (vjp from ones at the score to the input gradient); its backward graph holds sweep 3 (jvp
from the seed) and sweep 4 (adjoint). Terms that are always zero are never computed: no node is written for
an adjoint that is zero, so a piecewise-linear critic has no sweep 4 at all.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import torch
from torch import Tensor, fx

from ...rules import Rule, Site, rule_of
from ...rules.nodes import Argument, Operator, Value, info_of
from ...rules.registry import OPERATOR, Slots, bind, plus
from ..ir import (
    POINTS,
    WHOLE,
    DerivedNode,
    DeriveError,
    Sweeps,
    args_of,
    differentiable,
    differentiable_ancestors,
    eliminate_dead_code,
    is_float,
    result_of,
    value_of,
)
from .graph_builder import Arguments, GraphBuilder, Number, TracedSite, fake_values, is_number, slot_nodes

aten = torch.ops.aten


class Derivation:
    """One use: ``Derivation(graph, wants_x, wanted).run()``.

    Args:
        graph: the functional ATen graph of the critic. Placeholders are x, then the leaves; the output
            is the score. ``node.meta["val"]`` is the fake value, ``node.meta["info"]`` what else is known.
        wants_x: whether the adjoint of x itself is wanted (real or fake requires a gradient).
        wanted: indices of the leaves whose gradients are wanted.
    """

    def __init__(self, graph: fx.Graph, wants_x: bool, wanted: Iterable[int]) -> None:
        self.nodes = list(graph.nodes)
        self.inputs = [n for n in self.nodes if n.op == "placeholder"]
        self.x, self.leaves = self.inputs[0], self.inputs[1:]
        self.score = result_of(graph)
        self.calls = [n for n in self.nodes if n.op == "call_function"]
        self.wants_x, self.wanted = wants_x, tuple(wanted)
        self.sites: dict[fx.Node, TracedSite] = {}
        self.rules: dict[fx.Node, Rule] = {}
        self.asked: dict[fx.Node, frozenset[int]] = {}  # of several outputs, those that the score depends on
        self.depends_on_x: set[fx.Node] = {self.x}
        self.requires_grad: set[fx.Node] = {self.leaves[i] for i in self.wanted} | (
            {self.x} if wants_x else set()
        )

        self.forward, self.backward = GraphBuilder(), GraphBuilder()
        self.builder = self.forward
        self.primal: dict[fx.Node, Value] = {}  # sweep 1, in the forward graph
        self.members: dict[tuple[fx.Node, int], Value] = {}  # of tuples, in the forward graph
        self.imported: dict[fx.Node, fx.Proxy] = {}  # forward-graph node -> backward-graph placeholder
        self.saved: list[fx.Node] = []
        self.cotangent: dict[fx.Node, Value] = {}
        self.tangent: dict[fx.Node, Value] = {}
        self.adjoint: dict[fx.Node, Value] = {}

    # structure ------------------------------------------------------------------------------------

    def _analyse(self) -> None:
        """Find the nodes that depend on x, and those that depend on a wanted leaf, as autograd would see it.

        A node of the second kind may not be of the first: a parameter times a mask of x, a table looked up.
        """
        reaching = differentiable_ancestors(self.score)
        for node in self.calls:
            if node not in reaching or not differentiable(node):
                continue
            if node.target is operator.getitem:
                source, index = args_of(node)
                if (
                    source in self.rules
                    and index in self._moving_outputs(source)
                    and is_float(value_of(node))
                ):
                    for having in (self.depends_on_x, self.requires_grad):
                        if source in having:
                            having.add(node)
                continue
            val = value_of(node)
            if not (is_float(val) or isinstance(val, (tuple, list))):
                continue
            slots = slot_nodes(node)
            active = frozenset(s for s, n in slots.items() if n in self.depends_on_x)
            requires_grad = any(n in self.requires_grad for n in slots.values())
            if not active and not requires_grad:
                continue
            site = self.sites[node] = self._site(node, active)
            moving = active or frozenset(s for s, n in slots.items() if n in self.requires_grad)
            members = [user for user in node.users if user in reaching and user.target is operator.getitem]
            self.asked[node] = frozenset(args_of(m)[1] for m in members if is_float(value_of(m)))
            self.rules[node] = self._rule(node, site, moving, self.asked[node])
            if active and self._moving_outputs(node):
                self.depends_on_x.add(node)
            if requires_grad:
                self.requires_grad.add(node)

    def _rule(self, node: fx.Node, site: TracedSite, active: frozenset[str], outputs: frozenset[int]) -> Rule:
        op: Operator = node.target
        drawn = torch.Tag.nondeterministic_seeded in op.tags and op is not aten.native_dropout.default
        if drawn and site.arguments.get("training") is not False:
            raise DeriveError(f"{node.target} draws random numbers that depend on the critic's input")
        bound = bind(node.target, args_of(node), node.kwargs)
        probe = Site(site.op, fake_values(bound), site._read, active, site.result)
        try:
            return rule_of(probe, outputs)
        except DeriveError:
            raise
        except Exception as error:
            raise DeriveError(f"{node.target} cannot be differentiated twice: {error}") from error

    def _moving_outputs(self, node: fx.Node) -> frozenset[int]:
        rule = self.rules[node]
        outputs = getattr(rule, "outputs", None)
        if outputs is not None:
            return outputs
        val = value_of(node)
        if isinstance(val, (tuple, list)) and getattr(rule, "every_output", False):
            return frozenset(range(len(val)))
        return frozenset({0})

    def _site(self, node: fx.Node, active: frozenset[str], rows: str = POINTS) -> TracedSite:
        """The node as its rule sees it, for some of the batch's rows."""
        sources = bind(node.target, args_of(node), node.kwargs)
        at_rows = self._at_rows(node, rows)

        def read(kind: str, key: Argument) -> Value:
            if kind == "in":
                name, _, index = key.partition(".")
                return self._read(sources[name][int(index)] if index else sources[name], rows)
            if key is None:
                return self._read(node, rows)
            if (node, key) not in self.members:
                self.members[node, key] = self.primal[node][key]
            return self._rows(self._here(self.members[node, key]), node, key, rows)

        if any(is_number(v) for value in sources.values() if isinstance(value, (list, tuple)) for v in value):
            raise DeriveError(f"{node.target} takes sizes computed from a changing number")
        # Numbers that the graph computes (a fade-in factor) are read like primals, when a rule asks.
        arguments = fake_values(bind(at_rows.target, args_of(at_rows), at_rows.kwargs))
        arguments = {
            name: Number(functools.partial(self._read, source)) if is_number(source) else arguments[name]
            for name, source in sources.items()
        }
        site = TracedSite(node.target, Arguments(arguments), read, active, value_of(at_rows))
        site.current = lambda: self.builder
        site.here = self._here
        site.info = info_of(at_rows)
        return site

    # what CriticStepDerivation overrides: here all rows are penalty points ---------------------------

    def _at_rows(self, node: fx.Node, rows: str) -> fx.Node:
        """The node as it is in the graph of these rows."""
        return node

    def _base_node(self, at_rows: fx.Node) -> fx.Node:
        """The inverse of :meth:`_at_rows`."""
        return at_rows

    def _rows(self, value: Value, node: fx.Node, key: int | None, rows: str) -> Value:
        """Some rows of ``value``, which a node (or its member ``key``) has for the whole batch."""
        return value

    def _early(self, node: fx.Node, with_adjoint: set[fx.Node]) -> bool:
        """Whether sweep 3 already adds the node's second-order term, so that its tangents can be freed."""
        return not self._has(with_adjoint, node) or self._second_order_in_sweep3(node)

    def _score_cotangent(self) -> Value:
        score = value_of(self.score)
        settings = {"dtype": score.dtype, "device": score.device}
        return self.forward.create(torch.ones, (list(score.shape),), settings)

    def _has_backward(self) -> bool:
        """Whether anything is asked of sweeps 3 and 4."""
        return bool(self.requires_grad)

    def _take_seeds(self) -> None:
        seed = self.tangent[self.x] = self.backward.placeholder("seed")
        seed.node.meta["val"] = value_of(self.x)

    def _results(self) -> tuple[Argument, Argument]:
        """What the forward and the backward graph return before saved values and gradients of leaves."""
        return self.cotangent[self.x].node, _node(self.adjoint.get(self.x) if self.wants_x else None)

    # values ---------------------------------------------------------------------------------------

    def _read(self, source: fx.Node, rows: str = POINTS) -> Value:
        return self._rows(self._here(self.primal[source]), source, None, rows)

    def _here(self, value: Value) -> Value:
        """A forward graph's value in the graph being written; it is saved if that is the backward graph."""
        if self.builder is self.forward or not isinstance(value, fx.Proxy):
            return value
        if value.node.graph is self.backward.graph:
            return value
        if value.node not in self.imported:
            self.saved.append(value.node)
            self.imported[value.node] = self.backward.placeholder(f"saved_{value.node.name}")
        return self.imported[value.node]

    def _there(self, value: Value) -> Value:
        """Cotangents (a proxy, or a tuple for several outputs) in the graph being written."""
        if isinstance(value, (tuple, list)):
            return tuple(self._here(v) for v in value)
        return self._here(value)

    def _gather(self, table: dict[fx.Node, Value], node: fx.Node) -> Value:
        """The entry of a node; for a node with several outputs the tuple of its members' entries."""
        val = value_of(node)
        if not isinstance(val, (tuple, list)):
            return table.get(node)
        members = [None] * len(val)
        for user in node.users:
            if user.target is operator.getitem and user in table:
                members[args_of(user)[1]] = plus(members[args_of(user)[1]], table[user])
        return tuple(members) if any(m is not None for m in members) else None

    # sweeps ---------------------------------------------------------------------------------------

    def run(self) -> Sweeps:
        if self.score is self.x:
            raise DeriveError("the critic returns its input")
        self._analyse()
        if self.score not in self.depends_on_x:
            raise DeriveError("the critic's output does not depend on x")
        self._sweep1()
        self._sweep2()
        self.builder = self.backward
        self._take_seeds()  # now, so that it is the first input
        with_adjoint = self._structure(stock=False)
        zero = self._structure(stock=True)
        if self._has_backward():
            self._sweep3(with_adjoint)
            self._sweep4(with_adjoint)
        return self._finish(with_adjoint, zero)

    def _sweep1(self) -> None:
        for node in self.inputs:
            self.primal[node] = self.forward.placeholder(node.name)
        for node in self.calls:
            at_rows = self._at_rows(node, WHOLE)
            args, kwargs = fx.map_arg(
                (args_of(at_rows), at_rows.kwargs), lambda n: self.primal[self._base_node(n)]
            )
            run = info_of(at_rows).run
            if run is not None:
                self.primal[node] = run(*args)
            elif node.target is operator.getitem:
                self.primal[node] = self.members[node.all_input_nodes[0], args[1]] = args[0][args[1]]
            else:
                self.primal[node] = self.forward.create(node.target, args, kwargs)

    def _sweep2(self) -> None:
        self.cotangent[self.score] = self._score_cotangent()
        for node in reversed(self.calls):
            if node not in self.depends_on_x or node.target is operator.getitem:
                continue
            g = self._gather(self.cotangent, node)
            if g is None:
                continue
            site = self.sites[node]
            found = self.rules[node].vjp(site, g, site.active)
            self._add(self.cotangent, node, found, self.depends_on_x)
        if self.x not in self.cotangent:
            raise DeriveError("the critic's output does not depend on x")

    def _add(self, table: dict[fx.Node, Value], node: fx.Node, found: Slots, where: set[fx.Node]) -> None:
        slots = slot_nodes(node)
        for slot, value in found.items():
            source = slots[slot]
            if value is None or source not in where:
                continue
            if (
                table is self.adjoint
                and source.target is aten._to_copy.default
                and source not in self.depends_on_x
            ):
                # A cast of a parameter (autocast): its gradients add up in the parameter's own dtype.
                (source,) = source.all_input_nodes
                if source not in where:
                    continue
                value = value.to(value_of(source).dtype)
            table[source] = plus(table.get(source), value)

    def _structure(self, stock: bool) -> set[fx.Node]:
        """The values that get an adjoint; with ``stock`` also those for which stock code computes zeros."""
        reached: set[fx.Node] = set()
        for node in reversed(self.calls):
            if node.target is operator.getitem:
                if node in reached and args_of(node)[0] in self.requires_grad:
                    reached.add(args_of(node)[0])
                continue
            if node not in self.rules:
                continue
            rule, site = self.rules[node], self.sites[node]
            moving = frozenset() if self._gather(self.cotangent, node) is None else site.active
            bending = rule.second_order_slots(site, moving) if moving else frozenset()
            if stock and moving:
                bending = bending | rule.explicit_zeros(site, moving)
            for slot, source in slot_nodes(node).items():
                if source in self.requires_grad and (
                    slot in bending or (node in reached and node in self.requires_grad)
                ):
                    reached.add(source)
        return reached

    def _sweep3(self, with_adjoint: set[fx.Node]) -> None:
        for node in self.calls:
            if node not in self.depends_on_x or node.target is operator.getitem:
                continue
            t = self._tangents(node)
            if not t:
                continue
            moved = self.rules[node].jvp(self.sites[node], t)
            if isinstance(moved, tuple):
                for user in node.users:
                    if user.target is operator.getitem and moved[args_of(user)[1]] is not None:
                        self.tangent[user] = moved[args_of(user)[1]]
            elif moved is not None:
                self.tangent[node] = moved
            if self._early(node, with_adjoint):
                self._add_second_order(node, t)

    def _has(self, with_adjoint: set[fx.Node], node: fx.Node) -> bool:
        if isinstance(value_of(node), (tuple, list)):
            return any(user in with_adjoint for user in node.users)
        return node in with_adjoint

    def _second_order_in_sweep3(self, node: fx.Node) -> bool:
        return self.rules[node].second_order_in_sweep3(self.sites[node])

    def _add_second_order(self, node: fx.Node, t: dict[str, Value]) -> None:
        """Add a node's second-order term alone: its output has no adjoint, or the term is added early."""
        site, rule, slots = self.sites[node], self.rules[node], slot_nodes(node)
        g = self._gather(self.cotangent, node)
        if g is None:
            return
        bending = frozenset(
            s for s in rule.second_order_slots(site, frozenset(t)) if slots.get(s) in self.requires_grad
        )
        if bending:
            self._add(
                self.adjoint, node, rule.second_order(site, self._there(g), t, bending), self.requires_grad
            )

    def _sweep4(self, with_adjoint: set[fx.Node]) -> None:
        for node in reversed(self.calls):
            if node in self.rules and node in self.requires_grad and self._has(with_adjoint, node):
                self._adjoint_at(node)

    def _tangents(self, node: fx.Node) -> dict[str, Value]:
        slots = slot_nodes(node)
        active = self.sites[node].active  # a set, whose order differs from process to process
        return {s: self.tangent[n] for s, n in slots.items() if s in active and n in self.tangent}

    def _adjoint_at(self, node: fx.Node) -> None:
        """Sweep 4 at one node."""
        site, rule, slots = self.sites[node], self.rules[node], slot_nodes(node)
        t = self._tangents(node)
        c = self._gather(self.adjoint, node)
        if c is None:
            if not self._second_order_in_sweep3(node):
                self._add_second_order(node, t)
            return
        wanted = frozenset(s for s, n in slots.items() if n in self.requires_grad)
        bending = (
            t
            and not self._second_order_in_sweep3(node)
            and rule.second_order_slots(site, frozenset(t)) & wanted
        )
        g = self._gather(self.cotangent, node) if bending else None
        found = rule.adjoint(site, c, self._there(g) if g is not None else None, t, wanted)
        self._add(self.adjoint, node, found, self.requires_grad)

    # the end --------------------------------------------------------------------------------------

    def _finish(self, with_adjoint: set[fx.Node], zero: set[fx.Node]) -> Sweeps:
        backward = None
        result, of_x = self._results()
        if self._has_backward():
            gradients = [_node(self.adjoint.get(self.leaves[i])) for i in self.wanted]
            self.backward.graph.output((of_x, *gradients))
            eliminate_dead_code(self.backward.graph)
            for node in list(self.backward.graph.nodes):
                if node.op == "placeholder" and node.name != "seed" and not node.users:
                    self.backward.graph.erase_node(node)
            alive = {n.target for n in self.backward.graph.nodes if n.op == "placeholder"}
            self.saved = [n for n in self.saved if self.imported[n].node.target in alive]
        self.forward.graph.output((result, *self.saved))
        eliminate_dead_code(self.forward.graph)
        if self._has_backward():
            backward = fx.GraphModule(torch.nn.Module(), self.backward.graph, "Backward")
        kinds = {p.node: value_of(n) for n, p in self.primal.items() if isinstance(p, fx.Proxy)}
        zeros = frozenset(
            k
            for k, i in enumerate(self.wanted)
            if self.leaves[i] not in self.adjoint and self.leaves[i] in zero
        )
        return Sweeps(
            fx.GraphModule(torch.nn.Module(), self.forward.graph, "Forward"),
            backward,
            self.wanted,
            self.wants_x,
            zeros,
            tuple(isinstance(kinds.get(n, torch.empty(0)), (Tensor, tuple, list)) for n in self.saved),
            [self._info(n, with_adjoint) for n in self.calls if n.target is not operator.getitem],
        )

    def _info(self, node: fx.Node, with_adjoint: set[fx.Node]) -> DerivedNode:
        rule = self.rules.get(node) if node in self.depends_on_x or node in self.requires_grad else None
        return DerivedNode(
            node.name,
            _operator_name(node.target),
            type(rule).__name__ if rule else "constant",
            rule is not None and self._has(with_adjoint, node),
            getattr(rule, "reason", ""),
            node,
        )


def _node(value: Value) -> fx.Node | None:
    return None if value is None else value.node


def _operator_name(target: Operator) -> str:
    """``aten.relu.default``, or ``wgangp_fast.norm_act`` for the package's own."""
    return str(target) if isinstance(target, OPERATOR) else f"wgangp_fast.{target.__name__}"


def derive(graph: fx.Graph, wants_x: bool, wanted: Iterable[int]) -> Sweeps:
    """Write the sweeps; see :class:`Derivation` and :class:`Sweeps`."""
    return Derivation(graph, wants_x, wanted).run()
