"""Curves of the clipped WGAN's estimate, which follow the samples, and of a GAN's, which do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training import Config, models
from wgangp_fast.training.data import Stored, stream
from wgangp_fast.training.metrics.curves import median_filter
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, GREY, ORANGE, figure, image_sheet
from .images import about, image_set
from .mnist_wgan import quality
from .study import Study
from .training import Row, Trained, trained

LOG2 = math.log(2)
SHEET = 16  # samples at each of the three points of a curve
POINTS = (0.05, 0.3, 1.0)  # where these are, as shares of the run

# Generator, critic, and what the page calls the pair.
PAIRS = {
    "dcgan": ("dcgan64-generator", "dcgan64-critic", "DCGAN"),
    "crippled": ("crippled64-generator", "dcgan64-critic", "no batch norm, constant filters"),
    "mlp": ("fc64-generator", "dcgan64-critic", "MLP"),
    "failure": ("fc64-generator", "fc64-critic", "MLP, MLP critic, high rate"),
}
GANS = ("dcgan", "crippled", "mlp")

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"size": 16, "dim": 4, "mlp_dim": 16, "sigma": None, "iters": 12, "gan_iters": 12, "every": 1,
              "window": 3, "judge_every": 3, "batch": 32, "n_critic": 2, "clip": 0.05, "lr": 5e-4,
              "failure_lr": 5e-2, "gan_lr": 1e-3, "latent": 32, "judged": 64, "threads": 1},
    "cpu": {"size": 16, "dim": 8, "mlp_dim": 128, "sigma": None, "iters": 800, "gan_iters": 400, "every": 1,
            "window": 21, "judge_every": 25, "batch": 64, "n_critic": 5, "clip": 0.02, "lr": 5e-4,
            "failure_lr": 5e-2, "gan_lr": 5e-4, "latent": 64, "judged": 512, "threads": 1},
    "paper": {"size": 64, "dim": 64, "mlp_dim": 512, "sigma": 0.02, "iters": 600_000, "gan_iters": 600_000,
              "every": 25, "window": 101, "judge_every": 10_000, "batch": 64, "n_critic": 5, "clip": 0.01,
              "lr": 5e-5, "failure_lr": 5e-3, "gan_lr": 5e-5, "latent": 128, "judged": 5000, "threads": 0},
}  # fmt: skip


def run(study: Study) -> None:
    """The WGAN paper's curves: three generators and a failure; beside them the estimates of GANs."""
    settings = study.settings
    images = image_set(study, settings.size, "LSUN bedrooms at 64 x 64")
    wgans = {name: _train(study, "wgan", name, images) for name in PAIRS}
    gans = {name: _train(study, "gan", name, images) for name in GANS}
    study.text(
        f"{about(study, images)} The Frechet distance is of random convolutions, {settings.judged} images. "
        f"Curves: a value for each {settings.every} iterations, and their running median of "
        f"{settings.window} (as the WGAN authors' 101)."
    )
    estimates = {name: series(found.rows, lambda row: row["wasserstein"]) for name, found in wgans.items()}
    bounds = {name: series(found.rows, jensen_shannon) for name, found in gans.items()}
    study.heading("WGAN")
    study.picture(
        "wasserstein.png",
        "Above: minus the critic's loss, raw and filtered. Below: Frechet distance of samples.",
        _picture(study, wgans, estimates, "minus critic loss", None),
    )
    _sheets(study, "wgan", wgans, images)
    study.heading("GAN")
    study.picture(
        "jensen-shannon.png",
        "Above: log 2 minus the halved discriminator loss, a lower bound of the Jensen-Shannon divergence "
        "for a discriminator at its best; dotted: log 2. Below: Frechet distance of samples.",
        _picture(study, gans, bounds, "estimate of JS", LOG2),
    )
    _sheets(study, "gan", gans, images)
    numbers = {
        **{f"WGAN {name}": _summary(study, wgans[name], estimates[name]) for name in wgans},
        **{f"GAN {name}": _summary(study, gans[name], bounds[name]) for name in gans},
    }
    columns = ["first", "peak", "last", "start_frechet", "best_frechet", "last_frechet", "correlation"]
    study.table(
        "Filtered estimates (first and last quarter of a run: means), and Frechet distances",
        ["run", "estimate, first quarter", "peak", "last quarter", "Frechet, untrained", "best", "end",
         "rank correlation of both"],
        [[title, *(found[column] for column in columns)] for title, found in numbers.items()],
    )  # fmt: skip
    study.number("runs", numbers)
    _wasserstein_claims(study, numbers)
    _jensen_shannon_claims(study, numbers)
    _choices(study)


def networks(study: Study, name: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """Critic and generator of a pair; the critic of the DCGAN has batch norm."""
    settings = study.settings
    generator, critic, _ = PAIRS[name]
    made = []
    for network in (critic, generator):
        options: dict[str, Any] = {
            "size": settings.size, "channels": channels, "dim": settings.dim, "padding": study.padding,
        }  # fmt: skip
        if network.startswith("fc64"):
            options["dim"] = settings.mlp_dim
        elif network.startswith("dcgan64"):
            options |= {"sigma": settings.sigma, "norm": "batch"}
        if network is generator:
            options["latent"] = settings.latent
        made.append(models.build(network, **options))
    return made[0], made[1]


def config_of(study: Study, method: str, name: str) -> Config:
    """Settings of a pair's run by ``"wgan"`` or ``"gan"``."""
    settings = study.settings
    generator, critic, _ = PAIRS[name]
    rate = settings.gan_lr if method == "gan" else settings.failure_lr if name == "failure" else settings.lr
    normed = {"critic_norm": "batch" if critic.startswith("dcgan") else "none",
              "generator_norm": "batch" if name == "dcgan" else "none"}  # fmt: skip
    return study.config(
        "lsun64-dcgan", loss=method, iters=settings.iters if method == "wgan" else settings.gan_iters,
        critic=critic, generator=generator, critic_dim=settings.dim, generator_dim=settings.dim, **normed,
        size=settings.size, batch=settings.batch, n_critic=settings.n_critic, clip=settings.clip, lr=rate,
        latent=settings.latent, ema_kimg=0.0, threads=settings.threads, data=study.data or "digits",
    )  # fmt: skip


def _train(study: Study, method: str, name: str, images: Stored) -> Trained:
    config = config_of(study, method, name)
    return trained(
        study, f"{method} {name}", config, samples=images, every=study.settings.every,
        networks=partial(networks, study, name, images.shape[0]), watch=_watch(study, config, images),
    )  # fmt: skip


def _watch(study: Study, config: Config, images: Stored) -> Callable[[Trainer], Row]:
    """Frechet distances, and samples at three points, as pixels 0..255."""
    settings = study.settings
    judge = quality(images, settings.judged, config.latent, study.seed, settings.judge_every)
    shown = {max(1, round(share * config.iters / settings.every)) * settings.every for share in POINTS}
    z = torch.randn(SHEET, config.latent, generator=stream(study.seed, "sheet"))

    def watch(trainer: Trainer) -> Row:
        found: Row = judge(trainer)
        if trainer.iteration in shown:
            found["samples"] = to_pixels(trainer.sample(z)).flatten().tolist()
        return found

    return watch


def series(rows: Sequence[Row], value: Callable[[Row], float]) -> tuple[list[int], list[float]]:
    """Iterations and values of the rows that have losses which are finite."""
    kept = [row for row in rows if math.isfinite(row.get("critic_loss", math.nan))]
    return [row["iteration"] for row in kept], [value(row) for row in kept]


def jensen_shannon(row: Row) -> float:
    """The estimate of a GAN's row: ``L / 2 + log 2`` with ``L = E log D(x) + E log(1 - D(g(z)))`` (WGAN
    paper, section 4.2), where the row's discriminator loss is ``-L / 2``."""
    return LOG2 - float(row["critic_loss"])


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's: Pearson's of the ranks, equal values sharing their mean rank; NaN where one is constant.

    Raises:
        ValueError: lists of different lengths, or shorter than 2.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"need two lists of one length, at least 2; got {len(x)} and {len(y)}")
    a, b = (_ranks(torch.tensor(v, dtype=torch.float64)) for v in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt())


def _ranks(values: Tensor) -> Tensor:
    below = (values[None] < values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    return below + (equal - 1) / 2


def _summary(study: Study, found: Trained, line: tuple[list[int], list[float]]) -> dict[str, Any]:
    """The filtered curve's first and last quarter and peak, Frechet distances, and how both correlate."""
    names = (
        "first",
        "middle",
        "peak",
        "last",
        "start_frechet",
        "best_frechet",
        "last_frechet",
        "correlation",
    )
    distances = {row["iteration"]: row["frechet"] for row in found.rows if "frechet" in row}
    iterations, values = line
    if len(values) < 4 or len(distances) < 3:
        return {**dict.fromkeys(names), "diverged": found.diverged}
    smooth = median_filter(values, study.settings.window)
    at = dict(zip(iterations, smooth.tolist(), strict=True))
    both = [i for i in distances if i in at]
    quarter, half = len(smooth) // 4, len(smooth) // 2
    return {
        "first": float(smooth[:quarter].mean()),
        "middle": float(smooth[quarter:half].mean()),
        "peak": float(smooth.max()),
        "last": float(smooth[-quarter:].mean()),
        "start_frechet": distances[min(distances)],
        "best_frechet": min(distances.values()),
        "last_frechet": distances[max(distances)],
        "correlation": rank_correlation([at[i] for i in both], [distances[i] for i in both]),
        "diverged": found.diverged,
    }


def _known(study: Study, found: list[dict[str, Any]]) -> tuple[bool, str]:
    """Whether runs can be judged, and if not, why."""
    if study.scale == "smoke":
        return False, "; too few iterations to tell"
    if any(numbers["last"] is None for numbers in found):
        return False, "; a run has too few finite values"
    return True, ""


def _wasserstein_claims(study: Study, numbers: dict[str, dict[str, Any]]) -> None:
    learning = {name: numbers[f"WGAN {name}"] for name in GANS}
    known, why = _known(study, list(learning.values()))
    study.claim(
        "The estimate falls while the samples get better: rank correlation of estimate and Frechet distance "
        "above 0.5 for each generator",
        "WGAN 4.2, figure 3",
        ", ".join(f"{PAIRS[name][2]} {_short(n['correlation'])}" for name, n in learning.items()) + why,
        all(n["correlation"] > 0.5 for n in learning.values()) if known else None,
    )
    study.claim(
        "The estimate decreases with each generator (last quarter below half of the peak)",
        "WGAN 4.2, figure 3",
        ", ".join(f"{PAIRS[k][2]} {_short(n['peak'])} to {_short(n['last'])}" for k, n in learning.items())
        + why,
        all(n["last"] < n["peak"] / 2 for n in learning.values()) if known else None,
    )
    known, why = _known(study, [learning["dcgan"], learning["mlp"]])
    ends = [learning[name]["last_frechet"] for name in ("dcgan", "mlp")]
    lasts = [learning[name]["last"] for name in ("dcgan", "mlp")]
    study.claim(
        "The DCGAN generator ends with a lower estimate than the MLP, and with better samples",
        "WGAN 4.2, figure 3",
        f"estimates {_short(lasts[0])} and {_short(lasts[1])}, Frechet {_short(ends[0])} and "
        f"{_short(ends[1])}{why}",
        (lasts[0] < lasts[1] and ends[0] < ends[1]) if known else None,
    )
    failure = numbers["WGAN failure"]
    known, why = _known(study, [failure])
    study.claim(
        "With an MLP as critic too and too high a rate nothing is learned, and the curve shows it: the "
        "estimate does not fall (last quarter at least 0.8 of the first), nor does the Frechet distance (end "
        "at least half of the start)",
        "WGAN 4.2, figure 3 (right)",
        f"estimate {_short(failure['first'])} to {_short(failure['last'])}, Frechet "
        f"{_short(failure['start_frechet'])} to {_short(failure['last_frechet'])}{why}",
        (
            failure["last"] >= 0.8 * failure["first"]
            and failure["last_frechet"] >= 0.5 * failure["start_frechet"]
        )
        if known
        else None,
    )


def _jensen_shannon_claims(study: Study, numbers: dict[str, dict[str, Any]]) -> None:
    gans = {name: numbers[f"GAN {name}"] for name in GANS}
    known, why = _known(study, list(gans.values()))
    study.claim(
        "A GAN's estimate of the Jensen-Shannon divergence saturates near log 2, about 0.69 (last quarter at "
        "least 0.8 of it)",
        "WGAN 4.2, figure 4",
        ", ".join(f"{PAIRS[name][2]} {_short(n['last'])}" for name, n in gans.items()) + why,
        all(n["last"] >= 0.8 * LOG2 for n in gans.values()) if known else None,
    )
    study.claim(
        "It does not fall while training goes on (last quarter at least 0.9 of the second)",
        "WGAN 4.2, figure 4",
        ", ".join(
            f"{PAIRS[k][2]} {_short(n['middle'])} to {_short(n['last'])}, rank correlation with the Frechet "
            f"distance {_short(n['correlation'])}"
            for k, n in gans.items()
        )
        + why,
        all(n["last"] >= 0.9 * n["middle"] for n in gans.values()) if known else None,
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _picture(
    study: Study,
    found: dict[str, Trained],
    lines: dict[str, tuple[list[int], list[float]]],
    label: str,
    level: float | None,
) -> Any:
    made, axes = figure(2, len(found), size=(3.6 * len(found), 5.8), sharex="col")
    for column, (name, training) in enumerate(found.items()):
        above, below = axes[:, column]
        iterations, values = lines[name]
        above.plot(iterations, values, color=BLUE, alpha=0.25, linewidth=0.8)
        if values:
            above.plot(iterations, median_filter(values, study.settings.window), color=BLUE, linewidth=1.6)
        if level is not None:
            above.axhline(level, color=GREY, linestyle=":", linewidth=1.2)
            above.set_ylim(0, 0.8)
        judged = [(row["iteration"], row["frechet"]) for row in training.rows if "frechet" in row]
        if judged:
            below.plot(*zip(*judged, strict=True), ".-", color=ORANGE)
        below.set_ylim(0, None)
        above.set_title(PAIRS[name][2], fontsize=10)
        below.set_xlabel("generator iteration")
        for place in (above, below):
            place.grid(alpha=0.3)
    axes[0, 0].set_ylabel(label)
    axes[1, 0].set_ylabel("Frechet distance")
    return made


def _sheets(study: Study, method: str, found: dict[str, Trained], images: Stored) -> None:
    for name, training in found.items():
        taken = [row for row in training.rows if "samples" in row]
        if not taken:
            continue
        pixels = torch.tensor([row["samples"] for row in taken], dtype=torch.uint8)
        at = ", ".join(str(row["iteration"]) for row in taken)
        study.picture(
            f"samples-{method}-{name}.png",
            f"{PAIRS[name][2]}: samples after {at} iterations, a row each.",
            image_sheet(pixels.view(-1, *images.shape), SHEET),
        )


def _choices(study: Study) -> None:
    settings = study.settings
    study.choice(
        "The MLP has four hidden layers and tanh, as the later paper's code; the WGAN authors' code has "
        "three and no tanh. Filters are constant in the second generator, as the WGAN paper says; that code "
        "keeps the pyramid."
    )
    study.choice(
        "The rate of the failing pair is not given. Here it is "
        f"{settings.failure_lr / settings.lr:.0f} times that of the others."
    )
    study.choice(
        "Optimiser and number of discriminator steps of the GANs are not given. They have as many steps as "
        "the WGANs, since the estimate supposes a discriminator near its best, and Adam with beta1 0.5."
    )
    if study.scale != "paper":
        study.choice(
            "Narrower networks and larger rates and bound than the paper's 64 filters, 5e-5 and 0.01, and "
            "He-type initial weights: with a deviation of 0.02 so few filters pass on next to nothing."
        )
