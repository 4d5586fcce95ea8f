"""Networks with classes are trained as an AC-GAN (paper section 9), and sampled by label."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from graph_emulation import EmulatedCapture, capturing
from launching import end, start, start_ranks
from torch import Tensor, nn
from train_settings import CPU, assert_same, final_state, small, ticks, trainer_of

from wgangp_fast import checks
from wgangp_fast.cuda_graphs import capture as cudagraph
from wgangp_fast.errors import UserError
from wgangp_fast.training import Config, train
from wgangp_fast.training import sample_cli as sampling
from wgangp_fast.training.data import Batches, Stored
from wgangp_fast.training.losses import LOSSES
from wgangp_fast.training.networks import build_networks
from wgangp_fast.training.objectives import Objective, generator_loss, scores_of
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.recorder import class_columns
from wgangp_fast.training.runs import open_run
from wgangp_fast.training.trainer import SAMPLE_BATCH, Trainer, sample

CONDITIONAL = {
    "critic": "cifar-resnet-acgan-critic",
    "generator": "cifar-resnet-acgan-generator",
    "generator_norm": "layer",  # independent samples, so that runs can be compared part by part
    "n_critic": 2,
}


def conditional(**changes: Any) -> Config:
    return small(**{**CONDITIONAL, **changes})


# The losses, against the same written out by hand.


class TwoHeads(nn.Module):
    """Smooth, float64, curved in its input."""

    classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.Tanh())
        self.score, self.classify = nn.Linear(6, 1), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.score(h).squeeze(1), self.classify(h)


def by_hand(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy from its definition."""
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -torch.stack([p[i, c].log() for i, c in enumerate(labels.tolist())]).mean()


@pytest.mark.parametrize("penalty", ["fast", "stock"])
@pytest.mark.parametrize("loss", ["wgan-gp", "gan-gp", "wgan", "lsgan"])
def test_the_critics_loss_is_the_hand_written_one(loss: str, penalty: str) -> None:
    torch.manual_seed(0)
    critic = TwoHeads()
    real, fake, alpha = torch.randn(7, 5).double(), torch.randn(7, 5).double(), torch.rand(7).double()
    labels = torch.tensor([0, 2, 1, 1, 0, 2, 2])
    config = Config(loss=loss, penalty=penalty, acgan_critic=0.7, lambda_gp=3.0)
    found = Objective(critic, config)(real, fake, alpha, labels)
    found.loss.backward()
    ours = [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    critic.zero_grad()
    (r, logits), (f, _) = critic(real), critic(fake)
    expected = {
        "wgan-gp": f.mean() - r.mean(),
        "wgan": f.mean() - r.mean(),
        "gan-gp": ((1 + f.exp()).log().mean() + (1 + (-r).exp()).log().mean()) / 2,
        "lsgan": ((r - 1).square().mean() + f.square().mean()) / 2,
    }[loss]
    if loss.endswith("gp"):
        x = (alpha[:, None] * real + (1 - alpha[:, None]) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(x)[0].sum(), x, create_graph=True)
        norms = gradient.square().sum(1).sqrt()
        expected = expected + 3.0 * (norms - 1).square().mean()
        assert found.penalty is not None
        torch.testing.assert_close(found.penalty, (norms - 1).square().mean().detach())
        torch.testing.assert_close(found.grad_norm, norms.mean().detach())
    else:
        assert found.penalty is None
    of_classes = by_hand(logits, labels)
    expected = expected + 0.7 * of_classes
    expected.backward()
    # The cross entropy is computed in float32, and so are the losses that are not WGAN-GP's.
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.class_loss, of_classes.detach().float())
    wasserstein = (r.mean() - f.mean()).detach()
    torch.testing.assert_close(found.wasserstein.double(), wasserstein, rtol=1e-5, atol=1e-6)
    theirs = [p.grad for p in critic.parameters() if p.grad is not None]
    assert len(ours) == len(theirs) == 6
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_generators_loss_is_the_hand_written_one() -> None:
    torch.manual_seed(0)
    critic, labels = TwoHeads(), torch.tensor([2, 0, 1, 1])
    images = torch.randn(4, 5).double().requires_grad_()
    loss, of_classes = generator_loss(LOSSES["wgan-gp"], critic, images, labels, 0.1)
    (ours,) = torch.autograd.grad(loss, images)
    scores, logits = critic(images)
    expected = -scores.mean() + 0.1 * by_hand(logits, labels)
    (theirs,) = torch.autograd.grad(expected, images)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(of_classes, by_hand(logits, labels).detach().float())


def test_gan_gp_is_a_setting_and_refuses_what_a_penalty_cannot_have() -> None:
    config = Config(loss="gan-gp")
    assert (config.optimizer, config.lr, config.beta1, config.n_critic) == ("adam", 2e-3, 0.0, 3)
    assert LOSSES["gan-gp"].penalised
    assert [name for name, loss in LOSSES.items() if loss.whole] == ["wgan-gp"]
    with pytest.raises(UserError, match="critic_norm batch couples the samples"):
        Config(loss="gan-gp", critic_norm="batch")
    trainer = trainer_of(small("toy-8gaussians", loss="gan-gp", n_critic=1))
    trainer.iterate()
    penalty = trainer.take_means()["penalty"]
    assert penalty is not None
    assert penalty > 0


# The trainer.


class Spy(Trainer):
    """Records what the generator is called with."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[tuple[bool, Tensor, Tensor]] = []
        self.generator.register_forward_pre_hook(
            lambda module, given: self.calls.append((torch.is_grad_enabled(), *given))
        )


def test_fakes_have_the_labels_of_the_real_batch_and_generator_steps_their_own() -> None:
    spy = trainer_of(conditional(generator_batch=200), Spy)
    assert isinstance(spy, Spy)
    for _ in range(3):
        spy.iterate()
    critic_labels = [labels for step, _, labels in spy.calls if not step]
    generator_labels = [labels for step, _, labels in spy.calls if step]
    assert len(critic_labels) == 6
    source = Batches(trainer_of(conditional()).loader.batches.samples, 8, 0)
    for k, labels in enumerate(critic_labels):
        expected = source.labels(k)
        assert expected is not None
        assert torch.equal(labels, expected)
    assert len(generator_labels) == 2
    for labels in generator_labels:
        assert labels.shape == (200,)
        assert torch.bincount(labels, minlength=10).min() >= 5  # 20 expected, deviation 4.2
    assert not torch.equal(*generator_labels)
    again, other = trainer_of(conditional()), trainer_of(conditional(seed=1))
    assert torch.equal(again.labels("generator", 1, 200), generator_labels[0])
    assert not torch.equal(other.labels("generator", 1, 200), generator_labels[0])
    again.group = Group(CPU, 1, 2)
    assert torch.equal(again.labels("generator", 2, 200), generator_labels[1][100:])


def test_a_generator_step_adds_the_classification_of_its_labels() -> None:
    trainer = trainer_of(conditional(acgan_generator=0.4, generator_batch=12))
    other = copy.deepcopy((trainer.critic, trainer.generator))
    trainer.iteration = 5
    z, labels = trainer.latents("generator", 5, 12), trainer.labels("generator", 5, 12)
    trainer.generator_step()
    critic, generator = other
    scores, logits = critic(generator(z, labels))
    of_classes = by_hand(logits, labels)
    loss = -scores.mean() + 0.4 * of_classes
    loss.backward()
    for a, b in zip(trainer.generator.parameters(), generator.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert trainer.sums["generator_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert trainer.sums["fake_class_loss"].item() == pytest.approx(of_classes.item(), rel=1e-5)
    # What a critic step leaves is the generator's alone: no gradient reached the critic.
    assert all(p.grad is None for p in trainer.critic.parameters())


def test_means_and_held_out_losses_have_the_classification() -> None:
    trainer = trainer_of(conditional(acgan_critic=2.0, n_critic=1))
    batch = trainer.critic_batch(0)
    found = trainer.objective(*batch)
    assert found.class_loss is not None
    assert found.class_loss.item() == pytest.approx(
        by_hand(trainer.critic(batch[0])[1], batch[3]).item(), rel=1e-5
    )
    held_out = trainer.held_out_means()["held_out_critic_loss"]
    trainer.iterate()
    means = trainer.take_means()
    assert means["class_loss"] == pytest.approx(found.class_loss.item(), rel=1e-5)
    assert means["fake_class_loss"] is None  # no generator step in the first iteration
    assert means["critic_loss"] == pytest.approx(found.loss.item(), rel=1e-5)
    plain = trainer_of(conditional(acgan_critic=0.0, n_critic=1)).held_out_means()["held_out_critic_loss"]
    assert held_out - plain == pytest.approx(2 * np.log(10), rel=0.3)  # of a guess
    assert trainer_of(conditional(loss="gan", n_critic=1)).objective(*batch).penalty is None
    unlabelled = trainer_of(small())
    unlabelled.iterate()
    assert "class_loss" not in unlabelled.take_means()
    assert len(unlabelled.critic_batch(0)) == 3


def test_the_gradient_norm_of_losses_without_a_penalty_is_of_the_scores() -> None:
    trainer = trainer_of(conditional(loss="lsgan"))
    trainer.iterate()
    real, fake, alpha, _ = trainer.last or ()
    x = alpha[:, None, None, None] * real + (1 - alpha)[:, None, None, None] * fake
    (gradient,) = torch.autograd.grad(trainer.critic(x.requires_grad_())[0].sum(), x)
    expected = gradient.flatten(1).norm(dim=1).mean().item()
    assert trainer.take_means()["grad_norm"] == pytest.approx(expected, rel=1e-5)
    assert torch.equal(scores_of(trainer.critic(x)), trainer.critic(x)[0])


def test_accumulated_parts_are_the_whole_step() -> None:
    config = conditional(batch=12, generator_batch=24, lr=1e-3)
    whole, parts = trainer_of(config), trainer_of(dataclasses.replace(config, accumulate=3))
    for trainer in (whole, parts):
        trainer.iterate()
        trainer.generator_step()
    for net in ("critic", "generator"):
        for a, b in zip(getattr(whole, net).parameters(), getattr(parts, net).parameters(), strict=True):
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-5)
    one, three = whole.take_means(), parts.take_means()
    assert one["class_loss"] == pytest.approx(three["class_loss"], rel=1e-4)
    assert one["fake_class_loss"] == pytest.approx(three["fake_class_loss"], rel=1e-4)


def test_graphs_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    config = conditional(n_critic=1, penalty="fast")
    eager = trainer_of(config)
    for _ in range(7):
        eager.iterate()
    monkeypatch.setattr(cudagraph, "Capture", EmulatedCapture)
    monkeypatch.setattr(checks, "capturing", capturing)
    replayed = trainer_of(config)
    for _ in range(7):
        replayed.iterate()
    assert replayed.critic_updates.captured
    assert_same(eager.critic.state_dict(), replayed.critic.state_dict())
    assert_same(eager.generator.state_dict(), replayed.generator.state_dict())
    assert eager.take_means() == replayed.take_means()


def test_mixed_precision_classifies_too() -> None:
    config = conditional(batch=32)
    exact, mixed = trainer_of(config), trainer_of(dataclasses.replace(config, precision="bf16"))
    batch = exact.critic_batch(0)
    a, b = exact.objective(*batch), mixed.objective(*batch)
    assert a.class_loss is not None
    assert b.class_loss is not None
    assert b.class_loss.dtype == torch.float32
    assert b.class_loss.item() == pytest.approx(a.class_loss.item(), rel=0.02)
    assert b.loss.item() == pytest.approx(a.loss.item(), rel=0.05)
    mixed.iterate()
    mixed.iterate()
    assert mixed.finite()


def test_resuming_is_exact(tmp_path: Path) -> None:
    settings = {"generator_norm": "batch", "generator_batch": 16}
    whole = train(conditional(iters=6, outdir=str(tmp_path / "whole"), **settings))
    path = train(conditional(iters=4, outdir=str(tmp_path / "parts"), **settings))
    train(Config(resume=str(path), iters=6))
    assert_same(final_state(whole), final_state(path))
    assert ticks(whole) == ticks(path)
    assert ticks(path)[-1]["class_loss"] > 0


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)
def test_two_processes_follow_one(tmp_path: Path) -> None:
    flags = [
        "train", "--preset", "digits", "--critic", CONDITIONAL["critic"], "--generator",
        CONDITIONAL["generator"], "--generator-norm", "layer", "--batch", "8", "--critic-dim", "4",
        "--generator-dim", "4", "--latent", "3", "--device", "cpu", "--threads", "1", "--iters", "4",
        "--tick", "2", "--snapshot", "4", "--lr", "1e-3", "--accumulate", "2", "--penalty", "stock",
    ]  # fmt: skip
    ranks = start_ranks([*map(str, flags), "--outdir", str(tmp_path / "two")])
    ranks.append(start([*map(str, flags), "--outdir", str(tmp_path / "one")]))
    found = [end(rank) for rank in ranks]
    assert [code for code, _, _ in found] == [0, 0, 0], found
    two, one = (tmp_path / name / "00000-digits" for name in ("two", "one"))
    for together, alone in zip(ticks(two), ticks(one), strict=True):
        assert "fake_class_loss" in together
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    for net in ("critic", "generator"):
        for name, value in final_state(one)[net].items():
            torch.testing.assert_close(final_state(two)[net][name], value, rtol=1e-3, atol=1e-4)


# What does not fit together.


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"critic": "digits-critic"}, "acgan-generator needs labels, and digits-critic takes none"),
        ({"generator": "digits-generator"}, "acgan-critic needs labels, and digits-generator takes none"),
        ({"generator_norm": "none"}, "through which labels act"),
    ],
)
def test_networks_that_do_not_fit_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        trainer_of(conditional(**changes))


def test_data_that_do_not_fit_are_refused() -> None:
    config = conditional()
    images = torch.zeros(40, 1, 8, 8)
    with pytest.raises(UserError, match="needs labels of 10 classes, and bare has no labels"):
        Trainer(config, Stored("bare", images), None, Group(CPU))
    four = Stored("coded", images, labels=torch.arange(40) % 4)
    with pytest.raises(UserError, match="needs labels of 10 classes, and coded has 4 classes"):
        Trainer(config, four, None, Group(CPU))
    critic, generator = build_networks(config, (1, 8, 8))
    critic.classes = torch.tensor(4)
    with pytest.raises(UserError, match="acgan-critic knows 4 classes instead of 10"):
        Trainer(config, four, None, Group(CPU), (critic, generator))
    assert trainer_of(small()).classes == 0  # labels that nobody asks for do no harm


def test_the_preset_is_the_released_script() -> None:
    config = Config(preset="cifar10-resnet-acgan", data="x")
    assert (config.batch, config.generator_batch, config.n_critic, config.iters) == (64, 128, 5, 100_000)
    assert (config.acgan_critic, config.acgan_generator, config.lambda_gp) == (1.0, 0.1, 10.0)
    assert (config.lr, config.lr_decay, config.beta1, config.beta2) == (2e-4, "linear", 0.0, 0.9)
    assert config.dequantize
    with torch.device("meta"):
        networks = build_networks(config, (3, 32, 32))
    assert [sum(p.numel() for p in net.parameters()) for net in networks] == [1_055_115, 1_218_307]
    with pytest.raises(UserError, match="acgan_critic must be at least 0; got -1"):
        Config(acgan_critic=-1.0)


# Samples.


class Painter(nn.Module):
    """An image for a latent and a label: both are in it."""

    classes = 3

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return z[:, :1, None, None] + 100 * labels[:, None, None, None]


def test_samples_take_labels_in_turn_or_the_given_ones() -> None:
    z = torch.zeros(SAMPLE_BATCH + 2, 4)
    turns = torch.arange(SAMPLE_BATCH + 2) % 3
    assert torch.equal(sample(Painter(), z, CPU).flatten(), 100.0 * turns)
    given = torch.randint(3, (SAMPLE_BATCH + 2,))
    assert torch.equal(sample(Painter(), z, CPU, given).flatten(), 100.0 * given)
    assert [class_columns(count) for count in (0, 3, 20, 21)] == [None, 3, 20, None]


def test_the_commands_know_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = train(conditional(iters=2, outdir=str(tmp_path)))
    run = open_run(path, device="cpu")
    assert run.classes == 10
    with torch.no_grad():  # so that a label is seen in the pixels
        run.generator.get_parameter("blocks.0.norm1.scale").mul_(torch.arange(10.0)[:, None])
    z = run.latents(SAMPLE_BATCH, 5)
    labels = torch.full((SAMPLE_BATCH,), 7)
    assert torch.equal(run.draw(6, 5, label=7), run.generator(z, labels)[:6].float())
    assert torch.equal(run.draw(6, 5), run.generator(z, torch.arange(SAMPLE_BATCH) % 10)[:6].float())
    strips = sampling.strips(run, 3, 0, None)
    assert sampling.strip_labels(run, 3, None).tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert sampling.strip_labels(run, 2, 4).tolist() == [4] * 16
    assert len(strips) == 24
    common = ["--run", str(path), "--device", "cpu", "--num", "8"]
    for name, flags in (("a.npy", ["--label", "3"]), ("b.npy", []), ("c.npy", ["--interpolate"])):
        assert sampling.main([*common, "--out", str(tmp_path / name), *flags]) == 0
    fresh = open_run(path, device="cpu")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), fresh.draw(8, 0, label=3).numpy())
    assert np.load(tmp_path / "c.npy").shape == (64, 1, 8, 8)
    capsys.readouterr()
    assert sampling.main([*common, "--out", str(tmp_path / "e.png"), "--label", "10"]) == 2
    assert "label 10 is not among its generator's, 0 to 9" in capsys.readouterr().err
    plain = train(small(iters=2, outdir=str(tmp_path / "plain")))
    arguments = ["--run", str(plain), "--device", "cpu", "--out", str(tmp_path / "f.png"), "--label", "1"]
    assert sampling.main(arguments) == 2
    assert "its generator digits-generator takes no labels" in capsys.readouterr().err
