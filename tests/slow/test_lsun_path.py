"""The way of a user of LSUN bedrooms, by commands: prepare, verify, train, killed, resume, sample, eval."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from launching import end, lines, start, wait_for
from lsun_fixture import write_lsun

from wgangp_fast.training import checkpoint

for package in ("lmdb", "PIL", "tyro", "matplotlib", "safetensors"):
    pytest.importorskip(package)

ITERS = 50
FLAGS = [
    "--preset", "lsun64-dcgan", "--critic-dim", "4", "--generator-dim", "4", "--latent", "8", "--batch", "4",
    "--n-critic", "2", "--iters", str(ITERS), "--tick", "5", "--snapshot", "10", "--device", "cpu",
    "--threads", "1",
]  # fmt: skip


def command(*arguments: object) -> list[str]:
    """Lines on stdout of a command that must succeed."""
    code, out, err = end(start([str(word) for word in arguments]), limit=240)
    assert code == 0, err
    assert "Traceback" not in err
    return out.splitlines()


def test_from_the_database_to_samples_and_numbers(tmp_path: Path) -> None:
    from PIL import Image

    database, cache, runs = tmp_path / "bedroom_train_lmdb", tmp_path / "bedrooms-64", tmp_path / "runs"
    good = write_lsun(database, 48, broken=3)

    out = command("prepare", database, cache, "--size", "64", "--workers", "2")
    assert out[-1] == str(cache)
    assert "48 images of 3x64x64, 3 skipped" in out[-2]
    assert np.load(cache / "images.npy", mmap_mode="r").shape == (len(good), 3, 64, 64)
    command("verify", cache)

    process = start(["train", *FLAGS, "--data", str(cache), "--outdir", str(runs)])
    run = runs / "00000-lsun64-dcgan-bedrooms-64"
    wait_for(lambda: (run / "checkpoint_000010.pt").exists() or process.poll() is not None, limit=240)
    process.send_signal(signal.SIGKILL)
    assert end(process)[0] == -signal.SIGKILL
    stopped = checkpoint.newest(run)[0]["iteration"]
    assert 10 <= stopped < ITERS

    assert command("train", "--resume", run)[-1] == str(run)
    assert checkpoint.newest(run)[0]["iteration"] == ITERS
    ticks = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    assert [tick["iteration"] for tick in ticks] == list(range(5, ITERS + 1, 5))
    whole = command("train", *FLAGS, "--data", cache, "--outdir", tmp_path / "whole")[-1]
    unbroken = [json.loads(line) for line in (Path(whole) / "stats.jsonl").read_text().splitlines()]
    for name in ("critic_loss", "penalty", "grad_norm", "held_out_critic_loss", "generator_loss"):
        assert [tick[name] for tick in ticks] == [tick[name] for tick in unbroken]

    sheet = tmp_path / "samples" / "sheet.png"
    assert command("sample", "--run", run, "--out", sheet, "--num", 9)[-1] == str(sheet)
    assert np.asarray(Image.open(sheet)).std() > 1
    found = json.loads(command("eval", "--run", run, "--num", "40", "--features", "random")[-1])
    assert found["iteration"] == ITERS
    assert found["frechet_distance"] > 0
    assert lines(run / "metrics.jsonl") == 1
    report = (run / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 3
    assert "http://" not in report.replace("http://www.w3.org", "")


def test_photographs_are_prepared_on_the_way_and_once(tmp_path: Path) -> None:
    """--data DIR is enough to start."""
    database = tmp_path / "bedroom_train_lmdb"
    write_lsun(database, 24, broken=1)
    flags = [*FLAGS, "--iters", "1", "--data", database, "--size", "16", "--outdir", tmp_path / "runs"]
    first = Path(command("train", *flags)[-1])
    assert "of [3, 16, 16]" in (first / "log.txt").read_text()
    (made,) = (tmp_path / "runs" / "prepared").iterdir()
    before = (made / "images.npy").stat().st_mtime_ns
    second = Path(command("train", *flags)[-1])
    assert second != first
    assert (made / "images.npy").stat().st_mtime_ns == before
