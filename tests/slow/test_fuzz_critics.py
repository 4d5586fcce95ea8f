"""Critics drawn from what people write, against autograd alone; ``fuzz_critics.py`` draws more of them.

The engine is judged, without the check of a critic's first call that would hide its faults.
"""

from __future__ import annotations

from typing import Any

import fuzz_critics
import pytest
import torch
from fuzz_critics import ENGINE, FAILED, Pair, critic_of, examine, on_engine, shrink
from fuzz_truth import Ours, Stock
from torch import Tensor

SEEDS = range(64)


@pytest.fixture(autouse=True)
def _engine_alone(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")


@pytest.mark.parametrize("first", SEEDS[::8])
def test_random_critics_equal_stock_code(first: int) -> None:
    """The penalty of each, what else its seed calls; of one in four the critic loss, which takes longest."""
    failures, paths = [], []
    for seed in range(first, first + 8):
        program, batch, chosen = critic_of(seed)
        pair = Pair(program, batch)
        for scenario in chosen:
            if seed % 4 and any(word in scenario for word in ("loss", "steps", "modes")):
                continue
            verdict, detail, path = pair.judge(scenario)
            paths.append(path)
            if verdict in FAILED:
                failures.append(f"seed {seed}, {scenario}: {verdict}: {detail}\n{program.source()}")
                break
    torch.compiler.reset()
    assert not failures, "\n\n".join(failures)
    assert on_engine(paths) >= ENGINE, "stock code was compared with itself"


def test_a_seed_is_one_critic() -> None:
    sources = [[critic_of(seed)[0].source() for seed in range(6)] for _ in range(2)]
    assert sources[0] == sources[1]
    assert len(set(sources[0])) == 6


def _drops_first(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    p = next(critic.parameters())
    p.requires_grad_(False)
    value = Stock.penalty(critic, real, fake, alpha)
    p.requires_grad_()
    return value


def _adds(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    p = next(critic.parameters())
    return Stock.penalty(critic, real, fake, alpha) + 1e-4 * (p - p.detach()).sum()


def _shifts(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return Stock.penalty(critic, real, fake, alpha) * (1 + 1e-6)


def _touches(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    value = Stock.penalty(critic, real, fake, alpha)
    for buffer in critic.buffers():
        buffer.data = buffer + 1
    return value


def _raises(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    raise IndexError("what stock code does not raise")


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [(_drops_first, "wrong"), (_adds, "wrong"), (_shifts, "wrong"), (_touches, "wrong"), (_raises, "crash")],
)
def test_a_planted_fault_is_found_and_made_small(
    fault: Any, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ours, "penalty", staticmethod(fault))
    for seed in range(100):
        program, batch, chosen = critic_of(seed)
        critic = program.build()
        if chosen[0] == "penalty" and (fault is not _touches or any(True for _ in critic.buffers())):
            break
    assert Pair(program, batch).judge("penalty")[0] == verdict
    least = shrink(program, batch, "penalty", verdict)
    assert least is not None
    assert len(least.steps) <= len(program.steps)
    assert Pair(least, batch).judge("penalty")[0] == verdict
    report = [r for r in examine(seed, smallest=False) if r.scenario == "penalty"]
    assert [r.verdict for r in report] == [verdict]
    assert "class Critic" in report[0].program
    assert f"1 {verdict}" in fuzz_critics.totals(report)


def test_stock_code_is_right_by_its_own_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("penalty", "loss", "gradient", "r1"):
        monkeypatch.setattr(Ours, name, getattr(Stock, name))
    assert {r.verdict for seed in range(4) for r in examine(seed)} == {"right"}
