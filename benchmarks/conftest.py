"""What the pytest-benchmark files share: where to run, and the check in front of every time.

WGANGP_FAST_DEVICE (``cpu`` or ``cuda``; default ``cpu``) says where to run.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from wgangp_fast.bench.contestants import table
from wgangp_fast.bench.correctness import Judge, load_weights, make
from wgangp_fast.bench.steps import CRITIC_STEP, PENALTY, Absent, clear_gradients
from wgangp_fast.bench.timing import synchronize
from wgangp_fast.bench.workloads import WORKLOADS

TASKS = {task.name: task for task in (PENALTY, CRITIC_STEP)}
ROUNDS, WARM_UPS = 5, 1


@functools.cache
def judge(task: str, workload: str, device: torch.device) -> Judge:
    return Judge(WORKLOADS[workload], device, task=TASKS[task])


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("WGANGP_FAST_DEVICE", "cpu"))


@pytest.fixture
def time_step(benchmark: Any, device: torch.device) -> Callable[[str, str, str], None]:
    """``time_step(task, workload, contestant)``: judge the step, then time it."""

    def run(task: str, workload: str, contestant: str) -> None:
        chosen = table(TASKS[task])[contestant]
        critic, real, fake = WORKLOADS[workload].build(device)
        try:
            built = make(chosen, critic, real, fake, 0)
        except Absent as reason:
            pytest.skip(str(reason))  # a rival that is not installed or cannot run here: its own words
        right, draws = judge(task, workload, device).judge(chosen, built)
        assert right, f"no time for wrong answers: {draws}"
        load_weights(critic, WORKLOADS[workload].build(device)[0])

        def call() -> None:
            clear_gradients(critic)
            built.step(*built.inputs)
            synchronize(device)

        benchmark.group = f"{task}: {workload}, batch {real.shape[0]}, {device}"
        benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=WARM_UPS)

    return run
