"""The whole critic step as one plan: sweeps of ``[x; real; fake]``, of which x alone is penalised.

Sweep 1 runs on all 3N rows, sweeps 2 and 3 on the N penalty points. Sweep 4 is the backward pass of the loss:
the adjoints of real and fake begin at the score, those of the penalty points where the critic bends; they
meet in the products, one call for each gradient. Piecewise-linear critics need 10 forward-units, where stock
code needs 12 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from ..rules.bilinear import Bilinear
from ..rules.registry import Rule
from . import capture, torch_internals
from .batches import at_batches
from .derive import Derivation
from .errors import CaptureError, NotNow
from .mirrors import Mirrors
from .split import Captured
from .sweeps import REST, WHOLE, Sweeps
from .writer import PlanSite, args_of, is_float, value_of

Critic = Callable[[Tensor], Any]


class JointDerivation(Derivation):
    """One use: ``JointDerivation(mirrors, wants_x, wanted).run()``; see :class:`Derivation`.

    The forward graph returns ``((input gradient [N, ...], scores of all rows), *saved)``; the backward graph
    takes ``((seed [N, ...], cotangent of the scores of real and fake), *saved)`` and returns
    ``((adjoint of x, adjoint of [real; fake]), *gradients of the wanted leaves)``.
    """

    def __init__(self, mirrors: Mirrors, wants_x: bool, wanted: Iterable[int]) -> None:
        super().__init__(mirrors.one, wants_x, wanted)
        self.mirrors = mirrors
        self.rest: dict[fx.Node, Any] = {}  # adjoints of the rows of real and fake
        self.others: dict[fx.Node, tuple[PlanSite, Rule]] = {}  # a node and its rule at those rows
        self.pieces: dict[Any, Any] = {}
        self.counted = self._counted()

    def _shown(self, node: fx.Node, rows: str) -> fx.Node:
        return self.mirrors.shown[rows][node]

    def _origin(self, shown: fx.Node) -> fx.Node:
        return self.mirrors.origin[shown]

    def _rows(self, value: Any, node: fx.Node, key: int | None, rows: str) -> Any:
        cut = None if not isinstance(value, fx.Proxy) else self.mirrors.cut(node, key, rows)
        if cut is None:
            return value
        if node in self.counted:
            return self._again(node, rows)
        name = (self.writer, node, key, rows)
        if name not in self.pieces:
            self.pieces[name] = torch.narrow(value, *cut)
        return self.pieces[name]

    def _again(self, node: fx.Node, rows: str) -> Any:
        """Numbers that count rows, made for these rows: a part of those for all rows begins elsewhere."""
        name = (self.writer, node, None, rows)
        if name not in self.pieces:
            shown, one = self._shown(node, rows), {self._shown(n, rows): n for n in node.all_input_nodes}
            args, kwargs = fx.map_arg((args_of(shown), shown.kwargs), lambda n: self._read(one[n], rows))
            target: Any = shown.target
            self.pieces[name] = self.writer.create(target, args, kwargs)
        return self.pieces[name]

    def _counted(self) -> set[fx.Node]:
        """Values that the graph makes of the number of its rows alone, and whole numbers made of these."""
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
        seeds: Any = self.backward.placeholder("seed")
        seeds.node.meta["val"] = value_of(self.x), value_of(self._shown(self.score, REST))
        self.tangent[self.x], self.rest[self.score] = seeds[0], seeds[1]

    def _results(self) -> tuple[Any, Any]:
        result = (self.cotangent[self.x].node, self.primal[self.score].node)
        adjoints = (self.adjoint.get(self.x), self.rest.get(self.x)) if self.wants_x else (None, None)
        return result, tuple(None if a is None else a.node for a in adjoints)

    # sweeps ---------------------------------------------------------------------------------------

    def _early(self, node: fx.Node, with_adjoint: set[fx.Node]) -> bool:
        return self._apart(node) or not (self._has(with_adjoint, node) or self._meets(node))

    def _apart(self, node: fx.Node) -> bool:
        rule = self.rules[node]
        return rule.apart(self._other(node)[0] if isinstance(rule, Bilinear) else self.sites[node])

    def _other(self, node: fx.Node, rows: str = REST) -> tuple[PlanSite, Rule]:
        """The node at the rows of real and fake, and its rule there."""
        if (node, rows) not in self.pieces:
            active = self.sites[node].active
            site = self._site(node, active, rows)
            moving = active or frozenset(s for s, n in self._slot_nodes(node).items() if n in self.needed)
            self.pieces[node, rows] = (
                site,
                self._rule(self._shown(node, rows), site, moving, self.asked[node]),
            )
        return self.pieces[node, rows]

    def _meets(self, node: fx.Node) -> bool:
        """Whether one product serves the penalty points and the other rows: rows are its first dimension."""
        rule, slots = self.rules[node], self._slot_nodes(node)
        if not isinstance(rule, Bilinear) or rule.merge != 0 or node not in self.needed:
            return False
        a, b = slots.get(rule.a), slots.get(rule.b)
        return (
            a in self.moves
            and b is not None
            and b not in self.moves
            and self.mirrors.dim(a) == 0
            and self.mirrors.dim(node) == 0
            and self.mirrors.dim(b) is None
        )

    def _sweep4(self, with_adjoint: set[fx.Node]) -> None:
        for node in reversed(self.calls):
            if node not in self.rules or node not in self.needed:
                continue
            d = self._gather(self.rest, node)
            # Where copies cost more than calls (large activations on a CPU) both kinds of rows stay apart.
            separate = self._gather(self.adjoint, node) is not None and self._apart(node)
            if d is not None and self._meets(node) and not separate:
                self._meet(node, d)
                continue
            if self._has(with_adjoint, node) or self._gather(self.adjoint, node) is not None:
                self._turn(node)
            if d is not None:
                site, rule = self._other(node)
                wanted = frozenset(s for s, n in self._slot_nodes(node).items() if n in self.needed)
                self._add_rest(node, rule.vjp(site, d, wanted))

    def _add_rest(self, node: fx.Node, found: Any) -> None:
        slots = self._slot_nodes(node)
        batched = {slot for slot in found if self.mirrors.dim(slots[slot]) is not None}
        self._add(self.rest, node, {s: v for s, v in found.items() if s in batched}, self.needed)
        self._add(self.adjoint, node, {s: v for s, v in found.items() if s not in batched}, self.needed)

    def _meet(self, node: fx.Node, d: Any) -> None:
        """Sweep 4 at a product: adjoints of the penalty points and of the other rows in one call each."""
        c = self._gather(self.adjoint, node)
        rows = REST if c is None else WHOLE
        (site, rule), slots = self._other(node, rows), self._slot_nodes(node)
        assert isinstance(rule, Bilinear)
        t = self._tangents(node)
        g = None if self._apart(node) else self._gather(self.cotangent, node)
        parts = [p for p in (c, d) if p is not None]
        size = value_of(node).shape[0]
        pair = rule.a in t and g is not None and slots[rule.b] in self.needed
        listed = pair and rule.takes_pairs(site)
        if pair and not listed:
            right = torch.cat([self._there(g), *parts], 0)
            both = torch.narrow(right, 0, size, (2 if c is None else 3) * size)
        else:
            both = right = parts[0] if c is None else torch.cat(parts, 0)
        if slots[rule.b] in self.needed:
            primal = site.primal(rule.a)
            if listed:
                found = rule.transpose_b_of(site, [(t[rule.a], self._there(g)), (primal, both)])
            else:
                found = rule.transpose_b(site, torch.cat([t[rule.a], primal], 0) if pair else primal, right)
            self._add(self.adjoint, node, {rule.b: found}, self.needed)
        if rule.bias is not None and slots.get(rule.bias) in self.needed:
            self._add(self.adjoint, node, {rule.bias: rule.bias_gradient(site, both)}, self.needed)
        if slots[rule.a] in self.needed:
            back = rule.transpose_a(site, both, site.primal(rule.b))
            if c is None:
                self._add(self.rest, node, {rule.a: back}, self.needed)
            else:
                inner = value_of(slots[rule.a]).shape[0]
                self._add(self.adjoint, node, {rule.a: torch.narrow(back, 0, 0, inner)}, self.needed)
                self._add(self.rest, node, {rule.a: torch.narrow(back, 0, inner, 2 * inner)}, self.needed)


def derive_joint(mirrors: Mirrors, wants_x: bool, wanted: Iterable[int]) -> Sweeps:
    """Write the sweeps of the whole critic step; see :class:`JointDerivation`."""
    return JointDerivation(mirrors, wants_x, wanted).run()


# capture -----------------------------------------------------------------------------------------


def bind(critic: Critic, output: Any, x: Tensor, data: Tensor) -> capture.Binding | str:
    """Capture ``critic`` as it sees the penalty points, for a plan of the whole critic step.

    Args:
        x: ``[N, ...]``, requires a gradient, as the penalty points do.
        data: the same without: as stock code shows real and fake to the critic.

    Returns:
        the binding, its ``captured.joined`` the graphs for one, two and three batches; or why the critic
        has to
        run on each batch alone. Then nothing of it has run.

    Raises:
        CaptureError: it cannot be captured at all.
    """
    try:
        binding = capture.bind(critic, output, x, _is_joined)
    except capture.Seen as seen:
        captured = seen.captured
        if captured.joined is None:
            captured.joined = _join(captured)
        if isinstance(captured.joined, str):
            return captured.joined
        binding = capture.bind(critic, output, x, _is_joined)
    captured = binding.captured
    try:
        other = capture.look(critic, output, data)
    except NotNow:
        raise
    except CaptureError as error:
        captured.joined = str(error)
        return captured.joined
    if other not in captured.seen:
        captured.seen[other] = difference(captured, other)
    return captured.seen[other] or binding


def _is_joined(captured: Captured) -> bool:
    return captured.joined is not None and not isinstance(captured.joined, str)


def _join(captured: Captured) -> tuple[fx.Graph, ...] | str:
    """The critic's graph for one, two and three batches, or why they may not run as one."""
    if captured.draws:
        return "its forward pass draws random numbers in Python, anew for each batch in stock code"
    if captured.changes_state() or captured.python_effects:
        return "its forward pass changes buffers or attributes, once for each batch in stock code"
    if captured.prologue is not None and any(_draws(node) for node in captured.prologue.graph.nodes):
        return "it draws random numbers for its parameters, for each batch others in stock code"
    try:
        with torch_internals.quiet():
            return tuple([at_batches(captured.critic, count) for count in (1, 2, 3)])
    except Exception as error:  # what cannot be shown to be the same does not run together
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def difference(a: Captured, b: Captured) -> str | None:
    """Where two captures of one critic differ; None if they are the same."""
    if b.changes_state() or b.python_effects:
        return "its forward pass changes buffers or attributes for real and fake samples"
    same = (a.input_names, a.leaf_sources) == (b.input_names, b.leaf_sources)
    same = same and _same_graph(a.critic, b.critic)
    p, q = a.prologue, b.prologue
    same = same and (p is q if p is None or q is None else _same_graph(p.graph, q.graph, p, q))
    if same:
        return None
    return (
        "it computes something else for real and fake samples, which require no gradient, than for the "
        "penalty points, which do: it looks at requires_grad"
    )


def _same_graph(a: fx.Graph, b: fx.Graph, owner_a: Any = None, owner_b: Any = None) -> bool:
    """Whether two graphs are one, call by call and constant by constant."""
    if len(a.nodes) != len(b.nodes):
        return False
    place = {node: i for graph in (a, b) for i, node in enumerate(graph.nodes)}

    def told(value: Any) -> Any:
        """An argument as something that can be compared: nodes by place, types kept (1 is not True)."""
        if isinstance(value, fx.Node):
            return "node", place[value]
        if isinstance(value, (list, tuple)):
            return tuple([told(v) for v in value])
        if isinstance(value, dict):
            return tuple([(name, told(v)) for name, v in value.items()])
        return type(value), repr(value)

    for m, n in zip(a.nodes, b.nodes):
        shapes = [[(v.shape, v.dtype) for v in _tensors(node)] for node in (m, n)]
        marks = [bool(node.meta.get("no_grad")) for node in (m, n)]
        same = m.op == n.op and shapes[0] == shapes[1] and marks[0] == marks[1]
        if m.op == "get_attr":
            pair = [getattr(owner, node.target) for owner, node in ((owner_a, m), (owner_b, n))]
            same = same and (pair[0] is pair[1] or torch.equal(*pair))
        elif m.op != "placeholder":
            same = same and (m.target, told(m.args), told(m.kwargs)) == (
                n.target,
                told(n.args),
                told(n.kwargs),
            )
        if not same:
            return False
    return True


def _tensors(node: fx.Node) -> list[Tensor]:
    val = node.meta.get("val")
    return [v for v in (val if isinstance(val, (list, tuple)) else [val]) if isinstance(v, Tensor)]
