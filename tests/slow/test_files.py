"""Files are there whole or not at all, a full disk is called that, and a folder has one writer."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import end, start, start_ranks
from paths import ROOT
from train_settings import small, ticks

from wgangp_fast import cli, files
from wgangp_fast.errors import UserError
from wgangp_fast.files import Lock, append_text, read_text, write_text, write_whole
from wgangp_fast.training import Config, checkpoint, folder, pictures, sample_cli, train
from wgangp_fast.training.metrics import weights
from wgangp_fast.training.runs import open_run

fcntl = pytest.importorskip("fcntl")


class FullDisk:
    """A file that takes 300 bytes and then says that there is no space, as often as it is asked."""

    def __init__(self, file: Any) -> None:
        self.file, self.left = file, 300

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small(iters=4, outdir=str(tmp_path_factory.mktemp("runs"))))


BIG = torch.rand(64, 64)
WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "checkpoint_000001.pt": lambda path, run: checkpoint.save(path.parent, 1, {"x": BIG}, keep=1),
    "classifier.pt": lambda path, run: weights.write(path, {"x": BIG}),
    "x.npy": lambda path, run: sample_cli.write(open_run(run), BIG, path, None),
    "x.safetensors": lambda path, run: sample_cli.export(open_run(run), path),
    "x.png": lambda path, run: pictures.image_grid(path, torch.rand(4, 1, 8, 8)),
    "x.webp": lambda path, run: pictures.image_grid(path, torch.rand(4, 1, 8, 8)),
    "points.png": lambda path, run: pictures.points(path, "x", torch.rand(4, 2)),
    "x.json": lambda path, run: folder.write_json(path, list(range(1000))),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_full_disk_is_called_that_and_the_old_file_stays(
    name: str, before: bytes | None, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch, numpy, Pillow and safetensors each have other words for it, or hide it."""
    path = tmp_path / name
    if before is not None:
        path.write_bytes(before)
    real = open
    monkeypatch.setattr(files, "open", lambda *arguments: FullDisk(real(*arguments)), raising=False)
    with pytest.raises((UserError, OSError), match="No space left on device"):
        WRITERS[name](path, run)
    assert [entry.name for entry in tmp_path.iterdir()] == ([name] if before is not None else [])
    if before is not None:
        assert path.read_bytes() == before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", place], capture_output=True)
    if done.returncode:
        # a full disk cannot be had otherwise: a limit on file sizes raises another error
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_run_on_a_disk_that_fills_up(tiny_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--preset", "digits", "--batch", "8", "--critic-dim", "4", "--generator-dim", "4", "--device",
             "cpu", "--penalty", "stock", "--iters", "40", "--snapshot", "1", "--tick", "1",
             "--keep", "40", "--threads", "1"]  # fmt: skip
    assert cli.main(["train", *flags, "--outdir", str(tiny_disk)]) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err
    assert err.count("\n") == 1
    newest, complaints = checkpoint.newest(tiny_disk / "00000-digits")
    assert newest["iteration"] >= 1
    assert not complaints  # nothing half-written
    assert not list((tiny_disk / "00000-digits").glob(".*"))


def test_a_writer_that_fails_by_itself_is_not_a_full_disk(tmp_path: Path) -> None:
    def wrong(file: Any) -> None:
        file.write(b"half")
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        write_whole(tmp_path / "x", wrong)
    assert not list(tmp_path.iterdir())


def test_text_keeps_names_that_are_no_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    write_text(tmp_path / "x", f"{name}\n")
    append_text(tmp_path / "x", name)
    assert (tmp_path / "x").read_bytes() == b"caf\xe9 \xc3\xa9\ncaf\xe9 \xc3\xa9"
    assert read_text(tmp_path / "x") == f"{name}\n{name}"


# Links: a folder may come from somebody else.


@pytest.mark.parametrize(
    ("name", "stops"),
    [
        ("log.txt", True), ("metrics.jsonl", True), ("stats.jsonl", False), (".checkpoint.tmp", False),
        (".stats.jsonl.tmp", False), (".config.json.tmp", False), (".loss.png.tmp", False),
        ("fakes_000006.png", False), ("loss.png", False), ("report.html", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("there", [True, False])
def test_a_run_folder_never_leads_a_writer_out_of_it(
    name: str, stops: bool, there: bool, run: Path, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    if there:
        victim.write_bytes(b"mine\n")
    copy = folder.create(tmp_path / "runs", "digits")
    for path in run.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(victim)
    config = Config(resume=str(copy), iters=6)
    if stops:
        with pytest.raises(UserError, match=r"cannot write into .*\((.* is a link|Too many levels of symb)"):
            train(config)
    else:
        train(config)
    assert (victim.read_bytes() if victim.exists() else None) == (b"mine\n" if there else None)


# One writer


def test_a_second_run_in_a_folder_is_refused(run: Path, tmp_path: Path) -> None:
    lock = folder.claim(run)
    with pytest.raises(UserError, match=f"another process trains in {run} at this moment"):
        train(Config(resume=str(run), iters=6))
    with pytest.raises(UserError, match="another process trains in"):
        train(small(outdir=str(run.parent), iters=6, resume="auto"))
    other = train(Config(resume=str(run), iters=5, outdir=str(tmp_path)))  # only reads there
    assert ticks(other)[-1]["iteration"] == 5
    lock.close()
    train(Config(resume=str(run), iters=5))
    folder.claim(run).close()  # a run that is over lets go


def test_a_run_that_fails_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = train(small("toy-8gaussians", iters=2, outdir=str(tmp_path)))
    with pytest.raises(UserError, match="already is at iteration 2"):
        train(Config(resume=str(path)))
    folder.claim(path).close()


HOLDER = """
import os, sys, time
from pathlib import Path
from wgangp_fast.files import Lock
lock = Lock(Path(sys.argv[1]))
if not os.fork():
    print(os.getpid(), flush=True)  # by the child, which has run what it runs first by now
time.sleep(60)
"""


def test_the_lock_goes_with_its_process_though_its_children_live(tmp_path: Path) -> None:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8", env=surroundings)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(BlockingIOError, match="locked by another process"):
            Lock(tmp_path / "lock")
        holder.kill()
        holder.wait()
        Lock(tmp_path / "lock").close()
        os.kill(child, 0)  # still there
    finally:
        holder.kill()
        os.kill(child, signal.SIGKILL)


def test_a_disk_without_locks_is_no_reason_to_refuse_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    path = train(small("toy-8gaussians", iters=2, outdir=str(tmp_path)))
    log = read_text(path / "log.txt")
    assert "cannot be locked (No locks available): nothing keeps a second run out of it" in log


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)
def test_two_ranks_are_refused_as_one_and_none_waits_for_the_other(run: Path) -> None:
    lock = folder.claim(run)
    ranks = start_ranks(["train", "--resume", str(run), "--iters", "20"])
    for number, (code, _, err) in enumerate(map(end, ranks)):
        assert code == 2, err
        who = "wgangp-fast train (rank 1)" if number else "wgangp-fast train"
        assert err.splitlines()[-1].startswith(f"{who}: another process trains in {run} at this moment")
    lock.close()


def test_a_second_command_is_refused_while_the_first_goes_on(tmp_path: Path) -> None:
    flags = ["--preset", "toy-8gaussians", "--batch", "8", "--critic-dim", "8", "--generator-dim", "8",
             "--device", "cpu", "--threads", "1", "--penalty", "stock", "--tick", "5"]  # fmt: skip
    first = start(["train", *flags, "--iters", "1000000", "--snapshot", "5", "--outdir", str(tmp_path)])
    run = tmp_path / "00000-toy-8gaussians"
    try:
        assert first.stdout is not None
        while "iter 10/" not in first.stdout.readline():
            assert first.poll() is None
        code, _, err = end(start(["train", "--resume", str(run)]))
        assert code == 2
        assert f"another process trains in {run}" in err
        assert err.count("\n") == 1
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGINT)
    assert end(first)[0] == 130


def test_an_array_is_as_numpy_saves_it(run: Path, tmp_path: Path) -> None:
    sample_cli.write(open_run(run), BIG, tmp_path / "x.npy", None)
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), BIG.numpy())
