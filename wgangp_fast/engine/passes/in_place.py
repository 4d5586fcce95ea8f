"""An elementwise operator overwrites its input where nobody else holds that input."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from ...ops.registry import KERNELS
from ..ir import args_of

aten = torch.ops.aten
nn = torch.nn.functional

_POINTWISE = (
    (torch.ops.mkldnn._linear_pointwise.default,) if hasattr(torch.ops.mkldnn, "_linear_pointwise") else ()
)

#: operators whose result is a tensor of their own, never a view of an argument
FRESH = {
    *(aten.convolution.default, torch.convolution, aten.linear.default, nn.linear),
    *(torch.mm, torch.bmm, aten.mm.default, aten.bmm.default, torch.addcmul, torch.add),
    *(aten.native_group_norm.default, aten.native_layer_norm.default),
    *(aten.native_group_norm_backward.default, aten.native_layer_norm_backward.default),
    *(aten.native_batch_norm_backward.default, aten.convolution_backward.default),
    *(aten.empty_like.default, aten.bernoulli_.float, *_POINTWISE),
}

#: forward operator -> the same, in place
IN_PLACE: dict[Any, Any] = {
    aten.relu.default: torch.relu_,
    aten.leaky_relu.default: nn.leaky_relu_,
    aten.tanh.default: torch.tanh_,
    aten.sigmoid.default: torch.sigmoid_,
    aten.elu.default: nn.elu_,
    torch.addcmul: torch.Tensor.addcmul_,
    torch.add: torch.Tensor.add_,  # rules add values of one shape and dtype
    torch.mul: torch.Tensor.mul_,  # rules call torch.mul where both factors have the shape of the product
    aten.div.Scalar: torch.Tensor.div_,
}

#: fused derivative operators; their ``grad_input`` overload writes into the first argument
MULTIPLIERS = {
    getattr(aten, name).default: getattr(aten, name).grad_input
    for name in (
        *("leaky_relu_backward", "threshold_backward", "tanh_backward", "sigmoid_backward", "elu_backward"),
        *("softplus_backward", "gelu_backward", "silu_backward", "hardtanh_backward", "hardsigmoid_backward"),
    )
}
IN_PLACE |= {
    KERNELS[name].call: KERNELS[f"{name}_"].call for name in ("bias_act", "bias_act_grad", "bias_act_adjoint")
}
FRESH |= {kernel.call for kernel in KERNELS.values()}
FRESH |= set(IN_PLACE) | set(IN_PLACE.values()) | set(MULTIPLIERS) | set(MULTIPLIERS.values())


def overwrites(node: fx.Node) -> bool:
    """Whether an elementwise operator may write into its first argument: nobody reads that any more."""
    known = node.target in IN_PLACE or node.target in MULTIPLIERS
    return known and node.op == "call_function" and bool(args_of(node)) and _free(args_of(node)[0])


def overwrite(graph: fx.Graph) -> None:
    """Let elementwise operators write into a dead input."""
    for node in graph.nodes:
        if not overwrites(node):
            continue
        if node.target in IN_PLACE:
            node.target = IN_PLACE[node.target]
        else:
            node.target = MULTIPLIERS[node.target]
            node.kwargs = {**node.kwargs, "grad_input": args_of(node)[0]}


def _free(value: Any) -> bool:
    """A tensor of its own that only one operator reads."""
    if not isinstance(value, fx.Node) or value.op != "call_function" or len(value.users) != 1:
        return False
    if value.target is operator.getitem:
        return args_of(value)[0].target in FRESH and args_of(value)[1] == 0 and _other_members_unused(value)
    return value.target in FRESH


def _other_members_unused(member: fx.Node) -> bool:
    return sum(1 for user in args_of(member)[0].users if args_of(user)[1] == args_of(member)[1]) == 1
