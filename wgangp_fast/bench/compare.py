"""``wgangp-fast bench compare OLD NEW``: what became slower or faster between two results, beyond noise.

Two runs meet two states of a machine, so seconds are not compared. What is compared is each contestant's time
over the baseline's in the same round: a drift of the machine meets both and cancels. Whether the ratios of
the two runs differ is asked of their ranks (Mann and Whitney's test, with Holm's correction for the number of
pairs), and a difference below :data:`EFFECT` is not reported however sure it is: two runs of the same code
lie differently in memory and in time.
"""

from __future__ import annotations

import argparse
import functools
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import report, suite
from .timing import percentile

EFFECT = 0.05
ALPHA = 0.01
EXACT = 20  # rounds of the larger run up to which the rank test counts arrangements

COLUMNS = (
    "workload", "contestant", "old ms", "new ms", "old / base", "new / base", "change", "p", "verdict",
)  # fmt: skip


class Unlike(ValueError):
    """Two results that say nothing about each other; the message says why, and what to do."""


@dataclass
class Pair:
    """One contestant of one row in both results.

    Attributes:
        old, new: median seconds.
        old_ratio, new_ratio: median time over the baseline's of the same round; None for the baseline.
        change: relative change of that ratio (for the baseline: of its seconds); above 0 is slower.
        p: two-sided, of the rank test, before the correction; None where nothing was tested.
        verdict: ``"slower"``, ``"faster"``, ``""`` (no difference beyond noise), ``"baseline"``,
            ``"broken"``, ``"mended"`` (right now, not before), or why there is none.
    """

    workload: str
    contestant: str
    old: float | None = None
    new: float | None = None
    old_ratio: float | None = None
    new_ratio: float | None = None
    change: float | None = None
    p: float | None = None
    verdict: str = ""


@dataclass
class Comparison:
    """All pairs, and what a reader must know besides."""

    pairs: list[Pair]
    notes: list[str]

    def worse(self) -> list[Pair]:
        """What got slower, or gives no right answer any more."""
        return [pair for pair in self.pairs if pair.verdict in ("slower", "broken")]


def compare(
    old: dict[str, Any],
    new: dict[str, Any],
    effect: float = EFFECT,
    alpha: float = ALPHA,
    force: bool = False,
) -> Comparison:
    """Pair the rows of two results of one suite, by workload and batch.

    Args:
        effect: smallest relative change that is reported.
        alpha: chance of one false report or more in the whole comparison.
        force: compare although device, threads or dtype differ.

    Raises:
        Unlike: the results are of different suites, have no row in common, or differ in what only ``force``
            allows.
    """
    if old["suite"] != new["suite"]:
        raise Unlike(
            f"results of one suite can be compared; these are of {old['suite']!r} and {new['suite']!r}"
        )
    differences = list(_differences(old, new))
    if differences and not force:
        raise Unlike(
            f"{'; '.join(differences)}: such times say nothing about the code; --force compares them"
        )
    rows = [{_key(row): row for row in result["rows"]} for result in (old, new)]
    common = [key for key in rows[0] if key in rows[1]]
    if not common:
        raise Unlike("the results have no workload and batch in common")
    several = len({row.get("step") for row in old["rows"]}) > 1
    notes = [f"differs: {text}" for text in (*differences, *_versions(old, new))]
    for mine, other, name in ((0, 1, "old"), (1, 0, "new")):
        missing = [_name(rows[mine][key], several) for key in rows[mine] if key not in rows[other]]
        if missing:
            notes.append(f"only in the {name} result: {', '.join(missing)}")
    pairs: list[Pair] = []
    for key in common:
        found, more = _row(_name(rows[0][key], several), rows[0][key], rows[1][key], report.baseline(old))
        pairs += found
        notes += more
    _judge(pairs, effect, alpha)
    return Comparison(pairs, notes)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["workload"], row.get("batch"), row.get("step")


def _name(row: dict[str, Any], step: bool = False) -> str:
    name = f"{row['workload']} ({row['batch']})" if "batch" in row else str(row["workload"])
    return f"{name} {row['step']}" if step else name


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    for what in ("device", "threads"):
        a, b = old["environment"].get(what), new["environment"].get(what)
        if a != b:
            yield f"{what} {a} and {b}"
    kinds = ["/".join(sorted({row["dtype"] for row in result["rows"]})) for result in (old, new)]
    if kinds[0] != kinds[1]:
        yield f"dtype {kinds[0]} and {kinds[1]}"


def _versions(old: dict[str, Any], new: dict[str, Any]) -> Iterable[str]:
    for what in ("torch", "python", "cuda", "cudnn", "driver"):
        a, b = old["environment"].get(what), new["environment"].get(what)
        if a != b:
            yield f"{what} {a} and {b}"


def _row(name: str, old: dict[str, Any], new: dict[str, Any], baseline: str) -> tuple[list[Pair], list[str]]:
    pairs: list[Pair] = []
    notes: list[str] = []
    for contestant, before in old["contestants"].items():
        after = new["contestants"].get(contestant)
        if after is None:
            notes.append(f"only in the old result: {name}, {contestant}")
            continue
        pair = Pair(name, contestant, before.get("median_s"), after.get("median_s"))
        pairs.append(pair)
        _fill(pair, before, after, *(row["contestants"].get(baseline, {}) for row in (old, new)))
        if contestant == baseline and pair.verdict == "":
            pair.verdict = "baseline"
        peaks = before.get("peak_bytes"), after.get("peak_bytes")
        if None not in peaks and abs(peaks[1] - peaks[0]) > EFFECT * peaks[0]:
            notes.append(
                f"{name}, {contestant}: peak memory {peaks[0] / 2**20:.1f} to {peaks[1] / 2**20:.1f} MiB"
            )
    notes += [
        f"only in the new result: {name}, {contestant}"
        for contestant in new["contestants"]
        if contestant not in old["contestants"]
    ]
    return pairs, notes


def _fill(pair: Pair, before: Any, after: Any, base_before: Any, base_after: Any) -> None:
    """Statuses, medians of ratios, change and p."""
    right = [entry["status"] == "ok" for entry in (before, after)]
    if not all(right):
        pair.verdict = {(True, False): "broken", (False, True): "mended"}.get(
            (right[0], right[1]), str(after["status"])
        )
        return
    samples = [entry.get("seconds") for entry in (before, after)]
    if not all(samples):
        pair.verdict = "no samples"
    elif before is base_before:
        pair.change = after["median_s"] / before["median_s"] - 1
    elif not (_matches(before, base_before) and _matches(after, base_after)):
        pair.verdict = "no baseline"
    else:
        old, new = (
            [a / b for a, b in zip(entry["seconds"], base["seconds"], strict=True)]
            for entry, base in ((before, base_before), (after, base_after))
        )
        pair.old_ratio, pair.new_ratio = percentile(old, 50), percentile(new, 50)
        pair.change = pair.new_ratio / pair.old_ratio - 1
        pair.p = rank_test(old, new)


def _matches(entry: dict[str, Any], base: dict[str, Any]) -> bool:
    return len(base.get("seconds", ())) == len(entry["seconds"])


def _judge(pairs: list[Pair], effect: float, alpha: float) -> None:
    """Holm: the smallest of m p-values must be below alpha / m, the next below alpha / (m - 1), ..."""
    tested = [(pair.p, pair.change, pair) for pair in pairs if pair.p is not None and pair.change is not None]
    tested.sort(key=lambda entry: entry[0])
    for rank, (p, change, pair) in enumerate(tested):
        if p > alpha / (len(tested) - rank):
            break
        if max(change, 1 / (1 + change) - 1) >= effect:
            pair.verdict = "slower" if change > 0 else "faster"


def rank_test(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p-value of Mann and Whitney's U: exact for few values without ties, else normal.

    Raises:
        ValueError: one of the two is empty.
    """
    if not a or not b:
        raise ValueError(f"a rank test needs values on both sides; got {len(a)} and {len(b)}")
    n, m = len(a), len(b)
    u = math.fsum(1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b)
    u = min(u, n * m - u)
    pooled = sorted([*a, *b])
    ties = [pooled.count(value) for value in dict.fromkeys(pooled)]
    if max(n, m) <= EXACT and max(ties) == 1:
        counts = _arrangements(n, m)
        return min(1.0, 2 * sum(counts[: math.floor(u) + 1]) / sum(counts))
    total = n + m
    variance = n * m / 12 * (total + 1 - sum(t**3 - t for t in ties) / (total * (total - 1)))
    if variance <= 0:
        return 1.0
    z = max(0.0, n * m / 2 - u - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


@functools.cache
def _arrangements(n: int, m: int) -> list[int]:
    """How many orders of n and m values have U = 0, 1, ...: the coefficients of a Gaussian binomial."""
    counts = [1] + [0] * (n * m)
    for i in range(1, n + 1):
        for u in range(n * m, m + i - 1, -1):
            counts[u] -= counts[u - m - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    return counts


def cells(found: Comparison) -> list[list[str]]:
    """Strings as :data:`COLUMNS`."""

    def text(value: float | None, pattern: str, scale: float = 1.0) -> str:
        return "" if value is None else format(value * scale, pattern)

    return [
        [
            pair.workload, pair.contestant, text(pair.old, ".4g", 1e3), text(pair.new, ".4g", 1e3),
            text(pair.old_ratio, ".3f"), text(pair.new_ratio, ".3f"), text(pair.change, "+.1%"),
            text(pair.p, ".1g"), pair.verdict,
        ]
        for pair in found.pairs
    ]  # fmt: skip


def main(argv: list[str]) -> int:
    """Compare two results; return 0, 1 if anything got slower or broke, 2 for results unlike each other."""
    p = argparse.ArgumentParser(
        prog="wgangp-fast bench compare",
        description="What got slower between two results of one suite. Each contestant's time over the "
        "baseline's in the same round is compared, by a rank test; the exit code is 1 if one got slower.",
    )
    p.add_argument("old", type=Path, metavar="OLD.json")
    p.add_argument("new", type=Path, metavar="NEW.json")
    p.add_argument(
        "--effect", type=float, default=100 * EFFECT, metavar="PERCENT",
        help="smallest change to report (default: %(default)g)",
    )  # fmt: skip
    p.add_argument(
        "--alpha", type=float, default=ALPHA, help="chance of a false report at all (default: %(default)g)"
    )
    p.add_argument("--force", action="store_true", help="although device, threads or dtype differ")
    args = p.parse_args(argv)
    try:
        old, new = suite.load(args.old), suite.load(args.new)
        found = compare(old, new, args.effect / 100, args.alpha, args.force)
    except (ValueError, OSError) as error:
        print(f"{p.prog}: {error}", file=sys.stderr)
        return 2
    for name, result in (("old", old), ("new", new)):
        print(f"{name}: {report.header(result)[0]}")
    marks = {"slower": "bold red", "broken": "bold red", "faster": "green", "mended": "green"}
    report.print_table(COLUMNS, cells(found), ("workload", "contestant", "verdict"), marks)
    for note in found.notes:
        print(f"note: {note}")
    few = min((len(e["seconds"]) for r in (old, new) for e in _timed(r)), default=0)
    if few < 8:
        print(f"note: {few} rounds in a run are few; a rank test of so many pairs may see nothing")
    worse = found.worse()
    print(
        f"{len(worse)} of {len(found.pairs)} got slower or broke: "
        + ", ".join(f"{pair.workload} {pair.contestant}" for pair in worse)
        if worse
        else f"nothing got slower by {args.effect:g} % or more, beyond noise"
    )
    return 1 if worse else 0


def _timed(result: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for row in result["rows"]:
        yield from (entry for entry in row["contestants"].values() if entry.get("seconds"))
