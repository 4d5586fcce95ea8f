"""What distances between distributions tell a generator: parallel lines, two Gaussians, the losses.

WGAN paper, example 1 and figures 1 and 2; for the losses and the penalty, paper section 2 and appendix C.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training.data import stream
from wgangp_fast.training.metrics.divergences import (
    Distances,
    atoms,
    js_divergence,
    kl_divergence,
    line_points,
    parallel_lines,
    total_variation,
)
from wgangp_fast.training.metrics.transport import exact_wasserstein
from wgangp_fast.training.models import MLP
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, GREEN, GREY, ORANGE, RED, figure
from .rules import rules
from .speed import kernels
from .study import Study
from .training import trained

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"thetas": 9, "points": 24, "critic_steps": 120, "width": 32, "batch": 128, "samples": 500,
              "lr": {"gan": 2e-3, "wgan": 1e-3, "wgan-gp": 2e-3}},
    "cpu": {"thetas": 41, "points": 200, "critic_steps": 2000, "width": 64, "batch": 256, "samples": 4000,
            "lr": {"gan": 1e-3, "wgan": 5e-4, "wgan-gp": 1e-3}},
    "paper": {"thetas": 81, "points": 500, "critic_steps": 10_000, "width": 512, "batch": 256,
              "samples": 4000, "lr": {"gan": 2e-4, "wgan": 5e-5, "wgan-gp": 1e-4}},
}  # fmt: skip

NAMES = {
    "earth_mover": "earth mover's distance",
    "js": "Jensen-Shannon divergence",
    "kl": "Kullback-Leibler divergence",
    "total_variation": "total variation",
}
METHODS = {"gan": "GAN discriminator", "wgan": "critic, clipped", "wgan-gp": "critic, gradient penalty"}
COLOURS = {"gan": RED, "wgan": ORANGE, "wgan-gp": BLUE}
EXACT = 1e-9  # largest difference from a closed form
REAL, FAKE = -2.5, 2.5  # means of two Gaussians of deviation 1
LAMBDA = 10.0
SHOWN = 6.0  # half the width of the figure


def run(study: Study) -> None:
    """The experiment ``distances``; three trainings of a critic on the line, the rest is arithmetic."""
    _lines(study)
    _gaussians(study)
    rules(study)


def measured_lines(theta: float, count: int) -> Distances:
    """The four distances of ``count`` samples of either line, by the general functions of samples."""
    real, fake = line_points(0.0, count), line_points(theta, count)
    _, p, q = atoms(real, fake)
    return Distances(
        total_variation(p, q), kl_divergence(p, q), js_divergence(p, q), exact_wasserstein(real, fake)
    )


def _lines(study: Study) -> None:
    count = study.settings.points
    half = study.settings.thetas // 2
    thetas = [step / half for step in range(-half, half + 1)]  # 0 is among them exactly
    values = study.part("parallel lines", lambda: [measured_lines(theta, count) for theta in thetas])
    found = [Distances(*map(float, row)) for row in values]  # infinity is a word in JSON
    wanted = [parallel_lines(theta) for theta in thetas]
    made, axes = figure(1, 4, size=(14.0, 3.3))
    errors = {}
    for place, (name, title) in zip(axes[0], NAMES.items(), strict=True):
        ours = [getattr(row, name) for row in found]
        exact = [getattr(row, name) for row in wanted]
        errors[name] = max(0.0 if a == b else abs(a - b) for a, b in zip(ours, exact, strict=True))
        finite = [value if math.isfinite(value) else math.nan for value in ours]
        place.plot(thetas, finite, ".", color=BLUE, label="of samples")
        top = [theta for theta, value in zip(thetas, ours, strict=True) if math.isinf(value)]
        if top:
            place.plot(top, [1.03] * len(top), "^", color=RED, markersize=4, label="infinite")
        for sign in (-1, 1):  # apart, as most jump at 0
            ends = [sign * 1e-9, sign * 1.0]
            values = [getattr(parallel_lines(theta), name) for theta in ends]
            if math.isfinite(values[1]):
                label = "closed form" if sign > 0 else None
                place.plot(ends, values, color=ORANGE, linewidth=1, label=label)
        place.set(title=title, xlabel="theta", ylim=(-0.05, 1.1))
        place.legend(
            loc="upper center" if name == "earth_mover" else "center right", frameon=False, fontsize=8
        )
        place.grid(alpha=0.3)
    study.heading("Parallel lines")
    study.text(
        "P_0 is uniform on the line from (0, 0) to (0, 1), P_theta on the same line moved by theta. "
        f"{count} samples of either are compared as distributions on the plane; only the earth mover's "
        "distance has a slope that says where to move."
    )
    study.picture("parallel-lines.png", "Four distances between the lines, against theta.", made)
    chosen = range(0, len(thetas), max(1, len(thetas) // 8))
    middle = len(thetas) // 2
    study.table(
        "Of samples",
        ["theta", *NAMES.values()],
        [[thetas[i], *(getattr(found[i], name) for name in NAMES)] for i in sorted({*chosen, middle})],
    )
    study.number("parallel lines, largest error", errors)
    study.claim(
        "W = |theta|; JS = log 2, KL = infinite, TV = 1 for theta other than 0, and all are 0 at theta = 0",
        "WGAN example 1",
        f"largest difference of {len(thetas)} values of theta from the closed form: "
        + ", ".join(f"{NAMES[name]} {value:.1e}" for name, value in errors.items()),
        all(value <= EXACT for value in errors.values()) and 0.0 in thetas,
    )
    study.choice(
        "The WGAN paper prints JS without the factor 1/2 of either part; its value log 2 needs the factor, "
        "which we take."
    )


class Gaussian:
    """Samples of a normal distribution on the line, ``[n, 1]``, drawn anew."""

    size: int | None = None
    shuffled = False

    def __init__(self, mean: float) -> None:
        self.name, self.mean = f"normal distribution around {mean}", mean
        self.shape: tuple[int, ...] = (1,)

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self.mean + torch.randn(len(rows), 1, generator=generator)


class FixedFake(Trainer):
    """Trains the critic alone: what is generated stays as it is."""

    def generator_step(self) -> None:
        """Nothing."""


def _networks(width: int) -> tuple[nn.Module, nn.Module]:
    """A critic of numbers, and a generator that moves a normal latent to ``FAKE``."""
    generator = nn.Linear(1, 1)
    nn.init.ones_(generator.weight)
    nn.init.constant_(generator.bias, FAKE)
    return MLP(1, 1, dim=width, depth=3), generator


def optimal_discriminator(x: Tensor) -> Tensor:
    """``p_r / (p_r + p_g)`` of the two Gaussians, ``[N]`` for ``x [N, 1]``."""
    return (((x - FAKE).square() - (x - REAL).square()) / 2).sigmoid().flatten()


def slope(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivative ``[N]`` of ``function: [N, 1] -> [N]`` at ``x [N, 1]``."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function(x).sum(), x)
    return gradient[:, 0]


def describe(function: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> dict[str, float]:
    """How a function of numbers behaves where samples are.

    Args:
        function: ``[N, 1] -> [N]``. real, fake: ``[N, 1]``.

    Returns:
        of the function's slope: median over fake, largest and least size between the 1st and 99th percentile
        of all samples; linear: share of variance there that a straight line explains; gap: mean of real minus
        mean of fake; descent: mean slope over fake, negative where it leads to the real samples.
    """
    low, high = torch.cat([real, fake]).quantile(torch.tensor([0.01, 0.99], device=real.device)).tolist()
    line = torch.linspace(low, high, 401, device=real.device)[:, None]

    at_fake, slopes = slope(function, fake), slope(function, line).abs()
    with torch.no_grad():
        y, gap = function(line).double(), (function(real).mean() - function(fake).mean()).item()
    x = line[:, 0].double()
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    explained = covariance.square() / (x.var(correction=0) * y.var(correction=0))
    return {
        "median": at_fake.abs().median().item(),
        "steepest": slopes.max().item(),
        "flattest": slopes.min().item(),
        "linear": explained.item(),
        "gap": gap,
        "descent": at_fake.mean().item(),
    }


def _gaussians(study: Study) -> None:
    settings = study.settings
    samples = [Gaussian(mean) for mean in (REAL, FAKE)]
    real, fake = (
        part.take(torch.arange(settings.samples), stream(study.seed, part.name)).to(study.device)
        for part in samples
    )
    line = torch.linspace(-SHOWN, SHOWN, 481, device=study.device)[:, None]
    found: dict[str, dict[str, float]] = {}
    values: dict[str, Tensor] = {}
    slopes: dict[str, Tensor] = {}
    critic = None
    for method, label in METHODS.items():
        config = study.config(
            "toy", loss=method, iters=settings.critic_steps, n_critic=1, batch=settings.batch, threads=1,
            lr=settings.lr[method], lambda_gp=LAMBDA, latent=1, ema_kimg=0.0, data="toy-8gaussians",
        )  # fmt: skip
        critic = trained(
            study, f"two Gaussians {method}", config, samples=samples[0], kind=FixedFake,
            networks=lambda: _networks(settings.width),
        ).trainer.critic  # fmt: skip
        function = _probability(critic) if method == "gan" else critic
        found[method] = describe(function, real, fake)
        study.number(label, found[method])
        values[method] = function(line).detach().cpu()
        slopes[method] = slope(function, line).abs().cpu()
    optimal = describe(optimal_discriminator, real, fake)
    study.number("optimal discriminator", optimal)
    study.heading("Discriminator and critic of two Gaussians")
    study.picture(
        "two-gaussians.png",
        "Real N(-2.5, 1), generated N(2.5, 1). Left: the discriminator. Middle: the critics; the clipped one "
        "times a factor. Right: size of the slope, by which a generator learns.",
        _pictured(line.cpu(), values, slopes, found),
    )
    study.table(
        "Slopes",
        ["function", "median size at generated points", "steepest", "flattest",
         "share a straight line explains", "mean real - mean fake"],
        [
            [label, *(row[key] for key in ("median", "steepest", "flattest", "linear", "gap"))]
            for label, row in [("optimal discriminator (closed form)", optimal),
                               *((METHODS[m], found[m]) for m in METHODS)]
        ],
    )  # fmt: skip
    study.text(
        "Steepest, flattest and straightness are of the interval that holds the middle 98 % of all samples. "
        f"The exact earth mover's distance is {FAKE - REAL:g}."
    )
    _gaussian_claims(study, found, optimal)
    assert critic is not None
    kernels(study, f"perceptron of numbers, width {settings.width}", critic, real[: settings.batch],
            fake[: settings.batch])  # fmt: skip


def _probability(critic: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: critic(x).sigmoid()


def _gaussian_claims(study: Study, found: dict[str, dict[str, float]], optimal: dict[str, float]) -> None:
    short = "" if study.scale != "smoke" else f" (after {study.settings.critic_steps} steps: too few to tell)"
    ratio = {method: row["median"] / row["steepest"] for method, row in found.items()}
    best = optimal["median"] / optimal["steepest"]
    penalised = found["wgan-gp"]

    def judged(held: bool) -> bool | None:
        return None if short else held

    study.claim(
        "The discriminator saturates: its slope vanishes where the generated points are (median at most 0.01 "
        "of the steepest)",
        "WGAN figure 2",
        f"trained {ratio['gan']:.1e}, optimal {best:.1e} of the steepest{short}",
        judged(max(ratio["gan"], best) <= 0.01),
    )
    for name, method in (("clipped", "wgan"), ("penalised", "wgan-gp")):
        study.claim(
            f"The {name} critic does not saturate there (median at least 0.1 of the steepest) and is nearly "
            "linear (a line explains at least 0.95 of its variance)",
            "WGAN figure 2",
            f"{ratio[method]:.2f} of the steepest, line {found[method]['linear']:.4f}{short}",
            judged(ratio[method] >= 0.1 and found[method]["linear"] >= 0.95),
        )
    distance = FAKE - REAL
    share = -penalised["gap"] / penalised["descent"] / distance
    study.claim(
        "The penalised critic's mean real - mean fake is its slope times the earth mover's distance (within "
        "5 %)",
        "WGAN sections 3 and 5, Kantorovich-Rubinstein",
        f"{penalised['gap']:.3f} at slope {-penalised['descent']:.3f}: {share:.3f} of the distance "
        f"{distance:g}{short}",
        judged(abs(share - 1) <= 0.05),
    )
    predicted = 1 + distance / (2 * LAMBDA)
    study.claim(
        "Its slope is 1 but for the finite lambda, with which the best slope s of s W - lambda (s - 1)^2 is "
        "1 + W / (2 lambda) (within 5 %); so the generator's gradient is that of W, up to this factor",
        "P corollary 1; WGAN theorem 3",
        f"{-penalised['descent']:.3f} for {predicted:g}{short}",
        judged(abs(-penalised["descent"] / predicted - 1) <= 0.05),
    )
    study.choice(
        "Neither paper gives the Gaussians, networks or settings of figure 2: means -2.5 and 2.5, deviation "
        "1, and perceptrons with three hidden layers are ours. The slope of a clipped critic is whatever its "
        "bound and depth make it, so only its shape is judged. The thresholds of that shape, and that the "
        "penalised slope is compared with 1 + W / (2 lambda) instead of 1, were set after a first run."
    )


def _pictured(
    x: Tensor, values: dict[str, Tensor], slopes: dict[str, Tensor], found: dict[str, dict[str, float]]
) -> Any:
    optimal, x = optimal_discriminator(x), x[:, 0]
    made, axes = figure(1, 3, size=(14.0, 4.0))
    left, middle, right = axes[0]
    for mean, colour, label in ((REAL, GREY, "real density"), (FAKE, GREEN, "generated density")):
        density = (-(x - mean).square() / 2).exp() / math.sqrt(2 * math.pi)
        left.fill_between(x, density, color=colour, alpha=0.25, label=label, linewidth=0)
    left.plot(x, values["gan"], color=RED, label="discriminator, trained")
    left.plot(x, optimal, "--", color=GREY, linewidth=1, label="discriminator, optimal")
    left.set(title="Discriminator", xlabel="x", ylim=(-0.02, 1.4))
    left.legend(loc="upper right", frameon=False, fontsize=8)
    factor = found["wgan-gp"]["gap"] / found["wgan"]["gap"] if found["wgan"]["gap"] else 1.0
    centred = {method: values[method] - values[method].mean() for method in ("wgan", "wgan-gp")}
    middle.plot(x, centred["wgan-gp"], color=BLUE, label="gradient penalty")
    middle.plot(x, factor * centred["wgan"], color=ORANGE, label=f"clipped, times {factor:.3g}")
    middle.set(title="Critics, around their mean", xlabel="x")
    middle.legend(loc="upper right", frameon=False, fontsize=8)
    for method, label in METHODS.items():
        right.semilogy(x, slopes[method].clamp(min=1e-12), color=COLOURS[method], label=label)
    right.set(title="Size of the slope", xlabel="x", ylim=(1e-9, 1e2))
    right.legend(loc="upper right", frameon=False, fontsize=8)
    for place in axes[0]:
        place.grid(alpha=0.3)
    return made
