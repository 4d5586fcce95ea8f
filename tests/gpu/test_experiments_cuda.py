"""Every experiment on a GPU, at the smallest scale; and a training there that goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wgangp_fast.experiments.catalog import EXPERIMENTS
from wgangp_fast.experiments.cli import open_study, run
from wgangp_fast.experiments.speed import kernels
from wgangp_fast.experiments.study import Entry, Study
from wgangp_fast.experiments.training import trained

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

ENTRY = Entry("none", "A title", "Somebody 1999, figure 1", "a line")


def test_a_training_goes_on_and_its_critic_is_measured(tmp_path: Path) -> None:
    """Needs no package for pictures, which a benchmark machine may lack."""
    pytest.importorskip("sklearn")
    study = Study("trial", ENTRY, "smoke", {"iters": 4}, tmp_path, device="cuda")
    config = study.config("digits", batch=16, critic_dim=8, generator_dim=8, latent=4, iters=4)
    found = trained(study, "run", config, every=2)
    assert next(found.trainer.critic.parameters()).is_cuda
    again = trained(study, "run", config, every=2)
    assert again.rows == found.rows
    for a, b in zip(found.trainer.critic.parameters(), again.trainer.critic.parameters(), strict=True):
        assert torch.equal(a, b)
    real, fake, *_ = found.trainer.critic_batch(0)
    row = kernels(study, "critic", found.trainer.critic, real, fake)
    assert row["path"] == "engine"
    assert len(row["ratios"]) == len(row["seconds"]["fast"]) > 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke(name: str, tmp_path: Path) -> None:
    for package in ("matplotlib", "PIL", "sklearn"):
        pytest.importorskip(package)
    page = run(open_study(name, "smoke", tmp_path, device="cuda"))
    results = json.loads((tmp_path / "results.json").read_text())
    assert page.exists()
    assert results["environment"]["device"] == torch.cuda.get_device_name()
    assert all(row["path"] == "engine" for row in results["kernels"])
