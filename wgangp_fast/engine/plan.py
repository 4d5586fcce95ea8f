"""Plans: derived sweeps made ready to run, one for each thing that may be asked of a captured critic."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from ..execution import DEFAULT, Execution
from ..ops.registry import Kernels
from .capture import Binding, Captured
from .derive import derive
from .fuse import fuse
from .lower import lower
from .mlp import Mlp, recognise
from .sweeps import Sweeps

_OPERATOR = re.compile(r"\btorch\.ops\.(\w+)\.(\w+)\.(\w+)(?=\()")
_BINDING = re.compile(r"\btorch\.((?:_C\._nn\.)?\w+)(?=\()")


def compiled(module: fx.GraphModule, boxed: bool = False) -> Callable[..., Any]:
    """The module's code as a bare function: operators are looked up once, not at every call.

    ``boxed``: the function takes its first argument and a list of the others, which it empties.
    """
    code = module.graph.python_code("self")
    scope = dict(code.globals)

    def operator_name(match: re.Match[str]) -> str:
        name = "op_" + "_".join(match.groups())
        space, packet, overload = match.groups()
        scope[name] = getattr(getattr(getattr(torch.ops, space), packet), overload)
        return name

    def binding_name(match: re.Match[str]) -> str:
        path = match.group(1)
        owner = torch._C._nn if path.startswith("_C._nn.") else torch
        name = "torch_" + path.rsplit(".", 1)[-1]
        scope[name] = getattr(owner, path.rsplit(".", 1)[-1])
        return name

    source = _BINDING.sub(binding_name, _OPERATOR.sub(operator_name, code.src))
    inputs = [node.target for node in module.graph.find_nodes(op="placeholder")]
    head = f"def forward({', '.join(inputs)}):"
    if boxed:
        first, *rest = inputs
        unpack = f"({' '.join(f'{name},' for name in rest)}) = saved; " if rest else ""
        head = f"def forward({first}, saved):\n    {unpack}saved.clear()"
    body = source[source.index("def forward") :].split(":\n", 1)[1]
    exec(compile(f"{head}\n{body}", f"<{module._get_name()}>", "exec"), scope)
    return scope["forward"]


class Plan:
    """Runs the four sweeps of one captured critic.

    Attributes:
        sweeps: the code; ``print(plan.sweeps.forward.code)`` reads well.
        wanted: which leaves get a gradient.
        kernels: the implementations of the package's own operations that it runs on.
        how: how it is run.
        mlp: the critic as an MLP whose whole penalty one operation computes; None: the sweeps run.
    """

    def __init__(
        self,
        captured: Captured,
        wants_x: bool,
        leaves: tuple[Any, ...],
        kernels: Kernels,
        how: Execution = DEFAULT,
    ) -> None:
        self.kernels, self.how = kernels, how
        self.mlp: Mlp | None = None if wants_x else recognise(captured.critic, kernels)
        grad = torch.is_grad_enabled()
        self.wanted = tuple(
            i for i, leaf in enumerate(leaves) if grad and isinstance(leaf, Tensor) and leaf.requires_grad
        )
        self.count = len(leaves)
        self.sweeps: Sweeps = derive(lower(captured.critic, kernels), wants_x, self.wanted)
        fuse(self.sweeps, kernels)
        self._forward = compiled(self.sweeps.forward)
        self._backward = (
            compiled(self.sweeps.backward, boxed=True) if self.sweeps.backward is not None else None
        )
        kinds = self.sweeps.saved_is_tensor
        self._all_tensors = all(kinds)
        self._tensors = [i for i, is_tensor in enumerate(kinds) if is_tensor]
        self._numbers = [i for i, is_tensor in enumerate(kinds) if not is_tensor]
        self._zero = sorted(self.sweeps.leaf_zero)
        zeros = [leaves[self.wanted[k]] for k in self._zero]
        self._zero_like = [(tuple(leaf.shape), leaf.dtype, leaf.device) for leaf in zeros]

    def forward(self, x: Tensor, leaves: tuple[Any, ...]) -> tuple[Tensor, list[Tensor], list[Any]]:
        """Sweeps 1 and 2: ``x [N, ...]`` to (input gradient ``[N, ...]``, saved tensors, saved numbers)."""
        gradient, *saved = self._forward(x, *leaves)
        if self._all_tensors:
            return gradient, saved, []
        return gradient, [saved[i] for i in self._tensors], [saved[i] for i in self._numbers]

    def backward(
        self, seed: Tensor, saved: list[Any], numbers: list[Any]
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Sweeps 3 and 4: the seed ``[N, ...]`` to (adjoint of x, gradients of all leaves).

        ``saved`` is emptied, so that each saved tensor dies after its last use.
        """
        assert self._backward is not None
        if numbers:
            tensors = iter(list(saved))
            values = iter(numbers)
            saved[:] = [next(tensors if is_tensor else values) for is_tensor in self.sweeps.saved_is_tensor]
            del tensors
        of_x, *found = self._backward(seed, saved)
        return of_x, self.complete(dict(zip(self.wanted, found)))

    def complete(self, found: dict[int, Tensor]) -> list[Tensor | None]:
        """Gradients of all leaves from those of some: zeros where stock code has zeros, else None."""
        gradients: list[Tensor | None] = [None] * self.count
        for i in self.wanted:
            gradients[i] = found.get(i)
        for k, (shape, dtype, device) in zip(self._zero, self._zero_like):
            gradients[self.wanted[k]] = torch.zeros(shape, dtype=dtype, device=device)
        return gradients


def plan_of(
    binding: Binding, wants_x: bool, kernels: Kernels | None = None, how: Execution = DEFAULT
) -> Plan:
    """The plan for this binding, derived on first use; ``kernels``: by default the fastest here.

    What the leaves require is guarded by the capture, so the grad mode, ``wants_x`` and the kernels choose
    the plan.
    """
    if kernels is None:
        x = next(iter(binding.captured.critic.nodes))
        kernels = Kernels.of("auto", x.meta["val"].device.type)
    plans = binding.captured.plans
    key = (wants_x, torch.is_grad_enabled(), kernels, how)
    plan = plans.get(key)
    if plan is None:
        plan = plans[key] = Plan(binding.captured, wants_x, binding.leaves, kernels, how)
    return plan
