"""Scores of generated images by a classifier of the data's own labels, and distances by random features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training.data import Stored
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.metrics.distances import inception_score
from wgangp_fast.training.metrics.features import Classifier, Network
from wgangp_fast.training.metrics.quality import to_pixels

from .study import Study

SPLITS = 10  # of the samples, as in the paper's code


def classifier(study: Study, images: Stored) -> Classifier:
    """A classifier trained on the labels of ``images``, once for each experiment, and kept in its folder.

    Raises:
        UserError: the images have no labels.
    """
    if not images.classes:
        raise UserError(
            f"{images.name} has no labels, by which samples are scored; give --data that has some"
        )
    path = study.parts / "classifier.pt"

    def train() -> dict[str, Any]:
        labels = images.labels(torch.arange(images.size or 0))
        assert labels is not None
        with torch.random.fork_rng(), using_threads(getattr(study.settings, "threads", 0)):
            found = Classifier.train(all_of(images), labels, seed=study.seed, device=study.device)
        found.save(path)
        return dict(found.about)

    about = study.part("classifier", train)
    study.number("classifier", about)
    return Classifier.load(path, device=study.device)


def all_of(images: Stored) -> Tensor:
    """uint8 ``[N, C, S, S]``: every image of a set, in its order."""
    return to_pixels(images.take(torch.arange(images.size or 0), torch.Generator()))


def score(network: Network, samples: Tensor) -> tuple[float, float]:
    """Inception-type score of ``samples [N, C, H, W]``, uint8 or in [-1, 1], by a network that classifies.

    Returns:
        mean and deviation over :data:`SPLITS` consecutive parts.
    """
    return inception_score(probabilities(network, samples), SPLITS)


def probabilities(network: Network, samples: Tensor) -> Tensor:
    """``[N, K]`` of a network that classifies; N images, uint8 or in [-1, 1], are looked at in parts."""
    found = [network(part)[1] for part in to_pixels(samples).split(500)]
    if any(part is None for part in found):
        raise ValueError(f"{network.name} does not classify")
    return torch.cat([part for part in found if part is not None])
