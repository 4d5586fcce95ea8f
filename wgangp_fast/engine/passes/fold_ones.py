"""``ones``: the score's cotangent is a column of ones, and products with it are a broadcast and a sum.

Without it 27 of the benchmark's 31 plans have up to 15.6 % more calls, and one a 13.6 % higher peak
(``benchmarks/results/passes.json``).
"""

from __future__ import annotations

import torch
from torch import fx

from ..ir import Sweeps, args_of, outputs_of


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
    (_, *saved), end = outputs_of(forward)
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
