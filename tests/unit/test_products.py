"""Products by the library that is fastest on this processor: chosen where they should be, and right."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import wgangp_fast
from wgangp_fast import backend, ops
from wgangp_fast.engine import plan
from wgangp_fast.engine.capture import dynamo as capture
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


#: x; outputs; kernel; stride, padding and dilation, two numbers each
CONVOLUTIONS = [
    ((8, 32, 9, 7), 32, (5, 5), (2, 2, 2, 2, 1, 1)),
    ((16, 40, 8, 8), 33, (3, 3), (1, 1, 1, 1, 1, 1)),
    ((9, 5, 6, 11), 70, (3, 2), (1, 2, 0, 1, 2, 1)),
    ((2, 17, 5, 4), 7, (4, 4), (3, 1, 3, 2, 1, 1)),
    ((3, 3, 20, 37), 20, (5, 5), (2, 2, 2, 2, 1, 1)),
    ((2, 1, 9, 70), 17, (3, 4), (1, 1, 1, 3, 1, 1)),
    ((2, 2, 11, 40), 3, (5, 3), (3, 1, 0, 1, 1, 2)),
    ((1, 4, 7, 9), 9, (2, 5), (4, 3, 1, 0, 1, 2)),
    ((5, 64, 3, 3), 64, (1, 1), (1, 1, 0, 0, 1, 1)),
    ((0, 4, 5, 5), 8, (3, 3), (1, 1, 1, 1, 1, 1)),
]


@needs_kernels
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("shape", "outputs", "kernel", "steps"), CONVOLUTIONS, ids=str)
def test_convolutions_are_right(
    shape: tuple[int, ...], outputs: int, kernel: tuple[int, int], steps: tuple[int, ...], dtype: torch.dtype,
    last: bool,
) -> None:  # fmt: skip
    names = ("convolve", "convolve_back", "weight_gradient")
    convolve, back, gradient = (ops.implementation(name, "cpu") for name in names)
    layout = torch.channels_last if last else torch.contiguous_format
    x = torch.randn(shape, dtype=dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(outputs, shape[1], *kernel, dtype=dtype), torch.randn(outputs, dtype=dtype)
    wide = KERNELS["convolve"].reference(x.double(), weight.double(), bias.double(), *steps)
    g = torch.randn(wide.shape, dtype=dtype).contiguous(memory_format=layout)
    other = torch.randn(1, *shape[1:], dtype=dtype), torch.randn(1, *g.shape[1:], dtype=dtype)
    xs, gs = [x, other[0], x.mT.contiguous().mT], [g, other[1], g]
    if shape[0] == 0:  # the reference's library refuses an empty batch
        assert convolve(x, weight, bias, *steps).shape == g.shape
        assert back(g, weight, *shape[2:], *steps).shape == shape
        assert torch.equal(gradient([x], [g], *kernel, *steps), torch.zeros_like(weight))
        return
    for name, run, arguments in (
        ("convolve", convolve, (x, weight, bias, *steps)),
        ("convolve", convolve, (x, weight, None, *steps)),
        ("convolve_back", back, (g, weight, *shape[2:], *steps)),
        ("weight_gradient", gradient, (xs, gs, *kernel, *steps)),
    ):
        found = run(*arguments)
        exact = KERNELS[name].reference(
            *torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.double, arguments)
        )
        assert found.dtype == dtype
        assert found.is_contiguous()
        scale = exact.abs().max().item()
        allowed = (1e-13 if dtype == torch.float64 else 2e-5) * max(scale, 1.0)
        assert (found.double() - exact).abs().max().item() <= allowed, name
        torch.library.opcheck(run, arguments, test_utils=("test_schema", "test_faketensor"))


@needs_kernels
def test_convolutions_refuse_what_does_not_fit() -> None:
    names = ("convolve", "convolve_back", "weight_gradient")
    convolve, back, gradient = (ops.implementation(name, "cpu") for name in names)
    x, weight, g, steps = (
        torch.zeros(2, 3, 8, 8),
        torch.zeros(4, 3, 3, 3),
        torch.zeros(2, 4, 6, 6),
        (1, 1, 0, 0, 1, 1),
    )
    with pytest.raises(RuntimeError, match=r"x must be \[N, C, H, W\]"):
        convolve(x[:, :2], weight, None, *steps)
    with pytest.raises(RuntimeError, match="float32 or float64"):
        convolve(x.half(), weight.half(), None, *steps)
    with pytest.raises(RuntimeError, match=r"bias must have the shape \[4\]"):
        convolve(x, weight, torch.zeros(3), *steps)
    with pytest.raises(RuntimeError, match=r"g must be \[N, 4, 7, 6\]"):
        back(g, weight, 9, 8, *steps)
    with pytest.raises(RuntimeError, match=r"gs must be \[N, O, 6, 6\]"):
        gradient([x], [g[..., :5]], 3, 3, *steps)
    with pytest.raises(RuntimeError, match="as many"):
        gradient([x, x], [g], 3, 3, *steps)
    with pytest.raises(RuntimeError, match="shapes of the first"):
        gradient([x, x[:, :2]], [g, g], 3, 3, *steps)


def tiled(activation: nn.Module, **layout: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, 2, 2), activation, nn.Conv2d(32, 64, 4, 2, 1), activation,
        nn.Conv2d(64, 64, 3, 1, 1, **layout), activation, nn.Flatten(), nn.Linear(64 * 16, 1),
    )  # fmt: skip


def pooled() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(32, 32, (3, 2), bias=False),
        nn.AvgPool2d((2, 3)), nn.Tanh(), nn.Conv2d(32, 32, 3, padding=1), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 1),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(32, 64, 3, padding=2, dilation=2, groups=2), nn.Tanh(), nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(32 * 16 * 16, 1),
    )  # fmt: skip


EXACT = {
    "piecewise linear": (lambda: tiled(nn.LeakyReLU(0.2)), (8, 3, 16, 16), "back, forward, weight"),
    "smooth": (lambda: tiled(nn.Tanh()), (16, 3, 16, 16), "back, forward, weight"),
    "small batch": (lambda: tiled(nn.Tanh()), (2, 3, 16, 16), "own kernel: weight"),
    "pooled": (pooled, (8, 3, 18, 26), "mean pooling in it"),
    "pooled at the end": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 1)),
        (2, 3, 8, 9), "mean pooling in it",
    ),
    "groups": (lambda: tiled(nn.ReLU(), groups=2), (8, 3, 16, 16), "own kernel"),
    "groups and transposed": (grouped, (8, 32, 8, 8), "convolution"),
}  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", EXACT)
def test_convolutions_of_plans_are_exact(name: str, last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "LEAST", 0)
    make, shape, library = EXACT[name]
    critic, layout = make().double(), torch.channels_last if last else torch.contiguous_format
    stock = copy.deepcopy(critic)
    real, fake = (torch.randn(shape).double().contiguous(memory_format=layout) for _ in range(2))
    real.requires_grad_()
    alpha = torch.rand(shape[0]).double()
    assert library in str(wgangp_fast.explain(critic, real)), "this critic tests nothing"
    found = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha)
    exact = wgangp_fast.gradient_penalty(stock, real, fake, alpha=alpha, impl="ref")
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=0)
    inputs, others = ([real, *c.parameters()] for c in (critic, stock))
    ours = torch.autograd.grad(found, inputs, allow_unused=True)
    theirs = torch.autograd.grad(exact, others, allow_unused=True)
    scale = max(float(g.abs().max()) for g in theirs if g is not None)
    for one, two in zip(ours, theirs, strict=True):
        assert (one is None) == (two is None)
        if one is not None and two is not None:
            assert (one - two).abs().max().item() <= 1e-9 * scale


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
        ready = plan.plan_of(binding.captured, wants_x=False)
        assert "_linear_pointwise" not in ready.sweeps.forward.code
