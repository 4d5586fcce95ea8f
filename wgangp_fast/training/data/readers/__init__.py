"""What a source of pictures is: rows in a fixed order, read block by block in any process.

A source stays in the process that prepares; its reader is small and goes to the workers. Nothing here
imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ....errors import UserError
from ..pixels import Content


@dataclass(frozen=True)
class Block:
    """Rows ``start`` to ``start + count``; ``rows`` is what the source's reader needs to find them."""

    start: int
    count: int
    rows: Any


class Reader(Protocol):
    """Reads rows; it can be sent to another process, where it opens its files anew."""

    def read(self, block: Block) -> Iterator[tuple[str, Content]]:
        """Name and content of each row of ``block``; an exception as content: the row cannot be read.

        Raises:
            UserError: the medium failed, so that no row can be trusted to be lost for good.
        """
        ...

    def close(self) -> None: ...


@dataclass
class Source:
    """Rows in a fixed order.

    Attributes:
        kind: such as ``"lmdb"``, for the header.
        reader: see :class:`Reader`.
        count: number of rows, decodable or not.
        fingerprint: changes when the source does.
        channels: of its pictures; None: encoded ones, each with its own.
        labels: int64 ``[count]``, or None.
        classes: names of the labels, where there are any.
        rows: for sources whose rows can be sliced.
        split: the one that was read, where there are several.
    """

    kind: str
    path: Path
    reader: Reader
    count: int
    fingerprint: dict[str, Any]
    channels: int | None = None
    labels: np.ndarray | None = None
    classes: list[str] | None = None
    rows: Sequence[Any] | np.ndarray = ()
    split: str | None = None

    def blocks(self, first: int, size: int) -> Iterator[Block]:
        """The rows from ``first`` on, in blocks of at most ``size``."""
        for start in range(first, self.count, size):
            part = self.rows[start : start + size]
            yield Block(start, len(part), part)

    def check(self, rows: int, stop: Callable[[], None]) -> None:
        """Find out whether the first ``rows`` rows can be walked without harm.

        ``stop`` is called now and then and may raise.

        Raises:
            UserError: they cannot.
        """

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()


def fingerprint(files: Iterable[Path], root: Path) -> dict[str, Any]:
    """Number and bytes of ``files``, and a digest over their names below ``root``, sizes and times.

    Raises:
        UserError: one of them cannot be looked at.
    """
    digest, number, total = hashlib.sha256(), 0, 0
    for file in files:
        try:
            status = file.stat()
        except FileNotFoundError:  # a dangling link: a row that is skipped when it is read
            continue
        except OSError as error:
            raise UserError(f"cannot look at {file} ({error.strerror})") from None
        number, total = number + 1, total + status.st_size
        # From the root on, so that a set may be moved as a whole.
        name = os.fsencode(file.relative_to(root))
        digest.update(b"%s\0%d\0%d\n" % (name, status.st_size, status.st_mtime_ns))
    return {"files": number, "bytes": total, "sha256": digest.hexdigest()}


class ArrayReader:
    """Rows that are pixels already, uint8 ``[n, C, H, W]``: they travel with the block."""

    def read(self, block: Block) -> Iterator[tuple[str, Content]]:
        for place, pixels in enumerate(block.rows):
            yield str(block.start + place), pixels

    def close(self) -> None:
        pass
