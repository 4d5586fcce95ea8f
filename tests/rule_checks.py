"""Checks of one rule on one case, ours against autograd; each raises AssertionError on a difference.

A rule sees fake tensors where it may look at shapes and real ones where it computes, as in a plan, so a
rule that reads data where it must not fails here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from rule_settings import Case
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from wgangp_fast.rules import Generic, Rule, Site, rule_of
from wgangp_fast.rules.registry import call_operator

_fakes = FakeTensorMode()


def _map(function: Any, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_map(function, member) for member in value]
    return function(value) if isinstance(value, Tensor) else value


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for member in value for tensor in _tensors(member)]
    return [value] if isinstance(value, Tensor) else []


def _slot(arguments: Mapping[str, Any], slot: str) -> Any:
    name, _, index = slot.partition(".")
    return arguments[name][int(index)] if index else arguments[name]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The real inner product, in float64 at least."""
    if a.is_complex():
        a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
    return (a.double() * b.double()).sum()


class Bench:
    """One case with one set of moving slots: random g, t, c; the rule's site; autograd's answers.

    Args:
        dtype: every floating-point argument is cast to it (None: left alone).
        like: draw the same g, t and c as this one, cast; inputs too. For the comparison of precisions.
        choose: gives the rule of a site.
    """

    def __init__(
        self,
        case: Case,
        active: frozenset[str],
        dtype: torch.dtype | None = None,
        like: Bench | None = None,
        choose: Callable[[Site], Rule] = rule_of,
    ) -> None:
        self.case, self.active, self.op = case, active, case.op
        source = case.arguments if like is None else like.arguments

        def cast(value: Tensor) -> Tensor:
            # to() keeps the strides of a dense tensor; others are wanted in float64 only
            return value.to(dtype) if dtype is not None and value.is_floating_point() else value

        self.arguments = {name: _map(cast, value) for name, value in source.items()}
        self.result = self._run(self.arguments)
        self.many = isinstance(self.result, (list, tuple))
        results = list(self.result) if self.many else [self.result]
        mode = _fakes
        fakes = {name: _map(mode.from_tensor, value) for name, value in self.arguments.items()}
        fake_result = _map(mode.from_tensor, results) if self.many else mode.from_tensor(self.result)
        self.site = Site(self.op, fakes, self._read, active, tuple(fake_result) if self.many else fake_result)
        self.rule = choose(self.site)
        if isinstance(self.rule, Generic):
            moving = self.rule.outputs
        else:
            moving = frozenset(range(len(results))) if self.rule.every_output else frozenset({0})
        single = any(v.dtype == torch.float32 for v in (*results, *_tensors(self.arguments)))
        self.tolerance = 1e-5 if single else 1e-9
        generator = torch.Generator().manual_seed(5)

        def draw(tensor: Tensor) -> Tensor:
            kind = torch.complex128 if tensor.is_complex() else torch.float64
            return torch.randn(tensor.shape, generator=generator, dtype=kind).to(tensor.dtype)

        if like is None:
            self.g = [draw(result) if i in moving else None for i, result in enumerate(results)]
            self.c = [draw(result) if i in moving else None for i, result in enumerate(results)]
            self.t = {slot: draw(_slot(self.arguments, slot)) for slot in sorted(active)}
        else:
            self.g, self.c = ([None if v is None else cast(v) for v in values] for values in (like.g, like.c))
            self.t = {slot: cast(v) for slot, v in like.t.items()}

    def _run(self, arguments: Mapping[str, Any], stock: bool = False) -> Any:
        torch.manual_seed(3)  # dropout draws the same mask every time
        if stock and self.case.stand_in is not None:
            return self.case.stand_in(**arguments)
        return call_operator(self.op, arguments)

    def _read(self, kind: str, key: Any) -> Any:
        if kind == "in":
            return _slot(self.arguments, key)
        return self.result if key is None else self.result[key]

    def given(self, values: Sequence[Any]) -> Any:
        """A cotangent as the rule takes it: a tuple only for an operator with several outputs."""
        return tuple(values) if self.many else values[0]

    # autograd's answers -----------------------------------------------------------------------------

    def _graph(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Fresh leaves for the wanted slots, and the results computed from them."""
        leaves = {
            slot: _slot(self.arguments, slot).detach().requires_grad_() for slot in sorted(self.case.wanted)
        }
        arguments = {
            name: list(v) if isinstance(v, (list, tuple)) else v for name, v in self.arguments.items()
        }
        for slot, leaf in leaves.items():
            name, _, index = slot.partition(".")
            if index:
                arguments[name][int(index)] = leaf
            else:
                arguments[name] = leaf
        result = self._run(arguments, stock=True)
        return leaves, list(result) if self.many else [result]

    @staticmethod
    def _grad(
        outputs: Sequence[Any], inputs: Sequence[Tensor], cotangents: Sequence[Any], create: bool = False
    ) -> Any:
        pairs = [(y, g) for y, g in zip(outputs, cotangents) if g is not None and y.requires_grad]
        if not pairs:
            return [None] * len(inputs)
        ys, gs = zip(*pairs)
        return torch.autograd.grad(ys, inputs, gs, create_graph=create, allow_unused=True)

    def stock_vjp(self, g: Sequence[Any]) -> dict[str, Any]:
        leaves, results = self._graph()
        return dict(zip(leaves, self._grad(results, list(leaves.values()), g)))

    def stock_jvp(self) -> list[Tensor]:
        """The transpose of the transpose: the vjp is linear in its cotangent, as a random one."""
        leaves, results = self._graph()
        probes = [None if g is None else g.clone().requires_grad_() for g in self.g]
        names = sorted(self.active)
        pulled = self._grad(results, [leaves[n] for n in names], probes, create=True)
        wanted = [p for p in probes if p is not None]
        pushed = self._grad(
            pulled_or_empty(pulled), wanted, [self.t[n] for n, p in zip(names, pulled) if p is not None]
        )
        return [torch.zeros_like(p) if v is None else v for p, v in zip(wanted, pushed)]

    def stock_curvature(self) -> dict[str, Any]:
        leaves, results = self._graph()
        names = sorted(self.active)
        pulled = self._grad(results, [leaves[n] for n in names], self.g, create=True)
        tangents = [self.t[n] for n, p in zip(names, pulled) if p is not None]
        return dict(zip(leaves, self._grad(pulled_or_empty(pulled), list(leaves.values()), tangents)))


def pulled_or_empty(pulled: Sequence[Any]) -> list[Tensor]:
    return [p for p in pulled if p is not None]


def close(bench: Bench, ours: Any, stock: Any, like: Tensor, what: str) -> None:
    """Equal values, shapes and dtypes; None is a zero."""
    if ours is None and stock is None:
        return
    ours, stock = (torch.zeros_like(like) if v is None else v for v in (ours, stock))
    assert ours.shape == like.shape, f"{what}: shape {list(ours.shape)}, must be {list(like.shape)}"
    assert ours.dtype == like.dtype, f"{what}: dtype {ours.dtype}, must be {like.dtype}"
    if like.numel() == 0:
        return
    undefined = stock.isnan()  # a norm at zero: autograd's second derivative is NaN, a written rule's is not
    assert isinstance(bench.rule, Generic) or not ours[undefined].isnan().any(), f"{what}: NaN"
    same = undefined | (ours == stock)  # infinities too
    top = float(stock.masked_fill(undefined | stock.isinf(), 0).abs().max())
    error = float((ours - stock).masked_fill(same, 0).abs().max())
    assert error <= bench.tolerance * max(top, 1e-3), f"{what}: {error:.1e} off, of {top:.1e}"


def check_vjp(bench: Bench) -> None:
    rule, site, wanted = bench.rule, bench.site, bench.case.wanted
    variants = [bench.g]
    if rule.every_output:  # zero members are absent
        variants.append([bench.g[0], *[None] * (len(bench.g) - 1)])
    for g in variants:
        stock = bench.stock_vjp(g)
        for slots in (wanted, *({s} for s in wanted)):
            ours = rule.vjp(site, bench.given(g), frozenset(slots))
            for slot in slots:
                close(bench, ours.get(slot), stock[slot], _slot(bench.arguments, slot), f"vjp of {slot}")


def our_jvp(bench: Bench) -> list[Any]:
    found = bench.rule.jvp(bench.site, bench.t)
    found = list(found) if bench.many else [found]
    for value, g in zip(found, bench.g):
        assert g is not None or value is None, "jvp: a tangent of an output that does not move"
    return [v for v, g in zip(found, bench.g) if g is not None]


def check_jvp(bench: Bench) -> None:
    likes = [g for g in bench.g if g is not None]
    for ours, stock, like in zip(our_jvp(bench), bench.stock_jvp(), likes, strict=True):
        close(bench, ours, stock, like, "jvp")


def check_transposes(bench: Bench) -> None:
    """``<g, J t> = <J^T g, t>``: needs no autograd at all."""
    pulled = bench.rule.vjp(bench.site, bench.given(bench.g), bench.active)
    likes = [g for g in bench.g if g is not None]
    left = sum(inner(g, v) for g, v in zip(likes, our_jvp(bench)) if v is not None)
    right = sum(inner(pulled[s], t) for s, t in bench.t.items() if pulled.get(s) is not None)
    scale = sum(float(g.abs().sum()) for g in likes) + abs(float(right)) + 1
    undefined = not math.isfinite(float(right))
    assert undefined or abs(float(left - right)) <= bench.tolerance * scale, (
        f"<g, J t> = {float(left)}, <J^T g, t> = {float(right)}"
    )


def check_curvature(bench: Bench) -> None:
    rule, site = bench.rule, bench.site
    stock = bench.stock_curvature()
    second_order_slots = rule.second_order_slots(site, bench.active) & bench.case.wanted
    for slot in bench.case.wanted - second_order_slots:
        value = stock[slot]
        assert value is None or not value.any(), (
            f"autograd finds curvature in {slot}, not in second_order_slots()"
        )
        if slot in bench.active and bench.case.stand_in is None:
            # decides which parameters get zeros and which None
            assert (value is not None) == rule.piecewise_linear, f"piecewise_linear: {slot} gets {value}"
    for slots in (second_order_slots, *({s} for s in second_order_slots)):
        if slots:
            ours = rule.second_order(site, bench.given(bench.g), bench.t, frozenset(slots))
            for slot in slots:
                close(
                    bench, ours.get(slot), stock[slot], _slot(bench.arguments, slot), f"curvature of {slot}"
                )


def check_adjoint(bench: Bench) -> None:
    """Sweep 4 in one call: vjp of c plus curvature; without g or t it is the vjp alone."""
    rule, site, wanted = bench.rule, bench.site, bench.case.wanted
    first, second = bench.stock_vjp(bench.c), bench.stock_curvature()
    for bent in (True, False):
        for slots in (wanted, *({s} for s in wanted)):
            # as in a derivation, g is handed over only where one of the slots bends
            bends = bent and bool(rule.second_order_slots(site, bench.active) & set(slots))
            g, t = (bench.given(bench.g) if bends else None), (bench.t if bent else {})
            ours = rule.adjoint(site, bench.given(bench.c), g, t, frozenset(slots))
            for slot in slots:
                stock = first[slot]
                if bent and second[slot] is not None:
                    stock = second[slot] if stock is None else stock + second[slot]
                close(
                    bench, ours.get(slot), stock, _slot(bench.arguments, slot), f"adjoint of {slot} ({bent=})"
                )


def check_forward(bench: Bench) -> None:
    """The operator put together from its schema again is the operator."""
    torch.manual_seed(3)
    again = bench.site.call()
    for ours, stock in zip(again if bench.many else [again], bench.result if bench.many else [bench.result]):
        assert torch.equal(ours, stock), "site.call() is not the operator"


CHECKS = (check_forward, check_vjp, check_jvp, check_transposes, check_curvature, check_adjoint)


def check_case(case: Case, rule: Rule | None) -> int:
    """Every check, for every set of moving slots that the rule covers; returns how many sets."""
    done = 0
    for active in case.active:
        bench = Bench(case, active)
        if rule is not None and bench.rule is not rule.specialise(bench.site):
            continue  # not covered: the generic rule would be tested instead
        for check in CHECKS:
            try:
                check(bench)
            except AssertionError as error:
                raise AssertionError(f"{case}, moving {sorted(active)}: {error}") from None
        done += 1
    return done


def quantities(bench: Bench, ours: bool) -> dict[str, Any]:
    """vjp, jvp and adjoint of a bench, by our rule or by autograd."""
    wanted = bench.case.wanted
    if ours:
        g = bench.given(bench.g) if bench.rule.second_order_slots(bench.site, bench.active) & wanted else None
        first = dict(bench.rule.vjp(bench.site, bench.given(bench.g), wanted))
        moved = our_jvp(bench)
        last = dict(bench.rule.adjoint(bench.site, bench.given(bench.c), g, bench.t, wanted))
    else:
        first, moved = bench.stock_vjp(bench.g), bench.stock_jvp()
        pulled, bent = bench.stock_vjp(bench.c), bench.stock_curvature()
        last = {s: bent[s] if v is None else v if bent[s] is None else v + bent[s] for s, v in pulled.items()}
    found = {f"vjp {s}": v for s, v in first.items()} | {f"jvp {i}": v for i, v in enumerate(moved)}
    return found | {f"adjoint {s}": v for s, v in last.items()}


def check_precision(case: Case, active: frozenset[str]) -> None:
    """The three-way rule: float32's error against float64 is at most a few times that of torch itself."""
    small = Bench(case, active, torch.float32)
    exact = quantities(Bench(case, active, torch.float64, like=small), ours=False)
    ours, stock = quantities(small, ours=True), quantities(small, ours=False)
    for name, truth in exact.items():
        mine, theirs = ours.get(name), stock.get(name)
        if truth is None or mine is None or theirs is None or not truth.numel():
            continue
        assert mine.dtype == theirs.dtype, f"{case}: {name} is {mine.dtype}, torch's is {theirs.dtype}"
        undefined = truth.isnan() | theirs.isnan()
        theirs_off, off = ((v - truth).masked_fill(undefined, 0).abs().max() for v in (theirs, mine))
        limit = 4 * float(theirs_off) + 4e-6 * max(float(truth.masked_fill(undefined, 0).abs().max()), 1.0)
        error = float(off)
        assert error <= limit, (
            f"{case}, moving {sorted(active)}: {name} is {error:.1e} off, limit {limit:.1e}"
        )
