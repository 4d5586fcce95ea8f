"""An ordinary backward pass of the critic, as code."""

from __future__ import annotations

from ...rules.nodes import Argument
from ..ir import DeriveError, Sweeps, value_of
from .four_sweeps import Derivation


class FirstOrderDerivation(Derivation):
    """See :class:`Derivation`. The forward graph is sweep 1, ``(x, *leaves) -> (score, *saved)``; the
    backward graph is ``(cotangent of the score, *saved) -> (adjoint of x or None, *adjoints of the wanted
    leaves)``."""

    def run(self) -> Sweeps:
        if self.score is self.x:
            raise DeriveError("the critic returns its input")
        self._analyse()
        if self.score not in self.depends_on_x:
            raise DeriveError("the critic's output does not depend on x")
        self._sweep1()
        self.builder = self.backward
        seed = self.adjoint[self.score] = self.backward.placeholder("seed")
        seed.node.meta["val"] = value_of(self.score)
        everywhere = {*self.calls, *self.inputs}
        self._sweep4(everywhere)  # without tangents an adjoint is a cotangent
        return self._finish(everywhere, set())

    def _results(self) -> tuple[Argument, Argument]:
        of_x = self.adjoint.get(self.x) if self.wants_x else None
        return self.primal[self.score].node, None if of_x is None else of_x.node
