"""Pages of experiments side by side, with an index: how docs/paper is made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wgangp_fast.training.folder import write_text

from . import page
from .study import FIXED

KINDS = (".md", ".json", ".png", ".gif", ".txt")
HEAD = """# The papers' figures and tables, on the fast penalty

Every page here was made by one command, `wgangp-fast experiment NAME --scale SCALE`; `experiment list` names
them all. A page has the papers' claims, what was measured, whether each claim held at this scale, the
settings, and where the sources disagree. results.json beside it holds the numbers. P is Gulrajani et al. 2017
(arXiv 1704.00028v3), WGAN Arjovsky et al. 2017 (arXiv 1701.07875)."""


def publish(folder: Path, destination: Path) -> Path:
    """Copy a study's page, pictures and results to ``destination/NAME``, and write the index anew.

    Where the page of another seed is, and else of the same study, it stays, and these results go beside it as
    ``seed-N.json``: settings that were found with one seed are judged by others.

    Returns:
        The index.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    place = destination / results["experiment"]
    there = (
        json.loads((place / "results.json").read_text(encoding="utf-8"))
        if (place / "results.json").exists()
        else {}
    )
    same = all(there.get(key) == results[key] for key in FIXED if key != "seed")
    if same and there["seed"] != results["seed"]:
        shutil.copyfile(folder / "results.json", place / f"seed-{results['seed']}.json")
        return index(destination)
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in KINDS and path.name != "study.json":
            shutil.copyfile(path, place / path.name)
    return index(destination)


def index(destination: Path, order: Sequence[str] = ()) -> Path:
    """Write ``destination/README.md`` from the results of all pages there.

    Args:
        order: names that come first; the others follow by name.
    """
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(destination.glob("*/results.json"))]
    rank = {name: i for i, name in enumerate(order)}
    found.sort(key=lambda r: (rank.get(r["experiment"], len(rank)), r["experiment"]))
    rows = [
        [_link(r), r["source"], r["scale"], _held(r), _seeds(destination / r["experiment"]),
         page.seconds(r["seconds"])]
        for r in found
    ]  # fmt: skip
    columns = ["page", "of", "scale", "claims that held", "with other seeds", "time"]
    head = HEAD
    if (destination / "checklist.md").exists():
        head += " [What shows that each system of the papers works](checklist.md)."
    blocks = [head, page.table(columns, rows)]
    failed = [
        [_link(r), claim["claim"], claim["measured"]]
        for r in found
        for claim in r["claims"]
        if claim["held"] is False
    ]
    if failed:
        blocks += ["## Claims that did not hold here", page.table(["page", "claim", "measured"], failed)]
    critics = [
        {**row, "critic": f"{row['critic']} ({r['experiment']})"} for r in found for row in r["kernels"]
    ]
    if critics:
        blocks += ["## Which kernels ran for each critic", page.kernels(critics)]
    path = destination / "README.md"
    write_text(path, "\n\n".join(blocks) + "\n")
    return path


def _link(results: dict[str, Any]) -> str:
    return f"[{results['title']}]({results['experiment']}/README.md)"


def _seeds(place: Path) -> str:
    """Claims that held with the other seeds whose results lie beside a page."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("seed-*.json"))]
    return "; ".join(f"seed {results['seed']}: {_held(results)}" for results in found)


def _held(results: dict[str, Any]) -> str:
    judged = [claim["held"] for claim in results["claims"] if claim["held"] is not None]
    open_claims = len(results["claims"]) - len(judged)
    text = f"{sum(judged)} of {len(judged)}"
    return f"{text}; {open_claims} cannot be told" if open_claims else text
