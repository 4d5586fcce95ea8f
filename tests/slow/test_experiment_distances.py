"""The experiment ``distances``: a smoke run, and what it measures against values worked out elsewhere."""

import copy
import math
import warnings

import pytest
import torch
from experiment_settings import smoke_run
from torch import nn

from wgangp_fast.experiments import distances, rules
from wgangp_fast.experiments.cli import open_study
from wgangp_fast.experiments.study import SCALES


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, one_thread):
    study, results = smoke_run("distances", tmp_path_factory.mktemp("distances"))
    return study.path, results


def test_the_page_is_complete(smoke):
    folder, results = smoke
    text = (folder / "README.md").read_text()
    for name in ("parallel-lines.png", "two-gaussians.png"):
        assert (folder / name).stat().st_size > 10_000
        assert f"]({name})" in text
    assert len(results["claims"]) == 11
    for claim in results["claims"]:
        assert claim["claim"].replace("|", "\\|") in text
    assert [row["critic"] for row in results["kernels"]] == ["perceptron of numbers, width 32"]


def test_exact_claims_hold_and_trained_ones_are_left_open(smoke):
    _, results = smoke
    held = [claim["held"] for claim in results["claims"]]
    assert held == [True] + [None] * 5 + [True] * 5
    assert "too few to tell" in results["claims"][1]["measured"]


def test_values_of_the_lines(smoke):
    _, results = smoke
    (table,) = (t for t in results["tables"] if t["title"] == "Of samples")
    for theta, mover, js, kl, variation in table["rows"]:
        there = theta != 0
        assert mover == pytest.approx(abs(theta), abs=1e-12)
        assert js == pytest.approx(math.log(2) if there else 0, abs=1e-12)
        assert kl == ("inf" if there else 0)
        assert variation == pytest.approx(float(there), abs=1e-12)
    assert 0.0 in [row[0] for row in table["rows"]]


def test_a_wrong_distance_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(distances, "exact_wasserstein", lambda x, y: 0.5)
    monkeypatch.setattr(distances, "_gaussians", lambda study: None)
    monkeypatch.setattr(distances, "rules", lambda study: None)
    study = open_study("distances", "smoke", tmp_path, device="cpu")
    distances.run(study)
    assert [claim["held"] for claim in study.claims] == [False]


def test_description_of_a_line_and_of_a_bend():
    real, fake = torch.full((50, 1), -1.0), torch.full((50, 1), 3.0)
    line = distances.describe(lambda x: 2 - 0.5 * x[:, 0], real, fake)
    wanted = {"median": 0.5, "steepest": 0.5, "flattest": 0.5, "linear": 1.0, "gap": 2.0, "descent": -0.5}
    assert line == pytest.approx(wanted, rel=1e-5)
    square = distances.describe(lambda x: (x[:, 0] - 1).square(), real, fake)
    # symmetric around the middle of [-1, 3]: no line explains any of it
    assert square["linear"] == pytest.approx(0.0, abs=1e-6)
    assert square["descent"] == pytest.approx(4.0, rel=1e-5)
    assert square["steepest"] == pytest.approx(4.0, rel=1e-5)
    assert square["gap"] == pytest.approx(0.0, abs=1e-5)


def test_optimal_discriminator_is_the_ratio_of_densities():
    x = torch.linspace(-3, 3, 13, dtype=torch.float64)
    real, fake = (torch.distributions.Normal(mean, 1.0).log_prob(x).exp() for mean in (-2.5, 2.5))
    assert torch.allclose(distances.optimal_discriminator(x[:, None]), real / (real + fake), rtol=1e-6)


def test_the_generator_of_the_two_gaussians_is_fixed_and_moves_noise():
    critic, generator = distances._networks(8)
    z = torch.randn(5, 1)
    assert torch.equal(generator(z), z + distances.FAKE)
    assert critic(z).shape == (5,)


def test_a_wrong_loss_is_found(monkeypatch):
    right = rules._losses()
    assert max(row["error"] for row in right) <= rules.FLOAT32
    # by arithmetic: least squares, slope 1, scores r = .6 x + .8 y + .1
    r = [0.6 * 1 + 0.8 * 0.5 + 0.1, -0.8 + 0.1, 1.2 + 0.2 + 0.1, -0.3 + 2.4 + 0.1]
    f = [0.1, -0.6 + 0.8 + 0.1, 0.3 - 1.6 + 0.1, 0.9 + 0.8 + 0.1]
    (row,) = (row for row in right if row["loss"] == "lsgan" and row["slope"] == 1.0)
    assert row["critic"] == pytest.approx((sum((v - 1) ** 2 for v in r) / 4 + sum(v * v for v in f) / 4) / 2)
    halved = rules.LOSSES["lsgan"]._replace(generator=lambda fake: (fake - 1).square().mean() / 2)
    monkeypatch.setitem(rules.LOSSES, "lsgan", halved)
    wrong = {row["loss"] for row in rules._losses() if row["error"] > rules.FLOAT32}
    assert wrong == {"lsgan"}


def test_penalty_of_linear_critics():
    rows = rules._linear()
    assert [row["weight"] for row in rows] == pytest.approx(list(rules.NORMS))
    for row in rows:
        assert row["norm"] == pytest.approx(row["weight"], rel=1e-12)
        assert row["two_sided"] == pytest.approx((row["weight"] - 1) ** 2, abs=1e-12)
        assert row["one_sided"] == pytest.approx(max(0.0, row["weight"] - 1) ** 2, abs=1e-12)


def test_batch_norm_is_told_from_layer_norm(monkeypatch):
    found = rules._batch_norm()
    assert (found["warned"], found["refused"], found["wgan_refused"]) == (True, True, False)
    assert found["batch"] > 0.01 > found["layer"]
    build = rules._normed
    monkeypatch.setattr(rules, "_normed", lambda norm: build(nn.GroupNorm(1, 5)))
    assert rules._batch_norm()["warned"] is False
    monkeypatch.setattr(rules, "_normed", build)
    monkeypatch.setattr(rules, "gradient_penalty", lambda *_: warnings.warn("another", stacklevel=2))
    assert rules._batch_norm()["warned"] is False


def test_verdicts_of_the_rules(tmp_path, monkeypatch):
    def verdicts(part, name, value, where=None):
        found = copy.deepcopy(right)
        (found[part] if where is None else found[part][where])[name] = value
        monkeypatch.setattr(rules, "measured_rules", lambda: found)
        study = open_study("distances", "smoke", tmp_path, device="cpu", fresh=True)
        rules.rules(study)
        return [claim["held"] for claim in study.claims]

    right = rules.measured_rules()
    assert verdicts("norm", "batch", 0.2) == [True] * 5
    assert verdicts("losses", "error", 1e-5, where=3) == [False, True, True, True, True]
    assert verdicts("linear", "norm_error", 1e-9, where=2) == [True, False, True, True, True]
    assert verdicts("linear", "two_error", 1e-9, where=5) == [True, False, True, True, True]
    assert verdicts("linear", "one_sided", 1e-9, where=0) == [True, True, False, True, True]
    assert verdicts("linear", "one_error", 1e-9, where=5) == [True, True, False, True, True]
    assert verdicts("norm", "layer", 1e-6) == [True, True, True, False, True]
    assert verdicts("norm", "batch", 0.0) == [True, True, True, False, True]
    assert verdicts("norm", "wgan_refused", True) == [True, True, True, True, False]


def test_verdicts_of_the_gaussians(tmp_path):
    good = {"median": 1.25, "steepest": 1.3, "flattest": 1.0, "linear": 0.99, "gap": 6.25, "descent": -1.25}
    flat = good | {"median": 0.001}

    def verdicts(gan=flat, clipped=good, penalised=good, best=flat):
        study = open_study("distances", "cpu", tmp_path, device="cpu")
        distances._gaussian_claims(study, {"gan": gan, "wgan": clipped, "wgan-gp": penalised}, best)
        return [claim["held"] for claim in study.claims]

    assert verdicts() == [True] * 5
    assert verdicts(gan=good) == [False, True, True, True, True]
    assert verdicts(best=good) == [False, True, True, True, True]
    assert verdicts(clipped=flat) == [True, False, True, True, True]
    assert verdicts(penalised=good | {"linear": 0.9}) == [True, True, False, True, True]
    assert verdicts(penalised=good | {"gap": 5.8}) == [True, True, True, False, True]
    assert verdicts(penalised=good | {"gap": 5.0, "descent": -1.0}) == [True, True, True, True, False]


def test_all_scales_have_the_same_settings():
    assert set(distances.SCALES) == set(SCALES)
    keys = [set(values) for values in distances.SCALES.values()]
    assert keys[0] == keys[1] == keys[2]
