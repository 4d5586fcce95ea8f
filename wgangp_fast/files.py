"""Files that are written whole or not at all, text that any locale reads alike, and locks."""

from __future__ import annotations

import io
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # where there is none, nothing refuses a second process
    fcntl = None  # type: ignore[assignment]  # a module, or None

# A folder may come from somebody else: what is written into it must not follow a link out of it.
NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class _Sink(io.RawIOBase):
    """A file for writing that remembers why the system refused a write.

    torch, numpy and safetensors report a full disk in words of their own, which do not say "no space left".
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.refused: OSError | None = None

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.refused = error
            raise


def write_whole(
    path: Path, write: Callable[[Any], object], *, temporary: str | None = None, sync: bool = True
) -> None:
    """Write a file that has its name only when it is complete: there is the old file or the new one, whole.

    Args:
        write: is called with a binary file to write to.
        temporary: the file's name until then, in the same folder; one name for several files leaves at most
            one file behind where processes are killed.
        sync: have the bytes on the disk before the name, so that this holds after a power cut too.

    Raises:
        OSError: it cannot be written; the reason is the system's own.
    """
    path = Path(path)
    beside = path.with_name(temporary or f".{path.name}.tmp")
    try:
        beside.unlink(missing_ok=True)
        with open(beside, "xb") as file:  # x: not through a link that somebody put there
            sink = _Sink(file)
            try:
                write(sink)
            except Exception as error:
                if sink.refused is None or error is sink.refused:
                    raise
                raise sink.refused from None
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    if sync:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The new name itself must survive a power cut, or the deletion of the old file could come first.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Replace a file's text, in UTF-8, whole; a name of a file that is not UTF-8 keeps its bytes.

    Raises:
        OSError: it cannot be written.
    """
    write_whole(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")), sync=sync)


def read_text(path: Path) -> str:
    """The text of a file that :func:`write_text` or :func:`append_text` wrote; damaged bytes do no harm.

    Raises:
        OSError: it cannot be read.
    """
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def append_text(path: Path, text: str) -> None:
    """Add text to a file, in UTF-8.

    Raises:
        OSError: it cannot be written, or is a link, which may lead out of its folder.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | NO_LINK, 0o666)

    if path.is_symlink():
        raise OSError(0, f"{path.name} is a link, which may lead out of the folder")
    with open(path, "a", encoding="utf-8", errors="surrogateescape", opener=opener) as file:
        file.write(text)


class Lock:
    """A file that this process alone has locked, until :meth:`close` or its end, however that comes.

    Args:
        path: the file, which is made if it is not there and keeps its content.

    Attributes:
        missing: why there is no lock, where the file system has none; empty where there is one.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file: int | None = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
        self.missing = ""
        try:
            if fcntl is None:
                raise OSError(0, "this system has none")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self.close()
            raise BlockingIOError(error.errno, f"{path} is locked by another process") from None
        except OSError as error:  # some network disks have no locks: that is no reason to refuse them
            self.missing = error.strerror or str(error)
        _held.add(self)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """A forked child shares the lock: it lets go, or the lock would outlive the process that took it."""
    for lock in list(_held):
        lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
