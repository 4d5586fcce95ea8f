"""Every rule of the table against autograd: values, vjp, jvp, curvature and the merged adjoint."""

from __future__ import annotations

import pytest
import settings_kernels  # noqa: F401  (enters its cases into SETTINGS)
import settings_maps  # noqa: F401  (enters its cases into SETTINGS)
import settings_norms  # noqa: F401  (enters its cases into SETTINGS)
import torch
from rule_checks import Bench, check_case, check_precision
from rule_settings import GENERIC, SETTINGS, Case, case, r

from wgangp_fast.rules import Generic, Rule, generic
from wgangp_fast.rules.registry import operators

aten = torch.ops.aten


def name_of(op) -> str:
    return getattr(op, "__name__", str(op)) if not isinstance(op, torch._ops.OpOverload) else str(op)


OPERATORS = sorted(operators(), key=name_of)


def test_every_rule_has_settings() -> None:
    assert set(SETTINGS) == set(operators())


@pytest.mark.parametrize("op", OPERATORS, ids=name_of)
def test_rule_agrees_with_autograd(op) -> None:
    for item in SETTINGS[op]:
        done = check_case(item, operators()[op])
        assert done, f"{item}: the rule covers none of the sets of moving slots"


@pytest.mark.parametrize("op", OPERATORS, ids=name_of)
def test_float32_is_as_exact_as_torch(op) -> None:
    for item in SETTINGS[op]:
        check_precision(item, item.active[-1])


@pytest.mark.parametrize("item", GENERIC, ids=lambda item: str(item.op))
def test_generic_rule_agrees_with_autograd(item: Case) -> None:
    assert check_case(item, None) == len(item.active)


@pytest.mark.parametrize(
    ("item", "outputs", "bends"),
    [
        (case(aten.topk.default, r(3, 6), 2), {0}, set()),
        (case(aten.sort.default, r(3, 4), 1), {0}, set()),
        (case(aten.max.dim, r(3, 4), 1), {0}, set()),
        (case(aten.logsumexp.default, r(3, 4), [1]), {0}, {"self"}),
        (case(aten.prod.dim_int, r(3, 4), 1), {0}, {"self"}),
        (case(aten.lerp.Scalar, r(3, 4), r(3, 4), 0.3, active=[["self"]]), {0}, set()),
        (case(aten.addcmul.default, r(4), r(4), r(4), active=[["tensor1"]]), {0}, {"tensor2"}),
        (case(aten._fft_r2c.default, r(3, 8), [1], 0, True), {0}, set()),
        (case(aten.floor.default, r(3, 4)), {0}, set()),
        (case(aten.argmax.default, r(3, 4), 1), set(), set()),
    ],
    ids=lambda value: str(value.op) if isinstance(value, Case) else None,
)
def test_generic_rule_finds_what_moves_and_bends(item: Case, outputs: set[int], bends: set[str]) -> None:
    rule = Bench(item, item.active[0]).rule
    assert isinstance(rule, Generic)
    assert (set(rule.outputs), set(rule.bends)) == (outputs, bends)


@pytest.mark.parametrize("op", [aten.var.correction, aten.std.correction], ids=str)
def test_variance_of_one_element_is_as_in_stock_code(op) -> None:
    """No degrees of freedom: stock code gives NaN or inf, and so does the rule; it must not raise."""
    bench = Bench(case(op, r(1, 3), [0], correction=1), frozenset({"self"}))
    stock = bench.stock_vjp(bench.g)["self"]
    ours = bench.rule.vjp(bench.site, bench.g[0], frozenset({"self"}))["self"]
    assert not stock.isfinite().any()
    assert not ours.isfinite().any()


def wrong(method: str, rule: Rule):
    """A method of ``rule`` whose answers are 1 % too large."""
    original = getattr(rule, method)

    def larger(value):
        return None if value is None else value * 1.01

    def changed(*args):
        found = original(*args)
        if isinstance(found, dict):
            return {slot: larger(value) for slot, value in found.items()}
        return tuple(map(larger, found)) if isinstance(found, tuple) else larger(found)

    return changed


FAMILIES = {
    "bilinear": (aten.convolution.default, "second_order"),
    "elementwise": (aten.tanh.default, "second_order"),
    "elementwise, by f''": (aten.silu.default, "second_order"),
    "elementwise, two arguments": (aten.div.Tensor, "second_order"),
    "norm": (aten.native_group_norm.default, "second_order"),
    "statistics": (aten.std.correction, "second_order"),
    "attention": (aten._softmax.default, "second_order"),
    "linear map": (aten.avg_pool2d.default, "vjp"),
    "join": (aten.cat.default, "jvp"),
    "bilinear, merged": (aten.linear.default, "adjoint"),
    "elementwise, merged": (aten.sigmoid.default, "adjoint"),
    "attention, merged": (aten._softmax.default, "adjoint"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrong_rule_does_not_pass(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, method = FAMILIES[family]
    rule = operators()[op]
    monkeypatch.setattr(rule, method, wrong(method, rule))
    with pytest.raises(AssertionError, match=" off, of "):
        check_case(SETTINGS[op][0], rule)


def test_a_wrong_generic_rule_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    original = generic.node_adjoint
    monkeypatch.setattr(generic, "node_adjoint", lambda *args: tuple(v * 1.01 for v in original(*args)))
    with pytest.raises(AssertionError, match=" off, of "):
        check_case(GENERIC[0], None)


@pytest.mark.parametrize("op", [aten.tanh.default, aten.mm.default], ids=str)
def test_a_missing_curvature_does_not_pass(op, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = operators()[op]
    monkeypatch.setattr(rule, "second_order_slots", lambda site, moving: frozenset())
    with pytest.raises(AssertionError, match="autograd finds curvature in"):
        check_case(SETTINGS[op][0], rule)


def test_an_operator_that_needs_data_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is written before there are data: a rule that looks at them must fail here too."""
    rule = operators()[aten.relu.default]
    monkeypatch.setattr(rule, "multiply", lambda site, v: v if site.val("self").sum() > 0 else -v)
    with pytest.raises(RuntimeError, match="_local_scalar_dense"):
        check_case(SETTINGS[aten.relu.default][0], rule)
