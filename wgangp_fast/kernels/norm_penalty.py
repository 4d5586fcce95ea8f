"""norm_penalty: norm of each sample's gradient, penalty, slope of the seed; and the seed itself.

Sums have a fixed shape and order (chunks of CHUNK elements, no atomics), so equal inputs give equal bits.
Samples of up to CHUNK elements are finished by the program that read them; what is left is the sum of
the penalties. Longer ones leave a partial sum a chunk. In both cases one more program does the rest.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .bias_act import BY_COLUMN, BY_ROW
from .common import (
    accumulator,
    batch_outermost,
    halves,
    launch,
    like,
    load,
    plane,
    power_of_two,
    programs,
    square_root,
    store,
    tile,
    tile_sizes,
)

CHUNK = 16384
"""Elements of a sample that one program sums: 3e6 elements make 184 programs, one wave of an H100."""

BLOCK = 2048
"""Elements that a program reads at once."""

NONE, SUM, MEAN = 0, 1, 2


@triton.jit
def squares(
    gradient, row, n, start, k, size1, size2, batch_stride, stride0, stride1, stride2,
    DIMS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Sums over BLOCKS * COLS elements from ``start`` on, of the samples ``row`` [ROWS, 1]: [ROWS, 1].

    Element e of a sample is at ``e * stride0``; of two dimensions (size1 the inner) or three, likewise.
    """
    acc = tl.float64 if gradient.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros([ROWS, COLS], acc)
    for block in range(BLOCKS):
        e = start + block * COLS + tl.arange(0, COLS)[None, :]
        if not WIDE:
            e = e.to(tl.int32)
        if DIMS == 1:
            place = e.to(tl.int64) * stride0
        elif DIMS == 2:
            place = (e // size1).to(tl.int64) * stride0 + (e % size1).to(tl.int64) * stride1
        else:
            outer, inner = e // size2, e % size2
            place = (outer // size1).to(tl.int64) * stride0 + (outer % size1).to(tl.int64) * stride1
            place += inner.to(tl.int64) * stride2
        v = load(gradient, row * batch_stride + place, (row < n) & (e < k))
        total += v * v
    return tl.sum(total, axis=1, keep_dims=True)


@triton.jit
def finish(
    square, n, target_high, target_low, ZERO: tl.constexpr, ONE_SIDED: tl.constexpr, MEAN: tl.constexpr
):
    """``(norm, penalty, slope)`` of sums of squares."""
    norm = square_root(square)
    if ZERO:
        penalty = square
        slope = tl.full(square.shape, 2.0, square.dtype)
    else:
        excess = norm - target_high - target_low
        if ONE_SIDED:
            excess = tl.where(excess < 0, 0.0, excess)  # NaN stays
        penalty = excess * excess
        slope = tl.where(norm == 0, 0.0, 2.0 * excess / norm)
    if MEAN:
        slope = slope / n
    return norm, penalty, slope


@triton.jit
def norm_rows_kernel(
    gradient, value, norm, slope, n, k, size1, size2, batch_stride, stride0, stride1, stride2,
    target_high, target_low,
    ZERO: tl.constexpr, ONE_SIDED: tl.constexpr, REDUCTION: tl.constexpr, LAST: tl.constexpr,
    DIMS: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """ROWS whole samples. value: [n] penalties, or a sum a program; the result where it is the LAST."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid * ROWS + tl.arange(0, ROWS)[:, None]
    square = squares(gradient, row, n, 0, k, size1, size2, batch_stride, stride0, stride1, stride2,
                     DIMS, WIDE, ROWS, COLS, BLOCKS)  # fmt: skip
    found, penalty, rate = finish(square, n, target_high, target_low, ZERO, ONE_SIDED, REDUCTION == 2)
    tl.store(norm + row, found, mask=row < n)
    tl.store(slope + row, rate, mask=row < n)
    if REDUCTION == 0:
        tl.store(value + row, penalty, mask=row < n)
    else:
        total = tl.sum(tl.where(row < n, penalty, 0.0))
        if LAST and REDUCTION == 2:
            total = total / n
        tl.store(value + pid, total)


@triton.jit
def sum_kernel(partial, value, count, n, MEAN: tl.constexpr, BLOCK: tl.constexpr):
    """The sum, or the mean over n, of ``count`` partial sums; one program."""
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], partial.dtype.element_ty)
    for start in range(0, count, BLOCK):
        total += tl.load(partial + start + lane, mask=start + lane < count, other=0.0)
    result = tl.sum(total)
    if MEAN:
        result = result / n
    tl.store(value, result)


@triton.jit
def norm_chunks_kernel(
    gradient, partial, n, k, chunks, size1, size2, batch_stride, stride0, stride1, stride2,
    DIMS: tl.constexpr, WIDE: tl.constexpr, COLS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One chunk of one sample: partial [n, chunks]."""
    pid = tl.program_id(0)
    row = (pid // chunks).to(tl.int64) + tl.zeros([1, 1], tl.int64)
    start = (pid % chunks).to(tl.int64) * (COLS * BLOCKS)
    square = squares(gradient, row, n, start, k, size1, size2, batch_stride, stride0, stride1, stride2,
                     DIMS, WIDE, 1, COLS, BLOCKS)  # fmt: skip
    tl.store(partial + pid + tl.zeros([1, 1], tl.int32), square)


@triton.jit
def norm_finish_kernel(
    partial, value, norm, slope, n, chunks, target_high, target_low,
    ZERO: tl.constexpr, ONE_SIDED: tl.constexpr, REDUCTION: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Everything after the partial sums [n, chunks], in one program: the sum needs all samples."""
    acc: tl.constexpr = partial.dtype.element_ty
    total = tl.zeros([ROWS, 1], acc)
    for first in range(0, n, ROWS):
        row = first + tl.arange(0, ROWS)[:, None].to(tl.int64)
        square = tl.zeros([ROWS, COLS], acc)
        for start in range(0, chunks, COLS):
            col = start + tl.arange(0, COLS)[None, :]
            square += tl.load(partial + row * chunks + col, mask=(row < n) & (col < chunks), other=0.0)
        found, penalty, rate = finish(
            tl.sum(square, axis=1, keep_dims=True),
            n,
            target_high,
            target_low,
            ZERO,
            ONE_SIDED,
            REDUCTION == 2,
        )
        tl.store(norm + row, found, mask=row < n)
        tl.store(slope + row, rate, mask=row < n)
        if REDUCTION == 0:
            tl.store(value + row, penalty, mask=row < n)
        else:
            total += tl.where(row < n, penalty, 0.0)
    if REDUCTION != 0:
        result = tl.sum(total)
        if REDUCTION == 2:
            result = result / n
        tl.store(value, result)


@triton.jit
def penalty_seed_kernel(
    gradient, slope, incoming, seed, rows, cols, count,
    BY: tl.constexpr, PER_SAMPLE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """gradient * (slope_i * incoming_i) on [rows, cols] whose samples are rows (BY 1) or columns (2)."""
    row, col, mask = tile(rows, cols, ROWS, COLS)
    if BY == 1:
        sample, inside = row % count, row < rows
    else:
        sample, inside = col, col < cols
    factor = load(slope, sample, inside)
    if PER_SAMPLE:
        factor *= tl.load(incoming + sample, mask=inside, other=0.0).to(factor.dtype)
    else:
        factor *= tl.load(incoming).to(factor.dtype)
    offsets = row * cols + col
    store(seed, offsets, load(gradient, offsets, mask) * factor, mask)


def samples(gradient: torch.Tensor) -> tuple[torch.Tensor, list[int], list[int]]:
    """``(gradient, sizes, strides)`` of one sample with dimensions that continue each other merged.

    A norm does not ask for the order of its terms: outermost is the largest stride, so every dense
    layout is one dimension. Three are read in place, more are copied.
    """
    n = gradient.shape[0]
    k = gradient.numel() // max(n, 1)
    if gradient.is_contiguous():
        return gradient, [k], [1]
    order = sorted(zip(gradient.stride()[1:], gradient.shape[1:]), reverse=True)
    sizes: list[int] = []
    strides: list[int] = []
    for stride, size in order:
        if size == 1:
            continue
        if sizes and strides[-1] == stride * size:
            sizes[-1], strides[-1] = sizes[-1] * size, stride
        else:
            sizes.append(size)
            strides.append(stride)
    if len(sizes) > 3:
        return gradient.contiguous(), [k], [1]
    return gradient, sizes or [1], strides or [1]


def norm_penalty(
    gradient: torch.Tensor, target: float, one_sided: bool, reduction: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(value [N] or [], norm [N], slope [N])`` of a gradient [N, ...] of any strides."""
    n = gradient.shape[0]
    k = gradient.numel() // max(n, 1)
    gradient, sizes, strides = samples(gradient)
    acc: dict[str, Any] = {"dtype": accumulator(gradient.dtype), "device": gradient.device}
    # [N], like slope, and like value where it is not reduced
    norm = torch.empty(n, **acc)
    slope = torch.empty_like(norm)
    value = torch.empty_like(norm) if reduction == NONE else torch.empty((), **acc)
    if n == 0:
        if reduction != NONE:
            value.fill_(float("nan") if reduction == MEAN else 0.0)
        return value, norm, slope
    dims = len(sizes)
    layout = (
        *(sizes[1] if dims > 1 else 1, sizes[2] if dims > 2 else 1, gradient.stride(0)),
        *[*strides, 0, 0][:3],
    )
    judged = {"ZERO": target == 0, "ONE_SIDED": one_sided, "REDUCTION": reduction}
    read = {"DIMS": dims, "WIDE": k + CHUNK >= 2**31}
    chunks = -(-k // CHUNK)
    if chunks <= 1:
        cols = min(power_of_two(k), BLOCK)
        rows = min(power_of_two(n), BLOCK // cols)
        count = -(-n // rows)
        penalties = value if reduction == NONE or count == 1 else torch.empty(count, **acc)
        launch(
            norm_rows_kernel, count, gradient,
            gradient, penalties, norm, slope, n, k, *layout, *halves(target),
            **judged, LAST=count == 1, **read, ROWS=rows, COLS=cols, BLOCKS=-(-k // cols) or 1, num_warps=4,
        )  # fmt: skip
        if penalties is not value:
            launch(
                sum_kernel, 1, gradient, penalties, value, count, n,
                MEAN=reduction == MEAN, BLOCK=min(power_of_two(count), 1024), num_warps=4,
            )  # fmt: skip
        return value, norm, slope
    partial = torch.empty(n, chunks, **acc)
    launch(
        norm_chunks_kernel, n * chunks, gradient, gradient, partial, n, k, chunks, *layout,
        **read, COLS=BLOCK, BLOCKS=CHUNK // BLOCK, num_warps=4,
    )  # fmt: skip
    cols = min(power_of_two(chunks), 1024)
    rows = min(power_of_two(n), 2048 // cols)
    launch(
        norm_finish_kernel, 1, gradient, partial, value, norm, slope, n, chunks, *halves(target),
        **judged, ROWS=rows, COLS=cols, num_warps=8,
    )  # fmt: skip
    return value, norm, slope


def penalty_seed(gradient: torch.Tensor, slope: torch.Tensor, incoming: torch.Tensor) -> torch.Tensor:
    """``gradient * (slope_i * incoming_i)``: gradient [N, ...], slope [N], incoming [] or [N]."""
    gradient = batch_outermost(gradient)
    seed = torch.empty_like(gradient)
    if seed.numel() == 0:
        return seed
    rows, cols, count, by_column = plane(seed, 0)
    tile_rows, tile_cols = tile_sizes(rows, cols, seed.element_size())
    launch(
        penalty_seed_kernel, programs(rows, cols, tile_rows, tile_cols), seed,
        like(seed, gradient), slope.contiguous(), incoming.contiguous(), seed, rows, cols, count,
        BY=BY_COLUMN if by_column else BY_ROW, PER_SAMPLE=incoming.dim() == 1,
        ROWS=tile_rows, COLS=tile_cols, num_warps=4,
    )  # fmt: skip
    return seed
