"""The operation suite under pytest-benchmark: each kernel beside the eager sequence that it replaces."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wgangp_fast import backend
from wgangp_fast.bench import ops_suite
from wgangp_fast.bench.timing import synchronize


@pytest.mark.parametrize("contestant", [ops_suite.BASELINE, "cpu", "cuda", "triton"])
@pytest.mark.parametrize("operation", ops_suite.select(None, "quick"))
def test_op(benchmark: Any, device: torch.device, operation: str, contestant: str) -> None:
    if contestant != ops_suite.BASELINE:
        if (contestant == "cpu") != (device.type == "cpu"):
            pytest.skip(f"{contestant} kernels take no tensors of {device}")  # C++: CPU; CUDA, Triton: GPU
        reason = backend.missing(contestant)
        if reason is not None:
            pytest.skip(reason)  # says what is not built or not installed, and the remedy
    call = ops_suite.checked(operation, contestant, device)

    def timed() -> None:
        call()
        synchronize(device)

    benchmark.group = f"{operation}, {device}"
    benchmark.pedantic(timed, rounds=20, iterations=5, warmup_rounds=2)
