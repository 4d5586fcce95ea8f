"""Loss curves that show a critic overfit: negative critic loss on training and on validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wgangp_fast.training import models
from wgangp_fast.training.data import Stored, stream, to_unit
from wgangp_fast.training.loop import using_threads

from .figures import BLUE, ORANGE, figure
from .images import about, image_set, some, split
from .speed import kernels
from .study import Study
from .training import Trained, trained

METHODS = {"wgan-gp": "gradient penalty", "wgan": "weight clipping"}

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"size": 8, "dim": 8, "small": 64, "validation": 128, "iters": {"full": 24, "small": 24},
              "every": 3, "batch": 32, "n_critic": 2, "gp_lr": 1e-3, "clip_lr": 1e-3, "clip": 0.05,
              "threads": 1},
    "cpu": {"size": 8, "dim": 16, "small": 100, "validation": 360, "iters": {"full": 800, "small": 600},
            "every": 20, "batch": 50, "n_critic": 5, "gp_lr": 1e-3, "clip_lr": 1e-3, "clip": 0.05,
            "threads": 1},
    "paper": {"size": 28, "dim": 64, "small": 1000, "validation": 10_000,
              "iters": {"full": 40_000, "small": 20_000}, "every": 100, "batch": 50, "n_critic": 5,
              "gp_lr": 1e-4, "clip_lr": 5e-5, "clip": 0.01, "threads": 0},
}  # fmt: skip

# What counts as staying: the training curve's fitted change over its second half, as a share of its mean.
STEADY = -0.1


def run(study: Study) -> None:
    """Figure 5: curves of a large set with the penalty; of a small one with the penalty and with clipping."""
    settings = study.settings
    images = image_set(study, settings.size, "MNIST as IDX files")
    full, validation, small = _sets(images, settings.validation, settings.small)
    found = {
        (part, method): _train(study, part, method, samples, validation)
        for part, samples in (("full", full), ("small", small))
        for method in METHODS
    }
    curves = {key: curve(training) for key, training in found.items()}
    ends = {key: summary(*lines) for key, lines in curves.items()}
    study.text(
        f"{about(study, images)} {full.size} are trained on, or {small.size} of these; {validation.size} "
        "others are the validation set. Shown is the negative critic loss, mean D(real) - mean D(fake) minus "
        "lambda times the penalty: for training images the mean over the critic's steps since the point "
        "before, for the validation images that of up to four batches at the point."
    )
    study.heading("Curves")
    study.picture(
        "large-set.png",
        f"As figure 5a: {full.size} training images, gradient penalty.",
        _picture([(f"{full.size} images, gradient penalty", curves["full", "wgan-gp"])]),
    )
    study.picture(
        "small-set.png",
        f"As figure 5b: {small.size} training images; left gradient penalty, right weight clipping.",
        _picture([
            (f"{small.size} images, {label}", curves["small", method]) for method, label in METHODS.items()
        ]),
    )  # fmt: skip
    sizes = {"full": full.size, "small": small.size}
    study.table(
        "Negative critic loss: the last quarter of each run, and the fitted change over its second half",
        ["training images", "method", "iterations", "training", "validation", "gap",
         "change of training", "change of validation"],
        [
            [sizes[part], METHODS[method], found[part, method].trainer.iteration, end["training"],
             end["validation"], end["gap"], end["training_change"], end["validation_change"]]
            for (part, method), end in ends.items()
        ],
    )  # fmt: skip
    for (part, method), end in ends.items():
        study.number(f"{part} {method}", end)
        study.number(f"curve {part} {method}", curves[part, method])
    _claims(study, ends, {key: training.diverged for key, training in found.items()})
    _kernels(study, full)
    _choices(study)


def _sets(images: Stored, held: int, count: int) -> tuple[Stored, Stored, Stored]:
    """What is trained on, the validation set, and a small part of the former."""
    validation, full = split(images, held, (images.size or 0) - held)
    return full, validation, split(full, count)[0]


def _networks(study: Study, method: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """The MNIST pair; batch norm in both with clipping and none with the penalty (gan_mnist.py)."""
    norm = "batch" if method == "wgan" else "none"
    options = {
        "size": study.settings.size, "channels": channels, "dim": study.settings.dim, "norm": norm,
        "padding": study.padding,
    }  # fmt: skip
    return models.build("mnist-critic", **options), models.build("mnist-generator", **options)


def _config(study: Study, part: str, method: str) -> Any:
    settings = study.settings
    rate = settings.gp_lr if method == "wgan-gp" else settings.clip_lr
    norm = "batch" if method == "wgan" else "none"
    return study.config(
        "mnist", loss=method, iters=settings.iters[part], batch=settings.batch, n_critic=settings.n_critic,
        lr=rate, critic_dim=settings.dim, generator_dim=settings.dim, critic_norm=norm, generator_norm=norm,
        ema_kimg=0.0, clip=settings.clip, threads=settings.threads, data=study.data or "digits",
    )  # fmt: skip


def _train(study: Study, part: str, method: str, samples: Stored, validation: Stored) -> Trained:
    return trained(
        study, f"{part} {method}", _config(study, part, method), samples=samples, held_out=validation,
        networks=lambda: _networks(study, method, samples.shape[0]), every=study.settings.every,
    )  # fmt: skip


Curve = tuple[list[int], list[float], list[float]]
"""Iterations, and the negative critic loss on training and on validation images."""


def curve(training: Trained) -> Curve:
    """The curves of a training with a held-out set; points that are not finite are left out."""
    rows = [row for row in training.rows if "held_out_critic_loss" in row]
    rows = [row for row in rows if abs(row["critic_loss"]) + abs(row["held_out_critic_loss"]) < float("inf")]
    return (
        [row["iteration"] for row in rows],
        [-row["critic_loss"] for row in rows],
        [-row["held_out_critic_loss"] for row in rows],
    )


def summary(
    iterations: Sequence[int], training: Sequence[float], validation: Sequence[float]
) -> dict[str, Any]:
    """How two curves end.

    Returns:
        training, validation, gap: means over the last quarter of the points, and their difference.
        training_change, validation_change: of the straight line that fits the second half best, from its
        begin to its end. training_level: mean of training in that half. peak: largest of validation;
        all zero where there are fewer than 4 points.
    """
    count = len(iterations)
    names = (
        "training",
        "validation",
        "gap",
        "training_change",
        "validation_change",
        "training_level",
        "peak",
    )
    if count < 4:
        return dict.fromkeys(names, 0.0)
    last, half = slice(count - count // 4, None), slice(count // 2, None)
    ends = [sum(values[last]) / len(values[last]) for values in (training, validation)]
    return {
        "training": ends[0],
        "validation": ends[1],
        "gap": ends[0] - ends[1],
        "training_change": change(iterations[half], training[half]),
        "validation_change": change(iterations[half], validation[half]),
        "training_level": sum(training[half]) / len(training[half]),
        "peak": max(validation),
    }


def change(x: Sequence[float], y: Sequence[float]) -> float:
    """How much the least-squares line of ``y`` over ``x`` changes from the first ``x`` to the last."""
    at, values = torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)
    at = at - at.mean()
    spread = at.square().sum()
    return float((at * values).sum() / spread * (at[-1] - at[0])) if spread else 0.0


def _claims(study: Study, ends: dict[tuple[str, str], dict[str, Any]], diverged: dict[Any, bool]) -> None:
    judged = study.scale != "smoke" and not any(diverged.values())
    why = "" if judged else "; too few iterations to tell" if study.scale == "smoke" else "; a run diverged"
    gaps = {key: end["gap"] for key, end in ends.items()}
    study.claim(
        "On a small set training and validation loss diverge, with the penalty and with clipping (gap over "
        "the last quarter positive, and larger than with the large set)",
        "P 5.6, figure 5b",
        "gap small, large: "
        + "; ".join(f"{label} {gaps['small', m]:.3g}, {gaps['full', m]:.3g}" for m, label in METHODS.items())
        + why,
        all(gaps["small", m] > max(0.0, gaps["full", m]) for m in METHODS) if judged else None,
    )
    end = ends["small", "wgan-gp"]
    share = end["training_change"] / max(1e-12, abs(end["training_level"]))
    study.claim(
        "With the penalty the small set's training curve rises, or stays (its fitted change over the second "
        f"half is at least {STEADY:.0%} of its mean), while the validation curve falls",
        "P 5.6, figure 5b (left)",
        f"training {end['training_change']:+.3g} ({share:+.0%}), validation {end['validation_change']:+.3g}"
        + why,
        share >= STEADY and end["validation_change"] < 0 if judged else None,
    )
    end = ends["full", "wgan-gp"]
    study.claim(
        "With the penalty and a large set both curves converge downwards: the last quarter of the validation "
        "curve is below half of its peak, and the gap is below that of the small set",
        "P 5.6, figure 5a",
        f"validation peak {end['peak']:.3g}, end {end['validation']:.3g}; gap {end['gap']:.3g}" + why,
        (end["validation"] < end["peak"] / 2 and end["gap"] < gaps["small", "wgan-gp"]) if judged else None,
    )


def _picture(parts: list[tuple[str, Curve]]) -> Any:
    made, axes = figure(1, len(parts))
    for place, (title, (iterations, training, validation)) in zip(axes[0], parts, strict=True):
        place.plot(iterations, training, color=BLUE, label="training", linewidth=1.2)
        place.plot(iterations, validation, color=ORANGE, label="validation", linewidth=1.2)
        place.set(title=title, xlabel="generator iteration", ylabel="negative critic loss")
        place.grid(alpha=0.3)
        place.legend(frameon=False)
    return made


def _kernels(study: Study, images: Stored) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(study.seed)
        critic = _networks(study, "wgan-gp", images.shape[0])[0].to(study.device)
    real = to_unit(some(images, study.settings.batch), low=0.0).to(study.device)
    fake = torch.rand(real.shape, generator=stream(study.seed, "speed")).to(study.device)
    label = f"mnist-critic, dim {study.settings.dim}, {study.settings.size} x {study.settings.size}"
    with using_threads(study.settings.threads):
        kernels(study, label, critic, real, fake)


def _choices(study: Study) -> None:
    study.choice(
        "The paper gives no sizes for its large unregularised networks; these are gan_mnist.py's (three "
        "convolutions, no norm with the penalty, batch norm in both networks with clipping)."
    )
    study.choice(
        "Figure 5a is of LSUN bedrooms, by a model that is not named. Here the large set is what the small "
        "one is a part of, so that the size alone differs."
    )
    study.choice(
        "The small set is a random part of the training images; both have the same validation images."
    )
    if study.scale != "paper":
        study.choice(
            "Narrower networks, smaller images and larger learning rates than gan_mnist.py's 64 filters, "
            "28 x 28, 1e-4 (Adam) and 5e-5 (RMSprop), so that a critic overfits in minutes; and a larger "
            "clipping bound than 0.01, at which so narrow a critic's scores are below 1e-6."
        )
