"""The plan itself: what is in it, what is not, what it keeps, and that capture follows the critic."""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import wgangp_fast
from wgangp_fast.bench.memory import peak_bytes
from wgangp_fast.engine import plan
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.training import models

aten = torch.ops.aten


def planned(critic, x: torch.Tensor, wants_x: bool = False) -> plan.Plan:
    with torch.enable_grad():
        binding = capture.bind(critic, None, x.detach().requires_grad_())
        return plan.plan_of(binding.captured, wants_x)


def calls(graph: torch.fx.Graph) -> list[str]:
    """Names of the operators in a graph, overloads and bindings alike."""
    names = []
    for node in graph.nodes:
        if node.op == "call_function":
            schema = getattr(node.target, "_schema", None)
            names.append(schema.name.split("::")[1] if schema else node.target.__name__)
    return names


def convolutions(graph: torch.fx.Graph | None) -> int:
    return sum(name in ("convolution", "convolution_backward") for name in calls(graph))


class Ran(TorchDispatchMode):
    """Counts the operators that really run, and whether any of them was given a tensor of zeros only."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.zeros: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        if "convolution" in name or name in ("aten::mm", "aten::addmm"):
            self.products += 1
            for place, value in enumerate(args):
                if not isinstance(value, torch.Tensor) or value.dim() < 2:
                    continue
                shape_only = func is aten.convolution_backward.default and place == 1 and not args[-1][1]
                if not shape_only and not bool(value.any()):
                    self.zeros.append(name)
        return func(*args, **(kwargs or {}))


LAYERS = 4


def convolutional(activation, norm=None) -> nn.Module:
    layers: list[nn.Module] = []
    for i in range(LAYERS):
        layers.append(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1))
        if norm and i:
            layers.append(norm(4))
        layers.append(activation())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 36, 1))


IMAGES = (2, 3, 6, 6)


@pytest.mark.parametrize(
    "activation", [lambda: nn.LeakyReLU(0.2), nn.ReLU, nn.Hardtanh, lambda: nn.LeakyReLU(0.2, inplace=True)]
)
def test_piecewise_linear_critics_have_no_sweep_4(activation) -> None:
    critic = convolutional(activation)
    sweeps = planned(critic, torch.randn(IMAGES)).sweeps
    # Sweep 1 and sweep 2, then sweep 3's jvp and weight gradient: four a layer, where stock runs six.
    assert convolutions(sweeps.forward.graph) == 2 * LAYERS
    assert convolutions(sweeps.backward.graph) == 2 * LAYERS
    assert "cat" not in calls(sweeps.backward.graph)
    assert not any(node.sweep4 for node in sweeps.nodes)


def test_piecewise_linear_critics_touch_no_zeros() -> None:
    critic = convolutional(lambda: nn.LeakyReLU(0.2))
    real, fake = torch.randn(IMAGES), torch.randn(IMAGES)
    wgangp_fast.gradient_penalty(critic, real, fake).backward()
    counts = {}
    for impl in ("auto", "ref"):
        with Ran() as ran:
            wgangp_fast.gradient_penalty(critic, real, fake, impl=impl).backward()
        counts[impl] = (ran.products, len(ran.zeros))
    # Not one more: the last layer, of one output, needs a broadcast and a sum.
    assert counts["auto"] == (4 * LAYERS, 0)
    assert counts["ref"][0] > 5 * LAYERS
    assert counts["ref"][1] > 0  # the counter does see stock's zeros


@pytest.mark.parametrize(
    ("activation", "norm"), [(nn.Tanh, None), (nn.SiLU, None), (nn.ReLU, lambda c: nn.GroupNorm(1, c))]
)
def test_the_two_weight_gradients_of_smooth_critics_are_one_call(activation, norm) -> None:
    critic = convolutional(activation, norm)
    sweeps = planned(critic, torch.randn(IMAGES)).sweeps
    masks = [
        node.args[-1] for node in sweeps.backward.graph.nodes if "convolution_backward" in str(node.target)
    ]
    assert masks.count([False, True, False]) == LAYERS
    # Sweep 4 does not go through the first layer: nobody asks for the adjoint of x.
    assert masks.count([True, False, False]) == LAYERS - 1
    assert calls(sweeps.backward.graph).count("convolution") == LAYERS


def test_nothing_is_computed_for_frozen_parameters() -> None:
    critic = convolutional(nn.Tanh).requires_grad_(False)
    critic[0].bias.requires_grad_(True)
    backward = planned(critic, torch.randn(IMAGES)).sweeps.backward
    masks = [node.args[-1] for node in backward.graph.nodes if "convolution_backward" in str(node.target)]
    assert [False, True, False] not in masks
    critic[0].bias.requires_grad_(False)
    assert planned(critic, torch.randn(IMAGES)).sweeps.backward is None


def test_elementwise_operators_overwrite_what_nobody_holds() -> None:
    sweeps = planned(convolutional(lambda: nn.LeakyReLU(0.2)), torch.randn(IMAGES)).sweeps
    assert calls(sweeps.forward.graph).count("leaky_relu_") == LAYERS
    # Sweep 3 holds the tangent of each layer alone, so its activation writes into it.
    assert sweeps.backward.code.count("leaky_relu_backward.grad_input") == LAYERS


def test_running_a_plan_changes_neither_parameters_nor_inputs() -> None:
    critic = convolutional(nn.Tanh, lambda c: nn.GroupNorm(1, c))
    before = copy.deepcopy(critic.state_dict())
    real, fake = torch.randn(IMAGES), torch.randn(IMAGES)
    kept = real.clone(), fake.clone()
    penalty = wgangp_fast.gradient_penalty(critic, real, fake)
    penalty.backward(retain_graph=True)
    first = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    critic.zero_grad()
    penalty.backward()  # what the first pass saved must be untouched
    for once, twice in zip(first, [p.grad for p in critic.parameters() if p.grad is not None]):
        torch.testing.assert_close(once, twice, rtol=0, atol=0)
    for name, value in critic.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(real, kept[0])
    assert torch.equal(fake, kept[1])


def test_a_parameter_changed_between_forward_and_backward_raises() -> None:
    critic = convolutional(nn.Tanh)
    penalty = wgangp_fast.gradient_penalty(critic, torch.randn(IMAGES), torch.randn(IMAGES))
    with torch.no_grad():
        critic[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        penalty.backward()


MEMORY = {
    "no norm": {},
    "layer norm": {"norm": "layer"},
    "instance norm": {"norm": "instance"},
}


@pytest.mark.parametrize("name", MEMORY)
def test_peak_memory_is_at_most_three_quarters_of_stock(name: str) -> None:
    critic = models.build("dcgan64-critic", dim=64, **MEMORY[name])
    real, fake, alpha = torch.randn(16, 3, 64, 64), torch.randn(16, 3, 64, 64), torch.rand(16)
    peaks = {}
    for impl in ("ref", "auto"):

        def once(impl: str = impl) -> None:
            wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl).backward()

        once()
        critic.zero_grad()
        peaks[impl] = peak_bytes(once)
        critic.zero_grad()
    assert peaks["auto"] <= 0.75 * peaks["ref"]


def test_saved_tensors_die_after_their_last_use_and_are_kept_on_request() -> None:
    critic = models.build("dcgan64-critic", dim=8)
    x = torch.randn(8, 3, 64, 64)

    def peak(retain: bool) -> int:
        penalty = wgangp_fast.gradient_penalty(critic, x, x + 1)
        critic.zero_grad()
        return peak_bytes(lambda: penalty.backward(retain_graph=retain))

    peak(True)
    assert peak(False) <= peak(True)


# capture ------------------------------------------------------------------------------------------


def compiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    count: list[int] = []
    original = capture._compile
    monkeypatch.setattr(capture, "_compile", lambda *a: (count.append(1), original(*a))[1])
    return count


class Growing(nn.Module):
    """Progressive growing: a fade-in factor that changes at every call, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(6, 1), nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1))
        self.alpha, self.calls = 0.0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (1 - self.alpha) * self.small(x) + self.alpha * self.large(x)


def test_a_fade_in_factor_neither_goes_stale_nor_recompiles(monkeypatch: pytest.MonkeyPatch) -> None:
    critic, count = Growing().double(), compiles(monkeypatch)
    real, fake, alpha = torch.randn(4, 6).double(), torch.randn(4, 6).double(), torch.rand(4).double()
    values = []
    for step in range(20):
        critic.alpha = 0.05 * step
        ours = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha)
        values.append(float(ours.detach()))
        stock = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl="ref")
        torch.testing.assert_close(ours, stock, rtol=1e-9, atol=0)
    assert len(set(values)) == 20
    assert len(count) <= 3  # the first value, then the number as an input
    assert critic.calls == 40  # the side effect happens once a call, as in eager code


def test_fresh_lambdas_and_fresh_labels_share_one_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    count, layer = compiles(monkeypatch), nn.Linear(6, 1)
    real, fake = torch.randn(4, 6), torch.randn(4, 6)
    for label in torch.randn(5, 4, 6):
        wgangp_fast.gradient_penalty(lambda x, y=label: layer(x * y), real, fake).backward()
    assert len(count) == 1


def test_shapes_have_captures_of_their_own_beyond_dynamos_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    count, critic = compiles(monkeypatch), nn.Linear(6, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in [*range(1, 13), *range(1, 13)]:
            wgangp_fast.gradient_penalty(critic, torch.randn(n, 6), torch.randn(n, 6))
    assert len(count) == 12


def test_a_critic_is_forgotten_with_its_last_reference() -> None:
    import gc

    critic = nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1))
    wgangp_fast.gradient_penalty(critic, torch.randn(4, 6), torch.randn(4, 6)).backward()
    before = len(capture._entries)
    del critic
    gc.collect()
    assert len(capture._entries) < before


@pytest.mark.filterwarnings("error::wgangp_fast.StockPathWarning")
def test_threads_do_not_mix_their_captures() -> None:
    critics = [nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1)).double() for _ in range(4)]
    real, fake, alpha = torch.randn(3, 6).double(), torch.randn(3, 6).double(), torch.rand(3).double()
    expected = [wgangp_fast.gradient_penalty(c, real, fake, alpha=alpha, impl="ref").item() for c in critics]
    found: dict[int, set[float]] = {i: set() for i in range(4)}

    def work(i: int) -> None:
        for _ in range(10):
            found[i].add(wgangp_fast.gradient_penalty(critics[i], real, fake, alpha=alpha).item())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, want in enumerate(expected):
        assert found[i]
        assert all(value == pytest.approx(want, rel=1e-12) for value in found[i])


def test_checkpointed_blocks_are_captured() -> None:
    from torch.utils.checkpoint import checkpoint

    block = nn.Sequential(nn.Linear(6, 6), nn.Tanh()).double()
    real, fake, alpha = torch.randn(3, 6).double(), torch.randn(3, 6).double(), torch.rand(3).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error", wgangp_fast.StockPathWarning)
        ours = wgangp_fast.gradient_penalty(
            lambda x: checkpoint(block, x, use_reentrant=False).sum(1), real, fake, alpha=alpha
        )
    stock = wgangp_fast.gradient_penalty(lambda x: block(x).sum(1), real, fake, alpha=alpha, impl="ref")
    torch.testing.assert_close(ours, stock, rtol=1e-12, atol=0)


DEVICE_CRITICS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.SiLU(), nn.Linear(16, 1)), (5, 6)),
    "dropout": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 1)), (5, 6)),
    "leaky": (lambda: convolutional(lambda: nn.LeakyReLU(0.2)), IMAGES),
    "layer norm": (lambda: convolutional(nn.ReLU, lambda c: nn.GroupNorm(1, c)), IMAGES),
    "instance norm": (lambda: convolutional(nn.Tanh, lambda c: nn.InstanceNorm2d(c, affine=True)), IMAGES),
    "batch norm": (lambda: convolutional(nn.ReLU, nn.BatchNorm2d), IMAGES),
    "pooled": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.GELU(), nn.Upsample(scale_factor=2)),
            *(nn.Flatten(), nn.Linear(64, 1)),
        ),
        IMAGES,
    ),
}  # fmt: skip


LAYOUTS = [(name, torch.contiguous_format) for name in DEVICE_CRITICS]
LAYOUTS += [(name, torch.channels_last) for name, (_, shape) in DEVICE_CRITICS.items() if len(shape) == 4]


@pytest.mark.filterwarnings("ignore::wgangp_fast.BatchNormWarning")
@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_equals_stock_on_every_device(name: str, layout: torch.memory_format, device: torch.device) -> None:
    build, shape = DEVICE_CRITICS[name]
    critics = [build().double().to(device)]
    critics.append(copy.deepcopy(critics[0]))
    real, fake = (torch.randn(shape, dtype=torch.float64, device=device) for _ in range(2))
    if len(shape) == 4:
        real, fake = (t.contiguous(memory_format=layout) for t in (real, fake))
    alpha = torch.rand(shape[0], dtype=torch.float64, device=device)
    values = []
    for critic, impl in zip(critics, ("ref", "auto")):
        torch.manual_seed(1)
        value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
        value.backward()
        values.append(value.detach())
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=0)
    scale = max(float(p.grad.abs().max()) for p in critics[0].parameters() if p.grad is not None)
    for stock, ours in zip(critics[0].parameters(), critics[1].parameters()):
        assert (stock.grad is None) == (ours.grad is None)
        if stock.grad is not None:
            torch.testing.assert_close(ours.grad, stock.grad, rtol=1e-9, atol=1e-11 * scale)


def same_value(critic, real: torch.Tensor, fake: torch.Tensor) -> None:
    alpha = torch.rand(len(real), dtype=real.dtype)
    values = []
    for impl in ("ref", "auto"):
        torch.manual_seed(7)
        values.append(wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl).detach())
    torch.testing.assert_close(values[1], values[0], rtol=1e-9, atol=0)


def test_hooks_that_come_and_go() -> None:
    critic = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 1)).double()
    real, fake = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    same_value(critic, real, fake)
    after = critic[0].register_forward_hook(lambda module, given, result: result * 1.5)
    same_value(critic, real, fake)
    before = critic[0].register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    same_value(critic, real, fake)
    after.remove()
    before.remove()
    same_value(critic, real, fake)
    nn.utils.spectral_norm(critic[0])
    same_value(critic.eval(), real, fake)


def test_dropout_of_a_strided_tensor_draws_the_mask_of_eager_code() -> None:
    layer = nn.Linear(6, 4).double()
    real, fake = torch.randn(2, 3, 6).double(), torch.randn(2, 3, 6).double()
    same_value(lambda x: nn.functional.dropout(layer(x.transpose(0, 1)).transpose(0, 1), 0.2), real, fake)


def test_a_size_computed_from_a_changing_number_runs_as_stock_code() -> None:
    class Rolling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.out = 0.1, nn.Linear(6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(x.roll(int(self.shift * 100) % 6, 1)))

    critic = Rolling().double()
    real, fake = torch.randn(4, 6).double(), torch.randn(4, 6).double()
    same_value(critic, real, fake)
    critic.shift = 0.12
    with pytest.warns(wgangp_fast.StockPathWarning, match="changing number"):
        same_value(critic, real, fake)
    critic.shift = 0.13
    same_value(critic, real, fake)
