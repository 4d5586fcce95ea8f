"""What the commands share: flags that are refused in one line, and exit codes."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import NoReturn

from .console import complain
from .errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose complaints are one line without the usage."""

    def __init__(self, *, prog: str, description: str | None = None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    """``kind`` of a text, above 0: a ``type=`` of argparse."""

    def parse(text: str) -> float:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"must be above 0; got {text}")
        return value

    parse.__name__ = getattr(kind, "__name__", "number")  # what argparse calls it when it is no number
    return parse


def mistakes(program: str) -> Callable[[Callable[[Sequence[str]], int]], Callable[[Sequence[str]], int]]:
    """A command whose user's mistakes become one line on stderr and exit code 2."""

    def around(main: Callable[[Sequence[str]], int]) -> Callable[[Sequence[str]], int]:
        @functools.wraps(main)
        def guarded(argv: Sequence[str]) -> int:
            try:
                return main(argv)
            except UserError as error:
                complain(program, error)
                return 2

        return guarded

    return around
