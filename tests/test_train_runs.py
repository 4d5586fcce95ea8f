"""Whole runs: the run folder, exact resume, refusals, checkpoints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_settings import assert_same, final_state, small, ticks, whole_run

from wgangp_fast.data import UserError
from wgangp_fast.train import Config, Diverged, checkpoint, folder, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("runs"))


def test_a_run_folder_has_everything(run: Path) -> None:
    assert run.name == "00000-digits"
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "log.txt", "stats.jsonl", "metrics.json", "reals.png", "loss.png",
        "fakes_000000.png", "fakes_000004.png", "fakes_000008.png",
        "checkpoint_000004.pt", "checkpoint_000008.pt",
    }  # fmt: skip
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4, 6, 8]
    assert [line["kimg"] for line in lines] == [0.048, 0.096, 0.144, 0.192]
    for line in lines:
        keys = {
            "iteration",
            "kimg",
            "seconds",
            "img_per_s",
            "critic_loss",
            "wasserstein",
            "penalty",
            "grad_norm",
        }
        assert set(line) == keys | {"generator_loss"}
        assert line["critic_loss"] == pytest.approx(-line["wasserstein"] + 10 * line["penalty"], abs=1e-5)
    quality = json.loads((run / "metrics.json").read_text())
    assert quality["classifier_accuracy"] > 0.95
    assert 0 <= quality["classes_covered"] <= 10
    assert json.loads((run / "config.json").read_text())["batch"] == 8
    assert "eta" in (run / "log.txt").read_text()
    from PIL import Image

    assert not np.array_equal(*(np.asarray(Image.open(run / f"fakes_00000{i}.png")) for i in (0, 8)))


@pytest.mark.parametrize("stop", [4, 5])
def test_resume_is_exact(run: Path, tmp_path: Path, stop: int) -> None:
    path = train(small(iters=stop, outdir=str(tmp_path)))
    again = train(Config(resume=str(path), iters=8))
    assert again == path
    assert_same(final_state(path), final_state(run))
    if stop == 4:  # at 5 the first part closed its tick early
        assert ticks(path) == ticks(run)
    for name in ("metrics.json", "fakes_000008.png"):
        assert (path / name).read_bytes() == (run / name).read_bytes()


def test_a_crash_between_ticks_costs_nothing(run: Path, tmp_path: Path) -> None:
    """The newest checkpoint is from the middle of a tick, and the statistics are ahead of it."""
    path = train(small(iters=8, snapshot=3, outdir=str(tmp_path)))
    for later in checkpoint.listing(path)[1:]:
        later.unlink()
    assert checkpoint.newest(path).name == "checkpoint_000003.pt"
    train(Config(resume=str(path)))
    assert ticks(path) == ticks(run)
    assert_same(final_state(path), final_state(run))


def test_resume_is_exact_for_every_optimiser_and_data(tmp_path: Path) -> None:
    for index, (preset, loss) in enumerate([("toy-25gaussians", "wgan"), ("toy-8gaussians", "gan")]):
        whole = train(small(preset, loss=loss, iters=6, outdir=str(tmp_path / f"{index}a")))
        part = train(small(preset, loss=loss, iters=3, outdir=str(tmp_path / f"{index}b")))
        assert_same(final_state(train(Config(resume=str(part), iters=6))), final_state(whole))


def test_another_seed_is_another_run(run: Path, tmp_path: Path) -> None:
    state, other = final_state(run), final_state(train(small(iters=8, seed=1, outdir=str(tmp_path))))
    assert not torch.equal(state["generator"]["project.weight"], other["generator"]["project.weight"])
    assert not torch.equal(state["data"]["order"], other["data"]["order"])


def test_resume_into_another_folder_copies_the_statistics(run: Path, tmp_path: Path) -> None:
    path = train(Config(resume=str(run), iters=10, outdir=str(tmp_path)))
    assert path.parent == tmp_path
    assert [tick["iteration"] for tick in ticks(path)] == [2, 4, 6, 8, 10]
    assert checkpoint.newest(run).name == "checkpoint_000008.pt"


def test_resume_with_other_settings_is_refused_with_the_difference(run: Path) -> None:
    with pytest.raises(UserError, match=r"other settings \(batch: 8 -> 16; lr: 0.002 -> 0.001\)"):
        train(Config(resume=str(run), iters=20, batch=16, lr=1e-3))
    with pytest.raises(UserError, match=r"preset: 'digits' -> 'toy-swissroll'"):
        train(Config(resume=str(run), iters=20, preset="toy-swissroll"))
    with pytest.raises(UserError, match="already is at iteration 8; ask for more with --iters"):
        train(Config(resume=str(run)))


def test_statistics_behind_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    stats = tmp_path / "stats.jsonl"
    stats.write_text("".join(json.dumps({"iteration": i}) + "\n" for i in (2, 4, 6)))
    assert [tick["iteration"] for tick in folder.Log(tmp_path, 4).ticks] == [2, 4]
    assert len(stats.read_text().splitlines()) == 2


def test_both_penalties_train_alike(run: Path, tmp_path: Path) -> None:
    """The fast path is another order of summation, nothing else; eight iterations keep that small."""
    fast = final_state(train(small(iters=8, penalty="fast", outdir=str(tmp_path))))
    stock = final_state(run)
    for name, value in stock["critic"].items():
        torch.testing.assert_close(fast["critic"][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("preset", ["toy-8gaussians", "toy-25gaussians", "toy-swissroll"])
def test_toy_runs(preset: str, tmp_path: Path) -> None:
    path = train(small(preset, iters=4, outdir=str(tmp_path)))
    quality = json.loads((path / "metrics.json").read_text())
    assert quality["modes"] == {"toy-8gaussians": 8, "toy-25gaussians": 25, "toy-swissroll": 20}[preset]
    for name in ("reals.png", "fakes_000004.png", "loss.png"):
        assert (path / name).stat().st_size > 5000


def test_own_images_and_points(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "colours.npy", pixels)
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    path = train(small(data=str(tmp_path / "colours.npy"), iters=1, outdir=str(tmp_path)))
    assert path.name == "00000-colours"
    assert not (path / "metrics.json").exists()
    path = train(small("toy-swissroll", data=str(tmp_path / "points.npy"), iters=1, outdir=str(tmp_path)))
    assert path.name == "00001-points"
    with pytest.raises(
        UserError, match=r"digits-critic does not suit .*which holds points; try --preset toy"
    ):
        train(small(data=str(tmp_path / "points.npy")))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="critic's loss is nan at 2"):
        train(small("toy-8gaussians", lr=1e30, iters=8, outdir=str(tmp_path)))
    assert not checkpoint.listing(tmp_path / "00000-toy-8gaussians")


# Checkpoints


def test_only_the_last_checkpoints_stay(tmp_path: Path) -> None:
    for iteration in (1, 2, 999_999, 1_000_000):
        checkpoint.save(tmp_path, iteration, {"x": torch.ones(1)}, keep=2)
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["checkpoint_999999.pt", "checkpoint_1000000.pt"]
    assert not list(tmp_path.glob("*.tmp"))


def test_an_interrupted_save_harms_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, 1, {"x": torch.ones(1)}, keep=1)

    def torn(_: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, 2, {"x": torch.zeros(1)}, keep=1)
    assert torch.equal(checkpoint.load(checkpoint.newest(tmp_path))["x"], torch.ones(1))


def test_the_bytes_are_on_the_disk_before_the_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    checkpoint.save(tmp_path, 1, {}, keep=1)
    assert calls[:2] == ["fsync", "replace"]
