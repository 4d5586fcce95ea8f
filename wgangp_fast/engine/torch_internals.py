"""All that the package takes from torch beyond its public interface: one function for each need.

No other file imports or reads a private name of torch (``tests/unit/test_private_names.py`` looks). A name is
looked up when it is first needed, so that the package imports under every torch. One that a torch lacks, or
that behaves otherwise there, raises :class:`Unavailable`: the call runs on the stock path, with a warning
that says what is missing. A function that does something else in that case says so in its docstring.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from .lookups import Names, lookup, need, perhaps, unavailable

#: looked up before anything is captured: without these a call that must not run a plan would not be noticed
REQUIRED = (
    "torch._C._len_torch_dispatch_stack",
    "torch._C._functorch.peek_interpreter_stack",
    "torch._C.DisableTorchFunctionSubclass",
    "torch._C.parse_schema",
    "torch.ops.aten.add.Tensor._schema",
    "torch._dynamo.symbolic_convert.InstructionTranslatorBase.call_function",
)


F = TypeVar("F", bound=Callable[..., Any])


@functools.cache
def require() -> None:
    """Raise :class:`Unavailable` if this torch lacks one of :data:`REQUIRED`."""
    for path in REQUIRED:
        need(path)


# around each call --------------------------------------------------------------------------------


def dispatch_modes_are_active() -> bool:
    """Whether a dispatch mode (a FLOP counter, fake tensors) is active. True if torch cannot tell."""
    count = perhaps("torch._C._len_torch_dispatch_stack")
    return count is None or count() > 0


def inside_functorch_transform() -> bool:
    """Whether this is called within ``torch.func.grad``, ``vmap`` or the like. False if torch cannot tell:
    then nothing is captured, and stock code runs, which may raise an error of torch's."""
    peek = perhaps("torch._C._functorch.peek_interpreter_stack")
    return peek is not None and peek() is not None


def without_subclass(x: Tensor) -> Tensor:
    """``x`` as a plain ``torch.Tensor`` with its history, made without methods of its class; ``x`` itself if
    this torch cannot do that: then nothing is captured."""
    disabled = perhaps("torch._C.DisableTorchFunctionSubclass")
    if disabled is None:
        return x
    with disabled():
        return x.as_subclass(Tensor)


def keeps_graph() -> bool:
    """Whether the running backward pass keeps saved tensors (``retain_graph=True``). True if torch cannot
    tell: to keep them too long costs only memory."""
    asked = perhaps("torch._C._autograd._get_current_graph_task_keep_graph")
    return asked is None or bool(asked())


def never_traced(function: F, why: str) -> F:
    """Make torch.compile call ``function`` without tracing it or any frame below it.

    ``torch.compiler.disable`` does the same but imports Dynamo; it is used on a torch that lacks the names
    below. They are looked up while the package is imported, because this function is a decorator.
    """
    action = perhaps("torch._C._dynamo.eval_frame._FrameAction")
    strategy = perhaps("torch._C._dynamo.eval_frame._FrameExecStrategy")
    choose = perhaps("torch._C._dynamo.eval_frame.set_code_exec_strategy")
    if action is None or strategy is None or choose is None:
        return torch.compiler.disable(function, reason=why)
    marked: Any = function
    marked._torchdynamo_disable, marked._torchdynamo_disable_msg = True, why
    choose(marked.__code__, strategy(action.SKIP, action.SKIP))
    return function


def inside_compiled(value: Any) -> Any:
    """The function or module that torch.compile made ``value`` of; None if it did not."""
    if isinstance(value, nn.Module):
        held = value._modules
        return held["_orig_mod"] if "_orig_mod" in held else None  # noqa: SIM401 - scripted ones have no get
    return getattr(value, "_torchdynamo_orig_callable", None)


# dispatch modes ----------------------------------------------------------------------------------


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Inside, operators run as if no dispatch mode were active."""
    return need("torch.utils._python_dispatch._disable_current_modes")()


def mode_without_numbers() -> str | None:
    """``"fake"``, ``"proxy"`` or ``"functional"`` if such a mode is active, whose tensors have no numbers."""
    kinds, active = need("torch._C._TorchDispatchModeKey"), need("torch._C._get_dispatch_mode")
    names = ("FAKE", "PROXY", "FUNCTIONAL")
    return next((name.lower() for name in names if active(getattr(kinds, name)) is not None), None)


def each_operator(handler: Callable[[Any, Any, Any], Any]) -> AbstractContextManager[Any]:
    """Inside, ``handler(operator, args, kwargs)`` replaces each call of an operator in this thread."""
    return _mode_class(need("torch.utils._python_dispatch.TorchDispatchMode"))(handler)


@functools.cache
def _mode_class(base: Any) -> Any:
    class EachOperator(base):
        def __init__(self, handler: Callable[[Any, Any, Any], Any]) -> None:
            super().__init__()
            self.handler = handler

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.handler(func, args, kwargs or {})

    return EachOperator


def global_module_hooks() -> list[Any]:
    """The tables of hooks that run before and after every module's forward."""
    before = need("torch.nn.modules.module._global_forward_pre_hooks")
    return [before, need("torch.nn.modules.module._global_forward_hooks")]


def fake_mode() -> Any:
    """A fake tensor mode that also accepts ordinary tensors."""
    return need("torch._subclasses.fake_tensor.FakeTensorMode")(allow_non_fake_inputs=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, torch does not log that an operator failed on fake tensors: the error says so too."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def is_fake(value: Any) -> bool:
    """Whether this is a fake tensor."""
    return isinstance(value, need("torch._subclasses.fake_tensor.FakeTensor"))


# operators ---------------------------------------------------------------------------------------


class _Schema:
    """The schema of an operation of this package, parsed when it is first read."""

    def __init__(self, text: str) -> None:
        self.text = text

    @functools.cached_property
    def parsed(self) -> Any:
        return need("torch._C.parse_schema")(self.text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.parsed, name)


def describe(function: Callable[..., Any], schema: str) -> None:
    """Give ``function`` the attributes of an operator of torch: a schema for :func:`schema_of`, and no tags.
    FX reads them too, before it removes a call as dead code."""
    described: Any = function
    described._schema, described.tags = _Schema(f"wgangp_fast::{schema}"), ()


def schema_of(target: Any) -> Any:
    """The schema of an operator; None for anything else that a node may call."""
    return getattr(target, "_schema", None)


def is_higher_order(target: Any) -> bool:
    """Whether this operator takes functions (control flow, checkpoints, custom autograd Functions)."""
    return isinstance(target, need("torch._ops.HigherOrderOperator"))


def has_autograd_kernel(op: Any) -> bool:
    """Whether the operator is registered with autograd, if only as not differentiable; True for functions."""
    keys = need("torch._C.DispatchKey.__members__")
    need("torch.ops.aten.add.Tensor.has_kernel_for_dispatch_key")
    asked = getattr(op, "has_kernel_for_dispatch_key", None)
    names = [name for name in keys if name.startswith("Autograd") or name == "CompositeImplicitAutograd"]
    return asked is None or any(asked(keys[name]) for name in names)


def has_cuda_kernel(name: str) -> bool:
    """Whether an operator has a CUDA kernel. False if torch cannot tell."""
    asked = perhaps("torch._C._dispatch_has_kernel_for_dispatch_key")
    return asked is not None and bool(asked(name, "CUDA"))


@contextlib.contextmanager
def without_vmap_loops() -> Iterator[None]:
    """Inside, torch.vmap raises for an operator that it does not know, instead of looping over the batch. On
    a torch without this switch it loops."""
    switch = perhaps("torch._C._functorch._set_vmap_fallback_enabled") or (lambda on: None)
    asked = perhaps("torch._C._functorch._is_vmap_fallback_enabled") or (lambda: True)
    before = asked()
    switch(False)
    try:
        yield
    finally:
        switch(before)


# tensors, modules, nested containers -------------------------------------------------------------


def storage_key(tensor: Tensor) -> int:
    """A number that is the same for tensors that share memory, also fake ones, while the memory lives."""
    need("torch.UntypedStorage._cdata")
    return tensor.untyped_storage()._cdata


def versions_kept(tensors: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
    """Inside, autograd does not notice writes into the tensors: what it saved before still counts as
    unchanged. On a torch that lacks this, a later backward pass raises."""
    kept = perhaps("torch.autograd.grad_mode._unsafe_preserve_version_counter")
    return contextlib.nullcontext() if kept is None else kept(tensors)


def version_of(tensor: Tensor) -> int:
    """How often the tensor was written into."""
    need("torch.Tensor._version")
    return tensor._version


def kernel_layout(tensor: Tensor) -> torch.memory_format:
    """The memory format that torch's kernels choose for a tensor with these strides."""
    return need("torch._prims_common.suggest_memory_format")(tensor)


def own_tensors(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dictionaries (not copies) in which a module holds its parameters and its buffers."""
    return module._parameters, module._buffers


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks of its own."""
    names = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name) for name in names)


def around_ddp(ddp: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """Two functions: what a DistributedDataParallel does before its module runs, and to its result."""
    need("torch.nn.parallel.DistributedDataParallel._pre_forward")
    need("torch.nn.parallel.DistributedDataParallel._post_forward")
    return ddp._pre_forward, ddp._post_forward


def not_warned_of_capture(optimizer: Any) -> None:
    """Stop the optimiser's warning that it is capturable and runs outside a capture."""
    optimizer._warned_capturable_if_run_uncaptured = True


#: functions on nested containers
tree = Names("torch.utils._pytree", "tree_flatten tree_unflatten tree_leaves tree_map_only")


# from Python to operators ------------------------------------------------------------------------


def trace_to_aten(function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """The graph of ATen operators that ``function`` calls on ``arguments``. None is decomposed: ``detach``
    stays ``detach``, and a view stays the same view."""
    make_fx = need("torch.fx.experimental.proxy_tensor.make_fx")
    _check_detach(make_fx)
    return _traced(make_fx, function, *arguments)


def _traced(make_fx: Any, function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    # An empty table, not None: with None torch 2.14 and later turn detach into alias, which has a derivative.
    options = {"decomposition_table": {}, "tracing_mode": "real", "_allow_non_fake_inputs": True}
    return make_fx(function, **options)(*arguments)


@functools.cache
def _check_detach(make_fx: Any) -> None:
    with without_dispatch_modes():
        graph = _traced(make_fx, torch.detach, torch.zeros(2)).graph
    if [n.target for n in graph.nodes if n.op == "call_function"] != [torch.ops.aten.detach.default]:
        raise unavailable("does not trace aten.detach as it is")


@contextlib.contextmanager
def without_library_operators() -> Iterator[None]:
    """Operators of oneDNN and cuDNN, not all of which have a second derivative, are not chosen. The public
    switches refuse to be set once a program has called ``torch.backends.disable_global_flags()``."""
    switches = (
        (need("torch._C._get_mkldnn_enabled"), need("torch._C._set_mkldnn_enabled")),
        (need("torch._C._get_cudnn_enabled"), need("torch._C._set_cudnn_enabled")),
    )
    before = [enabled() for enabled, _ in switches]
    try:
        for _, enable in switches:
            enable(False)
        yield
    finally:
        for (_, enable), was in zip(switches, before):
            enable(was)


@contextlib.contextmanager
def each_traced_node(note: Callable[[fx.Node], None]) -> Iterator[None]:
    """Inside, ``note`` is called with each node that :func:`trace_to_aten` makes."""
    tracer = need("torch.fx.experimental.proxy_tensor.PythonKeyTracer")
    original = tracer.create_node

    def create_node(self: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = original(self, *args, **kwargs)
        note(node)
        return node

    tracer.create_node = create_node
    try:
        yield
    finally:
        tracer.create_node = original


def ordering_by_tokens() -> Any:
    """The module by which torch keeps some checks in order (effect tokens); None on a torch without it."""
    return perhaps("torch._higher_order_ops.effects")


#: inside ``FunctionalTensorMode()`` a write into a result of ``to_fun`` makes a new value; ``from_fun`` gives
#: the latest one, or the tensor itself if nothing was written
functional = Names(
    "torch",
    "_subclasses.functional_tensor.FunctionalTensorMode _subclasses.functional_tensor.FunctionalTensor "
    "_functorch._aot_autograd.functional_utils.to_fun _functorch._aot_autograd.functional_utils.from_fun",
)


def synchronise(tensor: Tensor) -> None:
    """Update a functional tensor with what was written through its aliases."""
    need("torch._sync")(tensor)


def functional_value(tensor: Any) -> Tensor:
    """The present value of a functional tensor."""
    return need("torch._from_functional_tensor")(tensor.elem)


def give_functional_value(tensor: Any, value: Tensor) -> None:
    """Set the value of a functional tensor and its aliases."""
    need("torch._functionalize_replace")(tensor.elem, value)
    need("torch._functionalize_commit_update")(tensor.elem)
    synchronise(tensor)


def inductor(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    """``graph`` compiled by Inductor for tensors like ``examples``; it draws the random numbers of eager
    code."""
    compile_fx = need("torch._inductor.compile_fx.compile_fx")
    return compile_fx(graph, examples, config_patches={"fallback_random": True})


# Dynamo ------------------------------------------------------------------------------------------

#: what the patches of ``frontend*.py`` replace and read
dynamo = Names(
    "torch._dynamo",
    "utils utils.proxy_args_kwargs guards.install_guard guards.GuardBuilder source.AttrSource "
    "source.GetItemSource source.LocalSource symbolic_convert.InstructionTranslator "
    "symbolic_convert.InstructionTranslatorBase variables.base.VariableTracker variables.ConstantVariable "
    "variables.base.AttributeMutationNew variables.base.ValueMutationNew variables.builder.VariableBuilder "
    "variables.builder.SourcelessBuilder variables.builder.wrap_fx_proxy variables.misc.DebuggingVariable "
    "variables.misc.LoggingLoggerVariable variables.NumpyVariable variables.TensorVariable "
    "variables.TorchInGraphFunctionVariable",
)


def unknown_sizes(tensor: Tensor) -> bool:  # of a fake tensor: whether its sizes depend on data
    return bool(need("torch.fx.experimental.symbolic_shapes.free_unbacked_symbols")(tensor))


def dynamo_options(needed: dict[str, Any], wanted: dict[str, Any]) -> AbstractContextManager[Any]:
    """Set options of Dynamo inside: all of ``needed``, and those of ``wanted`` that this torch knows."""
    for name in needed:
        need(f"torch._dynamo.config.{name}")
    known = {name: value for name, value in wanted.items() if lookup(f"torch._dynamo.config.{name}")[0]}
    return need("torch._dynamo.config.patch")({**needed, **known})


def fake_mode_of_capture() -> Any:
    """The fake tensor mode of the capture in progress; None outside of one."""
    tracing = need("torch._guards.TracingContext").try_get()
    return None if tracing is None else tracing.fake_mode


def call_compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run the compiled entry of ``function`` whose guards hold. If there is none, its Python code runs;
    nothing is compiled. ``torch._dynamo.run`` does the same, with ten microseconds more of Python."""
    swap = need("torch._C._dynamo.eval_frame.set_eval_frame")
    prior = swap(False)
    try:
        return function(*arguments)
    finally:
        swap(prior)


def forget_compiled(code: types.CodeType) -> None:
    """Drop Dynamo's entries for a code object, as far as this torch allows."""
    reset = perhaps("torch._C._dynamo.eval_frame.reset_code")
    read = perhaps("torch._dynamo.bytecode_transformation._cached_cleaned_instructions")
    if reset is not None:
        reset(code)
    if hasattr(read, "cache_clear"):
        read.cache_clear()  # a cache that keeps code objects alive


def can_accelerate() -> bool:
    """Whether :func:`call_through` and :func:`engine_will_run` are there."""
    return bool(perhaps("torch.nn.Module._call_impl") and perhaps("torch._C._will_engine_execute_node"))


def call_through(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Let ``module(...)`` call ``call(...)``, as ``Module.compile`` does; None: its own code again."""
    need("torch.nn.Module._call_impl")
    module._compiled_call_impl = call


def engine_will_run(node: Any) -> bool:
    """Within a backward pass: whether the autograd engine will run this node of its graph."""
    will_run = need("torch._C._will_engine_execute_node")
    try:
        return will_run(node)
    except RuntimeError:  # a leaf whose gradient autograd.grad was asked for
        return True
