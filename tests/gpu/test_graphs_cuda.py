"""CUDA graphs of critic steps: replays equal eager steps bit for bit; what a capture refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import CriticLoss, GraphedCriticStep, GraphError, make_graphed_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

BATCH, CALLS = 4, 7


@pytest.fixture(autouse=True)
def _deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 1)), (3,)),
    "dcgan": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 16, 5, 2, 2), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 5, 2, 2), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(512, 1)),
        ),
        (3, 16, 16),
    ),
    "norms": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 16, 3, 2, 1), nn.GroupNorm(1, 16), nn.SiLU(), nn.Conv2d(16, 8, 3, 2, 1)),
            *(nn.InstanceNorm2d(8, affine=True), nn.Tanh(), nn.Flatten(), nn.LayerNorm(128)),
            nn.Linear(128, 1),
        ),
        (3, 16, 16),
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(3, 64), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Linear(64, 1)),
        (3,),
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(3, 64)), nn.Tanh(), nn.Linear(64, 1)
        ),
        (3,),
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.9), capturable=True),
    "fused adam": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True, capturable=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
}


def trained(
    critic: nn.Module, optimizer: str, n_critic: int, shape: tuple[int, ...], **options: Any
) -> tuple[list[Tensor], GraphedCriticStep]:
    """Every result of every call, then the final state, and the step."""
    torch.manual_seed(7)
    source = torch.Generator().manual_seed(11)
    data = torch.Generator().manual_seed(3)
    step = GraphedCriticStep(
        critic, OPTIMIZERS[optimizer](critic.parameters()), n_critic=n_critic, generator=source, **options
    )
    found = []
    for _ in range(CALLS):
        real, fake = torch.randn(2, n_critic, BATCH, *shape, generator=data).cuda()
        given = (real, fake) if n_critic > 1 else (real[0], fake[0])
        found += [member.clone() for member in step(*given)]
    found += [t.clone() for t in critic.state_dict().values()]
    found += [t.clone() for s in step.optimizer.state.values() for t in s.values() if t is not None]
    found += [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    return found, step


@pytest.mark.parametrize(
    ("name", "optimizer", "n_critic"),
    [
        *(("mlp", "adam", 1), ("mlp", "fused adam", 5), ("dcgan", "adam", 1), ("dcgan", "fused adam", 3)),
        *(("norms", "adam", 2), ("dropout", "momentum", 2), ("spectral norm", "adam", 1)),
    ],
)
def test_replays_equal_eager_steps(name: str, optimizer: str, n_critic: int) -> None:
    build, shape = CRITICS[name]
    eager = build().cuda()
    replayed = copy.deepcopy(eager)
    expected, _ = trained(eager, optimizer, n_critic, shape, enabled=False)
    found, step = trained(replayed, optimizer, n_critic, shape)
    assert step.captured
    assert len(expected) == len(found)
    for i, (a, b) in enumerate(zip(expected, found)):
        assert torch.equal(a, b), i


def test_bfloat16_autocast() -> None:
    build, shape = CRITICS["dcgan"]
    eager = build().cuda()
    replayed = copy.deepcopy(eager)
    with torch.autocast("cuda", torch.bfloat16):
        expected, _ = trained(eager, "adam", 2, shape, enabled=False)
        found, step = trained(replayed, "adam", 2, shape)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    data = torch.randn(2, 2, BATCH, *shape).cuda()
    with pytest.raises(GraphError, match="autocast or the grad mode differs"):
        step(*data)


def plain_step(module: nn.Module) -> Callable[[dict[str, Tensor]], Tensor]:
    """A step function of ``module`` with an optimiser of its own."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)

    def step(batch: dict[str, Tensor]) -> Tensor:
        optimizer.zero_grad()
        loss = (module(batch["x"]) - batch["y"]).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    return step


def test_any_step() -> None:
    network, other = nn.Linear(2, 1).cuda(), nn.Linear(2, 1).cuda()
    other.load_state_dict(network.state_dict())
    losses = []
    for module, enabled in ((network, False), (other, True)):
        run = make_graphed_step(plain_step(module), enabled=enabled)
        data = torch.Generator().manual_seed(0)
        for _ in range(CALLS):
            x, y = torch.randn(2, 4, 2, generator=data).cuda()
            losses.append(run({"x": x, "y": y[:, :1]}).item())
        assert run.captured == enabled
    assert losses[:CALLS] == losses[CALLS:]


def ready() -> tuple[nn.Module, torch.optim.Optimizer, GraphedCriticStep, Callable[[], Any]]:
    critic = CRITICS["mlp"][0]().cuda()
    optimizer = OPTIMIZERS["adam"](critic.parameters())
    step = GraphedCriticStep(CriticLoss(critic), optimizer, warmup=1)
    real, fake = torch.randn(2, BATCH, 3, device="cuda")

    def call() -> Any:
        return step(real, fake)

    call()
    call()
    assert step.captured
    return critic, optimizer, step, call


def test_stale_graphs_are_refused() -> None:
    critic, optimizer, step, call = ready()
    with pytest.raises(GraphError, match=r"input 0 was \[4, 3\]"):
        step(*torch.randn(2, 2, 3, device="cuda"))
    optimizer.param_groups[0]["lr"] = 0.5
    with pytest.raises(GraphError, match=r"Adam's lr was 0\.01"):
        call()
    step.reset()
    call()
    call()
    critic.get_parameter("0.weight").data = torch.zeros(64, 3, device="cuda")
    with pytest.raises(GraphError, match="in other memory"):
        call()


def test_what_cannot_be_captured_says_so_and_the_gpu_goes_on() -> None:
    critic = CRITICS["mlp"][0]().cuda()
    with pytest.raises(GraphError, match="capturable=True"):
        GraphedCriticStep(critic, torch.optim.Adam(critic.parameters()))
    with pytest.raises(GraphError, match="input 0 is on cpu"):
        GraphedCriticStep(critic, OPTIMIZERS["momentum"](critic.parameters()))(*torch.randn(2, BATCH, 3))
    real, fake = torch.randn(2, BATCH, 3, device="cuda")
    steps: dict[str, Callable[..., Tensor]] = {
        "alpha must be given while a CUDA graph is captured": lambda r, f: (
            wgangp_fast.critic_loss(critic, r, f).loss
        ),
        "cannot be captured in a CUDA graph": lambda r, f: r * f.sum().item(),
    }
    for words, function in steps.items():
        step = make_graphed_step(function, warmup=1)
        step(real, fake)
        with pytest.raises(GraphError, match=words):
            step(real, fake)
        torch.cuda.synchronize()
        assert not step.captured
    ready()  # a broken capture leaves nothing behind


def test_the_trainer_replays_by_default_and_trains_alike() -> None:
    from wgangp_fast.training import Config, data
    from wgangp_fast.training.trainer import Trainer

    states = []
    for graphs in (False, True):
        config = Config(
            preset="toy-8gaussians", batch=8, critic_dim=16, generator_dim=16, n_critic=2, iters=8,
            device="cuda", graphs=graphs,
        )  # fmt: skip
        trainer = Trainer(config, data.load(config.data, config.seed), torch.device("cuda"))
        for _ in range(config.iters):
            trainer.iterate()
        assert trainer.critic_updates.captured == graphs
        states.append([*trainer.critic.state_dict().values(), *trainer.average.state_dict().values()])
        assert Config(preset="toy-8gaussians").graphs
    assert all(torch.equal(a, b) for a, b in zip(*states))
