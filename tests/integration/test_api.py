"""The public face: what is refused and how, options, modes, boundaries."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import wgangp_fast
from wgangp_fast import BackendError, StockPathWarning, gradient_penalty, input_gradient, ops, r1_penalty

F64 = {"dtype": torch.float64}


def mlp(features: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    shape = shape or (4, 6)
    return torch.randn(shape, **F64), torch.randn(shape, **F64)


GOOD = torch.zeros(4, 6, **F64)

EMPTY, SCALAR = torch.zeros(0, 6, **F64), torch.zeros((), **F64)
ONE_EACH = "alpha must hold one weight a sample"

REFUSED = {
    "shape": ({"fake": torch.zeros(5, 6, **F64)}, ValueError, r"fake must have the shape of real.*\(5, 6\)"),
    "device": ({"fake": GOOD.to("meta")}, ValueError, "fake must have the device of real"),
    "integer images": ({"real": GOOD.byte()}, TypeError, r"real must be floating point.*uint8"),
    "no tensor": ({"real": [1.0]}, TypeError, "real must be a tensor, got list"),
    "empty": ({"real": EMPTY, "fake": EMPTY}, ValueError, "real must not be empty"),
    "no batch": ({"real": SCALAR, "fake": SCALAR}, ValueError, r"real must be \[N"),
    "alpha size": ({"alpha": torch.rand(3, **F64)}, ValueError, ONE_EACH + r".*\[4\].*\(3,\)"),
    "alpha per pixel": ({"alpha": torch.rand(4, 6, **F64)}, ValueError, ONE_EACH),
    "alpha integer": ({"alpha": torch.ones(4).long()}, TypeError, r"alpha must be floating point.*int64"),
    "alpha number": ({"alpha": 0.5}, TypeError, "alpha must be a tensor, got float"),
    "alpha scalar": ({"alpha": SCALAR}, ValueError, ONE_EACH),
    "reduction": ({"reduction": "median"}, ValueError, "reduction must be one of 'mean', 'sum', 'none'; got"),
    "impl": ({"impl": "fast"}, ValueError, r"impl must be one of 'auto', 'ref'.*got 'fast'"),
    "no kernels": (
        {"impl": "triton"},
        BackendError,
        r"impl='triton' cannot run here.*impl='auto' takes what there is",
    ),
    "target": ({"target": float("nan")}, ValueError, "target must be a finite number"),
    "critic": ({"critic": 3}, TypeError, "critic must be callable, got int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused_before_any_work(name: str) -> None:
    change, error, message = REFUSED[name]
    called = []

    def critic(x: torch.Tensor) -> torch.Tensor:
        called.append(x)
        return x.sum(1)

    arguments = {"critic": critic, "real": GOOD, "fake": GOOD, **change}
    with pytest.raises(error, match=message):
        gradient_penalty(arguments.pop("critic"), arguments.pop("real"), arguments.pop("fake"), **arguments)
    assert not called


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_critics_without_a_gradient_are_refused(impl: str) -> None:
    layer, (real, fake) = mlp(), pair()
    for critic in (lambda x: layer(GOOD), lambda x: layer(x.detach()), lambda x: torch.sign(x).detach()):
        with pytest.raises(ValueError, match="critic: its output does not depend on x"):
            gradient_penalty(critic, real, fake, impl=impl)


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_several_outputs_want_output(impl: str) -> None:
    layer, (real, fake) = mlp(), pair()
    for critic in (lambda x: (layer(x), x), lambda x: {"score": layer(x)}):
        with pytest.raises(TypeError, match=r"must return one tensor, got (tuple|dict): pass output="):
            gradient_penalty(critic, real, fake, impl=impl)


def test_the_environment_chooses_and_the_argument_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, (real, fake) = mlp(), pair()
    monkeypatch.setenv("WGANGP_FAST_IMPL", "ref")
    assert "GradientPenaltyFunction" not in str(gradient_penalty(critic, real, fake).grad_fn)
    monkeypatch.setenv("WGANGP_FAST_IMPL", "nonsense")
    with pytest.raises(ValueError, match="WGANGP_FAST_IMPL must be one of"):
        gradient_penalty(critic, real, fake)
    assert gradient_penalty(critic, real, fake, impl="ref").requires_grad


def test_alpha_is_drawn_from_the_generator_one_a_sample() -> None:
    critic, (real, fake) = mlp(), pair()
    drawn = [
        gradient_penalty(critic, real, fake, generator=torch.Generator().manual_seed(seed)).item()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    _, alpha = ops.interpolate(real, fake, generator=torch.Generator().manual_seed(1))
    assert gradient_penalty(critic, real, fake, alpha=alpha).item() == drawn[0]
    generator = torch.Generator().manual_seed(1)  # the stock path draws the same numbers
    stock = gradient_penalty(critic, real, fake, generator=generator, impl="ref").item()
    assert stock == pytest.approx(drawn[0], rel=1e-12)
    x = alpha[:, None] * real + (1 - alpha[:, None]) * fake  # alpha weights real
    norm = input_gradient(critic, x).norm(dim=1)
    torch.testing.assert_close(torch.tensor(drawn[0], **F64), (norm - 1).square().mean().detach())


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_linear_critic_has_the_penalty_of_its_weight_norm(one_sided: bool, reduction: str) -> None:
    critic = nn.Linear(6, 1).double()
    for scale in (0.3, 1.0, 2.5):
        with torch.no_grad():
            critic.weight.mul_(scale / critic.weight.norm())
        penalty = gradient_penalty(critic, *pair(), one_sided=one_sided, reduction=reduction)
        each = 0.0 if one_sided and scale < 1 else (scale - 1) ** 2
        expected = torch.full((4,), each, **F64)
        expected = expected if reduction == "none" else getattr(expected, reduction)()
        torch.testing.assert_close(penalty.detach(), expected, rtol=1e-9, atol=1e-12)


def test_r1_is_half_gamma_times_the_squared_norm() -> None:
    critic, (real, _) = mlp(), pair()
    norm = input_gradient(critic, real).norm(dim=1)
    torch.testing.assert_close(r1_penalty(critic, real, gamma=10), 5 * norm.square().mean())
    torch.testing.assert_close(r1_penalty(critic, real, reduction="none"), 0.5 * norm.square())
    with pytest.raises(ValueError, match="gamma must be a finite number"):
        r1_penalty(critic, real, gamma=float("inf"))


def test_a_third_derivative_raises_and_says_why() -> None:
    critic = mlp()
    penalty = gradient_penalty(critic, *pair())
    (gradient,) = torch.autograd.grad(penalty, critic[0].weight, create_graph=True)
    assert gradient.abs().sum() > 0
    with pytest.raises(RuntimeError, match=r"third derivative.*impl='ref'"):
        gradient.sum().backward()


def test_autocast_follows_stock_with_the_norm_in_float32() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(8 * 16, 1))
    real, fake, alpha = torch.randn(4, 3, 6, 6), torch.randn(4, 3, 6, 6), torch.rand(4)
    results = {}
    for impl in ("ref", "auto"):
        critic.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            penalty = gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
        assert penalty.dtype == torch.float32
        penalty.backward()
        results[impl] = penalty.item(), critic[0].weight.grad.clone()
    assert results["auto"][0] == pytest.approx(results["ref"][0], rel=2e-2)
    error = (results["auto"][1] - results["ref"][1]).norm() / results["ref"][1].norm()
    assert error < 2e-2
    outside = gradient_penalty(critic, real, fake, alpha=alpha)  # the autocast state is part of the guards
    assert outside.item() != results["auto"][0]


def test_inside_a_compiled_function_it_is_a_boundary() -> None:
    critic, (real, fake) = mlp(), pair()
    alpha = torch.rand(4, **F64)

    def loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        return (
            critic(fake).mean() - critic(real).mean() + 10 * gradient_penalty(critic, real, fake, alpha=alpha)
        )

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager")):
        critic.zero_grad()
        function(real, fake).backward()
        gradients.append([p.grad.clone() for p in critic.parameters()])
    for eager, compiled in zip(*gradients):
        torch.testing.assert_close(compiled, eager, rtol=1e-9, atol=1e-12)
    with pytest.raises(Exception, match="wgangp_fast runs its own plan here"):
        torch.compile(loss, backend="eager", fullgraph=True)(real, fake)


def test_a_compiled_critic_is_welcome() -> None:
    critic, (real, fake) = mlp(), pair()
    alpha = torch.rand(4, **F64)
    expected = gradient_penalty(critic, real, fake, alpha=alpha)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        for compiled in (
            torch.compile(critic, backend="eager"),
            torch.compile(lambda x: critic(x), backend="eager"),
        ):
            torch.testing.assert_close(gradient_penalty(compiled, real, fake, alpha=alpha), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_critic_runs_on_the_stock_path() -> None:
    critic, (real, fake) = mlp(), pair()
    alpha = torch.rand(4, **F64)
    with pytest.warns(StockPathWarning):
        scripted = gradient_penalty(torch.jit.script(critic), real, fake, alpha=alpha)
    torch.testing.assert_close(scripted, gradient_penalty(critic, real, fake, alpha=alpha))


def test_an_error_of_the_critic_is_its_own_and_leaves_no_trace() -> None:
    critic = mlp()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        gradient_penalty(critic, *pair(4, 7))
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        gradient_penalty(critic, *pair()).backward()


def test_the_warning_names_the_line_and_comes_once() -> None:
    layer, (real, fake) = mlp(), pair()

    def critic(x: torch.Tensor) -> torch.Tensor:
        return layer(x) if x.sum() > 1e9 else 2 * layer(x)

    with pytest.warns(StockPathWarning, match=r"test_api.py.*line \d+.*Remedy"):
        gradient_penalty(critic, real, fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        gradient_penalty(critic, real, fake).backward()


def test_a_flop_counter_sees_the_sweeps() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1))
    real, fake = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    with FlopCounterMode(display=False) as forward:
        critic(real)
    with warnings.catch_warnings(), FlopCounterMode(display=False) as counter:
        warnings.simplefilter("error", StockPathWarning)
        gradient_penalty(critic, real, fake).backward()
    units = counter.get_total_flops() / forward.get_total_flops()
    assert 3.5 < units <= 4  # the score itself is not computed


def test_inside_a_functional_transform_it_says_what_to_do() -> None:
    critic, (real, fake) = mlp(), pair()
    with pytest.raises(RuntimeError, match=r"cannot run inside a torch.func transform.*call it outside"):
        torch.func.grad(lambda r: gradient_penalty(critic, r, fake))(real)


def test_batch_norm_warns_once_and_names_the_replacement() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 1))
    real, fake = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6)
    with pytest.warns(wgangp_fast.BatchNormWarning, match=r"GroupNorm\(1, channels\)"):
        gradient_penalty(critic, real, fake)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradient_penalty(critic, real, fake)
        gradient_penalty(critic.eval(), real, fake)


def test_explain_shows_rules_units_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    leaky = nn.Sequential(nn.Linear(6, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    explanation = wgangp_fast.explain(leaky, torch.randn(32, 6))
    assert explanation.path == "engine"
    assert 3.9 < explanation.forward_units <= 4
    assert [row.rule for row in explanation.rows] == ["Linear", "Unary", "Linear", "Unary", "Linear"]
    assert explanation.rows[2].flops == 2 * 32 * 64 * 64
    assert explanation.rows[2].bytes == 4 * (32 * 64 + 64 * 64 + 64 + 32 * 64)
    assert not any(row.sweep4 for row in explanation.rows)
    assert "forward-units" in str(explanation)
    smooth = wgangp_fast.explain(mlp(), torch.randn(32, 6, **F64))
    assert 4 < smooth.forward_units <= 6
    assert any(row.sweep4 for row in smooth.rows)
    generic = wgangp_fast.explain(lambda x: x.logsumexp(1), torch.randn(4, 6))
    assert [row.op for row in generic.generic] == ["aten.logsumexp.default"]
    assert "no rule is written" in str(generic)
    stock = wgangp_fast.explain(lambda x: x.sum() if x.sum() > 0 else -x.sum(), torch.randn(4, 6))
    assert (stock.path, "branching" in stock.reason) == ("stock", True)


def test_explaining_updates_no_buffer() -> None:
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 1))
    before = critic[1].running_mean.clone()
    wgangp_fast.explain(critic, torch.randn(2, 3, 6, 6))
    torch.testing.assert_close(critic[1].running_mean, before, rtol=0, atol=0)
