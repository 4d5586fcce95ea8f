"""Products by the library that is fastest on this processor: chosen where they should be, and right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wgangp_fast
from wgangp_fast import backend, ops
from wgangp_fast.engine import capture, plan
from wgangp_fast.ops.registry import KERNELS
from wgangp_fast.rules import products

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN")
needs_kernels = pytest.mark.skipif(backend.missing("cpu") is not None, reason="no native kernels")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that MKL does not favour."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda: True)


#: shape of x; kernel, stride, padding, dilation, two numbers each
WINDOWS = [
    ((3, 5, 9, 7), (3, 2, 2, 1, 1, 0, 1, 2)),
    ((2, 4, 8, 8), (5, 5, 2, 2, 2, 2, 1, 1)),
    ((1, 1, 3, 3), (3, 3, 1, 1, 0, 0, 1, 1)),
    ((2, 3, 6, 6), (5, 5, 1, 1, 4, 4, 1, 1)),
    ((2, 33, 4, 5), (1, 1, 1, 1, 0, 0, 1, 1)),
    ((0, 3, 4, 4), (2, 2, 1, 1, 0, 0, 1, 1)),
    ((4, 17, 5, 5), (2, 3, 3, 2, 1, 2, 2, 1)),
]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "window"), WINDOWS, ids=str)
def test_rows_and_back(shape: tuple[int, ...], window: tuple[int, ...], dtype: torch.dtype) -> None:
    unfold, fold = (ops.implementation(name, "cpu") for name in ("unfold_rows", "fold_rows"))
    x = torch.randn(shape, dtype=dtype)
    rows = unfold(x, *window)
    if shape[0]:  # the reference's library refuses an empty batch
        assert torch.equal(rows, KERNELS["unfold_rows"].reference(x, *window))
        assert torch.equal(unfold(x.mT.contiguous().mT, *window), rows)
        folded = fold(rows, *shape, *window)
        torch.testing.assert_close(folded, KERNELS["fold_rows"].reference(rows, *shape, *window))
        torch.library.opcheck(unfold, (x, *window), test_utils=("test_schema", "test_faketensor"))
        torch.library.opcheck(fold, (rows, *shape, *window), test_utils=("test_schema", "test_faketensor"))
    else:
        assert rows.numel() == 0
        assert fold(rows, *shape, *window).shape == shape


@needs_kernels
def test_rows_refuse_what_does_not_fit() -> None:
    unfold, fold = (ops.implementation(name, "cpu") for name in ("unfold_rows", "fold_rows"))
    window = (3, 3, 1, 1, 0, 0, 1, 1)
    with pytest.raises(RuntimeError, match=r"x must be \[N, C, H, W\]"):
        unfold(torch.zeros(3, 4), *window)
    with pytest.raises(RuntimeError, match="float32 or float64"):
        unfold(torch.zeros(1, 1, 4, 4, dtype=torch.float16), *window)
    with pytest.raises(RuntimeError, match=r"rows must be \[4, 9\]"):
        fold(torch.zeros(4, 8), 1, 1, 4, 4, *window)
    with pytest.raises(RuntimeError, match="must be at least 1"):
        unfold(torch.zeros(1, 1, 4, 4), 3, 3, 0, 1, 0, 0, 1, 1)


def few_outputs(activation: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(64, 128, 5, 2, 2), activation, nn.Conv2d(128, 256, (3, 4), 1, (1, 2), (1, 2)), activation,
        nn.Flatten(), nn.Linear(256 * 4, 1),
    )  # fmt: skip


def wide() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 256, bias=False), nn.LeakyReLU(0.2)),
        *(nn.Linear(256, 256), nn.Tanh(), nn.Linear(256, 1)),
    )


CRITICS = {
    "convolutions": (lambda: few_outputs(nn.LeakyReLU(0.2)), (2, 64, 4, 8), "unfolded rows"),
    "smooth convolutions": (lambda: few_outputs(nn.Tanh()), (2, 64, 4, 8), "unfolded rows"),
    "linear": (wide, (64, 96), "relu in it"),
    "linear on sequences": (wide, (8, 8, 96), "oneDNN"),
}


@needs_kernels
@pytest.mark.parametrize("name", CRITICS)
def test_chosen_products_are_right(name: str) -> None:
    make, shape, library = CRITICS[name]
    critic = make()
    real, fake, alpha = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    assert library in str(wgangp_fast.explain(critic, real)), "this critic tests nothing"
    truth = copy.deepcopy(critic).double()
    stock = copy.deepcopy(critic)
    wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha).backward()
    wgangp_fast.gradient_penalty(stock, real, fake, alpha=alpha, impl="ref").backward()
    wide_alpha = alpha.double()
    wgangp_fast.gradient_penalty(truth, real.double(), fake.double(), alpha=wide_alpha, impl="ref").backward()
    scale = max(float(p.grad.abs().max()) for p in truth.parameters() if p.grad is not None)
    for ours, theirs, exact in zip(critic.parameters(), stock.parameters(), truth.parameters(), strict=True):
        assert (ours.grad is None) == (exact.grad is None)
        if exact.grad is None:
            continue
        own, allowed = ((p.grad.double() - exact.grad).abs().max().item() for p in (ours, theirs))
        assert own <= 3 * allowed + 2e-6 * scale
        assert ours.grad.is_contiguous()


def test_small_and_other_products_stay_where_they_were() -> None:
    for critic, shape in ((wide(), (2, 96)), (wide().double(), (64, 96))):
        x = torch.randn(shape, dtype=next(critic.parameters()).dtype)
        with torch.enable_grad():
            binding = capture.bind(critic, None, x.requires_grad_())
        ready = plan.plan_of(binding, wants_x=False)
        assert "_linear_pointwise" not in ready.sweeps.forward.code
