"""prepare: the same bytes on any number of workers, and what is left when work ends early or a disk fails."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lsun_fixture as fixture
import numpy as np
import pytest
from lsun_fixture import contents, quick
from paths import ROOT

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import prepare_cli, workers
from wgangp_fast.training.data import resumable_writer as partial
from wgangp_fast.training.data.cache import Cache, verify

pytest.importorskip("lmdb")
pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def lsun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows, 4 of them broken."""
    folder = tmp_path_factory.mktemp("data") / "bedroom_train_lmdb"
    fixture.write_lsun(folder, 296, broken=4)
    return folder


@pytest.fixture(scope="module")
def whole(lsun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared without interruption, in this process."""
    return quick(lsun, tmp_path_factory.mktemp("caches") / "whole").path


def partial_of(dest: Path) -> Path:
    return dest.with_name(dest.name + ".partial")


def progress_of(dest: Path) -> dict[str, Any]:
    return json.loads((partial_of(dest) / "progress.json").read_text())


def test_workers_make_the_same_bytes(lsun: Path, whole: Path, tmp_path: Path) -> None:
    cache = quick(lsun, tmp_path / "c", workers=3)
    assert contents(cache.path) == contents(whole)
    assert set(contents(whole)) == {"images.npy", "skipped.txt"}
    assert cache.header["digest"] == Cache.open(whole).header["digest"]
    array = np.random.default_rng(0).integers(0, 256, (200, 1, 20, 20), dtype=np.uint8)
    fixture.write_idx(tmp_path / "a-images-idx3-ubyte", array[:, 0])
    fixture.write_idx(tmp_path / "a-labels-idx1-ubyte", array[:, 0, 0, 0])
    few, many = (quick(tmp_path / "a-images-idx3-ubyte", tmp_path / f"a{k}", workers=k) for k in (1, 2))
    assert contents(few.path) == contents(many.path)
    np.testing.assert_array_equal(many.labels, array[:, 0, 0, 0])


@pytest.mark.parametrize(("count", "processes"), [(1, 1), (64, 1), (100, 2), (296, 1), (400, 1)])
def test_the_first_images_that_decode(
    lsun: Path, whole: Path, tmp_path: Path, count: int, processes: int
) -> None:
    cache = quick(lsun, tmp_path / "c", max_images=count, workers=processes)
    np.testing.assert_array_equal(cache.images, Cache.open(whole).images[:count])
    rows = [int(line.split("\t")[0]) for line in (whole / "skipped.txt").read_text().splitlines()]
    end = cache.header["rows_read"]
    assert end - cache.header["skipped"] == cache.header["count"] == min(count, 296)
    assert cache.header["skipped"] == sum(row < end for row in rows)
    assert end - 1 not in rows or count > 296


class Boom(Exception):
    pass


@pytest.mark.parametrize("after", [1, 2, 4])
def test_continued_after_an_exception(
    lsun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    dest = tmp_path / "c"
    append, calls = partial.Partial.append, []

    def fail_later(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > after:
            os.write(self._files["images.npy"], b"half a block")  # as if the end came while it was written
            raise Boom
        append(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(partial.Partial, "append", fail_later)
        with pytest.raises(Boom):
            quick(lsun, dest)
    assert not dest.exists()
    assert progress_of(dest)["rows_read"] == 64 * after
    read: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(partial.Partial, "append", lambda self, *a: (read.append(a[-1]), append(self, *a))[1])
        quick(lsun, dest)
    assert read[0] == min(64 * (after + 1), 300)  # it went on, and did not begin anew
    assert contents(dest) == contents(whole)
    assert not partial_of(dest).exists()
    verify(dest)


SLOWLY = """
import sys, time
sys.path.insert(0, {root!r})
from wgangp_fast.training.data import prepare_cli
from wgangp_fast.training.data import resumable_writer as partial
partial.SAVING_INTERVAL, partial.SAVING_SHARE = 0.0, 1e9  # after every block
append = partial.Partial.append
def slow(self, *arguments):
    append(self, *arguments)
    time.sleep(0.1)
partial.Partial.append = slow
sys.exit(prepare_cli.main(sys.argv[1:]))
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOWLY.format(root=str(ROOT)), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_saved(process: subprocess.Popen[str], dest: Path, beyond: int = 0) -> None:
    """Until progress says that more than ``beyond`` rows were read."""
    end = time.monotonic() + 60
    while not (partial_of(dest) / "progress.json").exists() or progress_of(dest)["rows_read"] <= beyond:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_any_moment_and_continued(lsun: Path, whole: Path, tmp_path: Path, count: int) -> None:
    dest, done = tmp_path / "c", [0]
    for attempt in range(2):
        process = start(lsun, dest, "--size", 16, "--workers", count)
        until_saved(process, dest, beyond=done[-1])
        time.sleep(random.Random(attempt + 10 * count).uniform(0, 0.12))
        process.kill()
        process.communicate()
        if dest.exists():  # the machine was too busy to kill it in time
            break
        done.append(progress_of(dest)["rows_read"])
    assert done[1:] == sorted(set(done[1:])) != []  # the second went on where the first was killed
    quick(lsun, dest)
    assert contents(dest) == contents(whole)
    verify(dest)


@pytest.mark.parametrize(("number", "count"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_and_says_how_to_continue(
    lsun: Path, whole: Path, tmp_path: Path, number: signal.Signals, count: int
) -> None:
    dest = tmp_path / "c"
    process = start(lsun, dest, "--size", 16, "--workers", count)
    until_saved(process, dest)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == ""
    assert err.splitlines()[-1] == (
        f"wgangp-fast prepare: stopped by {number.name}: run the same command again to continue"
    )
    assert "Traceback" not in err
    assert not dest.exists()
    saved = progress_of(dest)["rows_read"]
    assert 0 < saved < 300
    quick(lsun, dest)
    assert contents(dest) == contents(whole)


def test_a_lost_worker_is_an_error_and_not_a_hang(
    lsun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest, call = tmp_path / "c", workers._Worker.__call__

    def killed(self: Any, block: Any) -> Any:
        if block.start == 128:
            self.process.kill()
        return call(self, block)

    with monkeypatch.context() as patch:
        patch.setattr(workers._Worker, "__call__", killed)
        with pytest.raises(UserError, match=r"a worker process was lost \(.*SIGKILL.*rows 128 to 191"):
            quick(lsun, dest, workers=2)
    assert progress_of(dest)["rows_read"] == 128
    quick(lsun, dest)
    assert contents(dest) == contents(whole)


def test_no_process_outlives_its_parent(lsun: Path, tmp_path: Path) -> None:
    process = start(lsun, tmp_path / "c", "--size", 16, "--workers", 2)
    until_saved(process, tmp_path / "c")
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    if listed.returncode:
        process.kill()
        pytest.skip("no ps here")
    children = [int(pid) for pid in listed.stdout.split()]
    process.kill()
    process.communicate()
    assert len(children) == 2
    end = time.monotonic() + 20
    while any(alive(pid) for pid in children):
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def stop_after(
    monkeypatch: pytest.MonkeyPatch, source: Path, dest: Path, blocks: int = 2, **settings: Any
) -> None:
    """Leave ``dest`` partly done."""
    append, calls = partial.Partial.append, []

    def fail_later(self: Any, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) > blocks:
            raise Boom
        append(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(partial.Partial, "append", fail_later)
        with pytest.raises(Boom):
            quick(source, dest, **settings)


def test_other_settings_do_not_continue_but_can_begin_anew(
    lsun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest = tmp_path / "c"
    stop_after(monkeypatch, lsun, dest, crop="stretch")
    before = contents(partial_of(dest))
    with pytest.raises(UserError, match=r"begun with crop stretch \(asked: center\).*--restart begins anew"):
        quick(lsun, dest)
    assert contents(partial_of(dest)) == before
    quick(lsun, dest, restart=True)
    assert contents(dest) == contents(whole)


def test_a_source_that_changed_does_not_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, dest = tmp_path / "photos", tmp_path / "c"
    fixture.write_folder(source, 130)
    stop_after(monkeypatch, source, dest, blocks=1)
    (source / "0001.webp").write_bytes(fixture.encoded()[3])
    with pytest.raises(UserError, match="source that has changed since"):
        quick(source, dest)


def test_damaged_progress_is_told(lsun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "c"
    stop_after(monkeypatch, lsun, dest)
    (partial_of(dest) / "images.npy").write_bytes(b"short")
    with pytest.raises(UserError, match="lost data since it was written: --restart"):
        quick(lsun, dest)
    (partial_of(dest) / "progress.json").write_text("{")
    with pytest.raises(UserError, match="damaged: --restart"):
        quick(lsun, dest)
    (partial_of(dest) / "progress.json").write_text('{"version": 0}')
    with pytest.raises(UserError, match="begun by another version: --restart"):
        quick(lsun, dest)


def test_a_restart_that_is_killed_at_once_leaves_nothing_of_the_former(
    lsun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the files of the one would count by the progress of the other."""
    dest = tmp_path / "c"
    stop_after(monkeypatch, lsun, dest, blocks=1, crop="stretch")
    with monkeypatch.context() as patch:
        patch.setattr(partial.Partial, "__exit__", lambda self, *_: self._close())  # killed: no tidying
        stop_after(patch, lsun, dest, blocks=3, restart=True)
    quick(lsun, dest)
    assert contents(dest) == contents(whole)


def test_a_second_process_is_refused(lsun: Path, tmp_path: Path) -> None:
    dest = tmp_path / "c"
    process = start(lsun, dest, "--size", 16, "--workers", 1)
    until_saved(process, dest)
    with pytest.raises(UserError, match="another process prepares"):
        quick(lsun, dest)
    process.communicate(timeout=60)
    assert process.returncode == 0
    verify(dest)


def test_a_name_that_is_taken(lsun: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="exists and is no cache"):
        quick(lsun, tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no cache"):
        quick(lsun, tmp_path / "folder")
    assert os.listdir(tmp_path / "folder") == ["thesis.txt"]
    with pytest.raises(UserError, match=r"is a cache with size 16 \(asked: 32\): choose another name"):
        quick(lsun, whole, size=32)
    with pytest.raises(UserError, match=r"cannot write .*Not a directory"):
        quick(lsun, tmp_path / "file" / "c")
    (tmp_path / "empty").mkdir()
    assert quick(lsun, tmp_path / "empty", max_images=2).header["count"] == 2


def test_the_same_again_is_done_already(lsun: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "images.npy").stat().st_mtime_ns
    assert prepare_cli.main([str(lsun), str(whole), "--size", "16"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(whole)
    assert "already prepared" in err
    assert (whole / "images.npy").stat().st_mtime_ns == before


def test_no_space_is_found_before_the_work(
    lsun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=300 * 16 * 16 * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"needs 0\.00 GB and its disk has 0\.00 GB free"):
        quick(lsun, tmp_path / "c")
    assert not os.listdir(tmp_path)
    assert quick(lsun, tmp_path / "c", max_images=200).header["count"] == 200


def test_a_disk_that_fills_up_on_the_way(
    lsun: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest, write = tmp_path / "c", os.write
    written = [0]

    def full(file: int, content: Any) -> int:
        if written[0] > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = content[:40_000]  # a write may take less than it is given
        written[0] += len(part)
        return write(file, part)

    with monkeypatch.context() as patch:
        patch.setattr(partial.os, "write", full)
        with pytest.raises(UserError, match=r"disk of .*c.partial is full after \d+ images: free some space"):
            quick(lsun, dest)
    assert not dest.exists()
    assert progress_of(dest)["rows_read"] == 128
    quick(lsun, dest)
    assert contents(dest) == contents(whole)


def test_a_file_that_may_not_grow(lsun: Path, whole: Path, tmp_path: Path) -> None:
    """Refused by the system itself, in the middle of a block."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (130_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*c\.partial .File too large"):
            quick(lsun, tmp_path / "c")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not (tmp_path / "c").exists()
    quick(lsun, tmp_path / "c")
    assert contents(tmp_path / "c") == contents(whole)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 6}, "multiple of 4"),
        ({"size": 18}, "multiple of 4"),
        ({"crop": "random"}, "crop must be one of center"),
        ({"filter": "sinc"}, "filter must be one of lanczos"),
        ({"channels": 4}, "channels must be 1 or 3"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"max_images": 0}, "max_images must be at least 1"),
        ({"split": "val"}, "split must be one of train"),
    ],
)
def test_settings_are_checked(lsun: Path, tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        quick(lsun, tmp_path / "c", **settings)
    assert not os.listdir(tmp_path)
