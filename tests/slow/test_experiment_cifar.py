"""The experiment ``cifar``: a smoke run against recomputed numbers, its rules, and the paper's settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import cifar, cli, scoring, speed
from wgangp_fast.experiments.study import Study
from wgangp_fast.training import checkpoint, data, models
from wgangp_fast.training.data import Stored
from wgangp_fast.training.metrics.features import Classifier
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import Trainer

for package in ("matplotlib", "PIL", "sklearn"):
    pytest.importorskip(package)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a smoke run, and its results."""
    path = tmp_path_factory.mktemp("cifar") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "ROUNDS", {"smoke": (1, 0.0)})
        page = cli.run(cli.open_study("cifar", "smoke", path, device="cpu"))
    assert page == path / "README.md"
    return path, json.loads((path / "results.json").read_text())


def by_definition(probabilities: Tensor, splits: int) -> float:
    """The inception score, written out."""
    scores = []
    for part in np.array_split(probabilities.double().numpy(), splits):
        marginal = part.mean(0)
        scores.append(np.exp(np.mean([np.sum(p * np.log(p / marginal)) for p in part])))
    return float(np.mean(scores))


def test_swing_is_the_deviation_of_the_last_quarter_and_measures_must_agree() -> None:
    assert cifar.swing([9.0] * 6 + [1.0, 3.0]) == pytest.approx(1.0)
    assert cifar.swing([5.0]) == 0.0
    assert [cifar.agreed(a, b) for a, b in ((True, True), (False, False), (True, False))] == [
        True,
        False,
        None,
    ]


def test_the_smoke_run_leaves_the_figure_and_the_table(smoke: tuple[Path, dict[str, Any]]) -> None:
    path, results = smoke
    for name in ("convergence", "samples", "resnet-unconditional", "resnet-conditional"):
        assert (path / f"{name}.png").stat().st_size > 1000
    page = (path / "README.md").read_text()
    for claim in results["claims"]:
        assert claim["claim"] in page
        assert claim["held"] is None  # a few iterations can show nothing
    assert len(results["claims"]) == 8
    assert [row["critic"] for row in results["kernels"]] == [
        "ResNet critic", "ResNet with labels (AC-GAN) critic", "convolutional critic"
    ]  # fmt: skip
    assert {row["path"] for row in results["kernels"]} == {"engine"}
    conv, resnets = results["tables"]
    assert [row[1] for row in conv["rows"]] == [12] * 4
    assert [row[1] for row in resnets["rows"]] == [4, 4]
    assert resnets["rows"][0][4] is None
    for name, curve in results["numbers"]["curves"].items():
        assert [row["iteration"] for row in curve] == [0, 4, 8, 12], name
        seconds = [row["seconds"] for row in curve]
        assert seconds == sorted(seconds)


def test_scores_are_those_of_the_trained_generators(smoke: tuple[Path, dict[str, Any]]) -> None:
    """From the checkpoint and the kept classifier, without the experiment's code."""
    path, results = smoke
    judge = Classifier.load(path / "parts" / "classifier.pt")
    z = torch.randn(100, 16, generator=data.stream(0, "cifar", "curve"))
    fill = torch.randn(28, 16, generator=data.stream("fill", 100))
    for name in cifar.METHODS:
        generator = models.build("cifar-generator", channels=1, size=8, dim=8, latent=16, norm="batch")
        generator.load_state_dict(checkpoint.load(path / "parts" / f"{name}.pt")["generator"])
        with torch.no_grad():
            samples = generator(torch.cat([z, fill]))[:100]
        p = judge(to_pixels(samples))[1]
        assert p is not None
        found = results["numbers"]["curves"][name][-1]["score"]
        assert found == pytest.approx(by_definition(p, 10), rel=1e-4), name
    real = scoring.score(judge, torch.zeros(20, 1, 8, 8, dtype=torch.uint8))
    assert real == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))  # one image has one class


def test_a_complete_folder_is_drawn_again_without_training(
    smoke: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = smoke

    def never(self: Trainer) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "iterate", never)
    cli.run(cli.open_study("cifar", "smoke", path, device="cpu"))
    again = json.loads((path / "results.json").read_text())
    assert again["claims"] == results["claims"]
    assert again["tables"] == results["tables"]


def test_rules_of_the_claims() -> None:
    mean, unrest = cifar.ending([9.0, 0.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0])
    assert mean == 3.5  # a quarter of eight
    assert unrest == pytest.approx(0.0, abs=1e-9)  # the half rises in a straight line
    # 2, 4, 4, 2 has slope 0 and mean 3.
    assert cifar.ending([9.0] * 4 + [2.0, 4.0, 4.0, 2.0])[1] == pytest.approx(1.0)
    assert cifar.ending([5.0]) == (5.0, pytest.approx(0.0, abs=1e-9))
    rows = [{"seconds": s, "score": v} for s, v in ((0.0, 1.0), (1.5, 2.0), (2.5, 4.0), (3.5, 3.0))]
    assert cifar.seconds_until(rows, 2.0) == 1.5
    assert cifar.seconds_until(rows, 2.1) == 2.5
    assert cifar.seconds_until(rows, 4.1) is None


def test_agreement_counts_samples_of_the_class_that_was_asked_for(tmp_path: Path) -> None:
    """A generator that gives real digits of its label, or of the next one."""
    images, labels = data.digits()
    stored = Stored("digits", to_pixels(images), labels=labels)
    study = cli.open_study("cifar", "smoke", tmp_path / "run", device="cpu")
    judge = scoring.classifier(study, stored)

    class Honest:
        shift = 0

        def sample(self, z: Tensor, wanted: Tensor) -> Tensor:
            assert len(z) == len(wanted) == 100
            rows = [
                int((labels == (c + self.shift) % 10).nonzero()[k]) for k, c in enumerate(wanted.tolist())
            ]
            return images[rows]

    trainer: Any = Honest()
    asked = cifar._labels(study, 10)
    assert sorted(set(asked.tolist())) == list(range(10))
    found = cifar._judge(study, trainer, judge, asked)
    assert found["agreement"] >= 0.95  # what the classifier knows of real digits
    assert found["score"][0] > 5  # ten samples a split
    trainer.shift = 1
    assert cifar._judge(study, trainer, judge, asked)["agreement"] <= 0.05
    with pytest.raises(UserError, match="bare has no labels"):
        scoring.classifier(study, Stored("bare", torch.zeros(40, 1, 8, 8, dtype=torch.uint8)))


# The paper's settings.


def paper(path: Path) -> Study:
    return cli.open_study("cifar", "paper", path, device="cpu")


@pytest.mark.parametrize(
    ("name", "critic", "settings"),
    [
        ("clipping", 4_116_225, ("wgan", "rmsprop", 5e-5, 5)),
        ("gp-rmsprop", 4_114_689, ("wgan-gp", "rmsprop", 5e-5, 5)),
        ("gp-adam", 4_114_689, ("wgan-gp", "adam", 1e-4, 5)),
        ("dcgan", 4_116_225, ("gan", "adam", 2e-4, 1)),
    ],
)
def test_the_convolutional_trainings_are_the_papers(
    tmp_path: Path, name: str, critic: int, settings: tuple[Any, ...]
) -> None:
    """Sections 2.1, 8 and 15.1; constructed whole, and not trained."""
    config = cifar.conv_config(paper(tmp_path), name)
    assert (config.loss, config.optimizer, config.lr, config.n_critic) == settings
    assert (config.batch, config.iters, config.clip, config.lambda_gp) == (64, 200_000, 0.01, 10.0)
    assert (config.critic_norm, config.generator_norm) == ("none" if "gp" in name else "batch", "batch")
    betas = {"gp-adam": (0.5, 0.9), "dcgan": (0.5, 0.999)}
    if name in betas:
        assert (config.beta1, config.beta2) == betas[name]
    trainer = Trainer(config, stored(), None, Group(CPU))
    counts = [sum(p.numel() for p in net.parameters()) for net in (trainer.critic, trainer.generator)]
    assert counts == [critic, 5_179_907]


@pytest.mark.parametrize(
    ("name", "critic", "generator"),
    [("unconditional", 1_053_825, 1_204_483), ("conditional", 1_055_115, 1_218_307)],
)
def test_the_residual_trainings_are_the_papers(
    tmp_path: Path, name: str, critic: int, generator: int
) -> None:
    config = cifar.resnet_config(paper(tmp_path), name)
    assert (config.loss, config.lr, config.lr_decay, config.n_critic) == ("wgan-gp", 2e-4, "linear", 5)
    assert (config.batch, config.generator_batch, config.iters) == (64, 128, 100_000)
    assert (config.beta1, config.beta2, config.dequantize) == (0.0, 0.9, True)
    assert (config.acgan_critic, config.acgan_generator) == (1.0, 0.1)
    trainer = Trainer(config, stored(), None, Group(CPU))
    assert trainer.classes == (10 if name == "conditional" else 0)
    counts = [sum(p.numel() for p in net.parameters()) for net in (trainer.critic, trainer.generator)]
    assert counts == [critic, generator]


def stored() -> Stored:
    return Stored("x", torch.zeros(200, 3, 32, 32, dtype=torch.uint8), labels=torch.arange(200) % 10)


def test_paper_scale_asks_for_its_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper scale needs --data PATH: CIFAR-10, the python version"):
        cli.run(paper(tmp_path))
