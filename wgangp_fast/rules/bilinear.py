"""Bilinear operators: matrix products, convolutions, multiplication.

Three functions give every order: ``apply`` (the product itself), ``transpose_a`` (gradient for the
first factor) and ``transpose_b`` (gradient for the second). Usually the second factor is a parameter:
then sweep 2 is ``transpose_a(g, b)``, sweep 3 is ``apply(t, b)``, the first weight-gradient term is
``transpose_b(t, g)`` and sweep 4 adds ``transpose_b(a, c)``. The two terms are made by ONE call on the
concatenated pairs, because a weight gradient sums over the batch anyway. Both factors may depend
on x, as in attention; then the cross terms are the second-order term.
"""

from __future__ import annotations

import torch

from ..ops.registry import KERNELS
from . import products
from .registry import Argument, Rule, Site, Slots, Value, plus, register, unbroadcast

aten = torch.ops.aten


class Bilinear(Rule):
    """``y = apply(a, b) (+ bias)``; subclasses name the slots and give the three functions."""

    a, b = "self", "mat2"
    bias: str | None = None
    #: dimension along which both (a, g) pairs of two weight-gradient terms are concatenated; None: add.
    merge: int | None = 0

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        raise NotImplementedError

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        raise NotImplementedError

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        raise NotImplementedError

    def copies_are_dear(self, site: Site) -> bool:
        """Whether, on a CPU, the activations are too large to be copied, also compared with the weights."""
        copied = site.val(self.a).numel() + site.result.numel()
        on_cpu = site.val(self.a).device.type == "cpu"
        return on_cpu and copied > 1 << 18 and site.val(self.b).numel() < 2 * copied

    def takes_pairs(self, site: Site) -> bool:
        """Whether :meth:`transpose_b_of` takes its pairs as they are, without concatenating them."""
        return False

    def transpose_b_of(self, site: Site, pairs: list[tuple[Value, Value]]) -> Value:
        """The sum of :meth:`transpose_b` over pairs ``(a, g)``, in one call; for rules that merge."""
        assert self.merge is not None
        a, g = (torch.cat(list(values), self.merge) for values in zip(*pairs))
        return self.transpose_b(site, a, g)

    def bias_gradient(self, site: Site, g: Value) -> Value:
        raise NotImplementedError

    def bias_tangent(self, site: Site, t: Value) -> Value:
        raise NotImplementedError

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out: dict[str, Value] = {}
        if self.a in slots:
            out[self.a] = self.transpose_a(site, g, site.primal(self.b))
        if self.b in slots:
            out[self.b] = self.transpose_b(site, site.primal(self.a), g)
        if self.bias in slots:
            assert self.bias is not None
            out[self.bias] = self.bias_gradient(site, g)
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        total = None
        if self.a in t:
            total = self.apply(site, t[self.a], site.primal(self.b))
        if self.b in t:
            total = plus(total, self.apply(site, site.primal(self.a), t[self.b]))
        if self.bias in t:
            assert self.bias is not None
            total = plus(total, self.bias_tangent(site, t[self.bias]))
        return total

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return frozenset(
            slot
            for slot, other in ((self.b, self.a), (self.a, self.b))
            if other in moving and site.is_tensor(slot)
        )

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        out: dict[str, Value] = {}
        if self.a in slots:
            out[self.a] = self.transpose_a(site, g, t[self.b])
        if self.b in slots:
            out[self.b] = self.transpose_b(site, t[self.a], g)
        return out

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if self.merge is None or g is None or self.a not in t or self.b not in slots:
            return super().adjoint(site, c, g, t, slots)
        rest = slots - {self.b}
        # First the one that needs more scratch memory, while the other's result does not exist yet:
        # the concatenated copies for large activations, the library's reordered weight for large weights.
        out: dict[str, Value] = {}
        large_weight = site.val(self.b).numel() > site.val(self.a).numel()
        if large_weight:
            out.update(super().adjoint(site, c, g, t, rest))
        out[self.b] = self.transpose_b_of(site, [(t[self.a], g), (site.primal(self.a), c)])
        if not large_weight:
            out.update(super().adjoint(site, c, g, t, rest))
        return out


@register(aten.convolution.default)
class Convolution(Bilinear):
    """Convolution of any rank, stride, dilation and grouping, transposed or not."""

    a, b, bias = "input", "weight", "bias"

    def second_order_in_sweep3(self, site: Site) -> bool:
        # One call on both pairs saves a call and a pass over the weights, and costs a copy of activations.
        # (Own kernels copy nothing, but keep the tangent until then.)
        # On a CPU that pays for small activations and for large weights: at batch 16, 256 to 512 channels at
        # 8 x 8 take 20 ms instead of 31, but 64 to 128 at 32 x 32 take 14 instead of 13
        # (benchmarks/products.py), and more memory.
        return self.copies_are_dear(site)

    def explicit_zeros(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        # In stock code a mean pooling gives explicit zeros; here it is part of this operator.
        pooled = bool(moving) and site.info.pooled
        return frozenset(site.slots()) if pooled else super().explicit_zeros(site, moving)

    def _geometry(self, site: Site) -> tuple[Argument, ...]:
        names = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")
        return tuple(site[name] for name in names)

    def _window(self, site: Site) -> tuple[int, ...]:
        return products.window(site["stride"], site["padding"], site["dilation"], site.val(self.b))

    def _steps(self, site: Site) -> tuple[int, ...]:
        return products.steps(site["stride"], site["padding"], site["dilation"])

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        if "forward" in site.info.own_products:
            return KERNELS["convolve"].call(a, b, None, *self._steps(site))
        if site.info.unfolded:
            return products.convolved(a, b, None, self._window(site), list(site.result.shape))
        return torch.convolution(a, b, None, *self._geometry(site))

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        # The library only reads the shape of the input here: expand() gives one without memory, but on a
        # CPU it would be copied to be dense, where pages of an empty tensor that nobody touches cost nothing.
        like = site.shape(self.a)
        if "back" in site.info.own_products:
            return KERNELS["convolve_back"].call(g, b, *like[2:], *self._steps(site))
        if site.info.unfolded:
            return products.convolved_back(g, b, self._window(site), like, site.result.shape[1])
        on_cpu = site.val(self.a).device.type == "cpu"
        shaped = g.new_empty(like) if on_cpu else g.new_empty(1).expand(like)
        return aten.convolution_backward.default(
            g, shaped, b, None, *self._geometry(site), [True, False, False]
        )[0]

    def takes_pairs(self, site: Site) -> bool:
        return "weight" in site.info.own_products

    def transpose_b_of(self, site: Site, pairs: list[tuple[Value, Value]]) -> Value:
        if not self.takes_pairs(site):
            return super().transpose_b_of(site, pairs)
        a, g = (list(values) for values in zip(*pairs))
        return KERNELS["weight_gradient"].call(a, g, *site.shape(self.b)[2:], *self._steps(site))

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        if self.takes_pairs(site):
            return self.transpose_b_of(site, [(a, g)])
        return aten.convolution_backward.default(
            g, a, site.primal(self.b), None, *self._geometry(site), [False, True, False]
        )[1]

    def bias_gradient(self, site: Site, g: Value) -> Value:
        return g.sum([0, *range(2, site.result.dim())])

    def bias_tangent(self, site: Site, t: Value) -> Value:
        shape = [1, -1] + [1] * (site.result.dim() - 2)
        return t.reshape(shape).expand(list(site.result.shape))


@register(aten.linear.default)
class Linear(Bilinear):
    """``a @ b.T + bias``; plans hold it where the critic's graph has mm or addmm with a transposed weight."""

    a, b, bias = "input", "weight", "bias"

    def second_order_in_sweep3(self, site: Site) -> bool:
        return self.copies_are_dear(site)

    def _onednn(self, site: Site) -> bool:
        return products.takes(site.result, site.shape(self.a)[-1], site.result.shape[-1])

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return products.onednn(a, b) if self._onednn(site) else torch.nn.functional.linear(a, b)

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        if self._onednn(site):
            return products.onednn(g, b.t())
        return torch.matmul(g, b) if site.result.dim() != 2 else torch.mm(g, b)

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        if site.result.dim() != 2:
            a, g = a.reshape(-1, site.shape(self.a)[-1]), g.reshape(-1, site.result.shape[-1])
        return products.onednn(g.t(), a.t()) if self._onednn(site) else torch.mm(g.t(), a)

    def bias_gradient(self, site: Site, g: Value) -> Value:
        dims = list(range(site.result.dim() - 1))
        return g.sum(dims) if dims else g  # an empty list would mean every dimension

    def bias_tangent(self, site: Site, t: Value) -> Value:
        return t.expand(list(site.result.shape))


@register(aten.mm.default)
class MatrixProduct(Bilinear):
    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return torch.mm(a, b)

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        return torch.mm(g, b.t())

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        return torch.mm(a.t(), g)


@register(aten.bmm.default)
class BatchedMatrixProduct(Bilinear):
    merge = 1

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return torch.bmm(a, b)

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        return torch.bmm(g, b.mT)

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        return torch.bmm(a.mT, g)


@register(aten.mv.default)
class MatrixVector(Bilinear):
    b = "vec"

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return torch.mv(a, b)

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        return torch.outer(g, b)

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        return torch.mv(a.t(), g)


@register(aten.dot.default)
class Dot(Bilinear):
    a, b, merge = "self", "tensor", None

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return torch.dot(a, b)

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        return g * b

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        return g * a


@register(aten.mul.Tensor)
class Multiply(Bilinear):
    """Elementwise product with broadcasting; also a product with a number in the second place."""

    b, merge = "other", None

    def apply(self, site: Site, a: Value, b: Value) -> Value:
        return self._product(site, a, b)

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        if site.is_tensor(self.b):
            return super().vjp(site, g, slots)
        return {self.a: g * site[self.b]}

    def jvp(self, site: Site, t: Slots) -> Value:
        if site.is_tensor(self.b):
            return super().jvp(site, t)
        return t[self.a] * site[self.b]

    def transpose_a(self, site: Site, g: Value, b: Value) -> Value:
        return self._narrow(site, self._product(site, g, b), self.a)

    def transpose_b(self, site: Site, a: Value, g: Value) -> Value:
        return self._narrow(site, self._product(site, g, a), self.b)

    def _product(self, site: Site, v: Value, factor: Value) -> Value:
        """``v * factor``; by ``torch.mul`` if neither is broadcast or cast: then a pass may overwrite v."""
        same = all(
            site.val(slot).shape == site.result.shape and site.val(slot).dtype == site.result.dtype
            for slot in (self.a, self.b)
        )
        return torch.mul(v, factor) if same else v * factor

    def _narrow(self, site: Site, value: Value, slot: str) -> Value:
        value = unbroadcast(value, site.shape(slot), site.result.shape)
        return value if site.val(slot).dtype == site.result.dtype else value.to(site.val(slot).dtype)
