"""What happens on a torch that lacks a private name, or that was not tested."""

from __future__ import annotations

import ast
import functools
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from paths import PACKAGE, TESTS
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import wgangp_fast
from wgangp_fast import run
from wgangp_fast.engine import lookups, torch_internals
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.capture import frontend
from wgangp_fast.errors import StockPathWarning
from wgangp_fast.rules import generic

INTERNALS = PACKAGE / "engine" / "torch_internals.py"


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
        random.seed(0)
        value = call(critic, *samples(), **options)
        value.backward()
        found += [value.detach(), *(p.grad.clone() for p in critic.parameters() if p.grad is not None)]
    return found


def fresh(kind: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind()


Warned = list[warnings.WarningMessage]


def run_counting(kind: Callable[[], nn.Module]) -> tuple[list[Tensor], Warned, nn.Module]:
    critic = fresh(kind)
    with warnings.catch_warnings(record=True) as got:
        warnings.simplefilter("always")
        found = numbers(critic)
    return found, got, critic


def forget_lookups() -> None:
    kept = (
        lookups.lookup, torch_internals.require, frontend._always, generic.has_derivative,
    )  # fmt: skip
    for function in kept:
        function.cache_clear()
    run._said_of_torch.clear()


def literal_paths() -> set[str]:
    """Every name in the source of torch_internals."""
    tree = ast.parse(INTERNALS.read_text())
    asked = {*torch_internals.REQUIRED}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("need", "perhaps", "lookup"):
            (path,) = node.args
            if isinstance(path, ast.Constant):
                asked.add(path.value)
            else:
                assert ast.unparse(path) in ("path", "self.paths[name]", "f'torch._dynamo.config.{name}'")
    for table in (torch_internals.tree, torch_internals.functional, torch_internals.dynamo):
        asked.update(table.paths.values())
    options = "allow_rnn allow_unspec_int_on_nn_module reorderable_logging_functions recompile_limit "
    options += "accumulated_recompile_limit skip_nnmodule_hook_guards assume_static_by_default "
    options += "skip_tensor_guards_with_matching_dict_tags use_numpy_random_stream"
    return asked | {f"torch._dynamo.config.{name}" for name in options.split()}


PATHS = sorted(literal_paths())


def test_the_paths_are_all_that_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    original = lookups.pkgutil.resolve_name
    noting = SimpleNamespace(resolve_name=lambda path: seen.add(path) or original(path))
    forget_lookups()
    monkeypatch.setattr(lookups, "pkgutil", noting)
    found, got, critic = run_counting(Critic)
    assert not got
    assert capture.entry(critic).refused is None
    assert len(seen) > 40
    assert not seen - set(PATHS)
    for ours, stock in zip(found, numbers(fresh(Critic), impl="ref"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.fixture
def without(path: str | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str | None]:
    """Inside the test, torch has no ``path``."""
    original = lookups.pkgutil.resolve_name

    def resolve(asked: str) -> Any:
        if path is not None and f"{asked}.".startswith(f"{path}."):
            raise AttributeError(asked)
        return original(asked)

    forget_lookups()
    monkeypatch.setattr(lookups, "pkgutil", SimpleNamespace(resolve_name=resolve))
    yield path
    forget_lookups()


def expect(found: list[Tensor], got: Warned, right: list[Tensor]) -> None:
    """Stock's numbers, and no more than one warning, which says that stock code runs."""
    assert [w.category for w in got] in ([], [StockPathWarning]), [str(w.message) for w in got]
    for ours, stock in zip(found, right, strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_name_the_numbers_are_stock_codes(without: str) -> None:
    found, got, critic = run_counting(Critic)
    expect(found, got, numbers(fresh(Critic), impl="ref"))
    refused = capture.entry(critic).refused
    assert (refused is None) == (not got)
    for warning in got:
        assert f"torch {torch.__version__} has no {without}" in str(warning.message)
        assert "use torch 2.11 to" in str(warning.message)
    assert got or without not in torch_internals.REQUIRED
    assert not got or without not in FRONT_END


#: names without which nothing is captured: numbers might be wrong
CAPTURE = ("InstructionTranslatorBase", "InstructionTranslator", "TensorVariable")
#: what :class:`Strange` needs of the front end, and :class:`Critic` does not
FRONT_END = [
    *(path for name, path in torch_internals.dynamo.paths.items() if name not in CAPTURE),
    *("torch._dynamo.config.allow_rnn", "torch._dynamo.config.assume_static_by_default"),
    *("torch.Tensor._version", "torch.fx.experimental.symbolic_shapes.free_unbacked_symbols"),
]


class Strange(Critic):
    """What the front end has to be taught: draws in Python, numpy scalars, numbers out of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("widths", torch.tensor([2, 6, 3]))
        self.gain = np.sqrt(np.float64(2.0))

    def forward(self, x: Tensor) -> Tensor:
        width = int(self.widths.max())
        h = self.inner(x.reshape(-1, width)) * random.random() * self.gain
        kept = self.widths[self.widths > 2].double()
        return self.outer(torch.tanh(h)) * kept.sum() * random.choice([1.0, 3.0])


@pytest.mark.parametrize("path", [None, *FRONT_END])
def test_what_the_front_end_is_not_taught_takes_the_stock_path(without: str | None) -> None:
    found, got, _ = run_counting(Strange)
    expect(found, got, numbers(fresh(Strange), impl="ref"))
    assert without is not None or not got
    if without is not None and without.startswith("torch._dynamo.source."):  # looked up at the draw
        assert f"has no {without}" in str(got[0].message)
        assert "use torch 2.11 to" in str(got[0].message)


class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "path",
    [
        *("torch._C._get_dispatch_mode", "torch._C._TorchDispatchModeKey"),
        *("torch.nn.modules.module._global_forward_hooks", "torch._C._len_torch_dispatch_stack"),
        "torch.utils._python_dispatch._disable_current_modes",
    ],
)
def test_under_a_dispatch_mode(without: str) -> None:
    with Mode():
        found, got, _ = run_counting(Critic)
    expect(found, got, numbers(fresh(Critic), impl="ref"))
    assert len(got) == 1
    assert f"has no {without}" in str(got[0].message)


@pytest.mark.parametrize(
    "path", ["torch._inductor.compile_fx.compile_fx", *torch_internals.tree.paths.values()]
)
def test_an_executor_that_cannot_be_had(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")
    stock = CALLS["gradient_penalty"]
    monkeypatch.setitem(CALLS, "gradient_penalty", functools.partial(stock, executor="inductor"))
    found, got, _ = run_counting(Critic)
    monkeypatch.setitem(CALLS, "gradient_penalty", stock)
    expect(found, got, numbers(fresh(Critic), impl="ref"))


@pytest.mark.parametrize(
    "path", [f"torch.nn.parallel.DistributedDataParallel._{step}_forward" for step in ("pre", "post")]
)
def test_ddp_that_is_not_known_stays_on(path: str, request: pytest.FixtureRequest) -> None:
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        right = numbers(nn.parallel.DistributedDataParallel(fresh(Critic)), impl="ref")
        request.getfixturevalue("without")
        found, got, _ = run_counting(lambda: nn.parallel.DistributedDataParallel(fresh(Critic)))
    finally:
        dist.destroy_process_group()
    expect(found, got, right)
    assert f"has no {path}" in str(got[0].message)


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
for name in wgangp_fast.__all__:
    getattr(wgangp_fast, name)
for unit in ("engine", "rules", "ops"):
    folder = importlib.import_module("wgangp_fast." + unit)
    for found in pkgutil.walk_packages(folder.__path__, folder.__name__ + "."):
        importlib.import_module(found.name)
"""

EVERYTHING_MISSING = (
    f"MISSING = True{IMPORTS}"
    + """
import warnings
sys.path[:0] = sys.argv[1:]
from test_missing_names import Critic, fresh, numbers
with warnings.catch_warnings(record=True) as got:
    warnings.simplefilter("always")
    found = numbers(fresh(Critic)) + numbers(fresh(Critic))
for ours, stock in zip(found, 2 * numbers(fresh(Critic), impl="ref"), strict=True):
    assert torch.equal(ours, stock)
print(*[warning.message for warning in got if "torch" in str(warning.message)], sep="\\n")
"""
)


def run_alone(program: str) -> list[str]:
    arguments = [sys.executable, "-c", program, str(TESTS), str(Path(__file__).parent)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


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
    found, got, critic = run_counting(Critic)
    more, again, _ = run_counting(Critic)
    assert [w.category for w in got + again] == [wgangp_fast.UntestedTorchWarning]
    assert re.search(r"tested with torch 2\.11 to 2\.15, and this is torch 2\.16\.0a0", str(got[0].message))
    assert got[0].filename == __file__
    assert capture.entry(critic).refused is None
    for ours, stock in zip(found + more, 2 * numbers(fresh(Critic), impl="ref"), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("version", ["2.11.0", "2.13.1+cpu", "2.15.0.dev20261101+cu130"])
def test_a_tested_torch_is_no_surprise(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    assert lookups.untested() is None
