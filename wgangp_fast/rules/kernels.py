"""Rules of the package's own operations, which ``engine.passes`` puts into a critic's graph."""

from __future__ import annotations

from ..ops.activations import ACTIVATIONS, NAMES
from ..ops.registry import KERNELS
from .registry import Argument, Rule, Site, Slots, Value, add_rule


def _call(name: str, *args: Value) -> Value:
    return KERNELS[name].call(*args)


def _act(site: Site) -> tuple[float, ...]:
    return tuple(site[name] for name in ("act", "p0", "p1", "p2"))


class BiasAct(Rule):
    """``y = f(x + bias)``; the activation's row says what is saved and whether f'' is zero."""

    def __init__(self, smooth: bool) -> None:
        self.smooth, self.piecewise_linear = smooth, not smooth

    def accepts(self, site: Site) -> bool:
        return site.active <= {"x"}

    def _tail(self, site: Site) -> tuple[Argument, ...]:
        from_x = ACTIVATIONS[NAMES[site["act"]]].saves == "x"
        bias = site.primal("bias") if from_x and site.has("bias") else None
        ref = site.primal("x") if from_x else site.output()
        return ref, bias, site["dim"], *_act(site)

    def _slots(self, site: Site, value: Value, slots: frozenset[str]) -> Slots:
        dims = [d for d in range(site.result.dim()) if d != site["dim"]]
        summed = value.sum(dims) if dims and slots - {"x"} else value
        return {slot: value if slot == "x" else summed for slot in sorted(slots)}

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return self._slots(site, _call("bias_act_grad", g, *self._tail(site)), slots)

    def jvp(self, site: Site, t: Slots) -> Value:
        return _call("bias_act_grad", t["x"], *self._tail(site))

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        if not self.smooth or "x" not in moving:
            return frozenset()
        return frozenset({"x", "bias"} if site.has("bias") else {"x"})

    def explicit_zeros(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving | {"bias"} if self.piecewise_linear and moving else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self._with_second_order(site, None, g, t, slots)

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if not self.smooth or g is None or "x" not in t:
            return self.vjp(site, c, slots)
        return self._with_second_order(site, c, g, t, slots)

    def _with_second_order(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self._slots(site, _call("bias_act_adjoint", c, g, t["x"], *self._tail(site)), slots)


class AnyBiasAct(Rule):
    """Piecewise linear or smooth: the activation's number decides."""

    def __init__(self) -> None:
        self.linear, self.smooth = BiasAct(False), BiasAct(True)

    def specialise(self, site: Site) -> Rule:
        return self.linear if ACTIVATIONS[NAMES[site["act"]]].d2f is None else self.smooth


add_rule(AnyBiasAct(), KERNELS["bias_act"].call)


class Gate(Rule):
    """``sigmoid(a) * tanh(b)``."""

    def _ab(self, site: Site) -> tuple[Value, Value]:
        return site.primal("a"), site.primal("b")

    def accepts(self, site: Site) -> bool:
        return site.active <= {"a", "b"}

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        found = _call("gate_vjp", g, *self._ab(site))
        return {slot: found["ab".index(slot)] for slot in sorted(slots)}

    def jvp(self, site: Site, t: Slots) -> Value:
        if "a" in t and "b" in t:
            return _call("gate_jvp", t["a"], t["b"], *self._ab(site))
        (slot,) = t
        return t[slot] * self.vjp(site, site.primal("a").new_ones(site.shape("a")), frozenset({slot}))[slot]

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return frozenset({"a", "b"}) if moving else frozenset()

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self._with_second_order(site, None, g, t, slots)

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if g is None or not t:
            return self.vjp(site, c, slots)
        return self._with_second_order(site, c, g, t, slots)

    def _with_second_order(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        tangents = [t[slot] if slot in t else site.primal(slot).new_zeros(site.shape(slot)) for slot in "ab"]
        found = _call("gate_adjoint", c, g, *tangents, *self._ab(site))
        return {slot: found["ab".index(slot)] for slot in sorted(slots)}


add_rule(Gate(), KERNELS["gate"].call)


class NormAct(Rule):
    """``y = f(xh * weight + bias)``: one kernel for each order, which gives weight gradients too."""

    def accepts(self, site: Site) -> bool:
        return site.active <= {"x"}

    def _tail(self, site: Site) -> tuple[Argument, ...]:
        affine = [site.primal(slot) if site.has(slot) else None for slot in ("weight", "bias")]
        return (
            *(site.primal("x"), site.output(1), site.output(2), *affine, site["groups"], site["dims"]),
            *_act(site),
        )

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        affine = not slots <= {"x"}
        return self._slots(_call("norm_act_vjp", g[0], *self._tail(site), affine), slots)

    @staticmethod
    def _slots(found: Value, slots: frozenset[str]) -> Slots:
        return {slot: found[i] for i, slot in enumerate(("x", "weight", "bias")) if slot in slots}

    def jvp(self, site: Site, t: Slots) -> Value:
        return _call("norm_act_jvp", t["x"], *self._tail(site)), None, None

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        if "x" not in moving:
            return frozenset()
        smooth = ACTIVATIONS[NAMES[site["act"]]].d2f is not None
        reached = {"x", "weight", "bias"} if smooth else {"x", "weight"}
        return frozenset(slot for slot in reached if slot == "x" or site.has(slot))

    def explicit_zeros(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        # zeros of the activation inside; a norm's own second order has none
        bends = ACTIVATIONS[NAMES[site["act"]]].d2f is not None or NAMES[site["act"]] == "identity"
        return frozenset() if bends or not moving else frozenset({"x", "weight", "bias"})

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return self._with_second_order(site, None, g, t, slots)

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if g is None or "x" not in t:
            return self.vjp(site, c, slots)
        return self._with_second_order(site, c[0], g, t, slots)

    def _with_second_order(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        affine = not slots <= {"x"}
        return self._slots(_call("norm_act_adjoint", c, g[0], t["x"], *self._tail(site), affine), slots)


add_rule(NormAct(), KERNELS["norm_act"].call)
