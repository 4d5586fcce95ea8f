"""Elementwise operators: one table row for each.

With ``v -> f'(h) v`` as ``multiply``, sweep 2 and sweep 3 are the same call. Second order needs ``f''``:
a row gives either ``ratio = f''/f'`` (then sweep 4 is ``multiply(c + ratio*g*t)``, one multiply for
both terms) or ``second = f''`` itself, or neither: then the operator is piecewise linear and has no
second-order term.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from .registry import Operator, Rule, Site, Slots, Value, add_rule, filled, plus, register, unbroadcast

aten = torch.ops.aten
Expression = Callable[[Site], Value]


class Unary(Rule):
    """``y = f(h)`` elementwise.

    Args:
        multiply: ``(site, v) -> f'(h) * v``, a single fused library kernel where there is one.
        ratio: ``site -> f''/f'``, a tensor or a number; times ``scale``.
        second: ``site -> f''``, a tensor or a number.
        explicit_zeros: without either: whether autograd's second order gives zeros (else None).
    """

    def __init__(
        self,
        multiply: Callable[[Site, Value], Value],
        ratio: Expression | None = None,
        second: Expression | None = None,
        explicit_zeros: bool = True,
        scale: float = 1,
    ) -> None:
        self.multiply, self.ratio, self.second, self.scale = multiply, ratio, second, scale
        self.smooth = ratio is not None or second is not None
        self.piecewise_linear = explicit_zeros and not self.smooth

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {"self": self.multiply(site, g)}

    def jvp(self, site: Site, t: Slots) -> Value:
        return self.multiply(site, t["self"])

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving & {"self"} if self.smooth else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        product = g * t["self"]
        if self.ratio is not None:
            second = self.ratio(site) * product
            return {"self": self.multiply(site, second if self.scale == 1 else second * self.scale)}
        assert self.second is not None
        return {"self": self.second(site) * product}

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if self.ratio is None or "self" not in t or g is None:
            return super().adjoint(site, c, g, t, slots)
        second = torch.addcmul(c, self.ratio(site) * g, t["self"], value=self.scale)
        return {"self": self.multiply(site, second)}


def _h(site: Site) -> Value:
    return site.primal("self")


def _y(site: Site) -> Value:
    return site.output()


def _leaky(site: Site, v: Value) -> Value:
    # From the result where the slope allows it: the input then need not be kept.
    slope = site["negative_slope"]
    keep = _y(site) if slope >= 0 else _h(site)
    return aten.leaky_relu_backward.default(v, keep, slope, slope >= 0)


def _elu(site: Site, v: Value) -> Value:
    from_result = site["alpha"] >= 0 and site["scale"] > 0
    keep = _y(site) if from_result else _h(site)
    return aten.elu_backward.default(v, site["alpha"], site["scale"], site["input_scale"], from_result, keep)


def _elu_ratio(site: Site) -> Value:
    from_result = site["alpha"] >= 0 and site["scale"] > 0
    below = (_y(site) if from_result else _h(site)) <= 0
    return below.to(site.val("self").dtype) * site["input_scale"]  # bool times a number would be float32


def _gelu_second(site: Site) -> Value:
    h = _h(site)
    if site["approximate"] == "none":
        density = torch.exp(h * h * -0.5) * (1 / math.sqrt(2 * math.pi))
        return density * (2 - h * h)
    k, cubic = math.sqrt(2 / math.pi), 0.044715
    u1 = (h * h * (3 * cubic) + 1) * k  # du/dh
    th = torch.tanh((h + h * h * h * cubic) * k)
    sech2 = 1 - th * th
    return sech2 * (u1 + 0.5 * h * (6 * k * cubic * h - 2 * th * u1 * u1))


def _silu_second(site: Site) -> Value:
    h = _h(site)
    s = torch.sigmoid(h)
    return s * (1 - s) * (2 + h * (1 - 2 * s))


def _mish_second(site: Site) -> Value:
    h = _h(site)
    s, w = torch.sigmoid(h), torch.tanh(torch.nn.functional.softplus(h))
    w1 = (1 - w * w) * s
    return 2 * w1 + h * (w1 * (1 - s) - 2 * w * w1 * s)


def _softplus_ratio(site: Site) -> Value:
    scaled = _h(site) * site["beta"]
    # Above the threshold the library is the identity; a NaN-free zero there.
    return (1 - torch.sigmoid(scaled)) * (scaled <= site["threshold"]) * site["beta"]


def _clamp(site: Site, v: Value) -> Value:
    h, low, high = _h(site), site.arguments.get("min"), site.arguments.get("max")
    if low is None or high is None:
        inside = h <= high if low is None else h >= low
    else:
        inside = (h >= low) & (h <= high)
    return torch.where(inside, v, 0)


def _hardswish_second(site: Site) -> Value:
    h = _h(site)
    return ((h > -3) & (h < 3)).to(site.val("self").dtype) / 3  # bool divided by a number would be float32


def _pow_multiply(site: Site, v: Value) -> Value:
    p = site["exponent"]
    if p == 2:
        return v * _h(site) * 2
    return v * (_h(site).pow(p - 1) * p) if p != 0 else v * 0


def _pow_second(site: Site) -> Value:
    p = site["exponent"]
    if p == 2:
        return 2
    return 0 if p in (0, 1) else _h(site).pow(p - 2) * (p * (p - 1))


def _sqrt(site: Site, v: Value) -> Value:
    return v / (_y(site) * 2)


UNARY: dict[Operator, Unary] = {
    aten.relu.default: Unary(lambda s, v: aten.threshold_backward.default(v, _y(s), 0)),
    aten.leaky_relu.default: Unary(_leaky),
    aten.threshold.default: Unary(lambda s, v: aten.threshold_backward.default(v, _h(s), s["threshold"])),
    aten.hardtanh.default: Unary(
        lambda s, v: aten.hardtanh_backward.default(v, _h(s), s["min_val"], s["max_val"])
    ),
    aten.clamp.default: Unary(_clamp, explicit_zeros=False),
    aten.clamp_min.default: Unary(_clamp, explicit_zeros=False),
    aten.clamp_max.default: Unary(_clamp, explicit_zeros=False),
    aten.abs.default: Unary(lambda s, v: v * torch.sign(_h(s))),
    aten.hardsigmoid.default: Unary(lambda s, v: aten.hardsigmoid_backward.default(v, _h(s))),
    aten.softshrink.default: Unary(lambda s, v: aten.softshrink_backward.default(v, _h(s), s["lambd"])),
    aten.hardshrink.default: Unary(lambda s, v: aten.hardshrink_backward.default(v, _h(s), s["lambd"])),
    aten.tanh.default: Unary(lambda s, v: aten.tanh_backward.default(v, _y(s)), ratio=_y, scale=-2),
    aten.sigmoid.default: Unary(
        lambda s, v: aten.sigmoid_backward.default(v, _y(s)), ratio=lambda s: 1 - 2 * _y(s)
    ),
    aten.elu.default: Unary(_elu, ratio=_elu_ratio),
    aten.softplus.default: Unary(
        lambda s, v: aten.softplus_backward.default(v, _h(s), s["beta"], s["threshold"]),
        ratio=_softplus_ratio,
    ),
    aten.gelu.default: Unary(
        lambda s, v: aten.gelu_backward.default(v, _h(s), approximate=s["approximate"]), second=_gelu_second
    ),
    aten.silu.default: Unary(lambda s, v: aten.silu_backward.default(v, _h(s)), second=_silu_second),
    aten.mish.default: Unary(lambda s, v: aten.mish_backward.default(v, _h(s)), second=_mish_second),
    aten.hardswish.default: Unary(
        lambda s, v: aten.hardswish_backward.default(v, _h(s)), second=_hardswish_second
    ),
    aten.exp.default: Unary(lambda s, v: v * _y(s), ratio=lambda s: 1),
    aten.expm1.default: Unary(lambda s, v: v * (_y(s) + 1), ratio=lambda s: 1),
    aten.log.default: Unary(lambda s, v: v / _h(s), ratio=lambda s: -1 / _h(s)),
    aten.log1p.default: Unary(lambda s, v: v / (_h(s) + 1), ratio=lambda s: -1 / (_h(s) + 1)),
    aten.sqrt.default: Unary(_sqrt, ratio=lambda s: -0.5 / _h(s)),
    aten.rsqrt.default: Unary(lambda s, v: v * _y(s).pow(3) * -0.5, ratio=lambda s: -1.5 / _h(s)),
    aten.reciprocal.default: Unary(lambda s, v: v * _y(s).square() * -1, ratio=lambda s: _y(s) * -2),
    aten.pow.Tensor_Scalar: Unary(_pow_multiply, second=_pow_second),
    aten.sin.default: Unary(lambda s, v: v * torch.cos(_h(s)), second=lambda s: -_y(s)),
    aten.cos.default: Unary(lambda s, v: v * torch.sin(_h(s)) * -1, second=lambda s: -_y(s)),
    aten.erf.default: Unary(
        lambda s, v: v * torch.exp(-_h(s).square()) * (2 / math.sqrt(math.pi)), ratio=lambda s: _h(s) * -2
    ),
    aten.atan.default: Unary(
        lambda s, v: v / (_h(s).square() + 1), ratio=lambda s: _h(s) * -2 / (_h(s).square() + 1)
    ),
}
for _op, _row in UNARY.items():
    add_rule(_row, _op)


@register(aten.div.Tensor)
class Divide(Rule):
    """``a / b`` with broadcasting; linear in ``a`` only."""

    def _narrow(self, site: Site, value: Value, slot: str) -> Value:
        value = unbroadcast(value, site.shape(slot), site.result.shape)
        return value if site.val(slot).dtype == site.result.dtype else value.to(site.val(slot).dtype)

    def _denominator(self, site: Site) -> Value:
        other = site["other"]
        return site.primal("other") if isinstance(other, torch.Tensor) else other

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        per_unit, out = g / self._denominator(site), {}
        if "self" in slots:
            out["self"] = self._narrow(site, per_unit, "self")
        if "other" in slots:
            out["other"] = self._narrow(site, per_unit * site.output() * -1, "other")
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        total = t.get("self")
        if "other" in t:
            # not plus(): -y*t_b is needed also if a has no tangent
            shift = site.output() * t["other"]
            total = -shift if total is None else total - shift
        return total / self._denominator(site)

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        if not site.is_tensor("other"):
            return frozenset()
        reached = {"other"} if moving else set()
        if "other" in moving and site.is_tensor("self"):
            reached.add("self")
        return frozenset(reached)

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        # s = g (t_a - y t_b) / b;  ds/da = -g t_b / b^2;  ds/db = -g (t_a - 2 y t_b) / b^2
        b, out = site.primal("other"), {}
        over = g / (b * b)
        if "self" in slots:
            out["self"] = self._narrow(site, over * t["other"] * -1, "self")
        if "other" in slots:
            inner = filled(site, "self", t["self"]) if "self" in t else None
            if "other" in t:
                inner = plus(inner, site.output() * t["other"] * -2)
            out["other"] = self._narrow(site, over * inner * -1, "other")
        return out


@register(aten._prelu_kernel.default)
class PReLU(Rule):
    """``max(0, x) + w * min(0, x)``: piecewise linear in x, bilinear on the negative side."""

    piecewise_linear = True

    def _scale(self, site: Site) -> Value:
        return torch.where(site.primal("self") > 0, 1, site.primal("weight"))

    def _weight(self, site: Site, value: Value) -> Value:
        return unbroadcast(
            torch.where(site.primal("self") > 0, 0, value), site.shape("weight"), site.result.shape
        )

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out = {}
        if "self" in slots:
            out["self"] = g * self._scale(site)
        if "weight" in slots:
            out["weight"] = self._weight(site, g * site.primal("self"))
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        total = None
        if "self" in t:
            total = t["self"] * self._scale(site)
        if "weight" in t:
            total = plus(total, torch.where(site.primal("self") > 0, 0, site.primal("self") * t["weight"]))
        return total

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return frozenset(slot for slot, other in (("weight", "self"), ("self", "weight")) if other in moving)

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        out = {}
        if "weight" in slots:
            out["weight"] = self._weight(site, g * t["self"])
        if "self" in slots:
            out["self"] = torch.where(site.primal("self") > 0, 0, g * t["weight"])
        return out


class Selection(Rule):
    """Operators that pass one of their arguments: ``where``, ``maximum``, ``minimum``."""

    def __init__(self, share: Callable[[Site, str, Value], Value]) -> None:
        self.share = share  # (site, slot, v) -> the part of v that belongs to slot

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        out = {}
        for slot in sorted(slots):
            value = unbroadcast(self.share(site, slot, g), site.shape(slot), site.result.shape)
            dtype = site.val(slot).dtype
            out[slot] = value if dtype == site.result.dtype else value.to(dtype)
        return out

    def jvp(self, site: Site, t: Slots) -> Value:
        total = None
        for slot, tangent in t.items():
            total = plus(total, filled(site, slot, self.share(site, slot, tangent)))
        return total


def _where(site: Site, slot: str, v: Value) -> Value:
    condition = site.primal("condition")
    return torch.where(condition, v, 0) if slot == "self" else torch.where(condition, 0, v)


def _extremum(sign: int) -> Callable[[Site, str, Value], Value]:
    def share(site: Site, slot: str, v: Value) -> Value:
        mine, other = site.primal(slot), site.primal("other" if slot == "self" else "self")
        wins = mine > other if sign > 0 else mine < other
        return torch.where(mine == other, v * 0.5, torch.where(wins, v, 0))  # ties are halved, as in autograd

    return share


add_rule(Selection(_where), aten.where.self)
add_rule(Selection(_extremum(+1)), aten.maximum.default)
add_rule(Selection(_extremum(-1)), aten.minimum.default)
