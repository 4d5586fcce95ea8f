"""What the generic rule refuses and what it must not: operators of ``torch.library``, operators that only
choose indices, and the package's own operations; in whole critics, against the stock penalty."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import frontend_critic
import pytest
import torch
from penalty_checks import compare, points
from rule_checks import Bench
from rule_settings import case, r
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast.ops.registry import KERNELS
from wgangp_fast.rules import DeriveError, Generic, generic

aten = torch.ops.aten
NAMESPACE = "wgangp_fast_test"


def wave(x: Tensor) -> Tensor:
    return x.sin()


def slope(g: Tensor, x: Tensor) -> Tensor:
    return g * x.cos()


@pytest.fixture(scope="module")
def custom() -> Iterator[Any]:
    """Operators that a user might register: with all derivatives, with one, with none, with none declared."""
    library = torch.library.Library(NAMESPACE, "FRAGMENT")
    for name, function, arguments in (
        *(("full", wave, "Tensor x"), ("once", wave, "Tensor x"), ("once_raw", wave, "Tensor x")),
        *(("never", wave, "Tensor x"), ("slope", slope, "Tensor g, Tensor x")),
        *(("raw", wave, "Tensor x"), ("raw_slope", slope, "Tensor g, Tensor x")),
    ):
        if "raw" in name and name != "once_raw":
            library.define(f"{name}({arguments}) -> Tensor")
            library.impl(name, function, "CPU")
            library.impl(name, lambda *args: torch.empty_like(args[-1]), "Meta")
        else:
            made = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=())
            made.register_fake(lambda *args: torch.empty_like(args[-1]))
    ops = getattr(torch.ops, NAMESPACE)

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    for name, backward in (("full", slope), ("once", ops.slope), ("once_raw", ops.raw_slope)):
        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", lambda ctx, g, f=backward: f(g, *ctx.saved_tensors), setup_context=keep
        )
    yield ops
    library._destroy()


def generic_rule(op: Any, *args: Any, active: list[str]) -> tuple[Bench, Generic]:
    bench = Bench(case(op, *args, active=[active]), frozenset(active))
    assert isinstance(bench.rule, Generic)
    return bench, bench.rule


class Critic(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.op, self.inner, self.out = op, nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.op(self.inner(x)))


def test_an_operator_with_both_derivatives_is_differentiated(custom: Any) -> None:
    compare(lambda: Critic(custom.full), points((3, 4)))


@pytest.mark.parametrize("name", ["never", "raw", "once", "once_raw"])
def test_an_operator_without_them_is_named(custom: Any, name: str) -> None:
    reason = wgangp_fast.explain(Critic(getattr(custom, name)), torch.randn(3, 4)).reason
    assert f"{NAMESPACE}.{name}.default" in reason
    assert "regist" in reason, reason
    assert "does not depend on x" not in reason


@pytest.mark.parametrize("name", ["never", "raw", "once", "once_raw"])
def test_its_result_may_choose_indices(custom: Any, name: str) -> None:
    """Stock code differentiates none of it then."""
    op = getattr(custom, name)
    compare(lambda: Critic(lambda h: h.gather(1, op(h).argsort(1)).tanh()), points((3, 4)))


def test_distances_may_choose_neighbours() -> None:
    def neighbours(h: Tensor) -> Tensor:
        cloud = h.view(len(h), 3, 2)
        nearest = torch.cdist(cloud, cloud).topk(2, -1, largest=False).indices
        picked = cloud[torch.arange(len(h))[:, None, None], nearest]
        return (picked - cloud[:, :, None]).sum(2).tanh().flatten(1)

    compare(lambda: Critic(neighbours), points((3, 4)))


def test_distances_that_reach_the_score_are_refused_by_name() -> None:
    critic = Critic(lambda h: h * torch.cdist(h[:, :, None], h[:, :, None]).sum(2))
    assert "_cdist_forward" in wgangp_fast.explain(critic, torch.randn(3, 4)).reason


def test_the_rule_is_lazy() -> None:
    """Made and asked which outputs move, it does not differentiate; asked for derivatives, it refuses."""
    bench, rule = generic_rule(aten._cdist_forward.default, r(3, 2), r(4, 2), 2.0, None, active=["x1"])
    assert rule.outputs == {0}
    with pytest.raises(DeriveError, match=r"_cdist_forward.*twice"):
        rule.second_order_slots(bench.site, bench.active)


def test_only_outputs_that_reach_the_score_are_differentiated() -> None:
    bench, rule = generic_rule(aten.linalg_qr.default, r(4, 3), active=["A"])
    rule.vjp(bench.site, (None, bench.g[1]), frozenset({"A"}))
    assert rule.reached == {1}
    moved = rule.jvp(bench.site, bench.t)
    assert moved[0] is None
    assert moved[1] is not None


def test_derivatives_that_look_at_data_are_found_on_numbers() -> None:
    """The backward of an assignment by a mask has a shape that only data tell."""

    class Masked(Critic):
        def __init__(self) -> None:
            super().__init__(None)
            self.token = nn.Parameter(torch.randn(()))

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x).clone()
            h[x[:, :1].expand_as(h) > 0] = self.token
            return self.out(h.tanh())

    compare(Masked, points((4, 4)))


@pytest.mark.parametrize("op", [torch.addcmul, torch.addcdiv], ids=["addcmul", "addcdiv"])
@pytest.mark.parametrize("place", range(3))
def test_the_cotangent_may_be_a_parameter(op: Any, place: int) -> None:
    """Before a linear head the cotangent is the head's weight; its history is nothing to differentiate."""

    class Fused(Critic):
        def __init__(self) -> None:
            super().__init__(None)
            self.scale = nn.Parameter(torch.rand(6) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            h = self.inner(x)
            given = [h, h.tanh(), h.exp()]
            given[place] = self.scale.expand_as(h)
            return self.out(op(*given))

    compare(Fused, points((3, 4)))


def test_history_of_other_arguments_is_not_followed() -> None:
    weight = torch.rand(4, dtype=torch.float64, requires_grad=True)
    h, t = (torch.randn(4, dtype=torch.float64) for _ in range(2))
    values = {"self": h, "tensor1": weight * 2, "tensor2": h, "value": 1}
    g, c = weight * 3, weight * 4
    op = aten.addcmul.default
    (vjp,) = generic.node_vjp(op, values, ["self"], g)
    jvp = generic.node_jvp(op, values, ["self"], [weight * t], [0])
    (adjoint,) = generic.node_adjoint(op, values, ["self"], ["self"], g, [weight * t], c)
    for found, right in ((vjp, g), (jvp, weight * t), (adjoint, c)):
        assert not found.requires_grad
        torch.testing.assert_close(found, right.detach())


@pytest.mark.parametrize("name", ["norm_act", "bias_act"])
def test_an_operation_of_ours_never_falls_to_autograd(name: str) -> None:
    """Autograd knows nothing of it: the generic rule would find that nothing moves, and say zero."""
    x, weight = r(3, 4), r(4)
    tail = {"bias_act": (1, 0, 0.0, 0.0, 0.0), "norm_act": (weight, 0, 1, 1e-5, 0, 0.0, 0.0, 0.0)}
    args = (x, weight, *tail[name])
    given = case(KERNELS[name].call, *args, active=[["x", "bias"]])
    with pytest.raises(DeriveError, match=rf"wgangp_fast\.{name} has no rule for .*bias, x moves"):
        Bench(given, frozenset({"x", "bias"}))
    images = (r(1, 1, 4, 4), r(1, 1, 3, 3), None)
    unknown = case(KERNELS["convolve"].call, *images, 1, 1, 0, 0, 1, 1, active=[["x"]])
    with pytest.raises(DeriveError, match=r"wgangp_fast\.convolve has no rule"):
        Bench(unknown, frozenset({"x"}))


def test_what_has_no_derivative_by_meaning_is_known_to_autograd(custom: Any) -> None:
    for op in (aten.argmax.default, aten.floor.default, aten.ones_like.default, aten.linear.default):
        assert generic.has_derivative(op)
    assert generic.has_derivative(custom.full.default)
    assert not generic.has_derivative(custom.raw.default)


STATISTICS: dict[str, Callable[[Any, Tensor], Any]] = {
    "layer norm": lambda m, h: torch.native_layer_norm(h, [4], m.gain, m.shift, 1e-5),
    "group norm": lambda m, h: torch.native_group_norm(h[..., None], m.gain, m.shift, len(h), 4, 1, 2, 1e-5),
    "var_mean": lambda m, h: torch.var_mean(h * m.gain, 1, keepdim=True),
    "svd": lambda m, h: torch.linalg.svd(h[:, :2, None] * h[:, None, 2:] + torch.eye(2).double(), False),
    "sort": lambda m, h: torch.sort(h * m.gain, 1),
}


@pytest.mark.parametrize("whole", [False, True], ids=["penalty", "loss"])
@pytest.mark.parametrize("name", STATISTICS)
def test_every_output_of_an_operator(monkeypatch: pytest.MonkeyPatch, name: str, whole: bool) -> None:
    """The statistics that a norm returns beside its result have derivatives too."""
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")

    def forward(m: Any, x: Tensor) -> Tensor:
        found = STATISTICS[name](m, torch.tanh(m.first(x)))
        return sum(torch.tanh(v).flatten(1).sum(1) for v in found if v.is_floating_point())

    torch.manual_seed(0)
    critic = frontend_critic.Critic(
        forward, first=nn.Linear(4, 4), gain=nn.Parameter(torch.randn(4)), shift=nn.Parameter(torch.randn(4))
    ).double()
    real, fake, alpha = points((5, 4))
    found = []
    for impl in ("auto", "ref"):
        if whole:
            value = wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, impl=impl).loss
        else:
            value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
        found.append([value, *torch.autograd.grad(value, list(critic.parameters()), allow_unused=True)])
    for ours, stock in zip(*found):
        assert (ours is None) == (stock is None)
        if stock is not None:
            torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-12)
