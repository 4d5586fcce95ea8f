"""The plan of a critic whose score is computed first and differentiated later, perhaps twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from .. import checks
from ..ops.registry import Kernels
from .capture.hoist_parameters import Captured
from .codegen import generate
from .derive.first_order import FirstOrderDerivation
from .derive.given_cotangent import derive_with_cotangent
from .effects import EFFECTS
from .ir import Leaf, eliminate_dead_code, result_of, value_of
from .passes.cut import add_outputs, cut
from .passes.in_place import overwrite
from .passes.kernel_patterns import lower
from .passes.pipeline import reduce_peak_memory
from .passes.recompute import recompute


class ScorePlan:
    """Sweep 1, sweep 2, and sweeps 3 and 4 of a captured critic as functions of their own; and an ordinary
    backward pass.

    Attributes:
        draws: whether the critic draws random numbers.
        count: number of leaves.
        verified: what the comparison of its first call with the module's own code has shown; None: not made.
    """

    def __init__(self, captured: Captured, kernels: Kernels) -> None:
        self.captured, self.verified = captured, None
        self.wanted = tuple(captured.requiring_grad())
        leaves = captured.leaves()
        self.count = len(leaves)
        self.draws = any(
            torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in captured.nodes()
        )
        lowered = lower(captured.critic, kernels)
        sweeps = derive_with_cotangent(lowered, True, self.wanted, True)
        first = FirstOrderDerivation(lowered, True, self.wanted).run()
        assert sweeps.backward is not None  # x gets a gradient
        assert first.backward is not None
        add_outputs(sweeps, first)
        recompute(sweeps)
        inputs = [value_of(node) for node in lowered.find_nodes(op="placeholder")]
        reduce_peak_memory(sweeps, [*inputs, value_of(result_of(lowered))], False)
        parts = cut(sweeps.forward.graph)
        self._takes, self._saved, self._also = parts.gradient_takes, parts.saved, parts.also
        for module in (parts.score, parts.gradient, sweeps.backward, first.backward):
            overwrite(module.graph)
        self._score = generate(parts.score, kernels)
        self._gradient = generate(parts.gradient, kernels)
        self._backward = generate(sweeps.backward, kernels, boxed=True)
        self._first = generate(first.backward, kernels)
        zeros = [(self.wanted[k], value_of(leaves[self.wanted[k]])) for k in sorted(sweeps.leaf_zero)]
        self._zeros = [(i, tuple(v.shape), v.dtype, v.device) for i, v in zeros]

    def score(self, x: Tensor, leaves: Sequence[Leaf]) -> tuple[Tensor, list[Leaf]]:
        """Sweep 1: ``x [N, ...]`` to the score, and what the other functions take as ``kept``."""
        with checks.as_traced(x.device):
            score, *kept = self._score(x, *leaves)
        return score, kept

    def gradient(self, cotangent: Tensor, kept: Sequence[Leaf]) -> tuple[Tensor, list[Leaf]]:
        """Sweep 2: the score's cotangent to the input gradient ``[N, ...]``; and what :meth:`second`
        takes."""
        with checks.as_traced(cotangent.device):
            gradient, *made = self._gradient(cotangent, *(kept[i] for i in self._takes))
        return gradient, [kept[i] if from_kept else made[i] for from_kept, i in self._saved]

    def second(self, seed: Tensor, saved: list[Leaf]) -> tuple[Any, Any, list[Tensor | None]]:
        """Sweeps 3 and 4: a cotangent of the input gradient to the adjoints of x, of the score's cotangent
        and of all leaves. ``saved`` is emptied."""
        with checks.as_traced(seed.device):
            (of_x, of_cotangent), *found = self._backward(seed, saved)
        gradients = self._complete(found)
        for i, shape, dtype, device in self._zeros:
            gradients[i] = torch.zeros(shape, dtype=dtype, device=device)
        return torch.zeros_like(seed) if of_x is None else of_x, of_cotangent, gradients

    def first(self, cotangent: Tensor, kept: Sequence[Leaf]) -> tuple[Tensor, list[Tensor | None]]:
        """An ordinary backward pass: the score's cotangent to the adjoints of x and of all leaves."""
        with checks.as_traced(cotangent.device):
            of_x, *found = self._first(cotangent, *(kept[i] for i in self._also))
        return of_x, self._complete(found)

    def _complete(self, found: Sequence[Tensor | None]) -> list[Tensor | None]:
        gradients: list[Tensor | None] = [None] * self.count
        for i, value in zip(self.wanted, found):
            gradients[i] = value
        return gradients

    def random_state(self, device: torch.device) -> Tensor | None:
        """Where the critic's random numbers begin; None: it draws none."""
        if not self.draws:
            return None
        return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)

    def by_autograd(self, x: Tensor, leaves: Sequence[Leaf], random: Tensor | None) -> Tensor:
        """The score by the captured operators under autograd, with the random numbers that were drawn from
        ``random`` on. Buffers are not written again."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        result = graph.graph_copy(self.captured.critic, copies)
        graph.output(result)
        for node in reversed(list(graph.nodes)):
            if node.target in EFFECTS and not node.users:
                graph.erase_node(node)
        eliminate_dead_code(graph)
        module = fx.GraphModule(torch.nn.Module(), graph, "Critic")
        devices = [] if random is None or x.device.type == "cpu" else [x.device]
        with (
            torch.random.fork_rng(devices, enabled=random is not None),
            torch.enable_grad(),
            checks.as_traced(x.device),
        ):
            if random is not None:
                torch.cuda.set_rng_state(random, x.device) if devices else torch.set_rng_state(random)
            return module(x, *leaves)
