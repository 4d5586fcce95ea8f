"""What torch.compile's front end (Dynamo) is taught while a critic is captured.

Dynamo turns some Python values into graph inputs or refuses them, where a critic means plain constants. Each
patch here is active only inside :func:`widened`, that is while one critic is compiled under the capture's lock,
has its reason beside it, and names the part of torch that it changes; a torch without that part is left as it
is, and what the patch would have allowed takes the stock path.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode

Patch = tuple[Any, str, Callable[[Any], Any]]  # owner, attribute, what makes the new value of the old


class FrontEnd:
    """What the front end has learnt of one critic.

    Attributes:
        numbers: numbers that the critic reads from constant tensors become constants.
    """

    def __init__(self) -> None:
        self.numbers = False
        self._read: str | None = None

    def compile(self, call: Callable[[], Any]) -> Any:
        """``call()``, which compiles the critic, with a wider front end."""
        self.numbers, self._read = False, None
        try:
            with _patched(self):
                return call()
        except Exception:
            if self._read is None:
                raise
        self.numbers = True
        with _patched(self):
            return call()

    def read_number(self, tx: Any) -> None:
        """The critic reads a number from constant tensors."""
        self._read = "line"


@contextlib.contextmanager
def _patched(front: FrontEnd) -> Iterator[None]:
    """Around one compilation."""
    with contextlib.ExitStack() as stack:
        for owner, name, make in (*_patches(), *_shape_patches(front), *_number_patches(front)):
            original = owner.__dict__.get(name)
            if original is None:
                continue
            static = isinstance(original, staticmethod)
            made = make(original.__func__ if static else original)
            setattr(owner, name, staticmethod(made) if static else made)
            stack.callback(setattr, owner, name, original)
        yield


@functools.cache
def _patches() -> list[Patch]:
    from torch._dynamo.variables import builder

    return [
        *_numpy_patches(builder),
    ]


# numpy scalars -------------------------------------------------------------------------------------
#
# A width, a size or a gain computed with numpy (``np.sqrt(2)``, a sum of column counts) is a numpy scalar.
# Dynamo makes a tensor of it, whose value a size or a branch cannot use. It is a constant, guarded by value, and
# keeps its numpy type, so that arithmetic between such scalars rounds as numpy does; an operator of torch takes it
# as the Python number of the same value, which is what eager torch does.


_NUMERIC = {
    "nb_add_impl": operator.add,
    "nb_subtract_impl": operator.sub,
    "nb_multiply_impl": operator.mul,
    "nb_true_divide_impl": operator.truediv,
    "nb_floor_divide_impl": operator.floordiv,
    "nb_remainder_impl": operator.mod,
    "nb_divmod_impl": divmod,
    "nb_power_impl": operator.pow,
    "nb_and_impl": operator.and_,
    "nb_or_impl": operator.or_,
    "nb_xor_impl": operator.xor,
    "nb_lshift_impl": operator.lshift,
    "nb_rshift_impl": operator.rshift,
    "nb_negative_impl": operator.neg,
    "nb_positive_impl": operator.pos,
    "nb_absolute_impl": abs,
    "nb_index_impl": operator.index,
    "nb_int_impl": int,
    "nb_float_impl": float,
}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (np.number, np.bool_))


@functools.cache
def _scalar_variable() -> Any:
    from torch._dynamo.variables import ConstantVariable
    from torch._dynamo.variables.base import VariableTracker

    class NumpyScalarVariable(ConstantVariable):
        """A numpy scalar whose value is guarded, or was computed from such."""

        def __init__(self, value: Any, **kwargs: Any) -> None:
            VariableTracker.__init__(self, **kwargs)
            self.value = value

        def python_type(self) -> type:
            return type(self.value)

        def as_proxy(self) -> Any:
            return self.value.item()

        def call_method(self, tx: Any, name: str, args: Any, kwargs: Any) -> Any:
            constants = [a.as_python_constant() for a in args]
            named = {k: v.as_python_constant() for k, v in kwargs.items()}
            return VariableTracker.build(tx, getattr(self.value, name)(*constants, **named))

    def number(name: str, compute: Any) -> Any:
        before = getattr(ConstantVariable, name)

        def slot(self: Any, tx: Any, *rest: Any, **options: Any) -> Any:
            others = [other for other in rest if isinstance(other, VariableTracker)]
            reverse = options.get("reverse", True in rest)
            if not all(other.is_python_constant() for other in others):
                return before(self, tx, *rest, **options)
            values = [self.value, *(other.as_python_constant() for other in others)]
            return VariableTracker.build(tx, compute(*(values[::-1] if reverse else values)))

        return slot

    for name, compute in _NUMERIC.items():
        if hasattr(ConstantVariable, name):
            setattr(NumpyScalarVariable, name, number(name, compute))
    return NumpyScalarVariable


def _numpy_patches(builder: Any) -> list[Patch]:
    from torch._dynamo.variables import ConstantVariable, NumpyVariable, TorchInGraphFunctionVariable

    def wrap(original: Any) -> Any:
        def _wrap(self: Any, value: Any) -> Any:
            if not _is_scalar(value):
                return original(self, value)
            self.install_guards(_equals_guard)
            return _scalar_variable()(value, source=self.source)

        return _wrap

    def create(original: Any) -> Any:
        def create(*args: Any, **kwargs: Any) -> Any:
            value = args[-1] if args else kwargs.get("value")
            if isinstance(value, _scalar_variable()):
                return value
            return _scalar_variable()(value) if _is_scalar(value) else original(*args, **kwargs)

        return create

    def fold(original: Any) -> Any:
        """Numpy's functions of constants: as numpy computes them."""

        def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
            members = [*args, *kwargs.values()]
            pure = isinstance(self.value, np.ufunc) or "random" not in str(
                getattr(self.value, "__module__", "random")
            )
            if pure and all(a.is_python_constant() for a in members):
                named = {k: v.as_python_constant() for k, v in kwargs.items()}
                try:
                    result = self.value(*[a.as_python_constant() for a in args], **named)
                except Exception:
                    return original(self, tx, args, kwargs)
                if _is_scalar(result) or type(result) in (bool, int, float):
                    return builder.SourcelessBuilder.create(tx, result)
            return original(self, tx, args, kwargs)

        return call_function

    def typed(original: Any) -> Any:
        """``torch.tensor`` of numpy scalars has their dtype, not the default one."""

        def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
            if (
                self.value in (torch.tensor, torch.as_tensor, torch.asarray)
                and "dtype" not in kwargs
                and len(args) == 1
                and args[0].is_python_constant()
            ):
                data = args[0].as_python_constant()
                if any(_is_scalar(leaf) for leaf in torch.utils._pytree.tree_leaves(data)):
                    with torch.utils._python_dispatch._disable_current_modes():
                        dtype = torch.tensor(data).dtype
                    kwargs = {**kwargs, "dtype": ConstantVariable.create(dtype)}
            return original(self, tx, args, kwargs)

        return call_function

    return [
        (builder.VariableBuilder, "_wrap", wrap),
        (builder.SourcelessBuilder, "create", create),
        (ConstantVariable, "create", create),
        (NumpyVariable, "call_function", fold),
        (TorchInGraphFunctionVariable, "call_function", typed),
    ]


# numbers and shapes read from tensors --------------------------------------------------------------
#
# ``int(self.batch.max()) + 1``, ``mask.nonzero()``, ``edges[:, mask]``: what they give depends on the data of
# tensors that do not depend on x (buffers, constants). They are computed once, while the critic is compiled, and
# every tensor they were computed from is guarded by its values: a changed buffer means another graph.


class _Random(Exception):
    """A value would depend on torch's random numbers."""


class _NoRandom(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise _Random
        return func(*args, **(kwargs or {}))


def _concrete(output: Any, node: fx.Node, guarded: bool = True) -> Any:
    """The value of a node of Dynamo's graph, from the inputs as they are now; None if it depends on x, on
    random numbers, or cannot be told. ``guarded``: the graph will hold for these inputs alone."""
    if node.graph is not output.root_tracer.graph or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    needed = _inputs_of(node)
    placeholders = [n for n in needed if n.op == "placeholder"]
    sources = [getattr(n.meta.get("grapharg"), "source", None) for n in placeholders]
    if any(not _is_constant_input(source) for source in sources):
        return None
    values: dict[fx.Node, Any] = {}
    try:
        with _plain(), _NoRandom():
            for each in node.graph.nodes:
                if each in needed:
                    values[each] = _compute(output, each, values)
    except Exception:  # whatever cannot be computed ahead is left to the front end
        return None
    for each in needed:
        fake = each.meta.get("example_value")
        if isinstance(fake, Tensor) and fake._version != values[each]._version:
            return None  # something that depends on x was written into it
    for source in sources if guarded else ():
        _install_guard(source, _values_guard)
    return values[node]


def _inputs_of(node: fx.Node) -> set[fx.Node]:
    """The node, what it is computed from, and what was written into that so far."""
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
    return in_place or "out" in node.kwargs or name in _IN_PLACE or name.startswith("__i")


_IN_PLACE = frozenset(
    ("setitem", *(f"i{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")))
)


def _is_constant_input(source: Any) -> bool:
    while source is not None:
        if getattr(source, "local_name", None) in ("x", "draws") or "Random" in type(source).__name__:
            return False
        base = getattr(source, "base", None)
        if base is None:
            return True
        source = base
    return False


def _compute(output: Any, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
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


def _number_patches(front: FrontEnd) -> list[Patch]:
    """Numbers read from tensors become constants. Not at the first attempt: a number that is only multiplied
    with stays a number of each call, whatever it changes to."""
    from torch._dynamo import symbolic_convert
    from torch._dynamo.variables import ConstantVariable, TensorVariable
    from torch._dynamo.variables.base import VariableTracker

    def read(tx: Any, variable: Any, needed: bool = False) -> Any:
        found = _concrete(tx.output, variable.as_proxy().node, front.numbers or needed)
        if found is None:
            return None
        front.read_number(tx)
        return found if front.numbers or needed else None

    def item(original: Any) -> Any:
        def method_item(self: Any, tx: Any, *args: Any, **kwargs: Any) -> Any:
            found = read(tx, self)
            if found is None or found.numel() != 1:
                return original(self, tx, *args, **kwargs)
            with _plain():
                return ConstantVariable.create(found.item())

        return method_item

    def tolist(original: Any) -> Any:
        def method_tolist(self: Any, tx: Any, *args: Any, **kwargs: Any) -> Any:
            found = read(tx, self)
            if found is None:
                return original(self, tx, *args, **kwargs)
            return VariableTracker.build(tx, found.tolist())

        return method_tolist

    def jumping(original: Any) -> Any:
        """``if mask.any():``"""

        def instruction(self: Any, inst: Any) -> Any:
            top = self.stack[-1]
            if isinstance(top, TensorVariable):
                found = read(self, top, needed=True)
                if found is not None and found.numel() == 1:
                    self.stack[-1] = ConstantVariable.create(bool(found))
            return original(self, inst)

        return instruction

    def tables(kind: Any) -> Iterator[Any]:
        yield kind
        for below in kind.__subclasses__():
            yield from tables(below)

    patches: list[Patch] = [
        (TensorVariable, "method_item", item),
        (TensorVariable, "method_tolist", tolist),
    ]
    jumps = {code for name, code in dis.opmap.items() if "JUMP" in name and "IF_" in name and "NONE" not in name}
    for kind in tables(symbolic_convert.InstructionTranslatorBase):
        patches.append(
            (
                kind,
                "dispatch_table",
                lambda table: [
                    jumping(entry) if code in jumps else entry for code, entry in enumerate(table)
                ],
            )
        )
    return patches


def _shape_patches(front: FrontEnd) -> list[Patch]:
    """Tensors whose shape depends on the data of constants become constants themselves."""
    from torch._dynamo import utils

    def concrete(original: Any) -> Any:
        def run_node(tracer: Any, node: Any, args: Any, kwargs: Any, nnmodule: Any) -> Any:
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
            value = None if _name(node) in _TAKE_SIZES else _concrete(output, node)
            if value is None:
                known = _without_unknown_shape(output, node, args, kwargs)
                if known is None and failed is not None:
                    raise failed
                if known is None:
                    return result
            front.read_number(output.current_tx)
            pending[:] = before
            if value is None:
                return original(tracer, node, *known, nnmodule)
            return _frozen(output, node, value)

        return run_node

    return [(utils, "run_node", concrete)]


_TAKE_SIZES = frozenset(("view", "reshape", "expand", "repeat", "narrow", "unflatten", "tile", "split", "roll"))


def _unknown_shape(result: Any) -> bool:
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    return any(
        isinstance(leaf, Tensor) and free_unbacked_symbols(leaf)
        for leaf in torch.utils._pytree.tree_leaves(result)
    )


def _without_unknown_shape(output: Any, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Arguments with which a node that depends on x has a known shape: numbers for tensors given as sizes
    (``x.view(-1, self.width)``), indices for masks, the length of a repetition. They are put into the node too;
    None if that is not all."""
    made: dict[fx.Node, Any] = {}
    for source in node.all_input_nodes:
        fake = source.meta.get("example_value")
        if not isinstance(fake, Tensor) or fake.is_floating_point():
            continue
        repeats = _name(node) == "repeat_interleave"
        masks = fake.dtype == torch.bool and _name(node) in ("getitem", "__getitem__")
        if not (repeats or masks or fake.dim() == 0):
            continue
        value = _concrete(output, source)
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
    by_node = {s: v if not isinstance(v, tuple) else tuple(tensors[id(m)] for m in v) for s, v in made.items()}
    by_fake = {
        i: v if not isinstance(v, tuple) else tuple(tensors[id(m)].meta["example_value"] for m in v)
        for i, v in fakes.items()
    }
    node.args = tuple(_spliced(arg, lambda n: by_node.get(n, n)) for arg in node.args)
    return tuple(_spliced(arg, lambda f: by_fake.get(id(f), f)) for arg in args), kwargs


def _spliced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """A mask of several dimensions stands for as many indices, in a tuple of indices."""
    if not isinstance(value, (tuple, list)):
        return replace(value) if isinstance(value, (fx.Node, Tensor)) else value
    members: list[Any] = []
    for member in value:
        new = _spliced(member, replace)
        members.extend(new if isinstance(new, tuple) and not isinstance(member, (tuple, list)) else [new])
    return type(value)(members) if type(value) in (tuple, list) else tuple(members)


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _frozen(output: Any, node: fx.Node, value: Any) -> Any:
    """Make a node the constant that it always gives under the guards."""
    if isinstance(value, (tuple, list)):
        made = [_constant_node(output, node, member) for member in value]
        node.target, node.args = tuple, (made,)
        result: Any = tuple(each.meta["example_value"] for each in made)
    else:
        node.target, node.args = _constant(output, value), ()
        result = _fake(output, value)
    node.op, node.kwargs = "call_function", {}
    return result


def _constant_node(output: Any, before: fx.Node, value: Tensor) -> fx.Node:
    with before.graph.inserting_before(before):
        made = before.graph.call_function(_constant(output, value))
    made.meta["example_value"] = _fake(output, value)
    return made


def _constant(output: Any, value: Tensor) -> Callable[[], Tensor]:
    def constant() -> Tensor:
        return torch.ops.aten.lift_fresh_copy.default(value)

    return constant


def _fake(output: Any, value: Tensor) -> Any:
    return output.fake_mode.from_tensor(value, static_shapes=True)


@contextlib.contextmanager
def _plain() -> Iterator[None]:
    """Real tensors compute, also while the front end computes with fake ones."""
    with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
        yield


# guards --------------------------------------------------------------------------------------------


def _equals_guard(builder: Any, guard: Any) -> None:
    """The same type and the same value, also NaN."""
    value = builder.get(guard)
    kind, text = type(value), repr(value)
    # the text tells apart what compares equal (0.0 and -0.0) and finds NaN equal to itself
    _add_guard(builder, guard, lambda v: type(v) is kind and repr(v) == text, f"== {text}")


def _add_guard(builder: Any, guard: Any, check: Callable[[Any], bool], text: str) -> None:
    manager = builder.get_guard_manager(guard)
    parts = [f"{builder.arg_ref(guard)} {text}"]
    try:
        manager.add_lambda_guard(check, parts, guard.user_stack)
    except TypeError:  # before torch 2.12
        manager.add_lambda_guard(check, parts)


def _values_guard(builder: Any, guard: Any) -> None:
    """A tensor with the same numbers."""
    kept = builder.get(guard).detach().clone()

    def check(value: Any) -> bool:
        if not isinstance(value, Tensor) or value.dtype != kept.dtype or value.device != kept.device:
            return False
        return torch.equal(value, kept) or (
            kept.shape == value.shape and torch.allclose(value, kept, rtol=0, atol=0, equal_nan=True)
        )

    _add_guard(builder, guard, check, "has the same numbers")


def _install_guard(source: Any, kind: Any) -> None:
    from torch._dynamo.guards import install_guard

    install_guard(source.make_guard(kind))
