"""Settings of the trainer: presets, losses, what is refused; and the measures of toys and digits."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from train_settings import small, trainer_of

from wgangp_fast.errors import UserError
from wgangp_fast.training import PRESETS, Config, data
from wgangp_fast.training import cli as train_cli
from wgangp_fast.training.config import RESUMABLE
from wgangp_fast.training.data.toy import Modes
from wgangp_fast.training.metrics.digits import digit_quality
from wgangp_fast.training.metrics.modes import mode_coverage
from wgangp_fast.training.networks import build_networks


def test_graphs_are_a_setting() -> None:
    assert Config().graphs
    assert not train_cli.parse(["--no-graphs"]).graphs
    assert "graphs" in RESUMABLE


def test_toy_presets_are_the_papers() -> None:
    for name in ("toy-8gaussians", "toy-25gaussians", "toy-swissroll"):
        c = Config(preset=name)
        assert (c.data, c.batch, c.lambda_gp, c.n_critic, c.iters) == (name, 256, 0.1, 5, 100_000)
        assert (c.optimizer, c.lr, c.beta1, c.beta2, c.latent) == ("adam", 1e-4, 0.5, 0.9, 2)
        trainer = trainer_of(c)
        assert sum(p.numel() for p in trainer.critic.parameters()) == 527_361
        assert sum(p.numel() for p in trainer.generator.parameters()) == 527_874


@pytest.mark.parametrize(
    ("preset", "critic", "generator", "settings"),
    [
        ("lsun64-dcgan", 4_316_545, 5_364_739, (64, 10.0, 5, 1e-4, 0.0, 0.9, 200_000)),
        ("lsun64-resnet", 7_491_841, 8_540_483, (64, 10.0, 5, 1e-4, 0.0, 0.9, 200_000)),
        ("lsun128", 47_757_697, 8_544_515, (64, 10.0, 5, 1e-4, 0.0, 0.9, 200_000)),
        ("cifar10", 4_114_689, 5_179_907, (64, 10.0, 5, 1e-4, 0.5, 0.9, 200_000)),
        ("cifar10-resnet", 1_053_825, 1_204_483, (64, 10.0, 5, 2e-4, 0.0, 0.9, 100_000)),
        ("mnist", 1_030_145, 1_554_177, (50, 10.0, 5, 1e-4, 0.5, 0.9, 200_000)),
    ],
)
def test_image_presets_are_the_papers(
    preset: str, critic: int, generator: int, settings: tuple[float, ...]
) -> None:
    """Sections 2.1, 7 to 11 and 15.1."""
    c = Config(preset=preset, data="x")
    assert (c.batch, c.lambda_gp, c.n_critic, c.lr, c.beta1, c.beta2, c.iters) == settings
    assert (c.loss, c.optimizer, c.latent) == ("wgan-gp", "adam", 128)
    channels = 1 if preset == "mnist" else 3
    with torch.device("meta"):
        trainer = build_networks(c, (channels, c.size, c.size))
    assert [sum(p.numel() for p in net.parameters()) for net in trainer] == [critic, generator]
    decays = preset in ("lsun128", "cifar10-resnet")
    assert c.lr_decay == ("linear" if decays else "none")
    assert c.flip == ("batch" if preset == "lsun128" else "none")
    assert (c.generator_batch, c.dequantize) == ((128, True) if preset == "cifar10-resnet" else (0, False))


def test_every_preset_is_in_the_help_and_complete() -> None:
    text = inspect.getsource(Config)
    for name in PRESETS:
        assert name in text
        assert Config(preset=name, data="x").preset == name


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
        ({"preset": "emnist"}, "unknown preset 'emnist'; known: digits, lsun64-dcgan"),
        ({"preset": "lsun128"}, "the preset lsun128 needs data: --data FOLDER"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
        ({"lr": -1.0}, "lr must be above 0; got -1.0"),
        ({"lambda_gp": float("nan")}, "lambda_gp must be at least 0; got nan"),
        ({"beta2": 1.0}, r"beta2 must be in \[0, 1\)"),
        ({"critic": "resnet"}, "unknown critic 'resnet'; known: "),
        ({"critic_norm": "batch"}, "critic_norm batch couples the samples"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; known: wgan-gp"),
        ({"flip": "vertical"}, "flip must be one of none, sample, batch; got 'vertical'"),
        ({"precision": "fp16"}, "precision must be one of float32, bf16; got 'fp16'"),
        ({"batch": 10, "accumulate": 4}, "batch 10 cannot be cut into accumulate 4 equal parts"),
        ({"generator_batch": 10, "accumulate": 8}, "generator_batch 10 cannot be cut"),
    ],
)
def test_refused_settings(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Config(**changes)


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
    assert mode_coverage(samples, modes) == expected


def test_digit_quality_knows_real_digits_from_one_digit_and_noise() -> None:
    images, labels = data.digits()
    real = digit_quality(images)
    assert real["classes_covered"] == 10
    assert real["confidence"] > 0.97
    assert real["score"] > 9
    one = digit_quality(images[labels == 3])
    assert one["classes_covered"] == 1
    assert one["class_shares"][3] > 0.95
    assert one["score"] < 1.3
    noise = digit_quality(torch.rand(500, 1, 8, 8) * 2 - 1)
    assert noise["confidence"] < 0.7


def test_padding_reaches_both_networks() -> None:
    scores = []
    for padding in ("symmetric", "same"):
        trainer = trainer_of(small(padding=padding))
        trainer.close()
        z = torch.ones(2, 3)
        with torch.no_grad():
            images = trainer.generator(z)
            scores.append((images, trainer.critic(torch.ones_like(images))))
    assert not torch.equal(scores[0][0], scores[1][0])
    assert not torch.equal(scores[0][1], scores[1][1])
