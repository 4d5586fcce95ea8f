"""Critics as public code writes them: penalty, critic loss and input gradient equal stock code's."""

from __future__ import annotations

import pytest
import torch
import zoo_public_rows  # noqa: F401  (enters its critics)
from fuzz_truth import Ours, Stock, differences, outcome
from penalty_checks import build, points
from zoo_public import PUBLIC, RANDOM, STOCK_PATH


@pytest.mark.parametrize("scenario", ["penalty, points", "gradient, points", "loss, points", "step"])
@pytest.mark.parametrize("name", PUBLIC)
def test_equals_stock_code(name: str, scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # the engine alone
    entry = PUBLIC[name]
    if name in RANDOM and "loss" in scenario:
        pytest.skip("one pass draws random numbers once for all rows")
    torch.manual_seed(0)
    batch = points(entry.shape)
    truth = outcome(Stock, build(entry.build), batch, scenario)
    assert truth.finite()
    assert any(g is not None and g.any() for g in truth.gradients.values()), "this critic tests nothing"
    ours = outcome(Ours, build(entry.build), batch, scenario)
    wrong, kinds = differences(ours, truth)
    assert not wrong + kinds, "; ".join(wrong + kinds)
    if name in STOCK_PATH:
        assert ours.reasons, f"{name} runs on the engine: take it off STOCK_PATH"
    else:
        assert not ours.reasons, ours.reasons
