"""A user's mistakes, at every command: one line that says what is wrong and what to do, and the exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from lsun_fixture import write_folder, write_lsun
from train_settings import small

from wgangp_fast import cli
from wgangp_fast.training import checkpoint, train


class Place(NamedTuple):
    """What the mistakes are made with."""

    empty: Path  # a folder of one's own for each case
    run: Path  # a finished run on digits, read only by these tests
    points: Path  # a finished run on a toy
    cache: Path  # prepared photographs, 3x16x16


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    from wgangp_fast.training.data import prepare

    folder = tmp_path_factory.mktemp("made")
    write_folder(folder / "photographs", 40)
    cache = prepare(folder / "photographs", folder / "cache", size=16, quiet=True).path
    run = train(small(iters=4, outdir=str(folder / "runs")))
    points = train(small("toy-8gaussians", iters=2, outdir=str(folder / "toys")))
    return Place(folder, run, points, cache)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    return made._replace(empty=tmp_path)


def copied(path: Path, target: Path) -> Path:
    return Path(shutil.copytree(path, target / path.name))


def other_networks(p: Place) -> Path:
    """A run folder whose checkpoint is of another width than its settings say."""
    run = copied(p.run, p.empty)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "critic_dim": 16, "generator_dim": 16}))
    return run


def damaged(p: Place) -> Path:
    run = copied(p.run, p.empty)
    for path in checkpoint.listing(run):
        path.write_bytes(path.read_bytes()[:500])
    return run


def old_format(p: Place) -> Path:
    run = copied(p.run, p.empty)
    for path in checkpoint.listing(run):
        torch.save({"format": 1, "iteration": 4}, path)
    return run


def without_checkpoints(p: Place) -> Path:
    run = copied(p.run, p.empty)
    for path in checkpoint.listing(run):
        path.unlink()
    return run


def damaged_config(p: Place) -> Path:
    run = copied(p.run, p.empty)
    (run / "config.json").write_text("{half")
    return run


def truncated_database(p: Place) -> Path:
    write_lsun(p.empty / "x_lmdb", 12)
    path = p.empty / "x_lmdb" / "data.mdb"
    os.truncate(path, path.stat().st_size // 2)
    return p.empty / "x_lmdb"


def other_version(p: Place) -> Path:
    cache = copied(p.cache, p.empty)
    header = json.loads((cache / "header.json").read_text())
    (cache / "header.json").write_text(json.dumps({**header, "version": 99}))
    return cache


def cut_cache(p: Place) -> Path:
    cache = copied(p.cache, p.empty)
    os.truncate(cache / "images.npy", 2000)
    return cache


def flipped_bit(p: Place) -> Path:
    cache = copied(p.cache, p.empty)
    with open(cache / "images.npy", "r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    return cache


def text(p: Place, name: str = "x.txt") -> Path:
    (p.empty / name).write_text("not what it says")
    return p.empty / name


def array(p: Place, values: Any) -> Path:
    np.save(p.empty / "x.npy", values)
    return p.empty / "x.npy"


Case = tuple[Callable[[Place], list[Any]], str, int]
SMALL = ["--critic-dim", 4, "--generator-dim", 4, "--device", "cpu"]

CASES: dict[str, Case] = {
    # prepare
    "prepare: no source": (lambda p: ["prepare", p.empty / "no", p.empty / "x", "--size", 16], "no", 2),
    "prepare: an empty folder": (lambda p: ["prepare", p.empty, p.empty / "x", "--size", 16], "", 2),
    "prepare: a text file": (lambda p: ["prepare", text(p), p.empty / "y", "--size", 16], "x.txt", 2),
    "prepare: a truncated database": (
        lambda p: ["prepare", truncated_database(p), p.empty / "y", "--size", 16], "truncated", 2),
    "prepare: an odd size": (lambda p: ["prepare", p.cache, p.empty / "y", "--size", 15], "multiple of 4", 2),
    "prepare: no size": (lambda p: ["prepare", p.cache, p.empty / "y"], "--size", 2),
    "prepare: an unknown filter": (
        lambda p: ["prepare", p.cache, p.empty / "y", "--size", 16, "--filter", "sinc"], "sinc", 2),
    "prepare: a name that is taken": (
        lambda p: ["prepare", p.run.parent.parent / "photographs", p.cache, "--size", 32], "size", 2),
    # verify
    "verify: no cache": (lambda p: ["verify", p.empty], "no cache at", 2),
    "verify: another version": (lambda p: ["verify", other_version(p)], "version 99", 2),
    "verify: a cut cache": (lambda p: ["verify", cut_cache(p)], "images.npy", 1),
    "verify: a flipped bit": (lambda p: ["verify", flipped_bit(p)], "damaged in rows", 1),
    # train: settings
    "train: an unknown preset": (lambda p: ["train", "--preset", "lsun"], "unknown preset 'lsun'; known:", 2),
    "train: an unknown flag": (lambda p: ["train", "--bacth", 8], "--bacth", 2),
    "train: a word for a number": (lambda p: ["train", "--batch", "eight"], "--batch", 2),
    "train: a preset without data": (lambda p: ["train", "--preset", "lsun64-dcgan"], "needs data", 2),
    "train: batch norm in the critic": (
        lambda p: ["train", "--critic-norm", "batch"], "couples the samples of a batch", 2),
    "train: a batch larger than the set": (
        lambda p: ["train", "--preset", "lsun64-dcgan", "--data", p.cache, "--batch", 41, *SMALL],
        "batch 41 is larger than the data: cache has 40 samples", 2),
    "train: parts of unequal size": (
        lambda p: ["train", "--batch", 10, "--accumulate", 3], "cut into accumulate 3 equal parts", 2),
    "train: all of it held out": (
        lambda p: ["train", "--preset", "lsun64-dcgan", "--data", p.cache, "--holdout", 40, *SMALL],
        "holdout 40 leaves nothing to train on", 2),
    "train: a device that is not there": (lambda p: ["train", "--device", "cuda:7"], "cuda:7", 2),
    # train: data
    "train: no such data": (lambda p: ["train", "--data", p.empty / "no.npy"], "no data at", 2),
    "train: a mistyped set": (lambda p: ["train", "--data", "digit"], "unknown data 'digit'", 2),
    "train: an empty folder": (
        lambda p: ["train", "--preset", "lsun64-dcgan", "--data", p.empty, "--outdir", p.empty / "r"], "", 2),
    "train: an array of another kind": (
        lambda p: ["train", "--data", array(p, np.zeros((4, 9)))], "expected uint8 images", 2),
    "train: a cut cache": (
        lambda p: ["train", "--preset", "lsun64-dcgan", "--data", cut_cache(p)], "images.npy", 2),
    "train: a cache of another version": (
        lambda p: ["train", "--preset", "lsun64-dcgan", "--data", other_version(p)], "version 99", 2),
    "train: points for images": (
        lambda p: ["train", "--data", "toy-8gaussians"], "digits-critic does not suit toy-8gaussians", 2),
    "train: a critic that needs labels": (
        lambda p: ["train", "--critic", "cifar-resnet-acgan-critic"], "needs labels", 2),
    "train: sequences for images": (
        lambda p: ["train", "--critic", "language-critic"], "language-critic does not suit digits", 2),
    # train: folders
    "train: a file in the way": (lambda p: ["train", "--outdir", text(p)], "cannot make", 2),
    "train: a folder where nothing can be made": (
        lambda p: ["train", "--outdir", "/proc/self/runs"], "cannot make /proc/self/runs/00000-digits", 2),
    "train: resuming nothing": (lambda p: ["train", "--resume", p.empty / "no"], "is not a run folder", 2),
    "train: resuming without a checkpoint": (
        lambda p: ["train", "--resume", without_checkpoints(p), "--iters", 9], "has no checkpoint", 2),
    "train: resuming damaged checkpoints": (
        lambda p: ["train", "--resume", damaged(p), "--iters", 9], "no checkpoint of", 2),
    "train: resuming an old format": (
        lambda p: ["train", "--resume", old_format(p), "--iters", 9], "of format 2 (found 1)", 2),
    "train: resuming other networks": (
        lambda p: ["train", "--resume", other_networks(p), "--iters", 9], "of other networks", 2),
    "train: resuming with another rate": (
        lambda p: ["train", "--resume", p.run, "--iters", 9, "--lr", 1], "(lr: 0.002 -> 1.0); --force", 2),
    "train: resuming what is finished": (lambda p: ["train", "--resume", p.run], "is at iteration 4", 2),
    "train: a damaged config": (lambda p: ["train", "--resume", damaged_config(p)], "is damaged", 2),
    # sample
    "sample: no run": (lambda p: ["sample", "--run", p.empty, "--out", "x.png"], "is not a run folder", 2),
    "sample: nothing to do": (lambda p: ["sample", "--run", p.run], "nothing to do: give --out", 2),
    "sample: no samples": (lambda p: ["sample", "--run", p.run, "--out", "x.png", "--num", 0], "above 0", 2),
    "sample: a word for a number": (
        lambda p: ["sample", "--run", p.run, "--out", "x.png", "--num", "ten"], "'ten'", 2),
    "sample: an unknown ending": (
        lambda p: ["sample", "--run", p.run, "--out", p.empty / "x.pdf"], "the ending must be", 2),
    "sample: no such checkpoint": (
        lambda p: ["sample", "--run", p.run, "--out", "x.png", "--iteration", 3], "it has 4", 2),
    "sample: a file in the way": (
        lambda p: ["sample", "--run", p.run, "--out", text(p, "y") / "x.png"], "cannot write", 2),
    "sample: damaged checkpoints": (
        lambda p: ["sample", "--run", damaged(p), "--out", p.empty / "x.png"], "no checkpoint of", 2),
    "sample: other networks": (
        lambda p: ["sample", "--run", other_networks(p), "--out", p.empty / "x.png"], "another generator", 2),
    "sample: a folder for points": (
        lambda p: ["sample", "--run", p.points, "--out", p.empty / "x"], "use .png or .npy", 2),
    # eval
    "eval: no run": (lambda p: ["eval", "--run", p.empty / "no"], "is not a run folder", 2),
    "eval: too few samples": (lambda p: ["eval", "--run", p.run, "--num", 5], "too few to compare", 2),
    "eval: data of another shape": (
        lambda p: ["eval", "--run", p.run, "--data", p.cache], "the run makes [1, 8, 8]", 2),
    "eval: no Inception": (
        lambda p: ["eval", "--run", p.run, "--num", 40, "--inception", p.empty / "no.pth"], "no.pth", 2),
    "eval: not Inception": (
        lambda p: ["eval", "--run", p.run, "--num", 40, "--inception", text(p)], "x.txt", 2),
    # report, and the command itself
    "report: no run": (lambda p: ["report", p.empty], "is not a run folder", 2),
    "an unknown command": (lambda p: ["trane"], "unknown command 'trane'; known:", 2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_gets_one_line(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, words, expected = CASES[name]
    argv = [str(word) for word in arguments(place)]
    before = {path.name for path in place.empty.iterdir()}
    try:
        code = cli.main(argv)
    except SystemExit as stop:  # what argparse would do by itself
        code = -int(stop.code or 0)
    captured = capsys.readouterr()
    assert code == expected, captured.err
    assert captured.err.startswith(f"wgangp-fast {argv[0]}: " if argv[0] != "trane" else "wgangp-fast: ")
    assert captured.err.count("\n") == 1, captured.err
    assert words in captured.err
    left = {path.name for path in place.empty.iterdir()} - before
    assert not [entry for entry in left if not entry.endswith(".partial") and entry != "r"], left


def test_a_full_disk_is_said_and_the_checkpoints_before_it_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = os.fsync
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    flags = [
        "--preset",
        "toy-8gaussians",
        "--batch",
        "8",
        "--iters",
        "20",
        "--snapshot",
        "2",
        "--penalty",
        "stock",
    ]
    code = cli.main(["train", *flags, *map(str, SMALL), "--outdir", str(tmp_path)])
    captured = capsys.readouterr()
    assert code == 2
    assert "No space left on device); the checkpoints before it are intact" in captured.err
    assert captured.err.count("\n") == 1
    run = tmp_path / "00000-toy-8gaussians"
    assert checkpoint.newest(run)[0]["iteration"] == 4
    assert not list(run.glob("*.tmp"))


def test_a_log_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from wgangp_fast.training import folder

    def refuse(path: Path, value: dict[str, Any]) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(folder, "append_line", refuse)
    flags = ["--preset", "toy-8gaussians", "--batch", "8", "--iters", "2", "--penalty", "stock"]
    assert cli.main(["train", *flags, *map(str, SMALL), "--outdir", str(tmp_path)]) == 2
    assert "(Read-only file system)" in capsys.readouterr().err
