"""The caller's tensors, and what stays of a critic that is dropped."""

from __future__ import annotations

import gc
import logging
import sys
import types
import warnings
from collections.abc import Callable

import pytest
import torch
from test_refusals import Critic, batch
from torch import nn

import wgangp_fast
from wgangp_fast.errors import BatchNormWarning, StockPathWarning

Penalty = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
ALPHA = torch.rand(4, dtype=torch.float64)


# the caller's tensors ------------------------------------------------------------------------------


class Plain(torch.Tensor):
    pass


class Meta(torch.Tensor):
    """As MONAI's: whatever is made of one is one, and carries something."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(result, cls):
            result.meta = {"spacing": 1}
        return result


class Logged(torch.Tensor):
    """As fastai's: does at each operator what the front end cannot follow."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        sys.audit(f"{func.__name__} was called")
        return super().__torch_function__(func, types, args, kwargs or {})


class Off(torch.Tensor):
    __torch_function__ = torch._C._disabled_torch_function_impl


def inference(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return x.clone()


GIVEN = {
    "a subclass": lambda x: x.as_subclass(Plain),
    "a subclass with a torch function": lambda x: x.as_subclass(Meta),
    "a subclass that does more": lambda x: x.as_subclass(Logged),
    "a subclass without one": lambda x: x.as_subclass(Off),
    "a parameter": lambda x: nn.Parameter(x),
    "a buffer": lambda x: nn.Buffer(x) if hasattr(nn, "Buffer") else x,
    "an inference tensor": inference,
    "expanded": lambda x: x[:1].expand(4, 4),
    "strided": lambda x: torch.stack([x, x], 2)[..., 0],
    "transposed": lambda x: x.t().contiguous().t(),
    "a lazily negated view": lambda x: torch.complex(x, -x).conj().imag,
}


@pytest.mark.parametrize("name", GIVEN)
def test_the_callers_tensors_give_what_stock_gives(name: str) -> None:
    critic, (real, fake) = Critic(), batch()
    given, other = GIVEN[name](real), GIVEN[name](fake)
    plain, rest = (torch.tensor(v.tolist(), dtype=torch.float64) for v in (given, other))

    def check(
        call: Callable[..., torch.Tensor], *ours: torch.Tensor, stock: tuple[torch.Tensor, ...]
    ) -> None:
        critic.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("error", StockPathWarning)
            value = call(*ours, "auto")
        value.backward()
        found = [None if p.grad is None else p.grad.clone() for p in critic.parameters()]
        critic.zero_grad()
        expected = call(*stock, "ref")
        expected.backward()
        torch.testing.assert_close(
            value.detach().as_subclass(torch.Tensor), expected.detach(), rtol=1e-9, atol=0
        )
        for mine, p in zip(found, critic.parameters()):
            torch.testing.assert_close(mine, p.grad, rtol=1e-9, atol=1e-12)

    def penalty(real: torch.Tensor, fake: torch.Tensor, impl: str) -> torch.Tensor:
        return wgangp_fast.gradient_penalty(critic, real, fake, alpha=ALPHA, impl=impl)

    def loss(real: torch.Tensor, fake: torch.Tensor, impl: str) -> torch.Tensor:
        return wgangp_fast.critic_loss(critic, real, fake, alpha=ALPHA, impl=impl).loss

    check(penalty, given, other, stock=(plain, rest))
    check(penalty, given, rest, stock=(plain, rest))
    check(penalty, plain, other, stock=(plain, rest))
    check(loss, given, other, stock=(plain, rest))
    check(lambda x, impl: wgangp_fast.r1_penalty(critic, x, impl=impl), given, stock=(plain,))


@pytest.mark.parametrize("kind", [Plain, Meta, Logged, Off])
def test_gradients_flow_through_a_subclass(kind: type[torch.Tensor]) -> None:
    critic, (real, fake) = Critic(), batch()
    found = []
    for impl in ("auto", "ref"):
        source = fake.clone().requires_grad_()
        given = (source * 1).as_subclass(kind) if impl == "auto" else source * 1
        wgangp_fast.gradient_penalty(critic, real, given, alpha=ALPHA, impl=impl).backward()
        found.append(source.grad)
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


# what stays ----------------------------------------------------------------------------------------


def test_each_critic_hears_of_its_batch_norm() -> None:
    """Also one at the address of a critic that died."""
    real, fake = torch.randn(4, 4), torch.randn(4, 4)
    for _ in range(4):
        with pytest.warns(BatchNormWarning):
            wgangp_fast.gradient_penalty(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 1)), real, fake)
        gc.collect()


def _body(critic, x):
    return critic(x)


def _compiled_alone(number: int, critic: nn.Module, x: torch.Tensor) -> None:
    code = _body.__code__.replace(co_name=f"alone_{number}", co_firstlineno=300_000 + number)
    function = types.FunctionType(code, globals(), code.co_name)
    torch.compile(function, backend="eager", fullgraph=True)(
        critic, x.clone().requires_grad_()
    ).sum().backward()


def _kept(run: Callable[[int], object], count: int) -> float:
    """Objects that stay for each of ``count`` critics."""
    for i in range(3):
        run(i)
    gc.collect()
    before = len(gc.get_objects())
    for i in range(count):
        run(3 + i)
    gc.collect()
    return (len(gc.get_objects()) - before) / count


def test_a_dropped_critic_leaves_nothing_of_ours_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = torch.randn(8, 4), torch.randn(8, 4)
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest keeps every record

    def fresh() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

    alone = _kept(lambda i: _compiled_alone(i, fresh(), real), 12)
    penalty = _kept(lambda i: wgangp_fast.gradient_penalty(fresh(), real, fake).backward(), 16)
    loss = _kept(lambda i: wgangp_fast.critic_loss(fresh(), real, fake).loss.backward(), 8)

    def by_hand(critic: nn.Module) -> torch.Tensor:
        x = real.clone().requires_grad_()
        return torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0].square().sum()

    accelerated = _kept(lambda i: by_hand(wgangp_fast.accelerate(fresh())).backward(), 12)
    assert accelerated <= alone + 30, (accelerated, alone)
    assert penalty <= alone + 30, (penalty, alone)
    assert loss <= alone + 30, (loss, alone)
