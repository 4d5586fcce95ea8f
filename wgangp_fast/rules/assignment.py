"""Writes into a part of a tensor, in functional form: indexed assignments and ``copy_``."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .registry import DeriveError, Rule, Site, Slots, Value, add_rule, cast, register, unbroadcast

aten = torch.ops.aten


class Assignment(Rule):
    """``src`` in place of a view of ``self``; ``part`` takes that view of a tensor."""

    complex_too = True  # and autograd has no derivative for complex numbers here: stock code assigns in place

    def __init__(self, part: Callable[[Site, Value], Value]) -> None:
        self.part = part

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out: dict[str, Value] = {}
        if "self" in slots:
            out["self"] = site.call(self=g, src=g.new_zeros(site.shape("src")))
        if "src" in slots:
            out["src"] = self.part(site, g)
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        some = next(iter(t.values()))
        values = {
            slot: t[slot] if slot in t else some.new_zeros(site.shape(slot)) for slot in ("self", "src")
        }
        return site.call(**values)


add_rule(Assignment(lambda s, g: g.select(s["dim"], s["index"])), aten.select_scatter.default)
add_rule(
    Assignment(lambda s, g: aten.slice.Tensor(g, s["dim"], s["start"], s["end"], s["step"])),
    aten.slice_scatter.default,
)
add_rule(
    Assignment(lambda s, g: g.diagonal(s["offset"], s["dim1"], s["dim2"])), aten.diagonal_scatter.default
)


@register(aten.as_strided_scatter.default)
class StridedAssignment(Assignment):
    """The functional form of ``fill_diagonal_``. Autograd's derivative of it is wrong (torch 2.13: zero also
    for elements that were not written), so the generic rule may not take it."""

    def __init__(self) -> None:
        super().__init__(lambda s, g: g.contiguous().as_strided(s["size"], s["stride"], s["storage_offset"]))

    def specialise(self, site: Site) -> Rule:
        if not site.val("self").is_contiguous():
            raise DeriveError(f"{site.op} of a tensor that is not contiguous")
        return self

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return super().vjp(site, g.contiguous(), slots)

    def jvp(self, site: Site, t: Slots) -> Value:
        return super().jvp(site, {slot: value.contiguous() for slot, value in t.items()})


def strided_assignment(
    tensor: torch.Tensor, source: torch.Tensor, size: list[int], stride: list[int], offset: int | None = None
) -> torch.Tensor:
    """``aten.as_strided_scatter`` written in place, because autograd's derivative of that is right."""
    result = tensor.clone(memory_format=torch.contiguous_format)
    result.as_strided(size, stride, offset or 0).copy_(source)
    return result


@register(aten.copy.default)
class Copy(Rule):
    """``src`` broadcast to the shape and cast to the dtype of ``self``."""

    complex_too = True

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out = {}
        if "src" in slots:
            value = unbroadcast(g, site.shape("src"), site.result.shape)
            out["src"] = cast(value, site.result.dtype, site.val("src").dtype)
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        if "src" not in t:
            return None
        source = site.val("src").dtype
        return cast(t["src"], source, site.result.dtype).expand(list(site.result.shape))
