"""The command ``wgangp-fast``: finds the subcommand's function, imports it, and calls it.

Subcommands are imported only when they are called: ``wgangp-fast explain`` must not need what
``wgangp-fast train`` needs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from . import interrupts
from .console import complain, outlets, verdict

PROGRAM = "wgangp-fast"


class Command(NamedTuple):
    module: str  # has main(argv) -> exit code
    help: str


COMMANDS = {
    "prepare": Command("wgangp_fast.training.data.prepare_cli", "photographs to a folder that trains fast"),
    "verify": Command("wgangp_fast.training.data.verify_cli", "check such a folder's bytes"),
    "train": Command("wgangp_fast.training.cli", "train a generator and a critic"),
    "sample": Command(
        "wgangp_fast.training.sample_cli", "pictures, arrays or the weights of a run's generator"
    ),
    "eval": Command("wgangp_fast.training.eval_cli", "quality of a run's samples as numbers"),
    "report": Command("wgangp_fast.training.report_cli", "runs side by side as one HTML file"),
    "demo": Command("wgangp_fast.experiments.demo", "agreement, speed, digits and toys in five minutes"),
    "bench": Command("wgangp_fast.bench.cli", "time the penalty against the stock one"),
    "experiment": Command("wgangp_fast.experiments.cli", "a figure or table of the papers, as a folder"),
    "doctor": Command("wgangp_fast.doctor", "what is installed, what can run here, and what to do where not"),
    "explain": Command("wgangp_fast.training.explain_cli", "show what runs for a critic, and why"),
}


def usage() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [--help] ...", "", "commands:"]
    lines += [f"  {name:<11}{command.help}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", f"{PROGRAM} --version prints the version"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: arguments without the program's name; None: those of the process.

    Returns:
        Exit code: 0; 1 where a check or a training failed; 2 for a mistake of the user (one line on stderr);
        3 where another process of a run was lost; 128 + n after signal n; 141 where nobody read stdout to
        its end, 2 where it could not be written, though the work was done.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with outlets() as stdout:
        try:
            code = _main(arguments)
        except SystemExit as stop:  # argparse and tyro, after --help
            stdout.flush()
            if stdout.lost is None:
                raise
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        stdout.flush()
        return verdict(" ".join([PROGRAM, *arguments[:1]]), code, stdout)


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        from . import __version__

        print(f"{PROGRAM} {__version__}")
        return 0
    if name not in COMMANDS:
        complain(PROGRAM, f"unknown command {name!r}; known: {', '.join(COMMANDS)}")
        return 2
    try:
        module = importlib.import_module(COMMANDS[name].module)
        interrupts.give_back()
        return int(module.main(rest))
    except ModuleNotFoundError as error:
        complain(f"{PROGRAM} {name}", f"this installation has no {error.name}")
        return 2
    except KeyboardInterrupt as error:  # before a command could take signals, or a second one
        complain(f"{PROGRAM} {name}", str(error) or "interrupted")
        return 128 + getattr(error, "signal", 2)
