"""One critic at three sizes of its batch: which node is which, and which of its rows are whose.

The whole critic step runs the critic once on ``[x; real; fake]``: 3N rows, of which the first N, the penalty
points, take part in all four sweeps, and the other 2N in an ordinary backward pass. The critic is captured at
N and at 3N rows. Where the two graphs are one graph at two sizes, and no row of one third reaches another
third, every value of the 3N graph is cut along the one dimension that tripled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from .errors import CaptureError
from .sweeps import CONSTANT, POINTS, REST, WHOLE
from .writer import result_of, value_of

aten = torch.ops.aten


class Apart(CaptureError):
    """The critic cannot run on three batches at once; the message says why."""


class Mirrors:
    """A critic's graph at N rows (``one``) and at 3N, matched node by node, and made at 2N.

    Attributes:
        one: the graph at N rows; its nodes are the keys everywhere.
        shown: for each kind of rows, the node of ``one`` to the node of that size.
        origin: from a node at 3N rows back to that of ``one``.

    Raises:
        Apart: the graphs differ in more than the size of the batch.
    """

    def __init__(self, one: fx.Graph, three: fx.Graph) -> None:
        self.one = one
        ones, threes = list(one.nodes), list(three.nodes)
        if [(n.op, _target(n)) for n in ones] != [(n.op, _target(n)) for n in threes]:
            raise Apart("the critic computes something else for a larger batch")
        whole = dict(zip(ones, threes))
        rest: dict[fx.Node, fx.Node] = {}
        self.origin = {b: a for a, b in whole.items()}
        two = fx.Graph()
        for node, other in whole.items():
            between = _Between(self.origin, rest)
            made = two.create_node(
                node.op,
                node.target,
                between(node.args, other.args),
                between(node.kwargs, other.kwargs),
                node.name,
            )
            made.meta = {**other.meta}
            if "val" in node.meta:
                made.meta["val"] = between.value(node.meta["val"], other.meta["val"])
            rest[node] = made
        self.shown = {POINTS: {node: node for node in ones}, REST: rest, WHOLE: whole}

    def dim(self, node: fx.Node, key: int | None = None) -> int | None:
        """The dimension of the samples in a node's value (in its member ``key``); None: it has none."""
        a, b = value_of(node), value_of(self.shown[WHOLE][node])
        return batch_dim(a, b) if key is None else batch_dim(a[key], b[key])

    def cut(self, node: fx.Node, key: int | None, rows: str) -> tuple[int, int, int] | None:
        """``(dim, start, length)`` of some rows of a node's value; None: all of it."""
        dim = self.dim(node, key)
        if dim is None or rows == WHOLE:
            return None
        value = value_of(node) if key is None else value_of(node)[key]
        size = value.shape[dim]
        return (dim, 0, size) if rows == POINTS else (dim, size, 2 * size)


def _target(node: fx.Node) -> Any:
    return None if node.op == "placeholder" else node.target


def batch_dim(a: Any, b: Any) -> int | None:
    """The dimension in which ``b`` is three times as long as ``a``; None if the shapes are equal."""
    if not isinstance(a, Tensor):
        return None
    differing = [d for d, (p, q) in enumerate(zip(a.shape, b.shape)) if p != q]
    if a.dim() != b.dim() or len(differing) > 1 or any(3 * a.shape[d] != b.shape[d] for d in differing):
        raise Apart(
            f"the critic compares samples with each other: {list(a.shape)} for one batch, "
            f"{list(b.shape)} for three"
        )
    return differing[0] if differing else None


class _Between:
    """Arguments and values at 2N rows, half-way between those at N and at 3N."""

    def __init__(self, origin: dict[fx.Node, fx.Node], made: dict[fx.Node, fx.Node]) -> None:
        self.origin, self.made = origin, made

    def __call__(self, a: Any, b: Any) -> Any:
        if isinstance(a, fx.Node) and isinstance(b, fx.Node) and self.origin.get(b) is a:
            return self.made[a]
        if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
            made = [self(p, q) for p, q in zip(a, b)]
            return tuple(made) if isinstance(a, tuple) else made
        if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
            return {name: self(a[name], b[name]) for name in a}
        if type(a) is int and type(b) is int and a != b:
            return self._middle(a, b)
        return self._same(a, b)

    def value(self, a: Any, b: Any) -> Any:
        if isinstance(a, (list, tuple)):
            return type(a)(self.value(p, q) for p, q in zip(a, b))
        if not isinstance(a, Tensor):
            return a
        dim = batch_dim(a, b)
        if a.dtype != b.dtype:
            raise Apart("the critic computes in another dtype for a larger batch")
        if dim is None:
            return a
        shape = [2 * size if d == dim else size for d, size in enumerate(a.shape)]
        return a.new_empty_strided(shape, [self._middle(p, q) for p, q in zip(a.stride(), b.stride())])

    @staticmethod
    def _middle(a: int, b: int) -> int:
        if (a + b) % 2:
            raise Apart("the critic computes something else for a larger batch")
        return (a + b) // 2

    @staticmethod
    def _same(a: Any, b: Any) -> Any:
        # repr: nodes inside slices, NaN
        if a is not b and a != b and repr(a) != repr(b):
            raise Apart(f"the critic depends on the size of its batch ({a!r} for one, {b!r} for three)")
        return a


# whether thirds are independent ------------------------------------------------------------------


class _Run(fx.Interpreter):
    """Runs a critic's graph; what it draws at random is replaced by ones."""

    def __init__(self, graph: fx.Graph, check: Any = None) -> None:
        module = fx.GraphModule(torch.nn.Module(), graph)
        super().__init__(module)
        self.check = check
        self.originals = dict(zip(module.graph.nodes, graph.nodes))  # in case the module copied the graph

    def run_node(self, n: fx.Node) -> Any:
        value = self._value(n)
        if self.check is not None and n.op == "call_function":
            self.check(self.originals[n], value)
        return value

    def _value(self, n: fx.Node) -> Any:
        drawn = torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ())
        if n.target is aten.native_dropout.default:
            x = self.fetch_args_kwargs_from_env(n)[0][0]
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        if n.target in CONSTANT and (drawn or "empty" in str(n.target)):
            like = value_of(n)
            x = self.fetch_args_kwargs_from_env(n)[0][0]
            return torch.ones(tuple(like.shape), dtype=like.dtype, device=x.device)
        if drawn and "dropout" not in str(n.target):
            raise Apart(f"{n.target} draws random numbers that depend on the critic's input")
        return super().run_node(n)


@torch.no_grad()
def check_independent(mirrors: Mirrors, whole: Tensor, leaves: tuple[Any, ...]) -> None:
    """Raise :class:`Apart` unless thirds of a batch like ``whole [3N, ...]`` are as batches of their own.

    NaN in some rows shows where they reach: the critic runs with NaN in the first third, then in the others,
    and whatever crosses (a batch's mean, a sort, a roll of the batch) carries it into rows of the other part.
    """
    leaves = tuple(leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    one, three = mirrors.one, next(iter(mirrors.origin)).graph
    n = whole.shape[0] // 3
    own = torch.Generator(whole.device).manual_seed(0)  # the caller's streams stay where they are
    whole = torch.randn(whole.shape, dtype=whole.dtype, device=whole.device, generator=own)
    _, *inputs = one.find_nodes(op="placeholder")
    mine = [_first_third(mirrors, node, leaf) for node, leaf in zip(inputs, leaves)]
    discrete: dict[tuple[fx.Node, int | None], Tensor] = {}

    def remember(node: fx.Node, value: Any) -> None:
        for key, member in _members(value):
            if not member.is_floating_point():
                discrete[node, key] = member

    def unreached(rows: str) -> Any:
        def check(node: fx.Node, value: Any) -> None:
            origin = mirrors.origin[node]
            for key, member in _members(value):
                cut = mirrors.cut(origin, key, rows)
                kept = member if cut is None else member.narrow(*cut)
                if member.is_floating_point() or member.is_complex():
                    crossed = bool(kept.isnan().any())
                else:
                    before = discrete[node, key]
                    crossed = not torch.equal(kept, before if cut is None else before.narrow(*cut))
                if crossed:
                    raise Apart(f"{node.target} mixes the samples of a batch")

        return check

    with torch.autocast(whole.device.type, enabled=False):
        score = _Run(three, remember).run(whole, *leaves)
        alone = _Run(one).run(whole[:n], *mine)
        cut = mirrors.cut(mirrors.origin[result_of(three)], None, POINTS)
        if cut is None:
            raise Apart("the critic returns one number for the whole batch")
        score = score.narrow(*cut)
        # Another factor (one over the size of the batch) would show at once; rounding must not.
        if float((score - alone).abs().max()) > 0.05 * float(alone.abs().max()):
            raise Apart("the critic's scores depend on the size of its batch")
        for rows, poisoned in ((REST, slice(0, n)), (POINTS, slice(n, None))):
            reached = whole.clone()
            reached[poisoned] = float("nan")
            _Run(three, unreached(rows)).run(reached, *leaves)


def _first_third(mirrors: Mirrors, node: fx.Node, leaf: Any) -> Any:
    """A leaf as the penalty points alone have it: constants of the batch's size (initial states) are cut."""
    cut = mirrors.cut(node, None, POINTS)
    if cut is None:
        return leaf
    dim, _, size = cut
    first, second, third = leaf.split(size, dim)
    if node.meta.get("trains") or not (torch.equal(first, second) and torch.equal(first, third)):
        raise Apart("the critic has a parameter, or numbers, for each sample of its batch")
    return first


def _members(value: Any) -> list[tuple[int | None, Tensor]]:
    if isinstance(value, Tensor):
        return [(None, value)]
    if isinstance(value, (list, tuple)):
        return [(i, member) for i, member in enumerate(value) if isinstance(member, Tensor)]
    return []
