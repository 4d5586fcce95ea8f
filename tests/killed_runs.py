"""Trains in children that are killed at random moments, and looks at what they leave; for test_train_kills.

A process of its own, so that it has no threads when it forks: a child then starts without importing torch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import train_settings
from train_settings import assert_same, final_state, small, ticks

from wgangp_fast.training import Config, checkpoint, train

KILLS = 20
SETTINGS = {"iters": 1_000_000, "snapshot": 5, "tick": 5, "keep": 3}


def child(folder: Path, log: int) -> int:
    """Train in a child, from the beginning or from what is there; its process number."""
    number = os.fork()
    if number == 0:
        os.dup2(log, 1)
        runs = sorted(folder.glob("0*"))
        started = runs and checkpoint.listing(runs[-1])
        train(Config(resume=str(runs[-1])) if started else small(**SETTINGS, outdir=str(folder)))
        os._exit(0)
    return number


def look(run: Path, before: int) -> int:
    """Check every file of a run whose process was killed; the newest checkpoint's iteration."""
    paths = checkpoint.listing(run)
    iterations = [checkpoint.load(path)["iteration"] for path in paths]  # none is torn, not even the newest
    newest = max(iterations, default=0)
    assert newest >= before, f"checkpoint {before} was there and is gone"
    assert newest % 5 == 0
    assert len(paths) <= SETTINGS["keep"] + 1, paths  # killed between the new one and deleting the oldest
    json.loads((run / "config.json").read_text())
    return newest


def main(folder: Path) -> None:
    random.seed(0)
    train(small(iters=1, outdir=str(folder / "warm")))  # what is imported late, the children have at once
    log = os.open(os.devnull, os.O_WRONLY)
    newest, steps = 0, 0
    for number in range(KILLS):
        pid = child(folder / "killed", log)
        time.sleep(random.uniform(0.05, 0.9))
        finished, status = os.waitpid(pid, os.WNOHANG)
        assert finished == 0, f"the run ended by itself before kill {number}: status {status}"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        runs = sorted((folder / "killed").glob("0*"))
        found = look(runs[-1], newest) if runs and (runs[-1] / "config.json").exists() else 0
        steps += found > newest
        newest = found
    assert steps >= 5, "too few of the runs lived long enough to write a checkpoint"
    run = sorted((folder / "killed").glob("0*"))[-1]
    end = {"iters": newest + 10}
    train(Config(resume=str(run), **end))
    whole = train(small(**{**SETTINGS, **end}, outdir=str(folder / "whole")))
    assert_same(final_state(run), final_state(whole))
    assert ticks(run) == ticks(whole)
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir())
    print(f"{KILLS} kills, {steps} of them after a new checkpoint; the end is that of a run without any")


if __name__ == "__main__":
    assert train_settings.CPU.type == "cpu"
    main(Path(sys.argv[1]))
