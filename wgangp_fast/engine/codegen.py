"""Derived graphs become Python functions whose operators are looked up once, not at every call."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from ..ops.registry import KERNELS, Kernels

aten = torch.ops.aten
nn = torch.nn.functional

#: operator -> the binding that takes the same arguments
DIRECT: dict[Any, Any] = {
    aten.convolution.default: torch.convolution,
    aten.linear.default: nn.linear,
    aten.relu.default: torch.relu,
    aten.leaky_relu.default: nn.leaky_relu,
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.mul.Tensor: torch.mul,
    aten.add.Tensor: torch.add,
    aten.sub.Tensor: torch.sub,
    aten.div.Tensor: torch.div,
    aten.mm.default: torch.mm,
    aten.bmm.default: torch.bmm,
    aten.t.default: torch.t,
    aten.permute.default: torch.permute,
    aten.transpose.int: torch.transpose,
    aten.cat.default: torch.cat,
    # a product chosen by us may lay its result out as the critic's own would not
    aten.view.default: torch.reshape,
    aten._unsafe_view.default: torch.reshape,
    aten.empty_like.default: torch.empty_like,
    aten.bernoulli_.float: torch.Tensor.bernoulli_,
    aten.div.Scalar: torch.div,
    aten.native_layer_norm.default: torch.native_layer_norm,
    aten.native_group_norm.default: torch.native_group_norm,
}

_OPERATOR = re.compile(r"\btorch\.ops\.(\w+)\.(\w+)\.(\w+)(?=\()")
_BINDING = re.compile(r"\btorch\.((?:\w+\.)*\w+)(?=\()")


def generate(module: fx.GraphModule, kernels: Kernels, boxed: bool = False) -> Callable[..., Any]:
    """The module's code as a bare function; the package's operations run on ``kernels``.

    ``boxed``: the function takes its first argument and a list of the others, which it empties.
    """
    bind_directly(module.graph, kernels)
    module.recompile()
    code = module.graph.python_code("self")
    scope = dict(code.globals)

    def operator_name(match: re.Match[str]) -> str:
        name = "op_" + "_".join(match.groups())
        space, packet, overload = match.groups()
        scope[name] = getattr(getattr(getattr(torch.ops, space), packet), overload)
        return name

    def binding_name(match: re.Match[str]) -> str:
        path = match.group(1).split(".")
        name = "torch_" + "_".join(path)
        scope[name] = functools.reduce(getattr, path, torch)
        return name

    source = _BINDING.sub(binding_name, _OPERATOR.sub(operator_name, code.src))
    inputs = [node.target for node in module.graph.find_nodes(op="placeholder")]
    head = f"def forward({', '.join(inputs)}):"
    if boxed:
        first, *rest = inputs
        unpack = f"({' '.join(f'{name},' for name in rest)}) = saved; " if rest else ""
        head = f"def forward({first}, saved):\n    {unpack}saved.clear()"
    body = source[source.index("def forward") :].split(":\n", 1)[1]
    exec(compile(f"{head}\n{body}", f"<{type(module).__name__}>", "exec"), scope)
    return scope["forward"]


def bind_directly(graph: fx.Graph, kernels: Kernels) -> None:
    """Call torch's Python bindings and the backend's functions instead of looking them up at every call."""
    own = {kernel.call: kernel for kernel in KERNELS.values()}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in own:
            kernel = own[node.target]
            found = getattr(kernels, kernel.name)
            node.target = _returning(kernel.name, found) if kernel.mutates else found
        else:
            node.target = DIRECT.get(node.target, node.target)


def _returning(name: str, run: Any) -> Any:
    """An operation in place, as an expression: its first argument."""

    def written(value: Any, *rest: Any) -> Any:
        run(value, *rest)
        return value

    written.__name__, written.__module__ = name, "wgangp_fast_plan"
    return written
