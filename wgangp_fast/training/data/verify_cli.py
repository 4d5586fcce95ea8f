"""``wgangp-fast verify``: see :func:`.cache.verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...cli_arguments import Parser
from .cache import Cache, verify
from .command import run
from .progress import Meter

PROGRAM = "wgangp-fast verify"


def main(argv: Sequence[str]) -> int:
    """Check a cache against its digests.

    Exit codes: 0 intact; 1 damaged; 2 a mistake of the user.
    """
    return run(PROGRAM, lambda: _main(argv))


def _main(argv: Sequence[str]) -> None:
    parser = Parser(prog=PROGRAM, description="Check that a prepared folder is what was written.")
    parser.add_argument("cache", metavar="CACHE", type=Path, help="a folder that prepare made")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    arguments = parser.parse_args(argv)
    header = Cache.open(arguments.cache).header
    with Meter("verify", header["count"], quiet=arguments.quiet) as meter:
        verify(arguments.cache, lambda rows: meter.to(meter.done + rows))
    print(f"{arguments.cache}: {header['count']} images are intact")
