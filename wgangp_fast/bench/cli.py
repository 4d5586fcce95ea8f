"""The command ``wgangp-fast bench``; argparse alone, so that it runs where only torch and numpy are."""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..cli_arguments import mistakes
from ..errors import UserError
from . import compare, document, growth, ops_suite, own, report, suite
from .contestants import RIVALS
from .environment import environment
from .measures import Settings
from .modes import MODES
from .workloads import select

WITH_RESULTS = {"compare": compare.main, "report": document.main}
# Rounds, and seconds that the rounds of one workload may take. On 2 cores, for penalty and critic_step:
# "quick" stays below two minutes, "full" with every rival below twelve.
PRESETS = {"quick": (15, 2.0), "full": (31, 10.0)}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="wgangp-fast bench",
        description="Time the gradient penalty against stock code and its rivals, interleaved. Answers are "
        "checked against float64 first; no time is printed for a wrong one. The exit code is 1 if the "
        "package's own, or stock code, was wrong or failed. With results: `wgangp-fast bench compare "
        "OLD.json NEW.json` finds what got slower, `wgangp-fast bench report FILE.json ... --out DIR` writes "
        "a report with pictures.",
    )
    _what_is_measured(p)
    _own_critic(p)
    _how_it_is_measured(p)
    _instead_of_measuring(p)
    return p


def _what_is_measured(p: argparse.ArgumentParser) -> None:
    suites = {name: row.about for name, row in suite.SUITES.items()}
    suites |= {"growth": "the penalty against batch, width and depth", "ops": "single operations"}
    p.add_argument(
        "--suite",
        choices=list(suites),
        default="penalty",
        help="what to measure (default: penalty): " + "; ".join(f"{k}: {v}" for k, v in suites.items()),
    )
    p.add_argument(
        "--preset",
        choices=list(PRESETS),
        default="quick",
        help="which workloads and contestants, how many rounds",
    )
    p.add_argument(
        "--contestant",
        action="append",
        metavar="NAME",
        help="stock and this contestant instead of the preset's; repeatable",
    )
    p.add_argument(
        "--dtype",
        choices=list(MODES),
        default="float32",
        help="arithmetic of all contestants (default: float32): "
        + "; ".join(f"{mode.name}: {mode.about}" for mode in MODES.values()),
    )
    p.add_argument(
        "--workload",
        action="append",
        metavar="NAME",
        help="this workload instead of the preset's; repeatable",
    )


def _own_critic(p: argparse.ArgumentParser) -> None:
    mine = p.add_argument_group("your own critic", "what would you gain? One table, and why")
    mine.add_argument(
        "--critic",
        metavar="MODULE:CALLABLE",
        help="a callable that returns a new critic at each call; models:NAME is one of the package's own",
    )
    mine.add_argument("--shape", metavar="N,C,H,W", help="of the batch that the critic takes")
    mine.add_argument(
        "--penalty",
        metavar="MODULE:CALLABLE",
        help="your own penalty beside the stock one: (critic, real, fake) -> tensor",
    )


def _how_it_is_measured(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (default: cpu)")
    p.add_argument("--threads", type=_positive, metavar="N", help="CPU threads (default: torch's own choice)")
    p.add_argument(
        "--rounds", type=_positive, metavar="N", help="samples of each contestant, whatever they take"
    )
    p.add_argument("--batch", type=_positive, metavar="N", help="samples in a batch (default: the table's)")
    p.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of weights, inputs and alpha (default: 0)"
    )
    p.add_argument(
        "--draws",
        type=_positive,
        default=Settings.draws,
        metavar="N",
        help=f"draws of weights, inputs and alpha in the accuracy suite (default: {Settings.draws})",
    )
    p.add_argument("--memory", action="store_true", help="also count the peak bytes of one call")
    p.add_argument("--out", type=Path, metavar="FILE", help="write the result, every sample in it, as JSON")


def _instead_of_measuring(p: argparse.ArgumentParser) -> None:
    other = p.add_argument_group("instead of measuring").add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="print the workloads")
    other.add_argument(
        "--environment", action="store_true", help="print what a result would say of this machine"
    )
    other.add_argument("--table", type=Path, metavar="FILE", help="print the Markdown table of a result")
    other.add_argument("--brief", type=Path, metavar="FILE", help="print it in short, a line a workload")
    other.add_argument("--plot", type=Path, nargs=2, metavar=("FILE", "PNG"), help="draw a result")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {value}")
    return value


@mistakes("wgangp-fast bench")
def main(argv: Sequence[str]) -> int:
    """Run the command; return 0, or 1 if a contestant was wrong or failed.

    Raises:
        SystemExit: 2 for arguments that cannot be met, 0 for ``--help``.
    """
    argv = list(argv)
    if argv[:1] in ([name] for name in WITH_RESULTS):
        return WITH_RESULTS[argv[0]](argv[1:])
    p = parser()
    args = p.parse_args(argv)
    _check_own(args)
    try:
        if args.brief:
            print(report.brief(suite.load(args.brief)))
            return 0
        if args.table:
            print(report.markdown(suite.load(args.table)))
            return 0
        if args.plot:
            report.plot(suite.load(args.plot[0]), args.plot[1])
            return 0
        choose: Any = {"ops": ops_suite.select, "growth": growth.select}.get(args.suite, select)
        workloads: dict[str, Any] = dict(choose(args.workload, args.preset))
    except (ValueError, FileNotFoundError, ImportError) as error:
        p.error(str(error))
    if args.list:
        _list(args.suite, workloads, args.device)
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        p.error("--device cuda: torch sees no CUDA device here; use --device cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    if args.environment:
        facts = environment(device)
        print(json.dumps(facts, indent=1))
        _write(facts, args.out)
        return 0
    settings = _settings(args)
    try:
        if args.suite != "ops":
            suite.chosen("penalty" if args.suite == "growth" else args.suite, settings)
        elif args.contestant or args.dtype != "float32":
            p.error("--suite ops knows neither --contestant nor --dtype")
    except ValueError as error:
        p.error(str(error))
    measure: Any = {"ops": ops_suite.run, "growth": growth.run}.get(args.suite)
    measure = measure or functools.partial(suite.run, which=args.suite)
    if args.suite == "own":
        mine = own.brought(args.critic, args.shape, args.penalty, device, MODES[args.dtype], args.seed)
        workloads, measure = mine[0], functools.partial(measure, contestants=mine[1])
    result = measure(
        workloads, device, settings, argv, progress=_progress, keep=lambda result: _write(result, args.out)
    )
    report.show(result)
    return 0 if suite.all_right(result) else 1


def _settings(args: argparse.Namespace) -> Settings:
    rounds, budget = PRESETS[args.preset]
    return Settings(
        rounds=args.rounds or rounds,
        budget=math.inf if args.rounds else budget,
        seed=args.seed,
        batch=args.batch,
        memory=args.memory,
        dtype=args.dtype,
        rivals=args.preset,
        draws=args.draws,
        contestants=tuple(args.contestant or ()),
        named=bool(args.contestant or args.workload),
        floor=args.suite != "own",
    )


def _check_own(args: argparse.Namespace) -> None:
    if args.critic is None:
        if args.shape or args.penalty or args.suite == "own":
            raise UserError("--shape, --penalty and --suite own need --critic MODULE:CALLABLE")
        return
    chosen = args.workload or args.contestant or args.batch or args.suite not in ("penalty", "own")
    if not args.shape or chosen:
        raise UserError("--critic needs --shape N,C,H,W, and no --workload, --contestant, --batch or --suite")
    args.suite = "own"


def _list(which: str, workloads: dict[str, Any], device: str) -> None:
    for name, row in workloads.items():
        print(f"{name:<23} {row.about if which == 'ops' else row.describe(device)}")
    if which == "ops":
        return
    print("\ncontestants, beside stock and the package's own:")
    for name, rival in RIVALS.items():
        print(f"{name:<23} {rival.about} ({rival.preset})")


def _write(result: dict[str, Any], path: Path | None) -> None:
    if path is not None:
        suite.save(result, path)


def _progress(name: str) -> None:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
