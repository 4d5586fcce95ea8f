"""Finished caches, what verify finds, and what the two commands say."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import lsun_fixture as fixture
import numpy as np
import pytest
import torch
from lsun_fixture import contents, quick

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import prepare_cli, progress, verify_cli
from wgangp_fast.training.data.cache import Cache, Damaged, is_cache, verify

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


def test_an_open_cache_can_be_written_to_without_harm(whole: Path) -> None:
    cache = Cache.open(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = torch.from_numpy(cache.images)
    images[0] = 0
    verify(whole)
    assert Cache.open(whole).images[0].any()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    source = tmp_path / "a-images-idx3-ubyte"
    pixels = np.random.default_rng(0).integers(0, 256, (2500, 8, 8), dtype=np.uint8)
    fixture.write_idx(source, pixels)
    fixture.write_idx(tmp_path / "a-labels-idx1-ubyte", pixels[:, 0, 0])
    return quick(source, tmp_path / "copy", size=8).path


def damage(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "place", "words"),
    [
        ("images.npy", 128 + 1024 * 64, r"damaged in rows 1024\.\.2047"),
        ("images.npy", -1, r"damaged in rows 2048\.\.2499"),
        ("images.npy", 60, "does not begin as"),
        ("labels.npy", -5, "labels.npy is damaged"),
    ],
)
def test_verify_finds_one_wrong_bit(
    copy: Path, name: str, place: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify_cli.main([str(copy)]) == 0
    assert "2500 images are intact" in capsys.readouterr().out
    damage(copy / name, place)
    with pytest.raises(Damaged, match=words):
        verify(copy)
    assert verify_cli.main([str(copy), "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1


def test_verify_finds_a_digest_that_was_changed(copy: Path) -> None:
    header = json.loads((copy / "header.json").read_text())
    header["digests"][1] = header["digests"][0]
    (copy / "header.json").write_text(json.dumps(header))
    with pytest.raises(Damaged, match="digests do not fit each other"):
        verify(copy)


def test_caches_that_cannot_be_opened(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = json.loads((copy / "header.json").read_text())
    for change, words in (
        ({"version": 2}, "is a cache of version 2, and this wgangp_fast reads version 1: prepare it again"),
        ({"format": "x"}, "is no cache"),
        ({"count": "2500"}, "'count' is missing or wrong"),
        ({"count": 2501}, "truncated"),
        ({"count": 2499}, "damaged"),
        ({"digests": []}, "lacks digests"),
    ):
        (copy / "header.json").write_text(json.dumps({**header, **change}))
        assert is_cache(copy)
        with pytest.raises(UserError, match=words):
            Cache.open(copy)
    (copy / "header.json").write_text("{")
    with pytest.raises(Damaged, match="not JSON"):
        Cache.open(copy)
    (copy / "header.json").write_text(json.dumps(header))
    os.truncate(copy / "images.npy", 128 + 64 * 1000)
    with pytest.raises(Damaged, match="truncated: 64,128 bytes instead of 160,128"):
        Cache.open(copy)
    assert verify_cli.main([str(copy)]) == 1
    (copy / "images.npy").unlink()
    with pytest.raises(Damaged, match="missing"):
        Cache.open(copy)
    assert verify_cli.main([str(tmp_path / "nowhere")]) == 2
    assert "no cache at" in capsys.readouterr().err
    assert not is_cache(tmp_path)


def test_the_command_says_what_it_made(
    lsun: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "new" / "c"
    assert prepare_cli.main([str(lsun), str(dest), "--size", "16", "--workers", "1"]) == 0
    out, _ = capsys.readouterr()
    summary, path = out.splitlines()
    assert path == str(dest)
    assert summary.startswith(f"296 images of 3x16x16, 4 skipped (listed in {dest / 'skipped.txt'}), ")
    assert summary.endswith(" img/s")
    assert contents(dest) == contents(whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required"),
        (["SRC", "c"], "--size"),
        (["SRC", "c", "--size", "x"], "invalid int value"),
        (["SRC", "c", "--size", "16", "--crop", "x"], "invalid choice"),
        (["SRC", "c", "--size", "16", "--wrokers", "2"], "unrecognized"),
        (["SRC", "c", "--size", "10"], "multiple of 4"),
        (["nowhere", "c", "--size", "16"], "no data at nowhere"),
    ],
)
def test_mistakes_are_one_line(
    lsun: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_cli.main([str(lsun) if word == "SRC" else word for word in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 1
    assert err.startswith("wgangp-fast prepare: ")
    assert words in err
    assert not os.listdir(tmp_path)


def test_the_bar_and_the_lines(
    lsun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    pytest.importorskip("tqdm")
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    quick(lsun, tmp_path / "a", quiet=False)
    err = capsys.readouterr().err
    assert "prepare: 64 of 300" in err
    assert "img/s" in err
    assert "left" in err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    quick(lsun, tmp_path / "b", quiet=False)
    err = capsys.readouterr().err
    assert "300/300" in err
    assert "img/s" in err
    quick(lsun, tmp_path / "c")
    assert capsys.readouterr().err == ""
