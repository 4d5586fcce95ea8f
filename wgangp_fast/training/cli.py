"""``wgangp-fast train``: the flags are the fields of :class:`.Config`."""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr

from wgangp_fast.console import complain
from wgangp_fast.errors import UserError
from wgangp_fast.optional_dependencies import require

from .config import Config
from .loop import Diverged, Interrupted, train
from .parallel import ProcessLost, joined

PROGRAM = "wgangp-fast train"


def parse(argv: Sequence[str]) -> Config:
    """Settings from flags; the ones that are not given come from the preset, the loss or the resumed run.

    Raises:
        UserError: a flag that does not exist or cannot be read, a value that :class:`Config` refuses, or
            tyro is not installed.
        SystemExit: after ``--help``.
    """
    tyro = require("tyro")
    # These decide the defaults of all the others, or whether there are any, so they are read first.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("preset", "loss", "resume", "data"):
        first.add_argument(f"--{name}")
    known, _ = first.parse_known_args(argv)
    # The preset alone may lack its data, which the flags then give.
    default = Config(preset=known.preset, loss=known.loss, resume=known.resume, data=known.data)
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            config: Config = tyro.cli(
                Config,
                args=list(argv),
                default=default,
                prog=PROGRAM,
                description="Train a generator and a critic.",
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(_one_line(complaint.getvalue())) from None
    return config


def _one_line(box: str) -> str:
    """The text inside tyro's box, without frame, title, and the reminder of --help at its end."""
    text = re.sub(r"[\u2500-\u257f|]|-{3,}", " ", box.strip().partition("\n")[2])  # Unicode or ASCII frames
    return " ".join(text.partition("For full helptext")[0].split())


def main(argv: Sequence[str]) -> int:
    """Train; the last line on stdout is the run folder, from the first process alone.

    Exit codes: 0; 1 diverged; 2 a mistake of the user; 3 another process was lost; 128 + n after signal n,
    the state saved.
    """
    code = _main(argv)
    if joined():
        # gloo's threads outlive the group, and where one still holds a tensor when the interpreter goes, the
        # process aborts (seen in 2 of 10 pairs). Everything is written by now, so it may skip that.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _main(argv: Sequence[str]) -> int:
    rank = os.environ.get("RANK", "0")
    who = PROGRAM if rank == "0" else f"{PROGRAM} (rank {rank})"
    try:
        config = parse(argv)
        path = train(config)
    except UserError as error:
        complain(who, error)
        return 2
    except Diverged as error:
        if rank == "0":
            complain(PROGRAM, error)
        return 1
    except ProcessLost as error:
        complain(who, f"{error}; --resume RUN_FOLDER goes on from the last checkpoint")
        return 3
    except Interrupted as error:
        if rank == "0":
            complain(PROGRAM, error)
            print(error.folder)
        return 128 + error.signal
    if not config.dry_run and rank == "0":
        print(path)
    return 0
