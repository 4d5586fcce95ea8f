"""Runs of the command line as processes of their own, alone or as a group of ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

COMMAND = [sys.executable, "-m", "wgangp_fast"]
# No engine and small networks: what is tested is the trainer around them.
FLAGS = [
    "--preset", "toy-8gaussians", "--batch", "8", "--critic-dim", "8", "--generator-dim", "8",
    "--n-critic", "2", "--device", "cpu", "--threads", "1", "--penalty", "stock",
]  # fmt: skip
LIMIT = 90.0  # seconds until a test gives up on a process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """``wgangp-fast`` with ``arguments``."""
    return launch([*COMMAND, *arguments], **environment)


def launch(command: list[str], **environment: str) -> subprocess.Popen[str]:
    surroundings = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**surroundings, "OMP_NUM_THREADS": "1", **environment},
    )


def start_ranks(arguments: list[str], world: int = 2) -> list[subprocess.Popen[str]]:
    """``world`` processes with torchrun's environment, without torchrun: it would end the others itself."""
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [start(arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(world)]


def end(process: subprocess.Popen[str], limit: float = LIMIT) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a process that does not end is killed and fails the test."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end within {limit} s; it said:\n{out}\n{err}") from None
    return process.returncode, out, err


def wait_for(condition: Callable[[], bool], limit: float = LIMIT) -> None:
    """Until ``condition`` holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def lines(path: Path) -> int:
    """Lines of a file, 0 if there is none."""
    return len(path.read_text().splitlines()) if path.exists() else 0
