"""What each function around torch's private parts must do."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import wgangp_fast
from wgangp_fast import errors
from wgangp_fast.engine import torch_internals
from wgangp_fast.engine.capture import frontend

aten = torch.ops.aten


def targets(graph: torch.fx.GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_tracing_rewrites_nothing() -> None:
    def function(x: Tensor) -> Tensor:
        y = x.detach().view(2, 3).expand(4, 2, 3)
        return torch.addmm(x.sum(), y[0], y[1].t()) + torch.nn.functional.silu(x[:2].clone())

    got = targets(torch_internals.trace_to_aten(function, torch.zeros(6)))
    assert got == [
        *(aten.detach.default, aten.view.default, aten.expand.default, aten.sum.default),
        *(aten.select.int, aten.select.int, aten.t.default, aten.addmm.default),
        *(aten.slice.Tensor, aten.clone.default, aten.silu.default, aten.add.Tensor),
    ]


def test_a_torch_that_rewrites_detach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch_internals.need("torch.fx.experimental.proxy_tensor.make_fx")

    def rewriting(function: Any, **options: Any) -> Any:
        return original(lambda x: aten.alias.default(x), **options)

    found = {"torch.fx.experimental.proxy_tensor.make_fx": rewriting}
    need = torch_internals.need
    monkeypatch.setattr(torch_internals, "need", lambda path: found.get(path) or need(path))
    with pytest.raises(errors.Unavailable, match=r"torch 2.*does not trace aten.detach as it is"):
        torch_internals.trace_to_aten(torch.detach, torch.zeros(2))


@pytest.mark.parametrize("frozen", [False, True])
def test_library_operators_are_off_for_a_while(monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """Also in a program that has called ``torch.backends.disable_global_flags()``."""
    monkeypatch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", not frozen)
    before = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    with torch_internals.without_library_operators():
        assert not torch.backends.mkldnn.enabled
        assert not torch.backends.cudnn.enabled
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        critic = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 1))
        wgangp_fast.gradient_penalty(critic, torch.randn(2, 2, 4), torch.randn(2, 2, 4)).backward()


def test_each_traced_node_is_shown() -> None:
    seen: list[Any] = []
    with torch_internals.each_traced_node(lambda node: seen.append(node.target)):
        torch_internals.trace_to_aten(lambda x: x.exp().sin(), torch.zeros(2))
    torch_internals.trace_to_aten(torch.cos, torch.zeros(2))
    assert seen[1:-1] == [aten.exp.default, aten.sin.default]


def test_functional_tensors_keep_changes() -> None:
    f = torch_internals.functional
    given = torch.ones(2, 2)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        with f.FunctionalTensorMode():
            a, b = f.to_fun(x), f.to_fun(x.exp())
            row, other = a[0], b[0]
            row.mul_(3)
            torch_internals.synchronise(a)
            torch_internals.give_functional_value(b, torch_internals.functional_value(a))
            torch_internals.synchronise(other)
            assert isinstance(a, f.FunctionalTensor)
            assert not isinstance(x, f.FunctionalTensor)
            return f.from_fun(a), f.from_fun(b), f.from_fun(other).expand(2, 2)

    traced = torch_internals.trace_to_aten(function, given)
    assert not [t for t in targets(traced) if torch_internals.schema_of(t).is_mutable]
    of_a, of_b, of_row = traced(given)
    assert of_a.tolist() == of_b.tolist() == [[3.0, 3.0], [1.0, 1.0]]
    assert of_row.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    with f.FunctionalTensorMode():
        assert f.from_fun(f.to_fun(given)) is given


def test_keeps_graph() -> None:
    seen = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            seen.append(torch_internals.keeps_graph())
            return grads[0]

    y = Asks.apply(torch.ones(1, requires_grad=True))
    y.backward(retain_graph=True)
    y.backward()
    assert seen == [True, False]


def test_engine_will_run() -> None:
    """Asked in a backward pass about each input's node: whether its gradient is wanted."""
    seen: list[list[bool]] = []

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
            return a * b

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
            seen.append([torch_internals.engine_will_run(node) for node, _ in ctx.next_functions])
            return grads[0], grads[0]

    a, b = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    torch.autograd.grad(Asks.apply(a, b), a)
    torch.autograd.grad(Asks.apply(2 * a, b), b)
    torch.autograd.grad(Asks.apply(a, b), [a, b])
    Asks.apply(a, b).backward()
    assert seen == [[True, False], [False, True], [True, True], [True, True]]


def test_call_through() -> None:
    layer = torch.nn.Linear(2, 1)
    torch_internals.call_through(layer, lambda x: "called")
    assert layer(torch.ones(1, 2)) == "called"
    assert layer._call_impl(torch.ones(1, 2)).shape == (1, 1)
    assert copy.deepcopy(layer)(torch.ones(1, 2)).shape == (1, 1)
    assert list(layer.state_dict()) == ["weight", "bias"]
    torch_internals.call_through(layer, None)
    assert layer(torch.ones(1, 2)).shape == (1, 1)


def test_modes_and_transforms_are_seen() -> None:
    active, inside = torch_internals.dispatch_modes_are_active, torch_internals.inside_functorch_transform
    assert not active()
    assert not inside()
    assert torch_internals.mode_without_numbers() is None
    with FlopCounterMode(display=False):
        assert active()
        assert torch_internals.mode_without_numbers() is None
        with torch_internals.without_dispatch_modes():
            assert not active()
        assert active()
    with torch_internals.fake_mode():
        assert torch_internals.mode_without_numbers() == "fake"
        assert torch_internals.is_fake(torch.zeros(1))
    with torch_internals.functional.FunctionalTensorMode():
        assert torch_internals.mode_without_numbers() == "functional"
    seen: list[bool] = []
    torch.func.vmap(lambda x: seen.append(inside()) or x)(torch.zeros(2))
    torch.func.grad(lambda x: seen.append(inside()) or x)(torch.zeros(()))
    assert seen == [True, True]
    assert not torch_internals.is_fake(torch.zeros(1))


def test_each_operator_is_handled() -> None:
    seen: list[Any] = []

    def handler(op: Any, args: Any, kwargs: Any) -> Any:
        seen.append((op, kwargs))
        return op(*args, **kwargs) * 2

    with torch_internals.each_operator(handler):
        made = torch.ones(1) + torch.ones(1)
    assert made.item() == 8.0
    assert (aten.add.Tensor, {}) in seen
    assert torch.ones(1).item() == 1.0


def test_a_subclass_is_taken_off_without_being_asked() -> None:
    class Own(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise AssertionError("it was asked")

    leaf = torch.ones(2, requires_grad=True)
    with torch._C.DisableTorchFunctionSubclass():
        own = leaf.as_subclass(Own)
    plain = torch_internals.without_subclass(own)
    assert type(plain) is Tensor
    plain.sum().backward()
    assert leaf.grad is not None


class Breaks:
    """A context that Dynamo cannot enter: it gives the frame up, and looks at those below it."""

    def __enter__(self) -> None:
        torch._dynamo.graph_break()

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("known", [True, False])
def test_dynamo_calls_and_does_not_trace(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    if not known:
        monkeypatch.setattr(torch_internals, "perhaps", lambda path: None)

    def backend(gm: Any, inputs: Any) -> Any:
        compiled.extend(targets(gm))
        return gm.forward

    def below(x: Tensor) -> Tensor:
        return torch.cos(x)

    def apart(x: Tensor) -> Tensor:
        return below(x)

    function = torch_internals.never_traced(apart, "it runs a plan")
    run = torch.compile(lambda x: torch.exp(function(torch.sin(x))), backend=backend)
    assert torch.allclose(run(torch.ones(2)), torch.ones(2).sin().cos().exp())
    assert {target.__name__ for target in compiled} == {"sin", "exp"}
    compiled.clear()

    def given_up(x: Tensor) -> Tensor:
        x = torch.sin(x)
        with Breaks():
            y = function(x)
        return torch.exp(y)

    torch.compile(given_up, backend=backend)(torch.ones(2))
    assert compiled == []
    with pytest.raises(Exception, match="it runs a plan"):
        torch.compile(lambda x: function(x), backend=backend, fullgraph=True)(torch.ones(2))


def test_what_torch_compile_was_given() -> None:
    layer = nn.Linear(1, 1)
    assert torch_internals.inside_compiled(torch.compile(layer)) is layer
    assert torch_internals.inside_compiled(torch.compile(targets)) is targets
    assert torch_internals.inside_compiled(layer) is None
    assert torch_internals.inside_compiled(targets) is None


def test_only_what_is_compiled_runs() -> None:
    python, graphs = [], []

    def function(x: Tensor) -> Tensor:
        if not torch.compiler.is_dynamo_compiling():
            python.append(x.shape)
        return x * 2

    def backend(gm: Any, inputs: Any) -> Any:
        return lambda *args: graphs.append(args) or gm.forward(*args)

    torch.compile(function, backend=backend, fullgraph=True, dynamic=False)(torch.ones(2))
    assert torch_internals.call_compiled(function, torch.ones(2)).tolist() == [2.0, 2.0]
    assert (len(graphs), python) == (2, [])
    function(torch.ones(2))  # as always
    assert (len(graphs), len(python)) == (2, 1)
    assert torch_internals.call_compiled(function, torch.ones(3)).shape == (3,)
    assert (len(graphs), len(python)) == (2, 2)
    torch_internals.forget_compiled(function.__code__)
    torch_internals.call_compiled(function, torch.ones(2))
    assert (len(graphs), len(python)) == (2, 3)


def test_options_of_dynamo() -> None:
    from torch._dynamo import config

    before = config.allow_rnn, config.skip_nnmodule_hook_guards
    with torch_internals.dynamo_options({"skip_nnmodule_hook_guards": False}, {"allow_rnn": True, "none": 1}):
        assert (config.allow_rnn, config.skip_nnmodule_hook_guards) == (True, False)
    assert (config.allow_rnn, config.skip_nnmodule_hook_guards) == before
    with pytest.raises(errors.Unavailable, match=r"no torch\._dynamo\.config\.none"):
        torch_internals.dynamo_options({"none": 1}, {})


def test_fake_mode_of_the_capture() -> None:
    modes = []

    def backend(gm: Any, inputs: Any) -> Any:
        modes.append(torch_internals.fake_mode_of_capture())
        return gm.forward

    torch.compile(torch.sin, backend=backend)(torch.ones(2))
    torch.compile(lambda x: x.sin(), backend=backend)(torch.ones(2))
    assert torch_internals.is_fake(modes[-1].from_tensor(torch.zeros(1)))
    assert torch_internals.fake_mode_of_capture() is None


def test_what_the_front_end_patches_is_there() -> None:
    patches = frontend.FrontEnd()._patches()
    assert len(patches) > 9
    for owner, name, _ in patches:
        assert callable(getattr(owner, name)) or name == "dispatch_table", f"{owner} has no {name}"


def test_sizes_that_depend_on_numbers() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(shape_env=ShapeEnv()):
        assert torch_internals.unknown_sizes(torch.zeros(3).nonzero())
        assert not torch_internals.unknown_sizes(torch.zeros(3))


def test_operators_are_described() -> None:
    def own(a: Tensor, b: Tensor) -> Tensor:
        return a

    torch_internals.describe(own, "own(Tensor(a!) a, Tensor b) -> Tensor(a!)")
    schema = torch_internals.schema_of(own)
    assert [a.name for a in schema.arguments] == ["a", "b"]
    assert schema.is_mutable
    assert schema.arguments[0].alias_info.is_write
    assert schema.name == "wgangp_fast::own"
    graph = torch.fx.Graph()
    node = graph.call_function(own, (graph.placeholder("a"), graph.placeholder("b")))
    assert node.is_impure()
    assert torch_internals.schema_of(aten.add_.Tensor).is_mutable
    assert not torch_internals.schema_of(aten.add.Tensor).is_mutable
    assert torch_internals.schema_of(torch.add) is None
    assert torch_internals.is_higher_order(torch.ops.higher_order.cond)
    assert not torch_internals.is_higher_order(aten.add.Tensor)


def test_kernels_that_are_registered() -> None:
    with torch.library._scoped_library("wgangp_fast_test", "FRAGMENT") as library:
        library.define("here(Tensor x) -> Tensor")
        library.define("there(Tensor x) -> Tensor")
        library.impl("here", lambda x: x + 1, "CPU")
        library.impl("there", lambda x: x + 1, "CUDA")
        here = torch.ops.wgangp_fast_test.here.default
        assert torch_internals.has_cuda_kernel("wgangp_fast_test::there")
        assert not torch_internals.has_cuda_kernel("wgangp_fast_test::here")
        assert not torch_internals.has_autograd_kernel(here)
        assert torch_internals.has_autograd_kernel(aten.argmax.default)
        assert torch_internals.has_autograd_kernel(aten.square.default)  # made of others that have one
        assert torch_internals.has_autograd_kernel(torch.add)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # vmap says that it loops
            assert torch.vmap(here)(torch.zeros(2)).tolist() == [1.0, 1.0]
            with torch_internals.without_vmap_loops(), pytest.raises(RuntimeError, match="vmap fallback"):
                torch.vmap(here)(torch.zeros(2))
            assert torch.vmap(here)(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_tensors_and_modules() -> None:
    x = torch.zeros(2, 3, 4, 4)
    key = torch_internals.storage_key
    assert key(x) == key(x[1:]) == key(x.view(-1)) != key(x.clone())
    with torch_internals.fake_mode():
        fake = torch.zeros(3)
        assert key(fake) == key(fake[1:]) != key(torch.zeros(3))
    before = torch_internals.version_of(x)
    x.add_(1)
    assert torch_internals.version_of(x) == before + 1
    assert torch_internals.kernel_layout(x) == torch.contiguous_format
    assert torch_internals.kernel_layout(x.to(memory_format=torch.channels_last)) == torch.channels_last
    norm = nn.BatchNorm1d(2)
    parameters, buffers = torch_internals.own_tensors(norm)
    del buffers["running_var"], parameters["bias"]
    assert not hasattr(norm, "running_var")
    assert not hasattr(norm, "bias")
    assert not torch_internals.has_hooks(norm)
    for register in ("forward_pre", "forward", "full_backward_pre", "full_backward"):
        handle = getattr(norm, f"register_{register}_hook")(lambda *_: None)
        assert torch_internals.has_hooks(norm)
        handle.remove()
    before_hooks, after_hooks = torch_internals.global_module_hooks()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert handle.id in after_hooks
    assert handle.id not in before_hooks
    handle.remove()


def test_the_optimiser_asks_for_the_mark_that_it_is_given() -> None:
    optimizer = copy.deepcopy(torch.optim.SGD([torch.zeros(1)]))
    before = set(vars(optimizer))
    torch_internals.not_warned_of_capture(optimizer)
    (mark,) = set(vars(optimizer)) - before
    assert f'not getattr(self, "{mark}"' in inspect.getsource(torch.optim.Optimizer)


def test_around_ddp() -> None:
    class Double:
        def _pre_forward(self) -> str:
            return "before"

        def _post_forward(self, result: str) -> str:
            return f"after {result}"

    before, after = torch_internals.around_ddp(Double())
    assert (before(), after("it")) == ("before", "after it")


def test_nested_containers() -> None:
    tree = torch_internals.tree
    given = {"a": [torch.ones(1), 2], "b": (torch.zeros(1),)}
    leaves, structure = tree.tree_flatten(given)
    assert len(leaves) == 3
    assert leaves == tree.tree_leaves(given)
    assert tree.tree_unflatten(leaves, structure)["a"][1] == 2
    assert tree.tree_map_only(Tensor, lambda t: t.item(), given) == {"a": [1.0, 2], "b": (0.0,)}


def test_tokens() -> None:
    owner = torch_internals.ordering_by_tokens()
    assert owner is None or hasattr(owner, "has_effects") or hasattr(owner, "_has_effects")


def test_inductor_draws_as_eager_code() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.rand_like(x) * x

    x = torch.ones(64)
    traced = torch_internals.trace_to_aten(lambda x: (function(x),), x)
    run = torch_internals.inductor(traced, [x])
    torch.manual_seed(0)
    right = function(x)
    torch.manual_seed(0)
    assert torch.equal(run(x)[0], right)
