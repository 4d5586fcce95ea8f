"""Writes FX graphs for the derivations; a rule's site in such a graph, whose values are FX proxies."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor, fx
from torch.fx.proxy import GraphAppendingTracer

from ...rules import Site
from ...rules.nodes import Argument, Operator, Value
from ...rules.registry import bind
from ..ir import args_of, is_float, value_of
from ..torch_internals import schema_of


def _first(graph: fx.Graph) -> fx.Node | None:
    return next(iter(graph.nodes), None)


class GraphBuilder:
    """One FX graph under construction."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.tracer = GraphAppendingTracer(self.graph)

        self._last: fx.Node | None = None

    def placeholder(self, name: str) -> fx.Proxy:
        """A new input, after the earlier ones and before all code."""
        with (
            self.graph.inserting_after(self._last)
            if self._last
            else self.graph.inserting_before(_first(self.graph))
        ):
            self._last = self.graph.placeholder(name)
        return fx.Proxy(self._last, self.tracer)

    def create(
        self, target: Operator, args: tuple[Value, ...], kwargs: dict[str, Value] | None = None
    ) -> Value:
        return self.tracer.create_proxy("call_function", target, args, kwargs or {})


class TracedSite(Site):
    """A site whose values are FX proxies of the sweep being written."""

    graph: fx.Graph
    tracer: GraphAppendingTracer

    def apply(self, function: Callable[..., Value], op: Operator, *args: Value) -> Value:
        def run(*values: Value) -> Value:
            return function(op, *values)

        run.__name__ = f"{function.__name__}_{schema_of(op).name.split('::')[1]}"
        run.__module__ = "wgangp_fast_plan"
        return self.current().create(run, args)

    current: Callable[[], GraphBuilder]
    here: Callable[[Value], Value]  # a value of the forward graph, in the graph being written

    def remember(self, name: str, value: Value) -> None:
        self.memory.setdefault(name, value)  # keep the one of sweep 2: sweep 4 calls vjp too

    def recall(self, name: str) -> Value:
        return self.here(self.memory[name]) if name in self.memory else None

    @functools.cached_property
    def memory(self) -> dict[str, Value]:
        return {}


class Number:
    """A number that the graph computes at run time."""

    def __init__(self, read: Callable[[], Value]) -> None:
        self.read = read


class Arguments(dict[str, Argument]):
    """Arguments of a site; numbers computed by the graph become proxies of the current sweep when read."""

    def __getitem__(self, name: str) -> Argument:
        value = super().__getitem__(name)
        return value.read() if isinstance(value, Number) else value

    def get(self, name: str, default: Argument = None) -> Argument:
        return self[name] if name in self else default  # noqa: SIM401 - dict.get would skip __getitem__

    def items(self) -> Any:  # not the view that a dict gives
        return [(name, self[name]) for name in self]


def is_number(source: Argument) -> bool:
    return isinstance(source, fx.Node) and not isinstance(value_of(source), (Tensor, tuple, list))


def fake_values(bound: dict[str, Argument]) -> dict[str, Argument]:
    return {
        name: [value_of(v) for v in value] if isinstance(value, (list, tuple)) else value_of(value)
        for name, value in bound.items()
    }


def slot_nodes(node: fx.Node) -> dict[str, fx.Node]:
    """The tensors that a node takes, by the slots of its rule."""
    bound = bind(node.target, args_of(node), node.kwargs)
    found: dict[str, fx.Node] = {}
    for name, value in bound.items():
        if isinstance(value, fx.Node):
            if is_float(value_of(value)):
                found[name] = value
        elif isinstance(value, (list, tuple)):
            for i, member in enumerate(value):
                if isinstance(member, fx.Node) and is_float(value_of(member)):
                    found[f"{name}.{i}"] = member
    return found
