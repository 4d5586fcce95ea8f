"""The trainer on a GPU: where batches lie, captured steps, mixed precision, resume, sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from wgangp_fast.training import Config, checkpoint, train
from wgangp_fast.training.data import Batches, Loader, Stored, stream
from wgangp_fast.training.runs import open_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

CUDA = torch.device("cuda")
SMALL = {
    "batch": 8,
    "critic_dim": 4,
    "generator_dim": 4,
    "latent": 3,
    "tick": 2,
    "snapshot": 4,
    "device": "cuda",
}


def pictures() -> Stored:
    return Stored("pictures", torch.randint(0, 256, (100, 3, 16, 16), generator=stream(0), dtype=torch.uint8))


@pytest.mark.parametrize("placement", ["device", "ahead", "plain"])
def test_batches_are_the_same_wherever_they_lie(placement: Any) -> None:
    options = {"flip": "sample", "dequantize": True}
    expected = Batches(pictures(), 8, 3, **options)
    loader = Loader(Batches(pictures(), 8, 3, **options), CUDA, placement)
    for k in (*range(30), 7, 8, 9):
        found = loader(k)
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), expected(k), rtol=0, atol=1e-6)
    loader.close()


def test_a_set_that_fits_lies_on_the_gpu() -> None:
    loader = Loader(Batches(pictures(), 8, 3), CUDA)
    assert loader.placement == "device"
    assert isinstance(loader.batches.samples, Stored)
    assert loader.batches.samples.samples.is_cuda


def small(tmp_path: Path, **changes: Any) -> Config:
    pytest.importorskip("sklearn")
    return Config(**{**SMALL, "preset": "digits", "outdir": str(tmp_path), **changes})


def ticks(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "changes",
    [{}, {"lr_decay": "linear"}, {"precision": "bf16"}, {"accumulate": 2}, {"loss": "gan"}],
    ids=lambda changes: " ".join(map(str, changes.values())) or "plain",
)
def test_captured_and_eager_runs_agree(tmp_path: Path, changes: dict[str, Any]) -> None:
    tolerance = 0.05 if changes.get("precision") else 2e-3
    runs = [train(small(tmp_path, iters=12, graphs=graphs, **changes)) for graphs in (True, False)]
    for captured, eager in zip(*map(ticks, runs), strict=True):
        for name in ("critic_loss", "wasserstein", "generator_loss", "held_out_critic_loss"):
            assert captured[name] == pytest.approx(eager[name], rel=tolerance, abs=tolerance), name


def test_stock_and_fast_train_alike(tmp_path: Path) -> None:
    runs = [train(small(tmp_path, iters=8, penalty=penalty)) for penalty in ("fast", "stock")]
    for fast, stock in zip(*map(ticks, runs), strict=True):
        assert fast["critic_loss"] == pytest.approx(stock["critic_loss"], rel=2e-3, abs=2e-3)


def test_resume_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = train(small(tmp_path / "whole", iters=8))
    part = train(small(tmp_path / "part", iters=4))
    train(Config(resume=str(part), iters=8))
    for a, b in zip(ticks(whole), ticks(part), strict=True):
        assert a["critic_loss"] == pytest.approx(b["critic_loss"], rel=2e-3, abs=2e-3)
    state = checkpoint.newest(part)[0]
    assert all(value.device.type == "cpu" for value in state["critic"].values())
    # What a GPU wrote, a CPU can continue and sample from.
    run = open_run(part, device="cpu")
    on_gpu = open_run(part, device="cuda")
    torch.testing.assert_close(run.draw(8, 0), on_gpu.draw(8, 0), rtol=1e-3, atol=1e-3)
    train(Config(resume=str(part), iters=9, device="cpu"))
