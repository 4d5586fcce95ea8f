"""The WGAN of 32 x 32 digits with clipped weights, and the same pair with the gradient penalty beside it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training import Config, models
from wgangp_fast.training.data import Samples, Stored, stream, to_unit
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.metrics.distances import frechet_distance
from wgangp_fast.training.metrics.features import RandomConvolutions
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, ORANGE, figure, image_sheet
from .images import about, image_set, some
from .speed import kernels
from .study import Study
from .training import ClipWatch, Trained, trained

SIZE = 32
TITLES = {"wgan": "WGAN, clipped", "wgan-gp": "WGAN-GP, layer norm"}
SHOWN = 64  # samples on a sheet
TABLE = 12  # epochs in the page's table; all are in results.json

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"dim": 4, "batch": 32, "epochs": 1, "gp_epochs": 1, "n_critic": 5, "clip": 0.05, "lr": 5e-4,
              "gp_lr": 1e-3, "latent": 100, "images": 320, "judged": 64, "threads": 1},
    "cpu": {"dim": 8, "batch": 64, "epochs": 60, "gp_epochs": 60, "n_critic": 5, "clip": 0.02, "lr": 5e-4,
            "gp_lr": 2e-3, "latent": 100, "images": 1797, "judged": 512, "threads": 1},
    "paper": {"dim": 256, "batch": 128, "epochs": 30, "gp_epochs": 10, "n_critic": 5, "clip": 0.005,
              "lr": 5e-5, "gp_lr": 1e-4, "latent": 100, "images": 60_000, "judged": 5000, "threads": 0},
}  # fmt: skip


def run(study: Study) -> None:
    """The WGAN notebook's MNIST run: scalars by epoch, samples, the bound; and a run with the penalty."""
    settings = study.settings
    images = image_set(study, SIZE, "MNIST as IDX files")
    images = images.subset(torch.arange(min(settings.images, images.size or 0)))
    steps = epoch(images, settings.batch, settings.n_critic)
    found = {method: _train(study, method, images, steps) for method in TITLES}
    clipped, penalised = found["wgan"], found["wgan-gp"]
    study.text(
        f"{about(study, images)} An epoch is {steps} generator iterations of {settings.n_critic} critic "
        f"steps. The Frechet distance is of {_network(images).name}, {settings.judged} images."
    )
    _show(study, found, steps)
    _claims(study, clipped, penalised, steps)
    _kernels(study, images, penalised)
    _choices(study)


def epoch(images: Samples, batch: int, n_critic: int) -> int:
    """Generator iterations in which the critic sees every image about once; at least 1."""
    return max(1, (images.size or 0) // batch // n_critic)


def _networks(study: Study, method: str, channels: int) -> tuple[nn.Module, nn.Module]:
    """The pair with batch norm; the penalised critic has layer norm instead."""
    settings = study.settings
    options = {"size": SIZE, "channels": channels, "dim": settings.dim}
    critic = models.build("mnist32-critic", **options, norm="batch" if method == "wgan" else "layer")
    return critic, models.build("mnist32-generator", **options, latent=settings.latent)


def _config(study: Study, method: str, steps: int) -> Config:
    settings = study.settings
    clipped = method == "wgan"
    # Graphs would replay the critic's steps without the watch between them.
    return study.config(
        "mnist", loss=method, iters=steps * (settings.epochs if clipped else settings.gp_epochs),
        batch=settings.batch, n_critic=settings.n_critic, lr=settings.lr if clipped else settings.gp_lr,
        critic="mnist32-critic", generator="mnist32-generator", clip=settings.clip, critic_dim=settings.dim,
        generator_dim=settings.dim, critic_norm="batch" if clipped else "layer", generator_norm="batch",
        latent=settings.latent, ema_kimg=0.0, graphs=not clipped, threads=settings.threads,
        data=study.data or "digits",
    )  # fmt: skip


def _train(study: Study, method: str, images: Stored, steps: int) -> Trained:
    config = _config(study, method, steps)
    return trained(
        study, method, config, samples=images, every=steps, kind=ClipWatch if method == "wgan" else Trainer,
        networks=partial(_networks, study, method, images.shape[0]),
        watch=quality(images, study.settings.judged, config.latent, study.seed),
    )  # fmt: skip


def _network(images: Stored) -> RandomConvolutions:
    return RandomConvolutions(images.shape[0], images.shape[1])


def quality(
    images: Stored, count: int, latent: int, seed: int, every: int = 1
) -> Callable[[Trainer], dict[str, float]]:
    """A function of a trainer that gives ``frechet``: the distance of ``count`` samples to as many real ones
    by random convolutions. Between multiples of ``every`` iterations it gives nothing."""
    network = _network(images)
    real = network.features(some(images, count))
    z = torch.randn(count, latent, generator=stream(seed, "quality"))

    def watch(trainer: Trainer) -> dict[str, float]:
        if trainer.iteration % every:
            return {}
        fake = trainer.sample(z)
        if not bool(fake.isfinite().all()):
            return {}
        return {"frechet": frechet_distance(real, network.features(to_pixels(fake)))}

    return watch


def samples(trainer: Trainer, count: int, seed: int) -> Tensor:
    """``[count, C, H, W]`` of the generator in [-1, 1], of fixed latents."""
    z = torch.randn(count, trainer.config.latent, generator=stream(seed, "sheet"))
    return trainer.sample(z)


def _show(study: Study, found: dict[str, Trained], steps: int) -> None:
    made, axes = figure(1, 3, size=(13, 3.6))
    for (method, training), colour in zip(found.items(), (BLUE, ORANGE), strict=True):
        epochs = [row["iteration"] / steps for row in training.rows if "wasserstein" in row]
        for place, name in zip(axes[0], ("wasserstein", "generator_loss", "frechet"), strict=True):
            values = [row.get(name) for row in training.rows if "wasserstein" in row]
            place.plot(epochs, [float("nan") if v is None else v for v in values], color=colour,
                       label=TITLES[method])  # fmt: skip
    labels = ("mean D(real) - mean D(fake)", "generator loss", "Frechet distance")
    for place, label in zip(axes[0], labels, strict=True):
        place.set(xlabel="epoch", ylabel=label)
        place.grid(alpha=0.3)
    axes[0, 0].set_yscale("log")
    axes[0, 2].set_yscale("log")
    axes[0, 2].legend(frameon=False)
    study.heading("Scalars by epoch")
    study.picture("scalars.png", "Means over each epoch; the Frechet distance is that at its end.", made)
    for method, training in found.items():
        rows = [
            [row["iteration"] // steps, row["iteration"], row["wasserstein"], row["critic_loss"],
             row["generator_loss"], row["grad_norm"], row.get("frechet")]
            for row in training.rows
            if "wasserstein" in row
        ]  # fmt: skip
        stride = max(1, -(-len(rows) // TABLE))
        columns = [
            "epoch",
            "iteration",
            "estimate",
            "critic loss",
            "generator loss",
            "gradient norm",
            "Frechet",
        ]
        study.table(TITLES[method], columns, rows[::-1][::stride][::-1])
        study.number(f"epochs {method}", {c: [row[i] for row in rows] for i, c in enumerate(columns)})
    study.heading("Samples")
    for method, training in found.items():
        made_samples = samples(training.trainer, SHOWN, study.seed)
        study.picture(
            f"samples-{method}.png",
            f"{TITLES[method]}: after {training.trainer.iteration} iterations.",
            image_sheet(made_samples, 16),
        )


def _claims(study: Study, clipped: Trained, penalised: Trained, steps: int) -> None:
    trainer, settings = clipped.trainer, study.settings
    assert isinstance(trainer, ClipWatch)
    wanted, largest = trainer.iteration * settings.n_critic, trainer.largest.item()
    bound = torch.tensor(settings.clip, dtype=torch.float32).item()
    study.number("critic steps checked", trainer.checked)
    study.number("largest parameter", largest)
    study.claim(
        f"After every critic step all parameters of the critic lie within +-{settings.clip}",
        "WGAN algorithm 1",
        f"{trainer.checked} of {wanted} critic steps looked at, largest magnitude {largest:.6g}",
        trainer.checked == wanted and largest <= bound,
    )
    estimates = [row["wasserstein"] for row in clipped.rows if "wasserstein" in row]
    few = len(estimates) < 8
    quarter = max(1, len(estimates) // 4)
    peak, end = max(estimates), sum(estimates[-quarter:]) / quarter
    study.claim(
        "The estimate of the Wasserstein distance falls (last quarter of the epochs below half of the peak)",
        "WGAN 4.2; the notebook's curves",
        f"peak {peak:.3g}, last quarter {end:.3g}" + ("; too few epochs to tell" if few else ""),
        None if few else end < peak / 2,
    )
    distances = {
        method: [row["frechet"] for row in training.rows if "frechet" in row]
        for method, training in (("clipped", clipped), ("penalised", penalised))
    }
    study.claim(
        "The samples come closer to the data with both (Frechet distance at the end below a quarter of the "
        "untrained generator's)",
        "WGAN 4.2",
        "; ".join(f"{method} {d[0]:.3g} to {d[-1]:.3g}" for method, d in distances.items())
        + ("; too few epochs to tell" if few else ""),
        None if few else all(d[-1] < d[0] / 4 for d in distances.values()),
    )


def _kernels(study: Study, images: Stored, penalised: Trained) -> None:
    settings = study.settings
    real = to_unit(some(images, settings.batch)).to(study.device)
    fake = samples(penalised.trainer, settings.batch, study.seed).to(study.device)
    label = f"mnist32-critic, dim {settings.dim}, layer norm"
    with using_threads(settings.threads):
        kernels(study, label, penalised.trainer.critic, real, fake)


def _choices(study: Study) -> None:
    study.choice(
        "Networks, clipping bound 0.005, RMSprop 5e-5, batch 128 and 30 epochs are those of a notebook on "
        "the WGAN, not of a paper. Its generator step takes the latents of the critic's step before it; here "
        "they are fresh, as in algorithm 1."
    )
    study.choice(
        "An epoch's batches are the critic's: the generator has a step for each n_critic of them, as the "
        "notebook has."
    )
    study.choice(
        "The penalised run is ours: layer norm in place of batch norm in the critic (paper section 4), Adam "
        "with beta1 0.5 and beta2 0.9 (gan_mnist.py)."
    )
    if study.scale != "paper":
        study.choice(
            "Narrower networks, larger learning rates and a larger bound than the notebook's: with 0.005 and "
            "so few filters the critic's scores vanish."
        )
