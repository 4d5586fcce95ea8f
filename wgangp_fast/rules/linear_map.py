"""Linear operators: views, sums, padding, pooling by averages, upsampling, casts.

``jvp`` applies the operator to the tangent, ``vjp`` applies its transpose; there is no second-order
term. A row of the table is a transpose; an operator that is linear for fixed indices
(max-pooling's choice, a dropout mask) is here too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch

from .registry import Operator, Rule, Site, Slots, Value, add_rule, cast, filled, plus, unbroadcast

aten = torch.ops.aten


class LinearMap(Rule):
    """An operator linear in one slot.

    Args:
        transpose: ``(site, g) -> cotangent of the slot``.
        forward: ``(site, t) -> tangent of the output``; the operator itself if not given.
        slot: the slot.
        inline: a cheap view; of a parameter it stays in the plan.
    """

    def __init__(
        self,
        transpose: Callable[[Site, Value], Value],
        forward: Callable[[Site, Value], Value] | None = None,
        slot: str = "self",
        inline: bool = False,
        piecewise_linear: bool = False,
        complex_too: bool = False,
    ) -> None:
        self.transpose, self.forward, self.slot = transpose, forward, slot
        self.inline, self.piecewise_linear, self.complex_too = inline, piecewise_linear, complex_too

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {self.slot: self.transpose(site, g)} if self.slot in slots else {}

    def jvp(self, site: Site, t: Slots) -> Value:
        tangent = t[self.slot]
        return self.forward(site, tangent) if self.forward else site.call(**{self.slot: tangent})


def _reshape_back(site: Site, g: Value) -> Value:
    return g.reshape(site.shape("self"))


def _reshape(site: Site, t: Value) -> Value:
    return t.reshape(list(site.result.shape))


def _same(site: Site, value: Value) -> Value:
    return value


def _permute_back(site: Site, g: Value) -> Value:
    dims = [d % g_dim for d, g_dim in zip(site["dims"], itertools.repeat(site.result.dim()))]
    return torch.permute(g, [dims.index(i) for i in range(len(dims))])


def _expand_back(site: Site, g: Value) -> Value:
    return unbroadcast(g, site.shape("self"), site.result.shape)


def _cast_back(site: Site, g: Value) -> Value:
    source = site.val("self")
    return cast(g, site.result.dtype, source.dtype).to(source.device)


def _cast(site: Site, t: Value) -> Value:
    return t.to(device=site.result.device, dtype=site.result.dtype)


def _zeros(site: Site, g: Value, slot: str = "self") -> Value:
    return g.new_zeros(site.shape(slot))


def _index_back(site: Site, g: Value) -> Value:
    indices = [
        site.primal(f"indices.{i}") if isinstance(index, torch.Tensor) else None
        for i, index in enumerate(site["indices"])
    ]
    return aten.index_put.default(_zeros(site, g), indices, g, True)


def _flip_cumsum(site: Site, g: Value) -> Value:
    summed = g.flip(site["dim"]).cumsum(site["dim"]).flip(site["dim"])
    source = site.val("self").dtype
    return summed if source == site.result.dtype else summed.to(source)


def reduced_dims(site: Site) -> list[int]:
    rank = site.val("self").dim()
    dims = site.arguments.get("dim")
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(rank))
    return sorted(d % rank for d in ([dims] if isinstance(dims, int) else dims)) if rank else []


def spread(site: Site, value: Value) -> Value:
    """A view of a reduced value that broadcasts over the dimensions that were reduced."""
    if site.arguments.get("keepdim"):
        return value
    shape = site.shape("self")
    for d in reduced_dims(site):
        shape[d] = 1
    return value.reshape(shape)


def _sum_back(site: Site, g: Value) -> Value:
    source = site.val("self")
    g = spread(site, g).expand(site.shape("self"))
    return g if source.dtype == site.result.dtype else g.to(source.dtype)


def _mean_back(site: Site, g: Value) -> Value:
    count = site.val("self").numel() // max(site.result.numel(), 1)
    return _sum_back(site, g / max(count, 1))


def _repeat_back(site: Site, g: Value) -> Value:
    shape, repeats = site.shape("self"), list(site["repeats"])
    padded = [1] * (len(repeats) - len(shape)) + shape
    split = [size for pair in zip(repeats, padded) for size in pair]
    return g.reshape(split).sum(list(range(0, len(split), 2))).reshape(shape)


def _reflect_back(name: str) -> Callable[[Site, Value], Value]:
    backward = getattr(aten, f"{name}_backward").default
    return lambda site, g: backward(g, g.new_empty(1).expand(site.shape("self")), site["padding"])


def _average_back(name: str) -> Callable[[Site, Value], Value]:
    backward = getattr(aten, f"{name}_backward").default
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return lambda site, g: backward(g, site.primal("self"), *(site[n] for n in names))


def _adaptive_back(name: str) -> Callable[[Site, Value], Value]:
    backward = getattr(aten, f"{name}_backward").default
    return lambda site, g: backward(g, site.primal("self"))


def _upsample_back(name: str) -> Callable[[Site, Value], Value]:
    backward = getattr(aten, f"{name}_backward").default

    def transpose(site: Site, g: Value) -> Value:
        extra = [v for k, v in site.arguments.items() if k not in ("self", "output_size")]
        return backward(g, site["output_size"], site.shape("self"), *extra)

    return transpose


def _pool_indices(site: Site, t: Value) -> Value:
    """Max-pooling's jvp: the tangent at the chosen places."""
    spatial = 2 if "max_pool2d" in str(site.op) else 3
    indices = site.output(1).flatten(-spatial)
    picked = t.flatten(-spatial).gather(-1, indices)
    return picked.reshape(list(site.result[0].shape))


def _pool_scatter(site: Site, g: Value) -> Value:
    spatial = 2 if "max_pool2d" in str(site.op) else 3
    shape = site.shape("self")
    flat = [*shape[:-spatial], -1]
    size = 1
    for s in shape[-spatial:]:
        size *= s
    flat[-1] = size
    indices = site.output(1).flatten(-spatial)
    return g.new_zeros(flat).scatter_add(-1, indices, g.flatten(-spatial)).reshape(shape)


class _FirstOutput(LinearMap):
    """Linear in a tuple whose other members do not move (indices, masks)."""

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return super().vjp(site, g[0], slots) if g[0] is not None else {}

    def jvp(self, site: Site, t: Slots) -> Value:
        return (super().jvp(site, t),) + (None,) * (len(site.result) - 1)


def _dropout_scale(site: Site, v: Value) -> Value:
    p = site["p"]
    if site["train"] is False:
        return v
    scale = 0.0 if p >= 1 else 1 / (1 - p)
    return v * site.output(1) * scale


def _view(
    transpose: Callable[[Site, Value], Value], forward: Callable[[Site, Value], Value] | None = None
) -> LinearMap:
    return LinearMap(transpose, forward, inline=True, complex_too=True)


TABLE: dict[Operator, LinearMap] = {
    aten.view.default: _view(_reshape_back, _reshape),
    aten._unsafe_view.default: _view(_reshape_back, _reshape),
    aten.reshape.default: _view(_reshape_back, _reshape),
    aten.permute.default: _view(_permute_back),
    aten.transpose.int: _view(lambda s, g: g.transpose(s["dim0"], s["dim1"])),
    aten.t.default: _view(lambda s, g: g.t()),
    aten.unsqueeze.default: _view(_reshape_back, _reshape),
    aten.squeeze.default: _view(_reshape_back, _reshape),
    aten.squeeze.dim: _view(_reshape_back, _reshape),
    aten.squeeze.dims: _view(_reshape_back, _reshape),
    aten.expand.default: _view(_expand_back),
    aten.alias.default: _view(_same, _same),
    aten.clone.default: _view(_same, _same),
    aten.contiguous.default: _view(_same, _same),
    aten.lift_fresh_copy.default: LinearMap(_same, _same),
    aten._to_copy.default: LinearMap(_cast_back, _cast, inline=True, complex_too=True),
    aten.slice.Tensor: _view(
        lambda s, g: aten.slice_backward.default(
            g, s.shape("self"), s["dim"], s["start"] or 0, _end(s), s["step"]
        )
    ),
    aten.select.int: _view(
        lambda s, g: aten.select_backward.default(g, s.shape("self"), s["dim"], s["index"])
    ),
    aten.diagonal.default: LinearMap(
        lambda s, g: aten.diagonal_backward.default(g, s.shape("self"), s["offset"], s["dim1"], s["dim2"])
    ),
    aten.unfold.default: LinearMap(
        lambda s, g: aten.unfold_backward.default(g, s.shape("self"), s["dimension"], s["size"], s["step"])
    ),
    aten.repeat.default: LinearMap(_repeat_back, inline=True),
    aten.flip.default: LinearMap(lambda s, g: g.flip(s["dims"])),
    aten.roll.default: LinearMap(lambda s, g: g.roll([-n for n in s["shifts"]], s["dims"])),
    aten.tril.default: LinearMap(lambda s, g: g.tril(s["diagonal"])),
    aten.triu.default: LinearMap(lambda s, g: g.triu(s["diagonal"])),
    aten.pixel_shuffle.default: LinearMap(lambda s, g: aten.pixel_unshuffle.default(g, s["upscale_factor"])),
    aten.pixel_unshuffle.default: LinearMap(
        lambda s, g: aten.pixel_shuffle.default(g, s["downscale_factor"])
    ),
    aten.index.Tensor: LinearMap(_index_back),
    aten.index_select.default: LinearMap(lambda s, g: _zeros(s, g).index_add(s["dim"], s.primal("index"), g)),
    aten.gather.default: LinearMap(lambda s, g: _zeros(s, g).scatter_add(s["dim"], s.primal("index"), g)),
    aten.cumsum.default: LinearMap(_flip_cumsum),
    aten.neg.default: LinearMap(lambda s, g: -g),
    aten.mul.Scalar: LinearMap(lambda s, g: g * s["other"]),
    aten.div.Scalar: LinearMap(lambda s, g: g / s["other"]),
    aten.constant_pad_nd.default: LinearMap(
        lambda s, g: aten.constant_pad_nd.default(g, [-p for p in s["pad"]]),
        lambda s, t: aten.constant_pad_nd.default(t, s["pad"], 0),
        inline=True,
    ),
    aten.masked_fill.Scalar: LinearMap(
        lambda s, g: _expand_back(s, g.masked_fill(s.primal("mask"), 0)),
        lambda s, t: t.masked_fill(s.primal("mask"), 0),
    ),
    aten.sum.default: LinearMap(_sum_back),
    aten.sum.dim_IntList: LinearMap(_sum_back),
    aten.mean.default: LinearMap(_mean_back),
    aten.mean.dim: LinearMap(_mean_back),
    aten.native_dropout.default: _FirstOutput(_dropout_scale, _dropout_scale, slot="input"),
    aten.max_pool2d_with_indices.default: _FirstOutput(_pool_scatter, _pool_indices, piecewise_linear=True),
    aten.max_pool3d_with_indices.default: _FirstOutput(_pool_scatter, _pool_indices, piecewise_linear=True),
    aten.adaptive_max_pool2d.default: _FirstOutput(_pool_scatter, _pool_indices, piecewise_linear=True),
    aten.adaptive_max_pool3d.default: _FirstOutput(_pool_scatter, _pool_indices, piecewise_linear=True),
}
for _name in ("reflection_pad1d", "reflection_pad2d", "reflection_pad3d"):
    TABLE[getattr(aten, _name).default] = LinearMap(_reflect_back(_name), piecewise_linear=True)
for _name in ("replication_pad1d", "replication_pad2d", "replication_pad3d"):
    TABLE[getattr(aten, _name).default] = LinearMap(_reflect_back(_name), piecewise_linear=True)
for _name in ("avg_pool2d", "avg_pool3d"):
    TABLE[getattr(aten, _name).default] = LinearMap(_average_back(_name), piecewise_linear=True, inline=True)
for _name in ("_adaptive_avg_pool2d", "_adaptive_avg_pool3d"):
    TABLE[getattr(aten, _name).default] = LinearMap(_adaptive_back(_name), piecewise_linear=True)
for _name in (
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d"),
    *(
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
    ),
):
    TABLE[getattr(aten, _name).default] = LinearMap(_upsample_back(_name))
for _op, _row in TABLE.items():
    add_rule(_row, _op)


def _end(site: Site) -> int:
    end = site["end"]
    return 2**63 - 1 if end is None else end


class _Sum(Rule):
    """``a + scale*b`` with broadcasting; a number in either place is a constant."""

    inline = False

    def __init__(self, sign: int = 1) -> None:
        self.sign = sign

    def _scale(self, site: Site, slot: str) -> float:
        return 1 if slot == "self" else self.sign * site["alpha"]

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out = {}
        for slot in sorted(slots):
            scale = self._scale(site, slot)
            value = unbroadcast(g if scale == 1 else g * scale, site.shape(slot), site.result.shape)
            if site.val(slot).dtype != site.result.dtype:
                value = value.to(site.val(slot).dtype)
            out[slot] = value
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        total: Value = None
        for slot, tangent in t.items():
            scale = self._scale(site, slot)
            total = plus(total, filled(site, slot, tangent if scale == 1 else tangent * scale))
        return total


add_rule(_Sum(), aten.add.Tensor, aten.add.Scalar)
add_rule(_Sum(-1), aten.sub.Tensor, aten.sub.Scalar)


class _ReverseSubtraction(LinearMap):
    """``other - alpha*self`` with a number for ``other``."""

    def __init__(self) -> None:
        def negate(site: Site, v: Value) -> Value:
            return v * -site["alpha"]

        super().__init__(negate, negate)


add_rule(_ReverseSubtraction(), aten.rsub.Scalar)


class _Join(Rule):
    """``cat`` and ``stack``."""

    complex_too = True

    def __init__(self, stack: bool) -> None:
        self.stack = stack

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        dim, rank, start, out = site["dim"], site.result.dim(), 0, {}
        for slot in site.slots():
            shape, dtype = site.shape(slot), site.val(slot).dtype
            if not self.stack and len(shape) != rank:  # the legacy empty tensor that cat skips
                continue
            if slot in slots:
                part = g.select(dim, start) if self.stack else g.narrow(dim, start, shape[dim])
                out[slot] = cast(part, site.result.dtype, dtype)
            start += 1 if self.stack else shape[dim]
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        some, parts, dtype = next(iter(t.values())), [], site.result.dtype
        for slot in site.slots():
            part = t[slot] if slot in t else some.new_zeros(site.shape(slot), dtype=dtype)
            parts.append(part if slot not in t or site.val(slot).dtype == dtype else part.to(dtype))
        return torch.stack(parts, site["dim"]) if self.stack else torch.cat(parts, site["dim"])


add_rule(_Join(stack=False), aten.cat.default)
add_rule(_Join(stack=True), aten.stack.default)


class _Split(Rule):
    """``split``, ``chunk``, ``unbind``: a tuple of views."""

    inline = True
    every_output = True
    complex_too = True

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        some = next(member for member in g if member is not None)
        dim = site["dim"]
        parts = [
            some.new_zeros(list(piece.shape)) if member is None else member
            for member, piece in zip(g, site.result)
        ]
        joined = torch.stack(parts, dim) if "unbind" in str(site.op) else torch.cat(parts, dim)
        return {"self": joined}

    def jvp(self, site: Site, t: Slots) -> Value:
        split = site.call(self=t["self"])
        return tuple(split[i] for i in range(len(site.result)))


add_rule(
    _Split(),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.unsafe_split.Tensor),
    *(aten.unsafe_split_with_sizes.default, aten.unbind.int),
)
