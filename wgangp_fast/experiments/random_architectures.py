"""Random architectures trained with the gradient penalty, one- and two-sided, and as standard GANs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from wgangp_fast.training import Config
from wgangp_fast.training.data import Stored, stream, to_unit
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.metrics.features import Classifier
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.models import Architecture, random_architecture
from wgangp_fast.training.trainer import Trainer

from .comparisons import PAPER, PAPER_WINS, sign_test, success_table, thresholds, wins
from .figures import BLUE, GREEN, ORANGE, figure, image_sheet
from .images import about, image_set, some
from .scoring import SPLITS, classifier, score
from .speed import kernels
from .study import Study
from .training import trained

SHOWN = 8  # samples of each training on the sheet
ROWS = 10  # architectures on the sheet
NORMED = {True: "yes", False: "no"}
LEVEL = 0.05  # of significance
SMOOTH = {"shifted_softplus": "softplus(2x + 2) / 2 - 1", "elu": "ELU"}


@dataclass(frozen=True)
class Method:
    """A way to train a pair; ``norm`` is what a critic with norms has."""

    title: str
    loss: str
    norm: str
    one_sided: bool = False


METHODS = {
    "gp": Method("WGAN-GP", "wgan-gp", "layer"),
    "gan": Method("GAN", "gan", "batch"),
    "one-sided": Method("WGAN-GP, one-sided", "wgan-gp", "layer", one_sided=True),
}

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"architectures": 2, "images": 64, "size": 16, "shrink": 16, "iters": 2, "batch": 16,
              "n_critic": 1, "gp_lr": 1e-3, "gan_lr": 2e-3, "samples": 100, "timed": 1, "threads": 1},
    "cpu": {"architectures": 10, "images": 1797, "size": 16, "shrink": 8, "iters": 120, "batch": 32,
            "n_critic": 5, "gp_lr": 1e-3, "gan_lr": 2e-3, "samples": 1000, "timed": 10, "threads": 1},
    "paper": {"architectures": 200, "images": 1_300_000, "size": 32, "shrink": 1, "iters": 100_000,
              "batch": 64, "n_critic": 5, "gp_lr": 1e-4, "gan_lr": 2e-4, "samples": 50_000, "timed": 20,
              "threads": 0},
}  # fmt: skip


def run(study: Study) -> None:
    """Tables 1, 2 and 5: which random pairs train with either objective; one- against two-sided penalty."""
    settings = study.settings
    images = image_set(study, settings.size, "labelled 32 x 32 images, such as CIFAR-10 or ImageNet 32 x 32")
    images = images.subset(torch.arange(min(settings.images, images.size or 0)))
    judge = classifier(study, images)
    real = study.part("real score", lambda: score(judge, some(images, settings.samples))[0])
    pairs = drawn(study.seed, settings.architectures, settings.shrink)
    result = partial(_result, study, images, judge)
    found = {
        method: [result(f"{index:03d}", method, pair) for index, pair in enumerate(pairs)]
        for method in METHODS
    }
    scores = {method: [row["score"] for row in rows] for method, rows in found.items()}
    study.text(
        f"{about(study, images)} Score: exp of the mean KL divergence between the class probabilities of a "
        f"sample and their mean, by a {judge.name}, over {SPLITS} parts of {settings.samples} samples. "
        f"It goes from 1 to {images.classes}; real images get {real:.2f}. No other classifier's compares."
    )
    limits = thresholds(real)
    table = success_table(scores["gan"], scores["gp"], limits)
    _tables(study, pairs, scores, table)
    _pictures(study, found, scores, limits, images)
    _robustness_claim(study, table)
    _sides(study, scores)
    _smooth(study, result, real)
    _kernels(study, pairs, images)
    _choices(study)


def drawn(seed: int, count: int, shrink: int = 1) -> list[Architecture]:
    """The first ``count`` random pairs of a seed, their base filters divided by ``shrink``."""
    random = torch.Generator().manual_seed(seed)
    pairs = [random_architecture(random) for _ in range(count)]
    return [
        replace(pair, generator_dim=pair.generator_dim // shrink, critic_dim=pair.critic_dim // shrink)
        for pair in pairs
    ]


def config_of(study: Study, index: int, method: Method, critic_norm: bool = True) -> Config:
    """Settings of one training; the seed is that of the architecture's place."""
    settings = study.settings
    gp = method.loss == "wgan-gp"
    own = {"beta1": 0.0, "beta2": 0.9, "n_critic": settings.n_critic} if gp else {}
    return study.config(
        "cifar10", loss=method.loss, one_sided=method.one_sided, iters=settings.iters, batch=settings.batch,
        lr=settings.gp_lr if gp else settings.gan_lr, critic_norm=method.norm if critic_norm else "none",
        size=settings.size, seed=study.seed + index, ema_kimg=0.0, threads=settings.threads,
        data=study.data or "digits", **own,
    )  # fmt: skip


def networks(
    pair: Architecture, method: Method, latent: int, shape: Sequence[int], padding: str = "symmetric"
) -> tuple[nn.Module, nn.Module]:
    """Critic and generator of a pair for images ``shape (C, H, W)``."""
    options: dict[str, Any] = {"channels": shape[0], "size": shape[1], "padding": padding}
    return pair.build_critic(method.norm, **options), pair.build_generator(latent=latent, **options)


def decay(pair: Architecture, trainer: Trainer) -> None:
    """The paper's weight decay of 1e-3 on a critic that has norms."""
    if pair.critic_norm:
        for group in trainer.critic_optimizer.param_groups:
            group["weight_decay"] = 1e-3


def _result(
    study: Study, images: Stored, judge: Classifier, label: str, method: str, pair: Architecture
) -> dict[str, Any]:
    """The score of a training, None if it diverged, and some of its samples."""
    name = f"{label} {method}"
    return dict(study.part(name, partial(_train, study, images, judge, label, method, pair)))


def _train(
    study: Study, images: Stored, judge: Classifier, label: str, method: str, pair: Architecture
) -> dict[str, Any]:
    index = int(label) if label.isdigit() else 0
    config = config_of(study, index, METHODS[method], pair.critic_norm)
    name = f"training-{label}-{method}"
    found = trained(
        study, name, config, samples=images, prepare=partial(decay, pair),
        networks=partial(networks, pair, METHODS[method], config.latent, images.shape, study.padding),
    )  # fmt: skip
    fake = found.trainer.sample(
        torch.randn(study.settings.samples, config.latent, generator=stream(study.seed, "score"))
    )
    failed = found.diverged or not bool(fake.isfinite().all())
    pixels = to_pixels(fake.nan_to_num())
    row = found.rows[-1]
    result = {
        "score": None if failed else score(judge, pixels)[0],
        "samples": pixels[:SHOWN].flatten().tolist(),
        "grad_norm": row.get("grad_norm"),
        "training_seconds": row["seconds"],
    }
    # Hundreds of states would fill a disk; the part holds what is needed.
    study.seconds.pop(name)
    (study.parts / f"{name}.pt").unlink(missing_ok=True)
    return result


def _tables(
    study: Study,
    pairs: list[Architecture],
    scores: dict[str, list[float | None]],
    table: list[tuple[float, int, int, int, int]],
) -> None:
    study.heading("Successes")
    columns = ["min score", "only GAN", "only WGAN-GP", "both", "neither"]
    beside = [[*ours, "", *theirs] for ours, theirs in zip(table, PAPER, strict=True)]
    study.table(
        f"Here, of {len(pairs)} architectures; and the paper's, of 200 (inception score, 32 x 32 ImageNet)",
        [*columns, "", *(f"paper: {name}" for name in columns)],
        beside,
    )
    study.number("table", table)
    study.number("scores", scores)
    study.heading("Architectures")
    study.table(
        "Scores; a dash: diverged",
        ["generator: activation", "layers", "filters", "norm", "critic: activation", "layers", "filters",
         "norm", *(method.title for method in METHODS.values())],
        [
            [pair.generator_activation, pair.generator_depth, pair.generator_dim,
             NORMED[pair.generator_norm], pair.critic_activation, pair.critic_depth, pair.critic_dim,
             NORMED[pair.critic_norm], *(scores[method][index] for method in METHODS)]
            for index, pair in enumerate(pairs)
        ],
    )  # fmt: skip


def _pictures(
    study: Study,
    found: dict[str, list[dict[str, Any]]],
    scores: dict[str, list[float | None]],
    limits: list[float],
    images: Stored,
) -> None:
    made, axes = figure(1, 2, size=(9.5, 3.8))
    for (method, values), colour in zip(scores.items(), (BLUE, ORANGE, GREEN), strict=True):
        counts = [sum(v is not None and v > limit for v in values) for limit in limits]
        style = "--" if method == "one-sided" else "-"
        axes[0, 0].plot(limits, counts, style, marker=".", color=colour, label=METHODS[method].title)
    axes[0, 0].set(xlabel="min score", ylabel="architectures that succeed")
    axes[0, 0].legend(frameon=False)
    for method, colour in (("gan", ORANGE), ("one-sided", GREEN)):
        x, y = ([1.0 if v is None else v for v in scores[m]] for m in (method, "gp"))
        axes[0, 1].plot(x, y, "o", color=colour, label=f"against {METHODS[method].title}", alpha=0.8)
    axes[0, 1].plot([1, limits[-1]], [1, limits[-1]], color="#999999", linewidth=1)
    axes[0, 1].set(xlabel="score of the other method", ylabel="score with WGAN-GP")
    axes[0, 1].legend(frameon=False)
    for place in axes[0]:
        place.grid(alpha=0.3)
    study.picture("successes.png", "Left: successes by threshold. Right: each architecture's scores.", made)
    rows = [
        torch.tensor(found[method][index]["samples"], dtype=torch.uint8).view(-1, *images.shape)
        for index in range(min(ROWS, len(found["gp"])))
        for method in ("gp", "gan")
    ]
    study.picture(
        "samples.png",
        f"A row for each of the first {len(rows) // 2} architectures: left WGAN-GP, right GAN.",
        image_sheet(torch.cat(rows), 2 * SHOWN),
    )


def _robustness_claim(study: Study, table: list[tuple[float, int, int, int, int]]) -> None:
    # Where no architecture succeeds nothing is compared.
    compared = [row for row in table if row[1] + row[2] + row[3]]
    better = sum(row[2] > row[1] for row in compared)
    worse = sum(row[1] > row[2] for row in compared)
    study.claim(
        "WGAN-GP trains more of the architectures than the standard GAN, at more than half of the thresholds "
        "that any of them passes",
        "P 5.1, tables 2 and 5",
        f"more at {better}, fewer at {worse} of {len(compared)} thresholds, after {study.settings.iters:,} "
        "generator iterations each" + ("; too few iterations to tell" if study.scale == "smoke" else ""),
        None if study.scale == "smoke" else better > len(compared) / 2,
    )


def _sides(study: Study, scores: dict[str, list[float | None]]) -> None:
    study.heading("One- and two-sided penalty")
    two, one = wins(scores["gp"], scores["one-sided"])
    p = sign_test(two, one)
    study.table(
        "Wins of paired trainings, and the sign test's p-value (two-sided, exact)",
        ["", "architectures", "two-sided wins", "one-sided wins", "p"],
        [
            ["here", len(scores["gp"]), two, one, p],
            ["paper", 174, *PAPER_WINS, sign_test(*PAPER_WINS)],
        ],
    )
    study.number("sign test", {"two-sided wins": two, "one-sided wins": one, "p": p})
    few = sign_test(0, len(scores["gp"])) >= LEVEL  # not even all wins would be significant
    study.claim(
        f"Two-sided and one-sided penalty do not differ significantly (sign test, p at least {LEVEL})",
        "P appendix C",
        f"{two} wins to {one}, p = {p:.3g}" + ("; too few architectures to tell" if few else ""),
        None if few else p >= LEVEL,
    )


def _smooth(study: Study, result: Any, real: float) -> None:
    study.heading("Smooth activations")
    dim = 64 // study.settings.shrink
    found = {
        name: result(name, "gp", Architecture(name, name, 4, 4, False, False, dim, dim)) for name in SMOOTH
    }
    rows = [[SMOOTH[name], row["score"], row["grad_norm"]] for name, row in found.items()]
    study.table(
        f"Both networks of four layers, {dim} base filters, no norms, two-sided penalty",
        ["activation", "score", "mean gradient norm"],
        rows,
    )
    study.text(
        "ELU's derivative is continuous but has a corner at 0, so the penalty's gradient jumps there; "
        "softplus(2x + 2) / 2 - 1 has the shape of ELU without the corner. The paper says that ELU could not "
        "be trained with the penalty and gives no numbers."
    )
    study.number("smooth", {name: row["score"] for name, row in found.items()})
    least = 1 + (real - 1) / 4
    trains = {name: row["score"] is not None and row["score"] > least for name, row in found.items()}
    texts = {
        name: "diverged" if row["score"] is None else f"score {row['score']:.2f}"
        for name, row in found.items()
    }
    smoke = study.scale == "smoke"
    why = "; too few iterations to tell" if smoke else ""
    study.claim(
        f"The smooth softplus(2x + 2) / 2 - 1 can be trained with the penalty (score above {least:.2f}, a "
        "quarter of the way to real images)",
        "P 5.1, appendix D",
        texts["shifted_softplus"] + why,
        None if smoke else trains["shifted_softplus"],
    )
    study.claim(
        f"ELU cannot be trained with the penalty (it diverges, or its score stays below {least:.2f})",
        "P appendix D",
        texts["elu"] + why,
        None if smoke else not trains["elu"],
    )


def _kernels(study: Study, pairs: list[Architecture], images: Stored) -> None:
    real = to_unit(some(images, study.settings.batch)).to(study.device)
    fake = to_unit(some(images, 2 * study.settings.batch)[-len(real) :]).to(study.device).flip(0)
    for index, pair in enumerate(pairs[: study.settings.timed]):
        with torch.random.fork_rng(), using_threads(study.settings.threads):
            torch.manual_seed(study.seed + index)
            critic = networks(pair, METHODS["gp"], 128, images.shape, study.padding)[0].to(study.device)
            norm = "layer norm" if pair.critic_norm else "no norm"
            sizes = f"{pair.critic_depth} layers, dim {pair.critic_dim}"
            kernels(study, f"{index}: {pair.critic_activation}, {sizes}, {norm}", critic, real, fake)


def _choices(study: Study) -> None:
    settings = study.settings
    study.choice(
        "Depth: the DCGAN of 32 x 32 has four layers; deeper networks have 3 x 3 convolutions of stride 1 at "
        "the 8 x 8 stage besides. The paper does not say where its layers are."
        + ("" if settings.size == 32 else " Of 16 x 16 images the stated depth has one layer fewer.")
    )
    study.choice(
        f"Batch ({settings.batch}) and number of scored samples ({settings.samples}) are not given; 64 is "
        "the batch of the other experiments."
    )
    study.choice(
        "Weight decay 1e-3 on critics with norms is Adam's own, an L2 term in the gradient of all of the "
        "critic's parameters; the paper does not give its form."
    )
    study.choice(
        "Thresholds: as many as in the paper, evenly from 1 to the score of real images by the same "
        "classifier, since the paper's are of Inception on ImageNet. A run that diverged passes none."
    )
    study.choice(
        "The paper counts 100 wins of the two-sided penalty and 77 of the one-sided one among 174 "
        "architectures, and these are 177. Its p-value above is of the 177."
    )
    study.choice(
        "All methods have as many generator iterations, as in the paper; WGAN-GP has "
        f"{settings.n_critic} critic steps in each and the GAN one, so it also takes more time."
    )
    if study.scale != "paper":
        study.choice(
            f"Base filters are divided by {settings.shrink}; learning rates are ten times the paper's 1e-4 "
            "and 2e-4; fewer architectures and iterations. Of 5e-4, 1e-3 and 2e-3 the last gave the GANs of "
            "the cpu scale the best mean score."
        )
