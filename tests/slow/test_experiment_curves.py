"""The experiments ``wasserstein-curve`` and ``mnist-wgan``: what they watch, and the rules they judge by."""

import math
from types import SimpleNamespace

import pytest
import torch
from experiment_settings import smoke_run

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import mnist_wgan, wasserstein_curve
from wgangp_fast.experiments.cli import open_study
from wgangp_fast.experiments.images import image_set
from wgangp_fast.experiments.training import ClipWatch
from wgangp_fast.training import trainer as trainer_module
from wgangp_fast.training.data import Stored
from wgangp_fast.training.losses import LOSSES, clip_
from wgangp_fast.training.parallel import Group


@pytest.fixture(scope="module")
def curves(tmp_path_factory, one_thread):
    return smoke_run("wasserstein-curve", tmp_path_factory.mktemp("wasserstein-curve"))


@pytest.fixture(scope="module")
def digits(tmp_path_factory, one_thread):
    return smoke_run("mnist-wgan", tmp_path_factory.mktemp("mnist-wgan"))


def test_pages_are_complete(curves, digits):
    sheets = [f"samples-wgan-{n}.png" for n in ("dcgan", "crippled", "mlp", "failure")]
    sheets += [f"samples-gan-{n}.png" for n in ("dcgan", "crippled", "mlp")]
    for (study, results), names in (
        (curves, ["wasserstein.png", "jensen-shannon.png", *sheets]),
        (digits, ["scalars.png", "samples-wgan.png", "samples-wgan-gp.png"]),
    ):
        text = (study.path / "README.md").read_text()
        for name in names:
            assert (study.path / name).stat().st_size > 1000
            assert f"]({name})" in text
        assert len(results["claims"]) == (6 if study is curves[0] else 3)
    assert [row["critic"] for row in digits[1]["kernels"]] == ["mnist32-critic, dim 4, layer norm"]


def test_every_critic_step_is_looked_at(digits):
    _, results = digits
    claim = results["claims"][0]
    assert claim["held"] is True
    assert claim["measured"].startswith("10 of 10 critic steps")
    # RMSprop's first step is ten times the rate, and the norm's scale begins at 1: some are at the bound.
    assert results["numbers"]["largest parameter"] == pytest.approx(0.05, rel=1e-6)
    assert [claim["held"] for claim in results["claims"][1:]] == [None, None]


def _watched(tmp_path, iters=2):
    study = open_study("mnist-wgan", "smoke", tmp_path / "study", device="cpu")
    config = mnist_wgan._config(study, "wgan", iters)
    samples = image_set(study, 32, "").subset(torch.arange(64))
    pair = mnist_wgan._networks(study, "wgan", 1)
    return study, ClipWatch(config, samples, None, Group(torch.device("cpu")), pair)


def test_a_parameter_outside_is_seen_although_a_later_step_clips_it(tmp_path, monkeypatch):
    _, watched = _watched(tmp_path)
    steps = []

    def forgetful(parameters, bound):
        parameters = list(parameters)
        steps.append(max(float(p.detach().abs().max()) for p in parameters))
        if len(steps) != 3:
            clip_(parameters, bound)

    monkeypatch.setattr(trainer_module, "clip_", forgetful)
    watched.iterate()
    watched.close()
    assert watched.checked == len(steps) == 5
    assert watched.largest.item() == pytest.approx(steps[2])
    assert watched.largest.item() > watched.config.clip


def test_what_was_seen_outlives_an_interruption(tmp_path):
    _, watched = _watched(tmp_path)
    watched.iterate()
    watched.largest += 1
    state = watched.state_dict()
    samples, pair = Stored("same", torch.zeros(64, 1, 32, 32)), (watched.critic, watched.generator)
    other = ClipWatch(watched.config, samples, None, watched.group, pair)
    other.load_state_dict(state)
    assert (other.checked, other.largest.item()) == (5, watched.largest.item())
    for trainer in (watched, other):
        trainer.close()


def test_an_epoch_shows_every_image_once_to_the_critic():
    images = Stored("some", torch.zeros(60_000, 1, dtype=torch.uint8))
    assert mnist_wgan.epoch(images, 128, 5) == 93  # 468 batches
    assert mnist_wgan.epoch(images, 60_000, 5) == 1


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 25, 100], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),  # scipy's documentation
        ([1, 1, 2], [3, 3, 3], math.nan),
    ],
)
def test_rank_correlation(x, y, expected):
    assert wasserstein_curve.rank_correlation(x, y) == pytest.approx(expected, nan_ok=True)


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    x, y = (torch.randint(9, (30,)).tolist() for _ in range(2))  # with ties
    assert wasserstein_curve.rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    with pytest.raises(ValueError, match="of one length, at least 2; got 3 and 2"):
        wasserstein_curve.rank_correlation([1, 2, 3], [1, 2])


def test_the_estimate_of_js_is_the_discriminators():
    real, fake = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64) - 1
    value = real.sigmoid().log().mean() + (1 - fake.sigmoid()).log().mean()
    loss = LOSSES["gan"].critic
    row = {"critic_loss": float(loss(real, fake))}
    assert wasserstein_curve.jensen_shannon(row) == pytest.approx(float(value / 2 + math.log(2)))
    # The best discriminator of equal distributions says 1/2 everywhere: no divergence.
    zero = torch.zeros(3)
    row = {"critic_loss": float(loss(zero, zero))}
    assert wasserstein_curve.jensen_shannon(row) == pytest.approx(0, abs=1e-6)


def test_rows_have_distances_and_samples_at_their_points(curves):
    study, results = curves
    rows = torch.load(study.parts / "wgan-mlp.pt", weights_only=False)["rows"]
    assert sum("wasserstein" in row for row in rows) == 12
    frechet = {row["iteration"]: row["frechet"] for row in rows if "frechet" in row}
    assert list(frechet) == [0, 3, 6, 9, 12]
    numbers = results["numbers"]["runs"]["WGAN mlp"]
    assert (numbers["start_frechet"], numbers["last_frechet"]) == (frechet[0], frechet[12])
    assert [row["iteration"] for row in rows if "samples" in row] == [1, 4, 12]


def test_the_summary_is_of_the_filtered_curve():
    values = [0.0, 5.0, 1.0, 9.0, 2.0, 3.0, 8.0, 4.0]
    smooth = [0.0, 1.0, 5.0, 2.0, 3.0, 3.0, 4.0, 4.0]  # the middle one of three; the ends as they are
    rows = [{"iteration": 0, "frechet": 30.0}]
    rows += [{"iteration": i + 1, "critic_loss": -v, "wasserstein": v} for i, v in enumerate(values)]
    for place, distance in ((3, 20.0), (4, 5.0), (8, 10.0)):
        rows[place]["frechet"] = distance
    found = wasserstein_curve._summary(
        SimpleNamespace(settings=SimpleNamespace(window=3)),
        SimpleNamespace(rows=rows, diverged=False),
        wasserstein_curve.series(rows, lambda row: row["wasserstein"]),
    )
    # The filtered values at 3, 4 and 8 are 5, 2 and 4, in the order of the distances.
    assert found == {
        "first": sum(smooth[:2]) / 2, "middle": sum(smooth[2:4]) / 2, "peak": 5.0, "last": 4.0,
        "start_frechet": 30.0, "best_frechet": 5.0, "last_frechet": 10.0, "correlation": pytest.approx(1.0),
        "diverged": False,
    }  # fmt: skip


def _numbers(**changes):
    one = {"first": 1.0, "middle": 1.0, "peak": 1.0, "last": 0.4, "start_frechet": 100.0, "best_frechet": 1.0,
           "last_frechet": 5.0, "correlation": 0.9, "diverged": False}  # fmt: skip
    found = {f"WGAN {name}": dict(one) for name in wasserstein_curve.GANS}
    found["WGAN mlp"] |= {"last": 0.45, "last_frechet": 9.0}
    found["WGAN failure"] = {**one, "last": 0.9, "last_frechet": 90.0}
    found |= {f"GAN {name}": {**one, "middle": 0.68, "last": 0.68} for name in wasserstein_curve.GANS}
    for name, values in changes.items():
        found[name.replace("_", " ")] |= values
    return found


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({}, []),
        ({"WGAN_crippled": {"correlation": 0.4}}, [0]),
        ({"WGAN_crippled": {"correlation": math.nan}}, [0]),
        ({"WGAN_crippled": {"last": 0.6}}, [1]),
        ({"WGAN_dcgan": {"last": 0.47}}, [2]),
        ({"WGAN_failure": {"last": 0.5}}, [3]),
        ({"WGAN_failure": {"last_frechet": 20.0}}, [3]),
        ({"GAN_mlp": {"last": 0.5, "middle": 0.5}}, [4]),
        ({"GAN_mlp": {"last": 0.6}}, [5]),
    ],
)
def test_claims_follow_the_numbers(tmp_path, changes, wrong):
    study = open_study("wasserstein-curve", "cpu", tmp_path / "a", device="cpu")
    wasserstein_curve._wasserstein_claims(study, _numbers(**changes))
    wasserstein_curve._jensen_shannon_claims(study, _numbers(**changes))
    assert [claim["held"] for claim in study.claims] == [index not in wrong for index in range(6)]


def test_paper_scale_is_the_papers(tmp_path):
    study = open_study("wasserstein-curve", "paper", tmp_path / "a", device="cpu")
    with pytest.raises(UserError, match="--data PATH: LSUN"):
        wasserstein_curve.run(study)
    # Parameters of the critic and of the three generators, counted from the layers' sizes.
    sizes = {"dcgan": (4_316_545, 5_364_739), "crippled": (4_316_545, 444_291), "mlp": (4_316_545, 7_157_760),
             "failure": (7_080_449, 7_157_760)}  # fmt: skip
    for name, expected in sizes.items():
        pair = wasserstein_curve.networks(study, name, 3)
        assert tuple(sum(p.numel() for p in network.parameters()) for network in pair) == expected
        config = wasserstein_curve.config_of(study, "wgan", name)
        assert (config.clip, config.n_critic, config.batch, config.optimizer) == (0.01, 5, 64, "rmsprop")
        assert config.lr == (5e-3 if name == "failure" else 5e-5)
    study = open_study("mnist-wgan", "paper", tmp_path / "b", device="cpu")
    config = mnist_wgan._config(study, "wgan", 93)
    assert (config.iters, config.clip, config.batch, config.lr) == (2790, 0.005, 128, 5e-5)
    critic, generator = mnist_wgan._networks(study, "wgan", 1)
    assert sum(p.numel() for p in critic.parameters()) == 10_511_105
    assert generator(torch.zeros(2, 100)).shape == (2, 1, 32, 32)
