"""stdout and stderr of a command: under any locale, and where nobody takes what it says."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

# As if the signal had ended the command, which is what other programs do then.
PIPE_CLOSED = 128 + 13


class Outlet:
    """A stream that may be lost: a closed pipe or a full disk behind it ends no work and costs no result.

    Attributes:
        lost: what the system said when it was; None: it takes everything.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        if self.lost is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.lost is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = error
        # What is still buffered must go somewhere, or Python complains about it when it ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _as_can_be(error: UnicodeError) -> tuple[bytes, int]:
    """For codecs: bytes of a file's name as they were, other characters that an encoding lacks escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    found = [
        bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("ascii", "backslashreplace")
        for c in part
    ]
    return b"".join(found), error.end


codecs.register_error("wgangp_fast", _as_can_be)


@contextmanager
def outlets() -> Iterator[Outlet]:
    """stdout and stderr as outlets, which take any text, for as long as the block lasts; that of stdout."""
    _open_all_three()
    before = sys.stdout, sys.stderr
    handlers = [getattr(stream, "errors", None) for stream in before]
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="wgangp_fast")
    found = Outlet(sys.stdout)
    sys.stdout, sys.stderr = found, Outlet(sys.stderr)
    try:
        yield found
    finally:
        for outlet in (sys.stdout, sys.stderr):
            with suppress(ValueError, AttributeError):  # closed, or somebody's own
                outlet.flush()
        sys.stdout, sys.stderr = before
        for stream, handler in zip(before, handlers, strict=True):
            if hasattr(stream, "reconfigure") and not stream.closed:
                stream.reconfigure(errors=handler)


def _open_all_three() -> None:
    """Where stdin, stdout or stderr is closed, the next file would take its number, and what a library prints
    would get into that file."""
    for number in (0, 1, 2):
        with suppress(OSError):
            os.fstat(number)
            continue
        os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for good


def verdict(program: str, code: int, outlet: Outlet) -> int:
    """The exit code of a command that would leave with ``code``: another than 0 if its output was lost."""
    if outlet.lost is None:
        return code
    if outlet.lost.errno == errno.EPIPE:
        return code or PIPE_CLOSED
    complain(program, f"cannot write to stdout ({outlet.lost.strerror or outlet.lost})")
    return code or 2


def drawable(text: str) -> str:
    """``text`` without the placeholders that stand for bytes of a file's name: those are read as UTF-8, which
    they are where Python took them for ASCII, and replaced where they are not."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable(text: str) -> str:
    """``text`` in one line: characters that would move the cursor or colour the screen are escaped."""
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else repr(c)[1:-1] for c in text)


def complain(program: str, text: object) -> None:
    """One line on stderr."""
    print(f"{program}: {printable(str(text))}", file=sys.stderr)
