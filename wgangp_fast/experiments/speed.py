"""Which kernels ran for an experiment's critic, and how much faster than stock code its step was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.bench.timing import interleave, paired_ratios, spread, warm_up
from wgangp_fast.explanation import Explanation, explain
from wgangp_fast.loss import critic_loss

from .study import Study

# Rounds of both, and the seconds after which no more begin.
ROUNDS = {"smoke": (5, 1.0), "cpu": (21, 12.0), "paper": (51, 30.0)}
IMPL = {"fast": "auto", "stock": "ref"}


def kernels(
    study: Study,
    label: str,
    critic: nn.Module,
    real: Tensor,
    fake: Tensor,
    *,
    output: Callable[[Any], Tensor] | None = None,
    lambda_gp: float = 10.0,
) -> dict[str, Any]:
    """Measure a critic's loss and its gradients by both paths, and add the row to the page's table.

    Args:
        label: the critic's name on the page.
        critic: ``[N, ...] -> [N]``, on the device of the samples; its parameters' gradients are dropped.
        real, fake: ``[N, ...]``, as in a training step.
        output: picks the score out of what the critic returns.

    Returns:
        The row, which results.json has too: every round's seconds and ratio, and what explain says.
    """

    def measure() -> dict[str, Any]:
        about = explain(critic, real, output=output, loss=True)
        alpha = torch.rand(len(real), generator=torch.Generator().manual_seed(0)).to(real.device)
        parameters = [p for p in critic.parameters() if p.requires_grad]

        def step(impl: str) -> Callable[[], None]:
            def call() -> None:
                for parameter in parameters:
                    parameter.grad = None
                found = critic_loss(
                    critic, real, fake, alpha=alpha, lambda_gp=lambda_gp, output=output, impl=impl
                )
                found.loss.backward()

            return call

        rounds, budget = ROUNDS[study.scale]
        calls = {name: step(impl) for name, impl in IMPL.items()}
        contestants = {name: (call, warm_up(call, real.device)) for name, call in calls.items()}
        times = interleave(contestants, real.device, rounds, budget)
        ratios = paired_ratios(times["stock"], times["fast"])
        return {
            "critic": label,
            "batch": len(real),
            "threads": torch.get_num_threads(),
            "path": about.path,
            "kernels": _summary(about),
            "forward_units": about.forward_units or None,
            "launches": sum(about.launches) or None,
            "seconds": times,
            "ratios": ratios,
            "ratio": spread(ratios),
        }

    row: dict[str, Any] = study.part(f"speed {label}", measure)
    study.speeds.append(row)
    for parameter in critic.parameters():
        parameter.grad = None
    return row


def _summary(about: Explanation) -> str:
    """Kernels by name with their numbers: ``3 x cpu: bias_act; 4 x torch``."""
    if about.path == "stock":
        return f"stock path: {about.reason}"
    names: Counter[str] = Counter()
    for row in about.rows:
        if row.rule == "constant":
            continue
        names[row.kernel.partition(" [")[0] or "torch"] += 1
    text = "; ".join(f"{count} x {name}" for name, count in names.most_common())
    return f"{text}; scored apart: {about.apart}" if about.apart else text
