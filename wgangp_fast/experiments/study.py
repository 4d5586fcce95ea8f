"""An experiment's folder: its parts, each computed once, and the page that is made of them."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor

from wgangp_fast.bench.environment import environment
from wgangp_fast.errors import UserError
from wgangp_fast.training import Config, checkpoint, folder

from . import page
from .figures import save

SCALES = ("smoke", "cpu", "paper")
# What a folder was begun with, and must be continued with: another value would mix two experiments.
FIXED = ("experiment", "scale", "settings", "seed", "data", "penalty")


@dataclass(frozen=True)
class Entry:
    """An experiment that can be run by name.

    Attributes:
        module: of :mod:`wgangp_fast.experiments`; has ``SCALES`` and the function.
        function: of the module; takes a :class:`Study`.
        title, source: of the page; ``source`` names the figure or table.
        help: a line for the list.
        takes: what ``--data`` may be; empty: the experiment has data of its own alone.
    """

    module: str
    title: str
    source: str
    help: str
    function: str = "run"
    takes: str = ""


class Study:
    """An experiment at a scale, in a folder.

    What is slow is a *part*: its result is kept in ``parts/``, and found there by the next run of the same
    folder. So an experiment that was interrupted goes on, and one that is complete is only drawn again.

    Args:
        name: of the experiment. entry: what it is.
        scale: ``"smoke"``, ``"cpu"`` or ``"paper"``; settings: the scale's values.
        path: the folder; made if it is not there.
        seed: of everything. data: what the user gave, or None for the experiment's own.
        penalty: ``"fast"`` or ``"stock"``: which path the trainings take.
        device: where they run.

    Raises:
        UserError: the folder holds an experiment with other settings, or cannot be written to.
    """

    def __init__(
        self,
        name: str,
        entry: Entry,
        scale: str,
        settings: Mapping[str, Any],
        path: Path,
        *,
        seed: int = 0,
        data: str | None = None,
        penalty: Literal["fast", "stock"] = "fast",
        device: torch.device | str = "cpu",
    ) -> None:
        self.name, self.entry, self.scale, self.path = name, entry, scale, Path(path)
        self.settings = SimpleNamespace(**settings)
        self.seed, self.penalty = seed, penalty
        self.data = str(Path(data).absolute()) if data is not None and Path(data).exists() else data
        self.device = torch.device(device)
        self.blocks: list[str] = []  # the page's middle, as Markdown
        self.claims: list[dict[str, Any]] = []
        self.numbers: dict[str, Any] = {}
        self.tables: list[dict[str, Any]] = []
        self.choices: list[str] = []
        self.speeds: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        about = {
            "experiment": name,
            "scale": scale,
            "settings": json.loads(json.dumps(dict(settings))),
            "seed": seed,
            "data": self.data,
            "penalty": penalty,
        }
        try:
            self.parts = self.path / "parts"
            self.parts.mkdir(parents=True, exist_ok=True)
            self.about = self._begun(about)
        except OSError as error:
            raise UserError(f"cannot write into {self.path} ({error.strerror or error})") from None

    def _begun(self, about: dict[str, Any]) -> dict[str, Any]:
        """What the folder was begun with; ``about`` where it is new."""
        path = self.path / "study.json"
        if path.exists():
            try:
                there = dict(json.loads(path.read_text(encoding="utf-8")))
            except ValueError:
                raise UserError(f"{path} is damaged; remove the folder, or give another --outdir") from None
            for key in FIXED:
                if there.get(key) != about[key]:
                    raise UserError(
                        f"{self.path} was begun with another {key} ({there.get(key)!r}, now {about[key]!r}): "
                        "--fresh begins anew there, --outdir takes another folder"
                    )
            return there
        about = {**about, "environment": environment(self.device)}
        folder.write_json(path, about)
        return about

    def discard(self) -> None:
        """Remove the folder if no part is done yet: what was refused may be asked for with other settings."""
        if not any(self.parts.iterdir()):
            self.parts.rmdir()
            (self.path / "study.json").unlink()
            with contextlib.suppress(OSError):  # something else is in it
                self.path.rmdir()

    # What takes time.

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """``work()``, a value that JSON has, computed once.

        Args:
            name: of the file; unique in the experiment.
        """
        path = self.parts / f"{_slug(name)}.json"
        if not path.exists():
            self.say(name)
            begin = time.perf_counter()
            value = work()
            folder.write_json(
                path, {"seconds": round(time.perf_counter() - begin, 3), "value": _plain(value)}
            )
        found = json.loads(path.read_text(encoding="utf-8"))
        self.seconds[name] = found["seconds"]
        return found["value"]

    def tensors(self, name: str, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """``work()``, tensors by name, computed once; they come back on the CPU."""
        path = self.parts / f"{_slug(name)}.pt"
        if not path.exists():
            self.say(name)
            begin = time.perf_counter()
            value = {key: tensor.detach().cpu() for key, tensor in work().items()}
            seconds = time.perf_counter() - begin
            checkpoint.write(path, {"format": checkpoint.FORMAT, "seconds": seconds, "value": value})
        found = checkpoint.load(path)
        self.seconds[name] = round(found["seconds"], 3)
        return dict(found["value"])

    def say(self, text: str) -> None:
        """A line of progress on the screen."""
        print(f"[{self.name} {self.scale}] {text}", flush=True)

    @property
    def padding(self) -> str:
        """Of strided convolutions: the released code's at paper scale, else the faster one."""
        return "same" if self.scale == "paper" else "symmetric"

    def config(self, preset: str, **settings: Any) -> Config:
        """Settings of a training of this experiment: its seed, penalty, device, padding, the user's data."""
        settings.setdefault("seed", self.seed)
        settings.setdefault("device", str(self.device))
        settings.setdefault("penalty", self.penalty)
        settings.setdefault("padding", self.padding)
        if self.data is not None:
            settings.setdefault("data", self.data)
        return Config(preset=preset, **settings)

    # What is said on the page, in the order of the calls.

    def heading(self, text: str) -> None:
        self.blocks.append(f"## {text}")

    def text(self, markdown: str) -> None:
        """A paragraph, or any Markdown."""
        self.blocks.append(markdown.strip())

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table of numbers and words; it is in results.json too."""
        self.tables.append({"title": title, "columns": columns, "rows": _plain(rows)})
        self.blocks.append(f"**{title}**\n\n{page.table(columns, rows)}")

    def picture(self, file_name: str, caption: str, source: Any) -> Path:
        """A PNG or GIF in the folder.

        Args:
            caption: a sentence below it.
            source: a matplotlib figure, or a function that is called with the path.
        """
        path = self.path / file_name
        if callable(source):
            source(path)
        else:
            save(source, path)
        self.blocks.append(f"![{caption}]({file_name})\n\n*{caption}*")
        return path

    def claim(self, claim: str, source: str, measured: str, held: bool | None) -> None:
        """What the paper says, and what came out here.

        Args:
            source: where it says so.
            measured: the numbers by which it is judged.
            held: None where this scale cannot tell, for a reason that ``measured`` gives.
        """
        held = None if held is None else bool(held)
        self.claims.append({"claim": claim, "source": source, "measured": measured, "held": held})

    def choice(self, text: str) -> None:
        """What was chosen where the sources disagree or are silent, and why."""
        self.choices.append(text)

    def number(self, name: str, value: Any) -> None:
        """A number for results.json."""
        self.numbers[name] = _plain(value)

    def finish(self) -> Path:
        """Write results.json and README.md; the latter's path."""
        now = environment(self.device)
        results = {
            **self.about,
            "data": None if self.data is None else Path(self.data).name,  # where it lay is nobody's concern
            "drawn": {key: now[key] for key in ("commit", "dirty", "date")},  # parts may be older
            "title": self.entry.title,
            "source": self.entry.source,
            "seconds": round(sum(self.seconds.values()), 1),
            "seconds_of_parts": self.seconds,
            "claims": self.claims,
            "numbers": self.numbers,
            "tables": self.tables,
            "kernels": self.speeds,
            "choices": self.choices,
        }
        folder.write_json(self.path / "results.json", results)
        path = self.path / "README.md"
        folder.write_text(path, page.render(results, self.entry, self.blocks))
        return path


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)


def _plain(value: Any) -> Any:
    """``value`` as JSON has it: what is not finite becomes a word, since JSON has no number for it."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
