"""The whole critic loss on a GPU, critics of the benchmark: against stock autograd in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import backend
from wgangp_fast.bench.workloads import WORKLOADS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BATCH, LAMBDA = 4, 10.0
ROWS = (
    *("toy", "ctgan", "amp", "mnist", "dcgan64", "dcgan64-layernorm", "dcgan64-instancenorm"),
    *("dcgan64-tanh", "dcgan64-gated"),
)
# Without kinks: there, rounding cannot move a unit across one and change gradients by a finite step.
SMOOTH = ("dcgan64-tanh", "dcgan64-gated")


def workload(name: str, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    critic, real, fake = WORKLOADS[name].build("cuda", dtype, batch=BATCH)
    alpha = torch.rand(BATCH, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
    return critic.eval(), real, fake, alpha  # without dropout, whose masks come in another order


def stock(name: str, dtype: torch.dtype) -> list[Tensor]:
    """Loss and gradients, written out."""
    critic, real, fake, alpha = workload(name, dtype)
    weight = alpha.view(-1, *[1] * (real.dim() - 1))
    x = (weight * real + (1 - weight) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    penalty = (gradient.flatten(1).norm(2, dim=1) - 1).square().mean()
    loss = critic(fake).mean() - critic(real).mean() + LAMBDA * penalty
    return results(critic, loss)


def ours(name: str, dtype: torch.dtype, impl: str, executor: str = "eager") -> list[Tensor]:
    critic, *batch = workload(name, dtype)
    real, fake, alpha = batch
    for _ in range(3 if executor == "graph" else 1):  # the first calls warm up and capture
        critic.zero_grad()
        found = wgangp_fast.critic_loss(
            critic, real, fake, lambda_gp=LAMBDA, alpha=alpha, impl=impl, executor=executor
        )
        values = results(critic, found.loss)
    assert torch.allclose(found.loss.detach(), LAMBDA * found.penalty - found.wasserstein, rtol=1e-4)
    return values


def results(critic: nn.Module, loss: Tensor) -> list[Tensor]:
    loss.backward()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in critic.parameters()]
    return [t.detach().double() for t in (loss, *grads)]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """Of the loss, relative; of the gradients, relative to the largest of all."""
    scale = max(t.abs().max().item() for t in truth[1:])
    return [
        (found[0] - truth[0]).abs().item() / max(truth[0].abs().item(), 1e-3),
        *((a - b).abs().max().item() / scale for a, b in zip(found[1:], truth[1:], strict=True)),
    ]


def skip_unless_it_runs(impl: str) -> None:
    reason = backend.missing(impl) if impl != "auto" else None
    if reason:
        pytest.skip(reason)  # says what these kernels lack here (nvcc, Triton), and the remedy


@pytest.mark.parametrize("impl", ["auto", "cuda", "triton"])
@pytest.mark.parametrize("name", ROWS)
def test_float64_equals_stock(name: str, impl: str) -> None:
    skip_unless_it_runs(impl)
    assert max(errors(ours(name, torch.float64, impl), stock(name, torch.float64))) <= 1e-9


@pytest.mark.parametrize("impl", ["auto", "cuda", "triton"])
@pytest.mark.parametrize("name", SMOOTH)
def test_float32_is_as_near_to_float64_as_stock(name: str, impl: str) -> None:
    skip_unless_it_runs(impl)
    truth = stock(name, torch.float64)
    of_stock = errors(stock(name, torch.float32), truth)
    of_ours = errors(ours(name, torch.float32, impl), truth)
    # Sums of up to some 10^5 products, whose rounding errors add up like a random walk.
    floor = 50 * torch.finfo(torch.float32).eps
    assert all(a <= 2 * b + floor for a, b in zip(of_ours, of_stock)), (of_ours, of_stock)


@pytest.mark.parametrize("executor", ["inductor", "graph"])
@pytest.mark.parametrize("name", ["toy", "dcgan64-layernorm"])
def test_executors_equal_stock(name: str, executor: str) -> None:
    found = ours(name, torch.float64, "auto", executor)
    assert max(errors(found, stock(name, torch.float64))) <= 1e-9


def test_the_choice_of_an_executor_is_explained() -> None:
    critic, real, fake, _ = workload("toy", torch.float32)
    choice = wgangp_fast.choose_executor(critic, real, fake, rounds=3)
    assert set(choice.seconds) | set(choice.refused) == {"eager", "inductor", "graph"}
    assert choice.name in choice.seconds
    explained = wgangp_fast.explain(critic, real, loss=True, executor="graph")
    assert explained.executor == "graph"
