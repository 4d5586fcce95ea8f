"""The whole penalty on critics of every kind: against stock code, and against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import zoo_deep  # noqa: F401  (enters its critics into the zoo)
from penalty_checks import compare, points, slopes
from torch import nn
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


@pytest.mark.parametrize(
    "first",
    [
        lambda: nn.AvgPool2d(2),
        lambda: nn.AdaptiveAvgPool2d(2),
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.Conv2d(3, 4, 3, padding=1),
        lambda: nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False),
        lambda: nn.ConvTranspose2d(3, 4, 3),
        lambda: nn.ReflectionPad2d(1),
        nn.Identity,
    ],
)
def test_critics_that_need_only_the_shape_of_x(first: Callable[[], nn.Module]) -> None:
    """Of a linear critic the penalty reads weights alone."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        layer = first()
        features = layer(torch.zeros(1, 3, 4, 4)).numel()
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(features, 1)).double()

    compare(build, points((4, 3, 4, 4)))
