"""One contestant in a process of its own: seconds of its first call, and of the first at a second shape.

:mod:`.measures` runs ``python -m wgangp_fast.bench.fresh QUESTION`` and reads one line of JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from . import contestants as table
from .correctness import Judge, make
from .limits import time_limit
from .measures import Entry, first_line
from .modes import MODES
from .steps import CRITIC_STEP, PENALTY, Absent
from .timing import first_call
from .workloads import WORKLOADS

TASKS = {task.name: task for task in (PENALTY, CRITIC_STEP)}


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Status, ``first_call_s``, ``second_call_s`` of the same shape, ``second_shape_s`` of half the batch."""
    device, mode, task = torch.device(question["device"]), MODES[question["dtype"]], TASKS[question["task"]]
    workload, batch, seed = WORKLOADS[question["workload"]], question["batch"], question["seed"]
    contestant = table.table(task, mode)[question["contestant"]]
    entry = Entry(question["contestant"], contestant)
    critic, real, fake = workload.build(device, torch.float32, seed, batch)
    half = tuple(t[: max(1, batch // 2)].clone() for t in (real, fake))
    if device.type == "cuda":
        torch.zeros(1, device=device)  # CUDA's own start is nobody's first call

    def begin() -> None:
        entry.built = make(contestant, critic, real, fake, seed)
        entry.call()

    def second_shape() -> None:
        assert entry.built is not None
        inputs = (*half, entry.built.inputs[2][: len(half[0])].clone())
        entry.built.step(*inputs)

    try:
        with mode.flags():
            with time_limit(question["limit"]):
                first = first_call(begin, device)
            second = first_call(entry.call, device)
            right, _ = Judge(workload, device, seed, batch, task, mode).judge(contestant, entry.built)
            if not right:
                return {"status": "wrong", "message": "its answers are not stock's; see the other suites"}
            found: dict[str, Any] = {"status": "ok", "first_call_s": first, "second_call_s": second}
            try:
                with time_limit(question["limit"]):
                    found["second_shape_s"] = first_call(second_shape, device)
            except Exception as error:
                found |= {"second_shape_s": None, "second_shape_message": first_line(error)}
            return found
    except Absent as reason:
        return {"status": "absent", "message": str(reason)}
    except Exception as error:
        return {"status": "error", "message": first_line(error)}


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
