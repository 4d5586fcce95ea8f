"""A critic's graph for several batches at once, equal to the graph run on each of them.

The whole critic step runs the critic on ``[x; real; fake]``, where stock code runs it on each of the three.
The critic is not captured again at 3N rows: constants made from N, labels of N samples and statistics over a
batch would be wrong. Its graph at N rows is rewritten for ``count`` batches, operator by operator. A value is
either

* the same for all batches (parameters, constants), and then stays as it is; or
* different for each batch: then the batches lie one after the other along one dimension, ``[count * N, C]``
  for ``[N, C]``. ``batch_rules`` knows for each family of operators when one call can serve all batches.
  Otherwise (the mean of a batch, a row number made from N) ``torch.vmap`` maps the operator over values
  ``[count, ...]``.

Nothing is computed on numbers, and nothing is guessed from shapes.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from ...errors import NotBatchable
from ...rules.nodes import Argument, Operator
from ...rules.registry import bind
from ..ir import args_of, eliminate_dead_code, result_of, value_of
from ..torch_internals import schema_of, trace_to_aten, without_vmap_loops
from .batch_rules import DRAWN, SIZED, VIEWS, Placed, pointwise, rule_of, tensors_of
from .normalize import normalise

aten = torch.ops.aten


class Batched:
    """A value of the rewritten graph.

    Attributes:
        val: the fake value for one batch.
        dim: the dimension along which the batches lie; None: the value is the same for all. For a value
            without dimensions it is 0, and only ``stacked`` exists.
        made: the nodes made so far, by the dimension along which the batches lie; ``made[None]`` is the value
            that is the same for all.
        stacked: the node ``[count, ...]``, or None.
        members: those of a tuple, if they were made one by one.
    """

    def __init__(
        self, val: Argument, dim: int | None, made: fx.Node | None, stacked: fx.Node | None = None
    ) -> None:
        self.val, self.dim, self.stacked = val, dim, stacked
        self.made: dict[int | None, fx.Node] = {} if made is None else {dim: made}
        self.members: list[Batched | None] | None = None

    @property
    def mapped(self) -> bool:
        return self.dim is not None


class Batches:
    """One use: ``Batches(graph, count).run()``."""

    def __init__(self, graph: fx.Graph, count: int) -> None:
        self.graph, self.count = graph, count
        self.result = fx.Graph()
        self.values: dict[fx.Node, Batched] = {}
        self.target: Operator = None  # of the node that is being rewritten
        self.rows = 0  # samples in one batch
        self.draws = False
        self.by_batch = False  # whether the result depends on which samples form a batch

    def run(self) -> fx.Graph:
        """The rewritten graph.

        Raises:
            NotBatchable: an operator cannot be mapped over batches.
        """
        x, *leaves = self.graph.find_nodes(op="placeholder")
        with value_of(x).fake_mode, torch.no_grad():
            self._x(x)
            for leaf in leaves:
                self.values[leaf] = Batched(value_of(leaf), None, self.result.node_copy(leaf))
            for node in self.graph.nodes:
                if node.op == "call_function":
                    self.values[node] = self._call(node)
            score = self.values[result_of(self.graph)]
            if not score.mapped:
                raise NotBatchable("the critic's output does not depend on x")
            if self.draws and self.by_batch:
                raise NotBatchable("it draws random numbers, in another order for one batch of all samples")
            self.result.output(self.at(score, score.dim) if score.val.dim() else score.stacked)
            eliminate_dead_code(self.result)
            normalise(self.result)
        return self.result

    def _x(self, x: fx.Node) -> None:
        made = self.result.node_copy(x)
        n, *rest = value_of(x).shape
        self.rows = n
        strides = [math.prod(rest), *value_of(x).stride()[1:]]
        made.meta = {**x.meta, "val": value_of(x).new_empty_strided([self.count * n, *rest], strides)}
        self.values[x] = Batched(value_of(x), 0, made)

    # nodes of the result --------------------------------------------------------------------------------

    def emit(
        self,
        target: Operator,
        args: Iterable[Argument],
        kwargs: dict[str, Argument] | None = None,
        meta: dict[str, Any] | None = None,
    ) -> fx.Node:
        """Add a call to the result; fake tensors give its value."""
        made = self.result.call_function(target, tuple(args), kwargs or {})
        vals, named = fx.map_arg((made.args, made.kwargs), value_of)
        made.meta = {**(meta or {}), "val": target(*vals, **named)}
        return made

    def at(self, value: Batched, dim: int | None) -> fx.Node:
        """``value`` with the batches along ``dim``; repeated, if it is the same for all."""
        if dim not in value.made:
            assert dim is not None
            value.made[dim] = self._folded(value, dim) if value.mapped else self._repeated(value, dim)
        return value.made[dim]

    def stack(self, value: Batched) -> fx.Node:
        """``value [count, ...]``."""
        if value.stacked is None:
            dim, size = value.dim, list(value.val.shape)
            assert dim is not None
            made = self.emit(aten.view.default, (value.made[dim], [*size[:dim], self.count, *size[dim:]]))
            order = [dim, *(d for d in range(len(size) + 1) if d != dim)]
            value.stacked = self.emit(aten.permute.default, (made, order)) if dim else made
        return value.stacked

    def _folded(self, value: Batched, dim: int) -> fx.Node:
        made, size = self.stack(value), list(value.val.shape)
        if dim:
            order = [*range(1, dim + 1), 0, *range(dim + 1, len(size) + 1)]
            made = self.emit(aten.permute.default, (made, order))
        size[dim] *= self.count
        return self.emit(aten.reshape.default, (made, size))

    def _repeated(self, value: Batched, dim: int) -> fx.Node:
        made, size = value.made[None], list(value.val.shape)
        size[dim] *= self.count
        if made.target in SIZED:  # filled with one number, or one row expanded: make it larger
            bound = bind(made.target, args_of(made), made.kwargs)
            place = dim - len(size) + value_of(bound["self"]).dim() if SIZED[made.target] else -1
            if place < 0 or value_of(bound["self"]).shape[place] == 1:
                return self._again(made, bound | {"size": size}, value.made[None].meta)
        self.by_batch = True
        return self.emit(
            aten.repeat.default, (made, [self.count if d == dim else 1 for d in range(len(size))])
        )

    def _again(self, node: fx.Node, given: dict[str, Argument], meta: dict[str, Any]) -> fx.Node:
        """The same call as ``node``, with nodes of the result as arguments."""
        target: Operator = node.target
        names = [argument.name for argument in schema_of(target).arguments]
        args = [given[name] for name in names[: len(node.args)]]
        return self.emit(target, args, {name: given[name] for name in node.kwargs}, meta)

    # operators ------------------------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> Batched:
        self.target = node.target
        if node.target is operator.getitem:
            return self._member(node, *args_of(node))
        held: Argument = self.values.__getitem__
        args, kwargs = fx.map_arg((args_of(node), node.kwargs), held)
        given: dict[str, Argument] = (
            bind(node.target, args, kwargs) if schema_of(node.target) is not None else {}
        )
        mapped = [self.values[n] for n in node.all_input_nodes if self.values[n].mapped]
        drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        mutates = bool(given) and schema_of(node.target).is_mutable
        if (drawn or mutates) and node.target not in DRAWN:
            raise NotBatchable(
                f"{node.target} draws numbers that are not independent, or changes a tensor in place"
            )
        if not mapped and not drawn:
            made = self.result.node_copy(node, lambda n: self.values[n].made[None])
            return Batched(value_of(node), None, made)
        if not isinstance(value_of(node), (Tensor, tuple, list)) or not given:
            raise NotBatchable(f"{node.target} makes a number out of the data of a batch")
        if any(not v.val.numel() for v in mapped):
            raise NotBatchable(f"{node.target} takes an empty tensor")
        self.draws |= drawn
        rule = DRAWN.get(node.target) or rule_of(node.target)
        if rule is pointwise and not any(v.made for v in mapped):
            rule = None  # all arguments are [count, ...] already
        placed = (
            None
            if rule is None or not all(v.val.dim() for v in mapped)
            else rule(self, given, value_of(node))
        )
        if placed is not None:
            return self._placed(node, given, placed)
        if drawn:
            raise NotBatchable(f"{node.target} draws numbers, and its batches are not one behind the other")
        return self._mapped(node)

    def _placed(self, node: fx.Node, given: dict[str, Argument], placed: Placed) -> Batched:
        changes, dim = placed
        left = [v for name, value in given.items() if name not in changes for v in tensors_of(value)]
        assert not any(v.mapped for v in left), f"the batch rule of {node.target} forgets an argument"
        settled = {name: _settled(value) for name, value in (given | changes).items()}
        if node.target in VIEWS:  # the value for all batches may not have the strides that the view needs
            size = settled["size" if "size" in settled else "shape"]
            made = self.emit(aten.reshape.default, (settled["self"], size), meta=node.meta)
        else:
            made = self._again(node, settled, node.meta)
        val = value_of(node)
        if isinstance(val, Tensor):
            self._check(node, val, made, dim)
        alone = isinstance(val, Tensor) and val.dim() == 0 and dim is not None
        return Batched(val, dim, None, made) if alone else Batched(val, dim, made)

    def _check(
        self, node: fx.Node, val: Tensor, made: fx.Node, dim: int | None, stacked: bool = False
    ) -> None:
        """Check that shape and dtype are those of ``count`` batches."""
        size = [self.count * s if d == dim and not stacked else s for d, s in enumerate(val.shape)]
        if stacked or (dim is not None and not size):
            size = [self.count, *size]
        found = value_of(made)
        if list(found.shape) != size or found.dtype != val.dtype:
            raise NotBatchable(
                f"{node.target} gives {list(found.shape)} for {self.count} times {list(val.shape)}"
            )

    def _member(self, node: fx.Node, source: fx.Node, key: int) -> Batched:
        value, val = self.values[source], value_of(node)
        if value.members is not None:
            found = value.members[key]
            assert found is not None
            return found
        made = self.emit(operator.getitem, (value.made[value.dim], key), meta=node.meta)
        self._check(node, val, made, value.dim)
        return Batched(val, value.dim, made)

    # by torch.vmap --------------------------------------------------------------------------------------

    def _mapped(self, node: fx.Node) -> Batched:
        self.by_batch = True
        if node.target in VIEWS:
            made = self.stack(self.values[node.all_input_nodes[0]])
            size = [self.count, *value_of(node).shape]
            return Batched(
                value_of(node), 0, None, self.emit(aten.reshape.default, (made, size), meta=node.meta)
            )
        if node.target is aten.native_group_norm.default:
            raise NotBatchable(
                f"{node.target} needs contiguous memory, with the samples in the first dimension"
            )
        if node.target is aten.select_scatter.default:
            # torch.vmap writes the number several times to its place, and autograd would count each.
            raise NotBatchable(f"{node.target} writes one number of all samples")
        sources = [n for n in node.all_input_nodes if isinstance(value_of(n), Tensor)]
        values = [self.values[n] for n in sources]
        given = [self.stack(v) if v.mapped else v.made[None] for v in values]
        in_dims = tuple(0 if v.mapped else None for v in values)
        val = value_of(node)
        kept = [0] if isinstance(val, Tensor) else [i for i, v in enumerate(val) if isinstance(v, Tensor)]
        target: Operator = node.target

        def one(*tensors: Tensor) -> tuple[Tensor, ...]:
            own = dict(zip(sources, tensors))
            args, kwargs = fx.map_arg((args_of(node), node.kwargs), lambda n: own.get(n, value_of(n)))
            found = target(*args, **kwargs)
            return (found,) if isinstance(found, Tensor) else tuple([found[i] for i in kept])

        found = self._traced(node, torch.vmap(one, in_dims, randomness="error"), given)
        for i, member in zip(kept, found):
            self._check(node, val if isinstance(val, Tensor) else val[i], member, 0, stacked=True)
        if isinstance(val, Tensor):
            return Batched(val, 0, None, found[0])
        whole = Batched(val, 0, None)
        whole.members = [None] * len(val)
        for i, member in zip(kept, found):
            whole.members[i] = Batched(val[i], 0, None, member)
        return whole

    def _traced(
        self, node: fx.Node, function: Callable[..., tuple[Tensor, ...]], given: list[fx.Node]
    ) -> list[fx.Node]:
        """``function(*given)``, traced into the result; the new nodes get the metadata of ``node``."""
        pure = torch.func.functionalize(function, remove="mutations")
        try:
            with without_vmap_loops():
                graph = trace_to_aten(pure, *(value_of(n) for n in given)).graph
        except Exception as error:  # torch.vmap raises all kinds for an operator that it lacks
            raise NotBatchable(f"{node.target} compares samples, and cannot be mapped: {error}") from error
        held = dict(zip(graph.find_nodes(op="placeholder"), given))
        for inner in graph.nodes:
            if inner.target in VIEWS:
                # Whether it was a view, or clone and _unsafe_view, depends on strides, and so on the count.
                source, size = args_of(inner)
                source = args_of(source)[0] if source.target is aten.clone.default else source
                held[inner] = self.emit(aten.reshape.default, (held[source], size), meta=node.meta)
            elif inner.op == "call_function":
                held[inner] = self.result.node_copy(inner, held.__getitem__)
                held[inner].meta = {**node.meta, "val": value_of(inner)}
            elif inner.op not in ("placeholder", "output"):
                raise NotBatchable(f"{node.target} compares samples, and makes a constant")
        return [held[n] for n in result_of(graph)]


def _settled(value: Argument) -> Argument:
    """Replace values that are the same for all batches by their nodes."""
    if isinstance(value, Batched):
        return value.made[None]
    return [_settled(v) for v in value] if isinstance(value, (list, tuple)) else value


def at_batches(graph: fx.Graph, count: int) -> fx.Graph:
    """``graph`` (placeholders: x ``[N, ...]``, then the leaves; output: the score) for ``count`` batches.

    Returns:
        the graph of x ``[count * N, ...]`` and the same leaves, in the critic's normal form. For two counts
        it has the same calls, and every value that depends on x differs in one dimension, which is in
        proportion to ``count``.

    Raises:
        NotBatchable: one call cannot serve several batches.
    """
    return Batches(graph, count).run()
