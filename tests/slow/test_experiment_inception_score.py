"""The experiment ``inception-score``: a smoke run, its scores against a loop, and its verdicts."""

import gzip
import math
import struct

import numpy as np
import pytest
import torch
from experiment_settings import smoke_run

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import inception_score as experiment
from wgangp_fast.experiments.cli import open_study
from wgangp_fast.experiments.study import SCALES
from wgangp_fast.training.metrics.features import Classifier


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, one_thread):
    study, results = smoke_run("inception-score", tmp_path_factory.mktemp("inception"))
    return study.path, results


def by_loop(p, splits):
    """exp of the mean divergence, by Python's arithmetic, mean over consecutive parts."""
    scores = []
    for k in range(splits):
        part = p[len(p) * k // splits : len(p) * (k + 1) // splits]
        marginal = [sum(row[c] for row in part) / len(part) for c in range(len(part[0]))]
        kl = [sum(v * math.log(v / m) for v, m in zip(row, marginal) if v) for row in part]
        scores.append(math.exp(sum(kl) / len(kl)))
    return sum(scores) / splits


def test_the_page_is_complete(smoke):
    folder, results = smoke
    page = (folder / "README.md").read_text()
    for name in ("inception-score.png", "generated.png"):
        assert (folder / name).stat().st_size > 2000
        assert f"]({name})" in page
    assert "7.86 ± .07" in page
    assert "not comparable" in page
    held = [claim["held"] for claim in results["claims"]]
    assert held == [True, None, True, True, True, True, None]
    assert [row["critic"] for row in results["kernels"]] == ["digits-critic"]
    # the classifier is named, with what it was trained on: two thirds less a tenth
    assert f"trained on {1198 - 119:,} labelled images" in page


def test_scores_against_a_loop(smoke):
    folder, results = smoke
    judge = Classifier.load(folder / "parts" / "classifier.pt")
    study = open_study("inception-score", "smoke", folder, device="cpu")
    images, labels = experiment._images(study)
    order = torch.randperm(len(images), generator=experiment.stream(0, "inception score"))
    real = images[order[1198:1498]]
    p = judge(real)[1].double()
    assert results["numbers"]["scores"]["real images"][0] == pytest.approx(by_loop(p.tolist(), 10), rel=1e-5)
    zeros = images[labels == 0]
    wanted = by_loop(judge(zeros)[1].double().tolist(), 10)
    assert results["numbers"]["scores"]["real images of one class"][0] == pytest.approx(wanted, rel=1e-5)
    accuracy = (p.argmax(1) == labels[order[1198:1498]]).double().mean()
    assert accuracy > 0.9  # of images that it did not learn from


def test_exact_values_find_a_wrong_score(smoke, monkeypatch):
    folder, _ = smoke
    judge = Classifier.load(folder / "parts" / "classifier.pt")
    study = open_study("inception-score", "smoke", folder, device="cpu")
    real = experiment._images(study)[0][:100]
    assert experiment.exact_values(judge, real) == pytest.approx(
        {"certain": 1.0, "vague": 1.0, "renamed": 0.0}, abs=1e-9
    )
    monkeypatch.setattr(experiment, "inception_score", lambda p, splits: (float(p[:, 0].sum()), 0.0))
    found = experiment.exact_values(judge, real)
    assert found["vague"] != pytest.approx(1.0)
    assert found["renamed"] > 1e-9


def test_pixels_of_either_range():
    class Fixed:
        def __init__(self, low):
            self.low = low

        def sample(self, z):
            return torch.tensor([self.low, (1 + self.low) / 2, 1.0, 1.5]).view(1, 1, 2, 2)

    for low in (-1.0, 0.0):
        assert experiment.generated(Fixed(low), torch.zeros(1, 2)).flatten().tolist() == [0, 128, 255, 255]


def test_data_of_the_user(tmp_path):
    pixels = np.arange(30 * 28 * 28, dtype=np.uint8).reshape(30, 28, 28)
    for name, header, body in (
        ("train-images-idx3-ubyte", struct.pack(">4i", 2051, 30, 28, 28), pixels.tobytes()),
        ("train-labels-idx1-ubyte", struct.pack(">2i", 2049, 30), bytes(i % 3 for i in range(30))),
    ):
        with gzip.open(tmp_path / f"{name}.gz", "wb") as file:
            file.write(header + body)
    study = open_study("inception-score", "smoke", tmp_path / "a", data=str(tmp_path), device="cpu")
    images, labels = experiment._images(study)
    assert tuple(images.shape) == (30, 1, 28, 28)
    assert labels.tolist() == [i % 3 for i in range(30)]
    paper = open_study("inception-score", "paper", tmp_path / "b", data=str(tmp_path), device="cpu")
    with pytest.raises(UserError, match="32 pixels a side"):
        experiment.run(paper)
    np.save(tmp_path / "plain.npy", np.zeros((4, 8, 8, 1), dtype=np.uint8))
    plain = open_study(
        "inception-score", "smoke", tmp_path / "c", data=str(tmp_path / "plain.npy"), device="cpu"
    )
    with pytest.raises(UserError, match="no labels"):
        experiment.run(plain)


def test_paper_scale(tmp_path):
    study = open_study("inception-score", "paper", tmp_path, device="cpu")
    with pytest.raises(UserError, match="CIFAR-10"):
        experiment.run(study)
    config = study.config(experiment.PAPER_PRESET, data="x", iters=study.settings.iters)
    assert (config.iters, config.critic_dim, config.lr, config.generator_batch) == (100_000, 128, 2e-4, 128)
    assert study.settings.images == 50_000
    assert set(experiment.SCALES) == set(SCALES)
    assert len({frozenset(values) for values in experiment.SCALES.values()}) == 1


GOOD = {
    "real images": 8.0,
    "generator, trained": 7.0,
    "generator, untrained": 1.5,
    "noise": 2.0,
    "real images of one class": 1.1,
    "one real image, repeated": 1.0,
    "real images in the order of their classes": 1.5,
    "real images, classifier of shuffled labels": 3.0,
}


@pytest.mark.parametrize(
    ("changed", "wrong"),
    [
        ({}, None),
        ({"generator, trained": 4.7}, 1),
        ({"generator, trained": 8.5}, 1),
        ({"generator, trained": math.nan}, 1),
        ({"real images of one class": 1.8}, 2),
        ({"one real image, repeated": 1.8}, 2),
        ({"noise": 4.1}, 3),
        ({"real images in the order of their classes": 4.1}, 4),
        ({"real images, classifier of shuffled labels": 8.1}, 5),
    ],
)
def test_verdicts(tmp_path, changed, wrong):
    study = open_study("inception-score", "cpu", tmp_path, device="cpu")
    scores = {name: (value, 0.1) for name, value in (GOOD | changed).items()}
    experiment._claims(study, 10, scores, {"certain": 1.0, "vague": 1.0, "renamed": 0.0})
    held = [claim["held"] for claim in study.claims]
    wanted = [True] * 6 + [None]
    if wrong is not None:
        wanted[wrong] = False
    assert held == wanted
