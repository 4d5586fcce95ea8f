"""The penalty suite under pytest-benchmark, for its statistics, comparisons and history.

The timed call clears the gradients, then computes the penalty and its parameter gradients. Tables come
from ``wgangp-fast bench`` instead, which interleaves the contestants.

WGANGP_FAST_DEVICE (``cpu`` or ``cuda``; default ``cpu``) says where to run.
"""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch

from wgangp_fast.bench.contestants import CONTESTANTS, clear_gradients
from wgangp_fast.bench.correctness import Judge, sample_alpha
from wgangp_fast.bench.timing import synchronize
from wgangp_fast.bench.workloads import WORKLOADS, select

DEVICE = torch.device(os.environ.get("WGANGP_FAST_DEVICE", "cpu"))


@functools.cache
def judge(workload: str) -> Judge:
    return Judge(WORKLOADS[workload], DEVICE)


@pytest.mark.parametrize("contestant", CONTESTANTS)
@pytest.mark.parametrize("workload", select(None, "quick"))
def test_penalty(benchmark: Any, workload: str, contestant: str) -> None:
    right, draws = judge(workload).judge(CONTESTANTS[contestant])
    assert right, f"no time for wrong answers: {draws}"
    critic, real, fake = WORKLOADS[workload].build(DEVICE)
    step = CONTESTANTS[contestant](critic, real, fake, sample_alpha(real, 0))

    def call() -> None:
        clear_gradients(critic)
        step()
        synchronize(DEVICE)

    benchmark.group = f"{workload}, batch {real.shape[0]}, {DEVICE}"
    benchmark.pedantic(call, rounds=10, warmup_rounds=2)
