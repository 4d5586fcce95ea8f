"""Rows that are files: in a folder, or in a zip archive.

Nothing here imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ....errors import UserError
from ..pixels import Content, suffixes
from . import Block, Source, fingerprint


class FileReader:
    """Files below a folder; rows are their relative paths."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, block: Block) -> Iterator[tuple[str, Content]]:
        for name in block.rows:
            yield name, self._content(name)

    def _content(self, name: str) -> Content:
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            return ValueError((error.strerror or "cannot be read").lower())
        except OSError as error:
            raise UserError(f"cannot read {self.path / name} ({error.strerror})") from None

    def close(self) -> None:
        pass


def folder_source(path: Path) -> Source:
    """Every picture below ``path``, by extension, in the order of the relative paths.

    Raises:
        UserError: there is none, or a folder cannot be listed.
    """
    names = sorted(_pictures(path))
    if not names:
        raise UserError(
            f"{path} holds no pictures and no data set; pictures are files that end in "
            f"{' '.join(sorted(suffix[1:] for suffix in suffixes()))}"
        )
    labels, classes = _labels(names)
    identity = fingerprint((path / name for name in names), path)
    return Source(
        "folder",
        path,
        FileReader(path),
        len(names),
        identity,
        labels=labels,
        classes=classes,
        rows=names,
    )


def _pictures(root: Path) -> Iterator[str]:
    """Relative POSIX paths; links are followed, each folder is entered once."""

    def unreadable(error: OSError) -> None:
        raise UserError(f"cannot list {error.filename} ({error.strerror})") from None

    entered = set()
    for folder, inner, files in os.walk(root, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in entered:
            inner.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        inner[:] = sorted(name for name in inner if _visible(name))
        below = Path(folder).relative_to(root)
        yield from ((below / name).as_posix() for name in files if _is_picture(name))


def _is_picture(name: str) -> bool:
    return _visible(name) and os.path.splitext(name)[1].lower() in suffixes()


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _labels(names: list[str]) -> tuple[np.ndarray | None, list[str] | None]:
    """Index of the first folder among the sorted ones, if every picture is in one and there are several."""
    tops = [name.partition("/") for name in names]
    classes = sorted({top for top, slash, _ in tops})
    if len(classes) < 2 or not all(slash for _, slash, _ in tops):
        return None, None
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[top] for top, _, _ in tops], np.int64), classes


@dataclass
class ZipReader:
    path: Path
    _archive: Any = None

    def archive(self) -> zipfile.ZipFile:
        if self._archive is None:
            try:
                self._archive = zipfile.ZipFile(self.path)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                raise UserError(f"{self.path} is not a readable zip archive ({error})") from None
        archive: zipfile.ZipFile = self._archive
        return archive

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_archive": None}

    def read(self, block: Block) -> Iterator[tuple[str, Content]]:
        for name in block.rows:
            yield name, self._content(name)

    def _content(self, name: str) -> Content:
        try:
            return self.archive().read(name)
        except OSError as error:
            raise UserError(f"cannot read {self.path} ({error.strerror or error})") from None
        except (MemoryError, UserError):
            raise
        except Exception as error:  # a damaged or encrypted member: zlib, struct and zipfile have their own
            return error

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None


def zip_source(path: Path) -> Source:
    """Every picture in a zip archive, with the rules of :func:`folder_source`.

    Raises:
        UserError: it cannot be read, or holds no pictures.
    """
    reader = ZipReader(path)
    everything = reader.archive().namelist()
    names = sorted({name for name in everything if _is_picture_path(name)})
    if not names:
        reader.close()
        if any(name.endswith(".mdb") for name in everything):
            raise UserError(
                f"{path} holds an LMDB database, which cannot be read inside a zip: unzip it first"
            )
        raise UserError(f"{path} is a zip archive without pictures")
    labels, classes = _labels(names)
    identity = fingerprint([path], path.parent)
    return Source("zip", path, reader, len(names), identity, labels=labels, classes=classes, rows=names)


def _is_picture_path(name: str) -> bool:
    *folders, last = name.split("/")
    return all(_visible(folder) for folder in folders) and _is_picture(last)
