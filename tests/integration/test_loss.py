"""The whole critic loss: value and every gradient against the three stock terms, and what runs for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo_deep  # noqa: F401 - enters its critics into the zoo
from penalty_checks import Outcome, assert_same, build, points
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from zoo import ZOO, Critic, rows

import wgangp_fast
from wgangp_fast import CriticLoss, CriticLossOutput, backend, critic_loss
from wgangp_fast.bench.workloads import WORKLOADS
from wgangp_fast.errors import BatchNormWarning, StockPathWarning
from wgangp_fast.ops.registry import Kernels

Batch = tuple[Tensor, Tensor, Tensor]

#: critics of the zoo whose forward changes buffers, or that make a Python number of the data
APART = {
    *("batch norm 1-D", "batch norm", "batch norm, bare", "instance norm, statistics"),
    *("spectral norm", "spectral norm, parametrized", "a number out of the data"),
}
RANDOM = {"dropout", "alpha dropout", "dropout 2-D"}


def together(output: CriticLossOutput) -> bool:
    """Whether one pass served all three batches."""
    return type(output.loss.grad_fn).__name__ == "CriticLossFunctionBackward"


def stock(
    critic: Any, real: Tensor, fake: Tensor, alpha: Tensor, lambda_gp: float = 10.0
) -> tuple[Tensor, ...]:
    """What the field writes: three terms, each with a pass of its own."""
    weight = alpha.view(-1, *[1] * (real.dim() - 1))
    of_real, of_fake = critic(real).mean(), critic(fake).mean()
    x = weight * real + (1 - weight) * fake
    x = x if x.requires_grad else x.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
        score = critic(x)
        (gradient,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
    norms = gradient.flatten(1).norm(dim=1) if gradient.dim() > 1 else gradient.abs()
    penalty = (norms - 1).square().mean()
    return of_fake - of_real + lambda_gp * penalty, of_real - of_fake, penalty, norms


def outcome(
    critic: Any, batch: Batch, loss: Callable[..., Any], of_points: bool, seed: int = 0
) -> tuple[Outcome, Any]:
    real, fake, alpha = (v.clone().requires_grad_(of_points) for v in batch)
    critic.zero_grad()
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        warnings.simplefilter("ignore", BatchNormWarning)
        result = loss(critic, real, fake, alpha=alpha)
    result[0].backward()
    gradients = {name: p.grad for name, p in critic.named_parameters()}
    if of_points:
        gradients |= {"real": real.grad, "fake": fake.grad, "alpha": alpha.grad}
    value = torch.cat([v.detach().flatten() for v in result])
    return Outcome(value, gradients, {n: b.clone() for n, b in critic.named_buffers()}), result


@pytest.mark.parametrize("name", [name for name in ZOO if name not in RANDOM])
def test_equals_the_three_stock_terms(name: str) -> None:
    entry = ZOO[name]
    batch = points(entry.shape)
    if "channels_last" in name:
        real, fake, alpha = batch
        batch = (*(v.to(memory_format=torch.channels_last) for v in (real, fake)), alpha)
    critic, stock_copy = build(entry.build), build(entry.build)
    for of_points in (False, True):
        ours, result = outcome(critic, batch, critic_loss, of_points)
        theirs, _ = outcome(stock_copy, batch, stock, of_points)
        assert_same(ours, theirs)
        assert together(result) == (name not in APART)
        assert [t.requires_grad for t in result] == [True, False, False, False]


LOWERED = [
    "Tanh",
    "ReLU",
    "GELU",
    "SELU",
    "Softmax",
    "GLU",
    "layer norm",
    "layer norm, bare",
    "RMS norm",
    "gated",
]
LOWERED += [
    "max pool",
    "instance norm, affine",
    "group norm 2",
    "modulated convolution",
    "one linear layer",
    "PReLU",
]


@pytest.mark.parametrize("which", ["ref", "cpu"])
@pytest.mark.parametrize("name", [name for name in LOWERED if name in ZOO])
def test_with_the_operations_of_a_gpu(name: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan that a GPU would run, of the package's own operations, by their references and C++ kernels."""
    if backend.missing(which) is not None:
        pytest.skip(str(backend.missing(which)))
    kernels = Kernels(which, "cuda")
    monkeypatch.setattr(Kernels, "of", staticmethod(lambda which, device: kernels))
    batch = points(ZOO[name].shape)
    ours, result = outcome(build(ZOO[name].build), batch, critic_loss, True)
    assert together(result)
    assert_same(ours, outcome(build(ZOO[name].build), batch, stock, True)[0])


def merged_stock(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
    """Stock code on one batch of all: the same masks as ours, which draws once for all rows."""
    weight = alpha.view(-1, *[1] * (real.dim() - 1))
    x = (weight * real + (1 - weight) * fake).requires_grad_()
    score = critic(torch.cat([x, real, fake]))
    of_x, of_real, of_fake = score.chunk(3)
    (gradient,) = torch.autograd.grad(of_x, x, torch.ones_like(of_x), create_graph=True)
    norms = gradient.flatten(1).norm(dim=1)
    penalty = (norms - 1).square().mean()
    return of_fake.mean() - of_real.mean() + 10 * penalty, of_real.mean() - of_fake.mean(), penalty, norms


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_dropout_draws_once_for_all_rows(name: str) -> None:
    batch = points(ZOO[name].shape)
    ours, result = outcome(build(ZOO[name].build), batch, critic_loss, False)
    assert_same(ours, outcome(build(ZOO[name].build), batch, merged_stock, False)[0])
    assert together(result)


def conv(act: Callable[[], nn.Module], norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    for a, b in ((2, 8), (8, 16)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), *([nn.GroupNorm(1, b)] if norm else []), act()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 1))


@pytest.mark.parametrize(
    ("act", "norm", "units"),
    [
        # 3 forward, vjp and jvp of the points, adjoints of real and fake (no input's), 3 weight gradients
        (nn.ReLU, False, 10.0),
        (nn.Tanh, False, 12.0),
        (nn.ReLU, True, 12.0),
    ],
)
def test_forward_units(act: Callable[[], nn.Module], norm: bool, units: float) -> None:
    critic = conv(act, norm)
    real, fake, _ = points((4, 2, 8, 8), torch.float32)
    with FlopCounterMode(display=False) as first:
        critic(real)
    per_unit = {"first": 2 * 4 * 16 * 8 * 18, "last": 2 * 4 * 64}
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            critic_loss(critic, real, fake).loss.backward()
    # The first layer's input needs no adjoint. The last is linear: its tangent, and the adjoint of the points
    # at it, are nothing; its vjp from ones is no product.
    spared = (units - 8) * per_unit["first"] + (units - 8) * per_unit["last"]
    spared -= per_unit["first"] if units == 12 else 0
    assert counter.get_total_flops() == units * first.get_total_flops() - spared


def test_explain_shows_the_plan_of_the_whole_loss() -> None:
    critic = conv(nn.ReLU)
    explained = wgangp_fast.explain(critic, torch.randn(4, 2, 8, 8), loss=True)
    assert explained.path == "engine"
    assert not explained.apart
    assert explained.rows[0].shape == (4, 8, 4, 4)
    batch = wgangp_fast.explain(
        rows(nn.ReLU, lambda: nn.BatchNorm1d(8)).double(), torch.randn(4, 6).double(), loss=True
    )
    assert "changes buffers" in batch.apart


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def test_one_call_for_all_rows() -> None:
    critic = conv(nn.LeakyReLU)
    real, fake, alpha = points((4, 2, 8, 8), torch.float32)
    critic_loss(critic, real, fake).loss.backward()
    with _Calls() as calls:
        output = critic_loss(critic, real, fake, alpha=alpha)
        output.loss.backward()
    # A layer: sweeps 1, 2 and 3, the adjoint of real and fake (not to their pixels), one weight gradient. An
    # input gradient may be written as a transposed convolution.
    products = ("aten::convolution", "aten::convolution_backward")
    assert sum(calls.names.count(name) for name in products) == 2 * 3 + 1 + 2
    # logging must not wait for the device
    assert "aten::_local_scalar_dense" not in calls.names


@pytest.mark.parametrize("name", ["toy", "dcgan64-layernorm", "attention"])
def test_float32_is_as_near_the_truth_as_stock(name: str) -> None:
    workload = WORKLOADS[name]
    critic, real, fake = workload.build("cpu", batch=4)
    alpha = torch.rand(4)

    def gradients(loss: Callable[..., Any], dtype: torch.dtype) -> list[Tensor]:
        critic.to(dtype).zero_grad()
        result = loss(critic, real.to(dtype), fake.to(dtype), alpha=alpha.to(dtype))
        result[0].backward()
        return [p.grad.double() for p in critic.parameters() if p.grad is not None]

    truth = gradients(stock, torch.float64)
    theirs, ours = gradients(stock, torch.float32), gradients(critic_loss, torch.float32)
    for exact, a, b in zip(truth, theirs, ours, strict=True):
        scale = float(exact.abs().max()) + 1e-6
        assert float((b - exact).abs().max()) <= 3 * float((a - exact).abs().max()) + 2e-5 * scale


def test_autocast() -> None:
    critic = conv(nn.LeakyReLU, norm=True)
    real, fake, alpha = points((4, 2, 8, 8), torch.float32)

    def gradients(loss: Callable[..., Any], enabled: bool) -> tuple[Tensor, list[Tensor]]:
        critic.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            result = loss(critic, real, fake, alpha=alpha)
        result[0].backward()
        return result[0].detach(), [p.grad for p in critic.parameters() if p.grad is not None]

    value, truth = gradients(stock, False)
    _, theirs = gradients(stock, True)
    found, ours = gradients(critic_loss, True)
    assert found.dtype == torch.float32
    assert abs(float(found - value)) <= 0.1 * abs(float(value))
    for exact, a, b in zip(truth, theirs, ours, strict=True):
        assert b.dtype == torch.float32
        limit = 2 * float((a - exact).abs().max()) + 0.02 * float(exact.abs().max())
        assert float((b - exact).abs().max()) <= limit


# state, guards, uses ------------------------------------------------------------------------------


def test_state_changes_as_in_stock_code_from_the_first_call() -> None:
    """Power iterations and random draws happen as often as in stock code, also while the choice is made."""
    for name in ("spectral norm", "batch norm"):
        critic, copy = build(ZOO[name].build), build(ZOO[name].build)
        batch = points(ZOO[name].shape)
        for step in range(2):
            ours, _ = outcome(critic, batch, critic_loss, False, seed=step)
            state = torch.get_rng_state()
            theirs, _ = outcome(copy, batch, stock, False, seed=step)
            assert_same(ours, theirs)
            assert torch.equal(state, torch.get_rng_state())


def test_labels_in_a_closure(capfd: pytest.CaptureFixture[str]) -> None:
    """One label a sample fits one batch of three: mapped over, without a report of the first attempt."""
    module = nn.ModuleDict({"embed": nn.Embedding(3, 4), "body": nn.Linear(10, 1)}).double()
    labels = torch.tensor([0, 2, 1, 0])

    def critic(x: Tensor) -> Tensor:
        return module["body"](torch.tanh(torch.cat([x, module["embed"](labels)], 1)))

    real, fake, alpha = points((4, 6))
    results = []
    for loss in (critic_loss, stock):
        module.zero_grad()
        result = loss(critic, real, fake, alpha=alpha)
        assert loss is stock or together(result)
        result[0].backward()
        results.append([result[0].detach(), *(p.grad for p in module.parameters())])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert capfd.readouterr().err == ""


def test_what_the_critic_depends_on_is_watched() -> None:
    critic = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(8, 1)).double()
    batch = points((4, 6))

    def agree() -> None:
        critic.eval()
        ours, result = outcome(critic, batch, critic_loss, False)
        assert together(result)
        assert_same(ours, outcome(critic, batch, stock, False)[0])

    critic_loss(critic, *batch[:2])
    agree()
    critic[1] = nn.Tanh()
    agree()
    critic[0].weight = nn.Parameter(torch.randn(8, 6, dtype=torch.float64))
    agree()
    critic[0].bias.requires_grad_(False)
    agree()
    batch = points((7, 6))
    agree()


def test_frozen_critic_sends_gradients_to_the_generator() -> None:
    critic = build(ZOO["Tanh"].build).requires_grad_(False)
    batch = points(ZOO["Tanh"].shape)
    ours, result = outcome(critic, batch, critic_loss, True)
    assert together(result)
    assert_same(ours, outcome(critic, batch, stock, True)[0])


def test_without_gradients() -> None:
    critic = build(ZOO["Tanh"].build)
    real, fake, alpha = points(ZOO["Tanh"].shape)
    with torch.no_grad():
        result = critic_loss(critic, real, fake, alpha=alpha)
    expected = stock(critic, real, fake, alpha)
    for a, b in zip(result, expected):
        torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=0)
        assert not a.requires_grad


def test_twice_and_third() -> None:
    critic = build(ZOO["Tanh"].build)
    real, fake, alpha = points(ZOO["Tanh"].shape)
    loss = critic_loss(critic, real, fake, alpha=alpha).loss
    once = torch.autograd.grad(loss, list(critic.parameters()), retain_graph=True)
    again = torch.autograd.grad(3 * loss, list(critic.parameters()), create_graph=True)
    for a, b in zip(once, again):
        torch.testing.assert_close(3 * a, b, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="third derivative"):
        again[0].sum().backward()


def test_map_scores_and_output() -> None:
    critic = Critic(lambda m, x: (m.body(x), None), body=nn.Conv2d(2, 3, 3)).double()
    real, fake, alpha = points((3, 2, 8, 8))
    found = critic_loss(critic, real, fake, alpha=alpha, output=lambda pair: pair[0], lambda_gp=2.5)
    found.loss.backward()
    ours = [p.grad.clone() for p in critic.parameters()]
    critic.zero_grad()
    expected = stock(critic.body, real, fake, alpha, 2.5)
    expected[0].backward()
    assert together(found)
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    for a, p in zip(ours, critic.parameters()):
        torch.testing.assert_close(a, p.grad, rtol=1e-9, atol=1e-12)


def test_generator_decides_alpha() -> None:
    critic = build(ZOO["Tanh"].build)
    real, fake, _ = points(ZOO["Tanh"].shape)
    values = [
        critic_loss(critic, real, fake, generator=torch.Generator().manual_seed(seed), impl=impl).penalty
        for seed, impl in ((3, "auto"), (3, "auto"), (3, "ref"), (4, "auto"))
    ]
    assert values[0] == values[1]
    torch.testing.assert_close(values[0], values[2], rtol=1e-9, atol=0)
    assert values[0] != values[3]


def test_module() -> None:
    critic = build(ZOO["Tanh"].build)
    loss = CriticLoss(critic, lambda_gp=3.0, one_sided=True)
    real, fake, alpha = points(ZOO["Tanh"].shape)
    found = loss(real, fake, alpha=alpha)
    expected = critic_loss(critic, real, fake, alpha=alpha, lambda_gp=3.0, one_sided=True)
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    assert list(loss.state_dict()) == [f"critic.{name}" for name in critic.state_dict()]
    with pytest.raises(TypeError, match="colour"):
        CriticLoss(critic, colour="red")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lambda_gp": float("nan")}, "lambda_gp must be a finite number"),
        ({"target": -1.0}, "target must be a finite number"),
        ({"executor": "fast"}, "executor must be one of"),
        ({"impl": "gpu"}, "impl must be one of"),
        ({"fake": torch.zeros(5, 6)}, "fake must have the shape of real"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"real": torch.zeros(4, 6), "fake": torch.zeros(4, 6)} | options
    with pytest.raises(ValueError, match=message):
        wgangp_fast.critic_loss(nn.Linear(6, 1), **arguments)
