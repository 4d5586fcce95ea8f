"""Cuts a captured graph into prologue and critic.

What depends on parameters and not on x (spectral norm, weight norm, casts of weights) is the *prologue*
and runs under ordinary autograd, so that its parameters get their gradients through it. The rest is the
*critic*, whose inputs are x and the *leaves*: parameters, buffers and results of the prologue.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, ops

from ...errors import CaptureError
from ...rules.assignment import strided_assignment
from ...rules.nodes import Argument, NodeInfo, info_of
from ...rules.registry import bind, find
from ...rules.replace_data import replace_data, replaced
from .. import torch_internals
from ..effects import EFFECTS, Write, give_data, write
from ..ir import args_of, is_float, result_of, value_of
from .normalize import normalise
from .trace import Effect

aten = ops.aten


@dataclass(eq=False)
class Captured:
    """One captured critic graph.

    Attributes:
        critic: functional ATen graph; placeholders are x, then the leaves; output: the score.
        prologue: ``(*inputs) -> (*leaves, *extras)``, run under autograd; None if it would be empty.
        leaf_sources: for each leaf, ``("input", i)`` or ``("prologue", k)``.
        extra_outputs: what the backend returns to Dynamo for graph outputs other than the score.
        x_index: position of x among Dynamo's inputs.
        input_names: a name for each of Dynamo's inputs, the same in every capture of one critic.
        python_effects: whether a call changes attributes, lists or other Python objects.
        plans: the plans derived so far, by ``options.plan_key``.
        batch_norm: the name of a batch norm in training mode, for a warning; None if there is none.
        critic_step: for a plan of the critic step, the graphs for one, two and three batches, or the reason
            why there are none; None: not tried yet.
        seen: captures of the critic for input that requires no gradient (as real and fake are in stock code),
            and how each differs from this one.
        written: positions of Dynamo's inputs that a call writes into.
        draws: whether its Python code draws random numbers at every call.
        host: what its Python code decides at every call, so that no CUDA graph may be made of it; else None.
        refused: why no plan of it may run, and the remedy; None if plans may run.
    """

    critic: fx.Graph
    prologue: fx.GraphModule | None
    leaf_sources: list[tuple[str, int]]
    extra_outputs: list[tuple[str, int]]
    x_index: int
    batch_norm: str | None
    input_names: tuple[str, ...] = ()
    python_effects: bool = False
    plans: dict[Hashable, Any] = field(default_factory=dict)
    critic_step: tuple[fx.Graph, ...] | str | None = None
    seen: dict[Captured, str | None] = field(default_factory=dict)
    written: tuple[int, ...] = ()
    draws: bool = False
    host: str | None = None
    refused: tuple[str, str] | None = None

    def leaves(self) -> list[fx.Node]:
        """The placeholders after x."""
        return [n for n in self.critic.nodes if n.op == "placeholder"][1:]

    def requiring_grad(self) -> list[int]:
        """Positions of the leaves that a gradient is asked of."""
        return [i for i, leaf in enumerate(self.leaves()) if info_of(leaf).requires_grad]

    def nodes(self) -> list[fx.Node]:
        """All nodes, those of the prologue first."""
        return [*(self.prologue.graph.nodes if self.prologue is not None else ()), *self.critic.nodes]

    def changes_state(self) -> bool:
        """Whether a call updates buffers (running statistics, the vectors of spectral norm)."""
        return _has_effects(self.critic) or (self.prologue is not None and _has_effects(self.prologue.graph))


def split(gm: fx.GraphModule, traced: fx.GraphModule, mutated: list[Effect]) -> Captured:
    graph = traced.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    x_index = _find_x(gm)
    x = inputs[x_index]
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(traced, node.target)
            raise_if_fake(value, node)
            node.meta["val"] = value
    results, count = result_of(graph), len(result_of(gm.graph))
    outputs, new_values = list(results[:count]), list(results[count:])
    moving = _depends_on(graph, {x})

    score, plan = None, []
    updated = {value: i for value, (i, _) in zip(new_values, mutated)}
    for position, out in enumerate(outputs):
        if isinstance(out, fx.Node) and out in updated:
            plan.append(("input", updated[out]))  # the mutated buffer itself, as in eager code
        elif isinstance(out, fx.Node) and out in inputs:
            plan.append(("input", inputs.index(out)))
        elif isinstance(out, fx.Node) and out in moving:
            if score is not None:
                raise CaptureError(
                    "the critic keeps a tensor that depends on its input (or returns several): "
                    "only the score can leave the fused path"
                )
            score = out
            plan.append(("score", position))
        else:
            plan.append(("constant", position))
    if score is None:
        raise CaptureError("the critic's output does not depend on x")
    captured = _Splitter(
        traced, inputs, x_index, moving, score, outputs, plan, list(zip(mutated, new_values))
    ).run()
    captured.input_names = tuple(_source_name(n) for n in gm.graph.nodes if n.op == "placeholder")
    captured.written = tuple(i for i, _ in mutated)
    return captured


def raise_if_fake(value: object, node: fx.Node) -> None:
    if torch_internals.is_fake(value):
        raise CaptureError(f"{node.name} is a constant without data")


def _source_name(node: fx.Node) -> str:
    name = getattr(getattr(node.meta.get("grapharg"), "source", None), "name", node.name)
    return str(name() if callable(name) else name)


def _find_x(gm: fx.GraphModule) -> int:
    """Position of x among the inputs, by the name that Dynamo gives to the argument ``x`` of ``_body``."""
    for position, node in enumerate(n for n in gm.graph.nodes if n.op == "placeholder"):
        grapharg = node.meta.get("grapharg")
        source = getattr(grapharg, "source", None)
        if source is not None and getattr(source, "local_name", None) == "x":
            return position
    raise CaptureError("the critic's output does not depend on x")


def _depends_on(graph: fx.Graph, roots: set[fx.Node]) -> set[fx.Node]:
    found = set(roots)
    for node in graph.nodes:
        if node.op != "output" and any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


class _Splitter:
    """Cuts a traced graph into prologue and critic."""

    def __init__(self, traced: fx.GraphModule, inputs: list[fx.Node], x_index: int, moving: set[fx.Node],
                 score: fx.Node, outputs: list[Argument], plan: list[tuple[str, int]],
                 effects: list[tuple[Effect, fx.Node]]) -> None:  # fmt: skip
        self.traced, self.inputs, self.x_index, self.moving = traced, inputs, x_index, moving
        self.score, self.outputs, self.plan, self.effects = score, outputs, plan, effects
        self.calls = [n for n in traced.graph.nodes if n.op in ("call_function", "get_attr")]

    def run(self) -> Captured:
        before = self._prologue_nodes()
        body = [n for n in self.calls if n not in before]
        used = {s for n in body for s in n.all_input_nodes} | {self.score}
        self.read = self._read_before_written(used)
        prologue = fx.Graph()
        held = {node: prologue.placeholder(node.name) for node in self.inputs}
        for node, given in held.items():
            given.meta["info"] = info_of(node)
        for node in self.calls:
            if node in before:
                held[node] = self._prologue_node(prologue, node, held)
        critic = fx.Graph()
        here: dict[fx.Node, fx.Node] = {}
        x = self.inputs[self.x_index]
        here[x] = self._leaf(critic, x)
        sources: list[tuple[str, int]] = []
        from_prologue: list[fx.Node] = []
        early = before | set(self.inputs)
        late = [(i, v) for (i, _), v in self.effects if v not in early or self.inputs[i] in self.read]
        used |= {node for i, value in late for node in (self.inputs[i], value)}
        for node in (*self.inputs, *self.calls):
            crossing = node in before or node in self.inputs
            if node is x or node not in used or not crossing:
                continue
            if node in before:
                sources.append(("prologue", len(from_prologue)))
                from_prologue.append(node)
            else:
                sources.append(("input", self.inputs.index(node)))
            here[node] = self._leaf(critic, node)
            if self._is_replaced(node):
                here[node].meta["info"] = replace(info_of(here[node]), data_replaced=True)
        # A node of its own, which returns the tensor itself: autograd saves that, and sees later data.
        for node in body:
            if node.op == "get_attr":
                raise CaptureError("the critic creates a tensor constant")
            effect = self._effect_of(node)
            if effect is not None and not info_of(_bases(node)[-1]).requires_grad:
                here[node] = critic.call_function(effect, (here[_bases(node)[-1]], here[args_of(node)[1]]))
            else:
                here[node] = critic.node_copy(node, here.__getitem__)
            here[node].meta = dict(node.meta)
        for (i, replaces), value in self.effects:
            effect = give_data if replaces else write
            if value in here and here[value].target in EFFECTS:
                continue
            if (i, value) in late:
                update = critic.call_function(effect, (here[self.inputs[i]], here[value]))
                update.meta = {"val": value_of(value), "info": NodeInfo(no_grad=True)}
            elif not self._given_early(value):
                prologue.call_function(effect, (held[self.inputs[i]], held[value]))
        critic.output(here[self.score])
        extras = self._extras(held, from_prologue)
        prologue.output(tuple(held[n] for n in from_prologue))
        module = (
            fx.GraphModule(self.traced, prologue, "Prologue") if (before or _has_effects(prologue)) else None
        )
        _check_replaced(critic)
        normalise(critic)
        return Captured(critic, module, sources, extras, self.x_index, _batch_norm(critic))

    @staticmethod
    def _leaf(graph: fx.Graph, node: fx.Node) -> fx.Node:
        leaf = graph.placeholder(node.name)
        leaf.meta = {"val": value_of(node), "info": NodeInfo(requires_grad=info_of(node).requires_grad)}
        return leaf

    def _is_replaced(self, node: fx.Node) -> bool:
        """Whether the node is an input, before or after its data are replaced."""
        base = [node, *_bases(node)][-1]
        return any(replaces and self.inputs[i] is base for (i, replaces), _ in self.effects)

    def _effect_of(self, node: fx.Node) -> Write | None:
        """The write that a node results from, if the node is an input right after its data were replaced."""
        if node.target is not replace_data:
            return None
        base = _bases(node)[-1]
        found = [
            give_data if replaces else write for (i, replaces), _ in self.effects if self.inputs[i] is base
        ]
        return found[0] if found else None

    def _given_early(self, node: fx.Node) -> bool:
        return self._effect_of(node) is not None and _bases(node)[-1] not in self.read

    def _read_before_written(self, used: set[fx.Node]) -> set[fx.Node]:
        """Inputs that the critic reads as they were before a write: the write must wait for the critic."""
        found = {self.inputs[i] for (i, _), _ in self.effects if self.inputs[i] in used}
        for (i, _), value in self.effects:
            found |= {self.inputs[i]} if any(base in used for base in _bases(value)) else set()
        return found

    def _prologue_node(self, prologue: fx.Graph, node: fx.Node, held: dict[fx.Node, fx.Node]) -> fx.Node:
        effect = self._effect_of(node)
        if effect is not None and self._given_early(node):
            # Return the tensor itself: autograd saves it, and sees later data as in eager code.
            base, data = _bases(node)[-1], args_of(node)[1]
            return prologue.call_function(effect, (held[base], held[data]))
        if node.target is replace_data:
            return prologue.call_function(replaced, tuple(held[n] for n in args_of(node)))
        if node.target is aten.as_strided_scatter.default:
            arguments = fx.map_arg((node.args, node.kwargs), held.__getitem__)
            return prologue.call_function(strided_assignment, *arguments)
        if node.target is aten.copy.default:  # has no derivative of its own
            like, source = args_of(node)[:2]
            return prologue.call_function(_copied, (held[like], held[source]))
        new = prologue.node_copy(node, held.__getitem__)
        new.meta = dict(node.meta)
        if info_of(node).no_grad and is_float(value_of(node)):
            new = prologue.call_function(aten.detach.default, (new,))
        return new

    def _prologue_nodes(self) -> set[fx.Node]:
        """Nodes that depend on trained parameters and not on x (but no cheap views), and their ancestors."""
        carries = {n for n in self.inputs if info_of(n).requires_grad}
        chosen: set[fx.Node] = set()
        for node in self.calls:
            if node in self.moving:
                continue
            if node.op == "get_attr" or not isinstance(value_of(node), (Tensor, tuple, list)):
                chosen.add(node)  # constants and numbers
                continue
            differentiable = (
                not info_of(node).no_grad
                and node.target is not aten.detach.default
                and any(s in carries for s in node.all_input_nodes)
            )
            if differentiable:
                carries.add(node)
                node.meta["info"] = replace(info_of(node), requires_grad=is_float(value_of(node)))
                if not self._stays(node):
                    chosen.add(node)
        chosen |= {
            out
            for out, (bank, _) in zip(self.outputs, self.plan)
            if bank == "constant" and isinstance(out, fx.Node)
        }
        for node in reversed(self.calls):
            if node in chosen:
                chosen |= {s for s in node.all_input_nodes if s not in self.inputs}
        return chosen

    def _stays(self, node: fx.Node) -> bool:
        if node.target is operator.getitem:
            return self._stays(args_of(node)[0])
        rule = find(node.target)
        return rule is not None and rule.inline and is_float(value_of(args_of(node)[0]))

    def _extras(self, held: dict[fx.Node, fx.Node], from_prologue: list[fx.Node]) -> list[tuple[str, int]]:
        extras: list[tuple[str, int]] = []
        for out, (bank, index) in zip(self.outputs, self.plan):
            if bank != "constant":
                extras.append((bank, index))
                continue
            if not isinstance(out, fx.Node):
                raise CaptureError(f"the critic returns the constant {out!r}")
            if out not in from_prologue:
                from_prologue.append(out)
            extras.append(("prologue", from_prologue.index(out)))
        return extras


#: operators of which it is known what they save of a tensor: the tensor itself, a view, a copy, or nothing
KNOWN_TO_SAVE = {
    *(aten.t.default, aten.transpose.int, aten.permute.default, aten.view.default, aten._unsafe_view.default),
    *(aten.expand.default, aten.unsqueeze.default, aten.squeeze.dim, aten.select.int, aten.slice.Tensor),
    *(aten.reshape.default, aten.repeat.default, aten.clone.default, aten._to_copy.default),
    *(aten.detach.default, aten.alias.default, aten.convolution.default, aten.mul.Tensor, aten.add.Tensor),
    *(aten.sub.Tensor, *EFFECTS),
}


def _check_replaced(critic: fx.Graph) -> None:
    """Refuse what reads an input of which a call replaces the data, if a later call might be read instead.

    Autograd saves some tensors themselves, which show the later data, and views of others, which do not; of a
    product it saves both.
    """
    for node in critic.nodes:
        read = node.all_input_nodes if node.op == "call_function" else []
        if node.target is aten.addmm.default:  # nothing of its bias is saved
            read = [factor for factor in args_of(node)[1:] if isinstance(factor, fx.Node)]
        if node.target not in KNOWN_TO_SAVE and any(info_of(source).data_replaced for source in read):
            what = f"{node.target} reads a tensor to which the critic assigns .data in its forward pass"
            where = node.meta.get("stack_trace", "")
            raise CaptureError(f"{what}\n{where}")


def _bases(node: fx.Node) -> list[fx.Node]:
    """The values of a tensor before each replacement of its data, the first one last."""
    found = []
    while node.target is replace_data:
        node = args_of(node)[0]
        found.append(node)
    return found


def _copied(like: Tensor, source: Tensor) -> Tensor:
    """``aten.copy(like, source)``, which functionalisation makes of ``like.copy_(source)``, for autograd."""
    return source.to(like.dtype).expand(like.shape)


def _has_effects(graph: fx.Graph) -> bool:
    return any(n.target in EFFECTS for n in graph.nodes)


def _batch_norm(graph: fx.Graph) -> str | None:
    """Name of a batch norm in training mode over more than one sample, for the paper's warning."""
    for node in graph.nodes:
        name = str(node.target)
        if node.op != "call_function" or "batch_norm" not in name or "no_training" in name:
            continue
        if "no_stats" in name and value_of(args_of(node)[0]).shape[0] == 1:
            continue  # this is how an instance norm is traced
        if bind(node.target, args_of(node), node.kwargs)["training"]:
            return node.name
    return None
