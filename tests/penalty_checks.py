"""The penalty of a critic by the engine and by the stock code: value, every gradient, buffers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast.errors import BatchNormWarning, StockPathWarning

Batch = tuple[Tensor, Tensor, Tensor]  # real, fake, alpha


POINTS = ("real", "fake", "alpha")


@dataclass
class Outcome:
    """What one call gave: every number that must agree."""

    value: Tensor
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


def points(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Batch:
    """Real, fake and alpha of a batch."""
    real, fake = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype) * 0.8 + 0.3
    return real, fake, torch.rand(shape[0], dtype=dtype)


def penalty(
    critic: Any,
    batch: Batch,
    impl: str,
    of_points: bool = False,
    seed: int = 0,
    **options: Any,
) -> Outcome:
    """One forward and backward.

    Args:
        of_points: whether real, fake and alpha get gradients too.
        seed: set before the call, so that dropout draws alike.
    """
    real, fake, alpha = (v.clone().requires_grad_(of_points) for v in batch)
    module = critic if isinstance(critic, nn.Module) else nn.Module()
    module.zero_grad()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)  # a fallback would compare stock code with itself
        warnings.simplefilter("ignore", BatchNormWarning)
        value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl, **options)
    if value.requires_grad:
        (
            value * torch.linspace(1, 2, max(value.numel(), 1), dtype=value.dtype).view_as(value)
        ).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    if of_points:
        gradients |= {"real": real.grad, "fake": fake.grad, "alpha": alpha.grad}
    return Outcome(value.detach(), gradients, {name: b.clone() for name, b in module.named_buffers()})


def assert_same(ours: Outcome, stock: Outcome, tolerance: float = 1e-9) -> None:
    """Relative error of the value and of every gradient; None where stock has None; the same buffers."""
    off = float((ours.value - stock.value).abs().max())
    assert off <= tolerance * float(stock.value.abs().max()), f"value: {off:.1e} off"
    found = [g for g in stock.gradients.values() if g is not None and g.numel()]
    top = max((float(g.abs().max()) for g in found), default=0.0)
    for name, theirs in stock.gradients.items():
        mine = ours.gradients[name]
        if name in POINTS and theirs is None:
            # a critic that is linear in x has no second derivative: zeros, where autograd sees no path
            assert mine is None or not mine.any(), f"{name}: {_kind(mine)}, stock has None"
            continue
        assert (mine is None) == (theirs is None), f"{name}: {_kind(mine)}, stock has {_kind(theirs)}"
        if theirs is None or mine is None or not theirs.numel():
            continue
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        # a bias before a norm has the gradient zero: what stock code gives is rounding of the others,
        # and where all are zero (the normalised row of one number) rounding of the penalty's own terms
        scale = max(float(theirs.abs().max()), 1e-3 * top, 1e-3 * float(stock.value.abs().max()))
        off = float((mine - theirs).abs().max())
        assert off <= tolerance * scale, f"{name}: {off:.1e} off, of {scale:.1e}"
    for name, theirs in stock.buffers.items():
        torch.testing.assert_close(
            ours.buffers[name], theirs, rtol=tolerance, atol=tolerance, msg=f"buffer {name}"
        )


def _kind(gradient: Tensor | None) -> str:
    return "None" if gradient is None else f"a gradient up to {float(gradient.abs().max()):.1e}"


def build(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    """The same critic every time (old weight norms refuse deepcopy)."""
    torch.manual_seed(1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # to(dtype) would make complex parameters real
    try:
        return make()
    finally:
        torch.set_default_dtype(before)


def compare(make: Callable[[], nn.Module], batch: Batch, **options: Any) -> Outcome:
    """Two equal critics, twice: without and with gradients of the points. Returns the first outcome."""
    critic, stock_copy = build(make), build(make)
    first = None
    for of_points in (False, True):
        ours = penalty(critic, batch, "auto", of_points, **options)
        assert_same(ours, penalty(stock_copy, batch, "ref", of_points, **options))
        first = first or ours
    return first


def slopes(
    make: Callable[[], nn.Module], batch: Batch, ours: Outcome, step: float = 1e-6
) -> tuple[float, float]:
    """Slope of the penalty along a random direction of the parameters: (measured on stock values, ours).

    Shares no second derivative with anybody. The step is small: the slope of piecewise linear critics jumps.
    """
    step = 1e-6
    directions = {name: torch.randn_like(p) for name, p in build(make).named_parameters()}

    def value(sign: int) -> float:
        moved = build(make)
        with torch.no_grad():
            for name, p in moved.named_parameters():
                p += sign * step * directions[name]
        return float(penalty(moved, batch, "ref").value)

    measured = (value(1) - value(-1)) / (2 * step)
    found = ((g.conj() * directions[name]).sum() for name, g in ours.gradients.items() if g is not None)
    return measured, float(sum(v.real for v in found))
