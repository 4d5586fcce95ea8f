"""Brings a critic's graph into normal form: each product and each norm is written in one way."""

from __future__ import annotations

import operator

import torch
from torch import fx, ops

from ...rules.nodes import Argument, Operator, info_of
from ..ir import args_of, eliminate_dead_code, is_float, value_of

aten = ops.aten


def normalise(graph: fx.Graph) -> None:
    """Rewrite products with a transposed weight as ``linear``, other ``addmm`` as ``mm`` and ``add``."""
    for node in list(graph.nodes):
        if node.target is aten.addmm.default:
            _addmm(graph, node)
        elif node.target is aten.mm.default:
            weight = _untransposed(args_of(node)[1])
            if weight is not None:
                _replace(graph, node, aten.linear.default, (args_of(node)[0], weight))
        elif node.target is aten.bernoulli.p:
            # Eager dropout draws its mask in the input's strides; the functional form would draw another.
            _replace(graph, node, aten.bernoulli_.float, node.args)
        elif node.target is aten._native_batch_norm_legit.no_stats:
            _instance_norm(graph, node)
        elif node.target is aten.copy.default and value_of(node).is_complex():
            _copy(graph, node)
        elif node.target is aten.baddbmm.default:
            _sum_of_product(graph, node, aten.bmm.default)
        elif node.target is aten.addmv.default:
            _sum_of_product(graph, node, aten.mv.default)
    for node in list(graph.nodes):
        if node.target is aten.add.Tensor:
            _bias(graph, node)
    for node in list(graph.nodes):
        if node.op == "call_function" and "_norm" in str(node.target) and args_of(node):
            _uniform_norm(graph, node)
    eliminate_dead_code(graph)


def _copy(graph: fx.Graph, node: fx.Node) -> None:
    """Replace a copy into a complex tensor, which has no derivative, by a cast and an expansion."""
    val, source = value_of(node), args_of(node)[1]
    steps: list[tuple[Operator, tuple[Argument, ...], dict[str, Argument]]] = [
        (aten._to_copy.default, (), {"dtype": val.dtype}),
        (aten.expand.default, (list(val.shape),), {}),
        (aten.clone.default, (), {"memory_format": torch.contiguous_format}),
    ]
    for target, args, kwargs in steps:
        with graph.inserting_before(node):
            new = graph.call_function(target, (source, *args), kwargs)
        new.meta = {**node.meta, "val": target(value_of(source), *args, **kwargs)}
        source = new
    written = all(
        "_scatter" in str(user.target) for user in node.users
    )  # into a slice: strides do not matter
    if written or value_of(source).stride() == val.stride():
        node.replace_all_uses_with(source)
        graph.erase_node(node)


def _bias(graph: fx.Graph, node: fx.Node) -> None:
    """Move a bias that is added after a view of its linear product (vmap writes it so) into the product."""
    arguments = args_of(node)
    if node.kwargs or len(arguments) != 2 or not all(isinstance(a, fx.Node) for a in arguments):
        return
    for bias, view in (arguments, arguments[::-1]):
        if bias.op != "placeholder" or view.target not in VIEWS or len(view.users) != 1:
            continue
        product = args_of(view)[0]
        if product.target is not aten.linear.default or len(product.users) != 1 or len(product.args) != 2:
            continue
        columns = value_of(product).shape[-1]
        same = value_of(view).shape[-1] == columns and value_of(bias).shape == (columns,)
        if same and value_of(bias).dtype == value_of(product).dtype:
            product.args = (*product.args, bias)
            node.replace_all_uses_with(view)
            graph.erase_node(node)
            return


def _uniform_norm(graph: fx.Graph, node: fx.Node) -> None:
    """Write a norm of half-precision values with float32 weights (autocast on a CPU) as a float32 norm
    between two casts, as torch computes it. With mixed dtypes a derivative might be of either."""
    h, val = args_of(node)[0], value_of(node)
    weights = [a for a in args_of(node)[1:] if isinstance(a, fx.Node) and is_float(value_of(a))]
    wide = {value_of(w).dtype for w in weights}
    if not isinstance(val, tuple) or len(wide) != 1 or wide == {value_of(h).dtype}:
        return
    (dtype,) = wide
    with graph.inserting_before(node):
        cast = graph.call_function(aten._to_copy.default, (h,), {"dtype": dtype})
    cast.meta = {**h.meta, "val": value_of(h).to(dtype)}
    node.args = (cast, *node.args[1:])
    node.meta["val"] = tuple(v.to(dtype) for v in val)
    for member in [user for user in node.users if args_of(user)[1] == 0]:
        narrow = member.meta
        member.meta = {**narrow, "val": value_of(node)[0]}
        with graph.inserting_after(member):
            back = graph.call_function(aten._to_copy.default, (member,), {"dtype": narrow["val"].dtype})
        back.meta = narrow
        for user in [user for user in member.users if user is not back]:
            user.replace_input_with(member, back)


def _instance_norm(graph: fx.Graph, node: fx.Node) -> None:
    """torch writes instance norm as a batch norm of ``[1, N*C, ...]`` with repeated weights; undo that."""
    view, weight, bias, _, _, eps = args_of(node)
    if view.target not in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
        return
    h = args_of(view)[0]
    shape = value_of(h).shape
    if len(shape) < 3 or list(value_of(view).shape[:2]) != [1, shape[0] * shape[1]]:
        return
    repeated = [w for w in (weight, bias) if w is not None]
    if any(w.target is not aten.repeat.default or list(args_of(w)[1]) != [shape[0]] for w in repeated):
        return
    if any(info_of(args_of(w)[0]).data_replaced for w in repeated):
        return
    members = [user for user in node.users if user.target is not operator.getitem or args_of(user)[1] != 0]
    if any(member.users for member in members):
        return
    affine = [args_of(w)[0] if w is not None else None for w in (weight, bias)]
    length = value_of(h).numel() // (shape[0] * shape[1])
    (out,) = [user for user in node.users if user not in members]
    with graph.inserting_before(node):
        new = graph.call_function(
            aten.native_group_norm.default, (h, *affine, shape[0], shape[1], length, shape[1], eps)
        )
        stats = value_of(h).new_empty(shape[0], shape[1])
        new.meta = {**node.meta, "val": (value_of(h), stats, stats)}
        first = graph.call_function(operator.getitem, (new, 0))
        first.meta = {**out.meta, "val": value_of(h)}
        back = graph.call_function(aten.reshape.default, (first, list(value_of(out).shape)))
        back.meta = dict(out.meta)
    out.replace_all_uses_with(back)
    for member in (*members, out, node):
        graph.erase_node(member)


def _untransposed(node: Argument) -> fx.Node | None:
    """What ``node`` is the transpose of, if a product may take that instead."""
    if not isinstance(node, fx.Node) or node.target is not aten.t.default:
        return None
    weight = args_of(node)[0]
    return None if info_of(weight).data_replaced else weight


VIEWS = (aten.view.default, aten._unsafe_view.default, aten.reshape.default)


def _replace(graph: fx.Graph, node: fx.Node, target: Operator, args: tuple[Argument, ...]) -> fx.Node:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _addmm(graph: fx.Graph, node: fx.Node) -> None:
    bias, a, b = args_of(node)
    weight = _untransposed(b)
    plain = not node.kwargs or all(v == 1 for v in node.kwargs.values())
    if weight is not None and plain and value_of(bias).dim() == 1:
        _replace(graph, node, aten.linear.default, (a, weight, bias))
    else:
        _sum_of_product(graph, node, aten.mm.default)


def _sum_of_product(graph: fx.Graph, node: fx.Node, product: Operator) -> None:
    base, a, b = args_of(node)
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    with graph.inserting_before(node):
        made = graph.call_function(product, (a, b))
        made.meta = dict(node.meta)
        if beta != 1:
            scaled = graph.call_function(aten.mul.Tensor, (base, beta))
            scaled.meta = {**node.meta, "val": value_of(base)}
            base = scaled
    _replace(graph, node, aten.add.Tensor, (made, base))
    if alpha != 1:
        total = next(iter(made.users))
        total.kwargs = {}
        with graph.inserting_before(total):
            scaled = graph.call_function(aten.mul.Tensor, (made, alpha))
            scaled.meta = dict(made.meta)
        total.args = (scaled, args_of(total)[1])
