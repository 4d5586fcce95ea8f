"""From any callable to a functional ATen graph, by torch.compile's front end.

Dynamo finds the parameters (also through closures), inlines the Python, and guards every value that the
graph depends on, so nothing goes stale: the engine asks it at every call, and it hands over the current
parameters or compiles again. The backend given to Dynamo computes nothing; it notes which graph was
chosen and with which inputs. The graph is then traced to ATen operators without mutation, and split in
two: the *prologue* (what depends on parameters and not on x: spectral norm, weight norm) runs under
ordinary autograd, the *critic* goes to ``derive``.
"""

from __future__ import annotations

import contextlib
import operator
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx

from ..rules import linear_map
from ..rules.registry import find
from .derive import derive, is_float, value_of

aten = torch.ops.aten


class CaptureError(Exception):
    """The critic cannot be captured as one graph; the message says what stopped it."""


@dataclass
class Captured:
    """One captured critic graph.

    Attributes:
        critic: functional ATen graph; placeholders are x, then the leaves; output: the score.
        prologue: ``(*inputs) -> (*leaves, *extras)``, run under autograd; None if it would be empty.
        leaf_sources: for each leaf, ``("input", i)`` or ``("prologue", k)``.
        extra_outputs: how the backend answers Dynamo for graph outputs other than the score.
        x_index: position of x among Dynamo's inputs.
        plans: derived plans by what they must produce; filled by the plan.
    """

    critic: fx.Graph
    prologue: fx.GraphModule | None
    leaf_sources: list[tuple[str, int]]
    extra_outputs: list[tuple[str, int]]
    x_index: int
    batch_norm: str | None
    plans: dict[Any, Any] = field(default_factory=dict)

    def leaves(self) -> list[fx.Node]:
        """The placeholders after x."""
        return [n for n in self.critic.nodes if n.op == "placeholder"][1:]


@dataclass
class Binding:
    """A captured graph and the current values of its leaves: what one call hands to its plan."""

    captured: Captured
    leaves: tuple[Any, ...]


SCORE = object()  # what the backend returns in place of the score
_slot = threading.local()


class _Miss(Exception):
    """No compiled entry fits this call."""


def _body(critic: Any, output: Any, x: Tensor, score: Any) -> Any:
    # is_compiling() is True for Dynamo and False for Python: an eager run means that no entry fits.
    if not torch.compiler.is_compiling():
        raise _Miss
    result = critic(x)
    return result if output is None else output(result)


class _Entry:
    """The compiled functions of one critic: its own code object, hence its own guards and limits."""

    def __init__(self, number: int) -> None:
        import torch._dynamo

        # Dynamo keeps its memory of changing shapes by file, line and name: make those unique.
        code = _body.__code__.replace(co_name=f"critic_{number}", co_firstlineno=100_000 + number)
        function = types.FunctionType(code, _body.__globals__, f"critic_{number}")
        self.compiled = torch.compile(function, backend=_backend, fullgraph=True)
        self.cached = torch._dynamo.run(self.compiled)
        self.refused: str | None = None


_entries: WeakKeyDictionary[Any, _Entry] = WeakKeyDictionary()
_entries_lock = threading.Lock()
_count = 0


def unwrap(critic: Any) -> Any:
    """The callable behind ``torch.compile`` and DistributedDataParallel: both refuse to be captured."""
    while True:
        if isinstance(critic, torch.nn.Module):
            inner = critic._modules.get("_orig_mod")
            if inner is None and isinstance(critic, torch.nn.parallel.DistributedDataParallel):
                inner = critic.module
        else:
            inner = getattr(critic, "_torchdynamo_orig_callable", None)
        if inner is None:
            return critic
        critic = inner


def _key(critic: Any) -> Any:
    """What owns the compiled code: a module, or a function's code (so that fresh lambdas share it)."""
    if isinstance(critic, torch.nn.Module):
        return critic
    code = getattr(critic, "__code__", None) or getattr(getattr(critic, "__func__", None), "__code__", None)
    return code if code is not None else type(critic)


def entry(critic: Any) -> _Entry:
    """The entry of an unwrapped critic, made on first use."""
    global _count
    key = _key(critic)
    found = _entries.get(key)
    if found is None:
        with _entries_lock:
            found = _entries.get(key)
            if found is None:
                _count += 1
                found = _entries[key] = _Entry(_count)
    return found


def bind(critic: Callable[[Tensor], Any], output: Callable[[Any], Tensor] | None, x: Tensor) -> Binding:
    """Capture ``critic`` at ``x`` or re-use what was captured; hand over the current leaves.

    Args:
        critic: an unwrapped critic.
        output: picks the score from what the critic returns, or None.
        x: ``[N, ...]``, requires a gradient.

    Raises:
        CaptureError: it cannot be captured (a graph break, an operator without second derivative, ...).
        TypeError: the critic returns something other than one tensor.
    """
    own = entry(critic)
    if own.refused is not None:
        raise CaptureError(own.refused)
    _slot.binding = None
    try:
        result = own.cached(critic, output, x, SCORE)
    except _Miss:
        result = _compile(own, critic, output, x)
    binding = _slot.binding
    _slot.binding = None
    if result is not SCORE:
        if binding is None:
            raise CaptureError("torch.compile is disabled (TORCHDYNAMO_DISABLE or a stance)")
        raise TypeError(
            f"the critic must return one tensor, got {type(result).__name__}: pass output=, a function that "
            f"picks the score (for example output=lambda result: result[0])"
        )
    return binding


def _compile(own: _Entry, critic: Any, output: Any, x: Tensor) -> Any:
    import torch._dynamo
    from torch._dynamo import exc

    # Python numbers of a module that change at every call (a fade-in factor, a counter) become inputs
    # on their second value; recurrent layers are traced through; each shape has an entry of its own.
    patch = torch._dynamo.config.patch(
        allow_rnn=True, allow_unspec_int_on_nn_module=True, recompile_limit=256, accumulated_recompile_limit=4096
    )
    try:
        with patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return own.compiled(critic, output, x, SCORE)
    except _Miss:
        raise CaptureError("torch.compile is disabled (TORCHDYNAMO_DISABLE or a stance)") from None
    except exc.BackendCompilerFailed as error:
        inner = error.inner_exception
        raise CaptureError(str(inner)) from error
    except exc.TorchDynamoException as error:
        raise CaptureError(_first_lines(error)) from error


def _first_lines(error: BaseException) -> str:
    """The line of the user's code and the explanation, out of Dynamo's page-long messages."""
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    where = [line for line in lines if line.startswith("File ")]
    explanation = next((line for line in lines if line.startswith("Explanation:")), "")
    hint = next((line for line in lines if line.startswith("Hint:")), "")
    parts = [lines[0] if lines else type(error).__name__, explanation, hint, where[-1] if where else ""]
    return " ".join(part for part in parts if part)


# the backend -------------------------------------------------------------------------------------


def _backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
    """What Dynamo calls once a graph: trace it, split it, return the function that notes its use."""
    captured = _split(*_trace(gm, example_inputs))
    # What cannot be derived must be known now: later the prologue would have updated buffers already.
    derive(captured.critic, True, [i for i, leaf in enumerate(captured.leaves()) if leaf.meta["trains"]])
    prologue, sources, extras = captured.prologue, captured.leaf_sources, captured.extra_outputs

    def note(*inputs: Any) -> tuple[Any, ...]:
        computed = prologue.forward(*inputs) if prologue is not None else ()
        banks = {"input": inputs, "prologue": computed}
        _slot.binding = Binding(captured, tuple([banks[bank][i] for bank, i in sources]))
        return tuple([SCORE if bank == "score" else banks[bank][i] for bank, i in extras])

    return note


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Library choices that have a double backward, and no cache that could keep a fake tensor."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    cache = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    mkldnn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)
        torch.set_autocast_cache_enabled(cache)


def _trace(gm: fx.GraphModule, example_inputs: list[Any]) -> tuple[fx.GraphModule, fx.GraphModule, list[int]]:
    """Dynamo's graph as functional ATen; also which outputs are mutated inputs, in output order."""
    from torch._functorch._aot_autograd.functional_utils import from_fun, to_fun
    from torch._subclasses.functional_tensor import FunctionalTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    for node in gm.graph.nodes:
        if node.op == "call_method" and node.target in ("register_hook", "register_post_accumulate_grad_hook"):
            raise CaptureError("the critic registers a gradient hook on an intermediate tensor")
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise CaptureError(f"the critic uses {node.target} (a custom autograd.Function, checkpointing or a control-flow operator)")
    tracing = torch._guards.TracingContext.try_get()
    mode = tracing.fake_mode if tracing is not None else None
    if mode is None:
        raise CaptureError("no fake tensor mode is active")
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            example = node.meta.get("example_value")
            if isinstance(example, Tensor):
                for size in (*example.shape, *example.stride()):
                    int(size)  # a guard: shapes are static, each has a graph of its own
    fakes = [mode.from_tensor(e, static_shapes=True) if isinstance(e, Tensor) else e for e in example_inputs]
    mutated: list[int] = []

    def functional(*inputs: Any) -> list[Any]:
        mutated.clear()
        with FunctionalTensorMode():
            wrapped = [to_fun(i) if isinstance(i, Tensor) else i for i in inputs]
            results = []
            for result in gm(*wrapped):
                if isinstance(result, Tensor):
                    torch._sync(result)
                    result = from_fun(result)
                results.append(result)
            for i, (given, held) in enumerate(zip(inputs, wrapped)):
                if isinstance(given, Tensor):
                    torch._sync(held)
                    value = from_fun(held)
                    if value is not given:
                        mutated.append(i)
                        results.append(value)
        return results

    with _tracing(), mode, _recorded_grad_mode():
        traced = make_fx(functional, tracing_mode="real", _allow_non_fake_inputs=True)(*fakes)
    for node, fake in zip(traced.graph.find_nodes(op="placeholder"), fakes):
        node.meta["trains"] = is_float(fake) and fake.requires_grad  # the traced value has lost it
    _check_static(traced)
    return gm, traced, mutated


@contextlib.contextmanager
def _recorded_grad_mode() -> Iterator[None]:
    """Note on every traced node whether the critic had switched gradients off."""
    from torch.fx.experimental import proxy_tensor

    tracer = proxy_tensor.PythonKeyTracer
    original = tracer.create_node

    def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = original(self, *args, **kwargs)
        if not torch.is_grad_enabled():
            node.meta["no_grad"] = True
        return node

    tracer.create_node = create_node  # type: ignore[method-assign]
    try:
        yield
    finally:
        tracer.create_node = original  # type: ignore[method-assign]


def _check_static(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(s, int) for s in value.shape):
            raise CaptureError(f"the shape of {node.name} depends on a changing number")


# the split ---------------------------------------------------------------------------------------


def _split(gm: fx.GraphModule, traced: fx.GraphModule, mutated: list[int]) -> Captured:
    graph = traced.graph
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    x_index = _find_x(gm)
    x = inputs[x_index]
    for node in list(graph.nodes):
        if node.op == "get_attr":
            value = getattr(traced, node.target)
            raise_if_fake(value, node)
            node.meta["val"] = value
    (results,) = next(n for n in graph.nodes if n.op == "output").args
    outputs_of_gm = next(n for n in gm.graph.nodes if n.op == "output").args[0]
    count = len(outputs_of_gm)
    outputs, new_values = list(results[:count]), list(results[count:])
    moving = _depends_on(graph, {x})

    score, plan = None, []
    updated = dict(zip(new_values, mutated))
    for position, out in enumerate(outputs):
        if isinstance(out, fx.Node) and out in updated:
            plan.append(("input", updated[out]))  # the mutated buffer itself, as in eager code
        elif isinstance(out, fx.Node) and out in inputs:
            plan.append(("input", inputs.index(out)))
        elif isinstance(out, fx.Node) and out in moving:
            if score is not None:
                raise CaptureError("the critic keeps a tensor that depends on its input (or returns several): only the score can leave the fused path")
            score = out
            plan.append(("score", position))
        else:
            plan.append(("constant", position))
    if score is None:
        raise CaptureError("the critic's output does not depend on x")
    return _Splitter(traced, inputs, x_index, moving, score, outputs, plan, list(zip(mutated, new_values))).run()


def raise_if_fake(value: Any, node: fx.Node) -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(value, FakeTensor):
        raise CaptureError(f"{node.name} is a constant without data")


def _find_x(gm: fx.GraphModule) -> int:
    """Position of x: Dynamo names the argument ``x`` of the root function so, whatever it reaches."""
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
    """Cuts the traced graph into prologue and critic."""

    def __init__(self, traced: fx.GraphModule, inputs: list[fx.Node], x_index: int, moving: set[fx.Node],
                 score: fx.Node, outputs: list[Any], plan: list[tuple[str, int]],
                 effects: list[tuple[int, fx.Node]]) -> None:  # fmt: skip
        self.traced, self.inputs, self.x_index, self.moving = traced, inputs, x_index, moving
        self.score, self.outputs, self.plan, self.effects = score, outputs, plan, effects
        self.calls = [n for n in traced.graph.nodes if n.op in ("call_function", "get_attr")]

    def run(self) -> Captured:
        before = self._prologue_nodes()
        prologue = fx.Graph()
        held = {node: prologue.placeholder(node.name) for node in self.inputs}
        for node in self.calls:
            if node in before:
                held[node] = self._prologue_node(prologue, node, held)
        critic = fx.Graph()
        here: dict[fx.Node, fx.Node] = {}
        x = self.inputs[self.x_index]
        here[x] = self._leaf(critic, x)
        sources: list[tuple[str, int]] = []
        from_prologue: list[fx.Node] = []
        effects = {value: i for i, value in self.effects}
        body = [n for n in self.calls if n not in before]
        used = {s for n in body for s in n.all_input_nodes} | {self.score}
        used |= {self.inputs[i] for i, value in self.effects if value in self.moving or value not in before}
        used |= {value for value in effects if value not in before}
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
        for node in body:
            if node.op == "get_attr":
                here[node] = critic.create_node("get_attr", node.target)
                raise CaptureError("the critic creates a tensor constant")
            here[node] = critic.node_copy(node, here.__getitem__)
            here[node].meta = dict(node.meta)
        for i, value in self.effects:
            if value in before or value in self.inputs:
                prologue.call_function(aten.copy_.default, (held[self.inputs[i]], held[value]))
            else:
                update = critic.call_function(aten.copy_.default, (here[self.inputs[i]], here[value]))
                update.meta = {"val": value_of(value), "no_grad": True}
        critic.output(here[self.score])
        extras = self._extras(held, from_prologue)
        prologue.output(tuple(held[n] for n in from_prologue))
        module = fx.GraphModule(self.traced, prologue, "Prologue") if (before or _has_effects(prologue)) else None
        normalise(critic)
        return Captured(critic, module, sources, extras, self.x_index, _batch_norm(critic))

    @staticmethod
    def _leaf(graph: fx.Graph, node: fx.Node) -> fx.Node:
        leaf = graph.placeholder(node.name)
        leaf.meta = {"val": value_of(node), "trains": node.meta.get("trains", False)}
        return leaf

    def _prologue_node(self, prologue: fx.Graph, node: fx.Node, held: dict[fx.Node, fx.Node]) -> fx.Node:
        new = prologue.node_copy(node, held.__getitem__)
        new.meta = dict(node.meta)
        if node.meta.get("no_grad") and is_float(value_of(node)):
            new = prologue.call_function(aten.detach.default, (new,))
        return new

    def _prologue_nodes(self) -> set[fx.Node]:
        """Nodes that carry parameter gradients and not x, save cheap views, and all they depend on."""
        carries = {n for n in self.inputs if n.meta["trains"]}
        chosen: set[fx.Node] = set()
        for node in self.calls:
            if node in self.moving:
                continue
            if node.op == "get_attr" or not isinstance(value_of(node), (Tensor, tuple, list)):
                chosen.add(node)  # constants and numbers
                continue
            differentiable = (
                not node.meta.get("no_grad")
                and node.target is not aten.detach.default
                and any(s in carries for s in node.all_input_nodes)
            )
            if differentiable:
                carries.add(node)
                node.meta["trains"] = is_float(value_of(node))
                if not self._stays(node):
                    chosen.add(node)
        chosen |= {out for out, (bank, _) in zip(self.outputs, self.plan) if bank == "constant" and isinstance(out, fx.Node)}
        for node in reversed(self.calls):
            if node in chosen:
                chosen |= {s for s in node.all_input_nodes if s not in self.inputs}
        return chosen

    def _stays(self, node: fx.Node) -> bool:
        if node.target is operator.getitem:
            return self._stays(node.args[0])
        rule = find(node.target)
        return rule is not None and rule.inline and is_float(value_of(node.args[0]))

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


def _has_effects(graph: fx.Graph) -> bool:
    return any(n.target is aten.copy_.default for n in graph.nodes)


def _batch_norm(graph: fx.Graph) -> str | None:
    """Name of a batch norm in training mode over more than one sample, for the paper's warning."""
    for node in graph.nodes:
        if node.op == "call_function" and "batch_norm" in str(node.target) and "no_training" not in str(node.target):
            if "no_stats" not in str(node.target) or value_of(node.args[0]).shape[0] > 1:
                arguments = node.target._schema.arguments
                names = [a.name for a in arguments]
                if "training" in names and node.args[names.index("training")] is True:
                    return node.name
    return None


# normal form -------------------------------------------------------------------------------------


def normalise(graph: fx.Graph) -> None:
    """Rewrite products with a transposed weight as ``linear``, other ``addmm`` as ``mm`` and ``add``."""
    for node in list(graph.nodes):
        if node.target is aten.addmm.default:
            _addmm(graph, node)
        elif node.target is aten.mm.default:
            weight = _untransposed(node.args[1])
            if weight is not None:
                _replace(graph, node, aten.linear.default, (node.args[0], weight))
        elif node.target is aten.baddbmm.default:
            _sum_of_product(graph, node, aten.bmm.default)
        elif node.target is aten.addmv.default:
            _sum_of_product(graph, node, aten.mv.default)
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and find(node.target) in linear_map.TABLE.values():
            graph.erase_node(node)


def _untransposed(node: Any) -> fx.Node | None:
    return node.args[0] if isinstance(node, fx.Node) and node.target is aten.t.default else None


def _replace(graph: fx.Graph, node: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_before(node):
        new = graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.erase_node(node)
    return new


def _addmm(graph: fx.Graph, node: fx.Node) -> None:
    bias, a, b = node.args
    weight = _untransposed(b)
    plain = not node.kwargs or all(v == 1 for v in node.kwargs.values())
    if weight is not None and plain and value_of(bias).dim() == 1:
        _replace(graph, node, aten.linear.default, (a, weight, bias))
    else:
        _sum_of_product(graph, node, aten.mm.default)


def _sum_of_product(graph: fx.Graph, node: fx.Node, product: Any) -> None:
    base, a, b = node.args
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
        total.args = (scaled, total.args[1])
