"""The rows of a normalisation as tiles: where their elements lie, how large a tile is, and their sums.

Every normalisation and layout is one tile [LB, R, CB]: LB positions of R rows of CB channels each.

- contiguous: element (l, c) of row (n, g) is at ``(n * channels + g * cg + c) * length + l``;
- channels_last: at ``(n * length + l) * channels + g * cg + c``, so that neighbouring groups, the rows of
  the tile, are neighbours in memory too;
- LayerNorm over its last dimensions: one channel, its weight a value a position.

C is the last dimension, R the middle one: that is the order lanes take where nothing says otherwise, and
the right one for channels_last; in the contiguous case the compiler sees that l runs through memory.
Loops whose tile holds the whole row have constant bounds: the compiler drops them and loads a row once.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from .common import FILL, accumulator, launch, load, power_of_two, store


@triton.jit
def rows_of(tile, rows, groups, cg, length, LAST: tl.constexpr, R: tl.constexpr):
    """Rows of tile number ``tile``: ``(row, g, start, valid)``, each [1, R, 1]; row and start int64."""
    first = tile.to(tl.int64) * R
    lane = tl.arange(0, R)[None, :, None]
    group = (first % groups).to(tl.int32) + lane  # int32 division: R of them, not two of 64 bits each
    n = first // groups + group // groups
    g = group % groups
    channels = groups * cg
    start = n * length * channels + g * cg if LAST else (n * channels + g * cg) * length
    row = first + lane
    return row, g, start, row < rows


@triton.jit
def elements(
    c0, l0, start, valid, g, groups, cg, length,
    LAST: tl.constexpr, BY_ELEMENT: tl.constexpr, WIDE: tl.constexpr, LB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """``(offsets, mask)`` of a tile [LB, R, CB], and of the weights in it ([LB, 1, 1] or [1, R, CB])."""
    c = c0 + tl.arange(0, CB)[None, None, :]
    position = l0 + tl.arange(0, LB)[:, None, None]
    if WIDE:  # one sample of 2^31 elements or more
        c = c.to(tl.int64)
        position = position.to(tl.int64)
    offsets = start + (position * (groups * cg) + c if LAST else c * length + position)
    mask = (position < length) & (c < cg) & valid
    if BY_ELEMENT:
        return offsets, mask, position, position < length
    else:
        return offsets, mask, g * cg + c, (c < cg) & valid


@triton.jit
def row_sum(x):
    """[LB, R, CB] to [1, R, 1]."""
    return tl.sum(tl.sum(x, axis=2, keep_dims=True), axis=0, keep_dims=True)


@triton.jit
def affine(xh, weight, bias, at, inside, HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr):
    """``xh * weight + bias``."""
    u = xh
    if HAS_WEIGHT:
        u = u * load(weight, at, inside)
    if HAS_BIAS:
        u = u + load(bias, at, inside)
    return u


@triton.jit
def weighted(v, weight, at, inside, HAS_WEIGHT: tl.constexpr):
    """``v * weight``."""
    if HAS_WEIGHT:
        return v * load(weight, at, inside)
    else:
        return v


@triton.jit
def put_channel_sums(
    partial, plane, dw, db, row, valid, c0, cg, CB: tl.constexpr
):  # fmt: skip
    """Sums over the positions of a row, [LB, R, CB] to partial [2, n * groups, cg]."""
    c = c0 + tl.arange(0, CB)[None, None, :]
    at, mask = row * cg + c, (c < cg) & valid
    tl.store(partial + at, tl.sum(dw, axis=0, keep_dims=True), mask=mask)
    tl.store(partial + plane + at, tl.sum(db, axis=0, keep_dims=True), mask=mask)


@triton.jit
def put_element_sums(partial, plane, dw, db, length, l0, LB: tl.constexpr):
    """Sums [LB, 1, 1] over the rows of this program, to partial [2, programs, length]."""
    position = l0 + tl.arange(0, LB)[:, None, None]
    at = tl.program_id(0).to(tl.int64) * length + position
    tl.store(partial + at, dw, mask=position < length)
    tl.store(partial + plane + at, db, mask=position < length)


@triton.jit
def affine_sums_kernel(
    partial, dweight, dbias, count, width, ROWS: tl.constexpr, COLS: tl.constexpr
):  # fmt: skip
    """partial [2, count, width] summed over count, in order, to dweight and dbias [width]."""
    blocks = tl.cdiv(width, COLS)
    pid = tl.program_id(0)
    col = (pid % blocks) * COLS + tl.arange(0, COLS)[None, :]
    which = (pid // blocks).to(tl.int64)
    total = tl.zeros([ROWS, COLS], partial.dtype.element_ty)
    for first in range(0, count, ROWS):
        row = which * count + first + tl.arange(0, ROWS)[:, None]
        mask = (first + tl.arange(0, ROWS)[:, None] < count) & (col < width)
        total += tl.load(partial + row * width + col, mask=mask, other=0.0)
    result = tl.sum(total, axis=0, keep_dims=True)
    if which == 0:
        store(dweight, col, result, col < width)
    else:
        store(dbias, col, result, col < width)


@dataclass(frozen=True)
class Rows:
    """Geometry of a normalisation of x: ``rows = n * groups`` of ``channels`` a group by ``length``."""

    x: torch.Tensor  # contiguous or channels_last
    shape: tuple[int, ...]  # of mean and rstd
    affine_shape: torch.Size | tuple[int, ...]  # of weight and bias
    rows: int
    groups: int
    channels: int
    length: int
    last: bool
    by_element: bool

    @classmethod
    def of(cls, x: torch.Tensor, groups: int, dims: int) -> Rows:
        """groups > 0: x [N, C, *] in groups of channels; 0: rows are the last ``dims`` dimensions."""
        shape = x.shape
        if groups == 0:
            split = len(shape) - dims
            length, rows = math.prod(shape[split:]), math.prod(shape[:split])
            return cls(x.contiguous(), tuple(shape[:split]), shape[split:], rows, 1, 1, length, False, True)
        last = False
        if not x.is_contiguous():
            memory = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim())
            last = memory is not None and x.is_contiguous(memory_format=memory)
            if not last:
                x = x.contiguous()
        n, channels = shape[0], shape[1]
        length = math.prod(shape[2:])
        return cls(x, (n, groups), (channels,), n * groups, groups, channels // groups, length, last, False)

    def tiling(self, elements: int) -> dict[str, Any]:
        """Constants of a launch whose program holds ``elements`` elements of each tensor at once."""
        positions, channels = power_of_two(self.length), power_of_two(self.channels)
        if self.channels > 1 and positions * channels > elements:
            positions = min(positions, 512)  # 1 KiB of memory or more; the rest of a tile is more channels
        if self.last:
            cb = min(channels, elements)
            # Neighbouring groups beside the channels until 32 elements, whole sectors of memory, are read.
            r = min(power_of_two(self.groups), max(32 // cb, 1))
            lb = min(positions, max(elements // (cb * r), 1))
        else:
            lb = min(positions, elements)
            cb = min(channels, elements // lb)
            r = 1
        if cb >= self.channels and lb >= self.length:
            # Short rows: several a program, unless that leaves multiprocessors without one.
            spare = min(elements // (lb * cb), max(self.rows // FILL, 1), power_of_two(self.rows))
            r = max(r, 1 << (spare.bit_length() - 1))
        return {
            "LAST": self.last, "BY_ELEMENT": self.by_element,
            "WIDE": self.groups * self.channels * self.length + elements >= 2**31,
            "C_LOOP": cb < self.channels, "L_LOOP": lb < self.length, "R": r, "LB": lb, "CB": cb,
        }  # fmt: skip

    def arguments(self) -> tuple[int, int, int, int]:
        """What every kernel takes: rows, groups, channels of a group, length."""
        return self.rows, self.groups, self.channels, self.length


def warps(tiling: dict[str, Any]) -> int:
    """8 elements a lane: four float32 tensors, their sums and an activation stay in the registers."""
    return min(max(tiling["R"] * tiling["LB"] * tiling["CB"] // 256, 1), 16)


class AffineSums:
    """Scratch and results of dweight and dbias: partial sums in acc, added up by a second launch.

    A weight a channel: one partial sum a row, [2, n, channels]. A weight an element: one a program,
    [2, programs, length]; where rows fit a tile a program sums several of them in its registers.
    """

    def __init__(self, geometry: Rows, tiling: dict[str, Any], wanted: bool) -> None:
        x = geometry.x
        self.wanted = wanted
        tiles = -(-geometry.rows // tiling["R"])
        fits = not (tiling["C_LOOP"] or tiling["L_LOOP"])
        self.accumulate = wanted and geometry.by_element and fits
        # At most 4 programs a multiprocessor: the second launch reads what each of them leaves.
        self.steps = max(-(-tiles // (2 * FILL)), 1) if self.accumulate else 1
        self.programs = -(-tiles // self.steps)
        if geometry.by_element:
            self.count, self.width = self.programs, geometry.length
        else:
            self.count, self.width = geometry.rows // geometry.groups, geometry.groups * geometry.channels
        shape = geometry.affine_shape if wanted else (0,)
        self.dweight, self.dbias = (torch.empty(shape, dtype=x.dtype, device=x.device) for _ in range(2))
        self.partial = x
        if wanted and x.numel():
            acc = accumulator(x.dtype)
            self.partial = torch.empty(2, self.count, self.width, dtype=acc, device=x.device)
        elif wanted:
            self.dweight.zero_()
            self.dbias.zero_()

    def arguments(self) -> tuple[torch.Tensor, int, int]:
        """``(partial, elements of one of its halves, tiles a program)``."""
        return self.partial, self.count * self.width, self.steps

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``(dweight, dbias)``, both [0] where they were not asked for."""
        if self.wanted and self.partial.numel():
            # 32 columns a program read whole sectors and leave many programs; rows beside each other
            # hide the latency.
            columns = min(power_of_two(self.width), 32)
            rows = min(power_of_two(self.count), 64)
            launch(
                affine_sums_kernel, 2 * -(-self.width // columns), self.partial,
                self.partial, self.dweight, self.dbias, self.count, self.width,
                ROWS=rows, COLS=columns, num_warps=4,
            )  # fmt: skip
        return self.dweight, self.dbias
