"""bias_act: f(x + bias), v * f'(u), and f'(u)*c + f''(u)*g*t. One flat pass each."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .activations import is_smooth, saves_input, second, times_slope, value
from .common import is_dense, launch, like, load, plane, programs, store, tile, tile_sizes

NO_BIAS, BY_ROW, BY_COLUMN = 0, 1, 2


@triton.jit
def add_bias(u, bias, row, col, rows, cols, count, BIAS: tl.constexpr):
    """u + bias: [ROWS, COLS] plus one value a row, or one a column."""
    if BIAS == 1:
        return u + load(bias, row % count, row < rows)
    elif BIAS == 2:
        return u + load(bias, col, col < cols)
    else:
        return u


@triton.jit
def bias_act_kernel(
    x, bias, y, rows, cols, count,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    u = add_bias(load(x, offsets, mask), bias, row, col, rows, cols, count, BIAS)
    store(y, offsets, value(u, ACT, P0, P1, P2), mask)


@triton.jit
def bias_act_grad_kernel(
    v, ref, bias, out, rows, cols, count,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    s = add_bias(load(ref, offsets, mask), bias, row, col, rows, cols, count, BIAS)
    store(out, offsets, times_slope(load(v, offsets, mask), s, ACT, P0, P1, P2), mask)


@triton.jit
def bias_act_adjoint_kernel(
    c, g, t, ref, bias, out, rows, cols, count,
    HAS_C: tl.constexpr, SMOOTH: tl.constexpr,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    BIAS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    s = add_bias(load(ref, offsets, mask), bias, row, col, rows, cols, count, BIAS)
    if SMOOTH:
        total = second(s, ACT, P0, P1, P2) * load(g, offsets, mask) * load(t, offsets, mask)
        if HAS_C:
            total += times_slope(load(c, offsets, mask), s, ACT, P0, P1, P2)
    elif HAS_C:
        total = times_slope(load(c, offsets, mask), s, ACT, P0, P1, P2)
    else:
        total = tl.zeros_like(s)
    store(out, offsets, total, mask)


def run(
    kernel: Any,
    tensors: list[torch.Tensor],
    bias: torch.Tensor | None,
    out: torch.Tensor,
    dim: int,
    **constants: Any,
) -> None:
    """Launch over the dense ``out``, in whose strides all ``tensors`` are; ``bias`` [size of dim]."""
    if out.numel() == 0:
        return
    rows, cols, count, by_column = (1, out.numel(), 1, False) if bias is None else plane(out, dim)
    tile_rows, tile_cols = tile_sizes(rows, cols, out.element_size())
    launch(
        kernel, programs(rows, cols, tile_rows, tile_cols), out,
        *tensors, out if bias is None else bias.contiguous(), out, rows, cols, count,
        **constants, BIAS=NO_BIAS if bias is None else BY_COLUMN if by_column else BY_ROW,
        ROWS=tile_rows, COLS=tile_cols, num_warps=4,
    )  # fmt: skip


def bias_act(
    x: torch.Tensor, bias: torch.Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> torch.Tensor:
    """``f(x + bias)`` of x [...], bias [x.shape[dim]]; the strides of x."""
    y = torch.empty_like(x)
    run(bias_act_kernel, [like(y, x)], bias, y, dim, ACT=act, P0=p0, P1=p1, P2=p2)
    return y


def bias_act_(
    x: torch.Tensor, bias: torch.Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float
) -> None:
    """:func:`bias_act` in place."""
    if is_dense(x):
        run(bias_act_kernel, [x], bias, x, dim, ACT=act, P0=p0, P1=p1, P2=p2)
    else:
        x.copy_(bias_act(x, bias, dim, act, p0, p1, p2))


def grad_into(
    out: torch.Tensor, v: torch.Tensor, ref: torch.Tensor, bias: torch.Tensor | None, dim: int, act: int,
    p0: float, p1: float, p2: float,
) -> None:  # fmt: skip
    """``out = v * f'``; ``ref`` is y, or x, to which the bias is added again."""
    bias = bias if saves_input(act) else None
    run(bias_act_grad_kernel, [like(out, v), like(out, ref)], bias, out, dim, ACT=act, P0=p0, P1=p1, P2=p2)


def bias_act_grad(
    v: torch.Tensor, ref: torch.Tensor, bias: torch.Tensor | None, dim: int, act: int,
    p0: float, p1: float, p2: float,
) -> torch.Tensor:  # fmt: skip
    """``v * f'(u)``; v and ref [...], the strides of v where it is dense, else of ref."""
    out = torch.empty_like(v if is_dense(v) else ref)
    grad_into(out, v, ref, bias, dim, act, p0, p1, p2)
    return out


def bias_act_grad_(
    v: torch.Tensor, ref: torch.Tensor, bias: torch.Tensor | None, dim: int, act: int,
    p0: float, p1: float, p2: float,
) -> None:  # fmt: skip
    """:func:`bias_act_grad` into v."""
    if is_dense(v):
        grad_into(v, v, ref, bias, dim, act, p0, p1, p2)
    else:
        v.copy_(bias_act_grad(v, ref, bias, dim, act, p0, p1, p2))


def adjoint_into(
    out: torch.Tensor, c: torch.Tensor | None, g: torch.Tensor, t: torch.Tensor, ref: torch.Tensor,
    bias: torch.Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float,
) -> None:  # fmt: skip
    """``out = f'*c + f''*g*t``; what a structural zero multiplies is neither copied nor read."""
    smooth = is_smooth(act)
    ref = like(out, ref)
    g, t = (like(out, g), like(out, t)) if smooth else (ref, ref)
    tensors = [ref if c is None else like(out, c), g, t, ref]
    bias = bias if saves_input(act) else None
    run(
        bias_act_adjoint_kernel, tensors, bias, out, dim,
        HAS_C=c is not None, SMOOTH=smooth, ACT=act, P0=p0, P1=p1, P2=p2,
    )  # fmt: skip


def bias_act_adjoint(
    c: torch.Tensor | None, g: torch.Tensor, t: torch.Tensor, ref: torch.Tensor, bias: torch.Tensor | None,
    dim: int, act: int, p0: float, p1: float, p2: float,
) -> torch.Tensor:  # fmt: skip
    """``f'(u)*c + f''(u)*g*t``, all [...], c may be absent; strides of c (or g) where dense, else of ref."""
    first = g if c is None else c
    out = torch.empty_like(first if is_dense(first) else ref)
    adjoint_into(out, c, g, t, ref, bias, dim, act, p0, p1, p2)
    return out


def bias_act_adjoint_(
    c: torch.Tensor, g: torch.Tensor, t: torch.Tensor, ref: torch.Tensor, bias: torch.Tensor | None,
    dim: int, act: int, p0: float, p1: float, p2: float,
) -> None:  # fmt: skip
    """:func:`bias_act_adjoint` into c."""
    if is_dense(c):
        adjoint_into(c, c, g, t, ref, bias, dim, act, p0, p1, p2)
    else:
        c.copy_(bias_act_adjoint(c, g, t, ref, bias, dim, act, p0, p1, p2))
