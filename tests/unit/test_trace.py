"""The trace to ATen: which of torch's switches it touches, and when."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from wgangp_fast import gradient_penalty
from wgangp_fast.engine import torch_internals
from wgangp_fast.engine.capture import dynamo


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(4, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


def attention() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), nn.Linear(4, 1))


def convolutions() -> nn.Module:
    layers = nn.Conv1d(3, 4, 3), nn.GroupNorm(2, 4), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8, 1)
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("make", "switched"),
    [(convolutions, 0), (Recurrent, 1), (attention, 1)],
    ids=["conv", "LSTM", "attention"],
)
def test_switches_of_the_process_are_touched_only_where_a_library_has_an_operator_of_its_own(
    make: type[nn.Module], switched: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """oneDNN's LSTM and the fused attention have no second derivative: these critics are traced once more."""
    times = 0
    original = torch_internals.without_library_operators

    @contextlib.contextmanager
    def counted() -> Iterator[None]:
        nonlocal times
        times += 1
        with original():
            yield

    monkeypatch.setattr(torch_internals, "without_library_operators", counted)
    critic, before = make(), (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled)
    real, fake, alpha = torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.rand(2)
    found, stock = (gradient_penalty(critic, real, fake, alpha=alpha, impl=impl) for impl in ("auto", "ref"))
    torch.testing.assert_close(found, stock)
    assert dynamo.entry(critic).refused is None
    assert times == switched
    assert (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled) == before
