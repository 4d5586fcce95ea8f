"""Data: statistics of the toys, the digits, the user's files, and which one opens what."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import Batches


def draw(name: str, count: int) -> torch.Tensor:
    return Batches(data.load(name, seed=1), count, 1)(0)


def test_eight_gaussians_have_the_published_radius_and_noise() -> None:
    x = draw("toy-8gaussians", 40_000).double()
    angle = torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)
    mode = angle.round().long() % 8
    assert torch.bincount(mode, minlength=8).min() > 4500  # 5000 expected, deviation 66
    assert x.norm(dim=1).mean().item() == pytest.approx(2 / 1.414, abs=1e-3)
    centres = torch.stack([x[mode == k].mean(0) for k in range(8)])
    assert (x - centres[mode]).std().item() == pytest.approx(0.02 / 1.414, rel=0.02)
    assert x.std(dim=0).tolist() == pytest.approx([1.0, 1.0], abs=0.01)


def test_twenty_five_gaussians_are_a_fixed_set_in_a_fixed_order() -> None:
    source = Batches(data.load("toy-25gaussians", seed=1), 256, 1)
    assert source.samples.size == 100_000
    first = [source(k) for k in range(390)]  # 390 whole batches, the remainder is dropped
    again = source(390)
    assert torch.equal(again, first[0])
    x = torch.cat(first).double()
    cell = (x / 0.7072).round()
    assert len(cell.unique(dim=0)) == 25
    assert (x - cell * 2 / 2.828).std().item() == pytest.approx(0.05 / 2.828, rel=0.02)
    assert x.std().item() == pytest.approx(1.001, abs=0.01)


def test_swiss_roll_is_scikit_learns_from_the_side() -> None:
    x = draw("toy-swissroll", 50_000)
    datasets = pytest.importorskip("sklearn.datasets")
    reference = datasets.make_swiss_roll(50_000, noise=0.25, random_state=0)[0][:, [0, 2]] / 7.5
    ours, theirs = x.double().numpy(), reference
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), atol=0.02)
    bins = np.linspace(0, 2.2, 23)
    radii = [np.histogram(np.linalg.norm(p, axis=1), bins)[0] / len(p) for p in (ours, theirs)]
    np.testing.assert_allclose(radii[0], radii[1], atol=0.006)


def test_modes_are_where_the_samples_are() -> None:
    for name, count in (("toy-8gaussians", 8), ("toy-25gaussians", 25), ("toy-swissroll", 20)):
        modes = data.modes(name)
        assert modes is not None
        assert len(modes.mode.unique()) == count
        distance = torch.cdist(draw(name, 2000).double(), modes.centres.double()).min(dim=1).values
        # In the plane, 1 - exp(-9/2) = 98.9 % of a Gaussian lies within 3 sigma; of a line's, more.
        assert (distance <= 3 * modes.sigma).double().mean() > 0.975
        assert (distance <= 0.5 * modes.sigma).double().mean() < 0.45
    assert data.modes("digits") is None


def test_digits_are_the_embedded_images_in_minus_one_to_one() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images, labels = data.digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (-1.0, 1.0)
    bunch = datasets.load_digits()
    np.testing.assert_array_equal((images[:, 0].numpy() + 1) * 8, bunch.images)
    np.testing.assert_array_equal(labels.numpy(), bunch.target)


def test_seeds_differ() -> None:
    for name in data.names():
        first, second = (Batches(data.load(name, seed=seed), 64, seed)(0) for seed in (0, 1))
        assert not torch.equal(first, second)


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
def test_image_files_of_every_layout(tmp_path: Path, layout: str) -> None:
    channels = 1 if layout == "NHW" else 3
    pixels = np.random.default_rng(0).integers(0, 256, (6, channels, 8, 8), dtype=np.uint8)
    stored = {"NHW": pixels[:, 0], "NHWC": pixels.transpose(0, 2, 3, 1), "NCHW": pixels}[layout]
    np.save(tmp_path / "x.npy", stored)
    source = data.load(str(tmp_path / "x.npy"), seed=0)
    assert source.shape == (channels, 8, 8)
    batches = Batches(source, 6, 0)
    batch, order = batches(0), batches.rows(0).numpy()
    np.testing.assert_allclose(batch.numpy(), 2 * (pixels[order] / 255.0) - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 8, 8)), "expected uint8 images"),
        (np.zeros((4, 8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((4, 8, 12), np.uint8), "square"),
        (np.zeros((4, 10, 10), np.uint8), "multiple of 4"),
        (np.zeros((0, 2)), "no samples"),
        (np.full((4, 2), np.nan), "not finite"),
        (np.zeros((4, 3)), "expected uint8 images"),
        (np.float64(3.0), "no samples"),
    ],
)
def test_files_of_another_kind_are_refused_in_one_line(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=words) as caught:
        data.load(str(tmp_path / "x.npy"))
    assert "\n" not in str(caught.value)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    missing = tmp_path / "missing.npy"
    with pytest.raises(UserError, match=re.escape(f"no data at {missing}")):
        data.load(str(missing))
    with pytest.raises(UserError, match=r"unknown data 'digit': neither a file or folder nor one of digits"):
        data.load("digit")
    (tmp_path / "x.npy").write_text("not an array")
    with pytest.raises(UserError, match=r"not a readable \.npy file"):
        data.load(str(tmp_path / "x.npy"))


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(UserError, match="batch 1798 is larger than the data: digits has 1797"):
        Batches(data.load("digits"), 1798, 0)


def test_an_absent_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"scikit-learn is not installed: pip install 'wgangp_fast\[train\]'"):
        data.digits()
