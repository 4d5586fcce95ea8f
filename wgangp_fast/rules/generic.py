"""The rule for every operator that has no other: differentiate that one node with autograd, twice.

Exact for whatever autograd differentiates twice, complex operators included; slower than a written
rule, because each sweep runs the operator again. Which outputs move and which inputs bend is found
once, when the plan is written, by differentiating fake tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .registry import Rule, Site, Slots, call_operator


def _tensors(values: Mapping[str, Any], slots: Sequence[str]) -> tuple[dict[str, Any], list[Tensor]]:
    """Copy ``values`` with fresh autograd leaves in ``slots``; return the copy and the leaves."""
    fresh: dict[str, Any] = {k: list(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
    leaves = []
    for slot in slots:
        name, _, index = slot.partition(".")
        leaf = (fresh[name][int(index)] if index else fresh[name]).detach().requires_grad_()
        if index:
            fresh[name][int(index)] = leaf
        else:
            fresh[name] = leaf
        leaves.append(leaf)
    return fresh, leaves


def _moving(result: Any, cotangents: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs that have a cotangent and a graph, with those cotangents."""
    results = list(result) if isinstance(result, (tuple, list)) else [result]
    given = list(cotangents) if isinstance(cotangents, (tuple, list)) else [cotangents]
    pairs = [(r, c) for r, c in zip(results, given) if c is not None and r.requires_grad]
    return [r for r, _ in pairs], [c for _, c in pairs]


def node_vjp(op: Any, values: Mapping[str, Any], slots: Sequence[str], g: Any) -> tuple[Tensor, ...]:
    """Cotangents of ``slots``."""
    with torch.enable_grad():
        fresh, leaves = _tensors(values, slots)
        outputs, cotangents = _moving(call_operator(op, fresh), g)
    return torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)


def node_jvp(op: Any, values: Mapping[str, Any], slots: Sequence[str], tangents: Sequence[Tensor]) -> Any:
    """Tangent of the output: the gradient, with respect to its cotangent, of the vjp."""
    with torch.enable_grad():
        fresh, leaves = _tensors(values, slots)
        result = call_operator(op, fresh)
        many = isinstance(result, (tuple, list))
        results = list(result) if many else [result]
        probes = [torch.zeros_like(r, requires_grad=True) if r.requires_grad else None for r in results]
        outputs, cotangents = _moving(results, probes)
        pulled = torch.autograd.grad(outputs, leaves, cotangents, create_graph=True, allow_unused=True)
        pairs = [(p, t) for p, t in zip(pulled, tangents) if p is not None and p.requires_grad]
        if not pairs:
            pushed: Sequence[Tensor] = [torch.zeros_like(r) for r in outputs]
        else:
            pushed = torch.autograd.grad(
                [p for p, _ in pairs],
                cotangents,
                [t for _, t in pairs],
                allow_unused=True,
                materialize_grads=True,
            )
    found = iter(pushed)
    moved = tuple(None if p is None else next(found) for p in probes)
    return moved if many else moved[0]


def node_adjoint(
    op: Any,
    values: Mapping[str, Any],
    slots: Sequence[str],
    moving: Sequence[str],
    g: Any,
    tangents: Sequence[Tensor],
    c: Any,
) -> tuple[Tensor, ...]:
    """``vjp(c) + d/dslot <g, jvp(t)>`` for each of ``slots``, in one double-backward of the node."""
    both = list(dict.fromkeys([*slots, *moving]))
    with torch.enable_grad():
        fresh, leaves = _tensors(values, both)
        result = call_operator(op, fresh)
        outputs, cotangents = _moving(result, c)
        bent, bent_cotangents = _moving(result, g)
        if bent:
            of_moving = [leaves[both.index(m)] for m in moving]
            pulled = torch.autograd.grad(
                bent, of_moving, bent_cotangents, create_graph=True, allow_unused=True
            )
            for p, t in zip(pulled, tangents):
                if p is not None and p.requires_grad:
                    outputs.append(p)
                    cotangents.append(t)
    wanted = [leaves[both.index(s)] for s in slots]
    if not outputs:
        return tuple(torch.zeros_like(leaf) for leaf in wanted)
    return torch.autograd.grad(outputs, wanted, cotangents, allow_unused=True, materialize_grads=True)


class Generic(Rule):
    """Autograd on one node. ``reason`` says why no written rule took it (shown by ``explain``)."""

    def __init__(self, site: Site, reason: str) -> None:
        self.reason = reason
        slots = [s for s in site.slots() if site.val(s).is_floating_point() or site.val(s).is_complex()]
        try:
            self.outputs, self.bends = self._probe(site, slots)
        except RuntimeError:  # autograd cannot differentiate by a slot that is perhaps not wanted
            self.outputs, self.bends = self._probe(site, sorted(site.active))
            self.bends |= frozenset(slots) - site.active

    def _probe(self, site: Site, slots: list[str]) -> tuple[frozenset[int], frozenset[str]]:
        """Which outputs move with the active slots; in which of ``slots`` autograd finds curvature."""
        with torch.enable_grad():
            fresh, leaves = _tensors(site.arguments, slots)
            moved = [leaf for slot, leaf in zip(slots, leaves) if slot in site.active]
            mode = getattr(leaves[0], "fake_mode", None)
            try:
                if mode is not None:
                    mode.__enter__()
                result = call_operator(site.op, fresh)
                results = list(result) if isinstance(result, (tuple, list)) else [result]
                moving = frozenset(
                    i for i, r in enumerate(results) if isinstance(r, Tensor) and r.requires_grad
                )
                if not moving:
                    return moving, frozenset()
                outputs = [results[i] for i in sorted(moving)]
                pulled = torch.autograd.grad(
                    outputs,
                    moved,
                    [torch.ones_like(o) for o in outputs],
                    create_graph=True,
                    allow_unused=True,
                )
                pulled = tuple(p for p in pulled if p is not None and p.requires_grad)
                if not pulled:
                    return moving, frozenset()
                second = torch.autograd.grad(
                    pulled, leaves, [torch.ones_like(p) for p in pulled], allow_unused=True
                )
                return moving, frozenset(slot for slot, s in zip(slots, second) if s is not None)
            finally:
                if mode is not None:
                    mode.__exit__(None, None, None)

    def vjp(self, site: Site, g: Any, slots: frozenset[str]) -> Slots:
        names = sorted(slots)
        found = site.apply(node_vjp, site.op, site.values(), names, g)
        return {name: found[i] for i, name in enumerate(names)}

    def jvp(self, site: Site, t: Slots) -> Any:
        names = sorted(t)
        moved = site.apply(node_jvp, site.op, site.values(), names, [t[n] for n in names])
        if isinstance(site.result, (tuple, list)):
            return tuple(moved[i] if i in self.outputs else None for i in range(len(site.result)))
        return moved

    def curved(self, site: Site, moving: frozenset[str]) -> frozenset[str]:
        return self.bends if moving else frozenset()

    def curvature(self, site: Site, g: Any, t: Slots, slots: frozenset[str]) -> Slots:
        return self.adjoint(site, None, g, t, slots)

    def adjoint(self, site: Site, c: Any, g: Any, t: Slots, slots: frozenset[str]) -> Slots:
        names, moving = sorted(slots), sorted(t)
        found = site.apply(node_adjoint, site.op, site.values(), names, moving, g, [t[m] for m in moving], c)
        return {name: found[i] for i, name in enumerate(names)}
