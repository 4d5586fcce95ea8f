"""An experiment's results as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

VERDICTS = {True: "yes", False: "**no**", None: "cannot tell"}


class Named(Protocol):
    """What a page needs of an experiment's entry."""

    @property
    def title(self) -> str: ...
    @property
    def source(self) -> str: ...


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with four digits, None as a dash."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell(value) for value in line) + " |" for line in lines)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return VERDICTS[value]
    if isinstance(value, float):
        return number(value)
    return str(value).replace("\n", " ").replace("|", "\\|")


def number(value: float) -> str:
    """Four digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e5 else f"{value:.2e}"


def seconds(value: float) -> str:
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 3 * 3600 else f"{value / 3600:.1f} h"


def render(results: dict[str, Any], entry: Named, blocks: Sequence[str]) -> str:
    """The whole page.

    Args:
        results: what results.json holds.
        blocks: its middle, Markdown.
    """
    place = results["environment"]
    data = "" if results["data"] is None else f" --data {results['data']}"
    drawn = results["drawn"]
    drawn = "" if drawn["commit"] == place["commit"] else f"; drawn at commit {_commit(drawn)}"
    head = [
        f"# {entry.title}",
        f"{entry.source}. Made by",
        f"```\nwgangp-fast experiment {results['experiment']} --scale {results['scale']}{data}\n```",
        f"in {seconds(results['seconds'])} on {place['device']}, seed {results['seed']}, "
        f"torch {place['torch']}, commit {_commit(place)}{drawn}.",
    ]
    if results["claims"]:
        rows = [[c["claim"], c["source"], c["measured"], VERDICTS[c["held"]]] for c in results["claims"]]
        head += ["## What the paper says, and what came out here"]
        head += [table(["claim", "where", "measured here", "held"], rows)]
    settings = [[name, _setting(value)] for name, value in results["settings"].items()]
    tail = []
    if results["kernels"]:
        tail += ["## Which kernels ran", kernels(results["kernels"])]
    tail += [f"## Scale: {results['scale']}", table(["setting", "value"], settings)]
    if results["choices"]:
        tail += ["## Where the sources disagree or are silent"]
        tail += ["\n".join(f"- {text}" for text in results["choices"])]
    return "\n\n".join([*head, *blocks, *tail]) + "\n"


def kernels(rows: Sequence[dict[str, Any]]) -> str:
    """The table of critics: what ran, and the speed-up of a critic step over the stock penalty's."""
    columns = ["critic", "batch", "kernels", "forward-units", "launches", "stock / fast", "p10-p90"]
    cells = [
        [
            row["critic"],
            row["batch"],
            row["kernels"],
            row["forward_units"],
            row["launches"],
            row["ratio"]["median"],
            f"{row['ratio']['p10']:.2f}-{row['ratio']['p90']:.2f}",
        ]
        for row in rows
    ]
    note = (
        "One critic loss and its gradients, stock code and ours in turns in one run, on this experiment's "
        "networks and batch; the ratio is the median of paired rounds, all of them in results.json."
    )
    return f"{table(columns, cells)}\n\n{note}"


def _commit(place: dict[str, Any]) -> str:
    return str(place["commit"])[:10] + (" (with changes)" if place.get("dirty") else "")


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_setting(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(inner) for inner in value)
    return str(value)
