"""All that the package takes from torch beyond its public interface: one function for each need.

No other file imports or reads a private name of torch (``tests/unit/test_private_names.py`` looks). A name is
looked up when it is first needed, so that the package imports under every torch. One that a torch lacks, or
that does something else there, raises :class:`Unavailable`: the call runs on the stock path, with a warning
that says what is missing. Where a function has another answer to that, its docstring says which.
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

#: looked up before anything is captured: without these nobody would notice that a call must not run a plan
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
    """Whether somebody sees each operator (a FLOP counter, fake tensors). True if that cannot be told."""
    count = perhaps("torch._C._len_torch_dispatch_stack")
    return count is None or count() > 0


def inside_functorch_transform() -> bool:
    """Whether this is called within ``torch.func.grad``, ``vmap`` and their like. False if that cannot be
    told: nothing is captured then, and stock code meets there what it meets."""
    peek = perhaps("torch._C._functorch.peek_interpreter_stack")
    return peek is not None and peek() is not None


def without_subclass(x: Tensor) -> Tensor:
    """``x`` as a ``torch.Tensor``, its history kept, without asking its class; ``x`` itself if that cannot be
    done: nothing is captured then."""
    disabled = perhaps("torch._C.DisableTorchFunctionSubclass")
    if disabled is None:
        return x
    with disabled():
        return x.as_subclass(Tensor)


def keeps_graph() -> bool:
    """Whether the backward pass that runs keeps what was saved (``retain_graph=True``). True if that cannot
    be told: what is kept for too long costs memory alone."""
    asked = perhaps("torch._C._autograd._get_current_graph_task_keep_graph")
    return asked is None or bool(asked())


def never_traced(function: F, why: str) -> F:
    """``function``, which torch.compile calls and does not trace, nor any frame below it.

    What ``torch.compiler.disable`` does, which imports Dynamo, and serves on a torch that lacks the rest. It
    decorates, so that its names alone are looked up while the package is imported.
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
    """What torch.compile was given where ``value`` is what it returned; None for anything else."""
    if isinstance(value, nn.Module):
        held = value._modules
        return held["_orig_mod"] if "_orig_mod" in held else None  # noqa: SIM401 - scripted ones have no get
    return getattr(value, "_torchdynamo_orig_callable", None)


# dispatch modes ----------------------------------------------------------------------------------


def without_dispatch_modes() -> AbstractContextManager[Any]:
    """Inside, operators run as if no dispatch mode were active."""
    return need("torch.utils._python_dispatch._disable_current_modes")()


def mode_without_numbers() -> str | None:
    """``"fake"``, ``"proxy"`` or ``"functional"`` if a mode is active whose tensors have no numbers."""
    kinds, active = need("torch._C._TorchDispatchModeKey"), need("torch._C._get_dispatch_mode")
    names = ("FAKE", "PROXY", "FUNCTIONAL")
    return next((name.lower() for name in names if active(getattr(kinds, name)) is not None), None)


def each_operator(handler: Callable[[Any, Any, Any], Any]) -> AbstractContextManager[Any]:
    """Inside, ``handler(operator, args, kwargs)`` stands for each call of an operator in this thread."""
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
    """A mode that makes tensors without numbers, and takes ordinary ones beside them."""
    return need("torch._subclasses.fake_tensor.FakeTensorMode")(allow_non_fake_inputs=True)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without torch's own report of an operator that failed on fake tensors: the error raised says it."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def is_fake(value: Any) -> bool:
    """Whether this is a tensor without numbers."""
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
    """Make ``function`` answer like an operator of torch: :func:`schema_of`, and no tags. FX asks as well,
    before it takes a call for dead code."""
    described: Any = function
    described._schema, described.tags = _Schema(f"wgangp_fast::{schema}"), ()


def schema_of(target: Any) -> Any:
    """Name, arguments and aliases of an operator; None for whatever else a node may call."""
    return getattr(target, "_schema", None)


def is_higher_order(target: Any) -> bool:
    """Whether this operator takes functions (control flow, checkpoints, custom autograd Functions)."""
    return isinstance(target, need("torch._ops.HigherOrderOperator"))


def has_autograd_kernel(op: Any) -> bool:
    """Whether autograd knows the operator, be it that it has no derivative; True for what is no operator."""
    keys = need("torch._C.DispatchKey.__members__")
    need("torch.ops.aten.add.Tensor.has_kernel_for_dispatch_key")
    asked = getattr(op, "has_kernel_for_dispatch_key", None)
    names = [name for name in keys if name.startswith("Autograd") or name == "CompositeImplicitAutograd"]
    return asked is None or any(asked(keys[name]) for name in names)


def has_cuda_kernel(name: str) -> bool:
    """Whether an operator runs on CUDA. False if that cannot be told."""
    asked = perhaps("torch._C._dispatch_has_kernel_for_dispatch_key")
    return asked is not None and bool(asked(name, "CUDA"))


@contextlib.contextmanager
def without_vmap_loops() -> Iterator[None]:
    """torch.vmap raises for an operator that it does not know, where it loops over the batch otherwise. A
    torch that cannot be told to does loop."""
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
    """The same for tensors that share memory, fake ones too; means nothing once the memory is freed."""
    need("torch.UntypedStorage._cdata")
    return tensor.untyped_storage()._cdata


def versions_kept(tensors: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
    """What is written into the tensors inside is no change for what autograd has saved before. On a torch
    that lacks it, it is one, and the backward pass of what was saved raises."""
    kept = perhaps("torch.autograd.grad_mode._unsafe_preserve_version_counter")
    return contextlib.nullcontext() if kept is None else kept(tensors)


def version_of(tensor: Tensor) -> int:
    """How often the tensor was written into."""
    need("torch.Tensor._version")
    return tensor._version


def kernel_layout(tensor: Tensor) -> torch.memory_format:
    """The memory format in which the library's kernels take a tensor with these strides."""
    return need("torch._prims_common.suggest_memory_format")(tensor)


def own_tensors(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """The dictionaries themselves in which a module holds its parameters and its buffers."""
    return module._parameters, module._buffers


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks of its own."""
    names = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
    return any(getattr(module, name) for name in names)


def around_ddp(ddp: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
    """What a DistributedDataParallel does before its module, and to its result."""
    need("torch.nn.parallel.DistributedDataParallel._pre_forward")
    need("torch.nn.parallel.DistributedDataParallel._post_forward")
    return ddp._pre_forward, ddp._post_forward


def not_warned_of_capture(optimizer: Any) -> None:
    """The optimiser does not warn that it is capturable and runs outside of a capture."""
    optimizer._warned_capturable_if_run_uncaptured = True


#: functions of nested containers
tree = Names("torch.utils._pytree", "tree_flatten tree_unflatten tree_leaves tree_map_only")


# from Python to operators ------------------------------------------------------------------------


def trace_to_aten(function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    """The ATen operators that ``function`` calls on ``arguments``, none of them rewritten: ``detach`` stays
    ``detach``, a view the view that it was."""
    make_fx = need("torch.fx.experimental.proxy_tensor.make_fx")
    _check_detach(make_fx)
    return _traced(make_fx, function, *arguments)


def _traced(make_fx: Any, function: Callable[..., Any], *arguments: Any) -> fx.GraphModule:
    # An empty table: with none, torch 2.14 and later rewrite detach into alias, which has a derivative.
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
    """Inside, ``note`` is shown each node that :func:`trace_to_aten` makes, as it is made."""
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
    """The module by which torch orders some checks among the operators; None: this torch does not."""
    return perhaps("torch._higher_order_ops.effects")


#: inside ``FunctionalTensorMode()`` a change of what ``to_fun`` made is a new value; ``from_fun`` gives the
#: present one, the tensor itself if nothing was written into it
functional = Names(
    "torch",
    "_subclasses.functional_tensor.FunctionalTensorMode _subclasses.functional_tensor.FunctionalTensor "
    "_functorch._aot_autograd.functional_utils.to_fun _functorch._aot_autograd.functional_utils.from_fun",
)


def synchronise(tensor: Tensor) -> None:
    """Bring a functional tensor up to date with what was written through its aliases."""
    need("torch._sync")(tensor)


def functional_value(tensor: Any) -> Tensor:
    """What a functional tensor holds now."""
    return need("torch._from_functional_tensor")(tensor.elem)


def give_functional_value(tensor: Any, value: Tensor) -> None:
    """A functional tensor, and its aliases, hold ``value`` from now on."""
    need("torch._functionalize_replace")(tensor.elem, value)
    need("torch._functionalize_commit_update")(tensor.elem)
    synchronise(tensor)


def inductor(graph: fx.GraphModule, examples: list[Tensor]) -> Callable[..., Any]:
    """``graph`` compiled by Inductor for tensors like ``examples``; its random numbers are eager code's."""
    compile_fx = need("torch._inductor.compile_fx.compile_fx")
    return compile_fx(graph, examples, config_patches={"fallback_random": True})


# Dynamo ------------------------------------------------------------------------------------------

#: what ``frontend*.py`` teach, and what of it they ask
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


def unknown_sizes(tensor: Tensor) -> bool:  # of a tensor without numbers: whether they depend on numbers
    return bool(need("torch.fx.experimental.symbolic_shapes.free_unbacked_symbols")(tensor))


def dynamo_options(needed: dict[str, Any], wanted: dict[str, Any]) -> AbstractContextManager[Any]:
    """Options of Dynamo that hold inside. Of ``wanted`` those that this torch knows."""
    for name in needed:
        need(f"torch._dynamo.config.{name}")
    known = {name: value for name, value in wanted.items() if lookup(f"torch._dynamo.config.{name}")[0]}
    return need("torch._dynamo.config.patch")({**needed, **known})


def fake_mode_of_capture() -> Any:
    """The fake tensor mode of the capture in progress; None outside of one."""
    tracing = need("torch._guards.TracingContext").try_get()
    return None if tracing is None else tracing.fake_mode


def call_compiled(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run the compiled entry of ``function`` that fits; where none does its Python runs, and nothing is
    compiled. What ``torch._dynamo.run`` does, without its ten microseconds of Python."""
    swap = need("torch._C._dynamo.eval_frame.set_eval_frame")
    prior = swap(False)
    try:
        return function(*arguments)
    finally:
        swap(prior)


def forget_compiled(code: types.CodeType) -> None:
    """Dynamo's entries of a code object are no more, as far as this torch lets."""
    reset = perhaps("torch._C._dynamo.eval_frame.reset_code")
    read = perhaps("torch._dynamo.bytecode_transformation._cached_cleaned_instructions")
    if reset is not None:
        reset(code)
    if hasattr(read, "cache_clear"):
        read.cache_clear()  # it keeps code objects, with a list of their instructions
