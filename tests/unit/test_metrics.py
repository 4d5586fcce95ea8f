"""Distances between sets, against independent formulas and known answers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wgangp_fast.training.metrics import distances


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(count: int, width: int) -> Tensor:
    """Samples whose mean is exactly 0 and whose covariance is exactly 1."""
    x = normal(count, width)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(torch.cov(x.T))
    return torch.linalg.solve_triangular(root, x.T, upper=False).T


# Frechet distance


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.7, 1.0), (0.0, 2.5), (-1.5, 0.2)])
def test_frechet_distance_of_known_gaussians(shift: float, scale: float) -> None:
    """Between N(0, 1) and N(m, s^2) in D dimensions: ``|m|^2 + D (1 - s)^2``."""
    x = whitened(200, 6)
    expected = 6 * shift**2 + 6 * (1 - scale) ** 2
    assert distances.frechet_distance(x, x * scale + shift) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("first", "second", "width"), [(100, 80, 12), (9, 40, 30), (5, 7, 64)])
def test_frechet_distance_against_scipy(first: int, second: int, width: int) -> None:
    """Also with fewer samples than features, where scipy's root is only good to some digits."""
    linalg = pytest.importorskip("scipy.linalg")
    mix = normal(width, width, seed=3)
    x, y = normal(first, width, seed=1) @ mix, 2 * normal(second, width, seed=2) + 0.3
    (m, s), (n, t) = ((v.numpy().mean(0), np.cov(v.numpy(), rowvar=False)) for v in (x, y))
    # A little of the identity makes scipy's root exact, and changes the trace by about its root.
    tiny = 1e-10 * np.eye(width)
    expected = ((m - n) ** 2).sum() + np.trace(s + t - 2 * linalg.sqrtm((s + tiny) @ (t + tiny)).real)
    found = distances.frechet_distance(x, y)
    assert found == pytest.approx(expected, rel=1e-4)
    assert distances.frechet_distance(y, x) == pytest.approx(found, rel=1e-9)


def test_frechet_distance_of_equal_sets_is_zero() -> None:
    for x in (normal(50, 8), normal(5, 40), torch.zeros(3, 4), torch.ones(3, 1), 1e6 * normal(20, 30)):
        assert 0 <= distances.frechet_distance(x, x) <= 1e-9 * (1 + float(x.square().sum()))


def test_frechet_distance_of_constants_is_that_of_their_means() -> None:
    assert distances.frechet_distance(torch.zeros(4, 5), torch.full((7, 5), 2.0)) == 20.0


# Kernel distance


def test_kernel_distance_is_the_sum_over_pairs() -> None:
    x, y = normal(7, 3, seed=1), normal(7, 3, seed=2) + 0.5

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    own = [np.mean([kernel(v[i], v[j]) for i in range(7) for j in range(7) if i != j]) for v in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    mean, spread = distances.kernel_distance(x, y, subsets=3)
    assert mean == pytest.approx(sum(own) - 2 * across, rel=1e-12)
    assert spread == pytest.approx(0, abs=1e-12)  # each subset is the whole set


def test_kernel_distance_is_unbiased() -> None:
    """Pairs of small sets from one distribution: the mean is 0 within its error, not above it."""
    values = np.array(
        [
            distances.kernel_distance(normal(8, 4, seed=2 * k), normal(8, 4, seed=2 * k + 1), subsets=1)[0]
            for k in range(400)
        ]
    )
    assert abs(values.mean()) < 3 * values.std() / 20
    shifted = [
        distances.kernel_distance(normal(8, 4, seed=2 * k), normal(8, 4, seed=2 * k + 1) + 1, subsets=1)[0]
        for k in range(50)
    ]
    assert np.mean(shifted) > 10 * values.std() / 20


def test_kernel_distance_draws_subsets_of_both_sets() -> None:
    x, y = normal(60, 4), normal(90, 4, seed=1)

    def measure(seed: int | None) -> tuple[float, float]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return distances.kernel_distance(x, y, subsets=5, subset_size=20, generator=generator)

    assert measure(1) == measure(1) != measure(2)
    assert measure(None) == measure(None)
    assert measure(1)[1] > 0


# Inception score


def test_inception_score_of_the_extremes() -> None:
    certain = torch.eye(5).repeat(20, 1)
    assert distances.inception_score(certain, 10) == pytest.approx((5, 0), abs=1e-12)
    uniform = torch.full((40, 8), 1 / 8)
    assert distances.inception_score(uniform, 4) == pytest.approx((1, 0), abs=1e-12)
    collapsed = F.one_hot(torch.zeros(30, dtype=torch.int64), 3).double()
    assert distances.inception_score(collapsed, 3) == pytest.approx((1, 0), abs=1e-12)


def test_inception_score_is_the_formula_by_parts() -> None:
    p = normal(23, 6).softmax(1)
    scores = []
    for i in range(4):
        part = p.numpy()[23 * i // 4 : 23 * (i + 1) // 4]
        scores.append(np.exp((part * np.log(part / part.mean(0))).sum(1).mean()))
    assert distances.inception_score(p, 4) == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-12)


# Sliced Wasserstein distance


def test_sliced_wasserstein_of_a_shift() -> None:
    """A shift by m moves each projection by its component: on average ``2 |m| / pi`` in the plane."""
    x = normal(500, 2)
    moved = distances.sliced_wasserstein_points(x, x + torch.tensor([3.0, 4.0]), directions=4000)
    assert moved == pytest.approx(5 * 2 / math.pi, rel=0.03)
    assert distances.sliced_wasserstein_points(x, x.flip(0)) == pytest.approx(0, abs=1e-12)
    narrow = distances.sliced_wasserstein_points(x, x / 2)
    assert narrow == pytest.approx(0.5 * float((x[:, 0].abs().mean() + x[:, 1].abs().mean()) / 2), rel=0.05)


def test_sliced_wasserstein_of_whole_patches_against_scipy() -> None:
    """Images of 5 x 5 are one patch each, so that the points are known."""
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(60, 2, 5, 5), normal(60, 2, 5, 5, seed=1).exp()

    def points(images: Tensor) -> Any:
        v = images.numpy()
        return ((v - v.mean((0, 2, 3), keepdims=True)) / v.std((0, 2, 3), keepdims=True)).reshape(60, 50)

    directions = np.random.default_rng(0).normal(size=(400, 50))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    a, b = points(x), points(y)
    expected = 1000 * np.mean([stats.wasserstein_distance(a @ d, b @ d) for d in directions])
    mean, levels = distances.sliced_wasserstein(x, y)
    assert levels == {5: mean}
    assert mean == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((8, 8), [8]),
        ((28, 28), [28]),
        ((31, 40), [31]),
        ((32, 32), [32, 16]),
        ((64, 48), [48, 24]),
        ((65, 65), [65, 33, 17]),
    ],
)
def test_pyramid_levels_and_values(size: tuple[int, int], levels: list[int]) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    images = normal(2, 3, *size)
    found = distances._pyramid(images)
    assert [min(level.shape[2:]) for level in found] == levels
    taps = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    fine = images.numpy()
    for level in found[:-1]:
        coarse = ndimage.convolve(fine, taps[None, None], mode="mirror")[:, :, ::2, ::2]
        spread = np.zeros_like(fine)
        spread[:, :, ::2, ::2] = coarse
        detail = fine - ndimage.convolve(spread, 4 * taps[None, None], mode="mirror")
        np.testing.assert_allclose(level.numpy(), detail, atol=1e-12)
        fine = coarse
    np.testing.assert_allclose(found[-1].numpy(), fine, atol=1e-12)


def test_patches_are_cut_from_their_image() -> None:
    """Every place is reached, and a patch shows neighbouring pixels of one image, channel by channel."""
    images = torch.arange(2 * 3 * 9 * 10.0).view(2, 3, 9, 10)
    patches = distances._patches(images, 1000, torch.Generator().manual_seed(0))
    assert patches.shape == (2 * 24, 3, 7, 7)  # at most twice the 3 x 4 places
    for index, patch in enumerate(patches):
        start = int(patch[0, 0, 0])
        image, row, column = start // 270, start % 90 // 10, start % 10
        assert image == index // 24
        assert torch.equal(patch, images[image, :, row : row + 7, column : column + 7])
    many = distances._patches(images.repeat(20, 1, 1, 1), 24, torch.Generator().manual_seed(0))
    assert len({int(v) % 90 for v in many[:, 0, 0, 0]}) == 12


def test_sliced_wasserstein_grows_with_blur() -> None:
    real, fake = normal(24, 1, 32, 32), normal(24, 1, 32, 32, seed=1)
    kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64) / 9
    # Smooth images, as photographs are, get smoother.
    real, fake = (F.conv2d(x, kernel, padding=1) + 0.2 * x for x in (real, fake))
    found = []
    for _ in range(3):
        found.append(distances.sliced_wasserstein(real, fake)[1])
        fake = F.conv2d(fake, kernel, padding=1)
    assert found[0][32] < found[1][32] < found[2][32]
    assert list(found[0]) == [32, 16]
    assert distances.sliced_wasserstein(real, fake) == distances.sliced_wasserstein(real, fake)
    assert distances.sliced_wasserstein(real, fake) != distances.sliced_wasserstein(real, fake, seed=1)


def test_sliced_wasserstein_of_constant_images_is_a_number() -> None:
    mean, _ = distances.sliced_wasserstein(torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8))
    assert mean == 0.0


# Refusals


ONES = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("measure", "arguments", "message"),
    [
        ("frechet_distance", (ONES, torch.ones(4, 2)), "features"),
        ("frechet_distance", (ONES, ONES[:1]), "at least 2"),
        ("frechet_distance", (ONES[0], ONES[0]), "features"),
        ("frechet_distance", (ONES.int(), ONES), "floats"),
        ("frechet_distance", (ONES, ONES / 0), "not finite"),
        ("kernel_distance", (ONES, torch.ones(4, 2)), "features"),
        ("kernel_distance", (ONES, ONES, 0), "subsets"),
        ("kernel_distance", (ONES, ONES, 3, 1), "subset_size"),
        ("inception_score", (ONES, 2), "sum to 1"),
        ("inception_score", (torch.tensor([[1.5, -0.5]]), 1), "at least 0"),
        ("inception_score", (ONES / 3, 5), "splits"),
        ("inception_score", (ONES / 3, 0), "splits"),
        ("inception_score", (ONES[0],), "N, K"),
        ("sliced_wasserstein", (ONES, ONES), "images"),
        ("sliced_wasserstein", (torch.ones(4, 1, 8, 8), torch.ones(5, 1, 8, 8)), "as many"),
        ("sliced_wasserstein_points", (ONES, ONES[:3]), "as many"),
        ("sliced_wasserstein_points", (ONES, ONES * torch.nan), "not finite"),
    ],
)
def test_distances_refuse(measure: str, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(distances, measure)(*arguments)
