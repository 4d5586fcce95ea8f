"""The run folder: numbered, with its settings, its log and its statistics."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from wgangp_fast.errors import UserError
from wgangp_fast.files import Lock, append_text, read_text, write_text

LOG = "log.txt"


def next_path(outdir: Path, label: str) -> Path:
    """The first free ``outdir/00000-label``: one above the highest number there, whatever its label."""
    numbers = [-1]
    if outdir.is_dir():
        numbers += [int(m[1]) for p in outdir.iterdir() if (m := re.match(r"(\d{5,})-", p.name))]
    return outdir / f"{max(numbers) + 1:05d}-{label}"


def create(outdir: Path, label: str) -> Path:
    """Make the next run folder.

    Raises:
        UserError: ``outdir`` cannot be written to.
    """
    while True:
        path = next_path(outdir, label)
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            if not path.is_dir():  # outdir itself, or a folder above it, is a file
                raise UserError(f"cannot make {path}: a file is in the way") from None
        except OSError as error:
            raise UserError(f"cannot make {path}: {error.strerror}") from None


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The dictionaries of a .jsonl file, none if it is not there; a line that a crash tore is left out."""
    found = []
    for line in read_text(path).split("\n") if path.exists() else []:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict)]


def append_line(path: Path, value: dict[str, Any]) -> None:
    """Add one line to a .jsonl file; what is not finite becomes null, since JSON has no word for it."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    append_text(path, json.dumps(plain) + "\n")


def claim(path: Path) -> Lock:
    """Keep other processes from training in a run folder, until the lock is closed or this process ends.

    The lock is on log.txt, which is never replaced, so that no file of its own is left behind.

    Raises:
        UserError: another process trains there, or the folder cannot be written to.
    """
    try:
        return Lock(path / LOG)
    except BlockingIOError:
        raise UserError(
            f"another process trains in {path} at this moment: wait until it ends, or stop it; --outdir "
            "continues in a folder of its own"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write into {path} ({error.strerror})") from None


def _at(tick: dict[str, Any]) -> float:
    """A tick's iteration; what has none is behind every other."""
    value = tick.get("iteration")
    return value if isinstance(value, int | float) else math.inf


class Log:
    """Lines for the screen and for log.txt, and ticks for stats.jsonl.

    A screen that takes no more lines (a closed pipe, a full disk behind it) ends nothing: log.txt has them.

    Args:
        folder: the run folder.
        iteration: ticks after it are dropped from stats.jsonl: a run that stopped behind its last
            checkpoint will compute them again.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        self.text = folder / LOG
        self.screen = True
        self.stats = folder / "stats.jsonl"
        self.ticks = read_lines(self.stats)
        self.keep(iteration)

    def keep(self, iteration: int) -> None:
        """Drop the ticks behind ``iteration``, which will be computed again."""
        self.ticks = [tick for tick in self.ticks if _at(tick) <= iteration]
        write_text(self.stats, "".join(json.dumps(tick) + "\n" for tick in self.ticks))

    def line(self, text: str) -> None:
        if self.screen:
            try:
                print(text, flush=True)
                lost = getattr(sys.stdout, "lost", None)  # a command's own stdout raises nothing
            except (OSError, ValueError) as error:  # ValueError: it was closed
                lost = error
            if lost is not None:
                self.screen = False
                reason = getattr(lost, "strerror", None) or lost
                text += f"\nwarning: stdout takes no more lines ({reason}); they are in {self.text}"
        append_text(self.text, text + "\n")

    def tick(self, values: dict[str, Any]) -> None:
        self.ticks.append(values)
        append_line(self.stats, values)


class Progress:
    """A bar on a terminal, nothing anywhere else, nor without tqdm."""

    def __init__(self, start: int, total: int) -> None:
        self.bar: Any = None
        if sys.stderr.isatty() and sys.stdout.isatty():
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:
                return
            self.bar = tqdm(initial=start, total=total, unit="it", dynamic_ncols=True, leave=False)

    def step(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def pause(self) -> None:
        """Clear the bar, so that a line can be printed."""
        if self.bar is not None:
            self.bar.clear()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
