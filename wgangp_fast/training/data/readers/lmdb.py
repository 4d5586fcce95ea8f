"""Rows of an LMDB database, as LSUN distributes its pictures.

Nothing here imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....errors import UserError
from ....optional_dependencies import require
from ..pixels import Content
from ..subprocesses import ended, run
from . import Block, Source, fingerprint


@dataclass
class LmdbReader:
    path: Path
    _environment: Any = None

    def environment(self) -> Any:
        if self._environment is None:
            lmdb = require("lmdb")
            try:
                self._environment = lmdb.open(
                    str(self.path),
                    subdir=self.path.is_dir(),
                    create=False,
                    readonly=True,
                    lock=False,
                    readahead=False,
                    meminit=False,
                )
            except lmdb.Error as error:
                raise UserError(f"{self.path} is not a readable LMDB database ({error})") from None
        return self._environment

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_environment": None}

    def read(self, block: Block) -> Iterator[tuple[str, Content]]:
        with self.environment().begin(buffers=True) as transaction:
            cursor = transaction.cursor()
            found = cursor.set_key(block.rows)
            for _ in range(block.count):
                if not found:
                    raise UserError(f"{self.path} changed while it was read")
                yield _text(bytes(cursor.key())), bytes(cursor.value())
                found = cursor.next()

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()
            self._environment = None


# Keys alone: what lies between them is not read. It runs in a process of its own, because LMDB aborts the
# process when it meets a page that is none, as in a file whose download was never finished.
_WALK = """
import itertools, lmdb
environment = lmdb.open({path!r}, subdir={subdir}, create=False, readonly=True, lock=False, readahead=False)
with environment.begin() as transaction:
    keys = transaction.cursor().iternext(keys=True, values=False)
    for key in itertools.islice(keys, {rows}):
        pass
"""


class LmdbSource(Source):
    """A database in LSUN's layout: values are encoded pictures, rows are in the order of the keys."""

    def __init__(self, path: Path) -> None:
        file = path / "data.mdb" if path.is_dir() else path
        reader = LmdbReader(path)
        environment = reader.environment()
        pages, page = environment.info()["last_pgno"] + 1, environment.stat()["psize"]
        there = file.stat().st_size
        if there < pages * page:  # reading behind the end of a mapped file kills the process
            reader.close()
            raise UserError(
                f"{file} is truncated: it has {there:,} of {pages * page:,} bytes; download or copy it again"
            )
        count = environment.stat()["entries"]
        if not count:
            reader.close()
            raise UserError(f"{path} is an LMDB database without rows")
        super().__init__("lmdb", path, reader, count, fingerprint([file], file.parent))
        self._reader = reader

    def check(self, rows: int, stop: Callable[[], None]) -> None:
        code = _WALK.format(path=str(self.path), subdir=self.path.is_dir(), rows=rows)
        status, complaint = run(code, stop)
        if status:
            last = complaint.strip().splitlines()[-1:] or [ended(status)]
            raise UserError(
                f"{self.path} is damaged: LMDB cannot walk its keys ({last[0].strip()}); copy it again"
            )

    def blocks(self, first: int, size: int) -> Iterator[Block]:
        with self._reader.environment().begin() as transaction:
            keys = transaction.cursor().iternext(keys=True, values=False)
            for row, key in enumerate(keys):
                if row >= first and (row - first) % size == 0:
                    yield Block(row, min(size, self.count - row), key)


def _text(key: bytes) -> str:
    return key.decode("ascii", "backslashreplace")
