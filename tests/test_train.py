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
from train_settings import CPU, assert_same, small

from wgangp_fast import checks, cudagraph, data
from wgangp_fast.data import UserError
from wgangp_fast.data.toy import Modes
from wgangp_fast.train import Config, losses, metrics
from wgangp_fast.train import cli as train_cli
from wgangp_fast.train.config import RESUMABLE
from wgangp_fast.train.trainer import Trainer


def trainer_of(config: Config) -> Trainer:
    return Trainer(config, data.load(config.data, config.seed), CPU)


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

    def latents(self, count: int) -> Tensor:
        z = super().latents(count)
        self.drawn.append(z)
        return z


@pytest.mark.parametrize(("loss", "n_critic"), [("wgan-gp", 5), ("wgan", 5), ("gan", 1), ("lsgan", 1)])
def test_the_loop_begins_and_ends_with_critic_steps_on_fresh_batches(loss: str, n_critic: int) -> None:
    config = small("toy-8gaussians", loss=loss)
    assert config.n_critic == n_critic
    spy = Spy(config, data.load(config.data, 0), CPU)
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
    real = other.data.batch(8)
    with torch.no_grad():
        fake = other.generator(torch.randn(8, 2, generator=other.random))
    alpha = torch.rand(8, generator=other.random)[:, None]
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
    trainer.iteration = 1000  # past the warm-up
    old = [p.clone() for p in trainer.average.parameters()]
    trainer.generator_step()
    new = zip(old, trainer.generator.parameters(), trainer.average.parameters(), strict=True)
    for before, now, average in new:
        torch.testing.assert_close(average, (before + now) / 2)


# CUDA graphs, emulated


@pytest.mark.parametrize(("loss", "penalty"), [("wgan-gp", "fast"), ("wgan-gp", "stock"), ("gan", "fast")])
def test_graphs_change_no_number(monkeypatch: pytest.MonkeyPatch, loss: str, penalty: str) -> None:
    """Eager and replayed runs, and one that changes over from the other's state in the middle."""
    config = small("toy-8gaussians", loss=loss, penalty=penalty, n_critic=2)
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
                del group["capturable"]
            for name, value in state["critic"].items():
                assert value.isfinite().all(), name
        assert_same(*states)
    assert eager.take_means() == replayed.take_means()


def test_graphs_are_a_setting() -> None:
    assert Config().graphs
    assert not train_cli.parse(["--no-graphs"]).graphs
    assert "graphs" in RESUMABLE


# Presets and settings


def test_toy_presets_are_the_papers() -> None:
    for name in ("toy-8gaussians", "toy-25gaussians", "toy-swissroll"):
        c = Config(preset=name)
        assert (c.data, c.batch, c.lambda_gp, c.n_critic, c.iters) == (name, 256, 0.1, 5, 100_000)
        assert (c.optimizer, c.lr, c.beta1, c.beta2, c.latent) == ("adam", 1e-4, 0.5, 0.9, 2)
        trainer = trainer_of(c)
        assert sum(p.numel() for p in trainer.critic.parameters()) == 527_361
        assert sum(p.numel() for p in trainer.generator.parameters()) == 527_874


def test_losses_bring_their_optimisers_and_the_user_wins() -> None:
    wgan = Config(preset="toy-8gaussians", loss="wgan")
    assert (wgan.optimizer, wgan.lr, wgan.clip, wgan.n_critic) == ("rmsprop", 5e-5, 0.01, 5)
    gan = Config(loss="gan")
    assert (gan.optimizer, gan.lr, gan.beta1, gan.beta2, gan.n_critic) == ("adam", 2e-4, 0.5, 0.999, 1)
    lsgan = Config(loss="lsgan", lr=7e-5)
    assert (lsgan.optimizer, lsgan.lr, lsgan.n_critic) == ("rmsprop", 7e-5, 1)
    assert Config().lambda_gp == 10
    assert Config().beta1 == 0
    parsed = train_cli.parse(["--preset", "toy-8gaussians", "--loss", "wgan", "--batch", "7"])
    assert parsed == dataclasses.replace(wgan, batch=7)
    assert train_cli.parse(["--preset=toy-swissroll"]) == Config(preset="toy-swissroll")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preset": "mnist"}, "unknown preset 'mnist'; known: digits, toy-8gaussians"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"lr": -1.0}, "lr must be above 0; got -1.0"),
        ({"lambda_gp": float("nan")}, "lambda_gp must not be negative; got nan"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\)"),
        ({"critic": "resnet"}, "unknown critic 'resnet'; known: "),
        ({"critic_norm": "batch"}, "critic_norm batch couples the samples"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; known: wgan-gp"),
    ],
)
def test_refused_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(**changes)


# Metrics


def test_mode_coverage_counts_by_its_definition() -> None:
    modes = Modes(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]), torch.arange(4), 0.1)
    samples = torch.cat(
        [
            torch.tensor([[0.0, 0.29]]).repeat(60, 1),  # within 3 sigma
            torch.tensor([[1.0, 0.0]]).repeat(3, 1),  # enough: a tenth of a quarter of 100 is 2.5
            torch.tensor([[0.0, 1.0]]).repeat(2, 1),  # too few
            torch.tensor([[5.0, 5.31]]).repeat(35, 1),  # outside 3 sigma
        ]
    )
    expected = {"modes": 4, "modes_covered": 2, "modes_hit": 3, "high_quality": 0.65, "samples": 100}
    assert metrics.mode_coverage(samples, modes) == expected


def test_digit_quality_knows_real_digits_from_one_digit_and_noise() -> None:
    images, labels = data.digits()
    real = metrics.digit_quality(images)
    assert real["classes_covered"] == 10
    assert real["confidence"] > 0.97
    assert real["score"] > 9
    one = metrics.digit_quality(images[labels == 3])
    assert one["classes_covered"] == 1
    assert one["class_shares"][3] > 0.95
    assert one["score"] < 1.3
    noise = metrics.digit_quality(torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["confidence"] < 0.7
