"""What is private to torch: who touches it, what each function around it must do, what happens without."""

from __future__ import annotations

import ast
import copy
import inspect
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import wgangp_fast
from wgangp_fast import penalty
from wgangp_fast.engine import capture, errors, frontend, torch_internals
from wgangp_fast.rules import generic

aten = torch.ops.aten
PACKAGE = Path(__file__).resolve().parent.parent / "wgangp_fast"
INTERNALS = PACKAGE / "engine" / "torch_internals.py"

# who looks -----------------------------------------------------------------------------------------------

#: file and what it may touch: not torch's, but of a Lightning module, and Python's list of finalizers
EXCEPTED = {
    ("wrappers.py", "module._strategy"),
    ("engine/capture.py", "weakref.finalize._registry"),
}
#: private names of Python's own objects
PYTHONS = {"os._exit", "sys._getframe", "_asdict", "_replace", "_fields"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_private_path(path: str) -> bool:
    """Whether a dotted name within torch is private; operators may be called as they like."""
    parts = path.split(".")
    if path.startswith("torch.ops."):
        return False
    return any(map(is_private, parts)) or path.startswith("torch.fx.experimental")


def private_to_torch() -> set[str]:
    """The private attributes of what torch hands out."""
    linear = nn.Linear(1, 1)
    graph = torch.fx.symbolic_trace(linear)
    things = [
        torch.empty(1), linear, graph, graph.graph, next(iter(graph.graph.nodes)), torch.ops.aten.add,
        torch.ops.aten.add.Tensor, torch.empty(1).untyped_storage(), torch.optim.SGD(linear.parameters()),
        nn.parallel.DistributedDataParallel, torch.nn.modules.module,
    ]  # fmt: skip
    return {name for thing in things for name in dir(thing) if is_private(name)}


def own_names(trees: list[ast.Module]) -> set[str]:
    """Private names that the package itself gives to functions, classes and attributes."""
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if ast.unparse(node.value) == "self" else "")
    return {name for name in found if is_private(name)} - private_to_torch()


def touched(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """What a file takes of torch that is private: imports, attributes, ``getattr``, names in strings."""
    names = {"torch": "torch"}  # what a name of this file means
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "torch":
                    names[alias.asname or "torch"] = alias.name if alias.asname else "torch"
                    yield from [alias.name] if is_private_path(alias.name) else []
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            for alias in node.names:
                path = names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
                yield from [path] if is_private_path(path) else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, *rest = ast.unparse(node).split(".")
            path = ".".join([names.get(root, root), *rest])
            if re.fullmatch(r"torch\.[\w.]+", path):
                yield from [path] if is_private_path(path) else []
            elif is_private(node.attr) and root not in ("self", "cls", "aten") and node.attr not in own:
                yield path
        elif isinstance(node, ast.Call):
            function, strings = ast.unparse(node.func), [a for a in node.args if isinstance(a, ast.Constant)]
            for text in (str(constant.value) for constant in strings):
                if function in ("getattr", "hasattr", "setattr", "delattr") and is_private(text):
                    path = f"{ast.unparse(node.args[0])}.{text}"
                    yield from [] if path.startswith("torch.ops.") or text in own else [path]
                if "import" in function or "resolve" in function:
                    yield from [text] if text.startswith("torch.") and is_private_path(text) else []


def faults(texts: dict[str, str]) -> list[str]:
    trees = {name: ast.parse(text) for name, text in texts.items()}
    own = own_names(list(trees.values()))
    return [
        f"{name}: {path}"
        for name, tree in trees.items()
        for path in touched(tree, own)
        if not any(name == file and path.startswith(what) for file, what in EXCEPTED)
        and path not in PYTHONS
        and path.rpartition(".")[2] not in PYTHONS
    ]


def test_one_file_touches_what_is_private_to_torch() -> None:
    texts = {
        str(p.relative_to(PACKAGE)): p.read_text() for p in sorted(PACKAGE.rglob("*.py")) if p != INTERNALS
    }
    assert "engine/capture.py" in texts
    assert faults(texts) == []
    assert len(faults({"engine/x.py": INTERNALS.read_text()})) > 5


@pytest.mark.parametrize(
    "planted",
    [
        "import torch._dynamo",
        "import torch._dynamo as d",
        "from torch._C import parse_schema",
        "from torch import _C",
        "from torch.fx.experimental.proxy_tensor import make_fx",
        "from torch.utils import _pytree as pytree",
        "import torch\ntorch._C._set_grad_enabled(True)",
        "import torch as t\nt.utils._pytree.tree_leaves(1)",
        "from torch import fx\nfx.experimental.proxy_tensor.make_fx(f)",
        "def f(op):\n    return op._schema",
        "def f(op):\n    return getattr(op, '_schema', None)",
        "def f(x):\n    return x.untyped_storage()._cdata",
        "import importlib\nimportlib.import_module('torch._inductor.config')",
    ],
)
def test_a_private_name_is_found(planted: str) -> None:
    assert faults({"engine/x.py": planted})


def test_what_is_public_is_no_fault() -> None:
    text = """
import torch
from torch.fx.proxy import GraphAppendingTracer
x = torch.ops.aten._unsafe_view.default, hasattr(torch.ops.mkldnn, "_linear_pointwise"), torch.__version__
class A:
    def __init__(self): self._own = 1
def f(a): return a._own, getattr(a, "_own")
"""
    assert faults({"engine/x.py": text}) == []


# what each function must do ------------------------------------------------------------------------------


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
    original = torch_internals._need("torch.fx.experimental.proxy_tensor.make_fx")

    def rewriting(function: Any, **options: Any) -> Any:
        return original(lambda x: aten.alias.default(x), **options)

    found = {"torch.fx.experimental.proxy_tensor.make_fx": rewriting}
    need = torch_internals._need
    monkeypatch.setattr(torch_internals, "_need", lambda path: found.get(path) or need(path))
    with pytest.raises(errors.Unavailable, match=r"torch 2.*does not trace aten.detach as it is"):
        torch_internals.trace_to_aten(torch.detach, torch.zeros(2))


def test_each_traced_node_is_shown() -> None:
    seen: list[Any] = []
    with torch_internals.each_traced_node(lambda node: seen.append(node.target)):
        torch_internals.trace_to_aten(lambda x: x.exp().sin(), torch.zeros(2))
    torch_internals.trace_to_aten(torch.cos, torch.zeros(2))
    assert seen[1:-1] == [aten.exp.default, aten.sin.default]


def test_functional_tensors_keep_changes() -> None:
    f = torch_internals.functional
    given = torch.ones(2, 2)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        with f.FunctionalTensorMode():
            a, b = f.to_fun(x), f.to_fun(x.exp())
            row = a[0]
            row.mul_(3)
            torch_internals.synchronise(a)
            torch_internals.give_functional_value(b, torch_internals.functional_value(a))
            assert isinstance(a, f.FunctionalTensor)
            assert not isinstance(x, f.FunctionalTensor)
            return f.from_fun(a), f.from_fun(b)

    traced = torch_internals.trace_to_aten(function, given)
    assert not [t for t in targets(traced) if torch_internals.schema_of(t).is_mutable]
    for value in traced(given):
        assert value.tolist() == [[3.0, 3.0], [1.0, 1.0]]
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


def test_dynamo_calls_and_does_not_trace() -> None:
    compiled: list[Any] = []

    def backend(gm: Any, inputs: Any) -> Any:
        compiled.extend(targets(gm))
        return gm.forward

    def below(x: Tensor) -> Tensor:
        return x.cos()

    def apart(x: Tensor) -> Tensor:
        return below(x)

    function = torch_internals.never_traced(apart, "it runs a plan")
    run = torch.compile(lambda x: torch.exp(function(torch.sin(x))), backend=backend)
    assert torch.allclose(run(torch.ones(2)), torch.ones(2).sin().cos().exp())
    assert {target.__name__ for target in compiled} == {"sin", "exp"}
    with pytest.raises(Exception, match="it runs a plan"):
        torch.compile(lambda x: function(x), backend=backend, fullgraph=True)(torch.ones(2))


def test_what_torch_compile_was_given() -> None:
    layer = nn.Linear(1, 1)
    assert torch_internals.inside_compiled(torch.compile(layer)) is layer
    assert torch_internals.inside_compiled(torch.compile(is_private)) is is_private
    assert torch_internals.inside_compiled(layer) is None
    assert torch_internals.inside_compiled(is_private) is None


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
    assert torch_internals.call_compiled(function, torch.ones(3)).shape == (3,)
    assert (len(graphs), len(python)) == (2, 1)
    torch_internals.forget_compiled(function.__code__)
    torch_internals.call_compiled(function, torch.ones(2))
    assert (len(graphs), len(python)) == (2, 2)


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
        assert torch_internals.has_autograd_kernel(aten.matmul.default)
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
        return torch.nn.functional.dropout(x, 0.5) * 3

    x = torch.ones(64)
    traced = torch_internals.trace_to_aten(lambda x: (function(x),), x)
    run = torch_internals.inductor(traced, [x])
    torch.manual_seed(0)
    right = function(x)
    torch.manual_seed(0)
    assert torch.equal(run(x)[0], right)


# where something is missing ------------------------------------------------------------------------------


class Critic(nn.Module):
    """A bit of everything: views, detach, a change in place, a norm, an operator without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.inner(x.reshape(-1, 6)))
        h = torch.tanh(h) * (1 + h.detach().abs().mean(1, keepdim=True))
        h = h + torch.logcumsumexp(h, 1)
        h.mul_(0.5)
        return self.outer(h)


def samples() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    return real, fake, torch.rand(4, generator=generator, dtype=torch.float64)


CALLS: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": lambda c, r, f, a, **o: wgangp_fast.gradient_penalty(c, r, f, alpha=a, **o),
    "critic_loss": lambda c, r, f, a, **o: wgangp_fast.critic_loss(c, r, f, alpha=a, **o).loss,
    "r1_penalty": lambda c, r, f, a, **o: wgangp_fast.r1_penalty(c, r, **o),
    "input_gradient": lambda c, r, f, a, **o: wgangp_fast.input_gradient(c, r, **o).square().sum(),
}


def numbers(critic: nn.Module, **options: Any) -> list[Tensor]:
    """Value and gradients of each public function."""
    found = []
    for call in CALLS.values():
        critic.zero_grad()
        value = call(critic, *samples(), **options)
        value.backward()
        found += [value.detach(), *(p.grad.clone() for p in critic.parameters() if p.grad is not None)]
    return found


def fresh_critic() -> Critic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Critic()


def run_counting() -> tuple[list[Tensor], list[warnings.WarningMessage], Critic]:
    critic = fresh_critic()
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always")
        found = numbers(critic)
    return found, got, critic


def forget_lookups() -> None:
    kept = (
        torch_internals._lookup, torch_internals.require, frontend._always, generic.has_derivative,
    )  # fmt: skip
    for function in kept:
        function.cache_clear()
    penalty._said_of_torch.clear()


def literal_paths() -> set[str]:
    """Every name in the source of torch_internals."""
    tree = ast.parse(INTERNALS.read_text())
    asked = {*torch_internals.REQUIRED}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("_need", "_perhaps", "_lookup"):
            (path,) = node.args
            if isinstance(path, ast.Constant):
                asked.add(path.value)
            else:
                assert ast.unparse(path) in ("path", "self.paths[name]", "f'torch._dynamo.config.{name}'")
    for table in (torch_internals.tree, torch_internals.functional, torch_internals.dynamo):
        asked.update(table.paths.values())
    options = "allow_rnn allow_unspec_int_on_nn_module reorderable_logging_functions recompile_limit "
    options += "accumulated_recompile_limit skip_nnmodule_hook_guards assume_static_by_default"
    return asked | {f"torch._dynamo.config.{name}" for name in options.split()}


PATHS = sorted(literal_paths())


def test_the_paths_are_all_that_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = torch_internals.pkgutil.resolve_name
    noting = SimpleNamespace(resolve_name=lambda path: seen.add(path) or original(path))
    forget_lookups()
    monkeypatch.setattr(torch_internals, "pkgutil", noting)
    found, got, critic = run_counting()
    assert not got
    assert capture.entry(critic).refused is None
    assert len(seen) > 40
    assert not seen - set(PATHS)
    for ours, stock in zip(found, numbers(fresh_critic(), impl="ref"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_name_the_numbers_are_stock_codes(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch_internals.pkgutil.resolve_name

    def resolve(asked: str) -> Any:
        if asked == path or asked.startswith(path + "."):
            raise AttributeError(asked)
        return original(asked)

    forget_lookups()
    monkeypatch.setattr(torch_internals, "pkgutil", SimpleNamespace(resolve_name=resolve))
    try:
        found, got, critic = run_counting()
    finally:
        forget_lookups()
    assert len(got) <= 1, [str(w.message) for w in got]
    refused = capture.entry(critic).refused
    assert (refused is None) == (not got)
    for warning in got:
        assert warning.category is wgangp_fast.penalty.StockPathWarning
        assert f"torch {torch.__version__} has no {path}" in str(warning.message)
        assert "use a torch from 2.11 to" in str(warning.message)
    assert got or path not in torch_internals.REQUIRED
    for ours, stock in zip(found, numbers(fresh_critic(), impl="ref"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


IMPORTS = f"""
import importlib, pkgutil, sys
sys.path.insert(0, {str(PACKAGE.parent)!r})
import torch
asked, original = [], pkgutil.resolve_name

def resolve(path):
    asked.append(path)
    if MISSING:
        raise AttributeError(path)
    return original(path)

pkgutil.resolve_name = resolve
import wgangp_fast
for unit in ("engine", "rules", "ops"):
    folder = importlib.import_module("wgangp_fast." + unit)
    for found in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(folder.__name__ + "." + found.name)
"""

EVERYTHING_MISSING = (
    f"MISSING = True{IMPORTS}"
    + """
import warnings
sys.path.insert(0, sys.argv[1])
from test_torch_internals import fresh_critic, numbers
with warnings.catch_warnings(record=True) as got:
    warnings.simplefilter("always")
    found = numbers(fresh_critic()) + numbers(fresh_critic())
for ours, stock in zip(found, 2 * numbers(fresh_critic(), impl="ref"), strict=True):
    assert torch.equal(ours, stock)
print(*[warning.message for warning in got if "torch" in str(warning.message)], sep="\\n")
"""
)


def run_alone(program: str) -> list[str]:
    arguments = [sys.executable, "-c", program, str(Path(__file__).parent)]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_importing_looks_up_what_decorates_alone() -> None:
    asked = run_alone(f"MISSING = False{IMPORTS}\nprint(*sorted(set(asked)), sep=chr(10))")
    names = ("_FrameAction", "_FrameExecStrategy", "set_code_exec_strategy")
    assert asked == [f"torch._C._dynamo.eval_frame.{name}" for name in names]


def test_without_any_name_all_runs_and_says_so_once() -> None:
    """In a process of its own, where every lookup fails from the first import on."""
    (said,) = run_alone(EVERYTHING_MISSING)
    assert said.startswith("the stock gradient penalty runs for this critic")
    assert f"has no {torch_internals.REQUIRED[0]}" in said


def test_an_untested_torch_is_named_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.16.0a0+git1234")
    monkeypatch.setattr(capture, "_said", set())
    found, got, critic = run_counting()
    more, again, _ = run_counting()
    assert [w.category for w in got + again] == [wgangp_fast.UntestedTorchWarning]
    assert re.search(r"tested with torch 2\.11 to 2\.15, and this is torch 2\.16\.0a0", str(got[0].message))
    assert got[0].filename == __file__
    assert capture.entry(critic).refused is None
    for ours, stock in zip(found + more, 2 * numbers(fresh_critic(), impl="ref"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.1+cpu", "2.15.0.dev20261101+cu130"])
def test_a_tested_torch_is_no_surprise(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert torch_internals.untested() is None
