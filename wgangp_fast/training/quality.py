"""What a finished run is told about its samples where there is ground truth: modes of toys, digits."""

from __future__ import annotations

from typing import Any

import torch

from wgangp_fast.training import data
from wgangp_fast.training.data import stream
from wgangp_fast.training.metrics.digits import digit_quality
from wgangp_fast.training.metrics.modes import SIGMAS, mode_coverage

from .trainer import Trainer

IMAGES = 2000
POINTS = 10_000


def final_quality(trainer: Trainer) -> tuple[dict[str, Any], str]:
    """Quality of the averaged generator and one sentence about it; empty for other data (see the command
    ``wgangp-fast eval``)."""
    quality = of_samples(trainer.config.data, lambda count: trainer.sample(_latents(trainer, count)))
    return quality, quality_line(quality) if quality else ""


def _latents(trainer: Trainer, count: int) -> torch.Tensor:
    return torch.randn(count, trainer.config.latent, generator=stream(trainer.config.seed, "quality"))


def of_samples(source: str, draw: Any) -> dict[str, Any]:
    """Measures that belong to an embedded set; ``draw(count)`` gives samples ``[count, ...]``."""
    if modes := data.modes(source):
        return mode_coverage(draw(POINTS), modes)
    if source == "digits":
        return digit_quality(draw(IMAGES))
    return {}


def quality_line(quality: dict[str, Any]) -> str:
    """One sentence for what :func:`of_samples` found."""
    least = max(1, quality["samples"] // (10 * quality.get("modes", 10)))
    if "modes" in quality:
        return (
            f"modes covered: {quality['modes_covered']} of {quality['modes']} (at least {least} of "
            f"{quality['samples']} samples within {SIGMAS:g} sigma of its centre); samples within "
            f"{SIGMAS:g} sigma of any: {quality['high_quality']:.1%}"
        )
    return (
        f"classes covered: {quality['classes_covered']} of {quality['classes']} (at least {least} of "
        f"{quality['samples']} samples each); mean confidence {quality['confidence']:.3f} (real held-out "
        f"digits: {quality['classifier_confidence']:.3f}); score {quality['score']:.2f} of 10; the "
        f"classifier's held-out accuracy is {quality['classifier_accuracy']:.3f}"
    )
