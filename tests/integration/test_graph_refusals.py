"""What a graphed step refuses, and what it says: on emulated CUDA graphs."""

# ruff: noqa: NPY002 - critics draw from numpy's global stream

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import graph_emulation
import numpy as np
import pytest
import torch
from graph_emulation import EmulatedCapture, capturing
from graph_settings import BATCH, OPTIMIZERS, adam_step, mlp, ready
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import BackendError, GraphedCriticStep, GraphError, checks
from wgangp_fast import make_graphed_step as graphed
from wgangp_fast.cuda_graphs import capture as cudagraph


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraph, "Capture", EmulatedCapture)
    monkeypatch.setattr(checks, "capturing", capturing)


def _learning_rate(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups[0]["lr"] = 0.5


def _loaded(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


def _data(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.get_parameter("0.weight").data = torch.zeros(8, 3)


def _replaced(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.get_submodule("0").weight = nn.Parameter(torch.zeros(8, 3))


def _evaluating(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.eval()


def _still(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.get_parameter("2.bias").requires_grad_(False)


def _numpys(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.gain = np.int64(3)  # what users put on their modules


def _slope(critic: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    critic.get_submodule("1").negative_slope = 0.3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_learning_rate, "Adam's lr was 0.01 at the capture and is 0.5 now"),
        (_loaded, "Adam's .* was replaced|state of Adam was replaced|in other memory"),
        (_data, r"Sequential\.0\.weight is in other memory"),
        (_replaced, r"Sequential\.0\.weight is in other memory"),
        (_evaluating, r"Sequential\.training was True"),
        (_still, r"Sequential\.2\.bias\.requires_grad was True"),
        (_numpys, r"Sequential\.gain was np.int64\(2\) at the capture and is np.int64\(3\)"),
        (_slope, r"Sequential\.1\.negative_slope was 0.2 at the capture and is 0.3"),
    ],
)
def test_what_a_graph_froze_must_not_change(change: Callable[..., None], words: str) -> None:
    critic = mlp()
    critic.gain = np.int64(2)  # type: ignore[assignment]
    step, optimizer, call = ready(critic)
    call()
    change(critic, optimizer)
    with pytest.raises(GraphError, match=words):
        call()
    if change is not _slope:  # a number that changes is an input of the next graph: an engine matter
        step.reset()
        call()
        assert not step.captured


def test_shapes_are_fixed_until_reset() -> None:
    step, _, _ = ready(mlp())
    with pytest.raises(GraphError, match=r"input 0 was \[4, 3\] torch.float32 on cpu, now it is \[2, 3\]"):
        step(torch.randn(2, 3), torch.randn(2, 3))
    step.reset()
    step(torch.randn(2, 3), torch.randn(2, 3))


def test_alpha_drawn_inside_is_refused() -> None:
    """Its key is two Python numbers: a graph would repeat them."""
    critic = mlp()
    optimizer = OPTIMIZERS["sgd"](critic.parameters())

    def step(real: Tensor, fake: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = wgangp_fast.critic_loss(critic, real, fake).loss
        loss.backward()
        optimizer.step()
        return loss

    run = graphed(step, warmup=1)
    real, fake = torch.randn(2, BATCH, 3)
    run(real, fake)
    with pytest.raises(GraphError, match="alpha must be given while a CUDA graph is captured"):
        run(real, fake)


def test_alpha_drawn_inside_would_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulation finds what the refusal above protects from."""
    monkeypatch.setattr(checks, "capturing", lambda device: False)
    monkeypatch.setattr(graph_emulation, "HOST_READS", ())  # a CPU generator's number: no GPU is waited for
    critic = mlp()
    norms = [graphed_norms(critic, enabled, torch.Generator().manual_seed(2)) for enabled in (False, True)]
    assert torch.equal(norms[0][0], norms[1][0])
    assert not torch.equal(norms[0][3], norms[1][3])
    assert torch.equal(norms[1][3], norms[1][2])  # the same points again


def graphed_norms(critic: nn.Module, enabled: bool, source: torch.Generator) -> list[Tensor]:
    def step(real: Tensor, fake: Tensor) -> Tensor:
        return wgangp_fast.critic_loss(critic, real, fake, generator=source).grad_norm

    run = graphed(step, warmup=1, enabled=enabled, watch=[critic])
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, BATCH, 3, generator=generator)
    return [run(real, fake).clone() for _ in range(4)]


class Looks(nn.Module):
    """Python that depends on data: cannot be captured by anything."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if x.sum() > 1e9 else -self.net(x)


@pytest.mark.filterwarnings("ignore::wgangp_fast.StockPathWarning")
def test_a_critic_on_the_stock_path_is_refused() -> None:
    step, _ = adam_step(Looks())
    with pytest.raises(GraphError, match="the critic runs on the stock path"):
        step(*torch.randn(2, BATCH, 3))


def test_host_reads_are_explained() -> None:
    step = graphed(lambda x: x * x.sum().item(), warmup=1)
    step(torch.ones(2))
    with pytest.raises(GraphError, match=r"cannot be captured.*not permitted.*\.item\(\)"):
        step(torch.ones(2))
    assert not step.captured


def test_stateful_python_is_refused() -> None:
    calls = 0

    def step(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return x * calls

    run = graphed(step, warmup=1)
    run(torch.ones(2))
    with pytest.raises(GraphError, match=r"changes the host's state.*reads calls"):
        run(torch.ones(2))

    factor = 2.0
    run = graphed(lambda x: x * factor, warmup=1)
    run(torch.ones(2))
    assert run(torch.ones(2)).tolist() == [2, 2]
    factor = 3.0
    with pytest.raises(GraphError, match="reads factor"):
        run(torch.ones(2))


class Decides(nn.Module):
    """Python that decides something at each call, which the engine repeats and a graph cannot."""

    def __init__(self, how: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.how, self.python = mlp(), how, random.Random(0)
        self.register_buffer("size", torch.tensor(2))
        self.register_buffer("mask", torch.tensor([True, False, True]))

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


DECISIONS: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "a float": (lambda c, x: c.net(x) * random.random(), "draws random numbers"),
    "a float of its own": (lambda c, x: c.net(x) * c.python.random(), "draws random numbers"),
    "a branch": (lambda c, x: c.net(x) * (2 if random.random() < 0.5 else 3), "draws random numbers"),
    "numpy's": (lambda c, x: c.net(x) * np.random.rand(), "draws random numbers"),
    "a size": (lambda c, x: c.net(torch.cat([x[:, : c.size], x[:, c.size :] * 2], 1)), "numbers in a buffer"),
    "a mask": (lambda c, x: c.net(torch.cat([x[:, c.mask], x[:, ~c.mask]], 1)), "numbers in a buffer"),
    "a branch on a buffer": (lambda c, x: c.net(x) * (2 if c.size > 1 else 3), "numbers in a buffer"),
}


@pytest.mark.parametrize("call", ["step", "penalty", "loss"])
@pytest.mark.parametrize("name", DECISIONS)
def test_what_the_critics_python_decides_is_refused(name: str, call: str) -> None:
    how, words = DECISIONS[name]
    critic = Decides(how)
    real, fake = torch.randn(2, BATCH, 3)
    alpha = torch.rand(BATCH)
    if call == "step":
        run: Any = adam_step(critic)[0]
    else:
        function = wgangp_fast.gradient_penalty if call == "penalty" else wgangp_fast.critic_loss
        run = graphed(lambda r, f: function(critic, r, f, alpha=alpha), warmup=1)
    run(real, fake)
    streams = random.getstate(), np.random.get_state()[1].tolist()
    with pytest.raises(GraphError, match=f"{words}|must not read a number"):  # torch's, of real and fake
        run(real, fake)
    assert not run.captured
    if call == "penalty":  # nothing was drawn for a capture that did not come about
        assert streams == (random.getstate(), np.random.get_state()[1].tolist())


def test_a_mask_made_in_the_critic_is_no_decision() -> None:
    """Nothing can change it between two replays."""
    critic = Decides(lambda c, x: c.net(x)[torch.tensor([True, False, True, True])])
    run = graphed(lambda x: wgangp_fast.gradient_penalty(critic, x, x * 2, alpha=torch.ones(BATCH)), warmup=1)
    eager = run(torch.ones(BATCH, 3))
    assert torch.equal(run(torch.ones(BATCH, 3)), eager)
    assert run.captured


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen = mlp(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.net(x)


def test_a_module_that_counts_is_refused() -> None:
    critic = Counting()
    run = graphed(lambda x: critic(x).mean(), warmup=1)
    run(torch.ones(2, 3))
    with pytest.raises(GraphError, match=r"Counting\.seen was 1 at the capture and is 2"):
        run(torch.ones(2, 3))


def test_optimisers_that_count_on_the_host_are_refused() -> None:
    critic = mlp()
    with pytest.raises(GraphError, match=r"torch.optim.Adam\(..., capturable=True\)"):
        GraphedCriticStep(critic, torch.optim.Adam(critic.parameters()))

    class HostSteps(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            super().step()
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1

    step = GraphedCriticStep(critic, HostSteps(critic.parameters(), lr=0.1), warmup=1)
    step(*torch.randn(2, BATCH, 3))
    with pytest.raises(GraphError, match="HostSteps keeps 'step' as a number on the host"):
        step(*torch.randn(2, BATCH, 3))


def test_scalers_wrappers_and_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    critic = mlp()
    optimizer = OPTIMIZERS["adam"](critic.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(GraphError, match="GradScaler decides on the host"):
        GraphedCriticStep(critic, scaler)
    with pytest.raises(GraphError, match="GradScaler"):
        graphed(lambda x: scaler.scale(x))
    with pytest.raises(TypeError, match=r"must be a torch\.optim\.Optimizer"):
        GraphedCriticStep(critic, critic)
    monkeypatch.setattr(EmulatedCapture, "device_type", "cuda")
    with pytest.raises(GraphError, match=r"0\.weight is on cpu: a CUDA graph cannot"):
        GraphedCriticStep(critic, optimizer)
    step = graphed(lambda x: x + 1, watch=[])
    with pytest.raises(GraphError, match="input 0 is on cpu: a CUDA graph reads GPU memory"):
        step(torch.ones(2))


def test_arguments_are_checked() -> None:
    critic = mlp()
    optimizer = OPTIMIZERS["adam"](critic.parameters())
    real, fake = torch.randn(2, 2, BATCH, 3)
    with pytest.raises(ValueError, match="n_critic must be at least 1; got 0"):
        GraphedCriticStep(critic, optimizer, n_critic=0)
    with pytest.raises(ValueError, match="warmup must be at least 1"):
        GraphedCriticStep(critic, optimizer, warmup=0)
    with pytest.raises(TypeError, match="step must be callable"):
        graphed(3)
    step = GraphedCriticStep(critic, optimizer, n_critic=2)
    with pytest.raises(ValueError, match="fake must hold 2 batches, one a step; got 1"):
        step(real, fake[:1])
    with pytest.raises(ValueError, match="fake requires a gradient"):
        step(real, fake.requires_grad_())
    with pytest.raises(GraphError, match="input 0 requires a gradient"):
        graphed(lambda x: x)(real.requires_grad_())


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is said without a GPU")
def test_without_a_gpu_a_graph_must_not_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(BackendError, match="torch sees no CUDA device: enabled=False"):
        graphed(lambda x: x)
    assert graphed(lambda x: x + 1, enabled=False)(torch.ones(1)).item() == 2


def test_a_critic_that_cannot_be_captured_is_refused_inside_any_capture() -> None:
    critic = Looks()
    alpha = torch.rand(BATCH)
    run = graphed(lambda r, f: wgangp_fast.gradient_penalty(critic, r, f, alpha=alpha), warmup=1)
    real, fake = torch.randn(2, BATCH, 3)
    with pytest.warns(wgangp_fast.StockPathWarning):
        run(real, fake)
    with pytest.raises(GraphError, match=r"runs on the stock path .* which a CUDA graph would freeze"):
        run(real, fake)
