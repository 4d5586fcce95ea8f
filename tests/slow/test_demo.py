"""The demo: its table, its pictures, and that a wrong penalty fails it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from train_settings import SMALL

from wgangp_fast.experiments import demo
from wgangp_fast.penalty import gradient_penalty

TINY = {**SMALL, "iters": 20, "tick": 5, "snapshot": 20}
TINY.pop("penalty")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "TRAININGS", {"digits": TINY, "toy-8gaussians": {**TINY, "latent": 2}})
    monkeypatch.setattr(demo, "CRITICS", {"tanh": {"activation": "tanh"}})
    monkeypatch.setattr(demo, "show_speed", lambda: "not measured")


def test_the_demo_ends_with_pictures_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--outdir", str(tmp_path), "--penalty", "stock"]) == 0
    out = capsys.readouterr().out
    pictures = [Path(line) for line in out.splitlines() if line.endswith(".png")]
    assert len(pictures) == 8
    assert all(picture.stat().st_size > 1000 for picture in pictures)
    table = out[out.index("== result") :]
    for words in ("agreement, float64", "largest relative error", "classes covered", "modes covered", "all"):
        assert words in table


def test_a_wrong_penalty_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arguments: Any, impl: str, **settings: Any) -> Tensor:
        value = gradient_penalty(*arguments, impl="ref", **settings)
        return value * (1 + 1e-8) if impl == "auto" else value

    monkeypatch.setattr(demo, "gradient_penalty", wrong)
    monkeypatch.setattr(demo, "TRAININGS", {})
    assert demo.main(["--outdir", str(tmp_path)]) == 1


def test_relative_error_of_zero_is_absolute() -> None:
    assert demo.relative_error(torch.tensor([3.0, 4.0]), torch.zeros(2)) == 5
    assert demo.relative_error(torch.tensor([3.0, 4.4]), torch.tensor([3.0, 4.0])) == pytest.approx(
        0.08, rel=1e-4
    )


def test_an_absent_benchmark_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "wgangp_fast.bench.cli", None)
    assert demo.show_speed().startswith("absent")
    assert "no times are shown" in capsys.readouterr().out
