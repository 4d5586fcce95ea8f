"""What people wrap a critic in: value and gradients are those of stock autograd through the same wrapper.

DistributedDataParallel with several processes is in test_distributed, fully_shard in test_fsdp.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import fabric_double
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

import wgangp_fast
from wgangp_fast import StockPathWarning, compat, wrappers

N = 8
LAMBDA = 10.0


def critic() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.LeakyReLU(0.2), nn.Dropout(0.0), nn.Linear(12, 1)
    )


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def doubled(module: nn.Module) -> nn.Module:
    module.register_forward_hook(lambda module, arguments, score: 2 * score)
    return module


def with_weight_norm(module: nn.Module) -> nn.Module:
    parametrizations.weight_norm(module[0])
    parametrizations.spectral_norm(module[2].eval())
    return module


def on_one_device(module: nn.Module) -> nn.Module:
    """DataParallel as one GPU makes it, with a CPU in the GPU's place."""
    parallel = nn.DataParallel(module)
    parallel.device_ids, parallel.src_device_obj = [0], torch.device("cpu")
    parallel.scatter = lambda inputs, kwargs, _: ([inputs], [kwargs])
    return parallel


def accelerated(module: nn.Module) -> nn.Module:
    """What accelerate does to a module under mixed_precision="bf16": another forward, on the instance."""
    inner = torch.autocast("cpu", dtype=torch.bfloat16)(type(module).forward)
    module.forward = lambda *arguments: inner(module, *arguments).float()
    return module


class Doubling(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.module(x)


# name: the wrapper, and the dtype of its products if that is not float32
WRAPPED: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "compile": (compiled, "float32"),
    "compile in place": (lambda module: (module.compile(backend="eager"), module)[1], "float32"),
    "compiled function": (lambda module: torch.compile(lambda x: 2 * module(x), backend="eager"), "float32"),
    "compiled inside": (lambda module: Doubling(compiled(module)), "float32"),
    "averaged": (AveragedModel, "float32"),
    "averaged and hooked": (lambda module: doubled(AveragedModel(module)), "float32"),
    "averaged, compiled inside": (lambda module: AveragedModel(compiled(module)), "float32"),
    "DataParallel": (nn.DataParallel, "float32"),
    "DataParallel on one device": (on_one_device, "float32"),
    "DataParallel, compiled inside": (lambda module: nn.DataParallel(compiled(module)), "float32"),
    "partial": (functools.partial, "float32"),
    "partial of compiled": (lambda module: functools.partial(compiled(module)), "float32"),
    "parametrised": (with_weight_norm, "float32"),
    "parametrised and averaged": (lambda module: AveragedModel(with_weight_norm(module)), "float32"),
    "fabric": (fabric_double.setup, "float32"),
    "fabric, compiled inside": (lambda module: fabric_double.setup(compiled(module)), "float32"),
    "fabric, compiled outside": (lambda module: compiled(fabric_double.setup(module)), "float32"),
    "fabric, double": (lambda module: fabric_double.setup(module, "64-true"), "float32"),
    "fabric, true bf16": (lambda module: fabric_double.setup(module, "bf16-true"), "bfloat16"),
    "fabric, mixed bf16": (lambda module: fabric_double.setup(module, "bf16-mixed"), "bfloat16"),
    "fabric, mixed, compiled inside": (
        lambda module: fabric_double.setup(compiled(module), "bf16-mixed"),
        "bfloat16",
    ),
    "accelerate, mixed bf16": (accelerated, "bfloat16"),
    "accelerate, mixed, compiled": (lambda module: compiled(accelerated(module)), "bfloat16"),
}
# Relative to the largest element: a bfloat16 has 8 bits, and stock code rounds each gradient in the middle.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2e-2}


def samples() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(2, N, 6, generator=generator)
    return real, fake, torch.linspace(0.1, 0.9, N)


def stock_penalty(score: Callable[[Tensor], Tensor]) -> Tensor:
    real, fake, alpha = samples()
    x = (alpha.view(-1, 1) * real + (1 - alpha.view(-1, 1)) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (gradient.norm(2, dim=1) - 1).square().mean()


def stock_loss(score: Callable[[Tensor], Tensor]) -> Tensor:
    real, fake, _ = samples()
    return score(fake).mean() - score(real).mean() + LAMBDA * stock_penalty(score)


def our_penalty(score: Callable[[Tensor], Tensor]) -> Tensor:
    real, fake, alpha = samples()
    return wgangp_fast.gradient_penalty(score, real, fake, alpha=alpha)


def our_loss(score: Callable[[Tensor], Tensor]) -> Tensor:
    real, fake, alpha = samples()
    return wgangp_fast.critic_loss(score, real, fake, alpha=alpha, lambda_gp=LAMBDA).loss


def outcome(loss: Callable[[Any], Tensor], wrap: Callable[[nn.Module], Any], demanding: bool) -> list[Tensor]:
    """The value, and the gradients of all parameters."""
    module = critic()
    wrapped = wrap(module)
    for part in wrapped.modules() if isinstance(wrapped, nn.Module) else ():
        if isinstance(part, fabric_double._FabricModule):
            part.demanding = demanding
    value = loss(wrapped)
    # An averaged model has copies of the parameters, a parametrised module others than before.
    owner = wrapped if isinstance(wrapped, nn.Module) else module
    value.backward()
    gradients = [p.grad for p in owner.parameters()]
    return [value.detach(), *(torch.zeros(()) if g is None else g for g in gradients)]


def assert_close(found: list[Tensor], truth: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(truth)
    for ours, expected in zip(found, truth):
        scale = expected.abs().max().clamp(min=1e-3)
        assert (ours - expected).abs().max() <= tolerance * scale


@pytest.mark.filterwarnings("error::wgangp_fast.StockPathWarning")
@pytest.mark.parametrize("name", WRAPPED)
def test_penalty_is_stock_through_the_wrapper(name: str) -> None:
    wrap, products = WRAPPED[name]
    truth = outcome(stock_penalty, wrap, demanding=False)
    assert sum(bool(t.abs().max() > 1e-3) for t in truth) >= 4
    assert_close(outcome(our_penalty, wrap, demanding=True), truth, TOLERANCE[products])


@pytest.mark.filterwarnings("error::wgangp_fast.StockPathWarning")
@pytest.mark.parametrize("name", [name for name in WRAPPED if "inside" not in name])
def test_loss_is_stock_through_the_wrapper(name: str) -> None:
    wrap, products = WRAPPED[name]
    truth = outcome(stock_loss, wrap, demanding=False)
    assert_close(outcome(our_loss, wrap, demanding=True), truth, TOLERANCE[products])


def test_mixed_precision_is_not_lost() -> None:
    """The comparison above would notice: without Fabric's autocast the penalty is another number."""
    mixed = stock_penalty(_calm(fabric_double.setup(critic(), "bf16-mixed")))
    ours = our_penalty(fabric_double.setup(critic(), "bf16-mixed"))
    plain = stock_penalty(critic())
    assert abs(ours - mixed) <= 1e-6 * mixed
    assert abs(plain - mixed) > 1e-5 * mixed


def _calm(fabric: Any) -> Any:
    fabric.demanding = False
    return fabric


HOOKED: dict[str, tuple[Callable[[nn.Module], Any], str | None]] = {
    "compile": (lambda module: doubled(compiled(module)), "before it is compiled"),
    "DataParallel": (lambda module: doubled(nn.DataParallel(module)), None),
    "fabric": (lambda module: doubled(_calm(fabric_double.setup(module))), None),
}


@pytest.mark.parametrize("name", HOOKED)
def test_hooks_of_the_wrapper_itself_run(name: str) -> None:
    wrap, told = HOOKED[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = outcome(our_penalty, wrap, demanding=False)
    assert_close(found, outcome(stock_penalty, wrap, demanding=False), TOLERANCE["float32"])
    if told is not None:
        (warning,) = (w for w in caught if w.category is StockPathWarning)
        assert told in str(warning.message)


def test_several_devices_are_told_what_to_do() -> None:
    parallel = on_one_device(critic())
    parallel.device_ids = [0, 1]
    parallel.forward = parallel.module.forward  # two devices are not here; what counts is that it is called
    with pytest.warns(StockPathWarning, match="copies the critic to 2 devices.*pass critic.module"):
        penalty = our_penalty(parallel)
    assert penalty.item() == pytest.approx(stock_penalty(critic()).item(), rel=1e-5)


def test_labels_go_through_casts_and_devices() -> None:
    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.body = nn.Embedding(3, 6), critic()

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.body(x + self.embed(labels))

    labels = torch.arange(N) % 3
    real, fake, alpha = samples()
    for wrap in (on_one_device, lambda module: fabric_double.setup(module, "64-true")):
        torch.manual_seed(2)
        module = Labelled()
        expected = stock_penalty(lambda x, module=module: module(x, labels))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda *size, **_: alpha.view(*size))
            found = compat.compute_gradient_penalty(wrap(module), real, fake, labels)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_wrappers_that_are_not_known_stay() -> None:
    other = Doubling(critic())
    assert wrappers.unwrap(other) is other
    assert wrappers.left_on(other) is None
    half = type("_FabricModule", (nn.Module,), {})()
    assert wrappers.unwrap(half) is half


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_lightning_fabric_itself(precision: str) -> None:
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", precision=precision)
    found = our_penalty(fabric.setup(critic()))
    expected = stock_penalty(_calm(fabric_double.setup(critic(), precision)))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_itself(precision: str) -> None:
    accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True, mixed_precision=precision)
    try:
        ours = outcome(our_penalty, accelerator.prepare_model, demanding=False)
        truth = outcome(stock_penalty, accelerator.prepare_model, demanding=False)
    finally:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(True)
    assert_close(ours, truth, TOLERANCE["float32" if precision == "no" else "bfloat16"])
