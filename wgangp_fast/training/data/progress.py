"""What a long command shows: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import timedelta
from typing import Any

from ...errors import UserError
from ...optional_dependencies import require

# Seconds between lines where there is no terminal.
INTERVAL = 10.0


class Meter:
    """Progress in ``total`` images, of which ``first`` were done before; on stderr, unless ``quiet``."""

    def __init__(self, what: str, total: int, first: int = 0, *, quiet: bool = False) -> None:
        self.what, self.total, self.done, self._first = what, total, first, first
        self.begin()
        self._quiet = quiet
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            try:
                tqdm = require("tqdm").tqdm
            except UserError:
                return  # lines will do
            columns, lines = shutil.get_terminal_size()  # never 0, which some terminals say
            self._bar = tqdm(
                total=total,
                initial=first,
                desc=what,
                unit="img",
                smoothing=0.1,
                ncols=columns,
                nrows=lines,
            )

    def begin(self) -> None:
        """The rate counts from here."""
        self._begin = self._said = time.monotonic()

    def to(self, done: int, note: str = "") -> None:
        """``done`` images of the total are finished."""
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self._bar is None and not self._quiet and now - self._said >= INTERVAL:
            self._said = now
            self.say(f"{self.what}: {done:,} of {self.total:,}{note and ', ' + note}, {self._pace()}")

    def _pace(self) -> str:
        rate = self.rate()
        if not rate:
            return "0 img/s"
        left = timedelta(seconds=round((self.total - self.done) / rate))
        return f"{rate:,.0f} img/s, {left} left"

    def rate(self) -> float:
        """Images a second since :meth:`begin`."""
        return (self.done - self._first) / max(time.monotonic() - self._begin, 1e-9)

    def say(self, line: str) -> None:
        """A line of its own."""
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        elif not self._quiet:
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
