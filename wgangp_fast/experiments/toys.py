"""GANs of the toy distributions: modes covered, distance left, and an animation of the way there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.training import data
from wgangp_fast.training.data import stream
from wgangp_fast.training.metrics.modes import mode_coverage
from wgangp_fast.training.metrics.transport import exact_wasserstein
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, GREEN, ORANGE, animation, figure
from .planes import SETS, real_points, toy_kernels
from .study import Study
from .training import Trained, trained

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"iters": {"8gaussians": 40, "25gaussians": 40, "swissroll": 40}, "width": 32, "batch": 128,
              "n_critic": 2, "lr": 3e-3, "beta1": 0.0, "lambda_gp": 0.1, "ema_kimg": 1.0, "points": 300,
              "frames": 4},
    "cpu": {"iters": {"8gaussians": 1200, "25gaussians": 2000, "swissroll": 1200}, "width": 128, "batch": 256,
            "n_critic": 3, "lr": 3e-3, "beta1": 0.0, "lambda_gp": 0.1, "ema_kimg": 50.0, "points": 2000,
            "frames": 25},
    "paper": {"iters": {"8gaussians": 100_000, "25gaussians": 100_000, "swissroll": 100_000}, "width": 512,
              "batch": 256, "n_critic": 5, "lr": 1e-4, "beta1": 0.5, "lambda_gp": 0.1, "ema_kimg": 50.0,
              "points": 2000, "frames": 100},
}  # fmt: skip


def run(study: Study) -> None:
    """GANs of the three toy distributions: modes covered, distance left, and the way there as a GIF."""
    settings = study.settings
    rows: list[list[Any]] = []
    left, films = {}, {}
    for name, title in SETS.items():
        iters = settings.iters[name.removeprefix("toy-")]
        config = study.config(
            name, iters=iters, batch=settings.batch, critic_dim=settings.width, generator_dim=settings.width,
            n_critic=settings.n_critic, lr=settings.lr, beta1=settings.beta1, lambda_gp=settings.lambda_gp,
            ema_kimg=settings.ema_kimg, threads=1, data=name,
        )  # fmt: skip
        z = torch.randn(300, 2, generator=stream(study.seed, "film"))
        found = trained(study, name, config, every=max(1, iters // settings.frames), watch=_frame(z))
        numbers = study.part(f"quality {name}", partial(_toy_quality, study, name, found))
        left[name] = numbers
        films[title] = found.rows
        modes = numbers["coverage"]
        rows.append([
            title, iters, f"{modes['modes_covered']} of {modes['modes']}", modes["high_quality"],
            numbers["W1"], numbers["real_W1"],
        ])  # fmt: skip
    _pictures(study, rows, films)
    study.number("quality", left)
    _claims(study, left)
    study.choice(
        "lambda 0.1, n_critic and beta1 are the released gan_toy.py's at paper scale (its comment: the small "
        "lambda speeds up the toys); Algorithm 1 has beta1 0, which the smaller scales take."
    )
    toy_kernels(study, settings.lambda_gp)


def _pictures(study: Study, rows: list[list[Any]], films: dict[str, list[dict[str, Any]]]) -> None:
    study.heading("Samples")
    study.picture(
        "toy.gif", "The way to the samples: contours are the critic's.", animation(_frames(study, films))
    )
    study.picture("toy.png", "Generated points (green) after the last iteration, real ones orange.",
                  _film_frame(study, films, -1))  # fmt: skip
    study.table(
        f"{study.settings.points} generated points",
        ["set", "iterations", "modes covered", "share within 3 sigma of a mode", "exact W1 to real points",
         "W1 between two real sets"],
        rows,
    )  # fmt: skip
    study.text(
        "A mode is covered if a tenth of its fair share of the samples lies on it. The Swiss roll has 20 "
        "stretches of equal share."
    )
    made, axes = figure(1, 3, size=(12.5, 3.6))
    for column, (title, film) in enumerate(films.items()):
        iterations = [row["iteration"] for row in film[1:]]
        axes[0, column].plot(iterations, [row["wasserstein"] for row in film[1:]], color=BLUE)
        axes[0, column].set(title=title, xlabel="generator iteration", ylabel="mean D(real) - mean D(fake)")
        axes[0, column].grid(alpha=0.3)
    study.picture("toy-loss.png", "The critic's estimate falls as the samples come closer.", made)


def _claims(study: Study, left: dict[str, dict[str, Any]]) -> None:
    coverage = {name: numbers["coverage"] for name, numbers in left.items()}
    for name, needed in (("toy-8gaussians", 8), ("toy-25gaussians", 24)):
        hit = coverage[name]["modes_covered"]
        study.claim(
            f"The generator covers at least {needed} modes of the {SETS[name]}",
            "P 3.1, section 4 of the released toys",
            f"{hit} of {coverage[name]['modes']}",
            hit >= needed,
        )
    roll = coverage["toy-swissroll"]
    study.claim(
        "The Swiss roll is followed along its whole length",
        "P figure 1a",
        f"{roll['modes_covered']} of {roll['modes']} stretches; {roll['high_quality']:.2f} of points on it",
        roll["modes_covered"] == roll["modes"],
    )
    study.claim(
        "What is left of the distance is at most 0.15 above that of two real sets (deviation of the data: 1)",
        "P 3.1",
        ", ".join(
            f"{title} {left[n]['W1']:.3f} against {left[n]['real_W1']:.3f}" for n, title in SETS.items()
        ),
        all(left[n]["W1"] - left[n]["real_W1"] <= 0.15 for n in SETS),
    )


def _toy_quality(study: Study, name: str, found: Trained) -> dict[str, Any]:
    count = study.settings.points
    z = torch.randn(count, 2, generator=stream(study.seed, "quality"))
    fake = found.trainer.sample(z)
    real, other = real_points(study, name, count, "first"), real_points(study, name, count, "second")
    modes = data.modes(name)
    assert modes is not None
    return {
        "coverage": mode_coverage(fake, modes),
        "W1": exact_wasserstein(real, fake),
        "real_W1": exact_wasserstein(real, other),
    }


FRAME_SIDE = 48  # of the film's contours


def _frame(z: Tensor) -> Callable[[Trainer], dict[str, Any]]:
    """Samples of ``z`` and the critic's values, as numbers for a row."""
    line = torch.linspace(-2.0, 2.0, FRAME_SIDE)
    grid = torch.cartesian_prod(line, line)

    def watch(trainer: Trainer) -> dict[str, Any]:
        with torch.no_grad():
            value = trainer.critic(grid.to(trainer.device)).cpu()
        return {"points": _rounded(trainer.sample(z)), "surface": _rounded(value)}

    return watch


def _rounded(x: Tensor) -> list[Any]:
    return [round(v, 3) for v in x.flatten().tolist()]


def _frames(study: Study, films: dict[str, list[dict[str, Any]]]) -> list[Any]:
    return [_film_frame(study, films, index) for index in range(min(map(len, films.values())))]


def _film_frame(study: Study, films: dict[str, list[dict[str, Any]]], index: int) -> Any:
    made, axes = figure(1, 3, size=(9.0, 3.2))
    line = torch.linspace(-2.0, 2.0, FRAME_SIDE)
    for column, (name, (title, film)) in enumerate(zip(SETS, films.items(), strict=True)):
        row, place = film[index], axes[0, column]
        value = torch.tensor(row["surface"]).view(FRAME_SIDE, FRAME_SIDE).T
        if value.max() > value.min():
            place.contour(line, line, value, levels=10, cmap="Greys", linewidths=0.7)
        place.plot(*real_points(study, name, 300, "film").T, "+", color=ORANGE, markersize=4, alpha=0.6)
        place.plot(*torch.tensor(row["points"]).view(-1, 2).T, ".", color=GREEN, markersize=3)
        place.set(
            title=f"{title}: {row['iteration']}",
            xlim=(-2, 2),
            ylim=(-2, 2),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
    return made
