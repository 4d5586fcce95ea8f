"""What a penalty call costs besides its sweeps: checks, guards, autograd.

Times ``gradient_penalty(...)`` and ``backward()`` of an already captured tiny critic, and the same
tensor operations called one after the other without them, interleaved; the difference is the overhead.

    python benchmarks/overhead.py [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import wgangp_fast
from wgangp_fast.bench.environment import environment
from wgangp_fast.engine import plan
from wgangp_fast.engine.capture import dynamo as capture

ROUNDS, CALLS = 60, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the samples as JSON")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    critic = nn.Sequential(
        *(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    )
    real, fake, alpha = torch.randn(4, 8), torch.randn(4, 8), torch.rand(4)
    parameters = list(critic.parameters())
    with torch.enable_grad():
        binding = capture.bind(critic, None, real.clone().requires_grad_())
    ready = plan.plan_of(binding.captured, wants_x=False)
    kernels, one = ready.kernels, torch.ones(())

    def call() -> None:
        for parameter in parameters:
            parameter.grad = None
        wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha).backward()

    def operations() -> None:
        with torch.no_grad():
            x, _ = kernels.interpolate(real, fake, alpha, 0, 0)
            gradient, saved, numbers = ready.forward(x, binding.leaves)
            _, _, slope = kernels.norm_penalty(gradient, 1.0, False, 2)
            ready.backward([kernels.penalty_seed(gradient, slope, one)], saved, numbers)

    def microseconds(function) -> float:
        begin = time.perf_counter()
        for _ in range(CALLS):
            function()
        return (time.perf_counter() - begin) / CALLS * 1e6

    for function in (call, operations):
        microseconds(function)
    samples = [(microseconds(call), microseconds(operations)) for _ in range(ROUNDS)]
    overheads = sorted(whole - own for whole, own in samples)
    tenth = len(overheads) // 10
    print(
        f"call {statistics.median(s[0] for s in samples):.0f} us, its operations "
        f"{statistics.median(s[1] for s in samples):.0f} us, overhead {statistics.median(overheads):.0f} us "
        f"(p10 {overheads[tenth]:.0f}, p90 {overheads[-tenth - 1]:.0f})"
    )
    if arguments.out:
        result = {
            "environment": environment(torch.device("cpu")),
            "samples_us": [{"call": a, "operations": b} for a, b in samples],
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
