"""README, CONTRIBUTING, docs/, docstrings: examples run, links lead somewhere, nothing public is left out."""

from __future__ import annotations

import doctest
import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import nn

import wgangp_fast
from wgangp_fast import backend

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ["README.md", "docs/index.md", "docs/quickstart.md"]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FOLDERS = ("wgangp_fast", "csrc", "tests", "examples", "benchmarks")  # where a file that a page names may lie
LINK = re.compile(r"\]\(([^)\s]+)\)")


class Labelled(nn.Module):
    """A critic that takes labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, labels: Any = None) -> Any:
        return self.layers(x) if labels is None else self.layers(x) * (1 + labels[:, None])


def _scope() -> dict[str, Any]:
    """What a reader of the examples has."""
    torch.manual_seed(0)
    critic = Labelled()
    return {
        "critic": critic,
        "real": torch.rand(64, 1, 28, 28),
        "fake": torch.rand(64, 1, 28, 28),
        "x": torch.rand(64, 1, 28, 28),
        "labels": torch.rand(64),
        "acgan_critic": lambda x: (critic(x), x.flatten(1)[:, :10]),
        "optimizer": torch.optim.Adam(critic.parameters()),
        "log": lambda *values: None,
        "my_gradient_penalty": lambda critic, real, fake: wgangp_fast.gradient_penalty(critic, real, fake),
    }


@pytest.mark.parametrize("page", EXAMPLES)
def test_examples_run(page: str) -> None:
    """Block after block, as a reader would: what one defines the next may use."""
    scope = _scope()
    critic = scope["critic"]  # an example may define a simpler one
    for code in BLOCK.findall((ROOT / page).read_text(encoding="utf-8")):
        if "DistributedDataParallel(" in code:  # needs processes: tests/slow/test_distributed.py has it
            continue
        exec(compile(code, page, "exec"), scope)
        scope["critic"] = critic


@pytest.mark.skipif(
    backend.missing("cpu") is not None, reason="the page shows code that calls the C++ kernels"
)
def test_the_code_on_the_page_is_the_code_that_is_generated() -> None:
    """docs/how-it-works.md has the same calls in the same order; its names for the values are its own."""
    blocks = BLOCK.findall((ROOT / "docs/how-it-works.md").read_text(encoding="utf-8"))
    scope: dict[str, Any] = {}
    exec(blocks[1], scope)
    generated = [scope["forward"], scope["backward"]]
    assert [_calls(code) for code in blocks[2:4]] == [_calls(code) for code in generated]


def _calls(code: str) -> list[str]:
    names = [name.removesuffix(".default").split(".")[-1] for name in re.findall(r"= ([\w.]+)\(", code)]
    return [name.removeprefix("wgangp_fast_plan_") for name in names if name != "t"]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in LINK.findall(text) if not link.startswith(("http", "#"))]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    """Those in backticks: ``engine/plan.py``, ``ops.cpp``. Capitals stand for any name: ``NAME_cpu.cpp``."""
    missing = []
    for named in re.findall(r"`([\w./-]+\.(?:py|pyi|cpp|cu|h|sh))`", page.read_text(encoding="utf-8")):
        if not re.search("[A-Z]{3}", named):
            found = (path for top in FOLDERS for path in (ROOT / top).rglob(Path(named).name))
            if not any(str(path).endswith(f"/{named}") for path in found):
                missing.append(named)
    assert not missing


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The full names that the API's page describes, from the site as ``make docs`` builds it."""
    for package in ("mkdocs", "mkdocstrings", "material"):
        pytest.importorskip(package, reason="the site is built by make docs where mkdocs is installed")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(site)]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert build.returncode == 0, build.stdout + build.stderr
    return set(re.findall(r'id="(wgangp_fast[\w.]*)"', (site / "api/index.html").read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", ["wgangp_fast", "wgangp_fast.compat", "wgangp_fast.ops"])
def test_every_public_name_is_on_the_page_of_the_api(module: str, documented: set[str]) -> None:
    public = importlib.import_module(module)
    # A function that is called as its file is documented under the file's name: ops.gate.gate.
    homes = {name: getattr(getattr(public, name), "__module__", module) for name in public.__all__}
    assert not [n for n, home in homes.items() if not {f"{module}.{n}", f"{home}.{n}"} & documented]


WITH_EXAMPLES = [n for n in wgangp_fast.__all__ if ">>> " in (getattr(wgangp_fast, n).__doc__ or "")]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings(name: str) -> None:
    scope = {"wgangp_fast": wgangp_fast, **{n: getattr(wgangp_fast, n) for n in wgangp_fast.__all__}}
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(wgangp_fast, name), name, globs=scope)
    found = doctest.DocTestRunner().run(example)
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("script", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_scripts_run(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each compares its own numbers with autograd's, or prints its progress."""
    before = torch.get_default_dtype()
    try:
        runpy.run_path(str(script), run_name="__main__")
    finally:
        torch.set_default_dtype(before)
    assert re.search(r"\d\.\d", capsys.readouterr().out)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
