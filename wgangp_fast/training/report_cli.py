"""``wgangp-fast report``: one or several runs as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wgangp_fast.cli_arguments import Parser, mistakes
from wgangp_fast.errors import UserError

from .config import read_config
from .report import write_report

PROGRAM = "wgangp-fast report"


@mistakes(PROGRAM)
def main(argv: Sequence[str]) -> int:
    """The command; prints the file's path. Exit codes: 0, 2 a mistake of the user."""
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, side by side")
    parser.add_argument("--out", type=Path, help="default: report.html in the first run folder")
    parser.add_argument("--title")
    asked = parser.parse_args(argv)
    for run in asked.runs:
        read_config(run)  # says which one is no run folder
    out = asked.out or asked.runs[0] / "report.html"
    try:
        print(write_report(asked.runs, out, asked.title))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from None
    return 0
