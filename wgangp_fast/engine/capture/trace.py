"""From Dynamo's graph to functional ATen operators: no mutation, operators with a second derivative."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, fx

from ...errors import CaptureError
from ...rules.nodes import Argument, Operator, info_of
from ...rules.registry import OPERATOR, PACKET
from .. import torch_internals
from ..ir import is_float
from ..torch_internals import functional
from .history import RecordHistory
from .patching import Method, Patch, patched

aten = torch.ops.aten


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Gradients on, and no cache that could keep a fake tensor."""
    cache = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.enable_grad(), patched(_ordinary_checks()):
            yield
    finally:
        torch.set_autocast_cache_enabled(cache)


@contextlib.contextmanager
def _with_double_backward() -> Iterator[None]:
    """Where torch chooses between libraries, those operators that have a second derivative. The switches are
    the whole process's: other threads are slower meanwhile."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with torch_internals.without_library_operators(), sdpa_kernel(SDPBackend.MATH):
        yield


#: beginnings of the names of operators that are one library's way to do what others do as well
_LIBRARIES = ("cudnn_", "_cudnn_", "miopen_", "mkldnn_", "_scaled_dot_product_", "_fused_sdp", "_miopen_")


def _is_of_a_library(node: fx.Node) -> bool:
    return isinstance(node.target, OPERATOR) and node.target.name().split("::")[1].startswith(_LIBRARIES)


def _ordinary_checks() -> list[Patch]:
    """The check behind ``linalg.inv`` and its like is an ordinary node: torch orders it by tokens, which are
    made for another kind of capture."""
    owner = torch_internals.ordering_by_tokens()

    def without_check(original: Method) -> Method:
        return lambda op: op is not aten._linalg_check_errors.default and original(op)

    return [(owner, name, without_check) for name in ("has_effects", "_has_effects") if owner is not None]


Effect = tuple[int, bool]  # an input's position, and whether it gets other memory (``t.data = ...``)


def trace(
    gm: fx.GraphModule, example_inputs: list[Argument]
) -> tuple[fx.GraphModule, fx.GraphModule, list[Effect]]:
    """Dynamo's graph as functional ATen, and the inputs into which its last outputs are to be written."""
    checkpoints = _without_checkpoints(gm)
    mode = torch_internals.fake_mode_of_capture()
    if mode is None:
        raise CaptureError("no fake tensor mode is active")
    _guard_shapes(gm)
    fakes = [mode.from_tensor(e, static_shapes=True) if isinstance(e, Tensor) else e for e in example_inputs]
    mutated: list[Effect] = []
    lines = _Lines(gm)

    def values(*inputs: Argument) -> list[Argument]:
        mutated.clear()
        with functional.FunctionalTensorMode():
            wrapped = [functional.to_fun(i) if isinstance(i, Tensor) else i for i in inputs]
            results = []
            history = RecordHistory(wrapped)
            with torch_internals.each_operator(history):
                scored = lines.run(*wrapped)
            for result in scored:
                if isinstance(result, Tensor):
                    torch_internals.synchronise(result)
                    result = functional.from_fun(result)
                results.append(result)
            for i, (given, held) in enumerate(zip(inputs, wrapped)):
                if isinstance(given, Tensor):
                    torch_internals.synchronise(held)
                    value = functional.from_fun(held)
                    if value is not given:
                        mutated.append((i, any(held is tensor for tensor in history.replaced)))
                        results.append(value)
        return results

    with _tracing(), mode, torch_internals.each_traced_node(lines.note):
        traced = torch_internals.trace_to_aten(values, *fakes)
        if any(_is_of_a_library(node) for node in traced.graph.nodes):  # batch norm on a GPU, LSTM, attention
            with _with_double_backward():
                traced = torch_internals.trace_to_aten(values, *fakes)
    given = gm.graph.find_nodes(op="placeholder")
    for node in checkpoints:
        if any(given[i] in node.all_input_nodes for i, _ in mutated):
            # Stock code's backward pass reads the changed value, and changes it once more.
            where = node.meta.get("stack_trace", "")  # as text: torch 2.15 keeps nothing else
            raise CaptureError(f"a checkpoint reads a tensor that the critic changes in place\n{where}")
    for node, fake in zip(traced.graph.find_nodes(op="placeholder"), fakes):
        requires_grad = is_float(fake) and fake.requires_grad  # the traced value no longer knows
        node.meta["info"] = replace(info_of(node), requires_grad=requires_grad)
    for node in traced.graph.find_nodes(op="call_function", target=aten._linalg_check_errors.default):
        node.meta["val"] = None
    _check_static(traced)
    return gm, traced, mutated


def _without_checkpoints(gm: fx.GraphModule) -> list[fx.Node]:
    """Checkpoints become plain calls, which are returned. Hooks and custom Functions are refused."""
    checkpoints: list[fx.Node] = []
    for node in gm.graph.nodes:
        if node.op == "call_method" and node.target in (
            "register_hook",
            "register_post_accumulate_grad_hook",
        ):
            raise CaptureError("the critic registers a gradient hook on an intermediate tensor")
        if torch_internals.is_higher_order(node.target):
            if "checkpoint" not in str(node.target):
                raise CaptureError(
                    f"the critic uses {node.target} (a custom autograd.Function or a control-flow operator)"
                )
            node.target, node.kwargs = _call_body, {}  # a checkpoint saves memory and computes the same
            checkpoints.append(node)
    gm.recompile()
    return checkpoints


def _guard_shapes(gm: fx.GraphModule) -> None:
    """Shapes are static: each has a graph of its own."""
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            example = node.meta.get("example_value")
            if isinstance(example, Tensor):
                for size in (*example.shape, *example.stride()):
                    int(size)  # which guards it


def _call_body(body: Callable[..., Argument], *args: Argument) -> Argument:
    return body(*args)


def _is_custom(target: Operator) -> bool:
    """Whether this is an operator of ``torch.library``, not of torch."""
    return isinstance(target, (OPERATOR, PACKET)) and not str(target).startswith(
        ("aten.", "prims.", "wgangp_fast.")
    )


class _Lines(fx.Interpreter):
    """Runs Dynamo's graph.

    Attributes:
        now: the line of the user's code that the current operator comes from.
        recording: whether gradients are on at that line. (An operator whose derivative is registered in
            Python runs with gradients off; that says nothing about the critic.)
    """

    now: str | None = None
    recording = True

    def run_node(self, n: fx.Node) -> Argument:
        self.now, self.recording = n.meta.get("stack_trace"), torch.is_grad_enabled()
        return super().run_node(n)

    def note(self, node: fx.Node) -> None:
        """Record at a traced node its line in the user's code, and whether gradients were off there."""
        if not (self.recording if _is_custom(node.target) else torch.is_grad_enabled()):
            node.meta["info"] = replace(info_of(node), no_grad=True)
        if self.now:
            node.meta["stack_trace"] = self.now


def _check_static(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(s, int) for s in value.shape):
            raise CaptureError(f"the shape of {node.name} depends on a changing number")
