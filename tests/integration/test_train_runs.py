"""Whole runs: the run folder, exact resume, refusals, checkpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_settings import CPU, assert_same, final_state, small, ticks, trainer_of, whole_run

from wgangp_fast.errors import UserError
from wgangp_fast.training import Config, Diverged, checkpoint, data, folder, loop, train
from wgangp_fast.training.data import Batches
from wgangp_fast.training.recorder import status
from wgangp_fast.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("runs"))


def test_a_run_folder_has_everything(run: Path) -> None:
    assert run.name == "00000-digits"
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "log.txt", "stats.jsonl", "metrics.jsonl", "reals.png", "loss.png", "report.html",
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
            "learning_rate",
            "held_out_critic_loss",
            "held_out_wasserstein",
        }
        assert set(line) == keys | {"generator_loss"}
        assert line["critic_loss"] == pytest.approx(-line["wasserstein"] + 10 * line["penalty"], abs=1e-5)
    (quality,) = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
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
    assert (path / "fakes_000008.png").read_bytes() == (run / "fakes_000008.png").read_bytes()
    quality = [(folder / "metrics.jsonl").read_text().splitlines()[-1] for folder in (path, run)]
    assert quality[0] == quality[1]


def test_a_crash_between_ticks_costs_nothing(run: Path, tmp_path: Path) -> None:
    """The newest checkpoint is from the middle of a tick, and the statistics are ahead of it."""
    path = train(small(iters=8, snapshot=3, outdir=str(tmp_path)))
    for later in checkpoint.listing(path)[1:]:
        later.unlink()
    assert checkpoint.newest(path)[0]["iteration"] == 3
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
    rows = [Batches(data.load("digits"), 8, seed).rows(0) for seed in (0, 1)]
    assert not torch.equal(*rows)


def test_a_picture_that_a_kill_came_before_is_drawn_when_the_run_goes_on(tmp_path: Path) -> None:
    path = train(small(iters=4, outdir=str(tmp_path)))
    picture = path / "fakes_000004.png"
    drawn = picture.read_bytes()
    picture.unlink()
    (path / ".fakes_000004.png.tmp").write_bytes(b"half of")
    train(Config(resume=str(path), iters=6))
    assert picture.read_bytes() == drawn
    assert not list(path.glob(".*"))


def test_resume_into_another_folder_copies_the_statistics(run: Path, tmp_path: Path) -> None:
    path = train(Config(resume=str(run), iters=10, outdir=str(tmp_path)))
    assert path.parent == tmp_path
    assert [tick["iteration"] for tick in ticks(path)] == [2, 4, 6, 8, 10]
    assert checkpoint.newest(run)[0]["iteration"] == 8


def test_resume_with_other_settings_is_refused_with_the_difference(run: Path) -> None:
    with pytest.raises(UserError, match=r"other settings \(batch: 8 -> 16; lr: 0.002 -> 0.001\)"):
        train(Config(resume=str(run), iters=20, batch=16, lr=1e-3))
    with pytest.raises(UserError, match=r"preset: 'digits' -> 'toy-swissroll'"):
        train(Config(resume=str(run), iters=20, preset="toy-swissroll"))
    with pytest.raises(UserError, match="the checkpoint is of other networks than these settings"):
        train(Config(resume=str(run), iters=20, critic_dim=8, force=True))
    with pytest.raises(UserError, match="already is at iteration 8; ask for more with --iters"):
        train(Config(resume=str(run)))


@pytest.mark.parametrize(("rate", "words"), [(1234.5, "img/s 1234  sec/kimg 0.81"), (0.004, "img/s 0.004  ")])
def test_the_status_line_shows_slow_machines_too(rate: float, words: str) -> None:
    values = {"iteration": 1, "kimg": 0.1, "img_per_s": rate, "critic_loss": 1.0}
    assert words in status(values, 10, 4000.0, CPU)
    assert "eta 1h06m" in status(values, 10, 4000.0, CPU)


def test_force_resumes_with_other_settings_and_says_so(run: Path, tmp_path: Path) -> None:
    config = Config(resume=str(run), iters=10, lr=1e-3, batch=16, force=True, outdir=str(tmp_path))
    path = train(config)
    assert "settings changed by force: batch: 8 -> 16; lr: 0.002 -> 0.001" in (path / "log.txt").read_text()
    assert json.loads((path / "config.json").read_text())["lr"] == 1e-3
    assert ticks(path)[-1]["learning_rate"] == 1e-3


def test_kimg_and_the_average_count_images_whatever_the_batch_was(run: Path, tmp_path: Path) -> None:
    """8 iterations of 3 times 8 images, then 2 of 3 times 32."""
    config = Config(resume=str(run), iters=10, batch=32, ema_kimg=0.1, force=True, outdir=str(tmp_path))
    path = train(config)
    assert [tick["kimg"] for tick in ticks(path)] == [0.048, 0.096, 0.144, 0.192, 0.384]
    assert final_state(path)["images"] == 384
    assert config.n_critic == 3
    again = train(Config(resume=str(path), iters=11, n_critic=1, force=True))
    assert ticks(again)[-1]["kimg"] == 0.416


def test_the_half_life_after_a_resume_is_of_the_images_that_were_shown(run: Path) -> None:
    """The warm-up: a twentieth of the images so far, 192 of the old batch, not 8 times the new one."""
    trainer = trainer_of(small(batch=32))
    state = checkpoint.newest(run)[0]
    trainer.load_state_dict({**state, "size": trainer.loader.batches.samples.size})
    assert trainer.kimg == 0.192
    old = [p.clone() for p in trainer.average.parameters()]
    with torch.no_grad():
        for p in trainer.generator.parameters():
            p.add_(1.0)
    now = [p.clone() for p in trainer.generator.parameters()]
    trainer._update_average()
    keep = 0.5 ** (0.096 / (0.192 / 20))
    for before, after, average in zip(old, now, trainer.average.parameters(), strict=True):
        torch.testing.assert_close(average, keep * before + (1 - keep) * after)


def test_a_checkpoint_of_before_images_were_counted_has_those_of_its_settings(
    run: Path, tmp_path: Path
) -> None:
    old = Path(shutil.copytree(run, tmp_path / run.name))
    for path in checkpoint.listing(old):
        state = checkpoint.load(path)
        del state["images"]
        torch.save(state, path)
    train(Config(resume=str(old), iters=10, batch=32, force=True))
    assert ticks(old)[-1]["kimg"] == 0.384


def test_tensorboard_gets_what_stats_get(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    path = train(small(iters=4, tensorboard=True, outdir=str(tmp_path)))
    path = train(Config(resume=str(path), iters=8))
    events = accumulator.EventAccumulator(str(path), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("critic_loss")]
    assert [step for step, _ in found] == [2, 4, 6, 8]
    assert [value for _, value in found] == pytest.approx([tick["critic_loss"] for tick in ticks(path)])
    assert [event.step for event in events.Images("fakes")] == [0, 4, 8]


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
    quality = json.loads((path / "metrics.jsonl").read_text())
    assert quality["modes"] == {"toy-8gaussians": 8, "toy-25gaussians": 25, "toy-swissroll": 20}[preset]
    for name in ("reals.png", "fakes_000004.png", "loss.png"):
        assert (path / name).stat().st_size > 5000


def test_own_images_and_points(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "colours.npy", pixels)
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(40, 2)))
    path = train(small(data=str(tmp_path / "colours.npy"), iters=1, outdir=str(tmp_path)))
    assert path.name == "00000-digits-colours"
    assert not (path / "metrics.jsonl").exists()
    path = train(small("toy-swissroll", data=str(tmp_path / "points.npy"), iters=1, outdir=str(tmp_path)))
    assert path.name == "00001-toy-swissroll-points"
    with pytest.raises(
        UserError, match=r"digits-critic does not suit .*which holds points; try --preset toy"
    ):
        train(small(data=str(tmp_path / "points.npy")))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"critic's loss is nan at iteration 2.*kept in diverged\.pt"):
        train(small("toy-8gaussians", lr=1e30, iters=8, outdir=str(tmp_path)))
    path = tmp_path / "00000-toy-8gaussians"
    assert not checkpoint.listing(path)
    assert checkpoint.load(path / "diverged.pt")["iteration"] == 2
    (tick,) = map(json.loads, (path / "stats.jsonl").read_text().splitlines())
    assert tick["critic_loss"] is None  # JSON has no NaN


def test_a_loss_beyond_the_limit_is_a_divergence(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"at iteration 2, limit 0\.0001"):
        train(small("toy-8gaussians", loss_limit=1e-4, iters=8, outdir=str(tmp_path)))


class Poisoned(Trainer):
    """NaN in a weight after iteration 5, as long as ``times`` lasts; the losses are still finite then."""

    times = 1

    def iterate(self) -> None:
        super().iterate()
        if self.iteration == 5 and Poisoned.times:
            Poisoned.times -= 1
            with torch.no_grad():
                next(self.critic.parameters())[0, 0] = torch.nan


@pytest.mark.parametrize("snapshot", [4, 5])
def test_a_checkpoint_never_holds_a_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snapshot: int
) -> None:
    """At 5 the weights are bad and no loss shows it yet; at 6 the tick does."""
    monkeypatch.setattr(loop, "Trainer", Poisoned)
    monkeypatch.setattr(Poisoned, "times", 1)
    with pytest.raises(Diverged, match=f"is nan at iteration {6 if snapshot == 4 else 5}"):
        train(small("toy-8gaussians", snapshot=snapshot, iters=12, outdir=str(tmp_path)))
    for path in checkpoint.listing(tmp_path / "00000-toy-8gaussians"):
        assert all(value.isfinite().all() for value in checkpoint.load(path)["critic"].values())


def test_a_rollback_goes_on_from_the_last_checkpoint_with_other_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Trainer", Poisoned)
    monkeypatch.setattr(Poisoned, "times", 2)
    config = small("toy-8gaussians", on_divergence="rollback", iters=12, outdir=str(tmp_path))
    path = train(config)
    assert (path / "log.txt").read_text().count("rolled back to iteration 4") == 2
    assert [tick["iteration"] for tick in ticks(path)] == [2, 4, 6, 8, 10, 12]
    state = final_state(path)
    assert state["rollbacks"] == 2
    monkeypatch.setattr(Poisoned, "times", 0)
    other = final_state(train(config))
    assert not torch.equal(state["critic"]["net.0.weight"], other["critic"]["net.0.weight"])
    monkeypatch.setattr(Poisoned, "times", 100)
    with pytest.raises(Diverged):  # three in vain are enough
        train(config)
    assert Poisoned.times == 96


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
    with pytest.raises(UserError, match=r"cannot write .*disk full.*the checkpoints before it are intact"):
        checkpoint.save(tmp_path, 2, {"x": torch.zeros(1)}, keep=1)
    assert torch.equal(checkpoint.newest(tmp_path)[0]["x"], torch.ones(1))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_000001.pt"]


def test_the_bytes_are_on_the_disk_before_the_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    checkpoint.save(tmp_path, 1, {}, keep=1)
    assert calls == ["fsync", "replace", "fsync"]  # the bytes, the name, the folder that holds it


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_taken(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train(small(iters=8, outdir=str(tmp_path)))
    newest = path / "checkpoint_000008.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    train(Config(resume=str(path)))
    text = capsys.readouterr().out
    assert f"warning: cannot read {newest}" in text
    assert "an older one is taken" in text
    assert "continues at iteration 4" in text
    assert_same(final_state(path), final_state(run))
    assert ticks(path) == ticks(run)


def test_resume_auto_takes_the_newest_unfinished_run_of_these_settings(tmp_path: Path) -> None:
    config = small(outdir=str(tmp_path), iters=8, resume="auto")
    assert train(dataclasses.replace(config, iters=4)).name == "00000-digits"  # nothing to continue
    (tmp_path / "00001-other").mkdir()
    train(dataclasses.replace(config, seed=5, iters=4))
    assert train(config).name == "00000-digits"
    assert train(config).name == "00003-digits"  # what is finished is not continued
