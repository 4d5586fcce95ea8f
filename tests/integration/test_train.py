"""The trainer: losses by hand, the order of steps, presets and settings, measures of quality."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from graph_emulation import EmulatedCapture, capturing
from torch import Tensor
from train_settings import CPU, assert_same, small, trainer_of

from wgangp_fast import checks
from wgangp_fast.cuda_graphs import capture as cudagraph
from wgangp_fast.training import data, losses
from wgangp_fast.training.data import Stored
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import SAMPLE_BATCH, Trainer


def weights(trainer: Trainer) -> list[Tensor]:
    return [p.detach().clone() for net in (trainer.critic, trainer.generator) for p in net.parameters()]


# Losses: r = (2, -1), f = (0, 3), each value worked out on paper from the formulas of section 2.
REAL, FAKE = torch.tensor([2.0, -1.0]), torch.tensor([0.0, 3.0])


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [
        ("wgan-gp", 1.5 - 0.5, -1.5),
        ("wgan", 1.5 - 0.5, -1.5),
        (
            "gan",
            0.5 * ((softplus(0) + softplus(3)) / 2 + (softplus(-2) + softplus(1)) / 2),
            (softplus(0) + softplus(-3)) / 2,
        ),
        ("lsgan", 0.5 * ((1 + 4) / 2 + (0 + 9) / 2), (1 + 4) / 2),
    ],
)
def test_losses_have_their_hand_values(name: str, critic: float, generator: float) -> None:
    loss = losses.LOSSES[name]
    assert loss.critic(REAL, FAKE).item() == pytest.approx(critic, rel=1e-6)
    assert loss.generator(FAKE).item() == pytest.approx(generator, rel=1e-6)
    assert loss.penalised == (name == "wgan-gp")
    assert loss.clipped == (name == "wgan")


class Spy(Trainer):
    """Records the order of steps, and what every critic step was fed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steps: list[str] = []
        self.drawn: list[Tensor] = []
        self.seen: list[Tensor] = []

    def generator_step(self) -> None:
        self.steps.append("g")
        super().generator_step()

    def critic_update(self, real: Tensor, fake: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        self.steps.append("c")
        values = super().critic_update(real, fake, alpha)
        self.seen.append(real)
        if self.loss.clipped:
            assert all(p.abs().max() <= self.config.clip for p in self.critic.parameters())
        return values

    def latents(self, purpose: str, k: int, count: int) -> Tensor:
        z = super().latents(purpose, k, count)
        self.drawn.append(z)
        return z


@pytest.mark.parametrize(("loss", "n_critic"), [("wgan-gp", 5), ("wgan", 5), ("gan", 1), ("lsgan", 1)])
def test_the_loop_begins_and_ends_with_critic_steps_on_fresh_batches(loss: str, n_critic: int) -> None:
    config = small("toy-8gaussians", loss=loss)
    assert config.n_critic == n_critic
    spy = trainer_of(config, Spy)
    assert isinstance(spy, Spy)
    before = weights(spy)
    for _ in range(3):
        spy.iterate()
    c = "c" * n_critic
    assert "".join(spy.steps) == c + "g" + c + "g" + c
    assert len({batch.numpy().tobytes() for batch in spy.seen}) == 3 * n_critic
    assert len({z.numpy().tobytes() for z in spy.drawn}) == len(spy.steps)
    changed = [not torch.equal(a, b) for a, b in zip(before, weights(spy), strict=True) if a.dim() > 1]
    assert all(changed)
    assert spy.kimg == 3 * n_critic * 8 / 1000


def test_generator_steps_leave_the_critic_alone_and_the_reverse() -> None:
    trainer = trainer_of(small())
    start = weights(trainer)
    count = len(list(trainer.critic.parameters()))
    trainer.critic_steps()
    after_critic = weights(trainer)
    assert all(torch.equal(a, b) for a, b in zip(start[count:], after_critic[count:], strict=True))
    # The last bias has no gradient: it cancels between mean f and mean r, and no slope depends on it.
    same = [torch.equal(a, b) for a, b in zip(start[:count], after_critic[:count], strict=True)]
    assert same == [False] * (count - 1) + [True]
    gradients = [p.grad.clone() for p in trainer.critic.parameters() if p.grad is not None]
    trainer.generator_step()
    after_both = weights(trainer)
    assert all(torch.equal(a, b) for a, b in zip(after_critic[:count], after_both[:count], strict=True))
    kept = [p.grad for p in trainer.critic.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, kept, strict=True))


def test_clipping_bounds_every_parameter() -> None:
    parameters = [torch.tensor([-3.0, 0.005, 0.02]), torch.tensor(-0.5)]
    losses.clip_(parameters, 0.01)
    assert parameters[0].tolist() == pytest.approx([-0.01, 0.005, 0.01])
    assert parameters[1].item() == pytest.approx(-0.01)
    # A real run: norm scales start at 1 and are clipped too.
    trainer = trainer_of(small(loss="wgan", critic_norm="layer"))
    trainer.iterate()
    bounds = {name: p.abs().max().item() for name, p in trainer.critic.named_parameters()}
    assert max(bounds.values()) <= 0.01
    assert bounds["features.3.weight"] == pytest.approx(0.01)


@pytest.mark.parametrize("one_sided", [False, True])
def test_the_critic_step_is_the_papers(one_sided: bool) -> None:
    """One critic step against the same step written out with autograd."""
    config = small(
        "toy-8gaussians", one_sided=one_sided, lambda_gp=3.0, optimizer="rmsprop", lr=1e-3, n_critic=1
    )
    trainer, other = trainer_of(config), trainer_of(config)
    with torch.no_grad():
        for t in (trainer, other):
            t.critic.net[0].weight.mul_(3)  # norms on both sides of 1
    real, fake, alpha = other.critic_batch(0)
    with torch.no_grad():
        torch.testing.assert_close(fake, other.generator(other.latents("critic", 0, 8)))
    assert 0 <= alpha.min() < alpha.max() < 1
    alpha = alpha[:, None]
    x = (alpha * real + (1 - alpha) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(other.critic(x).sum(), x, create_graph=True)
    excess = gradient.square().sum(1).sqrt() - 1
    assert (excess > 0).any()
    assert (excess < 0).any()
    penalty = (excess.clamp(min=0) if one_sided else excess).square().mean()
    loss = other.critic(fake).mean() - other.critic(real).mean() + 3.0 * penalty
    loss.backward()
    other.critic_optimizer.step()
    trainer.critic_steps()
    for a, b in zip(trainer.critic.parameters(), other.critic.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    means = trainer.take_means()
    assert means["critic_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert means["grad_norm"] == pytest.approx((excess + 1).mean().item(), rel=1e-5)


def test_the_average_has_its_half_life() -> None:
    config = small("toy-8gaussians", ema_kimg=0.002)  # 2 samples of 40 an iteration: 2^-20 remains
    trainer = trainer_of(config)
    for _ in range(3):
        trainer.iterate()
    for a, b in zip(trainer.average.parameters(), trainer.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    config = dataclasses.replace(config, ema_kimg=0.04)  # one iteration is one half-life
    trainer = trainer_of(config)
    trainer.images = 1_000_000  # past the warm-up
    old = [p.clone() for p in trainer.average.parameters()]
    trainer.generator_step()
    new = zip(old, trainer.generator.parameters(), trainer.average.parameters(), strict=True)
    for before, now, average in new:
        torch.testing.assert_close(average, (before + now) / 2)


def test_accumulated_parts_are_the_whole_step() -> None:
    """Norm-free networks: cutting a batch changes the order of sums, and nothing else."""
    config = small("toy-8gaussians", batch=12, generator_batch=24, n_critic=2, lr=1e-3)
    whole, parts = trainer_of(config), trainer_of(dataclasses.replace(config, accumulate=3))
    whole.iterate()
    parts.iterate()
    whole.generator_step()
    parts.generator_step()
    for net in ("critic", "generator"):  # the optimisers hardly see how large gradients are
        for a, b in zip(getattr(whole, net).parameters(), getattr(parts, net).parameters(), strict=True):
            if a.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5)
    for trainer in (whole, parts):
        for _ in range(4):
            trainer.iterate()
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    means = [trainer.take_means() for trainer in (whole, parts)]
    for name, value in means[0].items():
        assert means[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_generator_has_a_batch_of_its_own() -> None:
    spy = trainer_of(small("toy-8gaussians", generator_batch=24, n_critic=2), Spy)
    assert isinstance(spy, Spy)
    for _ in range(2):
        spy.iterate()
    assert [len(z) for z in spy.drawn] == [8, 8, 24, 8, 8]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_learning_rate_falls_to_zero(optimizer: str) -> None:
    """Factor max(0, 1 - iteration / iters), both networks (paper 2.2)."""
    trainer = trainer_of(small("toy-8gaussians", lr=0.1, lr_decay="linear", iters=4, optimizer=optimizer))
    rates = []
    for _ in range(4):
        trainer.iterate()
        for found in (trainer.critic_optimizer, trainer.generator_optimizer):
            rates.append(found.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.075, 0.075, 0.05, 0.05, 0.025, 0.025])
    assert trainer.learning_rate == 0


def test_mixed_precision_keeps_the_penalty_in_float32() -> None:
    """Against the same step in float32: the scores are rounded to bfloat16, the penalty is not."""
    config = small(n_critic=1, batch=32)
    exact, mixed = trainer_of(config), trainer_of(dataclasses.replace(config, precision="bf16"))
    batch = exact.critic_batch(0)
    assert mixed.critic_batch(0)[1].dtype == torch.float32
    a, b = exact.objective(*batch), mixed.objective(*batch)
    assert b.loss.dtype == torch.float32
    assert a.penalty is not None
    assert b.penalty is not None
    assert b.grad_norm is not None
    assert b.penalty.item() == pytest.approx(a.penalty.item(), rel=1e-5)
    assert b.wasserstein.item() != a.wasserstein.item()
    assert b.wasserstein.item() == pytest.approx(a.wasserstein.item(), rel=0.05, abs=0.01)
    stock = trainer_of(dataclasses.replace(config, precision="bf16", penalty="stock")).objective(*batch)
    assert stock.loss.item() == pytest.approx(b.loss.item(), rel=1e-5)
    before = weights(mixed)
    mixed.critic_update(*batch)
    mixed.generator_step()
    assert all(value.dtype == torch.float32 for value in weights(mixed))
    assert all(not torch.equal(x, y) for x, y in zip(before, weights(mixed), strict=True) if x.dim() > 1)


def test_the_held_out_loss_is_of_samples_that_are_never_trained_on() -> None:
    config = small(batch=8, one_sided=True)
    source = data.load("digits")
    train, held_out = data.hold_out(source, 20)
    assert isinstance(train, Stored)
    assert isinstance(held_out, Stored)
    rows = [set(part._rows.tolist()) for part in (train, held_out) if part._rows is not None]
    assert len(rows[1]) == 20
    assert rows[0] | rows[1] == set(range(1797))
    assert not rows[0] & rows[1]
    trainer = Trainer(config, train, held_out, Group(CPU))
    found = trainer.held_out_means()
    again = trainer.held_out_means()
    assert found == again  # the same batches every time, so that only the networks make a difference
    losses_found = []
    assert trainer.held_out is not None
    for k in range(2):  # 20 samples are two batches of 8
        with torch.no_grad():
            fake = trainer.generator(trainer.latents("held out", k, 8))
            losses_found.append(
                trainer.objective(trainer.held_out(k), fake, trainer._alpha("held out", k, 8)).loss
            )
    assert found["held_out_critic_loss"] == pytest.approx(torch.stack(losses_found).mean().item(), rel=1e-5)


def test_samples_do_not_depend_on_how_many_are_asked_for() -> None:
    """Batch norm has the statistics of whole batches of latents, also for the last part."""
    trainer = trainer_of(small())
    z = torch.randn(SAMPLE_BATCH + 3, 3, generator=data.stream(0))
    assert torch.equal(trainer.sample(z)[:SAMPLE_BATCH], trainer.sample(z[:SAMPLE_BATCH]))
    with torch.no_grad():
        others = torch.randn(SAMPLE_BATCH - 1, 3, generator=data.stream("fill", 1))
        expected = trainer.average(torch.cat([z[:1], others]))[:1]
    assert torch.equal(trainer.sample(z[:1]), expected)


# CUDA graphs, emulated


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"penalty": "stock"},
        {"loss": "gan"},
        {"lr_decay": "linear", "lr": 1e-3, "iters": 12},
        {"accumulate": 2},
        {"precision": "bf16"},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())) or "plain",
)
def test_graphs_change_no_number(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """Eager and replayed runs, and one that changes over from the other's state in the middle."""
    config = small("toy-8gaussians", **{"penalty": "fast", "n_critic": 2, **changes})
    eager = trainer_of(config)
    assert not eager.graphs  # nothing to capture on a CPU
    for _ in range(4):
        eager.iterate()
    middle = eager.state_dict()
    middle = {**middle, "sums": {name: value.clone() for name, value in middle["sums"].items()}}
    monkeypatch.setattr(cudagraph, "Capture", EmulatedCapture)
    monkeypatch.setattr(checks, "capturing", capturing)
    assert not trainer_of(dataclasses.replace(config, graphs=False)).graphs
    replayed, resumed = trainer_of(config), trainer_of(config)
    assert replayed.graphs
    for _ in range(10):
        replayed.iterate()
    assert replayed.critic_updates.captured
    for _ in range(4):
        resumed.iterate()
    assert resumed.critic_updates.captured  # loading has to make it forget
    resumed.load_state_dict(copy.deepcopy(middle))
    for _ in range(6):
        eager.iterate()
        resumed.iterate()
    assert resumed.critic_updates.captured
    for other in (replayed, resumed):
        states = [trainer.state_dict() for trainer in (eager, other)]
        for state in states:
            for group in state["critic_optimizer"]["param_groups"]:
                del group["capturable"], group["lr"]
            for name, value in state["critic"].items():
                assert value.isfinite().all(), name
        assert_same(*states)
    assert eager.take_means() == replayed.take_means()
