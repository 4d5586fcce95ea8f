"""Every differentiable operator of ATen: the generic rule and the written ones against autograd.

The calls come from torch's own samples, not from the rules: an operator that nobody thought of is here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from operator_samples import calls, op_db
from rule_checks import CHECKS, Bench, check_transposes, inner
from rule_settings import Case
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from wgangp_fast.rules import DeriveError, Generic, Rule, Site, rule_of
from wgangp_fast.rules.registry import operators


@pytest.fixture(scope="module")
def recorded() -> dict[Any, list[Case]]:
    return calls(op_db())


def refusal(bench: Bench) -> str | None:
    """Why the rule does not take the node, as a derivation would be told."""
    slots = bench.case.wanted
    try:
        bench.rule.vjp(bench.site, bench.given(bench.g), slots)
        bent = bench.rule.second_order_slots(bench.site, bench.active) & slots
        bench.rule.adjoint(
            bench.site, bench.given(bench.c), bench.given(bench.g) if bent else None, bench.t, slots
        )
    except DeriveError as error:
        return str(error)
    return None


def stock_error(bench: Bench) -> str | None:
    """What autograd raises when it differentiates the operator twice."""
    try:
        bench.stock_vjp(bench.g)
        bench.stock_jvp()
        bench.stock_curvature()
    except RuntimeError as error:
        return str(error)
    return None


def consistent(bench: Bench) -> bool:
    """Whether autograd's own second order is the transpose of its first. torch 2.13's layer norm with a bias
    and no weight forgets the bias's tangent; the stock penalty has that too."""
    likes = [g for g in bench.g if g is not None]
    pulled = bench.stock_vjp(bench.g)
    left = sum(float(inner(g, v)) for g, v in zip(likes, bench.stock_jvp(), strict=True))
    right = sum(float(inner(pulled[s], t)) for s, t in bench.t.items() if pulled.get(s) is not None)
    return not abs(left - right) > 1e-6 * (abs(left) + abs(right) + 1)


def is_gauge(error: str | None) -> bool:
    """Eigenvectors are defined up to a phase, and no random cotangent is one of theirs: the complex critics
    of ``test_complex_critics`` have them instead."""
    return error is not None and ("phase" in error or "e^{i phi}" in error)


def problem(case: Case, active: frozenset[str], choose: Callable[[Site], Rule]) -> str | None:
    try:
        bench = Bench(case, active, choose=choose)
    except DynamicOutputShapeException:
        return None  # no graph can hold it
    if choose is rule_of and isinstance(bench.rule, Generic):
        return None
    impossible = stock_error(bench)
    if is_gauge(impossible):
        return None
    refused = refusal(bench)
    if impossible is not None and not isinstance(bench.rule, Generic):
        return None  # a written rule may know more than autograd (hardsigmoid's second order)
    if (refused is None) != (impossible is None):
        return f"autograd: {impossible}; ours: {refused}"
    if refused is not None:
        return None
    sound = consistent(bench)
    for check in CHECKS:
        if check is check_transposes and not sound:
            continue
        try:
            check(bench)
        except Exception as error:
            return f"{check.__name__}: {type(error).__name__}: {error}"
    return None


def problems(recorded: dict[Any, list[Case]], choose: Callable[[Site], Rule]) -> list[str]:
    found = {}
    for op, cases in recorded.items():
        for case in cases:
            for active in case.active:
                what = problem(case, active, choose)
                if what is not None:
                    found.setdefault((op, what[:40]), f"{case}, moving {sorted(active)}: {what}")
    return [text[:400] for text in found.values()]


def forced(site: Site) -> Rule:
    return Generic(site, "asked for")


def test_the_generic_rule_agrees_with_autograd_or_refuses(recorded: dict[Any, list[Case]]) -> None:
    assert len(recorded) > 300
    found = problems(recorded, forced)
    assert not found, "\n".join(found)


def test_written_rules_agree_with_autograd(recorded: dict[Any, list[Case]]) -> None:
    written = {op: cases for op, cases in recorded.items() if op in operators()}
    assert len(written) > 100
    found = problems(written, rule_of)
    assert not found, "\n".join(found)
