"""All measures of a set of generated images against real ones, by one feature network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import stream

from . import distances
from .features import Network, Outputs
from .inception import Inception

LEAST = 4  # two for each half of the real images
PATCHED = 512  # sorting their 65,536 patches along 512 directions takes half a minute at 64 x 64
SUBSET = 1000

Progress = Callable[[int, int], None]
"""Called with the number of images that were looked at, and of all."""


def judge(
    real: Tensor,
    fake: Tensor,
    network: Network,
    *,
    batch: int = 100,
    seed: int = 0,
    patched: int = PATCHED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare ``fake`` with ``real``, and one half of ``real`` with the other half.

    Both are rounded to uint8 first, as in a saved picture. Pixels are compared as patches, of some
    of the images; everything else goes by ``network``.

    Args:
        real: ``[N, C, H, W]``, uint8, or floats in [-1, 1]; N at least 4.
        fake: ``[M, C, H, W]``, likewise.
        network: see :mod:`.features` and :mod:`.inception`.
        batch: images that the network gets at once.
        patched: images whose patches are compared, at most; the literature's 16,384 take long on a CPU.
        seed: of the halves, the subsets, the patches and the directions.
        progress: see :data:`Progress`.

    Returns:
        samples (M), real_samples (N), features (the network's name); frechet_distance, which is called fid if
        and only if the network is Inception with the published weights; kid and kid_std; sliced_wasserstein
        and, by side, sliced_wasserstein_levels, of sliced_wasserstein_samples images. If it classifies:
        inception_type_score and inception_type_score_std (those weights': inception_score).
        Names with real_ in front are what real images get: scores of all of them, distances between two
        halves of real_reference_samples each. No generator can be expected to do better; the Frechet
        distance of so few samples is above that of N.

    Raises:
        ValueError: other shapes or types, or too few images.
        UserError: fake images that are not finite, or a network for other images.
    """
    _check(real, fake)
    if fault := network.fault(real.shape[1:]):
        raise UserError(fault)
    order = torch.randperm(len(real), generator=stream(seed, "halves"))
    real, fake = to_pixels(real[order.to(real.device)]), to_pixels(fake)
    total = len(real) + len(fake)
    told = progress or (lambda done, of: None)
    real_features, real_classes = _collect(network, real, batch, lambda done: told(done, total))
    features, classes = _collect(network, fake, batch, lambda done: told(len(real) + done, total))
    half = len(real) // 2
    first, second = real_features[:half], real_features[half : 2 * half]
    known = isinstance(network, Inception) and network.published
    frechet, score = ("fid", "inception_score") if known else ("frechet_distance", "inception_type_score")
    found: dict[str, Any] = {
        "samples": len(fake),
        "real_samples": len(real),
        "real_reference_samples": half,
        "features": network.name,
        frechet: distances.frechet_distance(real_features, features),
        f"real_{frechet}": distances.frechet_distance(first, second),
        **_kernel("", real_features, features, seed),
        **_kernel("real_", first, second, seed),
        **_patches(real, fake, patched, seed),
    }
    if classes is not None and real_classes is not None:
        for name, probabilities in (("", classes), ("real_", real_classes)):
            mean, spread = distances.inception_score(probabilities, min(10, len(probabilities)))
            found |= {f"{name}{score}": mean, f"{name}{score}_std": spread}
    return found


def to_pixels(images: Tensor) -> Tensor:
    """uint8 of images that are uint8, or floats in [-1, 1]: the nearest grey level, clipped at both ends."""
    if images.dtype == torch.uint8:
        return images
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def _check(real: Tensor, fake: Tensor) -> None:
    for name, images in (("real", real), ("fake", fake)):
        if images.dim() != 4 or len(images) < LEAST:
            raise ValueError(f"{name} must be [N, C, H, W], N at least {LEAST}; got {list(images.shape)}")
        if images.dtype != torch.uint8 and not images.is_floating_point():
            raise ValueError(f"{name} must be uint8, or floats in [-1, 1]; got {images.dtype}")
    if real.shape[1:] != fake.shape[1:]:
        raise ValueError(
            f"real and fake images differ in shape: {list(real.shape[1:])}, {list(fake.shape[1:])}"
        )
    if not bool(fake.isfinite().all()):
        raise UserError("the generated images hold values that are not finite: this generator has diverged")


def _collect(network: Network, pixels: Tensor, batch: int, told: Callable[[int], None]) -> Outputs:
    """The network's outputs for all ``pixels [N, C, H, W]``."""
    features: list[Tensor] = []
    classes: list[Tensor] = []
    done = 0
    for part in pixels.split(batch):
        found, probabilities = network(part)
        features.append(found)
        if probabilities is not None:
            classes.append(probabilities)
        done += len(part)
        told(done)
    return torch.cat(features), torch.cat(classes) if classes else None


def _kernel(prefix: str, real: Tensor, fake: Tensor, seed: int) -> dict[str, float]:
    # Subsets of at most half a set differ from each other, without which their spread says nothing.
    size = max(2, min(SUBSET, len(real) // 2, len(fake) // 2))
    mean, spread = distances.kernel_distance(
        real, fake, subset_size=size, generator=stream(seed, prefix, "subsets")
    )
    return {f"{prefix}kid": mean, f"{prefix}kid_std": spread}


def _patches(real: Tensor, fake: Tensor, most: int, seed: int) -> dict[str, Any]:
    count = min(len(real) // 2, len(fake), most)
    first, second, ours = (x[:count].cpu().float() for x in (real, real[count:], fake))
    mean, levels = distances.sliced_wasserstein(first, ours, seed=seed)
    floor, _ = distances.sliced_wasserstein(first, second, seed=seed)
    return {
        "sliced_wasserstein": mean,
        "sliced_wasserstein_levels": {str(side): value for side, value in levels.items()},
        "sliced_wasserstein_samples": count,
        "real_sliced_wasserstein": floor,
    }
