"""The experiment ``random-architectures``: wins and successes by hand; a smoke run; the paper's size."""

import json
from functools import partial

import pytest
import torch
from experiment_settings import smoke_run

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import random_architectures as experiment
from wgangp_fast.experiments.cli import open_study, run
from wgangp_fast.experiments.comparisons import PAPER, sign_test, success_table, thresholds, wins
from wgangp_fast.experiments.images import image_set
from wgangp_fast.experiments.training import trained
from wgangp_fast.training.models import random_architecture


@pytest.fixture(scope="module")
def smoke(tmp_path_factory, one_thread):
    return smoke_run("random-architectures", tmp_path_factory.mktemp("random"))


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (8, 2, 2 * (45 + 10 + 1) / 1024),
        (2, 8, 2 * (45 + 10 + 1) / 1024),
        (10, 0, 2 / 1024),
        (5, 5, 1.0),
        (0, 0, 1.0),
        (1, 0, 1.0),
    ],
)
def test_sign_test_by_hand(first, second, p):
    assert sign_test(first, second) == pytest.approx(p)


def test_sign_test_is_the_exact_binomial_one():
    stats = pytest.importorskip("scipy.stats")
    for first, second in ((100, 77), (3, 11), (40, 41)):
        expected = stats.binomtest(first, first + second).pvalue
        assert sign_test(first, second) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="at least 0"):
        sign_test(-1, 2)


def test_wins():
    assert wins([1.0, 2.0, None, 3.0, None], [0.5, 2.0, 1.0, 4.0, None]) == (1, 2)


def test_success_table_by_hand():
    gan, gp = [2.0, 3.0, None, 1.0], [3.0, 1.5, 2.0, None]
    assert success_table(gan, gp, [0.5, 1.0, 1.5, 2.0, 3.0]) == [
        (0.5, 1, 1, 2, 0),
        (1.0, 0, 1, 2, 1),  # a score equal to the threshold fails
        (1.5, 1, 1, 1, 1),
        (2.0, 1, 1, 0, 2),
        (3.0, 0, 0, 0, 4),
    ]


def test_thresholds_go_from_one_to_real_images():
    found = thresholds(9.0)
    assert found == [row[0] for row in PAPER]
    assert thresholds(5.0)[::8] == [1.0, 3.0, 5.0]


def test_the_papers_table_adds_up():
    assert all(sum(row[1:]) == 200 for row in PAPER)
    assert len(PAPER) == 17
    at = {row[0]: row for row in PAPER}
    assert at[7.0][2] + at[7.0][3] == 109
    assert at[7.0][1] + at[7.0][3] == 6


def test_pairs_are_those_of_the_seed():
    pairs = experiment.drawn(3, 4)
    assert pairs == experiment.drawn(3, 6)[:4] != experiment.drawn(4, 4)
    random = torch.Generator().manual_seed(3)
    assert pairs[0] == random_architecture(random)
    for whole, small in zip(pairs, experiment.drawn(3, 4, shrink=8), strict=True):
        assert (small.critic_dim * 8, small.generator_dim * 8) == (whole.critic_dim, whole.generator_dim)
        assert small.critic_depth == whole.critic_depth


def test_only_a_critic_with_norms_decays(tmp_path):
    study = open_study("random-architectures", "smoke", tmp_path / "a", device="cpu")
    images = image_set(study, 16, "").subset(torch.arange(32))
    pairs = {pair.critic_norm: pair for pair in experiment.drawn(0, 20, shrink=16)}
    for normed, pair in pairs.items():
        method = experiment.METHODS["gan"]
        config = experiment.config_of(study, 0, method, pair.critic_norm)
        found = trained(
            study, f"pair {normed}", config, samples=images, prepare=partial(experiment.decay, pair),
            networks=partial(experiment.networks, pair, method, 128, images.shape),
        ).trainer  # fmt: skip
        decays = {group["weight_decay"] for group in found.critic_optimizer.param_groups}
        assert decays == {1e-3 if normed else 0}
        assert {group["weight_decay"] for group in found.generator_optimizer.param_groups} == {0}
        kinds = {type(module).__name__ for module in found.critic.modules()}
        assert ("BatchNorm2d" in kinds) == normed


def test_the_page_has_the_papers_table_beside_ours(smoke):
    study, results = smoke
    text = (study.path / "README.md").read_text()
    for name in ("successes.png", "samples.png"):
        assert (study.path / name).stat().st_size > 2000
        assert f"]({name})" in text
    rows = results["tables"][0]["rows"]
    assert [tuple(row[6:]) for row in rows] == list(PAPER)
    assert all(sum(row[1:5]) == 2 for row in rows)
    assert [claim["held"] for claim in results["claims"]] == [None] * 4
    assert len(results["kernels"]) == 1
    assert len(results["tables"][1]["rows"]) == 2


def test_the_table_is_of_the_scores(smoke):
    _, results = smoke
    scores = results["numbers"]["scores"]
    assert set(scores) == {"gp", "gan", "one-sided"}
    for limit, _, only_gp, both, _ in results["numbers"]["table"]:
        assert only_gp + both == sum(score > limit for score in scores["gp"])
    two = sum(a > b for a, b in zip(scores["gp"], scores["one-sided"], strict=True))
    assert results["numbers"]["sign test"]["two-sided wins"] == two


def test_a_finished_training_keeps_its_score_and_no_state(smoke):
    study, _ = smoke
    names = sorted(path.name for path in study.parts.iterdir())
    assert [name for name in names if name.endswith(".pt")] == ["classifier.pt"]
    assert "000-gp.json" in names
    kept = json.loads((study.parts / "000-gp.json").read_text())["value"]
    assert 1 <= kept["score"] <= 10
    assert len(kept["samples"]) == experiment.SHOWN * 16 * 16
    again = open_study("random-architectures", "smoke", study.path, device="cpu")
    run(again)  # nothing is trained again
    assert again.seconds == study.seconds


def test_claims_follow_the_table(tmp_path):
    study = open_study("random-architectures", "cpu", tmp_path / "a", device="cpu")
    for rows in (
        [(1.0, 0, 2, 8, 0), (2.0, 1, 3, 2, 4), (3.0, 0, 0, 1, 9), (4.0, 0, 0, 0, 10)],
        [(1.0, 0, 2, 8, 0), (2.0, 3, 1, 2, 4), (4.0, 0, 0, 0, 10)],
    ):
        experiment._robustness_claim(study, rows)
    experiment._sides(study, {"gp": [2.0] * 10, "one-sided": [1.0] * 10})
    experiment._sides(study, {"gp": [2.0] * 10, "one-sided": [1.0] * 6 + [3.0] * 4})
    experiment._sides(study, {"gp": [2.0] * 4, "one-sided": [1.0] * 4})
    assert [claim["held"] for claim in study.claims] == [True, False, False, True, None]


def test_paper_scale_is_the_papers(tmp_path):
    study = open_study("random-architectures", "paper", tmp_path / "a", device="cpu")
    with pytest.raises(UserError, match="--data PATH: labelled 32 x 32"):
        experiment.run(study)
    pairs = experiment.drawn(0, study.settings.architectures)
    assert len(pairs) == 200
    expected = {"gp": ("wgan-gp", 1e-4, 0.0, 0.9, 5), "gan": ("gan", 2e-4, 0.5, 0.999, 1)}
    for method, values in expected.items():
        config = experiment.config_of(study, 7, experiment.METHODS[method])
        assert (config.loss, config.lr, config.beta1, config.beta2, config.n_critic) == values
        assert (config.iters, config.seed, config.one_sided) == (100_000, 7, False)
    assert experiment.config_of(study, 0, experiment.METHODS["one-sided"]).one_sided
    small = next(pair for pair in pairs if pair.critic_depth == 4 and pair.critic_dim == 32)
    for pair in (pairs[0], small):
        critic, generator = experiment.networks(pair, experiment.METHODS["gp"], 128, (3, 32, 32))
        assert critic(generator(torch.zeros(2, 128))).shape == (2,)
    weights = sum(p.numel() for p in critic.parameters() if p.dim() > 1)
    assert weights == 3 * 32 * 25 + 32 * 64 * 25 + 64 * 128 * 25 + 128 * 16
