"""The trainer: losses by hand, the order of steps, exact resume, the run folder, one line a mistake."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wgangp_fast import cli, data
from wgangp_fast.data import UserError
from wgangp_fast.data.toy import Modes
from wgangp_fast.train import Config, Diverged, checkpoint, folder, losses, metrics, train
from wgangp_fast.train import cli as train_cli
from wgangp_fast.train.trainer import Trainer

for package in ("tyro", "sklearn", "matplotlib", "PIL"):
    pytest.importorskip(package)

CPU = torch.device("cpu")
SMALL = {
    "batch": 8,
    "critic_dim": 4,
    "generator_dim": 4,
    "latent": 3,
    "tick": 2,
    "snapshot": 4,
    "penalty": "stock",
    "device": "cpu",
    "threads": 1,
}


def small(preset: str = "digits", **changes: Any) -> Config:
    values = {**SMALL, **changes}
    if preset.startswith("toy"):
        values["latent"] = 2
    return Config(preset=preset, **values)


def trainer_of(config: Config) -> Trainer:
    return Trainer(config, data.load(config.data, config.seed), CPU)


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for net in (trainer.critic, trainer.generator) for p in net.parameters()]


# Losses: r = (2, -1), f = (0, 3), each value worked out on paper from the formulas of section 2.
REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.0, 3.0])


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [
        ("wgan-gp", 1.5 - 0.5, -1.5),
        ("wgan", 1.5 - 0.5, -1.5),
        (
            "gan",
            0.5 * ((softplus(0) + softplus(3)) / 2 + (softplus(-2) + softplus(1)) / 2),
            (softplus(0) + softplus(-3)) / 2,
        ),
        ("lsgan", 0.5 * ((1 + 4) / 2 + (0 + 9) / 2), (1 + 4) / 2),
    ],
)
def test_losses_have_their_hand_values(name: str, critic: float, generator: float) -> None:
    loss = losses.LOSSES[name]
    assert loss.critic(REAL, FAKE).item() == pytest.approx(critic, rel=1e-6)
    assert loss.generator(FAKE).item() == pytest.approx(generator, rel=1e-6)
    assert loss.penalised == (name == "wgan-gp")
    assert loss.clipped == (name == "wgan")


class Spy(Trainer):
    """Records the order of steps, and what every critic step was fed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steps: list[str] = []
        self.drawn: list[Tensor] = []
        self.seen: list[Tensor] = []

    def generator_step(self) -> None:
        self.steps.append("g")
        super().generator_step()

    def critic_step(self) -> None:
        self.steps.append("c")
        super().critic_step()
        assert self.last is not None
        self.seen.append(self.last[0])
        if self.loss.clipped:
            assert all(p.abs().max() <= self.config.clip for p in self.critic.parameters())

    def latents(self, count: int) -> Tensor:
        z = super().latents(count)
        self.drawn.append(z)
        return z


@pytest.mark.parametrize(("loss", "n_critic"), [("wgan-gp", 5), ("wgan", 5), ("gan", 1), ("lsgan", 1)])
def test_the_loop_begins_and_ends_with_critic_steps_on_fresh_batches(loss: str, n_critic: int) -> None:
    config = small("toy-8gaussians", loss=loss)
    assert config.n_critic == n_critic
    spy = Spy(config, data.load(config.data, 0), CPU)
    before = weights(spy)
    for _ in range(3):
        spy.iterate()
    c = "c" * n_critic
    assert "".join(spy.steps) == c + "g" + c + "g" + c
    assert len({batch.numpy().tobytes() for batch in spy.seen}) == 3 * n_critic
    assert len({z.numpy().tobytes() for z in spy.drawn}) == len(spy.steps)
    changed = [not torch.equal(a, b) for a, b in zip(before, weights(spy), strict=True) if a.dim() > 1]
    assert all(changed)
    assert spy.kimg == 3 * n_critic * 8 / 1000


def test_generator_steps_leave_the_critic_alone_and_the_reverse() -> None:
    trainer = trainer_of(small())
    start = weights(trainer)
    count = len(list(trainer.critic.parameters()))
    trainer.critic_step()
    after_critic = weights(trainer)
    assert all(torch.equal(a, b) for a, b in zip(start[count:], after_critic[count:], strict=True))
    # The last bias has no gradient: it cancels between mean f and mean r, and no slope depends on it.
    same = [torch.equal(a, b) for a, b in zip(start[:count], after_critic[:count], strict=True)]
    assert same == [False] * (count - 1) + [True]
    gradients = [p.grad.clone() for p in trainer.critic.parameters() if p.grad is not None]
    trainer.generator_step()
    after_both = weights(trainer)
    assert all(torch.equal(a, b) for a, b in zip(after_critic[:count], after_both[:count], strict=True))
    kept = [p.grad for p in trainer.critic.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))


def test_clipping_bounds_every_parameter() -> None:
    parameters = [torch.tensor([-3.0, 0.005, 0.02]), torch.tensor(-0.01)]
    losses.clip_(parameters, 0.01)
    assert parameters[0].tolist() == pytest.approx([-0.01, 0.005, 0.01])
    # A real run: norm scales start at 1 and are clipped too.
    trainer = trainer_of(small(loss="wgan", critic_norm="layer"))
    trainer.iterate()
    bounds = {name: p.abs().max().item() for name, p in trainer.critic.named_parameters()}
    assert max(bounds.values()) <= 0.01
    assert bounds["features.3.weight"] == pytest.approx(0.01)


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_critic_step_is_the_papers(one_sided: bool) -> None:
    """One critic step against the same step written out with autograd."""
    config = small("toy-8gaussians", one_sided=one_sided, lambda_gp=3.0, optimizer="rmsprop", lr=1e-3)
    trainer, other = trainer_of(config), trainer_of(config)
    with torch.no_grad():
        for t in (trainer, other):
            t.critic.net[0].weight.mul_(3)  # norms on both sides of 1
    real = other.data.batch(8)
    with torch.no_grad():
        fake = other.generator(torch.randn(8, 2, generator=other.random))
    alpha = torch.rand(8, generator=other.random)[:, None]
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(other.critic(x).sum(), x, create_graph=True)
    excess = gradient.square().sum(1).sqrt() - 1
    assert (excess > 0).any()
    assert (excess < 0).any()
    penalty = (excess.clamp(min=0) if one_sided else excess).square().mean()
    loss = other.critic(fake).mean() - other.critic(real).mean() + 3.0 * penalty
    loss.backward()
    other.critic_optimizer.step()
    trainer.critic_step()
    for a, b in zip(trainer.critic.parameters(), other.critic.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert trainer.take_means()["critic_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_the_average_has_its_half_life() -> None:
    config = small("toy-8gaussians", ema_kimg=0.002)  # 2 samples of 40 an iteration: 2^-20 remains
    trainer = trainer_of(config)
    for _ in range(3):
        trainer.iterate()
    for a, b in zip(trainer.average.parameters(), trainer.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    config = dataclasses.replace(config, ema_kimg=0.04)  # one iteration is one half-life
    trainer = trainer_of(config)
    trainer.iteration = 1000  # past the warm-up
    old = [p.clone() for p in trainer.average.parameters()]
    trainer.generator_step()
    new = zip(old, trainer.generator.parameters(), trainer.average.parameters(), strict=True)
    for before, now, average in new:
        torch.testing.assert_close(average, (before + now) / 2)


# Presets and settings


def test_toy_presets_are_the_papers() -> None:
    for name in ("toy-8gaussians", "toy-25gaussians", "toy-swissroll"):
        c = Config(preset=name)
        assert (c.data, c.batch, c.lambda_gp, c.n_critic, c.iters) == (name, 256, 0.1, 5, 100_000)
        assert (c.optimizer, c.lr, c.beta1, c.beta2, c.latent) == ("adam", 1e-4, 0.5, 0.9, 2)
        trainer = trainer_of(c)
        assert sum(p.numel() for p in trainer.critic.parameters()) == 527_361
        assert sum(p.numel() for p in trainer.generator.parameters()) == 527_874


def test_losses_bring_their_optimisers_and_the_user_wins() -> None:
    wgan = Config(preset="toy-8gaussians", loss="wgan")
    assert (wgan.optimizer, wgan.lr, wgan.clip, wgan.n_critic) == ("rmsprop", 5e-5, 0.01, 5)
    gan = Config(loss="gan")
    assert (gan.optimizer, gan.lr, gan.beta1, gan.beta2, gan.n_critic) == ("adam", 2e-4, 0.5, 0.999, 1)
    lsgan = Config(loss="lsgan", lr=7e-5)
    assert (lsgan.optimizer, lsgan.lr, lsgan.n_critic) == ("rmsprop", 7e-5, 1)
    assert Config().lambda_gp == 10
    assert Config().beta1 == 0
    parsed = train_cli.parse(["--preset", "toy-8gaussians", "--loss", "wgan", "--batch", "7"])
    assert parsed == dataclasses.replace(wgan, batch=7)
    assert train_cli.parse(["--preset=toy-swissroll"]) == Config(preset="toy-swissroll")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "mnist"}, "unknown preset 'mnist'; known: digits, toy-8gaussians"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"lr": -1.0}, "lr must be above 0; got -1.0"),
        ({"lambda_gp": float("nan")}, "lambda_gp must not be negative; got nan"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\)"),
        ({"critic": "resnet"}, "unknown critic 'resnet'; known: "),
        ({"critic_norm": "batch"}, "critic_norm batch couples the samples"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; known: wgan-gp"),
    ],
)
def test_refused_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(**changes)


# Runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight iterations on the digits, never interrupted."""
    return train(small(iters=8, outdir=str(tmp_path_factory.mktemp("runs"))))


def final_state(path: Path) -> dict[str, Any]:
    state = torch.load(checkpoint.newest(path), weights_only=True)
    del state["seconds"]
    return state


def assert_same(a: Any, b: Any, where: str = "state") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{index}]")
    elif isinstance(a, Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def ticks(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in tick.items() if k not in ("seconds", "img_per_s")} for tick in lines]


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
    for iteration in (1, 2, 10, 9_999_999):
        checkpoint.save(tmp_path, iteration, {"x": torch.ones(1)}, keep=2)
    assert [p.name for p in checkpoint.listing(tmp_path)] == ["checkpoint_000010.pt", "checkpoint_9999999.pt"]
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


# Metrics


def test_mode_coverage_counts_by_its_definition() -> None:
    modes = Modes(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), torch.arange(4), 0.1)
    samples = torch.cat(
        [
            torch.tensor([[0.0, 0.29]]).repeat(60, 1),  # within 3 sigma
            torch.tensor([[1.0, 0.0]]).repeat(3, 1),  # enough: a tenth of a quarter of 100 is 2.5
            torch.tensor([[0.0, 1.0]]).repeat(2, 1),  # too few
            torch.tensor([[5.0, 5.31]]).repeat(35, 1),  # outside 3 sigma
        ]
    )
    expected = {"modes": 4, "modes_covered": 2, "modes_hit": 3, "high_quality": 0.65, "samples": 100}
    assert metrics.mode_coverage(samples, modes) == expected


def test_digit_quality_knows_real_digits_from_one_digit_and_noise() -> None:
    images, labels = data.digits()
    real = metrics.digit_quality(images)
    assert real["classes_covered"] == 10
    assert real["confidence"] > 0.97
    assert real["score"] > 9
    one = metrics.digit_quality(images[labels == 3])
    assert one["classes_covered"] == 1
    assert one["class_shares"][3] > 0.95
    assert one["score"] < 1.3
    noise = metrics.digit_quality(torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["confidence"] < 0.7


# Command line


def command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


FLAGS = ["--batch", "8", "--critic-dim", "4", "--generator-dim", "4", "--device", "cpu"]


def test_the_last_line_is_the_run_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(
        ["train", "--preset", "digits", "--iters", "2", "--seed", "3", "--outdir", str(tmp_path), *FLAGS],
        capsys,
    )
    assert (code, err) == (0, "")
    path = Path(out.splitlines()[-1])
    assert path == tmp_path / "00000-digits"
    assert (path / "checkpoint_000002.pt").exists()
    code, out, _ = command(["train", "--resume", str(path), "--iters", "3"], capsys)
    assert code == 0
    assert out.splitlines()[-1] == str(path)
    assert (path / "checkpoint_000003.pt").exists()


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(["train", "--outdir", str(tmp_path / "runs"), "--dry-run"], capsys)
    assert code == 0
    assert "digits-critic" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--preset", "mnist"], "unknown preset 'mnist'"),
        (["train", "--data", "/nowhere/x.npy"], "no data file at /nowhere/x.npy"),
        (["train", "--batch", "1798"], "batch 1798 is larger than the data: digits has 1797 samples"),
        (["train", "--resume", "/nowhere"], "/nowhere is not a run folder"),
        (["train", "--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["train", "--iters", "0"], "iters must be at least 1; got 0"),
        (["train", "--outdir", "/dev/null/runs"], "cannot make /dev/null/runs/00000-digits"),
        (["train", "--generator", "toy-generator"], "toy-generator does not suit digits"),
        (["trian"], "unknown command 'trian'; known: train"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(arguments, capsys)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_flags_that_do_not_exist_or_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--bacth", "8"], ["--batch", "eight"], ["--penalty", "slow"]):
        code, _, err = command(["train", *arguments], capsys)
        assert code == 2
        assert "Traceback" not in err


def test_damaged_run_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "00000-digits"
    broken.mkdir()
    (broken / "config.json").write_bytes((run / "config.json").read_bytes())
    for content, words in ((None, "has no checkpoint"), (b"torn", "cannot read")):
        if content:
            (broken / "checkpoint_000004.pt").write_bytes(content)
        code, _, err = command(["train", "--resume", str(broken), "--iters", "20"], capsys)
        assert code == 2
        assert words in err
        assert err.count("\n") == 1


def test_run_folders_are_numbered_past_the_highest(tmp_path: Path) -> None:
    (tmp_path / "00007-other").mkdir()
    assert folder.create(tmp_path, "digits").name == "00008-digits"
    assert folder.create(tmp_path, "digits").name == "00009-digits"


def test_commands_are_found_without_importing_them() -> None:
    code = "import sys; from wgangp_fast import cli; assert cli.main([]) == 2; print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name in ("wgangp_fast.train", "tyro", "sklearn", "matplotlib", "PIL"):
        assert f"'{name}'" not in out


@pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX does")
def test_sigint_saves_and_leaves_with_130_and_the_rest_is_exact(tmp_path: Path) -> None:
    arguments = ["train", "--preset", "toy-8gaussians", *FLAGS, "--threads", "1", "--penalty", "stock"]
    arguments += ["--tick", "5", "--snapshot", "1000000", "--outdir", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "wgangp_fast", *arguments, "--iters", "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    stats = tmp_path / "00000-toy-8gaussians" / "stats.jsonl"
    deadline = time.monotonic() + 60
    while not (stats.exists() and stats.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "continue with: wgangp-fast train --resume" in err
    assert "Traceback" not in err
    stopped = stats.parent
    assert out.splitlines()[-1] == str(stopped)
    iteration = int(re.findall(r"\d+", checkpoint.newest(stopped).name)[0])
    assert iteration >= 5
    settings = json.loads((stopped / "config.json").read_text())
    whole = train(Config(**{**settings, "iters": iteration + 3, "outdir": str(tmp_path / "whole")}))
    part = train(Config(resume=str(stopped), iters=iteration + 3))
    assert_same(final_state(part), final_state(whole))
