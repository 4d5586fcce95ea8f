"""``wgangp-fast explain``."""

from __future__ import annotations

import argparse
import importlib
import sys

import torch

from ..explanation import explain
from ..options import EXECUTORS
from . import models


def main(argv: list[str] | None = None) -> int:
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
    module, _, name = arguments.critic.partition(":")
    try:
        shape = [int(part) for part in arguments.shape.split(",")]
        if module == "models":
            critic = models.build(name)
        else:
            sys.path.insert(0, "")
            critic = getattr(importlib.import_module(module), name)()
    except (ValueError, KeyError, ImportError, AttributeError) as error:
        print(f"wgangp-fast explain: {error}", file=sys.stderr)
        return 2
    explanation = explain(critic, torch.randn(shape), loss=arguments.loss, executor=arguments.executor)
    print(explanation)
    if arguments.code:
        print("\n".join(explanation.code))
    return 0
