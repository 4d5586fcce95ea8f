"""The folder in which a cache grows: it survives the end of its process at any moment.

``DEST.partial`` has the files of the cache, which only ever grow, and ``progress.json``, which says how much
of them counts. What was written after that file is cut off when the work continues.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...console import printable
from ...errors import UserError
from . import cache
from .pixels import Skipped

try:
    import fcntl
except ImportError:  # where there is none, nothing refuses a second process
    fcntl = None  # type: ignore[assignment]  # a module, or None

LOCK = "lock"
# Saving makes the disk write out everything; it may take this share of the time, and once a second is enough.
SAVING_SHARE, SAVING_INTERVAL = 0.02, 1.0


@dataclass
class Progress:
    """How far the work has come: rows of the source that were read, and what became of them."""

    request: dict[str, Any]
    rows_read: int = 0
    count: int = 0
    enlarged: int = 0
    skipped: int = 0
    skipped_bytes: int = 0
    digests: list[str] = field(default_factory=list)
    format: str = cache.FORMAT
    version: int = cache.VERSION


class Partial:
    """``DEST.partial``, opened, locked, and cut back to the last progress; use it in a ``with`` statement.

    When it is left early, progress is saved; where nothing was gained, the folder is removed.

    Args:
        dest: where the finished cache will be.
        request: settings and source; work can continue only where they are equal.
        shape: ``[C, S, S]`` of an image.
        labelled: whether rows have labels.
        restart: throw away what is there.

    Raises:
        UserError: another process works there, what is there is of another request, or it cannot be written.
    """

    def __init__(
        self,
        dest: Path,
        request: dict[str, Any],
        shape: tuple[int, ...],
        *,
        labelled: bool,
        restart: bool = False,
    ) -> None:
        self.dest, self.path = dest, dest.with_name(dest.name + ".partial")
        self.shape, self.labelled = shape, labelled
        self.progress = Progress(request)
        self._files: dict[str, int] = {}  # name to descriptor
        self._row_bytes = int(np.prod(shape))
        self._finished, self._whole = False, True
        self._saved = time.monotonic()
        self._pause = SAVING_INTERVAL
        try:
            self._lock = self._acquire()
        except OSError as error:
            raise self._cannot(error) from None
        try:
            self._open(restart)
        except OSError as error:
            self._close()
            raise self._cannot(error) from None
        except UserError:
            self._close()
            raise

    def _acquire(self) -> int:
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    os.close(lock)
                    raise UserError(f"another process prepares {self.dest} at this moment") from None
                # Some network disks have no locks: then nothing refuses a second process.
        return lock

    def _open(self, restart: bool) -> None:
        saved = None if restart else self._load()
        if saved is not None:
            self.progress = saved
        else:  # what an earlier start left must not be taken for this one's
            for name in (cache.PROGRESS, cache.HEADER):
                (self.path / name).unlink(missing_ok=True)
        if self.dest.exists() and os.listdir(self.dest):
            raise UserError(f"{self.dest} was made by another process in the meantime")
        lengths = {
            cache.IMAGES: cache.NPY_HEADER + self.progress.count * self._row_bytes,
            cache.LABELS: cache.NPY_HEADER + self.progress.count * 8,
            cache.SKIPPED: self.progress.skipped_bytes,
        }
        if not self.labelled:
            del lengths[cache.LABELS]
        for name, length in lengths.items():
            file = self._files[name] = os.open(self.path / name, os.O_RDWR | os.O_CREAT, 0o666)
            if saved is not None and os.fstat(file).st_size < length:
                raise UserError(f"{self.path / name} lost data since it was written: --restart begins anew")
            os.ftruncate(file, length)
            os.lseek(file, 0, os.SEEK_END)
        self._digest = self._digest_of_rest()

    def _load(self) -> Progress | None:
        try:
            saved = json.loads((self.path / cache.PROGRESS).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{self.path / cache.PROGRESS} is damaged: --restart begins anew") from None
        if not isinstance(saved, dict) or saved.get("version") != cache.VERSION:
            raise UserError(f"{self.path} was begun by another version: --restart begins anew")
        difference = differences(saved.get("request", {}), self.progress.request)
        if difference:
            raise UserError(
                f"{self.path} was begun with {difference}: repeat that command to continue, or --restart "
                "begins anew"
            )
        try:
            return Progress(**saved)
        except TypeError:
            raise UserError(f"{self.path / cache.PROGRESS} is damaged: --restart begins anew") from None

    def _digest_of_rest(self) -> Any:
        """The digest over the rows that do not yet fill a block of their own."""
        digest = hashlib.sha256()
        full = len(self.progress.digests) * cache.DIGEST_ROWS
        for row in range(full, self.progress.count):
            digest.update(
                os.pread(self._files[cache.IMAGES], self._row_bytes, cache.NPY_HEADER + row * self._row_bytes)
            )
        return digest

    def append(
        self,
        pixels: np.ndarray,
        enlarged: int,
        labels: np.ndarray | None,
        skipped: Sequence[Skipped],
        rows_read: int,
    ) -> None:
        """Add rows, and save progress where it is time.

        Args:
            pixels: uint8 ``[n, C, S, S]``. labels: int64 ``[n]``, where rows have labels.
            enlarged: how many of them were smaller.
            skipped: with places that are row numbers of the source.
            rows_read: rows of the source that are then done.

        Raises:
            UserError: the disk does not take them; what was there before still counts.
        """
        lines = "".join(f"{row}\t{printable(name)}\t{printable(reason)}\n" for row, name, reason in skipped)
        listed = lines.encode("utf-8", "backslashreplace")
        try:
            _write(self._files[cache.IMAGES], np.ascontiguousarray(pixels))
            if labels is not None:
                _write(self._files[cache.LABELS], np.ascontiguousarray(labels, dtype="<i8"))
            _write(self._files[cache.SKIPPED], listed)
        except OSError as error:
            raise self._cannot(error) from None
        self._whole = False  # until all of this is done, progress is not fit to be saved
        self._hash(pixels)
        state = self.progress
        state.rows_read, state.count = rows_read, state.count + len(pixels)
        state.enlarged, state.skipped = state.enlarged + enlarged, state.skipped + len(skipped)
        state.skipped_bytes += len(listed)
        self._whole = True
        if time.monotonic() - self._saved > self._pause:
            try:
                self._save()
            except OSError as error:
                raise self._cannot(error) from None

    def _hash(self, pixels: np.ndarray) -> None:
        begin, count = 0, self.progress.count
        while begin < len(pixels):
            there = (count + begin) % cache.DIGEST_ROWS
            end = min(len(pixels), begin + cache.DIGEST_ROWS - there)
            self._digest.update(np.ascontiguousarray(pixels[begin:end]))
            if there + end - begin == cache.DIGEST_ROWS:
                self.progress.digests.append(self._digest.hexdigest())
                self._digest = hashlib.sha256()
            begin = end

    def _save(self) -> None:
        begin = time.monotonic()
        for file in self._files.values():
            os.fsync(file)
        _replace(self.path / cache.PROGRESS, json.dumps(asdict(self.progress)))
        self._saved = time.monotonic()
        self._pause = max(SAVING_INTERVAL, (self._saved - begin) / SAVING_SHARE)

    def finish(self, provenance: dict[str, Any]) -> None:
        """Complete the files and give the folder its final name.

        Raises:
            UserError: the disk does not take it; the work can be continued.
        """
        try:
            self._finish(provenance)
        except OSError as error:
            raise self._cannot(error) from None

    def _finish(self, provenance: dict[str, Any]) -> None:
        self._save()  # whatever happens below, the work is done
        state, files = self.progress, self._files
        digests = list(state.digests)
        if state.count % cache.DIGEST_ROWS:
            digests.append(self._digest.hexdigest())
        shape = (state.count, *self.shape)
        os.pwrite(files[cache.IMAGES], cache.npy_header(np.dtype(np.uint8), shape), 0)
        labels_digest = None
        if self.labelled:
            file = files[cache.LABELS]
            labels_digest = hashlib.sha256(os.pread(file, 8 * state.count, cache.NPY_HEADER)).hexdigest()
            os.pwrite(file, cache.npy_header(np.dtype("<i8"), shape[:1]), 0)
        header = {
            "format": cache.FORMAT,
            "version": cache.VERSION,
            "count": state.count,
            "channels": self.shape[0],
            "size": self.shape[1],
            "rows_read": state.rows_read,
            "skipped": state.skipped,
            "enlarged": state.enlarged,
            "request": state.request,
            **provenance,
            "digest": cache.combined_digest(digests, labels_digest),
            "labels_digest": labels_digest,
            "digest_rows": cache.DIGEST_ROWS,
            "digests": digests,
        }
        for file in files.values():
            os.fsync(file)
        if not state.skipped:
            (self.path / cache.SKIPPED).unlink(missing_ok=True)
        _replace(self.path / cache.HEADER, json.dumps(header, indent=1) + "\n")
        # Under its final name it is a cache, even if the process ends before the rest is tidied up.
        os.rename(self.path, self.dest)
        self._finished = True
        for name in (cache.PROGRESS, LOCK):
            (self.dest / name).unlink(missing_ok=True)
        _sync_folder(self.dest)
        _sync_folder(self.dest.parent)

    def _cannot(self, error: OSError) -> UserError:
        where = self.path
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError(
                f"the disk of {where} is full after {self.progress.count} images: free some space and run "
                "the same command again, it continues"
            )
        return UserError(f"cannot write {where} ({error.strerror or error})")

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if not self._finished and not self.progress.count:
                self._discard()
            elif not self._finished and self._whole:
                with suppress(OSError):  # a full disk: the progress saved before still counts
                    self._save()
        finally:
            self._close()

    def _discard(self) -> None:
        with suppress(OSError):
            for name in (*self._files, cache.PROGRESS, f"{cache.PROGRESS}.tmp", LOCK):
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _close(self) -> None:
        for file in (*self._files.values(), self._lock):
            os.close(file)
        self._files.clear()


def differences(there: dict[str, Any], asked: dict[str, Any]) -> str:
    """What differs between two requests, as ``size 64 (asked: 128)``; empty where nothing does."""
    parts = []
    for key in asked:
        if there.get(key) == asked[key]:
            continue
        if isinstance(asked[key], dict):  # a fingerprint
            parts.append("a source that has changed since")
        else:
            parts.append(f"{key} {there.get(key)} (asked: {asked[key]})")
    return ", ".join(parts)


def _write(file: int, content: Any) -> None:
    left = memoryview(content)
    left = left.cast("B") if left.nbytes else left[:0]
    while left:
        left = left[os.write(file, left) :]


def _replace(path: Path, text: str) -> None:
    """The whole file, or the one that was there before."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # not every system can
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
