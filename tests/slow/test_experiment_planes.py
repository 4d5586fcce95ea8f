"""Points in the plane: value surfaces, optimal critics, toys, deep critics; on functions known in full."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from experiment_settings import smoke_run
from torch import Tensor, nn

from wgangp_fast.experiments import cli, depth, planes
from wgangp_fast.training import Config, data
from wgangp_fast.training.metrics.modes import mode_coverage
from wgangp_fast.training.metrics.transport import exact_wasserstein
from wgangp_fast.training.models import build
from wgangp_fast.training.parallel import Group
from wgangp_fast.training.trainer import Trainer

CPU = torch.device("cpu")


class Cone(nn.Module):
    """``-|x|``: the optimal critic of a point mass at 0 against anything."""

    def forward(self, x: Tensor) -> Tensor:
        return -x.square().sum(1).sqrt()


class Plane(nn.Module):
    def __init__(self, *weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def results_of(name: str, path: Path) -> dict[str, Any]:
    """A smoke run; its results."""
    study, results = smoke_run(name, path)
    text = (study.path / "README.md").read_text()
    for claim in results["claims"]:
        assert claim["claim"] in text
        assert claim["measured"] in text
    for row in results["kernels"]:
        assert row["path"] == "engine"
    return results


def test_a_plane_has_no_peaks_and_the_slope_of_its_weight() -> None:
    real, noise = torch.randn(50, 2), torch.randn(50, 2)
    found = planes._describe(Plane(0.6, -0.8), real, real + noise, CPU)
    assert found["steepest"] == pytest.approx(1.0, abs=1e-5)  # a linear critic's slope is its weight's norm
    assert found["real_norm"] == pytest.approx(1.0, abs=1e-5)
    assert found["peak"] == pytest.approx(0.0, abs=1e-4)
    assert found["gap"] == pytest.approx(float(-(noise @ torch.tensor([0.6, -0.8])).mean()), abs=1e-4)


def test_a_cone_peaks_where_its_top_is() -> None:
    real, fake = torch.full((20, 2), 1e-6), torch.randn(20, 2)
    found = planes._describe(Cone(), real, fake, CPU)
    assert found["peak"] == pytest.approx(1.0, abs=1e-4)
    assert found["gap"] == pytest.approx(float(fake.norm(dim=1).mean()), abs=1e-4)
    doubled = planes._describe(nn.Sequential(Cone(), _Times(2.0)), real, fake, CPU)
    assert doubled["peak"] == pytest.approx(found["peak"], abs=1e-4)
    assert doubled["steepest"] == pytest.approx(2 * found["steepest"], abs=1e-4)


class _Times(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def test_the_optimal_critic_of_a_point_mass_satisfies_the_proposition(tmp_path: Path) -> None:
    study = cli.open_study("optimal-critic", "smoke", tmp_path, device="cpu")
    real, fake = torch.zeros(30, 2), torch.randn(30, 2)
    found = planes._segments(study, Cone(), real, fake)
    torch.testing.assert_close(found["norms"], torch.ones(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(found["cosines"], torch.ones(30), atol=1e-5, rtol=0)
    turned = planes._segments(study, nn.Sequential(Cone(), _Times(-0.5)), real, fake)
    torch.testing.assert_close(turned["norms"], torch.full((30,), 0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(turned["cosines"], -torch.ones(30), atol=1e-5, rtol=0)


def test_the_fixed_generator_adds_unit_noise_to_the_real_batch() -> None:
    config = Config(preset="toy-8gaussians", batch=512, critic_dim=8, generator_dim=8, device="cpu", iters=2)
    trainer = planes.FixedGenerator(config, data.load("toy-8gaussians"), None, Group(CPU))
    before = [p.clone() for p in trainer.generator.parameters()]
    real, fake, alpha = trainer.critic_batch(3)
    assert float((fake - real).std()) == pytest.approx(1.0, abs=0.1)
    assert float((fake - real).mean()) == pytest.approx(0.0, abs=0.1)
    assert torch.equal(real, trainer.loader(3))
    assert alpha.shape == (512,)
    assert not torch.equal(fake - real, torch.sub(*trainer.critic_batch(4)[1::-1]))
    for _ in range(2):
        trainer.iterate()
    trainer.close()
    for old, new in zip(before, trainer.generator.parameters(), strict=True):
        assert torch.equal(old, new)


def test_value_surfaces(tmp_path: Path) -> None:
    results = results_of("value-surfaces", tmp_path)
    assert len(results["claims"]) == 3
    for name in planes.SETS:
        penalised = results["numbers"][f"{name} wgan-gp"]
        # A function's gap over its steepest slope is below the distance of the same points.
        assert 0 < penalised["share"] <= 1.0 + 1e-5
        # Points a unit apart: E|noise| bounds the distance from above.
        assert 0.2 < penalised["W1"] < math.sqrt(math.pi / 2)
    assert (tmp_path / "value-surfaces.png").stat().st_size > 20_000


def test_optimal_critic(tmp_path: Path) -> None:
    results = results_of("optimal-critic", tmp_path)
    norms = results["numbers"]["mean norm"]
    assert all(abs(norms[f"{name} wgan-gp"] - 1) < 0.3 for name in planes.SETS)  # after 60 steps already
    assert (tmp_path / "optimal-critic.png").stat().st_size > 20_000


def test_toy(tmp_path: Path) -> None:
    from PIL import Image

    results = results_of("toy", tmp_path)
    with Image.open(tmp_path / "toy.gif") as film:
        assert film.n_frames == 5
    for name in planes.SETS:
        quality = results["numbers"]["quality"][name]
        assert quality["real_W1"] < quality["W1"] < 3
        assert quality["coverage"]["samples"] == 300


def test_the_penalty_covers_all_modes() -> None:
    """8 of 8, and 24 of 25 at least, at a quarter of the paper's width."""
    for name, iters, needed in (("toy-8gaussians", 700, 8), ("toy-25gaussians", 1300, 24)):
        config = Config(
            preset=name, iters=iters, critic_dim=96, generator_dim=96, lr=3e-3, beta1=0.0, n_critic=3,
            ema_kimg=50.0, threads=1, device="cpu",
        )  # fmt: skip
        trainer = Trainer(config, data.load(name), None, Group(CPU))
        for _ in range(iters):
            trainer.iterate()
        trainer.close()
        modes = data.modes(name)
        assert modes is not None
        z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
        assert mode_coverage(trainer.sample(z), modes)["modes_covered"] >= needed, name


def test_the_gap_approaches_the_exact_distance_and_does_not_exceed_it(one_thread: None) -> None:
    """A critic of slope 1 cannot exceed it on the same points; lambda leaves the slope a little above 1."""
    config = Config(
        preset="toy-8gaussians", iters=600, n_critic=1, lr=2e-3, critic_dim=128, generator_dim=8,
        lambda_gp=10.0, ema_kimg=0.0, device="cpu",
    )  # fmt: skip
    trainer = planes.FixedGenerator(config, data.load("toy-8gaussians"), None, Group(CPU))
    batches = [trainer.critic_batch(10**6 + k) for k in range(2)]
    real, fake = (torch.cat([batch[part] for batch in batches]) for part in (0, 1))
    distance = exact_wasserstein(real, fake)

    def share() -> float:
        with torch.no_grad():
            return (trainer.critic(real).mean() - trainer.critic(fake).mean()).item() / distance

    before = share()
    for _ in range(600):
        trainer.iterate()
    trainer.close()
    assert before < 0.4
    assert 0.5 < share() < 1.1


class TestDepth:
    def test_slope_is_in_decades_towards_the_input(self) -> None:
        norms = [2.0 * 10 ** (0.3 * layer) for layer in range(12)] + [55.0]  # the score's is left out
        assert depth.slope(norms) == pytest.approx(-0.3)
        assert depth.fit(norms) == pytest.approx(1.0)
        assert depth.slope([1.0] * 13) == pytest.approx(0.0)
        assert depth.fit([1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0, 10.0, 1.0]) < 0.1

    def test_layer_gradients_are_those_of_the_loss(self) -> None:
        torch.manual_seed(0)
        critic = build("toy-critic", dim=6, depth=2).double()
        real, fake = torch.randn(2, 5, 2, dtype=torch.float64)
        first, _, second, _, last = critic.net
        h1 = [first(x).relu() for x in (fake, real)]
        h2 = [second(h).relu() for h in h1]
        # By hand: d loss / d score is 1/N for fakes and -1/N for reals.
        seeds = [torch.full((5, 1), 0.2, dtype=torch.float64), torch.full((5, 1), -0.2, dtype=torch.float64)]
        g2 = [seed @ last.weight for seed in seeds]
        g1 = [(g * (h > 0)) @ second.weight for g, h in zip(g2, h2, strict=True)]
        wanted = [torch.cat(g).norm().item() for g in (g1, g2, seeds)]
        assert depth.layer_gradients(critic, real, fake) == pytest.approx(wanted, rel=1e-12)

    def test_gradient_norms(self, tmp_path: Path) -> None:
        results = results_of("gradient-norms", tmp_path)
        slopes = results["numbers"]["decades a layer"]
        width = results["settings"]["width"]
        for clip in (0.01, 0.001):  # random signs: a layer multiplies by c sqrt(width / 2)
            expected = math.log10(clip * math.sqrt(width / 2))
            assert slopes[f"clipping, c = {clip:g}"] == pytest.approx(expected, abs=0.2)
        assert abs(slopes[depth.PENALTY]) < 0.1
        assert all(claim["held"] for claim in results["claims"])

    def test_weight_histogram(self, tmp_path: Path) -> None:
        results = results_of("weight-histogram", tmp_path)
        share = results["numbers"]["share at the ends"]
        assert share["clipping, c = 0.01; 12 layers"] > 0.5
        assert share["gradient penalty; 12 layers"] < 0.05
        assert share["clipping, c = 0.01; 3 layers, begun inside"] > 0.02  # none at first
        assert share["gradient penalty; 3 layers, begun inside"] < 0.01

    def test_ends_are_of_those_that_moved(self) -> None:
        weights = torch.tensor([0.01, -0.00995, 0.005, 0.0001, 0.0, 0.0098])
        everything = torch.ones(6, dtype=torch.bool)
        assert depth.at_ends(weights, 0.01, everything) == pytest.approx(2 / 6)
        assert depth.at_ends(weights, 0.01, weights.abs() > 0.001) == pytest.approx(2 / 4)
        assert depth.at_ends(weights, 0.01, ~everything) == 0.0
        assert depth.at_ends(2 * weights, None, everything) == pytest.approx(2 / 6)  # of the largest

    def test_weights_can_begin_inside_the_bounds(self) -> None:
        config = Config(preset="toy-swissroll", critic_dim=8, generator_dim=8, device="cpu", iters=1)
        trainer = Trainer(config, data.load("toy-swissroll"), None, Group(CPU))
        before = [p.detach().clone() for p in trainer.critic.parameters()]
        depth._inside(0.01, trainer.critic)
        trainer.close()
        factor = max(p.abs().max().item() for p in trainer.critic.parameters()) / 0.009
        assert factor == pytest.approx(1.0)
        ratio = before[0].abs().max() / trainer.critic.net[0].weight.abs().max()
        for old, new in zip(before, trainer.critic.parameters(), strict=True):
            torch.testing.assert_close(new.detach() * ratio, old)

    def test_a_step_out_of_bounds_is_seen(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("wgangp_fast.training.trainer.clip_", lambda parameters, bound: None)
        results = results_of("weight-histogram", tmp_path)
        (bound,) = [c for c in results["claims"] if c["source"] == "WGAN algorithm 1"]
        assert bound["held"] is False
