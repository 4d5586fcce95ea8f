"""Capture for a plan of the whole critic step: the critic's graph for one, two and three batches at once."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from ...errors import CaptureError, NotNow
from ...rules.nodes import Argument, info_of
from ...wrappers import Critic, Output
from .. import torch_internals
from ..ir import Leaf
from . import dynamo
from .batches import at_batches
from .hoist_parameters import Captured


def bind(
    critic: Critic, output: Output | None, x: Tensor, data: Tensor, before: dynamo.Before | None = None
) -> dynamo.Binding | str:
    """Capture ``critic`` as it sees the penalty points, for a plan of the whole critic step.

    Args:
        x: ``[N, ...]``, requires a gradient, as the penalty points do.
        data: the same values without requiring one: so stock code shows real and fake to the critic.
        before: as in :func:`.dynamo.bind`.

    Returns:
        the binding, whose ``captured.critic_step`` has the graphs for one, two and three batches; or the
        reason why the critic has to run on each batch alone. In that case nothing of it has run.

    Raises:
        CaptureError: it cannot be captured at all.
    """

    def batched(captured: Captured, inputs: tuple[Leaf, ...]) -> None:
        if captured.critic_step is None or isinstance(captured.critic_step, str):
            raise dynamo.Stopped(captured)
        if before is not None:
            before(captured, inputs)

    try:
        binding = dynamo.bind(critic, output, x, batched)
    except dynamo.Stopped as stopped:
        captured = stopped.captured
        if captured.critic_step is None:
            captured.critic_step = _at_three_sizes(captured)
        if isinstance(captured.critic_step, str):
            return captured.critic_step
        binding = dynamo.bind(critic, output, x, batched)
    captured = binding.captured
    try:
        other = dynamo.look(critic, output, data)
    except NotNow:
        raise
    except CaptureError as error:
        captured.critic_step = str(error)
        return captured.critic_step
    if other not in captured.seen:
        captured.seen[other] = difference(captured, other)
    return captured.seen[other] or binding


def _at_three_sizes(captured: Captured) -> tuple[fx.Graph, ...] | str:
    """The critic's graph for one, two and three batches, or why batches must not run as one."""
    if captured.draws:
        return "its forward pass draws random numbers in Python, anew for each batch in stock code"
    if captured.changes_state() or captured.python_effects:
        return "its forward pass changes buffers or attributes, once for each batch in stock code"
    if captured.prologue is not None and any(_draws(node) for node in captured.prologue.graph.nodes):
        return "it draws random numbers for its parameters, for each batch others in stock code"
    try:
        with torch_internals.quiet():
            return tuple([at_batches(captured.critic, count) for count in (1, 2, 3)])
    except Exception as error:  # if they cannot be shown to be equal, batches run alone
        return str(error).splitlines()[0] if str(error) else type(error).__name__


def _draws(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def difference(a: Captured, b: Captured) -> str | None:
    """Where two captures of one critic differ; None if they are the same."""
    if b.changes_state() or b.python_effects:
        return "its forward pass changes buffers or attributes for real and fake samples"
    same = (a.input_names, a.leaf_sources) == (b.input_names, b.leaf_sources)
    same = same and _same_graph(a.critic, b.critic)
    p, q = a.prologue, b.prologue
    same = same and (p is q if p is None or q is None else _same_graph(p.graph, q.graph, p, q))
    if same:
        return None
    return (
        "it computes something else for real and fake samples, which require no gradient, than for the "
        "penalty points, which do: it looks at requires_grad"
    )


def _same_graph(a: fx.Graph, b: fx.Graph, owner_a: object = None, owner_b: object = None) -> bool:
    """Whether two graphs are equal, call by call and constant by constant."""
    if len(a.nodes) != len(b.nodes):
        return False
    place = {node: i for graph in (a, b) for i, node in enumerate(graph.nodes)}

    def told(value: Argument) -> object:
        """An argument in a form that can be compared: nodes by position, and with types, as 1 == True."""
        if isinstance(value, fx.Node):
            return "node", place[value]
        if isinstance(value, (list, tuple)):
            return tuple([told(v) for v in value])
        if isinstance(value, dict):
            return tuple([(name, told(v)) for name, v in value.items()])
        return type(value), repr(value)

    for m, n in zip(a.nodes, b.nodes):
        shapes = [[(v.shape, v.dtype) for v in _tensors(node)] for node in (m, n)]
        marks = [info_of(node).no_grad for node in (m, n)]
        same = m.op == n.op and shapes[0] == shapes[1] and marks[0] == marks[1]
        if m.op == "get_attr":
            pair = [getattr(owner, node.target) for owner, node in ((owner_a, m), (owner_b, n))]
            same = same and (pair[0] is pair[1] or torch.equal(*pair))
        elif m.op != "placeholder":
            same = same and (m.target, told(m.args), told(m.kwargs)) == (
                n.target,
                told(n.args),
                told(n.kwargs),
            )
        if not same:
            return False
    return True


def _tensors(node: fx.Node) -> list[Tensor]:
    val = node.meta.get("val")
    return [v for v in (val if isinstance(val, (list, tuple)) else [val]) if isinstance(v, Tensor)]
