"""Softmax and log-softmax; with the bilinear rules they make attention.

``scaled_dot_product_attention`` is captured as its mathematical form (matrix products and softmax),
because the fused library kernels have no second derivative.
"""

from __future__ import annotations

import torch

from .registry import Rule, Site, Slots, Value, register

aten = torch.ops.aten


@register(aten._softmax.default, aten._safe_softmax.default)
class Softmax(Rule):
    """``y = softmax(h)``; the Jacobian ``J = diag(y) - y y^T`` is symmetric."""

    def multiply(self, site: Site, v: Value) -> Value:
        return aten._softmax_backward_data.default(v, site.output(), site["dim"], site.val("self").dtype)

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {"self": self.multiply(site, g)}

    def jvp(self, site: Site, t: Slots) -> Value:
        return self.multiply(site, t["self"])

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving & {"self"}

    def _bend(self, site: Site, g: Value, t: Value) -> Value:
        # d/dy of <g, J t> = sum y g t - (sum y g)(sum y t)
        y, dim = site.output(), site["dim"]
        return g * t - (y * t).sum(dim, keepdim=True) * g - (y * g).sum(dim, keepdim=True) * t

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        return {"self": self.multiply(site, self._bend(site, g, t["self"]))}

    def adjoint(self, site: Site, c: Value, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        if g is None or "self" not in t:
            return super().adjoint(site, c, g, t, slots)
        return {"self": self.multiply(site, c + self._bend(site, g, t["self"]))}


@register(aten._log_softmax.default)
class LogSoftmax(Rule):
    """``y = h - logsumexp(h)``: ``J = 1 - 1 p^T`` with ``p = exp(y)``."""

    def vjp(self, site: Site, g: Value, slots: frozenset[str]) -> Slots:
        return {
            "self": aten._log_softmax_backward_data.default(
                g, site.output(), site["dim"], site.val("self").dtype
            )
        }

    def jvp(self, site: Site, t: Slots) -> Value:
        p = torch.exp(site.output())
        return t["self"] - (p * t["self"]).sum(site["dim"], keepdim=True)

    def second_order_slots(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return moving & {"self"}

    def second_order(self, site: Site, g: Value, t: Slots, slots: frozenset[str]) -> Slots:
        p, tangent, dim = torch.exp(site.output()), t["self"], site["dim"]
        centred = tangent - (p * tangent).sum(dim, keepdim=True)
        return {"self": p * centred * g.sum(dim, keepdim=True) * -1}
