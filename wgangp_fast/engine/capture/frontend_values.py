"""Numbers and shapes that the critic reads from constant tensors.

``int(self.batch.max()) + 1``, ``mask.nonzero()``, ``edges[:, mask]``: these depend on the data of tensors
that do not depend on x (buffers, constants). They are computed once, while the critic is compiled, and the
values of every tensor that they were computed from are guarded: a changed buffer leads to another graph.
"""

from __future__ import annotations

import contextlib
import dis
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx

from ...rules.nodes import Argument, Operator
from ..torch_internals import (
    dynamo,
    each_operator,
    inside_functorch_transform,
    tree,
    unknown_sizes,
    version_of,
    without_dispatch_modes,
)
from . import frontend_guards as guards
from .frontend_draws import Front
from .patching import Method, OutputGraph, Patch, Source, Translator, Variable


class _Random(Exception):
    """The value depends on torch's random numbers."""


class _Counter(Exception):
    """The value changes at every call."""


def _not_random(func: Operator, args: tuple[Argument, ...], kwargs: dict[str, Argument]) -> Argument:
    if torch.Tag.nondeterministic_seeded in func.tags:
        raise _Random
    return func(*args, **kwargs)


def _concrete(front: Front, output: OutputGraph, node: fx.Node, guarded: bool = True) -> Argument:
    """The value of a node of Dynamo's graph, computed from the inputs as they are now; None if it depends on
    x or cannot be computed. With ``guarded`` the graph becomes valid for these inputs only.

    Raises:
        _Random: it depends on random numbers of torch.
        _Counter: it is read from an input that the critic increments at each call.
    """
    if node.graph is not output.root_tracer.graph or inside_functorch_transform():
        return None
    needed = _inputs_of(node)
    placeholders = [n for n in needed if n.op == "placeholder"]
    sources = [getattr(n.meta.get("grapharg"), "source", None) for n in placeholders]
    if any(not _is_constant_input(source) for source in sources):
        return None
    if guarded and any(_writes(n) and n.args and n.args[0] in placeholders for n in needed):
        raise _Counter
    values: dict[fx.Node, Argument] = {}
    try:
        with _plain(), each_operator(_not_random):
            for each in node.graph.nodes:
                if each in needed:
                    values[each] = _compute(output, each, values)
    except _Random:
        raise
    except Exception:  # what cannot be computed in advance is left to the front end
        return None
    for each in needed:
        fake = each.meta.get("example_value")
        if isinstance(fake, Tensor) and version_of(fake) != version_of(values[each]):
            return None  # something that depends on x was written into it
    for source in sources if guarded else ():
        guards.install(source, guards.same_numbers)
        front.depends_on_numbers = True
    return values[node]


def known(front: Front, output: OutputGraph, node: fx.Node, guarded: bool = True) -> Argument:
    """:func:`_concrete`; None, with what to say, for random numbers."""
    try:
        return _concrete(front, output, node, guarded)
    except _Random:
        front.blame(
            output.current_tx,
            "a random number of torch becomes a Python number, a size or a branch",
            "keep it a tensor (index with it, choose with torch.where), or draw it with Python's random",
        )
        return None
    except _Counter:
        front.blame(
            output.current_tx,
            "a number is read from a tensor that the critic changes at each call",
            "keep it a tensor, or count in a float attribute (a cumulative batch norm: give it a momentum)",
        )
        return None


def _inputs_of(node: fx.Node) -> set[fx.Node]:
    """The node, the nodes that it is computed from, and those that wrote into them so far."""
    before = list(node.graph.nodes)
    ancestors: dict[fx.Node, set[fx.Node]] = {}
    for each in before:
        ancestors[each] = {each}.union(*(ancestors[source] for source in each.all_input_nodes))
    needed = ancestors[node]
    while True:
        more = {n for n in before if n not in needed and _writes(n) and not ancestors[n].isdisjoint(needed)}
        if not more:
            return needed
        needed = needed.union(*(ancestors[n] for n in more))


def _writes(node: fx.Node) -> bool:
    name = _name(node)
    in_place = name.endswith("_") and not name.endswith("__")
    in_place |= "batch_norm" in name or "instance_norm" in name  # these write their statistics
    return in_place or "out" in node.kwargs or name in _IN_PLACE or name.startswith("__i")


_IN_PLACE = frozenset(
    (
        "setitem",
        *(
            f"i{name}"
            for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")
        ),
    )
)


def _is_constant_input(source: Source) -> bool:
    while source is not None:
        if getattr(source, "local_name", None) in ("x", "draws") or "Random" in type(source).__name__:
            return False
        base = getattr(source, "base", None)
        if base is None:
            return True
        source = base
    return False


def _compute(output: OutputGraph, node: fx.Node, values: dict[fx.Node, Argument]) -> Argument:
    if node.op == "placeholder":
        example = node.meta["grapharg"].example
        if isinstance(example, Tensor):
            return example.detach().clone()
        raise NotImplementedError
    if node.op == "get_attr":
        return output.nn_modules[node.target].detach().clone()
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if node.op == "call_function":
        return node.target(*args, **kwargs)  # type: ignore[operator]
    if node.op == "call_method":
        return getattr(args[0], node.target)(*args[1:], **kwargs)  # type: ignore[arg-type]
    raise NotImplementedError


def number_patches(front: Front) -> list[Patch]:
    """Make constants of numbers that are read from tensors. Not at the first attempt: a number that is only a
    factor can be an input, new at each call."""

    def read(tx: Translator, variable: Variable, needed: bool = False) -> Argument:
        found = known(front, tx.output, variable.as_proxy().node, front.numbers or needed)
        if found is None:
            return None
        front.read_number()
        return found if front.numbers or needed else None

    jumping = _jumps(read)
    patches: list[Patch] = [(dynamo.TensorVariable, "call_method", _methods(read))]
    patches += [
        (kind, "dispatch_table", jumping) for kind in _with_subclasses(dynamo.InstructionTranslatorBase)
    ]
    return patches


def _jumps(read: Callable[..., Argument]) -> Callable[[list[Method]], list[Method]]:
    """What makes a table of instructions in which a jump may depend on a tensor: ``if mask.any():``."""
    ConstantVariable, TensorVariable = dynamo.ConstantVariable, dynamo.TensorVariable
    jumps = {
        code for name, code in dis.opmap.items() if "JUMP" in name and "IF_" in name and "NONE" not in name
    }

    def jumping(original: Method) -> Method:
        def instruction(self: Translator, inst: dis.Instruction) -> object:
            top = self.stack[-1]
            if isinstance(top, TensorVariable):
                found = read(self, top, needed=True)
                if found is not None and found.numel() == 1:
                    self.stack[-1] = ConstantVariable.create(bool(found))
            return original(self, inst)

        return instruction

    return lambda table: [jumping(entry) if code in jumps else entry for code, entry in enumerate(table)]


def _methods(read: Callable[..., Argument]) -> Callable[[Method], Method]:
    """A tensor's ``item`` and ``tolist``; and ``random_``, which the front end does not know."""
    VariableTracker, wrap_fx_proxy = dynamo.VariableTracker, dynamo.wrap_fx_proxy
    proxy_args_kwargs = dynamo.proxy_args_kwargs

    def methods(original: Method) -> Method:
        def call_method(
            self: Variable, tx: Translator, name: str, args: list[Variable], kwargs: dict[str, Variable]
        ) -> Variable:
            if name in ("item", "tolist"):
                found = read(tx, self)
                if found is not None and (name == "tolist" or found.numel() == 1):
                    with _plain():
                        numbers = getattr(found, name)()
                    return VariableTracker.build(tx, numbers)
            if name != "random_" or kwargs:
                return original(self, tx, name, args, kwargs)
            call = proxy_args_kwargs([self, *args], kwargs)
            return wrap_fx_proxy(tx, tx.output.create_proxy("call_function", _random_, *call))

        return call_method

    return methods


def _with_subclasses(kind: type) -> Iterator[type]:
    yield kind
    below: type
    for below in kind.__subclasses__():
        yield from _with_subclasses(below)


def _random_(tensor: Tensor, *bounds: int) -> Tensor:
    if len(bounds) == 2:  # the same draws; "from" cannot be a keyword in code
        return tensor.random_(bounds[1] - bounds[0]).add_(bounds[0])
    return tensor.random_(*bounds)


def shape_patches(front: Front) -> list[Patch]:
    """Make constants of tensors whose shape depends on the data of constants."""

    def concrete(original: Method) -> Method:
        def run_node(
            tracer: Any, node: fx.Node, args: tuple[Argument, ...], kwargs: dict[str, Argument], nnmodule: Any
        ) -> Argument:
            output = getattr(tracer, "output_graph", tracer)
            pending = getattr(output.shape_env, "pending_fresh_unbacked_symbols", [])
            before, failed = list(pending), None
            try:
                result = original(tracer, node, args, kwargs, nnmodule)
                if not _unknown_shape(result) and _name(node) not in _TAKE_SIZES:
                    return result
            except Exception as error:
                causes = {type(e).__name__ for e in (error, error.__cause__, error.__context__)}
                if not causes & {"DynamicOutputShapeException", "DataDependentOutputException"}:
                    raise
                failed = error
            value = None if _name(node) in _TAKE_SIZES else known(front, output, node)
            changed = None
            if value is None:
                changed = _without_unknown_shape(front, output, node, args, kwargs)
            if value is None and changed is None:
                if failed is not None:
                    raise failed
                return result
            front.read_number()
            pending[:] = before
            if changed is None:
                return _frozen(output, node, value)
            return original(tracer, node, *changed, nnmodule)

        return run_node

    _unknown_shape(torch.empty(0))  # on a torch that lacks this it raises here
    return [(dynamo.utils, "run_node", concrete)]


_TAKE_SIZES = frozenset(
    ("view", "reshape", "expand", "repeat", "narrow", "unflatten", "tile", "split", "roll")
)


def _unknown_shape(result: Argument) -> bool:
    return any(isinstance(leaf, Tensor) and unknown_sizes(leaf) for leaf in tree.tree_leaves(result))


def _without_unknown_shape(
    front: Front, output: OutputGraph, node: fx.Node, args: tuple[Argument, ...], kwargs: dict[str, Argument]
) -> tuple[tuple[Argument, ...], dict[str, Argument]] | None:
    """Arguments with which a node that depends on x has a known shape: numbers in place of tensors that are
    sizes (``x.view(-1, self.width)``), indices in place of masks, the length of a repetition. The node gets
    them too. None if there are no such arguments."""
    made: dict[fx.Node, Argument] = {}
    for source in node.all_input_nodes:
        fake = source.meta.get("example_value")
        if not isinstance(fake, Tensor) or fake.is_floating_point():
            continue
        repeats = _name(node) == "repeat_interleave"
        masks = fake.dtype == torch.bool and _name(node) in ("getitem", "__getitem__")
        if not (repeats or masks or fake.dim() == 0):
            continue
        value = known(front, output, source)
        if value is None:
            continue
        with _plain():
            if masks:
                made[source] = tuple(value.nonzero().unbind(1))
            elif repeats:
                node.kwargs = kwargs = {**kwargs, "output_size": int(value.sum())}
            else:
                made[source] = value.item()
    if not made and "output_size" not in kwargs:
        return None
    fakes = {id(source.meta["example_value"]): value for source, value in made.items()}
    tensors = {
        id(member): _constant_node(output, node, member)
        for value in made.values()
        if isinstance(value, tuple)
        for member in value
    }
    by_node = {
        s: v if not isinstance(v, tuple) else tuple(tensors[id(m)] for m in v) for s, v in made.items()
    }
    by_fake = {
        i: v if not isinstance(v, tuple) else tuple(tensors[id(m)].meta["example_value"] for m in v)
        for i, v in fakes.items()
    }
    node.args = tuple(_spliced(arg, lambda n: by_node.get(n, n)) for arg in node.args)
    return tuple(_spliced(arg, lambda f: by_fake.get(id(f), f)) for arg in args), kwargs


def _spliced(value: Argument, replace: Callable[[Argument], Argument]) -> Argument:
    """Replace a mask of several dimensions by as many indices, in a tuple of indices."""
    if not isinstance(value, (tuple, list)):
        return replace(value) if isinstance(value, (fx.Node, Tensor)) else value
    members: list[Argument] = []
    for member in value:
        new = _spliced(member, replace)
        members.extend(new if isinstance(new, tuple) and not isinstance(member, (tuple, list)) else [new])
    return type(value)(members) if type(value) in (tuple, list) else tuple(members)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _frozen(output: OutputGraph, node: fx.Node, value: Argument) -> Argument:
    """Replace a node by its value, which is constant while the guards hold."""
    if isinstance(value, (tuple, list)):
        made = [_constant_node(output, node, member) for member in value]
        node.target, node.args = tuple, (made,)
        result: Argument = tuple(each.meta["example_value"] for each in made)
    else:
        node.target, node.args = _constant(output, value), ()
        result = _fake(output, value)
    node.op, node.kwargs = "call_function", {}
    return result


def _constant_node(output: OutputGraph, before: fx.Node, value: Tensor) -> fx.Node:
    with before.graph.inserting_before(before):
        made = before.graph.call_function(_constant(output, value))
    made.meta["example_value"] = _fake(output, value)
    return made


def _constant(output: OutputGraph, value: Tensor) -> Callable[[], Tensor]:
    def constant() -> Tensor:
        return torch.ops.aten.lift_fresh_copy.default(value)

    return constant


def _fake(output: OutputGraph, value: Tensor) -> Tensor:
    return output.fake_mode.from_tensor(value, static_shapes=True)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Compute with real tensors, while the front end computes with fake ones."""
    with without_dispatch_modes(), torch.no_grad():
        yield
