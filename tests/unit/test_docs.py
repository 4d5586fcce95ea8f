"""The README and docs/: examples run, links lead somewhere, every public name is on the API's page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import nn

import wgangp_fast

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = ["README.md", "docs/index.md", "docs/quickstart.md"]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
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


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in LINK.findall(text) if not link.startswith(("http", "#"))]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    named = set(re.findall(r"^::: wgangp_fast\.(\w+)$", (ROOT / "docs/api.md").read_text(), re.MULTILINE))
    assert set(wgangp_fast.__all__) <= named


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
