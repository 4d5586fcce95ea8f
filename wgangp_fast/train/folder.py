"""The run folder: numbered, with its settings, its log and its statistics."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from wgangp_fast.data import UserError


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
    path.write_text(json.dumps(value, indent=2) + "\n")


class Log:
    """Lines for the screen and for log.txt, and ticks for stats.jsonl.

    Args:
        folder: the run folder.
        iteration: ticks after it are dropped from stats.jsonl: a run that stopped behind its last
            checkpoint will compute them again.
    """

    def __init__(self, folder: Path, iteration: int) -> None:
        self.text = folder / "log.txt"
        self.stats = folder / "stats.jsonl"
        self.ticks: list[dict[str, Any]] = []
        if self.stats.exists():
            self.ticks = [
                t for t in map(json.loads, self.stats.read_text().splitlines()) if t["iteration"] <= iteration
            ]
        self.stats.write_text("".join(json.dumps(tick) + "\n" for tick in self.ticks))

    def line(self, text: str) -> None:
        print(text, flush=True)
        with open(self.text, "a") as file:
            file.write(text + "\n")

    def tick(self, values: dict[str, Any]) -> None:
        self.ticks.append(values)
        with open(self.stats, "a") as file:
            file.write(json.dumps(values) + "\n")


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
