"""gate: y = sigmoid(a) * tanh(b), with its vjp, jvp and adjoint. One flat pass each.

With s = sigmoid(a) and h = tanh(b): dy/da = s(1-s)h and dy/db = s(1-h^2); the second derivatives are
aa = s(1-s)(1-2s)h, ab = s(1-s)(1-h^2) and bb = -2h(1-h^2)s.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .activations import sigmoid, tanh
from .common import launch, load, programs, store, tile, tile_sizes


@triton.jit
def gate_kernel(a, b, y, rows, cols, a_stride, b_stride, ROWS: tl.constexpr, COLS: tl.constexpr):
    row, col, mask = tile(rows, cols, ROWS, COLS)
    s = sigmoid(load(a, row * a_stride + col, mask))
    h = tanh(load(b, row * b_stride + col, mask))
    store(y, row * cols + col, s * h, mask)


@triton.jit
def gate_vjp_kernel(
    a, b, g, ga, gb, rows, cols, a_stride, b_stride, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    s = sigmoid(load(a, row * a_stride + col, mask))
    h = tanh(load(b, row * b_stride + col, mask))
    gs = load(g, offsets, mask) * s
    store(ga, offsets, gs * (1.0 - s) * h, mask)
    store(gb, offsets, gs * (1.0 - h * h), mask)


@triton.jit
def gate_jvp_kernel(
    a, b, ta, tb, y, rows, cols, a_stride, b_stride, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    s = sigmoid(load(a, row * a_stride + col, mask))
    h = tanh(load(b, row * b_stride + col, mask))
    moved = (1.0 - s) * h * load(ta, offsets, mask) + (1.0 - h * h) * load(tb, offsets, mask)
    store(y, offsets, s * moved, mask)


@triton.jit
def gate_adjoint_kernel(
    a, b, c, g, ta, tb, ca, cb, rows, cols, a_stride, b_stride,
    HAS_C: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = tile(rows, cols, ROWS, COLS)
    offsets = row * cols + col
    s = sigmoid(load(a, row * a_stride + col, mask))
    h = tanh(load(b, row * b_stride + col, mask))
    da, db = s * (1.0 - s), 1.0 - h * h
    gta = load(g, offsets, mask) * load(ta, offsets, mask)
    gtb = load(g, offsets, mask) * load(tb, offsets, mask)
    to_a = da * (gta * (1.0 - 2.0 * s) * h + gtb * db)
    to_b = db * (gta * da - 2.0 * gtb * h * s)
    if HAS_C:
        incoming = load(c, offsets, mask)
        to_a += incoming * da * h
        to_b += incoming * s * db
    store(ca, offsets, to_a, mask)
    store(cb, offsets, to_b, mask)


def collapse(a: torch.Tensor, b: torch.Tensor) -> tuple[int, int, int, int] | None:
    """``(rows, cols, row stride of a, of b)`` if both read, in the order of the shape, as rows of
    neighbours: contiguous tensors, halves and every second channel do. Else None."""
    if a.is_contiguous() and b.is_contiguous():
        return 1, a.numel(), 0, 0
    merged: list[list[int]] = []  # [size, stride of a, stride of b], innermost first
    for size, stride_a, stride_b in zip(reversed(a.shape), reversed(a.stride()), reversed(b.stride())):
        if size == 1:
            continue
        last = merged[-1] if merged else [1, 1, 1]
        if merged and stride_a == last[0] * last[1] and stride_b == last[0] * last[2]:
            last[0] *= size
        else:
            merged.append([size, stride_a, stride_b])
    if merged and (merged[0][1], merged[0][2]) != (1, 1):
        # A stride of more than 1 within the row: rows of one element where that is the only dimension.
        merged.insert(0, [1, 1, 1])
    if len(merged) > 2 or (len(merged) == 2 and merged[0][0] == 1):
        return None
    cols = merged[0][0] if merged else 1
    rows, stride_a, stride_b = merged[1] if len(merged) == 2 else [1, 0, 0]
    return rows, cols, stride_a, stride_b


def run(
    kernel: Any, a: torch.Tensor, b: torch.Tensor, inputs: list[torch.Tensor], outputs: list[torch.Tensor],
    **constants: Any,
) -> None:  # fmt: skip
    """Launch over a and b as they lie, everything else contiguous."""
    if a.numel() == 0:
        return
    view = collapse(a, b)
    if view is None:
        a, b = a.contiguous(), b.contiguous()
        view = 1, a.numel(), 0, 0
    rows, cols, stride_a, stride_b = view
    tile_rows, tile_cols = tile_sizes(rows, cols, a.element_size())
    launch(
        kernel, programs(rows, cols, tile_rows, tile_cols), a,
        a, b, *(tensor.contiguous() for tensor in inputs), *outputs, rows, cols, stride_a, stride_b,
        **constants, ROWS=tile_rows, COLS=tile_cols, num_warps=4,
    )  # fmt: skip


def result(a: torch.Tensor) -> torch.Tensor:
    """An empty contiguous tensor like a."""
    return torch.empty(a.shape, dtype=a.dtype, device=a.device)


def gate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``sigmoid(a) * tanh(b)``, all [...]."""
    y = result(a)
    run(gate_kernel, a, b, [], [y])
    return y


def gate_vjp(g: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """``(g dy/da, g dy/db)``, all [...]."""
    ga, gb = result(a), result(a)
    run(gate_vjp_kernel, a, b, [g], [ga, gb])
    return ga, gb


def gate_jvp(ta: torch.Tensor, tb: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``ta dy/da + tb dy/db``, all [...]."""
    y = result(a)
    run(gate_jvp_kernel, a, b, [ta, tb], [y])
    return y


def gate_adjoint(
    c: torch.Tensor | None,
    g: torch.Tensor,
    ta: torch.Tensor,
    tb: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The vjp of c (if there is one) plus the gradient of ``<g, jvp(ta, tb)>``, all [...]."""
    ca, cb = result(a), result(a)
    run(gate_adjoint_kernel, a, b, [g if c is None else c, g, ta, tb], [ca, cb], HAS_C=c is not None)
    return ca, cb
