"""What happens on a torch that lacks a private name, or that was not tested."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import penalty
from wgangp_fast.engine import capture, frontend, torch_internals
from wgangp_fast.rules import generic

PACKAGE = Path(__file__).resolve().parent.parent / "wgangp_fast"
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
from test_missing_names import fresh_critic, numbers
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
