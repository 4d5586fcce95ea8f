"""The command line: the last line, one line for each mistake, exit codes, SIGINT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from train_settings import assert_same, final_state, whole_run

from wgangp_fast import cli
from wgangp_fast.training import Config, checkpoint, folder, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("runs"))


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
        (["train", "--preset", "emnist"], "unknown preset 'emnist'"),
        (["train", "--data", "/nowhere/x.npy"], "no data at /nowhere/x.npy"),
        (["train", "--batch", "1798"], "batch 1798 is larger than the data: digits has 1797 samples"),
        (["train", "--resume", "/nowhere"], "/nowhere is not a run folder"),
        (["train", "--device", "tpu9"], "device 'tpu9' cannot be used"),
        (["train", "--iters", "0"], "iters must be at least 1; got 0"),
        (["train", "--outdir", "/dev/null/runs"], "cannot make /dev/null/runs/00000-digits"),
        (["train", "--generator", "toy-generator"], "toy-generator does not suit digits"),
        (["trian"], "unknown command 'trian'; known: prepare, verify, train"),
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
        assert arguments[0] in err
        assert err.count("\n") == 1
        assert not set(err) & set("│─╭")


def test_damaged_run_folders(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "00000-digits"
    broken.mkdir()
    (broken / "config.json").write_bytes((run / "config.json").read_bytes())
    for content, words in ((None, "has no checkpoint"), (b"torn", "no checkpoint of")):
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
    for name in ("wgangp_fast.training", "tyro", "sklearn", "matplotlib", "PIL"):
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
    iteration = checkpoint.newest(stopped)[0]["iteration"]
    assert iteration >= 5
    settings = json.loads((stopped / "config.json").read_text())
    whole = train(Config(**{**settings, "iters": iteration + 3, "outdir": str(tmp_path / "whole")}))
    part = train(Config(resume=str(stopped), iters=iteration + 3))
    assert_same(final_state(part), final_state(whole))
