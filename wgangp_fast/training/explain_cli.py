"""``wgangp-fast explain``."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..cli_arguments import mistakes, named
from ..errors import UserError
from ..explanation import explain
from ..options import EXECUTORS
from . import models


def maker(text: str) -> Callable[[], Any]:
    """What makes the critic that a command was given: ``module:callable``, or ``models:NAME``.

    Raises:
        UserError: there is no such callable.
    """
    module, _, name = text.partition(":")
    found = functools.partial(models.build, name) if module == "models" else named(text)
    if not callable(found):
        raise UserError(f"{text} must be a callable that returns a critic; it is a {type(found).__name__}")
    return found


def sides(text: str) -> tuple[int, ...]:
    """``"16,3,64,64"`` as numbers.

    Raises:
        UserError: not numbers of at least 1.
    """
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise UserError(f"--shape must be the batch and the sides of a sample, as 16,3,64,64; got {text!r}")
    return shape


@mistakes("wgangp-fast explain")
def main(argv: Sequence[str] | None = None) -> int:
    """``wgangp-fast explain module:function --shape N,C,H,W``: explain a critic made by a function."""
    parser = argparse.ArgumentParser(prog="wgangp-fast explain", description=main.__doc__)
    parser.add_argument(
        "critic", help="module:callable that returns a critic, or models:NAME of the package's own"
    )
    parser.add_argument("--shape", required=True, help="of the input, for example 16,3,64,64")
    parser.add_argument("--executor", choices=EXECUTORS, default="eager", help="how the plan is to be run")
    parser.add_argument("--code", action="store_true", help="also print the sweeps as Python")
    parser.add_argument("--loss", action="store_true", help="the whole critic loss, not the penalty alone")
    arguments = parser.parse_args(argv)
    shape, make = sides(arguments.shape), maker(arguments.critic)
    try:
        critic = make()
    except Exception as error:
        raise UserError(f"{arguments.critic}: {error}") from error
    explanation = explain(critic, torch.randn(shape), loss=arguments.loss, executor=arguments.executor)
    print(explanation)
    if arguments.code:
        print("\n".join(explanation.code))
    return 0
