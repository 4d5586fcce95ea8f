"""Triton: the whole gradient penalty of an MLP critic in one launch, and its backward in another.

Rows are independent, so a program takes a tile of BM rows through every layer: forward, backward, norm.
What one layer writes the next one reads back from global memory (h, g and t are results anyway, and stay
in L2). Where there are fewer tiles than multiprocessors, PARTS programs share a tile: each makes its share
of every layer's columns, and the programs of a tile meet between layers at a counter. They wait for one
another, so all of them must be resident: the grid never exceeds the number of multiprocessors and the
launch is cooperative, which makes the driver refuse instead of letting it hang.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .activations import TANH, times_slope, value
from .common import words
from .mlp_tiles import (
    INTERPOLATED,
    PLAIN,
    SEED,
    arrive_last,
    draw,
    finish,
    masked,
    meet,
    product,
    read,
    reset,
    write,
)


@triton.jit(do_not_specialize=["seed_low", "seed_high", "offset_low", "offset_high", "target"])
def forward_kernel(
    real, fake, alpha, seed_low, seed_high, offset_low, offset_high, weights, biases, masks, target,
    penalty, norm, slope, alpha_out, x, gradient, h, g, squares, counters, rows,
    WIDTHS: tl.constexpr, OFFSETS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    ONE_SIDED: tl.constexpr, ZERO_CENTRED: tl.constexpr, REDUCTION: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr, FIRST: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """Phases FIRST to LAST-1; OFFSETS are the layers' first columns in h and g, then S."""
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    PHASES: tl.constexpr = max(2 * HIDDEN, 1)
    S: tl.constexpr = OFFSETS[HIDDEN]
    D0: tl.constexpr = WIDTHS[0]
    part = tl.program_id(1)
    here = tl.program_id(0) * BM + tl.arange(0, BM)
    live, row = here < rows, here.to(tl.int64)
    meeting = counters + 1 + tl.program_id(0)

    if FIRST == 0:
        if alpha is None:
            a = draw(seed_low, seed_high, offset_low, offset_high, row, alpha_out.dtype.element_ty)
        else:
            a = tl.load(alpha + row, live, 0.0).to(tl.float32)
        tl.store(alpha_out + row, a.to(alpha_out.dtype.element_ty), live & (here * 0 + part == 0))
    else:
        a = tl.zeros([BM], tl.float32)

    for layer in tl.static_range(HIDDEN):
        if layer >= FIRST and layer < LAST:
            for n0 in range(part * BN, WIDTHS[layer + 1], PARTS * BN):
                if layer == 0:
                    u = product(
                        real, fake, a, x, None, row, live, n0, D0,
                        weights[0], D0, WIDTHS[1], True, INTERPOLATED, BM, BN, BK, PRECISION,
                    )  # fmt: skip
                else:
                    u = product(
                        h + OFFSETS[layer - 1], None, None, None, masks[layer - 1], row, live, n0, S,
                        weights[layer], WIDTHS[layer], WIDTHS[layer + 1], True, PLAIN, BM, BN, BK, PRECISION,
                    )  # fmt: skip
                col = n0 + tl.arange(0, BN)
                if biases[layer] is not None:
                    u += tl.load(biases[layer] + col, col < WIDTHS[layer + 1], 0.0).to(tl.float32)[None, :]
                y = value(u, ACT, SLOPE, 0.0, 0.0).to(h.dtype.element_ty)
                write(h + OFFSETS[layer], y, row, live, col, S, WIDTHS[layer + 1])
                if layer == HIDDEN - 1:
                    v = tl.zeros([BM, BN], tl.float32)
                    v += tl.load(weights[HIDDEN] + col, col < WIDTHS[layer + 1], 0.0).to(tl.float32)[None, :]
                    v = times_slope(
                        masked(v, masks[layer], row, live, col, WIDTHS[layer + 1]),
                        y.to(tl.float32),
                        ACT,
                        SLOPE,
                        0.0,
                        0.0,
                    )
                    write(g + OFFSETS[layer], v, row, live, col, S, WIDTHS[layer + 1])
            if layer + 1 < LAST:
                meet(meeting, PARTS * (layer + 1 - FIRST), PARTS)

    square = tl.zeros([BM], tl.float32)
    for layer in tl.static_range(HIDDEN - 1, -1, -1):
        if 2 * HIDDEN - 1 - layer >= FIRST and 2 * HIDDEN - 1 - layer < LAST:
            for n0 in range(part * BN, WIDTHS[layer], PARTS * BN):
                v = product(
                    g + OFFSETS[layer], None, None, None, None, row, live, n0, S,
                    weights[layer], WIDTHS[layer + 1], WIDTHS[layer], False, PLAIN, BM, BN, BK, PRECISION,
                )  # fmt: skip
                col = n0 + tl.arange(0, BN)
                if layer == 0:
                    rounded = v.to(gradient.dtype.element_ty)
                    write(gradient, rounded, row, live, col, D0, WIDTHS[layer])
                    square += tl.sum(rounded.to(tl.float32) * rounded.to(tl.float32), 1)
                else:
                    y = read(h + OFFSETS[layer - 1], row, live, col, S, WIDTHS[layer]).to(tl.float32)
                    v = times_slope(
                        masked(v, masks[layer - 1], row, live, col, WIDTHS[layer]), y, ACT, SLOPE, 0.0, 0.0
                    )
                    write(g + OFFSETS[layer - 1], v, row, live, col, S, WIDTHS[layer])
            if 2 * HIDDEN - layer < LAST:
                meet(meeting, PARTS * (2 * HIDDEN - layer - FIRST), PARTS)

    if HIDDEN == 0:
        for n0 in range(part * BN, D0, PARTS * BN):
            col = n0 + tl.arange(0, BN)
            r = read(real, row, live, col, D0, D0).to(tl.float32)
            f = read(fake, row, live, col, D0, D0).to(tl.float32)
            write(x, f + a[:, None] * (r - f), row, live, col, D0, D0)
            v = tl.zeros([BM, BN], tl.float32)
            v += tl.load(weights[0] + col, col < D0, 0.0).to(tl.float32)[None, :]
            write(gradient, v, row, live, col, D0, D0)
            square += tl.sum(v * v, 1)

    if LAST == PHASES:
        tl.store(squares + part * rows + row, square, live)
        if arrive_last(counters, tl.num_programs(0) * PARTS):
            finish(squares, penalty, norm, slope, rows, target, ONE_SIDED, ZERO_CENTRED, REDUCTION, PARTS)
            reset(counters, 1 + tl.num_programs(0), 128)


@triton.jit
def backward_kernel(
    incoming, slope, gradient, h, g, weights, masks, t, c, counters, rows,
    WIDTHS: tl.constexpr, OFFSETS: tl.constexpr, ACT: tl.constexpr, SLOPE: tl.constexpr,
    PER_ROW: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PARTS: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Phases FIRST to LAST-1: every hidden layer's tangents, then (tanh) adjoints, last layer first."""
    HIDDEN: tl.constexpr = len(WIDTHS) - 2
    S: tl.constexpr = OFFSETS[HIDDEN]
    D0: tl.constexpr = WIDTHS[0]
    part = tl.program_id(1)
    here = tl.program_id(0) * BM + tl.arange(0, BM)
    live, row = here < rows, here.to(tl.int64)
    meeting = counters + 1 + tl.program_id(0)
    factor = tl.load(slope + row, live, 0.0)
    factor *= tl.load(incoming + (row if PER_ROW else row * 0), live, 0.0).to(tl.float32)

    for layer in tl.static_range(HIDDEN):
        if layer >= FIRST and layer < LAST:
            for n0 in range(part * BN, WIDTHS[layer + 1], PARTS * BN):
                if layer == 0:
                    v = product(
                        gradient, None, factor, t, None, row, live, n0, D0 + S,
                        weights[0], D0, WIDTHS[1], True, SEED, BM, BN, BK, PRECISION,
                    )  # fmt: skip
                else:
                    v = product(
                        t + D0 + OFFSETS[layer - 1], None, None, None, None, row, live, n0, D0 + S,
                        weights[layer], WIDTHS[layer], WIDTHS[layer + 1], True, PLAIN, BM, BN, BK, PRECISION,
                    )  # fmt: skip
                col = n0 + tl.arange(0, BN)
                y = read(h + OFFSETS[layer], row, live, col, S, WIDTHS[layer + 1]).to(tl.float32)
                if ACT == TANH:  # f''/f' = -2y, and g has f' already
                    cotangent = read(g + OFFSETS[layer], row, live, col, S, WIDTHS[layer + 1]).to(tl.float32)
                    write(c + OFFSETS[layer], -2 * y * cotangent * v, row, live, col, S, WIDTHS[layer + 1])
                v = times_slope(
                    masked(v, masks[layer], row, live, col, WIDTHS[layer + 1]), y, ACT, SLOPE, 0.0, 0.0
                )
                write(t + D0 + OFFSETS[layer], v, row, live, col, D0 + S, WIDTHS[layer + 1])
            if layer + 1 < LAST:
                meet(meeting, PARTS * (layer + 1 - FIRST), PARTS)

    if ACT == TANH:
        for layer in tl.static_range(HIDDEN - 1, 0, -1):
            if 2 * HIDDEN - 1 - layer >= FIRST and 2 * HIDDEN - 1 - layer < LAST:
                for n0 in range(part * BN, WIDTHS[layer], PARTS * BN):
                    v = product(
                        c + OFFSETS[layer], None, None, None, None, row, live, n0, S,
                        weights[layer], WIDTHS[layer + 1], WIDTHS[layer], False, PLAIN, BM, BN, BK, PRECISION,
                    )  # fmt: skip
                    col = n0 + tl.arange(0, BN)
                    y = read(h + OFFSETS[layer - 1], row, live, col, S, WIDTHS[layer]).to(tl.float32)
                    v = times_slope(
                        masked(v, masks[layer - 1], row, live, col, WIDTHS[layer]), y, ACT, SLOPE, 0.0, 0.0
                    )
                    v += read(c + OFFSETS[layer - 1], row, live, col, S, WIDTHS[layer]).to(tl.float32)
                    write(c + OFFSETS[layer - 1], v, row, live, col, S, WIDTHS[layer])
                if 2 * HIDDEN - layer < LAST:
                    meet(meeting, PARTS * (2 * HIDDEN - layer - FIRST), PARTS)

    if HIDDEN == 0:
        for n0 in range(part * BN, D0, PARTS * BN):
            col = n0 + tl.arange(0, BN)
            v = read(gradient, row, live, col, D0, D0).to(tl.float32) * factor[:, None]
            write(t, v, row, live, col, D0, D0)

    if PARTS > 1 and LAST - FIRST > 1:
        last = arrive_last(counters, tl.num_programs(0) * PARTS)
        if last:
            reset(counters, 1 + tl.num_programs(0), 128)


@dataclass(frozen=True)
class Launch:
    """How a launch is cut: ``parts`` programs share a tile of ``bm`` rows, ``bn`` columns at a time."""

    bm: int
    bn: int
    bk: int
    parts: int
    num_warps: int
    num_stages: int
    phased: bool = False  #: one launch a phase instead of the meetings: nothing need be resident together

    @staticmethod
    def choose(rows: int, widths: Sequence[int], dtype: torch.dtype, multiprocessors: int) -> Launch:
        """Cover the multiprocessors: the largest tile that gives each one, else parts of small tiles."""
        half = dtype != torch.float32
        if half and triton.cdiv(rows, 64) >= multiprocessors:
            return Launch(64, 64, 64, 1, 8, 3)  # in float32 such a tile would spill registers
        if triton.cdiv(rows, 32) >= multiprocessors:
            return Launch(32, 64, 64 if half else 32, 1, 4, 3)
        wanted = max(1, multiprocessors // triton.cdiv(rows, 16))
        bn = min(64, max(16, triton.next_power_of_2(triton.cdiv(max(widths), wanted))))
        parts = min(wanted, triton.cdiv(max(widths), bn))
        return Launch(16, bn, 64 if half else 32, parts, 4, 4)


def mlp_penalty(
    real: Tensor,
    fake: Tensor,
    alpha: Tensor | None,
    seed: int,
    offset: int,
    pac: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
    target: float,
    one_sided: bool,
    reduction: int,
    *,
    launch: Launch | None = None,
    precision: str | None = None,
) -> tuple[Tensor, ...]:
    """Launches :func:`forward_kernel`; arguments and results as ``wgangp_fast.ops.mlp_penalty`` has them.

    Args:
        launch: default :meth:`Launch.choose`.
        precision: of float32 products: ``"ieee"``, ``"tf32"`` or ``"tf32x3"``; default: what
            ``torch.backends.cuda.matmul.allow_tf32`` says.
    """
    rows, width = real.shape[0] // pac, real.shape[1] * pac
    widths, offsets = _geometry(width, weights)
    empty = real.new_empty
    value = empty((rows,) if reduction == 0 else (), dtype=torch.float32)
    norm, slope = empty(rows, dtype=torch.float32), empty(rows, dtype=torch.float32)
    samples = empty(rows), empty(rows, width), empty(rows, width)  # alpha, x, gradient
    out = (value, norm, slope, *samples, empty(rows, offsets[-1]), empty(rows, offsets[-1]))
    if rows == 0:
        if reduction:
            value.fill_(0.0 if reduction == 1 else float("nan"))
        return out
    launch = launch or Launch.choose(rows, widths, real.dtype, _multiprocessors(real.device))
    tiles = triton.cdiv(rows, launch.bm)
    scratch = (empty(launch.parts, rows, dtype=torch.float32), _counters(real.device, tiles + 1))
    for first, last in _phases(max(2 * len(weights) - 2, 1), launch):
        with torch.cuda.device_of(real):  # Triton launches on the current device
            forward_kernel[(tiles, launch.parts)](
                real, fake, alpha, *words(seed), *words(offset), *_layers(weights, biases, masks),
                float(target), *out, *scratch, rows, WIDTHS=widths, OFFSETS=offsets, ACT=act,
                SLOPE=float(negative_slope), ONE_SIDED=one_sided, ZERO_CENTRED=target == 0,
                REDUCTION=reduction, FIRST=first, LAST=last, **_settings(launch, precision),
            )  # fmt: skip
    return out


def mlp_penalty_backward(
    incoming: Tensor,
    slope: Tensor,
    gradient: Tensor,
    h: Tensor,
    g: Tensor,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor | None],
    act: int,
    negative_slope: float,
    *,
    launch: Launch | None = None,
    precision: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Launches :func:`backward_kernel`; arguments and results as ``wgangp_fast.ops.mlp_penalty`` has them."""
    rows, width = gradient.shape
    widths, offsets = _geometry(width, weights)
    smooth = act == TANH.value
    t = gradient.new_empty(rows, width + offsets[-1])
    c = gradient.new_empty((rows, offsets[-1]) if smooth else (0,))
    if rows == 0:
        return t, c
    launch = launch or Launch.choose(rows, widths, gradient.dtype, _multiprocessors(gradient.device))
    tiles, hidden = triton.cdiv(rows, launch.bm), len(weights) - 1
    counters = _counters(gradient.device, tiles + 1)
    for first, last in _phases(max(2 * hidden - 1 if smooth else hidden, 1), launch):
        with torch.cuda.device_of(gradient):  # Triton launches on the current device
            backward_kernel[(tiles, launch.parts)](
                incoming, slope, gradient, h, g, *_layers(weights, masks), t, c, counters, rows,
                WIDTHS=widths, OFFSETS=offsets, ACT=act, SLOPE=float(negative_slope),
                PER_ROW=incoming.dim() > 0, FIRST=first, LAST=last, **_settings(launch, precision),
            )  # fmt: skip
    return t, c


def _geometry(width: int, weights: Sequence[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(D0 and every layer's width, first column of every hidden layer and then S)."""
    widths = (width, *(weight.shape[0] for weight in weights))
    offsets = [0]
    for hidden in widths[1:-1]:
        offsets.append(offsets[-1] + hidden)
    return widths, tuple(offsets)


def _layers(weights: Sequence[Tensor], *others: Sequence[Tensor | None]) -> tuple[tuple[Any, ...], ...]:
    """All weights; of the others the hidden layers', as tuples that are never empty."""
    hidden = len(weights) - 1
    return (tuple(weights), *(tuple(other[:hidden]) or (None,) for other in others))


def _phases(count: int, launch: Launch) -> list[tuple[int, int]]:
    return [(phase, phase + 1) for phase in range(count)] if launch.phased else [(0, count)]


def _settings(launch: Launch, precision: str | None) -> dict[str, Any]:
    if precision is None:
        precision = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
    return {
        "PRECISION": precision,
        "BM": launch.bm,
        "BN": launch.bn,
        "BK": launch.bk,
        "PARTS": launch.parts,
        "num_warps": launch.num_warps,
        "num_stages": launch.num_stages,
        "launch_cooperative_grid": launch.parts > 1 and not launch.phased,
    }


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


_zeros: dict[tuple[torch.device, int], Tensor] = {}


def _counters(device: torch.device, count: int) -> Tensor:
    """Counters at zero, one set a stream: launches on two streams may run together.

    A graph under capture gets its own, zeroed at every replay: it may be replayed on any stream.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return torch.zeros(count, dtype=torch.int32, device=device)
    key = (device, torch.cuda.current_stream(device).cuda_stream)
    if key not in _zeros or _zeros[key].numel() < count:
        _zeros[key] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return _zeros[key]
