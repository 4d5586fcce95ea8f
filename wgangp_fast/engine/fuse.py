"""Rewrites of derived sweeps into cheaper code with the same meaning.

- *ones*: the score's cotangent is a column of ones; products with it are a broadcast and a sum.
- *recompute*: a cheap elementwise value whose inputs are saved anyway is not saved but made again.
- *in place*: an elementwise operator overwrites its input where nobody else holds that input.
- *direct*: operators are called by torch's own Python bindings, two microseconds less a call than
  through the operator registry; the package's own operations by the backend's implementation.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..ops.registry import KERNELS, Kernels
from . import memory, remat
from .sweeps import Sweeps
from .writer import args_of

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

#: derivatives bound by memory, cheaper to make again than to keep
CHEAP = {
    *MULTIPLIERS,
    *(aten.native_group_norm_backward.default, aten.native_layer_norm_backward.default),
    *(aten.native_batch_norm_backward.default, operator.getitem),
    *(KERNELS["bias_act_grad"].call, KERNELS["norm_act_vjp"].call),
}

#: single elementwise passes, made twice rather than kept between two uses
REPEATABLE = {*MULTIPLIERS, KERNELS["bias_act_grad"].call}


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


def fuse(sweeps: Sweeps, kernels: Kernels, inputs: Sequence[Any] | None = None, repeat: bool = False) -> None:
    """Rewrite both graphs in place; the package's operations run on ``kernels``.

    Args:
        inputs: fake values of x and the leaves; without them nothing is done about memory.
        repeat: make values again, products too, rather than keep them.
    """
    fold_ones(sweeps)
    if sweeps.backward is not None:
        recompute(sweeps)
        rematerialise(sweeps.backward.graph)
        if inputs is not None:
            economise(sweeps, inputs, repeat)
    for module in (sweeps.forward, sweeps.backward):
        if module is not None:
            overwrite(module.graph)
            bind_directly(module.graph, kernels)
            module.recompile()


def economise(sweeps: Sweeps, inputs: Sequence[Any], repeat: bool) -> None:
    """Lower the peak of memory."""
    try:
        program = memory.Program(sweeps, inputs)
    except memory.Unknown:
        return  # an operator without fake values: the plan is right as it is
    remat.economise(program, overwrites, repeat)
    program.split()


def fold_ones(sweeps: Sweeps) -> None:
    """``ones[N, 1] @ w`` is ``w`` broadcast, ``ones[N, 1].T @ t`` is a sum over the samples."""
    forward = sweeps.forward.graph
    for node in list(forward.nodes):
        if node.target == "reshape" and args_of(node)[0].target is torch.ones:
            with forward.inserting_before(node):  # a critic that squeezes its score
                ones = forward.call_function(torch.ones, (list(args_of(node)[1]),), args_of(node)[0].kwargs)
            node.replace_all_uses_with(ones)
            forward.erase_node(node)
    columns = {n for n in forward.nodes if n.target is torch.ones and args_of(n)[0][1:] == [1]}
    (_, *saved), end = _outputs(forward)
    if sweeps.backward is not None:
        backward = sweeps.backward.graph
        _, *inputs = backward.find_nodes(op="placeholder")
        for column, placeholder in zip(saved, inputs):
            if column not in columns or not all(_is_transpose(user) for user in placeholder.users):
                continue
            products = [product for user in placeholder.users for product in user.users]
            if not all(p.target is torch.mm and _is_transpose(args_of(p)[0]) for p in products):
                continue
            for product in products:
                with backward.inserting_before(product):
                    total = backward.call_function(torch.sum, (args_of(product)[1], [0]), {"keepdim": True})
                product.replace_all_uses_with(total)
                backward.erase_node(product)
            for user in list(placeholder.users):
                backward.erase_node(user)
            backward.erase_node(placeholder)
        alive = set(backward.find_nodes(op="placeholder"))
        kept = [k for k, placeholder in enumerate(inputs) if placeholder in alive]
        end.args = ((args_of(end)[0][0], *(saved[k] for k in kept)),)
        sweeps.saved_is_tensor = tuple(sweeps.saved_is_tensor[k] for k in kept)
    for column in columns:
        for product in list(column.users):
            if product.target is torch.mm and args_of(product)[0] is column:
                with forward.inserting_before(product):
                    row = forward.call_method("expand", (args_of(product)[1], args_of(column)[0][0], -1))
                product.replace_all_uses_with(row)
                forward.erase_node(product)
        if not column.users:
            forward.erase_node(column)


def _is_transpose(node: fx.Node) -> bool:
    return node.op == "call_method" and node.target == "t"


def recompute(sweeps: Sweeps) -> None:
    """Make again, in sweep 3 or 4, what a few cheap calls make of values saved anyway."""
    assert sweeps.backward is not None
    forward, backward = sweeps.forward.graph, sweeps.backward.graph
    (result, *saved), end = _outputs(forward)
    _, *inputs = backward.find_nodes(op="placeholder")
    here: dict[fx.Node, fx.Node] = dict(zip(saved, inputs))
    kept = list(zip(saved, inputs, sweeps.saved_is_tensor))
    for node, placeholder, _ in list(kept):
        chain = _recipe(node, here)
        if not chain:
            continue
        with backward.inserting_before(_first_user(backward, placeholder)):
            for link in chain:
                again = backward.node_copy(link, here.__getitem__)
                here[link] = again
        placeholder.replace_all_uses_with(again)
        backward.erase_node(placeholder)
        kept = [entry for entry in kept if entry[0] is not node]
    end.args = ((result, *(node for node, _, _ in kept)),)
    sweeps.saved_is_tensor = tuple(is_tensor for _, _, is_tensor in kept)


def _recipe(node: fx.Node, here: dict[fx.Node, fx.Node]) -> list[fx.Node]:
    """The cheap calls, in order, that make ``node`` of values at hand; empty if there are none."""
    chain: list[fx.Node] = []

    def add(link: fx.Node, target: bool = False) -> bool:
        if not target and (link in here or link in chain):
            return True
        if link.op == "placeholder" or (link.target not in CHEAP and link.target != "contiguous"):
            return False
        if not all(add(source) for source in link.all_input_nodes):
            return False
        chain.append(link)
        return True

    made = (node.target is operator.getitem and args_of(node)[0].target in CHEAP) or node.target in CHEAP
    return chain if made and add(node, target=True) else []


def _first_user(graph: fx.Graph, placeholder: fx.Node) -> fx.Node:
    return next(n for n in graph.nodes if n in placeholder.users)


def rematerialise(graph: fx.Graph) -> None:
    """Drop a cheap elementwise value between two uses if its inputs outlive the second use anyway.

    Sweep 3 pushes a tangent on at once, but its weight gradient waits for sweep 4.
    """
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if node.target not in REPEATABLE or len(node.users) < 2:
            continue
        first, *later = sorted(node.users, key=order.__getitem__)
        alive = min(max(order[user] for user in source.users) for source in node.all_input_nodes)
        late = [user for user in later if order[user] - order[first] > NEAR and order[user] <= alive]
        if not late or any(user.op == "output" for user in late):
            continue
        with graph.inserting_before(late[0]):
            again = graph.node_copy(node)
        order[again] = order[late[0]]
        for user in late:
            user.replace_input_with(node, again)


#: uses this many nodes apart are one use
NEAR = 4


def _outputs(graph: fx.Graph) -> tuple[tuple[Any, ...], fx.Node]:
    (end,) = graph.find_nodes(op="output")
    return args_of(end)[0], end


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
