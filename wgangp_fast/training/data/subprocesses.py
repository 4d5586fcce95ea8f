"""Other interpreters of this one: they import nothing of the program that called, nor torch.

``multiprocessing``, and so ``concurrent.futures``, would import the caller's script and torch in each of
them, or copy a process that has threads. Its workers go on when their parent is killed; before Python 3.14 it
cannot end one that is busy; and it does not say which one was lost, or how.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

# Seconds between looks at whether a signal came.
PATIENCE = 0.2


def command(code: str) -> list[str]:
    """A command that runs ``code``, which can import what this process can."""
    path = [entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, "-c", f"import sys\nsys.path[:] = {path!r}\n{code}"]


def environment() -> dict[str, str]:
    """One thread a process: there is one process for each core."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def run(code: str, check: Callable[[], None]) -> tuple[int, str]:
    """Run ``code``; its exit status, and what it wrote on stderr.

    ``check`` is called now and then; what it raises ends the process.
    """
    with subprocess.Popen(
        command(code),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=environment(),
        start_new_session=True,  # the terminal's Ctrl-C is for the process that called
    ) as process:
        try:
            while True:
                check()
                try:
                    _, complaint = process.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    continue
                return process.returncode, complaint
        except BaseException:
            process.kill()
            raise


def ended(status: int) -> str:
    """How a process ended, from its exit status."""
    if status >= 0:
        return f"it ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    memory = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"it was ended by {name}{memory}"
