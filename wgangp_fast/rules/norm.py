"""Normalisation over a set of elements, and the statistics it is made of.

With ``xh = (h - mean) * r``, ``r = 1/sqrt(var + eps)`` over the K elements of one row and
``P(v) = v - mean(v) - xh*mean(xh*v)``, the Jacobian of ``xh`` is ``J v = r P(v)``. It is symmetric, so
the library's fused backward kernel is also the jvp. For ``s = <g, J t>``, writing ``a = mean(xh*g)``,
``b = mean(xh*t)`` and ``m = mean(g*t) - mean(g)*mean(t) - a*b``,

    ds/dh = -r * (r * m * xh + b * J g + a * J t)

and ``J g`` and ``J t`` are the results of sweeps 2 and 3. The affine part ``y = xh*w + bias`` is bilinear.
"""

from __future__ import annotations

import math

import torch

from ..engine import torch_internals
from .linear_map import reduced_dims, spread
from .registry import Rule, Site, Slots, Value, add_rule, register

aten = torch.ops.aten


class Normalisation(Rule):
    """``y = (h - mean) * r * weight + bias``; subclasses say over what, and call the library."""

    def geometry(self, site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
        """``(shape, dims, stat_shape, affine_shape)``: a view of h, its reduced dimensions, and the
        shapes in which row statistics and weights broadcast against that view."""
        raise NotImplementedError

    def backward(self, site: Site, v: Value, weight: Value, mask: list[bool]) -> tuple[Value, Value, Value]:
        """The library's backward kernel: ``(J (v*weight), sum v*xh, sum v)`` where the mask asks."""
        raise NotImplementedError

    def _weight(self, site: Site) -> Value:
        return site.primal("weight") if site.has("weight") else None

    def accepts(self, site: Site) -> bool:
        return site.active <= {"input", "self"}

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        names = ("input", "weight", "bias")
        mask = [name in slots for name in names]
        found = self.backward(site, g[0], self._weight(site), mask)
        if mask[0]:
            site.remember("J g", found[0])
        return {name: found[i] for i, name in enumerate(names) if mask[i]}

    def jvp(self, site: Site, t: Slots) -> Value:
        centred = self._moved(site, t["input"])
        if site.has("weight"):
            shape, _, _, affine = self.geometry(site)
            centred = (centred.reshape(shape) * site.primal("weight").reshape(affine)).reshape(
                site.shape("input")
            )
        return (centred,) + (None,) * (len(site.result) - 1)

    @staticmethod
    def mean_product(u: Value, v: Value, dims: list[int]) -> Value:
        """Mean of ``u*v`` over ``dims``, the dimensions kept."""
        return (u * v).mean(dims, keepdim=True)

    def _moved(self, site: Site, t: Value) -> Value:
        """``J t``."""
        return self.backward(site, t, None, [True, False, False])[0]

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        if "input" not in moving:
            return frozenset()
        return frozenset({"input"} | ({"weight"} if site.has("weight") else set()))

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        shape, dims, stats, affine = self.geometry(site)
        h, cotangent, tangent = (
            site.primal("input").reshape(shape),
            g[0].reshape(shape),
            t["input"].reshape(shape),
        )
        jt = self._moved(site, t["input"]).reshape(shape)
        out: dict[str, Value] = {}
        if "weight" in slots:
            kept = [d for d in range(len(shape)) if affine[d] == 1 and shape[d] != 1]
            out["weight"] = (
                (cotangent * jt).sum(kept).reshape(site.shape("weight"))
                if kept
                else (cotangent * jt).reshape(site.shape("weight"))
            )
        if "input" in slots:
            jg = site.recall("J g")  # sweep 2 made it
            if jg is None:
                jg = self.backward(site, g[0], self._weight(site), [True, False, False])[0]
            if site.has("weight"):
                cotangent = cotangent * site.primal("weight").reshape(affine)
            mean, r = site.output(1).reshape(stats), site.output(2).reshape(stats)
            centred = h - mean  # first of all: a large mean would cancel in float32
            g_mean, t_mean = cotangent.mean(dims, keepdim=True), tangent.mean(dims, keepdim=True)
            a = self.mean_product(centred, cotangent, dims) * r
            b = self.mean_product(centred, tangent, dims) * r
            m = self.mean_product(cotangent, tangent, dims) - g_mean * t_mean - a * b
            second = centred * (m * r * r * -r)
            second = torch.addcmul(second, jg.reshape(shape), b * -r)
            second = torch.addcmul(second, jt, a * -r)
            out["input"] = second.reshape(site.shape("input"))
        return out


@register(aten.native_layer_norm.default)
class LayerNorm(Normalisation):
    def geometry(self, site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
        shape, inner = site.shape("input"), len(site["normalized_shape"])
        k = 1
        for size in shape[len(shape) - inner :]:
            k *= size
        rows = site.val("input").numel() // max(k, 1)
        return [rows, k], [1], [rows, 1], [1, k]

    def backward(self, site: Site, v: Value, weight: Value, mask: list[bool]) -> tuple[Value, Value, Value]:
        # The kernel refuses to fill a bias gradient without a bias; it never reads the bias's values, so
        # the weight, which is at hand, stands in for it where there is one.
        bias = None
        if mask[2]:
            bias = weight if weight is not None else site.primal("bias")
        return aten.native_layer_norm_backward.default(
            v,
            site.primal("input"),
            site["normalized_shape"],
            site.output(1),
            site.output(2),
            weight,
            bias,
            mask,
        )


@register(aten.native_group_norm.default)
class GroupNorm(Normalisation):
    def geometry(self, site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
        n, c, length, groups = site["N"], site["C"], site["HxW"], site["group"]
        return [n, groups, c // groups, length], [2, 3], [n, groups, 1, 1], [1, groups, c // groups, 1]

    def backward(self, site: Site, v: Value, weight: Value, mask: list[bool]) -> tuple[Value, Value, Value]:
        # The kernel reads both with the strides of one of them: on a CPU channels_last, if the input is.
        h = site.val("input")
        on_cpu = h.device.type == "cpu"
        layout = torch_internals.kernel_layout(h) if on_cpu else torch.contiguous_format
        if layout is not torch.contiguous_format:
            mask = [True, *mask[1:]]  # torch 2.13's channels_last kernel crashes without an input gradient
        v = v.contiguous(memory_format=layout)
        return aten.native_group_norm_backward.default(
            v, site.primal("input").contiguous(memory_format=layout), site.output(1), site.output(2), weight,
            site["N"], site["C"], site["HxW"], site["group"], mask,
        )  # fmt: skip


class BatchNorm(Normalisation):
    """Batch statistics: couples the samples, and is differentiated as exactly as stock does it."""

    def geometry(self, site: Site) -> tuple[list[int], list[int], list[int], list[int]]:
        shape = site.shape("input")
        length = 1
        for size in shape[2:]:
            length *= size
        return [shape[0], shape[1], length], [0, 2], [1, shape[1], 1], [1, shape[1], 1]

    def trains(self, site: Site) -> bool:
        return bool(site.arguments.get("training", False))

    def backward(self, site: Site, v: Value, weight: Value, mask: list[bool]) -> tuple[Value, Value, Value]:
        return aten.native_batch_norm_backward.default(
            v,
            site.primal("input"),
            weight,
            None,
            None,
            site.output(1),
            site.output(2),
            True,
            site["eps"],
            mask,
        )


class FixedNorm(Normalisation):
    """Batch norm in ``eval()``: constant statistics, hence linear in h and bilinear with the weight."""

    def _r(self, site: Site) -> Value:
        return torch.rsqrt(site.primal("running_var") + site["eps"]).reshape(_channel(site))

    def _scale(self, site: Site) -> Value:
        r = self._r(site)
        return r * site.primal("weight").reshape(_channel(site)) if site.has("weight") else r

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out: dict[str, Value] = {}
        if "input" in slots:
            out["input"] = g[0] * self._scale(site)
        dims = _others(site)
        if "weight" in slots:
            xh = (site.primal("input") - site.primal("running_mean").reshape(_channel(site))) * self._r(site)
            out["weight"] = (g[0] * xh).sum(dims)
        if "bias" in slots:
            out["bias"] = g[0].sum(dims)
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        return (t["input"] * self._scale(site),) + (None,) * (len(site.result) - 1)

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return frozenset({"weight"}) if "input" in moving and site.has("weight") else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return {"weight": (g[0] * t["input"] * self._r(site)).sum(_others(site))}


def _channel(site: Site) -> list[int]:
    return [1, -1] + [1] * (site.val("input").dim() - 2)


def _others(site: Site) -> list[int]:
    return [d for d in range(site.val("input").dim()) if d != 1]


class _EitherBatchNorm(Rule):
    """One operator, two meanings: the ``training`` argument chooses."""

    inline = False

    def __init__(self) -> None:
        self.batch, self.fixed = BatchNorm(), FixedNorm()

    def _of(self, site: Site) -> Normalisation:
        return self.batch if self.batch.trains(site) else self.fixed

    def accepts(self, site: Site) -> bool:
        return site.active <= {"input"}

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return self._of(site).vjp(site, g, slots)

    def jvp(self, site: Site, t: Slots) -> Value:
        return self._of(site).jvp(site, t)

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return self._of(site).second_order_slots(site, moving)

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self._of(site).second_order(site, g, t, slots)


add_rule(
    _EitherBatchNorm(),
    *(aten.native_batch_norm.default, aten._native_batch_norm_legit.default),
    *(aten._native_batch_norm_legit.no_stats, aten._native_batch_norm_legit_functional.default),
    *(aten._native_batch_norm_legit_no_training.default,),
)


class Variance(Rule):
    """``var`` (``root=False``) and ``std`` over some dimensions, with a correction."""

    def __init__(self, root: bool) -> None:
        self.root = root

    def _dof(self, site: Site) -> float:
        count = site.val("self").numel() // max(site.result.numel(), 1)
        correction = 1 if site["correction"] is None else site["correction"]
        return max(count - correction, 0)

    def _centred(self, site: Site, v: Value) -> Value:
        return v - v.mean(reduced_dims(site), keepdim=True)

    def _factor(self, site: Site) -> Value:
        """var: 2/dof. std: 1/(dof*y), zero where y is zero, as in autograd."""
        if not self.root:
            return 2 / self._dof(site) if self._dof(site) else math.inf  # as autograd has it for one element
        y = spread(site, site.output())
        return torch.where(y == 0, 0, 1 / (y * self._dof(site)))

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {"self": self._centred(site, site.primal("self")) * (spread(site, g) * self._factor(site))}

    def jvp(self, site: Site, t: Slots) -> Value:
        moved = self._rate(site, t["self"])
        return moved.reshape(list(site.result.shape))

    def _rate(self, site: Site, tangent: Value) -> Value:
        centred = self._centred(site, site.primal("self"))
        return (centred * tangent).sum(reduced_dims(site), keepdim=True) * self._factor(site)

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving & {"self"}

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        second = self._centred(site, t["self"])
        if self.root:
            y = spread(site, site.output())
            rate = self._rate(site, t["self"])
            second = second - self._centred(site, site.primal("self")) * torch.where(y == 0, 0, rate / y)
        return {"self": second * (spread(site, g) * self._factor(site))}


add_rule(Variance(root=False), aten.var.correction)
add_rule(Variance(root=True), aten.std.correction)


@register(aten.linalg_vector_norm.default)
class VectorNorm(Rule):
    """The Euclidean norm over some dimensions; other orders go to the generic rule."""

    def accepts(self, site: Site) -> bool:
        return site["ord"] == 2 and site["dtype"] is None

    def _unit(self, site: Site) -> tuple[Value, Value]:
        n = spread(site, site.output())
        inverse = torch.where(n == 0, 0, 1 / n)  # the subgradient zero, as in autograd
        return site.primal("self") * inverse, inverse

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {"self": self._unit(site)[0] * spread(site, g)}

    def jvp(self, site: Site, t: Slots) -> Value:
        rate = (self._unit(site)[0] * t["self"]).sum(reduced_dims(site), keepdim=True)
        return rate.reshape(list(site.result.shape))

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving & {"self"}

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        unit, inverse = self._unit(site)
        rate = (unit * t["self"]).sum(reduced_dims(site), keepdim=True)
        return {"self": (t["self"] - unit * rate) * (spread(site, g) * inverse)}
