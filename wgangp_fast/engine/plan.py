"""Plans: the sweeps of a captured critic, ready to run; one for each combination of a call's options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..ops.registry import Kernels
from ..options import DEFAULT, Options, plan_key
from .capture.hoist_parameters import Captured
from .codegen import generate
from .derive.batch_match import BatchMatch
from .derive.critic_step import derive_critic_step
from .derive.four_sweeps import derive
from .derive.given_cotangent import derive_with_cotangent
from .executors import executable
from .ir import REST, Leaf, Sweeps, result_of, value_of
from .passes.kernel_patterns import lower
from .passes.pipeline import run_passes
from .passes.whole_mlp import Mlp, recognise


class Plan:
    """Runs the four sweeps of one captured critic.

    Attributes:
        sweeps: the code; ``print(plan.sweeps.forward.code)`` reads well.
        wanted: which leaves get a gradient.
        score_cut: in a plan of the critic step, ``(dim, start, length)`` of the scores of real and fake.
        kernels: the implementations of the package's own operations that it runs on.
        options: how it is run. The attribute ``executor`` reports what ran it.
        mlp: for an MLP whose whole penalty is one operation; None: the sweeps run.
        draws: whether it draws random numbers.
        takes_cotangent: the score's cotangent follows the leaves, in the shape and dtype of the score.
        verified: what its first call, compared with the stock code, has shown; None: it was not compared.
    """

    def __init__(
        self,
        captured: Captured,
        wants_x: bool,
        kernels: Kernels,
        options: Options = DEFAULT,
        critic_step: bool = False,
        grad_outputs: bool | None = None,
    ) -> None:
        self.kernels, self.options = kernels, options
        self.verified: str | None = None
        self.draws = any(
            torch.Tag.nondeterministic_seeded in getattr(n.target, "tags", ()) for n in captured.nodes()
        )
        self.takes_cotangent = grad_outputs is not None
        sweeping = wants_x or critic_step or self.takes_cotangent or options.executor != "eager"
        self.mlp: Mlp | None = None if sweeping else recognise(captured.critic, kernels)
        leaves = captured.leaves()
        self.wanted = tuple(captured.requiring_grad()) if torch.is_grad_enabled() else ()
        self.count = len(leaves)
        if critic_step:
            assert isinstance(captured.critic_step, tuple)
            graphs = [lower(graph, kernels) for graph in captured.critic_step]
            match, lowered = BatchMatch(*graphs), graphs[-1]
            cut = match.cut(result_of(match.one), None, REST)
            assert cut is not None  # a score of each sample
            self.score_cut = cut
            self.sweeps: Sweeps = derive_critic_step(match, wants_x, self.wanted)
        else:
            lowered = lower(captured.critic, kernels)
            if grad_outputs is None:
                self.sweeps = derive(lowered, wants_x, self.wanted)
            else:
                self.sweeps = derive_with_cotangent(lowered, wants_x, self.wanted, grad_outputs)
        inputs = [value_of(node) for node in lowered.find_nodes(op="placeholder")]
        score = value_of(result_of(lowered))
        inputs += [score] if self.takes_cotangent else []
        self.score_shape, self.score_dtype = tuple(score.shape), score.dtype
        run_passes(self.sweeps, inputs, options.recompute)
        forward = generate(self.sweeps.forward, kernels)
        backward = None
        if self.sweeps.backward is not None:
            backward = generate(self.sweeps.backward, kernels, boxed=True)
        self._forward, self._backward, self.executor = executable(
            options.executor, self.sweeps, kernels, forward, backward
        )
        kinds = self.sweeps.saved_is_tensor
        self._all_tensors = all(kinds)
        self._tensors = [i for i, is_tensor in enumerate(kinds) if is_tensor]
        self._numbers = [i for i, is_tensor in enumerate(kinds) if not is_tensor]
        self._cotangents: dict[tuple[tuple[int, ...], torch.dtype, torch.device], Tensor] = {}
        self._zero = sorted(self.sweeps.leaf_zero)
        zeros = [value_of(leaves[self.wanted[k]]) for k in self._zero]
        self._zero_like = [(tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in zeros]

    def forward(self, x: Tensor, leaves: tuple[Leaf, ...]) -> tuple[Any, list[Tensor], list[Leaf]]:
        """Sweeps 1 and 2: ``x [N, ...]`` to (input gradient ``[N, ...]``, saved tensors, saved numbers).

        A plan of the critic step takes ``[3N, ...]``, and in place of the first gives (input gradient
        ``[N, ...]``, all scores).
        """
        with checks.as_traced(x.device):
            gradient, *saved = self._forward(x, *leaves)
        if self._all_tensors:
            return gradient, saved, []
        return gradient, [saved[i] for i in self._tensors], [saved[i] for i in self._numbers]

    def backward(
        self, seed: list[Any], saved: list[Any], numbers: list[Leaf]
    ) -> tuple[Any, list[Tensor | None]]:
        """Sweeps 3 and 4: the seed ``[N, ...]`` to (adjoint of x, gradients of all leaves).

        A plan of the critic step takes (seed, cotangent of the scores of real and fake), and in place of the
        first gives the adjoints of x ``[N, ...]`` and of ``[real; fake]``.

        ``saved`` is emptied, so that each saved tensor dies after its last use.
        """
        assert self._backward is not None
        if numbers:
            tensors = iter(list(saved))
            values = iter(numbers)
            saved[:] = [next(tensors if is_tensor else values) for is_tensor in self.sweeps.saved_is_tensor]
            del tensors
        first = seed[0][0] if isinstance(seed[0], tuple) else seed[0]
        context = checks.as_traced(first.device)
        del first
        with context:
            of_x, *found = self._backward(seed.pop(), saved)
        return of_x, self.complete(dict(zip(self.wanted, found)))

    def cotangent(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Derivative of ``mean D(fake) - mean D(real)`` for the scores of real and fake; made once."""
        key = (tuple(shape), dtype, device)
        found = self._cotangents.get(key)
        if found is None:
            dim, _, length = self.score_cut
            half = [length // 2 if d == dim else size for d, size in enumerate(shape)]
            each = torch.full(half, 1 / max(math.prod(half), 1), dtype=dtype, device=device)
            found = torch.cat([-each, each], dim)
            if not checks.capturing(device):  # memory that a CUDA graph owns must not be kept
                self._cotangents[key] = found
        return found

    def complete(self, found: dict[int, Tensor]) -> list[Tensor | None]:
        """Gradients of all leaves from those of some: zeros where stock code has zeros, else None."""
        gradients: list[Tensor | None] = [None] * self.count
        for i in self.wanted:
            gradients[i] = found.get(i)
        for k, (shape, dtype, device) in zip(self._zero, self._zero_like):
            gradients[self.wanted[k]] = torch.zeros(shape, dtype=dtype, device=device)
        return gradients


def plan_of(
    captured: Captured,
    wants_x: bool,
    kernels: Kernels | None = None,
    options: Options = DEFAULT,
    critic_step: bool = False,
    grad_outputs: bool | None = None,
) -> Plan:
    """The plan of a captured critic, derived on first use; ``kernels``: by default the fastest here.

    ``critic_step``: of the whole critic step, for what ``capture.critic_step`` has bound. ``grad_outputs``:
    whether the score's cotangent, which then follows the leaves, gets a gradient; None: it is ones.

    The capture has guarded which leaves require a gradient; the grad mode and the arguments choose the plan.
    """
    if kernels is None:
        x = next(iter(captured.critic.nodes))
        kernels = Kernels.of("auto", x.meta["val"].device.type)
    key = plan_key(wants_x, kernels, options, critic_step, grad_outputs)
    plan = captured.plans.get(key)
    if plan is None:
        plan = captured.plans[key] = Plan(captured, wants_x, kernels, options, critic_step, grad_outputs)
    return plan
