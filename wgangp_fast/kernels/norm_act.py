"""norm_act: f((x - mean) * rstd * weight + bias) over rows, with its vjp, jvp and adjoint.

With xh = (x - mean) * rstd and J v = rstd * (v - mean(v) - xh * mean(xh * v)), symmetric, a sweep is one
or two passes of sums over a row and one that writes. Geometry and tiles: norm_rows.py.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from .activations import is_smooth, saved, second, times_slope, value
from .common import accumulator, launch, like, load, square_root, store
from .norm_rows import (
    AffineSums,
    Rows,
    affine,
    elements,
    put_channel_sums,
    put_element_sums,
    row_sum,
    rows_of,
    warps,
    weighted,
)


@triton.jit
def norm_act_kernel(
    x, weight, bias, y, mean_out, rstd_out, rows, groups, cg, length,
    EPS: tl.constexpr, ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    LAST: tl.constexpr, BY_ELEMENT: tl.constexpr, WIDE: tl.constexpr, C_LOOP: tl.constexpr,
    L_LOOP: tl.constexpr, R: tl.constexpr, LB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """Mean, then the variance around it (two passes: a large mean does not cancel), then y."""
    acc: tl.constexpr = mean_out.dtype.element_ty
    c_end = cg if C_LOOP else CB
    l_end = length if L_LOOP else LB
    row, g, start, valid = rows_of(tl.program_id(0), rows, groups, cg, length, LAST, R)
    count = tl.cast(cg, acc) * tl.cast(length, acc)

    total = tl.zeros([LB, R, CB], acc)
    for c0 in range(0, c_end, CB):
        for l0 in range(0, l_end, LB):
            offsets, mask, at, inside = elements(
                c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
            )
            total += load(x, offsets, mask)
    mean = row_sum(total) / count

    total = tl.zeros([LB, R, CB], acc)
    for c0 in range(0, c_end, CB):
        for l0 in range(0, l_end, LB):
            offsets, mask, at, inside = elements(
                c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
            )
            centred = tl.where(mask, load(x, offsets, mask) - mean, 0.0)
            total += centred * centred
    rstd = 1.0 / square_root(row_sum(total) / count + EPS)

    for c0 in range(0, c_end, CB):
        for l0 in range(0, l_end, LB):
            offsets, mask, at, inside = elements(
                c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
            )
            xh = (load(x, offsets, mask) - mean) * rstd
            u = affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS)
            store(y, offsets, value(u, ACT, P0, P1, P2), mask)
    # Last: a store between two loads of the same elements would keep them apart.
    tl.store(mean_out + row, mean, mask=valid)
    tl.store(rstd_out + row, rstd, mask=valid)


@triton.jit
def norm_act_jvp_kernel(
    t, x, mean_in, rstd_in, weight, bias, y, rows, groups, cg, length,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    LAST: tl.constexpr, BY_ELEMENT: tl.constexpr, WIDE: tl.constexpr, C_LOOP: tl.constexpr,
    L_LOOP: tl.constexpr, R: tl.constexpr, LB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """f' * weight * J t with J t = rstd * (t - mean(t) - xh * mean(xh * t))."""
    acc: tl.constexpr = mean_in.dtype.element_ty
    c_end = cg if C_LOOP else CB
    l_end = length if L_LOOP else LB
    row, g, start, valid = rows_of(tl.program_id(0), rows, groups, cg, length, LAST, R)
    mean, rstd = tl.load(mean_in + row, valid, other=0.0), tl.load(rstd_in + row, valid, other=0.0)
    count = tl.cast(cg, acc) * tl.cast(length, acc)

    sum_t, sum_xt = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
    for c0 in range(0, c_end, CB):
        for l0 in range(0, l_end, LB):
            offsets, mask, at, inside = elements(
                c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
            )
            xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
            tangent = load(t, offsets, mask)
            sum_t += tangent
            sum_xt += xh * tangent
    mean_t, b = row_sum(sum_t) / count, row_sum(sum_xt) / count

    for c0 in range(0, c_end, CB):
        for l0 in range(0, l_end, LB):
            offsets, mask, at, inside = elements(
                c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
            )
            xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
            moved = rstd * (load(t, offsets, mask) - mean_t - xh * b)
            u = affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS)
            s = saved(u, ACT, P0, P1, P2)
            moved = weighted(moved, weight, at, inside, HAS_WEIGHT)
            store(y, offsets, times_slope(moved, s, ACT, P0, P1, P2), mask)


@triton.jit
def norm_act_vjp_kernel(
    g_in, x, mean_in, rstd_in, weight, bias, gx, partial, plane, steps, rows, groups, cg, length,
    AFFINE: tl.constexpr, ACCUMULATE: tl.constexpr,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    LAST: tl.constexpr, BY_ELEMENT: tl.constexpr, WIDE: tl.constexpr, C_LOOP: tl.constexpr,
    L_LOOP: tl.constexpr, R: tl.constexpr, LB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """gx = J(weight * g_u) with g_u = f' g; partial sums of g_u * xh and g_u."""
    acc: tl.constexpr = mean_in.dtype.element_ty
    c_end = cg if C_LOOP else CB
    l_end = length if L_LOOP else LB
    count = tl.cast(cg, acc) * tl.cast(length, acc)
    rows_dw, rows_db = tl.zeros([LB, 1, CB], acc), tl.zeros([LB, 1, CB], acc)
    for step in range(0, steps if ACCUMULATE else 1):
        tile = tl.program_id(0) * steps + step
        row, g, start, valid = rows_of(tile, rows, groups, cg, length, LAST, R)
        mean, rstd = tl.load(mean_in + row, valid, other=0.0), tl.load(rstd_in + row, valid, other=0.0)

        sum_v, sum_xv = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
        for c0 in range(0, c_end, CB):
            for l0 in range(0, l_end, LB):
                offsets, mask, at, inside = elements(
                    c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
                )
                xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
                s = saved(affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS), ACT, P0, P1, P2)
                gu = times_slope(load(g_in, offsets, mask), s, ACT, P0, P1, P2)
                v = weighted(gu, weight, at, inside, HAS_WEIGHT)
                sum_v += v
                sum_xv += xh * v
        mean_v, a = row_sum(sum_v) / count, row_sum(sum_xv) / count

        for c0 in range(0, c_end, CB):
            dw, db = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
            for l0 in range(0, l_end, LB):
                offsets, mask, at, inside = elements(
                    c0, l0, start, valid, g, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
                )
                xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
                s = saved(affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS), ACT, P0, P1, P2)
                gu = times_slope(load(g_in, offsets, mask), s, ACT, P0, P1, P2)
                v = weighted(gu, weight, at, inside, HAS_WEIGHT)
                store(gx, offsets, rstd * (v - mean_v - xh * a), mask)
                if AFFINE:
                    if BY_ELEMENT:
                        part_dw = tl.sum(gu * xh, axis=1, keep_dims=True)
                        part_db = tl.sum(gu, axis=1, keep_dims=True)
                        if ACCUMULATE:
                            rows_dw += part_dw
                            rows_db += part_db
                        else:
                            put_element_sums(partial, plane, part_dw, part_db, length, l0, LB)
                    else:
                        dw += gu * xh
                        db += gu
            if AFFINE and not BY_ELEMENT:
                put_channel_sums(partial, plane, dw, db, row, valid, c0, cg, CB)
    if ACCUMULATE:
        put_element_sums(partial, plane, rows_dw, rows_db, length, 0, LB)


@triton.jit
def norm_act_adjoint_kernel(
    c_in, g_in, t_in, x, mean_in, rstd_in, weight, bias, cx, partial, plane, steps, rows, groups, cg, length,
    HAS_C: tl.constexpr, SMOOTH: tl.constexpr, AFFINE: tl.constexpr, ACCUMULATE: tl.constexpr,
    ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr,
    LAST: tl.constexpr, BY_ELEMENT: tl.constexpr, WIDE: tl.constexpr, C_LOOP: tl.constexpr,
    L_LOOP: tl.constexpr, R: tl.constexpr, LB: tl.constexpr, CB: tl.constexpr,
):  # fmt: skip
    """cx = J(weight * c_u) - rstd * (rstd * m * xh + b * J g + a * J t), with g standing for weight * g_u.

    c_u = f' c + f'' g (weight * J t). A smooth f wants J t before it can sum c_u: three passes, not two.
    """
    acc: tl.constexpr = mean_in.dtype.element_ty
    c_end = cg if C_LOOP else CB
    l_end = length if L_LOOP else LB
    count = tl.cast(cg, acc) * tl.cast(length, acc)
    rows_dw, rows_db = tl.zeros([LB, 1, CB], acc), tl.zeros([LB, 1, CB], acc)
    for step in range(0, steps if ACCUMULATE else 1):
        tile = tl.program_id(0) * steps + step
        row, group, start, valid = rows_of(tile, rows, groups, cg, length, LAST, R)
        mean, rstd = tl.load(mean_in + row, valid, other=0.0), tl.load(rstd_in + row, valid, other=0.0)

        sum_g, sum_xg = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
        sum_t, sum_xt = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
        sum_gt = tl.zeros([LB, R, CB], acc)
        sum_c, sum_xc = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
        for c0 in range(0, c_end, CB):
            for l0 in range(0, l_end, LB):
                offsets, mask, at, inside = elements(
                    c0, l0, start, valid, group, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
                )
                xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
                s = saved(affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS), ACT, P0, P1, P2)
                gu = times_slope(load(g_in, offsets, mask), s, ACT, P0, P1, P2)
                g, t = weighted(gu, weight, at, inside, HAS_WEIGHT), load(t_in, offsets, mask)
                sum_g += g
                sum_xg += xh * g
                sum_t += t
                sum_xt += xh * t
                sum_gt += g * t
                if HAS_C and not SMOOTH:
                    cu = times_slope(load(c_in, offsets, mask), s, ACT, P0, P1, P2)
                    v = weighted(cu, weight, at, inside, HAS_WEIGHT)
                    sum_c += v
                    sum_xc += xh * v
        mean_g, a = row_sum(sum_g) / count, row_sum(sum_xg) / count
        mean_t, b = row_sum(sum_t) / count, row_sum(sum_xt) / count
        m = row_sum(sum_gt) / count - mean_g * mean_t - a * b

        if SMOOTH:
            for c0 in range(0, c_end, CB):
                for l0 in range(0, l_end, LB):
                    offsets, mask, at, inside = elements(
                        c0, l0, start, valid, group, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
                    )
                    xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
                    s = saved(affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS), ACT, P0, P1, P2)
                    jt = rstd * (load(t_in, offsets, mask) - mean_t - xh * b)
                    cu = second(s, ACT, P0, P1, P2) * load(g_in, offsets, mask)
                    cu = cu * weighted(jt, weight, at, inside, HAS_WEIGHT)
                    if HAS_C:
                        cu += times_slope(load(c_in, offsets, mask), s, ACT, P0, P1, P2)
                    v = tl.where(mask, weighted(cu, weight, at, inside, HAS_WEIGHT), 0.0)
                    sum_c += v
                    sum_xc += xh * v
        mean_c, along = row_sum(sum_c) / count, row_sum(sum_xc) / count

        for c0 in range(0, c_end, CB):
            dw, db = tl.zeros([LB, R, CB], acc), tl.zeros([LB, R, CB], acc)
            for l0 in range(0, l_end, LB):
                offsets, mask, at, inside = elements(
                    c0, l0, start, valid, group, groups, cg, length, LAST, BY_ELEMENT, WIDE, LB, CB
                )
                xh = tl.where(mask, (load(x, offsets, mask) - mean) * rstd, 0.0)
                s = saved(affine(xh, weight, bias, at, inside, HAS_WEIGHT, HAS_BIAS), ACT, P0, P1, P2)
                g_y = load(g_in, offsets, mask)
                gu = times_slope(g_y, s, ACT, P0, P1, P2)
                jt = rstd * (load(t_in, offsets, mask) - mean_t - xh * b)
                jg = rstd * (weighted(gu, weight, at, inside, HAS_WEIGHT) - mean_g - xh * a)
                out = -rstd * (rstd * m * xh + b * jg + a * jt)
                cu = tl.zeros([LB, R, CB], acc)
                if SMOOTH:
                    cu += second(s, ACT, P0, P1, P2) * g_y * weighted(jt, weight, at, inside, HAS_WEIGHT)
                if HAS_C:
                    cu += times_slope(load(c_in, offsets, mask), s, ACT, P0, P1, P2)
                if HAS_C or SMOOTH:
                    out += rstd * (weighted(cu, weight, at, inside, HAS_WEIGHT) - mean_c - xh * along)
                store(cx, offsets, out, mask)
                if AFFINE:
                    to_weight = tl.where(mask, cu * xh + gu * jt, 0.0)
                    to_bias = tl.where(mask, cu, 0.0)
                    if BY_ELEMENT:
                        part_dw = tl.sum(to_weight, axis=1, keep_dims=True)
                        part_db = tl.sum(to_bias, axis=1, keep_dims=True)
                        if ACCUMULATE:
                            rows_dw += part_dw
                            rows_db += part_db
                        else:
                            put_element_sums(partial, plane, part_dw, part_db, length, l0, LB)
                    else:
                        dw += to_weight
                        db += to_bias
            if AFFINE and not BY_ELEMENT:
                put_channel_sums(partial, plane, dw, db, row, valid, c0, cg, CB)
    if ACCUMULATE:
        put_element_sums(partial, plane, rows_dw, rows_db, length, 0, LB)


def row_elements(rows: Rows, short: int) -> int:
    """Elements a program holds: ``short`` where rows fit into that; long rows go by in blocks of 4096,
    with 16 warps, since there may be few of them and each pass waits once a block for the memory. In
    channels_last more registers hold offsets: 4 warps, which may have 255 each."""
    if rows.last:
        return 1024
    return short if rows.channels * rows.length <= short else 4096


def options(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, tiling: dict[str, Any],
    act: int, p0: float, p1: float, p2: float,
) -> tuple[tuple[torch.Tensor, torch.Tensor], dict[str, Any]]:  # fmt: skip
    """Weight and bias (x stands in for an absent one, never read), and the constants of a launch."""
    tensors = x if weight is None else weight.contiguous(), x if bias is None else bias.contiguous()
    return tensors, {
        "ACT": act, "P0": p0, "P1": p1, "P2": p2,
        "HAS_WEIGHT": weight is not None, "HAS_BIAS": bias is not None, **tiling, "num_warps": warps(tiling),
    }  # fmt: skip


def norm_act(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, dims: int,
    eps: float, act: int, p0: float, p1: float, p2: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """``(y, mean, rstd)``: x and y [N, C, *] or [..., *dims], mean and rstd [N, groups] or [...] in acc."""
    rows = Rows.of(x, groups, dims)
    y = torch.empty_like(rows.x)
    acc: dict[str, Any] = {"dtype": accumulator(x.dtype), "device": x.device}
    mean, rstd = torch.empty(rows.shape, **acc), torch.empty(rows.shape, **acc)
    if y.numel() == 0:
        return y, mean.zero_(), rstd.fill_(float("nan"))  # as torch's own of an empty row
    tiling = rows.tiling(row_elements(rows, 4096))
    affine_pair, constants = options(rows.x, weight, bias, tiling, act, p0, p1, p2)
    launch(
        norm_act_kernel, -(-rows.rows // tiling["R"]), x, rows.x, *affine_pair, y, mean, rstd,
        *rows.arguments(), EPS=eps, **constants,
    )  # fmt: skip
    return y, mean, rstd


def norm_act_jvp(
    t: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None,
    bias: torch.Tensor | None, groups: int, dims: int, act: int, p0: float, p1: float, p2: float,
) -> torch.Tensor:  # fmt: skip
    """``f' * weight * J t``: t, x [N, C, *]; mean, rstd [N, groups]; the strides of x."""
    rows = Rows.of(x, groups, dims)
    y = torch.empty_like(rows.x)
    if y.numel() == 0:
        return y
    tiling = rows.tiling(row_elements(rows, 2048))
    affine_pair, constants = options(rows.x, weight, bias, tiling, act, p0, p1, p2)
    launch(
        norm_act_jvp_kernel, -(-rows.rows // tiling["R"]), x, like(y, t), rows.x, mean.contiguous(),
        rstd.contiguous(), *affine_pair, y, *rows.arguments(), **constants,
    )  # fmt: skip
    return y


def norm_act_vjp(
    g: torch.Tensor, x: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor, weight: torch.Tensor | None,
    bias: torch.Tensor | None, groups: int, dims: int, act: int, p0: float, p1: float, p2: float,
    affine: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """``(gx, dweight, dbias)`` of the cotangent g [N, C, *] of y; the last two [0] unless asked for."""
    rows = Rows.of(x, groups, dims)
    gx = torch.empty_like(rows.x)
    tiling = rows.tiling(row_elements(rows, 2048))
    sums = AffineSums(rows, tiling, affine)
    if gx.numel():
        affine_pair, constants = options(rows.x, weight, bias, tiling, act, p0, p1, p2)
        launch(
            norm_act_vjp_kernel, sums.programs, x, like(gx, g), rows.x, mean.contiguous(), rstd.contiguous(),
            *affine_pair, gx, *sums.arguments(), *rows.arguments(),
            AFFINE=sums.wanted, ACCUMULATE=sums.accumulate, **constants,
        )  # fmt: skip
    return gx, *sums.finish()


def norm_act_adjoint(
    c: torch.Tensor | None, g: torch.Tensor, t: torch.Tensor, x: torch.Tensor, mean: torch.Tensor,
    rstd: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, groups: int, dims: int,
    act: int, p0: float, p1: float, p2: float, affine: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """``(cx, dweight, dbias)`` of sweep 4: c, g, t, x [N, C, *]; without c its terms are absent."""
    rows = Rows.of(x, groups, dims)
    cx = torch.empty_like(rows.x)
    tiling = rows.tiling(row_elements(rows, 2048))
    sums = AffineSums(rows, tiling, affine)
    if cx.numel():
        affine_pair, constants = options(rows.x, weight, bias, tiling, act, p0, p1, p2)
        moving = like(cx, g), like(cx, t)
        launch(
            norm_act_adjoint_kernel, sums.programs, x, moving[0] if c is None else like(cx, c), *moving,
            rows.x, mean.contiguous(), rstd.contiguous(), *affine_pair, cx, *sums.arguments(),
            *rows.arguments(), HAS_C=c is not None, SMOOTH=is_smooth(act), AFFINE=sums.wanted,
            ACCUMULATE=sums.accumulate, **constants,
        )  # fmt: skip
    return cx, *sums.finish()
