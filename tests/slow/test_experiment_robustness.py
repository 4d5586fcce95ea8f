"""The experiment ``robustness``: a smoke run, the rule for cells that fail, and the paper's 28 trainings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from wgangp_fast.errors import UserError
from wgangp_fast.experiments import cli, robustness, speed
from wgangp_fast.experiments.study import Study
from wgangp_fast.training import checkpoint, data, models
from wgangp_fast.training.data import Stored
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.models.blocks import NORMS

for package in ("matplotlib", "PIL", "sklearn"):
    pytest.importorskip(package)

IMAGES = (3, 64, 64)
CELLS = [(pair, method) for pair in robustness.PAIRS for method in robustness.METHODS]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a smoke run, and its results."""
    path = tmp_path_factory.mktemp("robustness") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "ROUNDS", {"smoke": (1, 0.0)})
        cli.run(cli.open_study("robustness", "smoke", path, device="cpu", penalty="stock"))
    return path, json.loads((path / "results.json").read_text())


def test_the_smoke_run_has_28_cells(smoke: tuple[Path, dict[str, Any]]) -> None:
    path, results = smoke
    assert (path / "robustness.png").stat().st_size > 10_000
    cells = results["numbers"]["cells"]
    assert list(cells) == [f"{pair} {method}" for pair, method in CELLS]
    assert len(cells) == 28
    for name, cell in cells.items():
        assert cell["iterations"] == (1 if "resnet101" in name else 2)
        assert 1 <= cell["score"] <= 10
        assert cell["distance"] > 0
    tables = {table["title"]: table for table in results["tables"]}
    verdicts = tables["What became of each cell"]
    assert verdicts["columns"] == ["networks", "DCGAN", "LSGAN", "WGAN (clipping)", "WGAN-GP"]
    assert [len(row) for row in verdicts["rows"]] == [5] * 7
    assert verdicts["rows"][4][4] == cells["gated wgan-gp"]["verdict"]
    assert [row["path"] for row in results["kernels"]] == ["engine"] * 7
    assert [claim["held"] for claim in results["claims"]] == [None] * 4
    # What a cell's numbers are of is what its generator makes.
    state = checkpoint.load(path / "parts" / "tanh-lsgan.pt")["generator"]
    generator = models.build(
        "dcgan64-generator", channels=1, size=8, dim=4, latent=8, activation="tanh", norm="batch"
    )
    generator.load_state_dict(state)
    z = torch.randn(64, 8, generator=data.stream(0, "robustness"))
    fill = torch.randn(64, 8, generator=data.stream("fill", 64))
    with torch.no_grad():
        samples = to_pixels(generator(torch.cat([z, fill]))[:64])
    kept = checkpoint.load(path / "parts" / "samples-tanh-lsgan.pt")["value"]["images"]
    assert torch.equal(kept, samples)


def test_only_cells_that_are_missing_are_trained(
    smoke: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = smoke
    for name in ("mlp-gan.pt", "samples-mlp-gan.pt", "numbers-mlp-gan.json"):
        (path / "parts" / name).unlink()
    trained: list[str] = []
    step = robustness.trained

    def watched(study: Study, name: str, *arguments: Any, **options: Any) -> Any:
        if not (study.parts / f"{name.replace(' ', '-')}.pt").exists():
            trained.append(name)
        return step(study, name, *arguments, **options)

    monkeypatch.setattr(robustness, "trained", watched)
    cli.run(cli.open_study("robustness", "smoke", path, device="cpu", penalty="stock"))
    assert trained == ["mlp gan"]
    again = json.loads((path / "results.json").read_text())["numbers"]["cells"]
    before = results["numbers"]["cells"]
    for name, cell in again.items():
        for key in ("score", "distance", "variation"):
            assert cell[key] == pytest.approx(before[name][key], rel=1e-6), (name, key)


def test_verdicts(smoke: tuple[Path, dict[str, Any]]) -> None:
    path, _ = smoke
    study = cli.open_study("robustness", "smoke", path, device="cpu", penalty="stock")
    images, labels = data.digits()
    judge = robustness.Judge(study, Stored("digits", to_pixels(images), labels=labels))
    judge.real, judge.noise = {"score": 9.0}, {"distance": 10.0}

    def verdict(score: float | None, variation: float, distance: float = 0.0, diverged: bool = False) -> str:
        return judge.verdict({"score": score, "variation": variation, "distance": distance}, diverged)

    assert verdict(9.0, 1.0, diverged=True) == "diverged"
    assert verdict(9.0, 0.49) == "collapsed"
    assert verdict(9.0, math.nan) == "collapsed"
    assert verdict(4.9, 1.0) == "poor"  # half of 9 - 1 is 4
    assert verdict(5.0, 0.5) == "trains"
    assert verdict(9.0, 1.0, 5.1) == "poor"
    assert verdict(None, 1.0, 5.1) == "poor"
    assert verdict(None, 1.0, 4.9) == "trains"
    # Real images pass, one repeated image is a collapse, noise is not real.
    study = cli.open_study("robustness", "smoke", path, device="cpu", penalty="stock")
    judge = robustness.Judge(study, Stored("digits", to_pixels(images), labels=labels))
    pixels = to_pixels(images)
    assert judge(pixels[:200], False)["verdict"] == "trains"
    assert judge(pixels[:1].expand(200, -1, -1, -1), False)["verdict"] == "collapsed"
    noise = torch.randint(256, pixels[:200].shape, dtype=torch.uint8, generator=data.stream(0))
    assert judge(noise, False)["verdict"] != "trains"


def test_variation_is_half_the_mean_squared_distance() -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    pairs = torch.cdist(x.double(), x.double()).square()
    assert robustness.variation(x) == pytest.approx(pairs.mean().item() / 2, rel=1e-6)


# The paper's settings.


def paper(path: Path) -> Study:
    return cli.open_study("robustness", "paper", path, device="cpu")


# Section 15.1, with a norm where the row has one.
COUNTS = {
    "baseline": (4_316_545, 5_364_739),
    "constant": (4_316_545, 444_291),
    "mlp": (4_316_545, 7_157_760),
    "plain": (4_314_753, 5_362_819),
    "gated": (8_624_897, 10_724_675),
    "tanh": (4_316_545, 5_364_739),
    "resnet101": (7_618_801, 9_189_587),
}


@pytest.mark.parametrize(("pair", "method"), CELLS)
def test_the_networks_of_every_cell_are_the_papers(tmp_path: Path, pair: str, method: str) -> None:
    with torch.device("meta"):
        critic, generator = robustness.networks(paper(tmp_path), pair, method, IMAGES)()
    counts = tuple(sum(p.numel() for p in net.parameters()) for net in (critic, generator))
    assert counts == COUNTS[pair]
    # The critic's norm is layer norm under the penalty, else batch norm; the generator's is batch norm.
    norm = "none" if pair == "plain" else "layer" if method == "wgan-gp" else "batch"
    assert norm_of(critic) == norm
    assert norm_of(generator) == ("none" if pair in ("constant", "mlp", "plain") else "batch")
    kinds = {type(module).__name__ for module in critic.modules()}
    activation = {"tanh": "Tanh", "gated": "Gate", "resnet101": None}.get(pair, "LeakyReLU")
    assert activation is None or activation in kinds
    assert ("LeakyReLU" in kinds) == (activation == "LeakyReLU")


def norm_of(network: nn.Module) -> str:
    kinds = {name: type(make(4, True)) for name, make in NORMS.items()}
    found = {name for name, kind in kinds.items() if any(type(m) is kind for m in network.modules())}
    assert len(found) <= 1
    return found.pop() if found else "none"


@pytest.mark.parametrize("pair", robustness.PAIRS)
def test_every_row_has_the_settings_of_its_method(tmp_path: Path, pair: str) -> None:
    """Section 2.1."""
    expected = {
        "gan": ("adam", 2e-4, 0.5, 0.999, 1),
        "lsgan": ("rmsprop", 1e-4, None, None, 1),
        "wgan": ("rmsprop", 5e-5, None, None, 5),
        "wgan-gp": ("adam", 1e-4, 0.5, 0.9, 5),
    }
    study = paper(tmp_path)
    for method, (optimizer, rate, beta1, beta2, n_critic) in expected.items():
        config = robustness.cell_config(study, pair, method)
        assert (config.loss, config.optimizer, config.lr, config.n_critic) == (
            method, optimizer, rate, n_critic
        )  # fmt: skip
        if beta1 is not None:
            assert (config.beta1, config.beta2) == (beta1, beta2)
        assert (config.batch, config.iters, config.lambda_gp, config.clip) == (64, 200_000, 10.0, 0.01)
        assert (config.latent, config.size, config.ema_kimg) == (128, 64, 0.0)


def test_paper_scale_asks_for_its_data(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="paper scale needs --data PATH: LSUN bedrooms"):
        cli.run(paper(tmp_path))


def test_a_row_with_fewer_iterations_decides_no_claim_alone(tmp_path: Path) -> None:
    """Other methods must fail on a row of full length; the penalty must not fail on any."""

    def held(scale: str, failing: set[str]) -> list[bool | None]:
        path = tmp_path / f"{scale}-{'-'.join(sorted(failing)) or 'none'}"
        study = cli.open_study("robustness", scale, path, device="cpu")
        verdicts = {cell: {"verdict": "poor" if cell[0] in failing else "trains"} for cell in CELLS}
        robustness._claims(study, verdicts)
        return [claim["held"] for claim in study.claims]

    assert held("cpu", set()) == [True, False, False, False]
    assert held("cpu", {"resnet101"}) == [False, False, False, False]
    assert held("cpu", {"mlp"}) == [False, True, True, True]
    assert held("paper", {"resnet101"}) == [False, True, True, True]
    assert held("smoke", {"mlp"}) == [None] * 4
