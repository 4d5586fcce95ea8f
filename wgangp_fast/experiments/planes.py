"""Critics of points in the plane: value surfaces, and what an optimal critic's gradient is.

The fixed generator of the paper's figure 1a gives the real batch itself plus unit noise (gan_toy.py,
FIXED_GENERATOR), so that a pair of a penalty point is close together.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.penalty import gradient_norm, input_gradient
from wgangp_fast.training import data
from wgangp_fast.training.data import stream, to_unit
from wgangp_fast.training.metrics.transport import exact_wasserstein, optimal_coupling
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, GREY, ORANGE, figure
from .speed import kernels
from .study import Study
from .training import Trained, trained

SETS = {"toy-8gaussians": "8 Gaussians", "toy-25gaussians": "25 Gaussians", "toy-swissroll": "Swiss roll"}
METHODS = {"wgan": "weight clipping", "wgan-gp": "gradient penalty"}
EXTENT = 3.0  # of the surfaces (gan_toy.py)
SIDE = 128
RING = 0.2  # how far around a real point the surface is compared with it

VALUE_SURFACES_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"critic_steps": 60, "width": 32, "batch": 128, "points": 300, "gp_lr": 2e-3, "clip_lr": 1e-3},
    "cpu": {"critic_steps": 3000, "width": 128, "batch": 256, "points": 2000, "gp_lr": 1e-3, "clip_lr": 5e-4},
    "paper": {
        "critic_steps": 10_000, "width": 512, "batch": 256, "points": 2000, "gp_lr": 1e-4, "clip_lr": 5e-5,
    },
}  # fmt: skip
OPTIMAL_CRITIC_SCALES = VALUE_SURFACES_SCALES


class FixedGenerator(Trainer):
    """Trains the critic alone, against the real batch plus unit noise."""

    def generator_step(self) -> None:
        """Nothing: what is generated does not change."""

    def critic_batch(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        real = self.loader(k)
        noise = torch.randn(real.shape, generator=stream(self.config.seed, "unit noise", k)).to(self.device)
        self.last = real, real + noise, self._alpha("critic", k, self.config.batch)
        return self.last


def _surface_critic(study: Study, name: str, method: str) -> Trained:
    """A critic trained to optimality on a set by a method."""
    settings = study.settings
    rate = settings.gp_lr if method == "wgan-gp" else settings.clip_lr
    config = study.config(
        name, loss=method, iters=settings.critic_steps, n_critic=1, batch=settings.batch, lr=rate,
        critic_dim=settings.width, lambda_gp=10.0, ema_kimg=0.0, threads=1, data=name,
    )  # fmt: skip
    return trained(study, f"{name} {method}", config, kind=FixedGenerator)


def _pairs(study: Study, name: str) -> tuple[Tensor, Tensor]:
    """Real points ``[N, 2]`` and generated ones, drawn apart from each other and from the training."""
    count = study.settings.points
    real, other = (real_points(study, name, count, part) for part in ("real", "fake"))
    return real, other + torch.randn(other.shape, generator=stream(study.seed, "noise", name))


def real_points(study: Study, name: str, count: int, part: str) -> Tensor:
    source = data.load(name, study.seed)
    random = stream(study.seed, "points", name, part)
    rows = torch.randperm(source.size, generator=random)[:count] if source.size else torch.arange(count)
    return to_unit(source.take(rows, random))


def _grid() -> tuple[Tensor, Tensor]:
    """An axis ``[SIDE]``, and the grid ``[SIDE**2, 2]`` whose first coordinate changes slowest."""
    line = torch.linspace(-EXTENT, EXTENT, SIDE)
    return line, torch.cartesian_prod(line, line)


def _describe(critic: nn.Module, real: Tensor, fake: Tensor, device: torch.device) -> dict[str, float]:
    """How good a critic ``[N, 2] -> [N]`` is on points ``[N, 2]``.

    Returns:
        gap: mean score of real minus fake. steepest: largest gradient norm on the grid and at the points,
        so gap / steepest is a lower bound of their distance. peak: how much higher the surface is at a real
        point than around it, from 0 (linear) to 1 (cones as steep as the critic ever is). real_norm,
        fake_norm: mean gradient norms.
    """
    real, fake = real.to(device), fake.to(device)
    _, grid = _grid()
    grid = grid.to(device)
    with torch.no_grad():
        gap = (critic(real).mean() - critic(fake).mean()).item()
    norms = [gradient_norm(critic, x) for x in (real, fake, grid)]
    steepest = max(float(n.max()) for n in norms)
    angle = torch.arange(12) * (math.pi / 6)
    ring = RING * torch.stack([angle.cos(), angle.sin()], dim=1).to(device)  # [12, 2]
    with torch.no_grad():
        around = critic((real[:, None] + ring).flatten(0, 1))
        drop = critic(real).mean() - around.mean()
    return {
        "gap": gap,
        "steepest": steepest,
        "peak": drop.item() / RING / steepest,
        "real_norm": float(norms[0].mean()),
        "fake_norm": float(norms[1].mean()),
    }


def value_surfaces(study: Study) -> None:
    """Figure 1a: contours of clipped and penalised critics, and what share of the distance each finds."""
    line, grid = _grid()
    made, axes = figure(2, 3, size=(12.5, 8.2))
    rows, found = [], {}
    for column, (name, title) in enumerate(SETS.items()):
        real, fake = _pairs(study, name)
        distance = study.part(f"W1 {name}", partial(exact_wasserstein, real, fake))
        for row, (method, label) in enumerate(METHODS.items()):
            critic = _surface_critic(study, name, method).trainer.critic
            numbers = study.part(
                f"numbers {name} {method}",
                partial(_describe, critic, real, fake, study.device),
            )
            share = numbers["gap"] / numbers["steepest"] / distance
            found[name, method] = {**numbers, "W1": distance, "share": share}
            rows.append([
                title, label, distance, numbers["gap"], numbers["steepest"], share, numbers["peak"],
            ])  # fmt: skip
            with torch.no_grad():
                value = critic(grid.to(study.device)).cpu().view(SIDE, SIDE).T
            _surface(axes[row, column], line, value, real, f"{label}: {title}")
    study.heading("Surfaces")
    study.picture(
        "value-surfaces.png",
        "Contours of critics trained to optimality against real points plus unit noise; above with clipped "
        "weights, below with the gradient penalty. Orange: real points.",
        made,
    )
    study.table(
        "Critics on points that they were not trained on",
        ["set", "method", "exact W1", "mean D(real) - D(fake)", "steepest slope", "share of W1 found",
         "peaks at real points"],
        rows,
    )  # fmt: skip
    study.text(
        "A critic's gap over its steepest slope is a lower bound of W1 (Kantorovich-Rubinstein), and the "
        "share says how much of the distance the critic found. W1 is that of the same points by optimal "
        "assignment; of so few it is above that of the distributions. Peaks: how much higher the surface is "
        "at a real point than at a distance of 0.2 from it, over what the steepest slope would give: 0 for a "
        "plane, 1 for a cone at every point."
    )
    for (name, method), numbers in found.items():
        study.number(f"{name} {method}", numbers)
    _surface_claims(study, found)
    toy_kernels(study)
    _choices(study)


def _surface_claims(study: Study, found: dict[tuple[str, str], dict[str, float]]) -> None:
    """The claims on the critics' numbers, which ``found`` has by set and method."""
    study.claim(
        "Clipped critics learn very simple surfaces; penalised ones follow the data and peak at real points",
        "P 3.1, figure 1a",
        "peaks, clipped and penalised: "
        + "; ".join(
            f"{title} {found[name, 'wgan']['peak']:.2f}, {found[name, 'wgan-gp']['peak']:.2f}"
            for name, title in SETS.items()
        ),
        all(found[name, "wgan"]["peak"] < found[name, "wgan-gp"]["peak"] for name in SETS),
    )
    study.claim(
        "A penalised critic captures what a clipped one misses",
        "P 3.1, figure 1a",
        "share of W1 found, clipped and penalised: "
        + "; ".join(
            f"{title} {found[name, 'wgan']['share']:.2f}, {found[name, 'wgan-gp']['share']:.2f}"
            for name, title in SETS.items()
        ),
        all(found[name, "wgan-gp"]["share"] > found[name, "wgan"]["share"] for name in SETS),
    )
    study.claim(
        "The penalised critic's mean gap approaches the exact distance (at least 0.75 of it) and does "
        "not much exceed it (at most 1.1 of it)",
        "P 2.3, WGAN section 3",
        "gap over W1: "
        + ", ".join(
            f"{title} {found[name, 'wgan-gp']['gap'] / found[name, 'wgan-gp']['W1']:.2f}"
            for name, title in SETS.items()
        ),
        all(0.75 <= found[name, "wgan-gp"]["gap"] / found[name, "wgan-gp"]["W1"] <= 1.1 for name in SETS),
    )


def _choices(study: Study) -> None:
    study.choice(
        "lambda is 10, as the paper says for all experiments and as its authors' earlier script had it; the "
        "released gan_toy.py has 0.1, with which the best slope is far above 1 (1 + E|noise| / (2 lambda))."
    )
    if study.scale != "paper":
        study.choice(
            "Narrower critics and larger learning rates than the paper's 512, 1e-4 (Adam) and 5e-5 "
            "(RMSprop), so that fewer steps suffice. RMSprop is PyTorch's."
        )


def _surface(axes: Any, line: Tensor, value: Tensor, real: Tensor, title: str) -> None:
    axes.contour(line, line, value, levels=12, cmap="viridis", linewidths=1.0)
    axes.plot(*real[:400].T, "+", color=ORANGE, markersize=4, alpha=0.6)
    axes.set(title=title, xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal")


def toy_kernels(study: Study, lambda_gp: float = 10.0) -> None:
    """The row of the toy critic, as wide as this scale has it."""
    from wgangp_fast.training import models

    width, batch = study.settings.width, study.settings.batch
    with torch.random.fork_rng():
        torch.manual_seed(study.seed)
        critic = models.build("toy-critic", dim=width).to(study.device)
    real = real_points(study, "toy-8gaussians", batch, "speed").to(study.device)
    fake = real + torch.randn(real.shape, generator=stream(study.seed, "speed")).to(study.device)
    kernels(study, f"toy-critic, width {width}", critic, real, fake, lambda_gp=lambda_gp)


def optimal_critic(study: Study) -> None:
    """Proposition 1 and corollary 1: the gradient along the segments of the optimal coupling."""
    made, axes = figure(2, 3, size=(12.5, 7.0))
    rows, means, directions = [], {}, {}
    for column, (name, title) in enumerate(SETS.items()):
        real, fake = _pairs(study, name)
        coupled = study.tensors(f"coupling {name}", partial(_coupled, real, fake))
        fakes = fake[coupled["order"]]  # [N, 2], each the partner of a real point
        for method, label in METHODS.items():
            critic = _surface_critic(study, name, method).trainer.critic
            measured = study.tensors(
                f"segments {name} {method}",
                partial(_segments, study, critic, real, fakes),
            )
            norms, cosines = measured["norms"], measured["cosines"]
            low, high = norms.quantile(torch.tensor([0.1, 0.9])).tolist()
            rows.append([
                title, label, norms.mean().item(), low, high,
                ((norms - 1).abs() < 0.2).float().mean().item(), cosines.mean().item(),
            ])  # fmt: skip
            means[name, method] = norms.mean().item()
            directions[name, method] = cosines.mean().item()
            if method == "wgan-gp":
                axes[0, column].hist(norms.numpy(), bins=40, range=(0, 2), color=BLUE)
                axes[0, column].axvline(1.0, color=GREY, linewidth=1)
                axes[0, column].set(title=title, xlabel="gradient norm on the segments", ylabel="points")
            axes[1, column].hist(
                cosines.numpy(), bins=40, range=(-1, 1), histtype="step", linewidth=1.5, label=label,
                color=BLUE if method == "wgan-gp" else ORANGE,
            )  # fmt: skip
        axes[1, column].set(xlabel="cosine to the direction from fake to real", ylabel="points")
        axes[1, column].legend(loc="upper left", frameon=False)
    study.heading("On the segments of the optimal coupling")
    study.picture(
        "optimal-critic.png",
        "Above: norms of the penalised critic's gradient at random points of the segments between optimally "
        "coupled real and generated points. Below: how well the gradient's direction is the segment's.",
        made,
    )
    study.table(
        "Gradients at random points of the segments",
        ["set", "method", "mean norm", "10 %", "90 %", "within 0.2 of 1", "mean cosine"],
        rows,
    )
    study.number("mean norm", {f"{n} {m}": v for (n, m), v in means.items()})
    study.number("mean cosine", {f"{n} {m}": v for (n, m), v in directions.items()})
    _segment_claims(study, means, directions)
    study.choice(
        "v3 prints x_t = t x + (1 - t) y with y real: direction and norm are the same either way round."
    )
    toy_kernels(study)
    _choices(study)


def _segment_claims(
    study: Study, means: dict[tuple[str, str], float], directions: dict[tuple[str, str], float]
) -> None:
    """The claims on mean norms and mean cosines, by set and method."""
    study.claim(
        "The optimal critic's gradient has norm 1 almost everywhere (mean within 0.15 of 1)",
        "P corollary 1",
        ", ".join(f"{title} {means[name, 'wgan-gp']:.3f}" for name, title in SETS.items()),
        all(abs(means[name, "wgan-gp"] - 1) < 0.15 for name in SETS),
    )
    study.claim(
        "On the segments of the optimal coupling it points from the generated point to the real one (mean "
        "cosine at least 0.8)",
        "P proposition 1",
        ", ".join(f"{title} {directions[name, 'wgan-gp']:.2f}" for name, title in SETS.items())
        + "; clipped: "
        + ", ".join(f"{directions[name, 'wgan']:.2f}" for name in SETS),
        all(directions[name, "wgan-gp"] >= 0.8 for name in SETS),
    )


def _coupled(real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    return {"order": optimal_coupling(real, fake)[1]}


def _segments(study: Study, critic: nn.Module, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """Gradient norms ``[N]``, and cosines ``[N]`` to ``real - fake``, at a random point of each segment."""
    t = torch.rand(len(real), 1, generator=stream(study.seed, "segments"))
    points = (t * fake + (1 - t) * real).to(study.device)
    gradient = input_gradient(critic, points).detach().cpu()
    return {
        "norms": gradient.norm(dim=1),
        "cosines": torch.nn.functional.cosine_similarity(gradient, real - fake, dim=1),
    }
