"""Triton: what the kernels of mlp_penalty are made of. A program has a tile of BM rows of every matrix."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

PLAIN = tl.constexpr(0)
INTERPOLATED = tl.constexpr(1)
SEED = tl.constexpr(2)


@triton.jit
def read(pointer, row, live, col, stride, width):
    """[BM, len(col)] of a matrix that this launch may have written: past L1, which is not coherent."""
    inside = live[:, None] & (col < width)[None, :]
    return tl.load(pointer + row[:, None] * stride + col[None, :], inside, 0.0, cache_modifier=".cg")


@triton.jit
def write(pointer, value, row, live, col, stride, width):
    inside = live[:, None] & (col < width)[None, :]
    tl.store(pointer + row[:, None] * stride + col[None, :], value.to(pointer.dtype.element_ty), inside)


@triton.jit
def masked(v, mask, row, live, col, width):
    """v * mask for columns ``col`` of a layer; no mask, no work."""
    if mask is None:
        return v
    else:
        return v * read(mask, row, live, col, width, width).to(tl.float32)


@triton.jit
def product(
    a, b, factor, keep, mask, row, live, n0, stride,
    weight, K: tl.constexpr, N: tl.constexpr, TRANSPOSED: tl.constexpr, SOURCE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Columns n0.. of ``A @ weight.T`` (weight [N, K], TRANSPOSED) or ``A @ weight`` (weight [K, N]).

    A is PLAIN ``a * mask``, the INTERPOLATED ``b + factor*(a - b)``, or the SEED ``a * factor``. The last
    two are results: the programs of the first columns write them to ``keep``, whose stride is ``stride``.
    """
    col = n0 + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        if SOURCE == PLAIN:
            tile = read(a, row, live, k, stride, K)
            if mask is not None:
                tile = masked(tile.to(tl.float32), mask, row, live, k, K)
        else:
            tile = read(a, row, live, k, K, K).to(tl.float32)
            if SOURCE == INTERPOLATED:
                other = read(b, row, live, k, K, K).to(tl.float32)
                tile = other + factor[:, None] * (tile - other)
            else:
                tile = tile * factor[:, None]
            write(keep, tile, row, live & (row * 0 + n0 == 0), k, stride, K)
        inside = (k < K)[:, None] & (col < N)[None, :]
        if TRANSPOSED:
            w = tl.load(weight + col[None, :] * K + k[:, None], inside, 0.0)
        else:
            w = tl.load(weight + k[:, None] * N + col[None, :], inside, 0.0)
        total = tl.dot(tile.to(w.dtype), w, total, input_precision=PRECISION)
    return total


@triton.jit
def meet(counter, target, PARTS: tl.constexpr):
    """Wait until every program of this tile has come here; afterwards its writes can be read."""
    tl.debug_barrier()  # all of this program's writes come before the release
    if PARTS > 1:
        tl.atomic_add(counter, 1, sem="release")
        while tl.atomic_add(counter, 0, sem="acquire") < target:
            pass
        tl.debug_barrier()


@triton.jit
def arrive_last(counters, programs):
    """Whether this is the last program of the launch: the others' writes can be read."""
    tl.debug_barrier()
    return tl.atomic_add(counters, 1, sem="acq_rel") == programs - 1


@triton.jit
def reset(counters, count, BLOCK: tl.constexpr):
    """The next launch finds every counter at zero."""
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        tl.store(counters + index, tl.zeros([BLOCK], tl.int32), index < count)


@triton.jit
def draw(seed_low, seed_high, offset_low, offset_high, row, dtype: tl.constexpr):
    """Uniform numbers of Philox4x32-10, row i (int64) at counter (i, offset); as float32."""
    seed = (seed_high.to(tl.int64) << 32) | (seed_low.to(tl.int64) & 0xFFFFFFFF)
    index, carry = (row & 0xFFFFFFFF).to(tl.uint32), (row >> 32).to(tl.uint32)
    low = offset_low.to(tl.uint32, bitcast=True)
    high = offset_high.to(tl.uint32, bitcast=True)
    word, _, _, _ = tl.philox(seed, index, carry, low, high)
    if dtype == tl.float32:
        return (word >> 8).to(tl.float32) * (1.0 / 16777216)
    elif dtype == tl.float16:
        return (word >> 21).to(tl.float32) * (1.0 / 2048)
    else:
        return (word >> 24).to(tl.float32) * (1.0 / 256)


@triton.jit
def finish(
    squares, value, norm, slope, rows, target,
    ONE_SIDED: tl.constexpr, ZERO_CENTRED: tl.constexpr, REDUCTION: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Norms, penalties, slopes and the value of every row, by one program in a fixed order."""
    BLOCK: tl.constexpr = 512
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        live = row < rows
        square = tl.zeros([BLOCK], tl.float32)
        for part in range(PARTS):
            square += tl.load(squares + part * rows + row, live, 0.0, cache_modifier=".cg")
        n = tl.sqrt_rn(square)
        excess = n - target
        if ONE_SIDED and not ZERO_CENTRED:
            excess = tl.where(excess < 0, 0.0, excess)
        if ZERO_CENTRED:
            factor = tl.zeros([BLOCK], tl.float32) + 2.0
        else:
            factor = tl.where(n == 0, 0.0, tl.div_rn(2 * excess, n))
        if REDUCTION == 2:
            factor = factor / rows
        tl.store(norm + row, n, live)
        tl.store(slope + row, factor, live)
        if REDUCTION == 0:
            tl.store(value + row, excess * excess, live)
        else:
            total += tl.where(live, excess * excess, 0.0)
    if REDUCTION == 1:
        tl.store(value, tl.sum(total, 0))
    elif REDUCTION == 2:
        tl.store(value, tl.sum(total, 0) / rows)
