"""What a derivation makes: the sweeps of a critic as code, with facts about its nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, fx

from ..rules.nodes import Argument, info_of
from ..rules.nodes import args_of as args_of
from ..rules.registry import DeriveError as DeriveError
from .effects import EFFECTS
from .torch_internals import schema_of

aten = torch.ops.aten

#: what a plan is given beside x, and keeps between its sweeps: tensors, and numbers of the critic's graph
Leaf = Tensor | int | float

#: operators whose result carries no derivative, although autograd may hand explicit zeros through them
CONSTANT = {
    getattr(getattr(aten, name), overload)
    for name, overload in (
        *(("detach", "default"), ("sign", "default"), ("floor", "default")),
        *(("ceil", "default"), ("round", "default"), ("trunc", "default"), ("bernoulli", "p")),
        ("bernoulli_", "float"),
        *(("bernoulli", "default"), ("zeros_like", "default"), ("ones_like", "default")),
        *(("full_like", "default"), ("empty_like", "default"), ("rand_like", "default")),
        *(("randn_like", "default"), ("new_zeros", "default"), ("new_ones", "default")),
        *(("new_full", "default"), ("new_empty", "default"), ("round", "decimals")),
    )
}


def value_of(node: Argument) -> Argument:
    """The fake value recorded for a node; constants are themselves."""
    return node.meta["val"] if isinstance(node, fx.Node) else node


def result_of(graph: fx.Graph) -> Argument:
    """What the graph returns."""
    (end,) = graph.find_nodes(op="output")
    return end.args[0]


def outputs_of(graph: fx.Graph) -> tuple[tuple[Argument, ...], fx.Node]:
    """What a graph returns, as a tuple, and the node that returns it."""
    (end,) = graph.find_nodes(op="output")
    return args_of(end)[0], end


def is_float(value: object) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def eliminate_dead_code(graph: fx.Graph) -> None:
    """Remove dead code, but not effects, draws of random numbers or what may raise in ``torch.linalg``:
    random numbers and errors must be those of eager code."""

    def impure(node: fx.Node) -> bool:
        if node.op in ("placeholder", "output"):
            return True
        schema = schema_of(node.target)
        tags = getattr(node.target, "tags", ())
        raises = node.target is torch.ops.aten._linalg_check_errors.default
        return raises or bool(schema and schema.is_mutable) or torch.Tag.nondeterministic_seeded in tags

    graph.eliminate_dead_code(impure)


def differentiable(node: fx.Node) -> bool:
    """Whether autograd records the operator, if one of its inputs carries a gradient."""
    return not info_of(node).no_grad and node.target not in CONSTANT and node.target not in EFFECTS


def _may_carry(node: fx.Node) -> bool:
    """Whether the value may have a derivative: integers and booleans have none; a tuple may have some."""
    value = node.meta.get("val")
    return not isinstance(value, torch.Tensor) or value.is_floating_point() or value.is_complex()


def differentiable_ancestors(result: fx.Node) -> set[fx.Node]:
    """The nodes that autograd can reach from ``result``; no other needs a derivative."""
    found, stack = {result}, [result]
    while stack:
        node = stack.pop()
        for source in node.all_input_nodes if differentiable(node) else ():
            if _may_carry(source) and source not in found:
                found.add(source)
                stack.append(source)
    return found


def depending_on(x: fx.Node) -> set[fx.Node]:
    """The nodes whose value autograd sees change with ``x``."""
    found = {x}
    for node in x.graph.nodes:
        recorded = node.op == "call_function" and differentiable(node) and _may_carry(node)
        if recorded and any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


#: rows of the batch: the penalty points; those of real and fake (in a critic step); all of them
POINTS, REST, WHOLE = "points", "rest", "whole"


@dataclass
class DerivedNode:
    """What ``explain`` shows of one node."""

    name: str
    op: str
    rule: str
    sweep4: bool
    reason: str
    node: fx.Node


@dataclass
class Sweeps:
    """The derived code.

    Attributes:
        forward: ``(x, *leaves) -> (input gradient, *saved)``: sweeps 1 and 2.
        backward: ``(seed, *saved) -> (adjoint of x or None, *adjoints of the wanted leaves)``: sweeps
            3 and 4; None if no gradient is wanted.
        leaf_zero: indices of wanted leaves whose gradient is exactly zero (stock code returns zeros).
        saved_is_tensor: for each saved value, whether it is a tensor (else a number).
        nodes: an entry for each node of the critic.
    """

    forward: fx.GraphModule
    backward: fx.GraphModule | None
    wanted: tuple[int, ...]
    wants_x: bool
    leaf_zero: frozenset[int] = frozenset()
    saved_is_tensor: tuple[bool, ...] = ()
    nodes: list[DerivedNode] = field(default_factory=list)
