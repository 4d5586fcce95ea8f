"""The inception score (paper section 5.4, table 3), and what it says with a classifier that is at hand.

``exp(E KL(p(y|x) || p(y)))`` over ten splits (Salimans et al. 2016). The published numbers are of the
Inception network of 2015-12-05 on CIFAR-10; ``wgangp-fast eval --inception FILE`` has that network for runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.errors import UserError
from wgangp_fast.training import data
from wgangp_fast.training.data import stream
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.metrics.distances import inception_score
from wgangp_fast.training.metrics.features import Classifier
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, GREY, ORANGE, figure, image_sheet
from .speed import kernels
from .study import Study
from .training import Row, Trained, trained

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"iters": 20, "every": 10, "critic_dim": 8, "generator_dim": 16, "images": 300, "ema_kimg": 1.0},
    "cpu": {"iters": 1500, "every": 50, "critic_dim": 32, "generator_dim": 64, "images": 600,
            "ema_kimg": 10.0},
    "paper": {"iters": 100_000, "every": 1000, "critic_dim": 128, "generator_dim": 128, "images": 50_000,
              "ema_kimg": 0.0},
}  # fmt: skip

SPLITS = 10
PRESETS = {8: "digits", 28: "mnist", 32: "cifar10"}  # by the images' side, below paper scale
PAPER_PRESET = "cifar10-resnet"
# Table 3 of the paper, and the score of the real images that Salimans et al. report (through a stored issue).
PUBLISHED = (
    ("unsupervised", "ALI", "5.34 ± .05"),
    ("unsupervised", "BEGAN", "5.62"),
    ("unsupervised", "DCGAN", "6.16 ± .07"),
    ("unsupervised", "Improved GAN (-L+HA)", "6.86 ± .06"),
    ("unsupervised", "EGAN-Ent-VI", "7.07 ± .10"),
    ("unsupervised", "DFM", "7.72 ± .13"),
    ("unsupervised", "WGAN-GP ResNet", "7.86 ± .07"),
    ("supervised", "SteinGAN", "6.35"),
    ("supervised", "DCGAN with labels", "6.58"),
    ("supervised", "Improved GAN", "8.09 ± .07"),
    ("supervised", "AC-GAN", "8.25 ± .07"),
    ("supervised", "SGAN-no-joint", "8.37 ± .08"),
    ("supervised", "WGAN-GP ResNet", "8.42 ± .10"),
    ("supervised", "SGAN", "8.59 ± .12"),
    ("real images", "CIFAR-10 (third-party)", "11.24"),
)

Score = tuple[float, float]


def run(study: Study) -> None:
    """The experiment ``inception-score``."""
    images, labels = _images(study)
    order = torch.randperm(len(images), generator=stream(study.seed, "inception score"))
    seen, unseen = order[: 2 * len(order) // 3], order[2 * len(order) // 3 :]
    judge = _classifier(study, "classifier", images[seen], labels[seen])
    mixed = labels[seen][torch.randperm(len(seen), generator=stream(study.seed, "shuffled labels"))]
    blind = _classifier(study, "classifier of shuffled labels", images[seen], mixed)
    count = min(study.settings.images, len(unseen))
    found = _train(study, judge, images.shape[2], count)
    real = images[unseen[:count]]

    def measure() -> dict[str, Score]:
        return _scores(study, judge, blind, images, labels, real, unseen[:count], found)

    scores: dict[str, Score] = {k: tuple(v) for k, v in study.part("scores", measure).items()}
    exact = study.part("exact", lambda: exact_values(judge, real))
    _page(study, judge, blind, scores, found, count)
    _claims(study, judge.about["classes"], scores, exact)
    trainer = found.trainer
    kernels(study, trainer.config.critic, trainer.critic, *trainer.critic_batch(0)[:2])


def score(classifier: Classifier, pixels: Tensor, splits: int = SPLITS) -> Score:
    """Mean and deviation of the score of uint8 ``pixels [N, C, H, W]``, in ``splits`` consecutive parts."""
    return inception_score(_probabilities(classifier, pixels), min(splits, len(pixels)))


def _probabilities(classifier: Classifier, pixels: Tensor) -> Tensor:
    parts = []
    for part in pixels.split(500):
        found = classifier(part)[1]
        assert found is not None
        parts.append(found)
    return torch.cat(parts)


def _images(study: Study) -> tuple[Tensor, Tensor]:
    """uint8 ``[N, C, H, W]`` and labels ``[N]``."""
    if study.data is None and study.scale == "paper":
        raise UserError("the paper's score is of CIFAR-10: give its folder or archive with --data")
    found = data.labelled(study.data or "digits")
    if found is None:
        raise UserError(f"{study.data} has no labels, which a classifier needs; try CIFAR-10 or MNIST files")
    images, labels = found
    sides = (32,) if study.scale == "paper" else tuple(PRESETS)
    if images.shape[2] not in sides or images.shape[2] != images.shape[3]:
        raise UserError(
            f"this scale has networks for images of {' or '.join(map(str, sides))} pixels a side; "
            f"{study.data} has {images.shape[2]} x {images.shape[3]}"
        )
    return images, labels


def _classifier(study: Study, name: str, images: Tensor, labels: Tensor) -> Classifier:
    """Trained once, and then read from the experiment's parts."""
    path = study.parts / f"{name.replace(' ', '-')}.pt"

    def work() -> dict[str, Any]:
        with using_threads(1 if images.shape[2] <= 8 else 0):  # too small to share
            found = Classifier.train(images, labels, seed=study.seed, device=study.device)
        found.save(path)
        return found.about

    study.part(f"{name} training", work)
    return Classifier.load(path, device=study.device)


def _train(study: Study, judge: Classifier, side: int, count: int) -> Trained:
    settings = study.settings
    preset = PAPER_PRESET if study.scale == "paper" else PRESETS[side]
    config = study.config(
        preset, iters=settings.iters, critic_dim=settings.critic_dim, generator_dim=settings.generator_dim,
        ema_kimg=settings.ema_kimg, **({} if study.data else {"data": "digits"}),
    )  # fmt: skip
    z = torch.randn(count, config.latent, generator=stream(study.seed, "scored"))

    def watch(trainer: Trainer) -> Row:
        mean, deviation = score(judge, generated(trainer, z))
        return {"score": mean, "score_deviation": deviation}

    return trained(study, "generator", config, every=settings.every, watch=watch)


def generated(trainer: Trainer, z: Tensor) -> Tensor:
    """uint8 pixels of the generator's (averaged) images for ``z [N, latent]``."""
    images = (trainer.sample(z) - trainer.low) / (1 - trainer.low)  # in [0, 1]
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _scores(
    study: Study, judge: Classifier, blind: Classifier, images: Tensor, labels: Tensor, real: Tensor,
    rows: Tensor, found: Trained,
) -> dict[str, Score]:  # fmt: skip
    count, last = len(real), found.rows[-1]
    noise = torch.randint(0, 256, real.shape, generator=stream(study.seed, "noise")).to(torch.uint8)
    one = images[labels == labels.min()][:count]
    return {
        "real images": score(judge, real),
        "generator, trained": (last.get("score", math.nan), last.get("score_deviation", math.nan)),
        "generator, untrained": (found.rows[0]["score"], found.rows[0]["score_deviation"]),
        "noise": score(judge, noise),
        "real images of one class": score(judge, one),
        "one real image, repeated": score(judge, real[:1].expand(count, -1, -1, -1)),
        "real images in the order of their classes": score(judge, real[labels[rows].argsort()]),
        "real images, classifier of shuffled labels": score(blind, real),
    }


def exact_values(judge: Classifier, real: Tensor) -> dict[str, float]:
    """What the score must be whatever the classifier.

    Returns:
        certain: of one-hot predictions, all classes alike, over the number of classes; vague: of equal
        probabilities; renamed: largest change when the classes change their names.
    """
    p = _probabilities(judge, real).double()
    classes = p.shape[1]
    renamed = p[:, torch.randperm(classes, generator=stream("renamed"))]
    certain = torch.eye(classes, dtype=torch.float64).repeat(20, 1)
    before, after = inception_score(p, SPLITS), inception_score(renamed, SPLITS)
    return {
        "certain": inception_score(certain, SPLITS)[0] / classes,
        "vague": inception_score(torch.full_like(certain, 1 / classes), SPLITS)[0],
        "renamed": max(abs(a - b) for a, b in zip(before, after, strict=True)),
    }


def _page(
    study: Study, judge: Classifier, blind: Classifier, scores: dict[str, Score], found: Trained, count: int
) -> None:
    study.heading("Scores")
    study.text(
        f"Classifier: {judge.name}. It never saw the {count} real images that are scored. Each score is the "
        f"mean of {SPLITS} splits; as many images are scored of each kind, but for those of one class. "
        f"The classifier of shuffled labels: {blind.name}."
    )
    study.table(
        f"Inception-type score by this classifier, at most {judge.about['classes']}",
        ["images", "score", "deviation over splits"],
        [[title, *pair] for title, pair in scores.items()],
    )
    study.number("scores", scores)
    study.picture(
        "inception-score.png",
        "Left: scores by this classifier. Right: the generator's on its way; dashed: real images.",
        _figure(scores, found),
    )
    z = torch.randn(64, found.trainer.config.latent, generator=stream(study.seed, "shown"))
    pixels = generated(found.trainer, z)
    study.picture("generated.png", "Generated images.", image_sheet(pixels.float() / 127.5 - 1))
    study.heading("Published scores")
    study.text(
        "Of CIFAR-10 by the Inception network of 2015-12-05, 50,000 images in ten splits. **Another "
        "classifier's and other images' scores: not comparable with those above.**"
    )
    study.table(
        "Paper, table 3",
        ["setting", "method", "score by Inception"],
        [list(row) for row in PUBLISHED],
    )
    study.choice(
        "The released scripts leave out the bias of Inception's last layer and take its 1008 outputs; scores "
        "of 1000 images (gan_cifar.py) are far below those of 50,000."
    )
    study.choice(
        "A score depends on its classifier, so it stands beside that classifier's name and is called "
        "inception score only with the published network's weights (wgangp-fast eval --inception FILE)."
    )


def _figure(scores: dict[str, Score], found: Trained) -> Any:
    made, axes = figure(1, 2, size=(13.0, 4.0))
    left, right = axes[0]
    names = list(scores)[::-1]
    left.barh(
        names, [scores[n][0] for n in names], xerr=[scores[n][1] for n in names], color=BLUE, ecolor=GREY
    )
    left.set(title="Score", xlim=(0, None))
    left.axvline(1.0, color=GREY, linewidth=1, linestyle="--")
    rows = [row for row in found.rows if "score" in row]
    right.plot([row["iteration"] for row in rows], [row["score"] for row in rows], color=ORANGE)
    right.axhline(scores["real images"][0], color=GREY, linewidth=1, linestyle="--")
    right.set(title="Generator", xlabel="generator iteration", ylabel="score", ylim=(0, None))
    right.grid(alpha=0.3)
    return made


def _claims(study: Study, classes: int, scores: dict[str, Score], exact: dict[str, float]) -> None:
    means = {name: pair[0] for name, pair in scores.items()}
    real, made, raw = (means[n] for n in ("real images", "generator, trained", "generator, untrained"))
    early = study.scale == "smoke"
    tail = f" (after {study.settings.iters} iterations: too few to tell)" if early else ""

    def judged(held: Callable[[], bool]) -> bool | None:
        return None if early else held()

    study.claim(
        "The score is from 1 (the prediction says nothing) to the number of classes (certain, all classes "
        "alike), whatever the classes are called (within 1e-9)",
        "P 5.4; Salimans et al. 2016",
        f"{exact['vague']:.12g}, {exact['certain']:.12g} of {classes}, changed by {exact['renamed']:.1e}",
        max(abs(exact["vague"] - 1), abs(exact["certain"] - 1), exact["renamed"]) <= 1e-9,
    )
    study.claim(
        "A trained WGAN-GP generator scores between the untrained one and real images (at least half of "
        "the way)",
        "P table 3",
        f"untrained {raw:.2f}, trained {made:.2f}, real {real:.2f}{tail}",
        judged(lambda: raw + (real - raw) / 2 <= made <= real * 1.05),
    )
    few = [means[name] for name in ("real images of one class", "one real image, repeated")]
    study.claim(
        "Images of one class or a single image score about 1 (at most a tenth of the way to real images)",
        "P 5.4; Salimans et al. 2016",
        f"one class {few[0]:.2f}, one image {few[1]:.2f}",
        max(few) - 1 <= 0.1 * (real - 1),
    )
    study.claim(
        "Noise scores less than half of real images (not 1: what a classifier says of noise is arbitrary)",
        "Salimans et al. 2016",
        f"{means['noise']:.2f} for {real:.2f}",
        means["noise"] < real / 2,
    )
    ordered = means["real images in the order of their classes"]
    study.claim(
        "Images must be shuffled before they are split: in the order of their classes the same images score "
        "less than half",
        "Salimans et al. 2016 (ten splits)",
        f"{ordered:.2f} for {real:.2f}",
        ordered < real / 2,
    )
    shuffled = means["real images, classifier of shuffled labels"]
    study.claim(
        "The classifier must know the classes: one of shuffled labels gives the same images a lower score",
        "a check of this experiment",
        f"{shuffled:.2f} for {real:.2f}",
        shuffled < real,
    )
    study.claim(
        "WGAN-GP ResNet: 7.86 unsupervised, 8.42 supervised, above most methods of its time",
        "P table 3",
        "cannot be told by another classifier"
        + (" and on other images" if study.data is None else "")
        + f"; here a generator has {made:.2f} where real images have {real:.2f}",
        None,
    )
