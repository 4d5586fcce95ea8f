"""Lines of text as samples: one-hot characters (paper section 12; Gulrajani et al., language_helpers.py)."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from .rng import stream

LENGTH = 32
VOCABULARY = 2048
MOST_LINES = 10_000_000
PAD = "`"
UNKNOWN = "unk"
SHOWN = "\N{REPLACEMENT CHARACTER}"  # how UNKNOWN is decoded: one character, as every other code
EMBEDDED = "pydoc-topics"


class Lines:
    """Lines of a fixed length over a vocabulary of characters; a set for :class:`~.data.Batches`.

    A line is cut at ``length`` characters, or filled up with back-ticks at its right, as in the released
    code. Back-ticks of the text itself cannot be told from those.

    Args:
        name: of the text. lines: without their line ends; blank ones are left out.
        length: characters in a sample.
        most: size of the vocabulary at most, ``unk`` included.

    Attributes:
        name: with the beginning of the checksum, as texts of one name differ.
        sha256: of the lines that were kept, cut but not filled up.
        vocabulary: ``unk``, which stands for every character that found no place, then characters from the
            most frequent one down (padding counts).
        codes: int16 ``[N, length]``, indices into the vocabulary.
        shape: ``(V, length)``. size: N. shuffled: each pass has an order of its own.

    Raises:
        UserError: there are no lines.
    """

    shuffled = True

    def __init__(
        self, name: str, lines: Iterable[str], *, length: int = LENGTH, most: int = VOCABULARY
    ) -> None:
        if length < 1 or not 2 <= most <= 1 << 15:
            raise ValueError(f"need length >= 1 and 2 <= most <= {1 << 15}; got {length} and {most}")
        kept = [line[:length] for line in lines if line.strip()]
        if not kept:
            raise UserError(f"{name} holds no lines of text")
        self.sha256 = hashlib.sha256("\n".join(kept).encode("utf-8", "surrogatepass")).hexdigest()
        self.name = f"{name} (sha256 {self.sha256[:8]})"
        points = _code_points(kept, length)
        characters, counts = np.unique(points, return_counts=True)
        # Among equally frequent ones the lower code point: the same vocabulary for every order of the lines.
        chosen = characters[np.lexsort((characters, -counts))][: most - 1]
        self.vocabulary: tuple[str, ...] = (UNKNOWN, *map(chr, chosen))
        self._set(points.shape[0], length)
        self.codes = torch.from_numpy(self._table()[points])

    def _set(self, size: int, length: int) -> None:
        self.shape: tuple[int, ...] = (len(self.vocabulary), length)
        self.size: int | None = size

    def _table(self) -> np.ndarray:
        """int16 by code point; 0, which is unk, for those outside the vocabulary."""
        table = np.zeros(0x110000, dtype=np.int16)
        for code, character in enumerate(self.vocabulary[1:], start=1):
            table[ord(character)] = code
        return table

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """One-hot float32 ``[n, V, length]`` of lines ``rows [n]``."""
        return self.one_hot(self.codes[rows.cpu()])

    def one_hot(self, codes: Tensor) -> Tensor:
        """float32 ``[n, V, length]`` of ``codes [n, length]``."""
        found = torch.zeros(len(codes), *self.shape)
        return found.scatter_(1, codes.long()[:, None], 1.0)

    def encode(self, lines: Sequence[str]) -> Tensor:
        """int64 ``[N, length]``, cut and filled up; characters outside the vocabulary become 0."""
        return torch.from_numpy(self._table()[_code_points(list(lines), self.shape[1])]).long()

    def decode(self, codes: Tensor) -> list[str]:
        """Lines of ``codes [N, length]``, with the padding at their right taken off.

        Raises:
            IndexError: a code that the vocabulary does not have.
        """
        letters = [SHOWN, *self.vocabulary[1:]]
        return ["".join(letters[code] for code in line).rstrip(PAD) for line in codes.tolist()]

    def split(self, count: int) -> tuple[Lines, Lines]:
        """The lines without ``count`` of them, and those; which ones is the same for every seed.

        Both keep the vocabulary, as a network has one.

        Raises:
            UserError: that would leave no lines on one side.
        """
        if not 0 < count < len(self.codes):
            raise UserError(f"cannot hold out {count} of the {len(self.codes)} lines of {self.name}")
        order = torch.randperm(len(self.codes), generator=stream("held out"))
        return self._part(order[count:].sort().values), self._part(order[:count].sort().values)

    def _part(self, rows: Tensor) -> Lines:
        part = Lines.__new__(Lines)
        part.__dict__.update(self.__dict__)
        part.codes = self.codes[rows]
        part._set(len(rows), self.shape[1])
        return part


def _code_points(lines: list[str], length: int) -> np.ndarray:
    """uint32 ``[N, length]``."""
    text = "".join(line[:length].ljust(length, PAD) for line in lines)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").reshape(len(lines), length)


def load_lines(source: str = EMBEDDED, *, length: int = LENGTH, most: int = VOCABULARY) -> Lines:
    """Lines of a text file in UTF-8, or by default of a text that every Python has.

    Args:
        source: path of a file, of which the first 10 million lines are read; or ``"pydoc-topics"``, the
            prose of Python's own help (the standard library's ``pydoc_data.topics``, another text in every
            version of Python).
        length, most: see :class:`Lines`.

    Raises:
        UserError: no such file, it cannot be read, is empty, or is no text.
    """
    if source == EMBEDDED:
        return Lines(EMBEDDED, _prose(), length=length, most=most)
    path = Path(source)
    if path.is_dir():
        raise UserError(f"{path} is a folder; a text file is needed")
    return Lines(path.name, _read(path), length=length, most=most)


def _read(path: Path) -> list[str]:
    found: list[str] = []
    try:
        # Only line feeds end a line: form feeds and the like are characters.
        with open(path, encoding="utf-8", newline="\n") as file:
            for line in file:
                if "\0" in line:
                    raise UserError(f"{path} is not a text file: it holds zero bytes")
                found.append(line.rstrip("\r\n"))
                if len(found) == MOST_LINES:
                    break
    except FileNotFoundError:
        raise UserError(f"no text file at {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    return found


def _prose() -> list[str]:
    """Lines of Python's help that are sentences, not programs, tables or rules."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ModuleNotFoundError:
        raise UserError("this Python comes without pydoc_data.topics; give a text file") from None
    lines = (line.strip() for name in sorted(topics) for line in topics[name].split("\n"))
    # Some topics hold the same paragraphs; a line held out must not be trained on.
    return list(dict.fromkeys(line for line in lines if _is_prose(line)))


def _is_prose(line: str) -> bool:
    """Four words or more, no columns, and hardly anything but letters and spaces."""
    letters = sum(character.isalpha() or character == " " for character in line)
    return len(line.split()) >= 4 and "  " not in line and letters >= 0.85 * len(line)
