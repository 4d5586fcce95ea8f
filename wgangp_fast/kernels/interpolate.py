"""interpolate: x_i = f_i + a_i * (r_i - f_i), a_i given or drawn here by Philox4x32-10."""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import batch_outermost, launch, like, load, programs, store, tile, tile_sizes, words


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """The first two of Philox4x32-10's four words; everything uint32."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high2, low2 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1


@triton.jit
def draw(sample, seed_low, seed_high, offset_low, offset_high, DTYPE: tl.constexpr):
    """Uniform in [0, 1), of as many bits as DTYPE's mantissa holds exactly; ``sample`` [...] int64."""
    zero = (sample * 0).to(tl.uint32)
    w0, w1 = philox(
        sample.to(tl.uint32), (sample >> 32).to(tl.uint32),
        zero + offset_low.to(tl.uint32), zero + offset_high.to(tl.uint32),
        zero + seed_low.to(tl.uint32), zero + seed_high.to(tl.uint32),
    )  # fmt: skip
    if DTYPE == tl.float64:  # noqa: SIM300
        return (((w0.to(tl.uint64) << 32) | w1.to(tl.uint64)) >> 11).to(tl.float64) * 1.1102230246251565e-16
    elif DTYPE == tl.float16:  # noqa: SIM300
        return (w0 >> 21).to(tl.float32) * 4.8828125e-4
    elif DTYPE == tl.bfloat16:  # noqa: SIM300
        return (w0 >> 24).to(tl.float32) * 3.90625e-3
    else:
        return (w0 >> 8).to(tl.float32) * 5.9604644775390625e-8


@triton.jit(do_not_specialize=["seed_low", "seed_high", "offset_low", "offset_high"])
def interpolate_kernel(
    real, fake, alpha, x, alpha_out, n, k, seed_low, seed_high, offset_low, offset_high,
    GIVEN: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row, col, mask = tile(n, k, ROWS, COLS)
    if GIVEN:
        a = load(alpha, row, row < n)  # [ROWS, 1]
    else:
        a = draw(row, seed_low, seed_high, offset_low, offset_high, alpha_out.dtype.element_ty)
    first = tl.min(col, axis=1, keep_dims=True) == 0
    store(alpha_out, row, a, (row < n) & first)
    offsets = row * k + col
    r, f = load(real, offsets, mask), load(fake, offsets, mask)
    store(x, offsets, f + a * (r - f), mask)


def interpolate(
    real: torch.Tensor, fake: torch.Tensor, alpha: torch.Tensor | None, seed: int, offset: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(x, alpha)``: real, fake, x [N, ...]; alpha [N], the weight of real.

    x has the strides of real where a sample is one block of memory, else it is contiguous.
    """
    n = real.shape[0]
    k = real.numel() // max(n, 1)
    real = batch_outermost(real)
    x = torch.empty_like(real)
    alpha_out = torch.empty(n, dtype=real.dtype, device=real.device)
    if n == 0:
        return x, alpha_out
    tile_rows, tile_cols = tile_sizes(n, k, real.element_size())
    launch(
        # A sample without elements has a number all the same: one column, all of it masked.
        interpolate_kernel, programs(n, max(k, 1), tile_rows, tile_cols), real,
        real, like(real, fake), alpha_out if alpha is None else alpha.contiguous(), x, alpha_out, n, k,
        *words(seed), *words(offset),
        GIVEN=alpha is not None, ROWS=tile_rows, COLS=tile_cols, num_warps=4,
    )  # fmt: skip
    return x, alpha_out
