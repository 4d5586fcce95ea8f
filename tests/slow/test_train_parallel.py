"""Several processes: they train as one does, stop together, and notice when one of them is gone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from launching import FLAGS, end, free_port, launch, lines, start, start_ranks, wait_for
from train_settings import assert_same, final_state, ticks

from wgangp_fast.training import checkpoint

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "wgangp_fast"]
ENDLESS = ["--iters", "1000000", "--tick", "5", "--snapshot", "1000000"]


def test_two_processes_follow_one(tmp_path: Path) -> None:
    """The whole loop by torchrun, with the engine: losses, held-out losses, weights, one set of files."""
    flags = [
        "train", "--preset", "digits", "--generator-norm", "none", "--batch", "8", "--critic-dim", "4",
        "--generator-dim", "4", "--latent", "3", "--device", "cpu", "--threads", "1", "--flip", "sample",
        "--accumulate", "2", "--iters", "6", "--tick", "2", "--snapshot", "3", "--lr", "1e-3",
    ]  # fmt: skip
    port = f"--master-port={free_port()}"
    two = launch(
        [TORCHRUN[0], *TORCHRUN[1:3], port, *TORCHRUN[3:], *flags, "--outdir", str(tmp_path / "two")]
    )
    code, out, err = end(two)
    assert code == 0, err
    assert "StockPathWarning" not in err
    path = tmp_path / "two" / "00000-digits"
    assert out.count(str(path)) == out.count("\nready after") == 1
    assert out.splitlines()[-1] == str(path)
    assert [folder.name for folder in (tmp_path / "two").iterdir()] == ["00000-digits"]
    code, _, err = end(start([*flags, "--outdir", str(tmp_path / "one")]))
    assert code == 0, err
    alone = tmp_path / "one" / "00000-digits"
    assert {p.name for p in path.iterdir()} == {p.name for p in alone.iterdir()}
    for together, single in zip(ticks(path), ticks(alone), strict=True):
        assert together["iteration"] == single["iteration"]
        for name, value in single.items():
            assert together[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for name, value in final_state(alone)["critic"].items():
        torch.testing.assert_close(final_state(path)["critic"][name], value, rtol=1e-3, atol=1e-4)


def test_a_signal_to_one_process_stops_all_and_the_rest_is_exact(tmp_path: Path) -> None:
    ranks = start_ranks(["train", *FLAGS, *ENDLESS, "--outdir", str(tmp_path)])
    run = tmp_path / "00000-toy-8gaussians"
    wait_for(lambda: lines(run / "stats.jsonl") > 0)
    ranks[1].send_signal(signal.SIGTERM)
    results = [end(rank) for rank in ranks]
    assert [code for code, _, _ in results] == [143, 143], results
    assert "continue with: wgangp-fast train --resume" in results[0][2]
    assert results[0][1].splitlines()[-1] == str(run)
    assert results[1][1:] == ("", "")
    stopped = checkpoint.newest(run)[0]["iteration"]
    # One process goes on where two stopped; four would too.
    more = ["--iters", str(stopped + 4), "--outdir", str(tmp_path / "more")]
    code, out, err = end(start(["train", "--resume", str(run), *more]))
    assert code == 0, err
    again = start_ranks(["train", "--resume", str(run), *more[:2], "--outdir", str(tmp_path / "again")])
    assert [end(rank)[0] for rank in again] == [0, 0]
    one = final_state(Path(out.splitlines()[-1]))
    two = final_state(tmp_path / "again" / "00000-toy-8gaussians")
    for name, value in one["critic"].items():
        torch.testing.assert_close(two["critic"][name], value, rtol=1e-3, atol=1e-4)


def test_a_process_that_dies_ends_the_others_with_a_message(tmp_path: Path) -> None:
    flags = [*FLAGS, *ENDLESS[:4], "--snapshot", "10", "--outdir", str(tmp_path)]
    ranks = start_ranks(["train", *flags])
    run = tmp_path / "00000-toy-8gaussians"
    wait_for(lambda: len(checkpoint.listing(run) if run.exists() else []) > 0)
    ranks[1].kill()
    began = time.monotonic()
    code, _, err = end(ranks[0])
    assert time.monotonic() - began < 60
    assert code == 3
    assert "wgangp-fast train: another process of the run ended or hangs" in err
    assert "--resume RUN_FOLDER goes on from the last checkpoint" in err
    assert "Traceback" not in err
    end(ranks[1])
    stopped = checkpoint.newest(run)[0]["iteration"]
    ranks = start_ranks(["train", "--resume", str(run), "--iters", str(stopped + 2)])
    assert [end(rank)[0] for rank in ranks] == [0, 0]
    assert checkpoint.newest(run)[0]["iteration"] == stopped + 2


def children(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def test_a_restart_by_torchrun_resumes(tmp_path: Path) -> None:
    flags = ["train", *FLAGS, "--iters", "120", "--tick", "5", "--snapshot", "20", "--keep", "1000"]
    torchrun = [*TORCHRUN[:3], f"--master-port={free_port()}", "--max-restarts=1", *TORCHRUN[3:]]
    process = launch([*torchrun, *flags, "--outdir", str(tmp_path)])
    run = tmp_path / "00000-toy-8gaussians"
    wait_for(lambda: len(checkpoint.listing(run) if run.exists() else []) > 0)
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    code, out, err = end(process)
    assert code == 0, err
    assert "continues at iteration" in out
    assert [folder.name for folder in tmp_path.iterdir()] == ["00000-toy-8gaussians"]
    assert checkpoint.newest(run)[0]["iteration"] == 120
    numbers = [json.loads(line)["iteration"] for line in (run / "stats.jsonl").read_text().splitlines()]
    assert numbers == list(range(5, 121, 5))
    whole = launch([*TORCHRUN[:3], f"--master-port={free_port()}", *TORCHRUN[3:], *flags,
                    "--outdir", str(tmp_path / "whole")])  # fmt: skip
    code, _, err = end(whole)
    assert code == 0, err
    assert_same(final_state(run), final_state(tmp_path / "whole" / "00000-toy-8gaussians"))


def test_processes_that_cannot_meet_say_so() -> None:
    arguments = ["train", *FLAGS, "--iters", "1"]
    code, _, err = end(start(arguments, WORLD_SIZE="2"))
    assert code == 2
    assert "WORLD_SIZE is 2 but RANK, MASTER_ADDR, MASTER_PORT is not set: start the run with torchrun" in err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, _, err = end(
            start(arguments, WORLD_SIZE="2", RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        )
    assert code == 2
    assert f"cannot join the 1 other processes at 127.0.0.1:{port}" in err
    assert "EADDRINUSE" in err or "in use" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch", "9"], "batch 9 must be a multiple of 2: 2 processes times accumulate 1"),
        (["--generator-batch", "5"], "generator_batch 5 must be a multiple of 2"),
    ],
)
def test_batches_that_cannot_be_shared_are_refused(tmp_path: Path, flags: list[str], words: str) -> None:
    ranks = start_ranks(["train", *FLAGS, *flags, "--outdir", str(tmp_path)])
    results = [end(rank) for rank in ranks]
    assert [code for code, _, _ in results] == [2, 2]
    assert f"wgangp-fast train: {words}" in results[0][2]
    assert f"wgangp-fast train (rank 1): {words}" in results[1][2]
