"""``wgangp-fast experiment``: a figure or table of the papers, as numbers, pictures and a page."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from wgangp_fast.cli_arguments import Parser, mistakes
from wgangp_fast.errors import UserError
from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.parallel import usable

from .catalog import EXPERIMENTS
from .page import VERDICTS, seconds
from .publish import index, publish
from .study import SCALES, Study

PROGRAM = "wgangp-fast experiment"


@mistakes(PROGRAM)
def main(argv: Sequence[str]) -> int:
    """The command; the last line on stdout is the page. Exit codes: 0, 2 a mistake of the user, 128 + n after
    signal n; what was computed is kept, and the same command goes on. A claim that did not hold is no error.
    """
    asked = _parser().parse_args(argv)
    if asked.name == "list":
        for name, entry in EXPERIMENTS.items():
            takes = f"; --data: {entry.takes}" if entry.takes else ""
            print(f"{name:<22}{entry.help} ({entry.source}{takes})")
        return 0
    if asked.name not in (*EXPERIMENTS, "all"):
        raise UserError(f"unknown experiment {asked.name!r}; known: {', '.join(EXPERIMENTS)}, and all")
    if asked.data is not None and not (asked.name in EXPERIMENTS and EXPERIMENTS[asked.name].takes):
        takers = ", ".join(name for name, entry in EXPERIMENTS.items() if entry.takes)
        raise UserError(f"--data is for {takers}; {asked.name} takes none")
    for module in ("matplotlib.figure", "PIL.Image"):  # before the work, not after it
        require(module)
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        for name in EXPERIMENTS if asked.name == "all" else [asked.name]:
            _make(name, asked)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted; the same command goes on", file=sys.stderr)
        return 128 + (received or [signal.SIGINT])[0]
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _make(name: str, asked: argparse.Namespace) -> None:
    """One experiment, its claims and its page's path on the screen."""
    study = open_study(
        name, asked.scale, Path(asked.outdir) / f"{name}-{asked.scale}", seed=asked.seed, data=asked.data,
        penalty=asked.penalty, device=asked.device, fresh=asked.fresh,
    )  # fmt: skip
    try:
        page = run(study)
    except UserError:
        study.discard()
        raise
    for row in study.claims:
        print(f"{VERDICTS[row['held']].strip('*'):<12}{row['claim']}: {row['measured']}")
    print(f"{seconds(sum(study.seconds.values()))} of work")
    if asked.publish is not None:
        publish(study.path, asked.publish)
        index(asked.publish, list(EXPERIMENTS))
    print(page)


def open_study(
    name: str,
    scale: str,
    path: Path,
    *,
    seed: int = 0,
    data: str | None = None,
    penalty: str = "fast",
    device: str = "auto",
    fresh: bool = False,
) -> Study:
    """The study of an experiment of :data:`EXPERIMENTS`, new or begun earlier.

    Args:
        fresh: drop what an earlier run left in ``path``.

    Raises:
        UserError: a folder that cannot be used, or a device that is not there.
    """
    entry = EXPERIMENTS[name]
    module = importlib.import_module(f".{entry.module}", __package__)
    scales = getattr(module, f"{entry.function.upper()}_SCALES", None) or module.SCALES
    if fresh and (path / "study.json").exists():
        for part in (path / "parts").glob("*"):
            part.unlink()
        (path / "study.json").unlink()
    elif fresh and path.exists() and any(path.iterdir()):
        raise UserError(f"{path} is not an experiment's folder; --fresh would delete what is in it")
    return Study(
        name, entry, scale, scales[scale], path, seed=seed, data=data, penalty=penalty,  # type: ignore[arg-type]
        device=usable(device),
    )  # fmt: skip


def run(study: Study) -> Path:
    """Do all parts that are not done yet, and write the page; its path."""
    module = importlib.import_module(f".{study.entry.module}", __package__)
    getattr(module, study.entry.function)(study)
    return study.finish()


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("name", metavar="NAME", help="an experiment, all, or list")
    parser.add_argument(
        "--scale", choices=SCALES, default="cpu",
        help="smoke: seconds; cpu: minutes on two cores; paper: as in the paper, for a GPU (default: cpu)",
    )  # fmt: skip
    parser.add_argument("--outdir", default="experiments", help="of the folders (default: experiments)")
    parser.add_argument("--data", help="data or text in place of the embedded default, as for train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--penalty", choices=["fast", "stock"], default="fast", help="of the trainings")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ...; auto: a GPU if there is one")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="copy the page to DIR/NAME, with an index"
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew, dropping what the folder holds")
    return parser
