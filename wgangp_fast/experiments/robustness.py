"""Seven pairs of networks by four methods, each with one setting for all pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training import Config, data, models
from wgangp_fast.training.data import Stored, stream
from wgangp_fast.training.loop import using_threads
from wgangp_fast.training.metrics.distances import frechet_distance
from wgangp_fast.training.metrics.features import Classifier, RandomConvolutions
from wgangp_fast.training.metrics.quality import to_pixels
from wgangp_fast.training.pictures import sheet

from .figures import RED, figure
from .images import about, image_set, some
from .scoring import classifier, score
from .speed import kernels
from .study import Study
from .training import Trained, trained

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"size": 8, "dim": 4, "fc_dim": 16, "blocks": 1, "latent": 8, "batch": 8, "n_critic": 1,
              "iters": 2, "resnet_iters": 1, "rates": 10, "judged": 64, "threads": 1},
    "cpu": {"size": 16, "dim": 16, "fc_dim": 64, "blocks": 3, "latent": 32, "batch": 32, "n_critic": 5,
            "iters": 300, "resnet_iters": 80, "rates": 10, "judged": 1000, "threads": 1},
    "paper": {"size": 64, "dim": 64, "fc_dim": 512, "blocks": 6, "latent": 128, "batch": 64, "n_critic": 5,
              "iters": 200_000, "resnet_iters": 200_000, "rates": 1, "judged": 5000, "threads": 0},
}  # fmt: skip


@dataclass(frozen=True)
class Method:
    """A loss with the paper's settings for it (appendix E); ``norm`` is the critic's where a row has one."""

    label: str
    norm: str
    rate: float
    settings: dict[str, Any] = field(default_factory=dict)


METHODS = {
    "gan": Method("DCGAN", "batch", 2e-4),
    "lsgan": Method("LSGAN", "batch", 1e-4),
    "wgan": Method("WGAN (clipping)", "batch", 5e-5),
    "wgan-gp": Method("WGAN-GP", "layer", 1e-4, {"beta1": 0.5}),
}


@dataclass(frozen=True)
class Pair:
    """A row of figure 2: names of both networks, and what they change of those.

    Attributes:
        normed: whether the critic has its method's norm, and the generator batch norm where it can.
        shared: keywords of both networks. deep: whether it is the 101-layer pair.
    """

    label: str
    critic: str
    generator: str
    normed: bool = True
    shared: dict[str, Any] = field(default_factory=dict)
    deep: bool = False

    def build(
        self, settings: Any, shape: tuple[int, ...], norm: str, padding: str = "symmetric"
    ) -> tuple[nn.Module, nn.Module]:
        """Critic and generator for images of ``shape (C, S, S)``; ``norm``: of a critic that has one."""
        common = {"channels": shape[0], "size": shape[1], "padding": padding, **self.shared}
        if self.deep:
            common["blocks"] = settings.blocks
        plain = models.info(self.generator).norms == models.PLAIN
        width = settings.fc_dim if self.generator == "fc64-generator" else settings.dim
        critic = models.build(self.critic, **common, dim=settings.dim, norm=norm if self.normed else "none")
        generator = models.build(
            self.generator, **common, dim=width, latent=settings.latent,
            norm="batch" if self.normed and not plain else "none",
        )  # fmt: skip
        return critic, generator


DCGAN = ("dcgan64-critic", "dcgan64-generator")
PAIRS = {
    "baseline": Pair("baseline: DCGAN", *DCGAN),
    "constant": Pair("no BN in G, constant filters", "dcgan64-critic", "crippled64-generator"),
    "mlp": Pair("perceptron as G", "dcgan64-critic", "fc64-generator"),
    "plain": Pair("no norm in either", *DCGAN, normed=False),
    "gated": Pair("gated nonlinearities", "gated64-critic", "gated64-generator"),
    "tanh": Pair("tanh nonlinearities", *DCGAN, shared={"activation": "tanh"}),
    "resnet101": Pair("101-layer ResNet", "resnet101-critic", "resnet101-generator", deep=True),
}

GRID = (3, 6)  # rows and columns of samples in a cell of the sheet
# A cell trains if its samples vary at least half as much as real images do, have at most half of the distance
# that noise has and, where there are labels, at least half of the real images' score above 1. The score alone
# would not do: a classifier finds classes in noise too.
ENOUGH = 0.5


def run(study: Study) -> None:
    """Figure 2: 28 trainings, a sheet of their samples, and which of them fail."""
    settings = study.settings
    images = image_set(study, settings.size, "LSUN bedrooms, as an LMDB folder or prepared")
    judge = Judge(study, images)
    study.text(f"{about(study, images)} {judge.sentence()}")
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    pixels: dict[tuple[str, str], Tensor] = {}
    for pair in PAIRS:
        for method in METHODS:
            found = train_cell(study, pair, method, images)
            name = f"samples {pair} {method}"
            samples = study.tensors(name, partial(_samples, study, found))["images"]
            cells[pair, method] = study.part(
                f"numbers {pair} {method}", partial(judge, samples, found.diverged)
            ) | {"seconds": found.trainer.seconds, "iterations": found.trainer.iteration}
            pixels[pair, method] = samples[: math.prod(GRID)]
            if method == "wgan-gp":
                _kernels(study, pair, found, images)
    study.heading("Samples")
    study.picture(
        "robustness.png",
        "As figure 2: rows are pairs of networks, columns are methods; red titles are cells that failed.",
        _sheet(cells, pixels),
    )
    _tables(study, cells, judge)
    _claims(study, cells)
    study.choice(
        "Seven rows, as figure 2 shows; the text says six. The rows, their norms and their initial weights "
        "are those of the released gan_64x64.py, which has the critic's batch norm as layer norm under the "
        "penalty."
    )
    study.choice(
        "Adam under the penalty has beta1 .5, as appendix E says; the released script has 0, changed after "
        "the runs. RMSprop is PyTorch's."
    )
    study.choice(
        "The paper judges by eye and publishes no table of which cell fails; the rule above is ours."
    )
    if study.scale != "paper":
        study.choice(
            f"All learning rates are {settings.rates} times the paper's, one for each method and all rows, "
            "so that fewer iterations do. The networks are those of the paper for smaller images; the deep "
            f"pair has stages of {settings.blocks} blocks instead of 6, and {settings.resnet_iters} "
            f"iterations instead of {settings.iters}: another method's failure there may be slowness, and "
            "decides no claim."
        )


def cell_config(study: Study, pair: str, method: str) -> Config:
    """Settings of the training of a cell."""
    settings, row, column = study.settings, PAIRS[pair], METHODS[method]
    steps = {} if method in ("gan", "lsgan") else {"n_critic": settings.n_critic}
    return study.config(
        "lsun64-dcgan", data=study.data or "digits", loss=method, critic=row.critic, generator=row.generator,
        critic_norm=column.norm if row.normed else "none", lr=settings.rates * column.rate, **steps,
        critic_dim=settings.dim, generator_dim=settings.dim, latent=settings.latent, batch=settings.batch,
        size=settings.size, iters=settings.resnet_iters if row.deep else settings.iters,
        ema_kimg=0.0, threads=settings.threads, **column.settings,
    )  # fmt: skip


def networks(study: Study, pair: str, method: str, shape: tuple[int, ...]) -> Callable[[], Any]:
    """What makes critic and generator of a cell, for images of ``shape (C, S, S)``."""
    return lambda: PAIRS[pair].build(study.settings, shape, METHODS[method].norm, study.padding)


def train_cell(study: Study, pair: str, method: str, images: Stored) -> Trained:
    """Train a cell, or find it trained."""
    config = cell_config(study, pair, method)
    return trained(
        study, f"{pair} {method}", config, samples=images, every=max(1, config.iters // 8),
        networks=networks(study, pair, method, images.shape),
    )  # fmt: skip


def _samples(study: Study, found: Trained) -> dict[str, Tensor]:
    """``images``: uint8 ``[judged, C, S, S]``, of the same latents in every cell."""
    count, latent = study.settings.judged, study.settings.latent
    z = torch.randn(count, latent, generator=stream(study.seed, "robustness"))
    return {"images": to_pixels(found.trainer.sample(z).nan_to_num())}


class Judge:
    """Says of a cell's samples how good they are, and whether the cell failed.

    Attributes:
        real: what real images get, others than those that distances are from.
    """

    def __init__(self, study: Study, images: Stored) -> None:
        self.study = study
        channels, side = images.shape[:2]
        self.network = RandomConvolutions(channels, side, device=study.device)
        self.classifier: Classifier | None = classifier(study, images) if images.classes else None
        count = min(study.settings.judged, (images.size or 0) // 2)
        whole = some(images, 2 * count)
        self.features = self.network.features(whole[:count])
        self.spread = variation(self.features)
        noise = torch.randint(256, whole[:count].shape, generator=stream("noise"), dtype=torch.uint8)
        found = study.part(
            "real images and noise",
            lambda: {"real": self._numbers(whole[count:]), "noise": self._numbers(noise)},
        )
        self.real, self.noise = found["real"], found["noise"]
        study.number("real images and noise", found)

    def sentence(self) -> str:
        """How cells are judged, for the page."""
        by = (
            f"a score (exp of the mean KL divergence between p(y|x) and p(y), 10 splits) by this classifier: "
            f"{self.classifier.name}; real images get {self.real['score']:.2f}"
            if self.classifier is not None
            else "no score, as the images have no labels"
        )
        rule = f"at most {ENOUGH:g} of the distance of noise"
        if self.classifier is not None:
            rule += f" and at least {ENOUGH:g} of real images' score above 1"
        return (
            f"Samples get {by}; a Frechet distance by {self.network.name}, where other real images have "
            f"{self.real['distance']:.3g} and noise {self.noise['distance']:.3g}; and their variation, the "
            "trace of those features' covariance over that of real images. A cell **fails** if a loss "
            f"was not finite, if the variation is below {ENOUGH:g} (collapsed), or unless its samples have "
            f"{rule}."
        )

    def __call__(self, samples: Tensor, diverged: bool) -> dict[str, Any]:
        """Numbers of uint8 ``samples [N, C, S, S]``, and the verdict."""
        found = self._numbers(samples)
        return {**found, "verdict": self.verdict(found, diverged)}

    def _numbers(self, samples: Tensor) -> dict[str, Any]:
        features = self.network.features(samples)
        return {
            "score": None if self.classifier is None else score(self.classifier, samples)[0],
            "distance": frechet_distance(self.features, features),
            "variation": variation(features) / self.spread,
        }

    def verdict(self, found: dict[str, Any], diverged: bool) -> str:
        """``trains``, or how the cell failed: ``diverged``, ``collapsed``, ``poor``."""
        if diverged:
            return "diverged"
        if not found["variation"] >= ENOUGH:
            return "collapsed"
        near = found["distance"] <= ENOUGH * self.noise["distance"]
        clear = found["score"] is None or found["score"] - 1 >= ENOUGH * (self.real["score"] - 1)
        return "trains" if near and clear else "poor"


def variation(features: Tensor) -> float:
    """Trace of the covariance of ``features [N, D]``: half the mean squared distance of two of them."""
    return features.double().var(0, correction=0).sum().item()


def _kernels(study: Study, pair: str, found: Trained, images: Stored) -> None:
    real = data.to_unit(some(images, study.settings.batch)).to(study.device)
    z = torch.randn(len(real), study.settings.latent, generator=stream(study.seed, "speed"))
    with torch.no_grad(), using_threads(study.settings.threads):
        fake = found.trainer.generator(z.to(study.device)).nan_to_num()
    with using_threads(study.settings.threads):
        kernels(study, f"critic of {PAIRS[pair].label}", found.trainer.critic, real, fake)


def _sheet(cells: dict[tuple[str, str], dict[str, Any]], pixels: dict[tuple[str, str], Tensor]) -> Any:
    made, axes = figure(len(PAIRS), len(METHODS), size=(13.0, 12.5))
    for row, (pair, about_pair) in enumerate(PAIRS.items()):
        for column, (method, about_method) in enumerate(METHODS.items()):
            place, cell = axes[row, column], cells[pair, method]
            whole = sheet(pixels[pair, method], GRID[1])
            place.imshow(whole.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
            place.set(xticks=[], yticks=[])
            quality = f"score {cell['score']:.2f}" if cell["score"] is not None else f"{cell['distance']:.3g}"
            head = f"{about_method.label}\n" if row == 0 else ""
            failed = cell["verdict"] != "trains"
            place.set_title(
                f"{head}{quality}, {cell['verdict']}", fontsize=9, color=RED if failed else "black"
            )
        axes[row, 0].set_ylabel(about_pair.label.replace(": ", ":\n").replace(", ", ",\n"), fontsize=9)
    return made


def _tables(study: Study, cells: dict[tuple[str, str], dict[str, Any]], judge: Judge) -> None:
    columns = ["networks", *(method.label for method in METHODS.values())]
    for title, key in (
        ("What became of each cell", "verdict"),
        ("Inception-type score", "score"),
        ("Frechet distance by random convolutions", "distance"),
        ("Variation, 1 as real images", "variation"),
        ("Iterations", "iterations"),
        ("Seconds of training", "seconds"),
    ):
        if key == "score" and judge.classifier is None:
            continue
        study.table(
            title, columns,
            [[row.label, *(cells[pair, method][key] for method in METHODS)] for pair, row in PAIRS.items()],
        )  # fmt: skip
    nearest = {pair: min(METHODS, key=lambda m: _far(cells[pair, m]["distance"])) for pair in PAIRS}
    study.number("nearest", nearest)
    study.text(
        "The smallest distance to real images has: "
        + "; ".join(f"{row.label}: {METHODS[nearest[pair]].label}" for pair, row in PAIRS.items())
        + "."
    )
    study.number("cells", {f"{pair} {method}": cell for (pair, method), cell in cells.items()})


def _far(distance: float | str) -> float:
    """A distance as JSON gave it back: where it was not finite, a word."""
    return distance if isinstance(distance, float) else math.inf


def _claims(study: Study, cells: dict[tuple[str, str], dict[str, Any]]) -> None:
    smoke = study.scale == "smoke"
    too_short = "; too few iterations to tell" if smoke else ""
    hurried = {PAIRS[pair].label for pair in PAIRS if PAIRS[pair].deep}
    if study.settings.resnet_iters >= study.settings.iters:
        hurried = set()
    failed = {
        method: [PAIRS[pair].label for pair in PAIRS if cells[pair, method]["verdict"] != "trains"]
        for method in METHODS
    }
    study.claim(
        "WGAN-GP trains all seven pairs with one setting",
        "P 5.2, figure 2",
        f"fails on: {', '.join(failed['wgan-gp']) or 'none'}{too_short}",
        None if smoke else not failed["wgan-gp"],
    )
    for method in ("gan", "lsgan", "wgan"):
        study.claim(
            f"{METHODS[method].label} fails or collapses on some of the seven",
            "P 5.2, figure 2",
            f"fails on: {', '.join(failed[method]) or 'none'}{too_short}",
            None if smoke else bool(set(failed[method]) - hurried),
        )
