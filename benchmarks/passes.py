"""What each pass over the sweeps is worth: peak memory, calls and cost of every plan with one pass left out.

    python benchmarks/passes.py [--out FILE.json] [--workload NAME ...]

Nothing is timed: memory and cost are those of the simulation that the passes themselves use
(``engine/passes/liveness.py``), which a test holds against the allocator. For each row of the benchmark, the
penalty and the whole critic step, on the CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from wgangp_fast import wrappers
from wgangp_fast.bench.environment import environment
from wgangp_fast.bench.workloads import WORKLOADS
from wgangp_fast.engine.capture import critic_step, dynamo
from wgangp_fast.engine.passes import pipeline, rematerialize
from wgangp_fast.engine.passes.in_place import overwrites
from wgangp_fast.engine.passes.liveness import JointGraph, Liveness
from wgangp_fast.engine.plan import Plan
from wgangp_fast.ops.registry import Kernels

#: a pass's name, and where it is called from
PASSES = {
    "fold_ones": (pipeline, "fold_ones"),
    "recompute": (pipeline, "recompute"),
    "drop_shape_only_inputs": (rematerialize, "drop_shape_only_inputs"),
    "reorder_for_peak_memory": (rematerialize, "reorder_for_peak_memory"),
    "rematerialize": (rematerialize, "rematerialize"),
}


@contextlib.contextmanager
def without(name: str) -> Iterator[list[Any]]:
    """Plans made inside leave out a pass; yields the joint graphs that they end with."""
    seen: list[Any] = []

    def split(joint: JointGraph) -> None:
        seen.append(joint)
        ORIGINAL_SPLIT(joint)

    with contextlib.ExitStack() as stack:
        if name:
            owner, attribute = PASSES[name]
            stack.enter_context(mock.patch.object(owner, attribute))
        stack.enter_context(mock.patch.object(JointGraph, "split", split))
        yield seen


ORIGINAL_SPLIT = JointGraph.split


def measured(captured: Any, name: str, whole: bool) -> dict[str, float]:
    """Peak in bytes, number of calls and cost of the plan."""
    with without(name) as seen:
        Plan(captured, False, Kernels.of("auto", "cpu"), critic_step=whole)
    (joint,) = seen
    liveness = Liveness(joint, overwrites)
    calls = sum(node.op != "placeholder" and node.op != "output" for node in joint.graph.nodes)
    return {"peak": int(liveness.peak), "calls": calls, "cost": rematerialize.cost_of(joint)}


def rows(names: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        critic, real, _ = WORKLOADS[name].build("cpu")
        bare, x = wrappers.unwrap(critic), real.clone().requires_grad_()
        bound = {"penalty": dynamo.bind(bare, None, x), "critic_step": critic_step.bind(bare, None, x, real)}
        for task, binding in bound.items():
            if isinstance(binding, str):
                continue
            whole = task == "critic_step"
            found = {"": measured(binding.captured, "", whole)}
            found |= {each: measured(binding.captured, each, whole) for each in PASSES}
            yield {"workload": name, "task": task, "with all": found.pop(""), "without": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/passes.json"))
    parser.add_argument("--workload", nargs="*", default=list(WORKLOADS))
    asked = parser.parse_args()
    torch.manual_seed(0)
    found = []
    for row in rows(asked.workload):
        found.append(row)
        whole = row["with all"]
        print(f"{row['workload']:<22}{row['task']:<12}{whole['peak'] / 2**20:9.2f} MiB", end="")
        for name, other in row["without"].items():
            change = [other[key] / max(whole[key], 1) - 1 for key in ("peak", "calls", "cost")]
            print(f"  {name} {change[0]:+.1%}/{change[1]:+.1%}/{change[2]:+.1%}", end="")
        print(flush=True)
        document = {
            "command": "python benchmarks/passes.py",
            "environment": environment(torch.device("cpu")),
            "rows": found,
        }
        asked.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
