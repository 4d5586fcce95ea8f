"""Errors against float64 over many draws of weights, inputs and alpha: the median, the worst, the kinked.

One draw can mislead. A critic of (leaky) ReLUs jumps where rounding carries an activation across its kink,
and whoever computes in float32 meets such a draw now and then: the worst error of a few draws says how near
an activation came to zero, not how well a contestant computes. So the median is shown beside the worst, and
the draws above :data:`KINK` are counted. That they are kinks was seen for stock's penalty of DCGAN-64 at
batch 8: of 20 draws exactly the three above it had an activation whose sign differs from float64's, one each.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from . import contestants as table
from .correctness import Answers, Judge, errors
from .measures import Entry, Settings, first_line
from .modes import MODES

KINK = 1e-4
"""A draw in float32 is called kinked where the error of some gradient is above this."""

DEFINITION = (
    "error: relative, against stock in float64. loss: of the value; all gradients: ||g - t|| / ||t|| of all "
    "parameter gradients together; one gradient: the worst parameter's max|g - t| / max|t|. kinked: draws in "
    f"float32 in which one gradient is off by more than {KINK:g}, as where rounding carries an activation "
    "across the kink of a (leaky) ReLU"
)

MEASURES = ("loss", "all_gradients", "one_gradient")


def accuracy(entries: Mapping[str, Entry], judge: Judge, name: str, settings: Settings) -> dict[str, Any]:
    """Errors in each arithmetic that the device has, over ``settings.draws`` draws."""
    names = ["fp32", "bf16-autocast"] if judge.device.type == "cpu" else ["fp32", "tf32", "bf16-autocast"]
    seen: dict[tuple[str, str], list[dict[str, float]]] = {
        (key, mode): [] for key in entries for mode in names
    }
    built: dict[tuple[str, str], Any] = {}
    for entry in entries.values():
        entry.result |= {"status": "ok", "errors": {}}
    for seed in range(settings.seed, settings.seed + settings.draws):
        truth = judge.exact(seed)
        for key, mode in seen:
            entry = entries[key]
            if entry.result["status"] != "ok":
                continue
            loss = judge.task.stock if key == table.BASELINE else judge.task.ours[key]
            contestant = judge.task.around(loss, MODES[mode])
            try:
                with MODES[mode].flags():
                    if (key, mode) not in built:
                        built[key, mode] = judge.fresh(contestant, seed)
                    found = judge.answers(contestant, seed, built[key, mode], repeats=True)
            except Exception as error:  # it may fail in any way; the run goes on
                entry.result |= {"status": "error", "message": f"{mode}: {first_line(error)}"}
                continue
            seen[key, mode].append(of_draw(found, truth))
    for (key, mode), draws in seen.items():
        if entries[key].result["status"] == "ok":
            entries[key].result["errors"][mode] = summary(draws, counts_kinks=mode == "fp32")
    return {} if "tf32" in names else {"absent_modes": {"tf32": "a GPU's; this is a CPU"}}


def of_draw(found: Answers, truth: Answers) -> dict[str, float]:
    """The three errors of the first call on one draw."""
    off = errors(found[:1], truth[:1])
    gradients = [name for name in off if name.startswith("grad ")]
    wrong = math.sqrt(sum(float((found[0][name] - truth[0][name]).square().sum()) for name in gradients))
    size = math.sqrt(sum(float(truth[0][name].square().sum()) for name in gradients))
    return {
        "loss": off["penalty"],
        "all_gradients": wrong / size if size else 0.0,
        "one_gradient": max((off[name] for name in gradients), default=0.0),
    }


def summary(draws: list[dict[str, float]], counts_kinks: bool) -> dict[str, Any]:
    """Median and worst of each error, and every draw's; None for a number that is not finite, and for the
    count of kinked draws where kinks are not told from rounding."""
    columns = {
        name: [draw[name] if draw[name] == draw[name] else math.inf for draw in draws] for name in MEASURES
    }
    kinked = sum(KINK < error < math.inf for error in columns["one_gradient"])
    return {
        name: {
            "median": _finite(statistics.median(column)),
            "worst": _finite(max(column)),
            "draws": [_finite(error) for error in column],
        }
        for name, column in columns.items()
    } | {"kinked": kinked if counts_kinks else None}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
