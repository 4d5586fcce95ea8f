"""The commands sample, eval and report, on small finished runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from train_settings import small

from wgangp_fast import cli
from wgangp_fast.training import checkpoint, models, train
from wgangp_fast.training.runs import open_run
from wgangp_fast.training.sample_cli import STEPS, strips

for package in ("safetensors",):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, with the batch norm that makes a sample depend on its batch."""
    return train(small(iters=6, snapshot=3, outdir=str(tmp_path_factory.mktemp("digits"))))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(small("toy-8gaussians", iters=2, outdir=str(tmp_path_factory.mktemp("toys"))))


def command(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main([str(word) for word in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def picture(path: Path) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(path))


def test_samples_are_the_average_generators(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(
        ["sample", "--run", run, "--out", tmp_path / "x.npy", "--num", 5, "--seed", 3], capsys
    )
    assert (code, out, err) == (0, f"{tmp_path / 'x.npy'}\n", "")
    found = np.load(tmp_path / "x.npy")
    opened = open_run(run)
    state = checkpoint.newest(run)[0]
    generator = models.build("digits-generator", dim=4, latent=3, norm="batch")
    generator.load_state_dict(state["average"])
    z = opened.latents(128, 3)
    assert torch.equal(opened.latents(5, 3), z[:5])
    with torch.no_grad():  # batch norm has the statistics of 128, for five samples as for 128
        np.testing.assert_array_equal(found, generator(z)[:5].numpy())
    np.testing.assert_array_equal(found, opened.draw(200, 3)[:5].numpy())
    for flags in (["--last-weights"], ["--iteration", 3], ["--seed", 4]):
        command(
            ["sample", "--run", run, "--out", tmp_path / "y.npy", "--num", 5, "--seed", 3, *flags], capsys
        )
        assert not np.array_equal(np.load(tmp_path / "y.npy"), found), flags


def test_sheets_folders_and_strips(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["sample", "--run", run, "--out", tmp_path / "new" / "x.png", "--num", 9], capsys)[0] == 0
    assert picture(tmp_path / "new" / "x.png").std() > 1
    assert command(["sample", "--run", run, "--out", tmp_path / "one-each", "--num", 9], capsys)[0] == 0
    names = sorted(path.name for path in (tmp_path / "one-each").iterdir())
    assert names == [f"{index:06d}.png" for index in range(9)]
    opened = open_run(run)
    expected = ((opened.draw(9, 0).clamp(-1, 1) + 1) * 127.5).round()
    np.testing.assert_array_equal(picture(tmp_path / "one-each" / "000004.png"), expected[4, 0].numpy())
    assert (
        command(["sample", "--run", run, "--out", tmp_path / "s.png", "--num", 3, "--interpolate"], capsys)[0]
        == 0
    )
    high, wide = picture(tmp_path / "s.png").shape[:2]
    assert wide / high == pytest.approx(STEPS / 3, rel=0.05)


def test_strips_lead_from_one_latent_to_another_on_a_sphere(run: Path) -> None:
    opened = open_run(run)
    z = strips(opened, 4, 0, None).unflatten(0, (4, STEPS))
    ends = opened.latents(8, 0)
    torch.testing.assert_close(z[:, 0], ends[:4])
    torch.testing.assert_close(z[:, -1], ends[4:], rtol=1e-4, atol=1e-4)
    norms = z.norm(dim=2)
    least = torch.minimum(norms[:, 0], norms[:, -1])
    assert bool((norms.min(dim=1).values > 0.6 * least).all())  # a straight line would come near 0
    steps = (z[:, 1:] - z[:, :-1]).norm(dim=2)
    assert bool((steps.max(dim=1).values < 3 * steps.min(dim=1).values).all())


def test_truncated_latents_are_redrawn(run: Path) -> None:
    z = open_run(run).latents(3000, 0, 0.7)
    assert z.abs().max() <= 0.7
    assert z.std().item() == pytest.approx(0.39, abs=0.01)  # of a normal cut at .7 sigma, not of one scaled
    assert not bool((z.abs() == 0.7).any())


def test_the_export_has_all_that_rebuilds_the_generator(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors import safe_open

    path = tmp_path / "generator.safetensors"
    assert command(["sample", "--run", run, "--export", path], capsys)[:2] == (0, f"{path}\n")
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    assert metadata["generator"] == "digits-generator"
    assert json.loads(metadata["shape"]) == [1, 8, 8]
    generator = models.build(
        metadata["generator"], dim=int(metadata["generator_dim"]), latent=int(metadata["latent"]),
        norm=metadata["generator_norm"],
    )  # fmt: skip
    generator.load_state_dict(weights)
    opened = open_run(run)
    z = opened.latents(128, 0)
    with torch.no_grad():
        assert torch.equal(generator(z), opened.samples(z))


def test_points_are_drawn_and_stored(
    points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["sample", "--run", points, "--out", tmp_path / "x.png"], capsys)[0] == 0
    assert (tmp_path / "x.png").stat().st_size > 5000
    assert command(["sample", "--run", points, "--out", tmp_path / "x.npy", "--num", 7], capsys)[0] == 0
    assert np.load(tmp_path / "x.npy").shape == (7, 2)


def test_eval_appends_a_line_and_keeps_its_classifier(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    already = len((run / "metrics.jsonl").read_text().splitlines())
    code, out, err = command(["eval", "--run", run, "--num", 200], capsys)
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) == found
    assert "classifier trained on" in found["features"]
    assert found["samples"] == found["real_samples"] == 200 or found["real_samples"] == 200
    for name in ("frechet_distance", "kid", "sliced_wasserstein", "inception_type_score", "classes_covered"):
        assert np.isfinite(found[name]), name
    assert "fid" not in found
    assert "training a classifier" in err
    code, out, err = command(["eval", "--run", run, "--num", 200], capsys)
    assert "training a classifier" not in err
    again = json.loads(out.splitlines()[-1])
    del again["date"], found["date"]
    assert again == found
    code, out, _ = command(
        ["eval", "--run", run, "--num", 200, "--features", "random", "--iteration", 3], capsys
    )
    other = json.loads(out.splitlines()[-1])
    assert other["iteration"] == 3
    assert "random" in other["features"]
    assert "inception_type_score" not in other
    assert len((run / "metrics.jsonl").read_text().splitlines()) == already + 3
    assert (run / "report.html").exists()


def test_eval_of_points(points: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(["eval", "--run", points], capsys)
    assert code == 0
    found = json.loads(out.splitlines()[-1])
    assert found["modes"] == 8
    assert found["sliced_wasserstein"] > 0


def test_real_samples_are_nearer_to_themselves_than_noise(run: Path) -> None:
    """The number that eval gives a bad generator is worse than that of real images."""
    from wgangp_fast.training import data
    from wgangp_fast.training.eval_cli import real_samples
    from wgangp_fast.training.metrics.features import RandomConvolutions
    from wgangp_fast.training.metrics.quality import judge

    real = real_samples(data.load("digits"), 400, 0)
    network = RandomConvolutions(1, 8)
    opened = open_run(run)
    bad = judge(real, opened.draw(400, 0), network)
    good = judge(real, real_samples(data.load("digits"), 400, 1), network)
    for name in ("frechet_distance", "sliced_wasserstein"):
        assert good[name] < 0.5 * bad[name]


def test_reports_of_several_runs(
    run: Path, points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "both.html"
    code, said, _ = command(["report", run, points, "--out", out, "--title", "Two <runs>"], capsys)
    assert (code, said) == (0, f"{out}\n")
    text = out.read_text()
    assert "Two &lt;runs&gt;" in text
    assert text.count("00000-") >= 2
