"""Sweeps that begin with a cotangent of the score from the caller (``grad_outputs``), not with ones."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from ...rules.nodes import Argument, Value
from ..ir import Sweeps
from .four_sweeps import Derivation


class CotangentDerivation(Derivation):
    """See :class:`Derivation`. The forward graph takes the cotangent, in the score's shape and dtype, after
    the leaves. The backward graph returns ``(adjoint of x, adjoint of the cotangent)`` in place of the first.

    Args:
        wants_cotangent: whether the cotangent gets a gradient. That is the tangent of the score: sweep 2 is
            linear in the cotangent, ``g_x = J^T g``, so ``d<t, g_x>/dg = J t``.
    """

    def __init__(self, graph: fx.Graph, wants_x: bool, wanted: Iterable[int], wants_cotangent: bool) -> None:
        super().__init__(graph, wants_x, wanted)
        self.wants_cotangent = wants_cotangent

    def _score_cotangent(self) -> Value:
        return self.forward.placeholder("grad_outputs")

    def _has_backward(self) -> bool:
        return self.wants_cotangent or super()._has_backward()

    def _results(self) -> tuple[Argument, Argument]:
        result, of_x = super()._results()
        tangent = self.tangent.get(self.score) if self.wants_cotangent else None
        return result, (of_x, None if tangent is None else tangent.node)


def derive_with_cotangent(
    graph: fx.Graph, wants_x: bool, wanted: Iterable[int], wants_cotangent: bool
) -> Sweeps:
    """Write the sweeps; see :class:`CotangentDerivation`."""
    return CotangentDerivation(graph, wants_x, wanted, wants_cotangent).run()
