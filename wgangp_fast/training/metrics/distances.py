"""Distances between two sets of samples or of their features, and the inception score. All in float64.

Nothing here knows images' features: what is compared is the caller's choice, and belongs beside every number.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from wgangp_fast.training.data import stream

SMALLEST_LEVEL = 16  # the pyramid ends here (Karras et al. 2018)
PATCH = 7
BLOCK = 64  # directions projected and sorted at once: bounds memory


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Frechet distance of the Gaussians that have the two sets' moments (Heusel et al. 2017).

    ``|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`` with means m and unbiased covariances S. With
    ``S1 = A A^T`` and ``S2 = B B^T`` the trace of the root is the sum of the singular values of ``A^T B``, so
    no root of a product that is not symmetric is ever taken, and fewer samples than features do no harm.

    Args:
        real: features ``[N, D]``. fake: ``[M, D]``. Floats, N and M at least 2.

    Returns:
        At least 0. Biased upwards, the more so the fewer samples: compare only equal numbers of them.

    Raises:
        ValueError: other shapes, or values that are not finite.
    """
    _check_features(real, fake)
    (mean_a, root_a), (mean_b, root_b) = _moments(real), _moments(fake)
    spread = root_a.square().sum() + root_b.square().sum()
    common = torch.linalg.svdvals(root_a.T @ root_b).sum()
    return max(0.0, float((mean_a - mean_b).square().sum() + spread - 2 * common))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[D]`` of ``x [N, D]``, and A ``[D, rank]`` such that ``A A^T`` is its covariance."""
    x = x.double()
    mean = x.mean(0)
    centred = x - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(x) - 1))  # [D], [D, D]
    # What lies below is rounding, negative half of the time; its root would be 1e-8 of the largest.
    real = values > values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    return mean, vectors[:, real] * values[real].sqrt()


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    subsets: int = 100,
    subset_size: int = 1000,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3`` (KID, Binkowski et al. 2018).

    The unbiased estimate, on random subsets of either set: its mean does not depend on the number of samples,
    and can be negative.

    Args:
        real: features ``[N, D]``. fake: ``[M, D]``. Floats, N and M at least 2.
        subsets: how many are drawn.
        subset_size: samples in each, of each set; at most the smaller set's number is taken.
        generator: on the CPU; by default one with a fixed seed.

    Returns:
        mean and standard deviation over the subsets. The latter is 0 where both subsets are the whole sets.

    Raises:
        ValueError: other shapes, values that are not finite, or numbers below 1.
    """
    _check_features(real, fake)
    size = min(subset_size, len(real), len(fake))
    if subsets < 1 or size < 2:
        raise ValueError(f"need subsets >= 1 of subset_size >= 2; got {subsets} of {subset_size}")
    generator = generator or stream("kernel distance")
    found = []
    for _ in range(subsets):
        found.append(_squared_discrepancy(_some(real, size, generator), _some(fake, size, generator)))
    estimates = torch.stack(found)
    return float(estimates.mean()), float(estimates.std(correction=0))


def _some(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return x[torch.randperm(len(x), generator=generator)[:count].to(x.device)].double()


def _squared_discrepancy(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate for ``x [n, D]`` and ``y [n, D]``: pairs of one sample with itself left out."""
    count, width = x.shape

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / width + 1).pow(3)  # [n, n]

    def own(a: Tensor) -> Tensor:
        itself = (a.square().sum(1) / width + 1).pow(3)
        return (kernel(a, a).sum() - itself.sum()) / (count * (count - 1))

    return own(x) + own(y) - 2 * kernel(x, y).mean()


def inception_score(probabilities: Tensor, splits: int = 10) -> tuple[float, float]:
    """``exp(E KL(p(y|x) || p(y)))`` on consecutive parts of the samples (Salimans et al. 2016).

    Args:
        probabilities: ``[N, K]``, each row a distribution over the K classes of some classifier. Samples that
            are in an order must be shuffled first.
        splits: number of parts, at most N.

    Returns:
        mean and standard deviation over the parts; from 1 to K.

    Raises:
        ValueError: another shape, rows that are no distributions, or more parts than samples.
    """
    if probabilities.dim() != 2 or not probabilities.is_floating_point():
        raise ValueError(f"probabilities must be float [N, K]; got {_described(probabilities)}")
    if not 1 <= splits <= len(probabilities):
        raise ValueError(f"splits must be from 1 to the {len(probabilities)} samples; got {splits}")
    p = probabilities.double()
    if not bool(((p.sum(1) - 1).abs() < 1e-3).all()) or bool((p < 0).any()):
        raise ValueError("each row of probabilities must be at least 0 and sum to 1")
    bounds = [len(p) * i // splits for i in range(splits + 1)]
    scores = torch.stack([_score(p[a:b]) for a, b in itertools.pairwise(bounds)])
    return float(scores.mean()), float(scores.std(correction=0))


def _score(p: Tensor) -> Tensor:
    marginal = p.mean(0)
    return (torch.xlogy(p, p) - torch.xlogy(p, marginal)).sum(1).mean().exp()


def sliced_wasserstein(
    real: Tensor, fake: Tensor, *, patches: int = 128, directions: int = 512, seed: int = 0
) -> tuple[float, dict[int, float]]:
    """Sliced Wasserstein distance of local image patches at several scales (Karras et al. 2018).

    Each level of a Laplacian pyramid (the image's side, halved down to 16; small images are one level) gives
    patches of 7 x 7, normalised to mean 0 and deviation 1 in each channel of each set. The distance is the
    mean absolute difference of sorted projections on random directions, times 1000.

    Args:
        real: images ``[N, C, H, W]``. fake: the same shape. Floats, in any range that both share.
        patches: of each image; at most twice as many as it has places for one.
        directions: of projection. seed: of both.

    Returns:
        mean over the levels, and distance by the level's (smaller) side.

    Raises:
        ValueError: other or different shapes, or values that are not finite.
    """
    if real.dim() != 4 or real.shape != fake.shape or not real.numel():
        raise ValueError(f"need images [N, C, H, W], as many real as fake; got {_both(real, fake)}")
    if patches < 1:
        raise ValueError(f"patches must be at least 1; got {patches}")
    _check_values(real, fake)
    levels: dict[int, float] = {}
    for level, (a, b) in enumerate(zip(_pyramid(real), _pyramid(fake), strict=True)):
        cut = stream(seed, "patches", level)
        first, second = (_normalised(_patches(x, patches, cut)) for x in (a, b))  # [N * patches, D] each
        distance = _sliced(first, second, directions, stream(seed, "directions", level))
        levels[min(a.shape[2:])] = 1000 * distance
    return sum(levels.values()) / len(levels), levels


def sliced_wasserstein_points(real: Tensor, fake: Tensor, *, directions: int = 512, seed: int = 0) -> float:
    """Mean over random directions of the first Wasserstein distance of the projected points.

    Args:
        real: points ``[N, D]``. fake: as many. Floats.
        directions: how many. seed: of them.

    Raises:
        ValueError: other or different shapes, or values that are not finite.
    """
    if real.dim() != 2 or real.shape != fake.shape or not real.numel():
        raise ValueError(f"need points [N, D], as many real as fake; got {_both(real, fake)}")
    _check_values(real, fake)
    return _sliced(real.double(), fake.double(), directions, stream(seed, "directions"))


def _sliced(a: Tensor, b: Tensor, directions: int, generator: torch.Generator) -> float:
    """Of ``a [N, D]`` and ``b [N, D]``: sorted, the projections pair up as the optimal transport does."""
    if directions < 1:
        raise ValueError(f"directions must be at least 1; got {directions}")
    chosen = torch.randn(directions, a.shape[1], generator=generator, dtype=torch.float64)
    chosen = (chosen / chosen.norm(dim=1, keepdim=True)).to(a.device)
    total = 0.0
    for block in chosen.split(BLOCK):  # [B, D]
        ordered_a, ordered_b = ((block @ x.T).sort(dim=1).values for x in (a, b))  # [B, N]
        total += float((ordered_a - ordered_b).abs().mean(1).sum())
    return total / directions


def _patches(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``[N * count, C, P, P]`` at random places, each image's own."""
    total, channels, height, width = images.shape
    side = min(PATCH, height, width)
    high, wide = height - side + 1, width - side + 1
    count = min(count, 2 * high * wide)
    shape, offset = (total, count, 1, 1), torch.arange(side)
    rows = torch.randint(high, shape, generator=generator) + offset[:, None]
    columns = torch.randint(wide, shape, generator=generator) + offset
    place = (rows * width + columns).flatten(1)[:, None].to(images.device)  # [N, 1, count * P * P]
    taken = images.flatten(2).gather(2, place.expand(-1, channels, -1))
    return taken.view(total, channels, count, side, side).transpose(1, 2).flatten(0, 1)


def _normalised(patches: Tensor) -> Tensor:
    """``[M, C, P, P]`` to ``[M, C * P * P]``; a channel without contrast stays 0."""
    mean = patches.mean((0, 2, 3), keepdim=True)
    spread = patches.std((0, 2, 3), keepdim=True, correction=0)
    return ((patches - mean) / torch.where(spread > 0, spread, 1)).flatten(1)


def _pyramid(images: Tensor) -> list[Tensor]:
    """Laplacian pyramid of ``[N, C, H, W]`` in float64, finest first: details, and last what is left."""
    levels = [images.double()]
    while min(levels[-1].shape[2:]) // 2 >= SMALLEST_LEVEL:
        fine = levels[-1]
        coarse = _blur(fine)[:, :, ::2, ::2]
        spread = fine.new_zeros(fine.shape)
        spread[:, :, ::2, ::2] = coarse
        levels[-1] = fine - 4 * _blur(spread)
        levels.append(coarse)
    return levels


def _blur(images: Tensor) -> Tensor:
    """The binomial filter 1 4 6 4 1 in both directions, mirrored at the borders."""
    taps = images.new_tensor([1, 4, 6, 4, 1]) / 16
    kernel = taps.outer(taps).expand(images.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(images, (2, 2, 2, 2), "reflect"), kernel, groups=images.shape[1])


def _check_features(real: Tensor, fake: Tensor) -> None:
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ValueError(f"need features [N, D] and [M, D], N and M at least 2; got {_both(real, fake)}")
    _check_values(real, fake)


def _check_values(*sets: Tensor) -> None:
    for x in sets:
        if not x.is_floating_point():
            raise ValueError(f"need floats; got {_described(x)}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"{_described(x)} holds values that are not finite")


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _both(real: Tensor, fake: Tensor) -> str:
    return f"real {_described(real)} and fake {_described(fake)}"
