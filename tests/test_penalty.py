"""The whole penalty on critics of every kind: against stock code, and against finite differences."""

from __future__ import annotations

import pytest
import torch
import zoo_deep  # noqa: F401  (enters its critics into the zoo)
from penalty_checks import compare, points, slopes
from zoo import ZOO


@pytest.mark.parametrize("name", ZOO)
def test_equals_stock_code(name: str) -> None:
    entry = ZOO[name]
    batch = points(entry.shape)
    if "channels_last" in name:
        real, fake, alpha = batch
        batch = (
            real.to(memory_format=torch.channels_last),
            fake.to(memory_format=torch.channels_last),
            alpha,
        )
    outcome = compare(entry.build, batch)
    assert any(g is not None and g.any() for g in outcome.gradients.values()), "this critic tests nothing"
    if entry.smooth:
        measured, slope = slopes(entry.build, batch, outcome)
        assert slope == pytest.approx(measured, rel=1e-5, abs=1e-7)
