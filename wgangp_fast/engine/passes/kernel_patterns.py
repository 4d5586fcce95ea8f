"""Before the sweeps are derived: sequences of the critic's graph become the package's own operations.

Norm and activation, bias and activation, the gate: each becomes one node, whose rule writes one kernel
for each sweep. Which sequences are worth it depends on the device: on a CPU the library adds biases in
its products for nothing and has single kernels for piecewise-linear activations.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ...ops.activations import ACTIVATIONS, NAMES, NUMBER
from ...ops.registry import KERNELS, Kernels, acc
from ...rules import products
from ...rules.nodes import info_of
from ...rules.registry import bind
from ..ir import args_of, depending_on, value_of
from .pool_into_conv import merge_pooling

aten = torch.ops.aten
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Encoded = tuple[int, float, float, float]


def _row(name: str, *parameters: float) -> Encoded:
    p = [*map(float, parameters), 0.0, 0.0, 0.0]
    return NUMBER[name], p[0], p[1], p[2]


def _leaky(a: dict[str, Any]) -> Encoded | None:
    return _row("leaky_relu", a["negative_slope"]) if a["negative_slope"] >= 0 else None


def _elu(a: dict[str, Any]) -> Encoded | None:
    numbers = (a["alpha"], a["scale"], a["input_scale"])
    return _row("elu", *numbers) if numbers[0] >= 0 and min(numbers[1:]) > 0 else None


#: operator -> its row, from the arguments; None where the row does not cover them
ACTS: dict[Any, Callable[[dict[str, Any]], Encoded | None]] = {
    aten.relu.default: lambda a: _row("relu"),
    aten.leaky_relu.default: _leaky,
    aten.tanh.default: lambda a: _row("tanh"),
    aten.sigmoid.default: lambda a: _row("sigmoid"),
    aten.elu.default: _elu,
    aten.silu.default: lambda a: _row("silu"),
    aten.gelu.default: lambda a: _row("gelu" if a["approximate"] == "none" else "gelu_tanh"),
    aten.softplus.default: lambda a: _row("softplus", a["beta"], a["threshold"]),
}
RESHAPES = (aten.reshape.default, aten.view.default, aten._unsafe_view.default)


def lower(graph: fx.Graph, kernels: Kernels) -> fx.Graph:
    """A copy of the critic's ``graph``, its nodes' ``meta`` kept, rewritten for ``kernels``."""
    lowered = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    lowered.output(lowered.graph_copy(graph, copies))
    x = next(iter(lowered.nodes))
    merge_pooling(lowered)
    on_cpu = kernels.device == "cpu" and kernels.which in ("auto", "cpu")
    if on_cpu:
        products.prepare(lowered, own_kernels=kernels.backend_of("unfold_rows") == "cpu")
    if kernels.which == "auto" and "ref" in {kernels.backend_of(name) for name in ("norm_act", "bias_act")}:
        return lowered  # no kernels here: torch's own operators beat the references
    Lowering(lowered, x, on_cpu).run()
    return lowered


class Lowering:
    """One use: ``Lowering(graph, x, on_cpu).run()`` rewrites ``graph`` in place.

    ``on_cpu``: leave biases and piecewise-linear activations to the library.
    """

    def __init__(self, graph: fx.Graph, x: fx.Node, on_cpu: bool) -> None:
        self.graph, self.on_cpu = graph, on_cpu
        self.moves = depending_on(x)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node not in self.moves or node.op != "call_function" or info_of(node).no_grad:
                continue
            if node.target is aten.native_group_norm.default:
                self._group_norm(node)
            elif node.target is aten.native_layer_norm.default:
                self._layer_norm(node)
            elif node.target is aten.mul.Tensor:
                self._gate(node)
        for node in list(self.graph.nodes):
            if node.target in ACTS and node in self.moves and not info_of(node).no_grad:
                self._activation(node)

    # norms ----------------------------------------------------------------------------------------

    def _group_norm(self, node: fx.Node) -> None:
        h, weight, bias, n, c, _, groups, eps = args_of(node)
        shape = value_of(h).shape
        if len(shape) >= 2 and tuple(shape[:2]) == (n, c):
            self._norm(node, (h, weight, bias), groups, 0, eps, [n, groups])

    def _layer_norm(self, node: fx.Node) -> None:
        h, extent, weight, bias, eps = args_of(node)
        lead = value_of(h).dim() - len(extent)
        self._norm(node, (h, weight, bias), 0, len(extent), eps, list(value_of(h).shape[:lead]))

    def _norm(
        self, node: fx.Node, tensors: Any, groups: int, dims: int, eps: float, stats: list[int]
    ) -> None:
        h, val = tensors[0], value_of(tensors[0])
        members = list(node.users)
        affine = [t for t in tensors[1:] if t is not None]
        fits = h in self.moves and _supported([val, *map(value_of, affine)])
        if not fits or any(user.target is not operator.getitem for user in members):
            return
        outs = [user for user in members if args_of(user)[1] == 0]
        if len(outs) != 1 or len(members) != 1 or any(t in self.moves for t in affine):
            return
        last, act = outs[0], _row("identity")
        for user in _chain(last):
            found = self._encoded(user)
            if found is not None and value_of(user).shape == val.shape:
                last, act = user, found
            if found is not None or user.target not in RESHAPES:
                break
        wide = val.new_empty(stats, dtype=acc(val.dtype))
        made = self._insert(node, "norm_act", (*tensors, groups, dims, eps, *act))
        info = replace(info_of(last), kernel_of=_names(node, last, act))
        made.meta = {**last.meta, "val": (value_of(last), wide, wide), "info": info}
        with self.graph.inserting_after(made):
            first = self.graph.call_function(operator.getitem, (made, 0))
        first.meta = dict(last.meta)
        self.moves |= {made, first}
        last.replace_all_uses_with(first)
        self._erase(last)

    # activations ----------------------------------------------------------------------------------

    def _encoded(self, node: fx.Node) -> Encoded | None:
        if node.op != "call_function" or node.target not in ACTS or info_of(node).no_grad:
            return None
        bound = bind(node.target, args_of(node), node.kwargs)
        if any(isinstance(value, fx.Node) for name, value in bound.items() if name != "self"):
            return None
        return ACTS[node.target](bound)

    def _activation(self, node: fx.Node) -> None:
        act = self._encoded(node)
        h = args_of(node)[0]
        if act is None or not _supported([value_of(h)]):
            return
        # On a CPU the library's single kernels for piecewise-linear activations need no help.
        if self.on_cpu and ACTIVATIONS[NAMES[act[0]]].d2f is None:
            return
        bias, dim = (None, 1) if self.on_cpu else self._take_bias(h)
        made = self._insert(node, "bias_act", (args_of(node)[0], bias, dim, *act))
        name = ("bias + " if bias is not None else "") + NAMES[act[0]]
        made.meta = {**node.meta, "info": replace(info_of(node), kernel_of=name)}
        self.moves.add(made)
        node.replace_all_uses_with(made)
        self._erase(node)

    def _take_bias(self, h: fx.Node) -> tuple[Any, int]:
        """The bias of the product ``h``, taken from it if only this activation reads it; its dimension."""
        args = list(args_of(h))
        if h.target not in (aten.convolution.default, aten.linear.default) or len(h.users) != 1:
            return None, 1
        if len(args) <= 2 or args[2] is None:
            return None, 1
        bias = args[2]
        if value_of(bias).dtype != value_of(h).dtype or bias in self.moves:
            return None, 1
        args[2] = None
        h.args = tuple(args)
        return bias, 1 if h.target is aten.convolution.default else value_of(h).dim() - 1

    def _gate(self, node: fx.Node) -> None:
        args = args_of(node)
        if len(args) != 2 or not all(isinstance(a, fx.Node) and len(a.users) == 1 for a in args):
            return
        by_name = {a.target: a for a in args}
        if set(by_name) != {aten.sigmoid.default, aten.tanh.default}:
            return
        a, b = args_of(by_name[aten.sigmoid.default])[0], args_of(by_name[aten.tanh.default])[0]
        values = [value_of(a), value_of(b), value_of(node)]
        if not (a in self.moves and b in self.moves) or len({v.shape for v in values}) != 1:
            return
        if not _supported(values):
            return
        made = self._insert(node, "gate", (a, b))
        made.meta = {**node.meta, "info": replace(info_of(node), kernel_of="sigmoid * tanh")}
        self.moves.add(made)
        node.replace_all_uses_with(made)
        self._erase(node)

    # ----------------------------------------------------------------------------------------------

    def _insert(self, before: fx.Node, name: str, args: tuple[Any, ...]) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_function(KERNELS[name].call, args)

    def _erase(self, node: fx.Node) -> None:
        """``node``, and what only it used of the sequence."""
        sources = node.all_input_nodes
        self.graph.erase_node(node)
        self.moves.discard(node)
        for source in sources:
            if not source.users and source.op == "call_function":
                self._erase(source)


def _supported(values: Iterable[Tensor]) -> bool:
    """One of the kernels' dtypes for all, and something to do."""
    values = list(values)
    return len({v.dtype for v in values}) == 1 and values[0].dtype in DTYPES and values[0].numel() > 0


def _chain(node: fx.Node) -> Iterable[fx.Node]:
    """The nodes after ``node`` as long as each is the only user of the one before."""
    while len(node.users) == 1:
        (node,) = node.users
        yield node


def _names(node: fx.Node, last: fx.Node, act: Encoded) -> str:
    name = str(node.target).split(".")[1].removeprefix("native_")
    return f"{name} + {NAMES[act[0]]}" if act[0] else name
