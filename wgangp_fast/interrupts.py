"""Ctrl-C while a command is imported: one line. torch takes seconds, and would answer with a traceback.

A program that imports the package is left alone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

PROGRAM = "wgangp-fast"
_taken = False


def _is_command() -> bool:
    """Whether this process is ``wgangp-fast`` or ``python -m wgangp_fast``, which has no name yet here."""
    first = sys.argv[0] if sys.argv else ""
    if first != "-m":
        return os.path.splitext(os.path.basename(first))[0] == PROGRAM
    words = sys.orig_argv
    return "-m" in words[:-1] and words[words.index("-m") + 1].split(".")[0] == "wgangp_fast"


def _leave(number: int, frame: FrameType | None) -> None:
    # Nothing is at stake yet, and an exception inside a library's import may be swallowed there.
    os.write(2, f"{PROGRAM}: interrupted\n".encode())
    os._exit(128 + number)


def take() -> None:
    """Until :func:`give_back`, Ctrl-C ends the process at once, if it is a command that takes it at all."""
    global _taken
    here = threading.current_thread() is threading.main_thread()
    if here and _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
        _taken = True


def give_back() -> None:
    """From here on Ctrl-C is an exception again, which a command can clean up after."""
    global _taken
    if _taken:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _taken = False


take()
