"""One file of results, and one to read, of what ``make gpu`` measured.

    python benchmarks/summarise.py FOLDER OUT

FOLDER holds environment.json, steps.json and, as far as they came about, a result of each suite. Writes
``OUT/<device>-<date>.json`` (everything, every sample) and the same ``.md``, and prints a short table.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from wgangp_fast.bench import report

SUITES = ("penalty", "critic_step", "rivals", "train_step", "accuracy", "ops")
RESULTS = {0: "ok", 124: "timed out", 137: "timed out", 127: "not here"}


def main(folder: Path, out: Path) -> int:
    parts = {
        path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    }
    for part in parts.values():
        if "command" in part:  # where the parts lay meanwhile is nobody's concern
            part["command"] = re.sub(r" --out \S+", "", part["command"])
    environment = parts.get("environment", {})
    device = re.sub(r"[^a-z0-9]+", "-", str(environment.get("device", "unknown")).lower()).strip("-")
    name = f"{device}-{str(environment.get('date', 'undated'))[:10]}"
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    tables = [report.markdown(parts[key]) for key in SUITES if key in parts]
    steps = [
        f"{step['step']:<16}{RESULTS.get(step['exit_code'], 'failed'):<12}{step['wall_s']:>5} s"
        for step in parts["steps"]["steps"]
    ]
    text = [
        f"# {environment.get('device', 'unknown')}, {environment.get('date', '')}",
        "",
        "```",
        *steps,
        "```",
    ]
    (out / f"{name}.md").write_text("\n\n".join(["\n".join(text), *tables]) + "\n", encoding="utf-8")
    print("\n".join([f"\n{name}", *steps, *_short(parts)]))
    return 0


def _short(parts: dict[str, Any]) -> list[str]:
    """The ratios alone."""
    lines = []
    for key in SUITES:
        for row in parts.get(key, {}).get("rows", []):
            found = [
                f"{name} {entry['ratio']:.2f}" if "ratio" in entry else f"{name} {entry['status']}"
                for name, entry in row["contestants"].items()
                if name not in ("stock", "eager", "copy")
            ]
            lines.append(f"{row['workload']:<24}{'  '.join(found)}")
    return lines


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
