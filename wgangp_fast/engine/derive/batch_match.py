"""Matches the nodes of a critic's graph for one, two and three batches, and finds each batch's rows.

The whole critic step runs the critic once on ``[x; real; fake]``: 3N rows, of which the first N, the penalty
points, take part in all four sweeps, and the other 2N in an ordinary backward pass. ``capture/batches.py``
rewrites the critic's graph for one, two and three batches. The rows of one batch are found in a value of the
third graph along the dimension that is three times as long as in the first.
"""

from __future__ import annotations

from torch import Tensor, fx

from ...errors import NotBatchable
from ...rules.nodes import Argument
from ..ir import POINTS, REST, WHOLE, value_of


class BatchMatch:
    """A critic's graph at N rows (``one``), at 2N and at 3N, matched node by node.

    Attributes:
        one: the graph at N rows; the derivation works on its nodes.
        at_rows: for each kind of rows, a dictionary from a node of ``one`` to the same node at that size.
        base_node: from a node at 3N rows to the same node of ``one``.

    Raises:
        NotBatchable: the graphs differ in more than the size of the batch.
    """

    def __init__(self, one: fx.Graph, two: fx.Graph, three: fx.Graph) -> None:
        self.one = one
        kinds = [
            [(n.op, None if n.op == "placeholder" else n.target) for n in g.nodes] for g in (one, two, three)
        ]
        if kinds[0] != kinds[1] or kinds[0] != kinds[2]:
            raise NotBatchable("the critic computes something else for a larger batch")
        self.at_rows = {
            rows: dict(zip(one.nodes, g.nodes)) for rows, g in zip((POINTS, REST, WHOLE), (one, two, three))
        }
        self.base_node = {b: a for a, b in self.at_rows[WHOLE].items()}

    def dim(self, node: fx.Node, key: int | None = None) -> int | None:
        """The batch dimension of a node's value (of member ``key``, if it is a tuple), or None."""
        a, b = value_of(node), value_of(self.at_rows[WHOLE][node])
        return batch_dim(a, b) if key is None else batch_dim(a[key], b[key])

    def cut(self, node: fx.Node, key: int | None, rows: str) -> tuple[int, int, int] | None:
        """``(dim, start, length)`` of some rows of a node's value; None: all of it."""
        dim = self.dim(node, key)
        if dim is None or rows == WHOLE:
            return None
        value = value_of(node) if key is None else value_of(node)[key]
        size = value.shape[dim]
        return (dim, 0, size) if rows == POINTS else (dim, size, 2 * size)


def batch_dim(a: Argument, b: Argument) -> int | None:
    """The dimension in which ``b`` is three times as long as ``a``; None if the shapes are equal."""
    if not isinstance(a, Tensor):
        return None
    differing = [d for d, (p, q) in enumerate(zip(a.shape, b.shape)) if p != q]
    if a.dim() != b.dim() or len(differing) > 1 or any(3 * a.shape[d] != b.shape[d] for d in differing):
        raise NotBatchable(f"a value is {list(a.shape)} for one batch, and {list(b.shape)} for three")
    return differing[0] if differing else None
