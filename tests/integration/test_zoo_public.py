"""Critics as public code writes them: penalty, critic loss and input gradient equal stock code's."""

from __future__ import annotations

import pytest
import zoo_public_rows  # noqa: F401  (enters its critics)
from fuzz_truth import Ours, Stock, differences, outcome
from penalty_checks import build, points
from zoo_public import PUBLIC, RANDOM, STOCK_PATH


@pytest.mark.parametrize("name", PUBLIC)
def test_equals_stock_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two copies of a critic live through the same calls, one by ours and one by stock code."""
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # the engine alone
    entry, reasons = PUBLIC[name], []
    batch, ours, stock = points(entry.shape), build(entry.build), build(entry.build)
    for scenario in ("penalty", "loss, points", "gradient, points", "step"):
        if name in RANDOM and "loss" in scenario:
            continue
        truth = outcome(Stock, stock, batch, scenario)
        assert truth.finite()
        assert any(g is not None and g.any() for g in truth.gradients.values()), "this critic tests nothing"
        found = outcome(Ours, ours, batch, scenario)
        wrong, kinds = differences(found, truth)
        assert not wrong + kinds, f"{scenario}: {'; '.join(wrong + kinds)}"
        reasons += found.reasons
    if name in STOCK_PATH:
        assert reasons, f"{name} runs on the engine: take it off STOCK_PATH"
    else:
        assert not reasons, reasons[0]
