"""Sweeps 1 and 2 as two functions: the score when it is computed, its gradient when that is asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import fx

from ...rules.nodes import Argument
from ..ir import Sweeps, outputs_of

Key = tuple[Hashable, ...]


@dataclass
class Cut:
    """Two graphs of one.

    Attributes:
        score: ``(x, *leaves) -> (score, *kept)``.
        gradient: ``(grad_outputs, *some of kept) -> (input gradient, *its share of what is saved)``.
        gradient_takes: which of ``kept`` the second graph takes.
        saved: for each value that the backward graph takes: True and its place in ``kept``, or False and its
            place in what the second graph saves.
        also: where in ``kept`` the values are that were asked for beside.
    """

    score: fx.GraphModule
    gradient: fx.GraphModule
    gradient_takes: tuple[int, ...]
    saved: tuple[tuple[bool, int], ...]
    also: tuple[int, ...]


def _frozen(value: Argument) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(v) for v in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(v)) for name, v in sorted(value.items()))
    if isinstance(value, fx.Node):
        return value
    return type(value), repr(value)  # 1 is not True, and 0.0 is not -0.0


def add_outputs(sweeps: Sweeps, first: Sweeps) -> None:
    """Let the forward graph also return the score, and what the first-order backward graph needs.

    Both forward graphs begin with the same calls. These are found again, draws of random numbers among them,
    by their order among equal calls."""
    graph = sweeps.forward.graph
    (result, *saved), end = outputs_of(graph)
    calls: dict[Key, list[fx.Node]] = defaultdict(list)
    for node in graph.nodes:
        calls[node.op, node.target, _frozen(node.args), _frozen(node.kwargs)].append(node)
    inputs = graph.find_nodes(op="placeholder")
    found: dict[fx.Node, fx.Node] = dict(zip(first.forward.graph.find_nodes(op="placeholder"), inputs))
    met: dict[Key, int] = defaultdict(int)
    with graph.inserting_before(end):
        for node in first.forward.graph.nodes:
            if node.op in ("placeholder", "output"):
                continue
            args, kwargs = fx.map_arg((node.args, node.kwargs), found.__getitem__)
            key = node.op, node.target, _frozen(args), _frozen(kwargs)
            equal, k = calls[key], met[key]
            met[key] += 1
            found[node] = equal[k] if k < len(equal) else graph.node_copy(node, found.__getitem__)
    values, _ = outputs_of(first.forward.graph)
    end.args = (((result, *(found[value] for value in values)), *saved),)


def cut(graph: fx.Graph) -> Cut:
    """Cut a forward graph ``(x, *leaves, grad_outputs) -> ((gradient, score, *also), *saved)`` where the last
    input comes in."""
    ((gradient, score, *also), *saved), _ = outputs_of(graph)
    *_, cotangent = graph.find_nodes(op="placeholder")
    later = {cotangent}
    for node in graph.nodes:
        if any(source in later for source in node.all_input_nodes) and node.op != "output":
            later.add(node)
    taken = dict.fromkeys(s for n in graph.nodes if n in later for s in n.all_input_nodes if s not in later)
    kept = list(dict.fromkeys([*taken, *(n for n in saved if n not in later), *also]))
    place = {node: i for i, node in enumerate(kept)}

    first, second = fx.Graph(), fx.Graph()
    here: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node not in later and node.op != "output":
            here[node] = first.node_copy(node, here.__getitem__)
    first.output((here[score], *(here[node] for node in kept)))
    there: dict[fx.Node, fx.Node] = {cotangent: second.placeholder("grad_outputs")}
    for node in taken:
        there[node] = second.placeholder(f"kept_{node.name}")
    for node in graph.nodes:
        if node in later and node is not cotangent:
            there[node] = second.node_copy(node, there.__getitem__)
    made = [node for node in saved if node in later]
    second.output((there[gradient], *(there[node] for node in made)))
    return Cut(
        fx.GraphModule(torch.nn.Module(), first, "Score"),
        fx.GraphModule(torch.nn.Module(), second, "Gradient"),
        tuple(place[node] for node in taken),
        tuple((True, place[n]) if n not in later else (False, made.index(n)) for n in saved),
        tuple(place[node] for node in also),
    )
