"""Critics with the package's own operations in their graph: right, where they should be, and counted."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import pytest
import torch
import zoo_deep  # noqa: F401  (enters its critics into the zoo)
from penalty_checks import assert_same, build, compare, points
from penalty_checks import penalty as penalty_of
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import ZOO

from wgangp_fast import backend, gradient_penalty, penalty
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.passes.kernel_patterns import lower
from wgangp_fast.engine.plan import Plan
from wgangp_fast.explanation import LAUNCHES, count_launches
from wgangp_fast.ops.registry import KERNELS, Kernels
from wgangp_fast.rules.nodes import info_of


def whole() -> Kernels:
    """Everything that a GPU's plan would hold, run by the references on CPU tensors."""
    return Kernels("ref", "cuda")


def forced() -> list[Kernels]:
    found = [whole()]
    if backend.missing("cpu") is None:
        found.append(Kernels("cpu", "cuda"))  # as on a GPU, by the C++ kernels for the CPU
    if os.environ.get("WGANGP_FAST_TEST_TRITON"):
        found = [Kernels("triton", "cuda")]
    return found


@pytest.fixture(params=forced(), ids=lambda kernels: kernels.which)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    monkeypatch.setattr(penalty.Kernels, "of", staticmethod(lambda which, device: request.param))
    return request.param


#: critics of the zoo in which no sequence becomes an operation of the package
PLAIN = (
    *(
        "Mish",
        "Hardtanh",
        "ReLU6",
        "Hardswish",
        "PReLU",
        "LogSigmoid",
        "Softsign",
        "CELU",
        "PReLU per channel",
    ),
    *("Softshrink", "Hardshrink", "Threshold", "Hardtanh in place", "Softmax", "LogSoftmax", "GLU"),
    *("one linear layer", "maxout, minimum, where", "arithmetic", "score of norms", "normalised rows"),
)


@pytest.mark.parametrize("name", [name for name in ZOO if name not in PLAIN])
def test_lowered_critics_equal_stock_code(name: str, kernels: Kernels) -> None:
    entry = ZOO[name]
    compare(entry.build, points(entry.shape))


@pytest.mark.parametrize("name", PLAIN)
def test_the_others_stay_as_they_are(name: str) -> None:
    entry = ZOO[name]
    own = {kernel.call for kernel in KERNELS.values()}
    with torch.enable_grad():
        binding = capture.bind(entry.build().double(), None, points(entry.shape)[0].requires_grad_())
    assert not own & {node.target for node in lower(binding.captured.critic, whole()).nodes}


def lowered(critic: nn.Module, *shape: int, kernels: Kernels | None = None) -> list[str]:
    """The operators of the lowered graph; what a kernel was made of in brackets."""
    with torch.enable_grad():
        binding = capture.bind(critic, None, torch.randn(shape, requires_grad=True))
    names = []
    for node in lower(binding.captured.critic, kernels or whole()).nodes:
        if node.op == "call_function":
            made = info_of(node).kernel_of
            name = getattr(node.target, "__name__", "")
            names.append(f"{name} [{made}]" if made else name.split(".")[0])
    return [name for name in names if name not in ("getitem", "view", "t", "_unsafe_view", "reshape")]


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.both, self.out = nn.Conv1d(2, 8, 3), nn.Linear(4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.both(x).chunk(2, 1)
        return self.out((torch.sigmoid(a) * torch.tanh(b)).mean(2))


def sequence(*modules: nn.Module | Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(m for m in modules if isinstance(m, nn.Module))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = iter(self.parts)
            for m in modules:
                x = next(parts)(x) if isinstance(m, nn.Module) else m(x)
            return x

    return Sequence()


FOUND = {
    "bias and activation": (
        sequence(nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(64, 1)),
        (3, 2, 6, 6),
        ["convolution", "bias_act [bias + leaky_relu]", "linear"],
    ),
    "linear": (
        sequence(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.SELU(), nn.Linear(8, 1)),
        (3, 4),
        ["linear", "bias_act [bias + relu]", "linear", "bias_act [bias + elu]", "linear"],
    ),
    "group norm": (
        sequence(nn.Conv1d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)),
        (3, 2, 6),
        ["convolution", "norm_act [group_norm + relu]", "linear"],
    ),
    "instance norm": (
        sequence(
            nn.Conv2d(2, 4, 3),
            nn.InstanceNorm2d(4, affine=True),
            nn.LeakyReLU(),
            nn.Flatten(),
            nn.Linear(64, 1),
        ),
        (3, 2, 6, 6),
        ["convolution", "norm_act [group_norm + leaky_relu]", "linear"],
    ),
    "layer norm": (
        sequence(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1)),
        (3, 4),
        ["linear", "norm_act [layer_norm + tanh]", "linear"],
    ),
    "norm without an activation": (
        sequence(nn.LayerNorm(4), nn.Linear(4, 1)),
        (3, 4),
        ["norm_act [layer_norm]", "linear"],
    ),
    "gate": (Gated(), (3, 2, 9), ["convolution", "split", "gate [sigmoid * tanh]", "mean", "linear"]),
    "a bias that two read": (
        sequence(nn.Linear(4, 4), lambda h: F.relu(h) + h, nn.Linear(4, 1)),
        (3, 4),
        ["linear", "bias_act [relu]", "add", "linear"],
    ),
    "a negative slope": (
        sequence(nn.Linear(4, 4), nn.LeakyReLU(-0.1), nn.Linear(4, 1)),
        (3, 4),
        ["linear", "leaky_relu", "linear"],
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_sequences_become_kernels(name: str) -> None:
    critic, shape, expected = FOUND[name]
    assert lowered(critic, *shape) == expected


def test_a_cpu_keeps_what_its_library_does_well() -> None:
    if backend.missing("cpu") is not None:
        pytest.skip("no native kernels here")
    here = Kernels.of("auto", "cpu")
    critic, shape, _ = FOUND["bias and activation"]
    assert lowered(critic, *shape, kernels=here) == ["convolution", "leaky_relu", "linear"]
    critic, shape, expected = FOUND["layer norm"]
    assert lowered(critic, *shape, kernels=here) == expected


def test_every_kernel_of_a_sweep_is_an_operation() -> None:
    assert {"bias_act", "norm_act", "gate", "interpolate", "norm_penalty", "penalty_seed"} <= set(KERNELS)


class Launches(TorchDispatchMode):
    """Counts what stock code asks the device to compute: no views, no allocations, no reads of a number."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        if not view and not name.startswith(
            ("empty", "new_empty", "detach", "lift", "_local_scalar", "_unsafe_view")
        ):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ZOO)
def test_fewer_launches_than_stock(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = ZOO[name]
    real, fake, alpha = points(entry.shape)
    critic = build(entry.build)
    with torch.enable_grad():
        binding = capture.bind(critic, None, real.clone().requires_grad_())
    plan = Plan(binding.captured, False, whole())
    # interpolation, and the seed
    ours = (
        2
        + LAUNCHES["norm_penalty"]
        + count_launches(plan.sweeps.forward)
        + count_launches(plan.sweeps.backward)
    )
    with Launches() as stock:
        gradient_penalty(critic, real, fake, alpha=alpha, impl="ref").backward()
    with capsys.disabled():
        print(f"\n{name}: {ours} launches, stock {stock.count}", end=" ")
    assert ours < stock.count


MLPS = {
    "relu": (sequence(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 1)), (7, 6), True),
    "tanh, flattened": (sequence(nn.Flatten(), nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1)), (7, 2, 3), True),
    "one layer": (sequence(nn.Linear(6, 1)), (7, 6), True),
    "dropout, squeezed": (
        sequence(
            *(nn.Linear(6, 9), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(9, 9, bias=False)),
            *(nn.LeakyReLU(0.2), nn.Dropout(0.3), nn.Linear(9, 1), lambda h: h.squeeze(1)),
        ),
        (7, 6),
        True,
    ),
    "two activations": (
        sequence(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.Tanh(), nn.Linear(9, 1)),
        (7, 6),
        False,
    ),
    "two scores": (sequence(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2)), (7, 6), False),
    "a skip": (sequence(nn.Linear(6, 6), lambda h: F.relu(h) + h, nn.Linear(6, 1)), (7, 6), False),
    "rows that change": (
        sequence(lambda h: h.view(-1, 12), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 1)),
        (8, 6),
        False,
    ),
}


@pytest.mark.parametrize("name", MLPS)
def test_mlps_are_one_operation(name: str, kernels: Kernels) -> None:
    critic, shape, expected = MLPS[name]
    if kernels.which == "cpu":
        pytest.skip("no kernel for a CPU: library products are faster")
    dtype = torch.float64 if kernels.which == "ref" else torch.float32
    made = build(lambda: copy.deepcopy(critic).to(dtype), dtype)
    with torch.enable_grad():
        binding = capture.bind(made, None, torch.randn(shape, dtype=dtype, requires_grad=True))
    assert (Plan(binding.captured, False, kernels).mlp is not None) == expected
    batch = points(shape, dtype)
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    for options in ({}, {"target": 0.0}, {"one_sided": True, "reduction": "none"}):
        ours, stock = (penalty_of(made, batch, impl, **options) for impl in ("auto", "ref"))
        assert_same(ours, stock, tolerance)
