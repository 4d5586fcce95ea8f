"""What the commands share: flags that are refused in one line, and exit codes."""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

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


def named(text: str) -> Any:
    """What ``module:name`` stands for; modules of the folder that the command runs in are found too.

    Raises:
        UserError: there is no such thing, or the module cannot be imported.
    """
    module, _, name = text.partition(":")
    if not module or not name:
        raise UserError(f"a callable is named as MODULE:CALLABLE; got {text!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = importlib.import_module(module)
        return functools.reduce(getattr, name.split("."), found)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise UserError(f"{text}: {type(error).__name__}: {error}") from error


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
