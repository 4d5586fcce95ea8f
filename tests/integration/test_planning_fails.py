"""A captured critic that has no plan: its first call draws and writes what stock code does, once."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from penalty_checks import build, points
from torch import Tensor, nn
from torch.nn import functional as F

import wgangp_fast
from wgangp_fast.engine import plan


class Drawing(nn.Module):
    """Draws for x, in Python, and for a weight, which happens before there is a plan; writes buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, 1)
        self.python = random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, F.dropout(self.a.weight, 0.5), self.a.bias)
        return self.b(F.dropout(torch.tanh(h), 0.5)) * random.random() * self.python.random()


CALLS: dict[str, Callable[..., Tensor]] = {
    "penalty": wgangp_fast.gradient_penalty,
    "loss": lambda *a, **k: wgangp_fast.critic_loss(*a, **k).loss,
    "input gradient": lambda critic, real, fake, alpha, impl: (
        wgangp_fast.input_gradient(critic, real, impl=impl).square().sum()
    ),
}


@pytest.mark.parametrize("verified", ["never", "first"])
@pytest.mark.parametrize("call", CALLS)
def test_the_numbers_and_the_streams_are_stock_codes(
    call: str, verified: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def none(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments)
        raise RuntimeError("there is no plan")

    monkeypatch.setattr(plan, "plan_of", none)
    monkeypatch.setenv("WGANGP_FAST_VERIFY", verified)
    ours, stock = build(Drawing), build(Drawing)
    real, fake, alpha = points((5, 6))
    for _ in range(2):
        found = []
        for critic, impl in ((ours, "auto"), (stock, "ref")):
            critic.zero_grad()
            torch.manual_seed(5)
            random.seed(5)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", wgangp_fast.StockPathWarning)
                value = CALLS[call](critic, real, fake, alpha=alpha, impl=impl)
            value.backward()
            streams = torch.tensor([random.random(), critic.python.random(), float(torch.rand(()))])
            gradients = [p.grad for p in critic.parameters() if p.grad is not None]
            found.append([value.detach(), *gradients, *critic.buffers(), streams])
        for mine, theirs in zip(*found, strict=True):
            assert torch.equal(mine, theirs)
    assert len(asked) == 1
