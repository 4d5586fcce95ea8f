"""From Dynamo's graph to functional ATen operators: no mutation, library choices with a double backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from .errors import CaptureError
from .history import RecordHistory
from .patching import Patch, patched
from .writer import is_float

aten = torch.ops.aten


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
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), patched(_ordinary_checks()):
            yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch._C._set_cudnn_enabled(cudnn)
        torch.set_autocast_cache_enabled(cache)


def _ordinary_checks() -> list[Patch]:
    """The check behind ``linalg.inv`` and its like is an ordinary node: torch orders it by tokens, which are
    made for another kind of capture."""
    from torch._higher_order_ops import effects

    def without_check(original: Any) -> Any:
        return lambda op: op is not aten._linalg_check_errors.default and original(op)

    return [(effects, name, without_check) for name in ("has_effects", "_has_effects")]


Effect = tuple[int, bool]  # an input's position, and whether it gets other memory (``t.data = ...``)


def trace(
    gm: fx.GraphModule, example_inputs: list[Any]
) -> tuple[fx.GraphModule, fx.GraphModule, list[Effect]]:
    """Dynamo's graph as functional ATen; also which inputs the last outputs are to be written into."""
    from torch._functorch._aot_autograd.functional_utils import from_fun, to_fun
    from torch._subclasses.functional_tensor import FunctionalTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    for node in gm.graph.nodes:
        if node.op == "call_method" and node.target in (
            "register_hook",
            "register_post_accumulate_grad_hook",
        ):
            raise CaptureError("the critic registers a gradient hook on an intermediate tensor")
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            if "checkpoint" not in str(node.target):
                raise CaptureError(
                    f"the critic uses {node.target} (a custom autograd.Function or a control-flow operator)"
                )
            node.target, node.kwargs = _call_body, {}  # checkpointing changes memory, not meaning
    gm.recompile()
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
    mutated: list[Effect] = []
    lines = _Lines(gm)

    def functional(*inputs: Any) -> list[Any]:
        mutated.clear()
        with FunctionalTensorMode():
            wrapped = [to_fun(i) if isinstance(i, Tensor) else i for i in inputs]
            results = []
            with RecordHistory(wrapped) as history:
                scored = lines.run(*wrapped)
            for result in scored:
                if isinstance(result, Tensor):
                    torch._sync(result)
                    result = from_fun(result)
                results.append(result)
            for i, (given, held) in enumerate(zip(inputs, wrapped)):
                if isinstance(given, Tensor):
                    torch._sync(held)
                    value = from_fun(held)
                    if value is not given:
                        mutated.append((i, any(held is tensor for tensor in history.replaced)))
                        results.append(value)
        return results

    with _tracing(), mode, _recorded(lines):
        # An empty table: with none, torch 2.14 and later rewrite detach into alias, which has a derivative.
        traced = make_fx(
            functional, decomposition_table={}, tracing_mode="real", _allow_non_fake_inputs=True
        )(*fakes)
    for node, fake in zip(traced.graph.find_nodes(op="placeholder"), fakes):
        node.meta["trains"] = is_float(fake) and fake.requires_grad  # the traced value has lost it
    for node in traced.graph.find_nodes(op="call_function", target=aten._linalg_check_errors.default):
        node.meta["val"] = None
    _check_static(traced)
    return gm, traced, mutated


def _call_body(body: Any, *args: Any) -> Any:
    return body(*args)


def _is_custom(target: Any) -> bool:
    """Whether this is an operator of ``torch.library``, not of torch."""
    operator = isinstance(target, (torch._ops.OpOverload, torch._ops.OpOverloadPacket))
    return operator and not str(target).startswith(("aten.", "prims.", "wgangp_fast."))


class _Lines(fx.Interpreter):
    """Runs Dynamo's graph.

    Attributes:
        now: where the user's code is that the present operator comes from.
        recording: whether gradients are on there. An operator with a derivative registered in Python runs
            with gradients off, which says nothing about the critic.
    """

    now: str | None = None
    recording = True

    def run_node(self, n: fx.Node) -> Any:
        self.now, self.recording = n.meta.get("stack_trace"), torch.is_grad_enabled()
        return super().run_node(n)


@contextlib.contextmanager
def _recorded(lines: _Lines) -> Iterator[None]:
    """Note on every traced node its place in the user's code, and whether gradients were off there."""
    from torch.fx.experimental import proxy_tensor

    tracer: Any = proxy_tensor.PythonKeyTracer
    original = tracer.create_node

    def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = original(self, *args, **kwargs)
        if not (lines.recording if _is_custom(node.target) else torch.is_grad_enabled()):
            node.meta["no_grad"] = True
        if lines.now:
            node.meta["stack_trace"] = lines.now
        return node

    tracer.create_node = create_node
    try:
        yield
    finally:
        tracer.create_node = original


def _check_static(traced: fx.GraphModule) -> None:
    for node in traced.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not all(isinstance(s, int) for s in value.shape):
            raise CaptureError(f"the shape of {node.name} depends on a changing number")
