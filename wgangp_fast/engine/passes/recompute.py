"""Cheap values whose inputs are saved anyway are made again in the backward graph, rather than saved.

Without it 6 of the benchmark's 31 plans, penalties of critics with norms or smooth activations, hold up to
7.5 % more at their peak, with 0.3 to 1.8 % less work (``benchmarks/results/passes.json``)."""

from __future__ import annotations

import operator

import torch
from torch import fx

from ...ops.registry import KERNELS
from ..ir import Sweeps, args_of, outputs_of
from .in_place import MULTIPLIERS

aten = torch.ops.aten

#: derivatives bound by memory, cheaper to make again than to keep
CHEAP = {
    *MULTIPLIERS,
    *(aten.native_group_norm_backward.default, aten.native_layer_norm_backward.default),
    *(aten.native_batch_norm_backward.default, operator.getitem),
    *(KERNELS["bias_act_grad"].call, KERNELS["norm_act_vjp"].call),
}


def recompute(sweeps: Sweeps) -> None:
    """Make again, in sweep 3 or 4, what a few cheap calls make of values saved anyway."""
    assert sweeps.backward is not None
    forward, backward = sweeps.forward.graph, sweeps.backward.graph
    (result, *saved), end = outputs_of(forward)
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
