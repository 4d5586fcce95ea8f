"""``wgangp-fast prepare``: see :func:`.prepare.prepare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...cli_arguments import Parser
from .cache import SKIPPED, Cache
from .command import run
from .pixels import CROPS, FILTERS, MAX_PIXELS
from .preparation import prepare
from .sources import SPLITS, UNDERSTOOD

PROGRAM = "wgangp-fast prepare"
CROPS_HELP = (
    "center: the largest square in the middle (default); top-left: the one in the corner; "
    "resize: short side to S, then the middle; stretch: all of the picture"
)


def main(argv: Sequence[str]) -> int:
    """Prepare a cache; the last line on stdout is its path.

    Exit codes: 0; 2 a mistake of the user; 128 + n after signal n, the progress saved.
    """
    return run(PROGRAM, lambda: _main(argv))


def _main(argv: Sequence[str]) -> None:
    arguments = vars(_parser().parse_args(argv))
    cache = prepare(arguments.pop("source"), arguments.pop("dest"), **arguments)
    print(_summary(cache))
    print(cache.path)


def _summary(cache: Cache) -> str:
    header = cache.header
    shape = "x".join(map(str, cache.images.shape[1:]))
    parts = [
        f"{header['count']} images of {shape}",
        f"{header['skipped']} skipped",
    ]
    if header["skipped"]:
        parts[1] += f" (listed in {cache.path / SKIPPED})"
    if header.get("enlarged"):
        parts.append(f"{header['enlarged']} enlarged")
    return ", ".join([*parts, f"{header.get('images_per_second', 0):.0f} img/s"])


def _parser() -> Parser:
    parser = Parser(
        prog=PROGRAM,
        description="Convert pictures to a folder that trains fast. Interrupted, the same command continues.",
    )
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help=UNDERSTOOD)
    add("dest", metavar="DEST", type=Path, help="the folder to make")
    add("--size", type=int, required=True, metavar="S", help="side in pixels, a multiple of 4")
    add("--crop", choices=list(CROPS), default="center", help=CROPS_HELP)
    add("--filter", choices=FILTERS, default="lanczos", help="of the resizing (lanczos)")
    add("--max-images", type=int, metavar="N", help="only the first N that decode")
    add("--workers", type=int, metavar="K", help="processes (one for each core)")
    add("--channels", type=int, choices=(1, 3), help="1: grey; 3: colour (3, or those of an array)")
    add(
        "--background",
        metavar="COLOUR",
        default="white",
        help="what transparent pictures are laid on: a name or #rrggbb (white)",
    )
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        default=MAX_PIXELS,
        help=f"skip pictures of more pixels, which may be made to fill the memory ({MAX_PIXELS:,}, Pillow's "
        "own limit); 0: none",
    )
    add("--split", choices=SPLITS, default="train", help="of CIFAR and of IDX folders (train)")
    add("--restart", action="store_true", help="begin anew instead of continuing")
    add("--quiet", action="store_true", help="no progress on stderr")
    return parser
