"""Twelve-layer critics on the Swiss roll: gradients through the layers, and what clipping does to weights.

Paper, section 3.2 and figure 1b. No code of it was released.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.training import models
from wgangp_fast.training.trainer import Trainer

from .figures import BLUE, COLOURS, RED, figure
from .page import number
from .speed import kernels
from .study import Study
from .training import ClipWatch, Trained, trained

CLIPS = (0.1, 0.01, 0.001)
CLIP = 0.01  # of the histogram
PENALTY = "gradient penalty"
LAYERS = 12
NEAR = 0.99  # of the bound: a weight beyond it counts as piled up there

SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"iters": 6, "width": 64, "batch": 32, "n_critic": 2, "measured": 128},
    "cpu": {"iters": 100, "width": 512, "batch": 64, "n_critic": 5, "measured": 256},
    "paper": {"iters": 10_000, "width": 512, "batch": 256, "n_critic": 5, "measured": 1024},
}


WEIGHT_HISTOGRAM_SCALES = {
    name: {**values, **shallow}
    for (name, values), shallow in zip(
        SCALES.items(),
        (
            {"shallow_iters": 100, "shallow_width": 32},
            {"shallow_iters": 600, "shallow_width": 128},
            {"shallow_iters": 10_000, "shallow_width": 512},
        ),
        strict=True,
    )
}


def _trained(study: Study, clip: float | None) -> Trained:
    """The pair, trained with weights clipped to ``clip``, or with the penalty."""
    settings = study.settings
    special: dict[str, Any] = {"loss": "wgan", "clip": clip} if clip else {"lr": 1e-4, "lambda_gp": 10.0}
    config = study.config(
        "toy-swissroll", iters=settings.iters, batch=settings.batch, n_critic=settings.n_critic,
        critic="toy12-critic", generator="toy12-generator", critic_dim=settings.width,
        generator_dim=settings.width, ema_kimg=0.0, graphs=False, **special,
    )  # fmt: skip
    every = max(1, settings.iters // 20)
    return trained(study, _name(clip), config, kind=ClipWatch, every=every)


def _name(clip: float | None) -> str:
    return f"clipping, c = {clip:g}" if clip else PENALTY


def layer_gradients(critic: nn.Module, real: Tensor, fake: Tensor) -> list[float]:
    """Norms of the critic loss's gradient with respect to what each layer gives.

    The loss is ``mean D(fake) - mean D(real)``; the penalty is left out, which has other points.

    Args:
        critic: perceptron with ReLUs as modules. real, fake: ``[N, 2]``.

    Returns:
        One norm for each ReLU, from the input's side, and one for the score: that of the whole ``[2N, W]``.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, result: Tensor) -> None:
        kept.append(result)

    hooks = [m.register_forward_hook(keep) for m in critic.modules() if isinstance(m, nn.ReLU)]
    try:
        score = critic(torch.cat([fake, real]))
    finally:
        for hook in hooks:
            hook.remove()
    loss = score[: len(fake)].mean() - score[len(fake) :].mean()
    # In float64's range, or 12 layers of weights of 0.001 underflow.
    gradients = torch.autograd.grad(loss, [*kept, score])
    return [float(g.double().norm()) for g in gradients]


def _norms(study: Study, found: Trained) -> list[float]:
    trainer = found.trainer
    size = study.settings.measured
    parts = [trainer.critic_batch(10**6 + k) for k in range(-(-size // trainer.config.batch))]
    real, fake = (torch.cat([part[i] for part in parts]).double() for i in (0, 1))
    critic = trainer.critic
    try:
        return layer_gradients(critic.double(), real, fake)
    finally:
        critic.float()


def slope(norms: list[float]) -> float:
    """Decades that the norms grow from one hidden layer to the one before it: least squares, without the
    score's."""
    y = torch.tensor(norms[:-1], dtype=torch.float64).log10()
    x = torch.arange(len(y), dtype=torch.float64)
    x, y = x - x.mean(), y - y.mean()
    return -float((x * y).sum() / (x * x).sum())


def fit(norms: list[float]) -> float:
    """How straight the line of the logarithms is: the square of their correlation with the layer."""
    y = torch.tensor(norms[:-1], dtype=torch.float64).log10()
    return float(torch.corrcoef(torch.stack([torch.arange(len(y), dtype=torch.float64), y]))[0, 1] ** 2)


def gradient_norms(study: Study) -> None:
    """Figure 1b, left: norms by layer for three bounds and for the penalty."""
    made, axes = figure(1, 1, size=(7.5, 4.6))
    place = axes[0, 0]
    rows: list[list[Any]] = []
    slopes, straight = {}, {}
    for colour, clip in zip((*COLOURS[1:4], BLUE), (*CLIPS, None), strict=True):
        found = _trained(study, clip)
        name = _name(clip)
        norms = study.part(f"norms {name}", partial(_norms, study, found))
        slopes[name], straight[name] = slope(norms), fit(norms)
        expected = None if clip is None else math.log10(clip * math.sqrt(study.settings.width / 2))
        rows.append([name, norms[0], norms[-2], slopes[name], straight[name], expected])
        layers = range(1, len(norms) + 1)
        place.semilogy(
            layers, norms, marker="o", color=colour, label=name, linewidth=2 if clip is None else 1.3
        )
        study.number(f"norms {name}", norms)
    place.set(
        xlabel="critic layer (13: the score)", ylabel="norm of the loss's gradient", xticks=[1, 4, 7, 10, 13],
        xlim=(13.5, 0.5), title="Gradient of the critic's loss at each layer's output",
    )  # fmt: skip
    place.grid(alpha=0.3)
    place.legend(frameon=False)
    study.heading("Norms by layer")
    study.picture(
        "gradient-norms.png",
        "Norm of the gradient with respect to the output of each layer, logarithmic; the score is at the "
        "left, as in the paper.",
        made,
    )
    study.table(
        "Growth from layer to layer towards the input",
        ["critic", "norm at layer 1", "norm at layer 12", "decades a layer", "straightness (r2)",
         "expected of random signs: log10(c sqrt(width/2))"],
        rows,
    )  # fmt: skip
    flat = abs(slopes[PENALTY])
    study.number("decades a layer", slopes)
    clipped = {name: value for name, value in slopes.items() if name != PENALTY}
    study.claim(
        "Clipped critics' gradients grow or decay exponentially towards the input (straight lines, r2 "
        "above 0.95, at least 3 times as steep as the penalised critic's)",
        "P 3.2, figure 1b",
        "; ".join(
            f"{name}: {v:+.2f} decades a layer, r2 {straight[name]:.3f}" for name, v in clipped.items()
        ),
        all(abs(v) > 3 * flat and straight[name] > 0.95 for name, v in clipped.items()),
    )
    study.claim(
        "With the penalty they are flat (at most 0.1 decades a layer)",
        "P 3.2, figure 1b",
        f"{slopes[PENALTY]:+.3f} decades a layer",
        flat <= 0.1,
    )
    _bound_claim(study, CLIPS)
    _finish(study)


def _bound_claim(study: Study, clips: tuple[float, ...]) -> None:
    trainers = [_trained(study, clip).trainer for clip in clips]
    worst, steps, wanted = 0.0, 0, 0
    for clip, trainer in zip(clips, trainers, strict=True):
        assert isinstance(trainer, ClipWatch)
        worst = max(worst, trainer.largest.item() / clip)
        steps += trainer.checked
        wanted += trainer.iteration * trainer.config.n_critic
    study.claim(
        "After every critic step every parameter of a clipped critic is within [-c, c]",
        "WGAN algorithm 1",
        f"largest parameter over c: {worst:.6f}, after {steps} of {wanted} steps",
        worst <= 1.0 + 1e-6 and steps == wanted,  # c is rounded to float32
    )


def _weights(critic: nn.Module) -> Tensor:
    """All weights (not biases) of the hidden layers, ``[M]``."""
    layers = [m for m in critic.modules() if isinstance(m, nn.Linear)]
    return torch.cat([layer.weight.detach().cpu().flatten() for layer in layers[1:-1]])


def _inside(clip: float, critic: nn.Module) -> nn.Module:
    """``critic``, scaled so that no parameter is nearer to the bounds than a tenth of them."""
    with torch.no_grad():
        largest = max(float(p.abs().max()) for p in critic.parameters())
        for parameter in critic.parameters():
            parameter.mul_(0.9 * clip / largest)
    return critic


def _fresh(study: Study, name: str, width: int) -> nn.Module:
    """A critic as it is before any training of this study."""
    with torch.random.fork_rng():
        torch.manual_seed(study.seed)
        return models.build(name, dim=width)


def _begin_inside(trainer: Trainer) -> None:
    _inside(CLIP, trainer.critic)


def _shallow(study: Study, clip: float | None) -> Trained:
    """A critic of three hidden layers, whose weights begin inside ``[-CLIP, CLIP]``."""
    settings = study.settings
    special: dict[str, Any] = {"loss": "wgan", "clip": clip} if clip else {"lr": 1e-4, "lambda_gp": 10.0}
    config = study.config(
        "toy-swissroll", iters=settings.shallow_iters, batch=settings.batch, n_critic=settings.n_critic,
        critic_dim=settings.shallow_width, generator_dim=settings.shallow_width, ema_kimg=0.0, threads=1,
        **special,
    )  # fmt: skip
    return trained(study, f"{_name(clip)}, begun inside", config, prepare=_begin_inside)


def at_ends(weights: Tensor, bound: float | None, moved: Tensor) -> float:
    """Share of those ``weights [M]`` that ``moved [M]`` (bool) marks which lie beyond :data:`NEAR` of the
    bound, or of the largest weight."""
    ends = weights.abs() >= NEAR * (bound or weights.abs().max())
    return float(ends[moved].double().mean()) if bool(moved.any()) else 0.0


def weight_histogram(study: Study) -> None:
    """Figure 1b, right: where the weights of a clipped and of a penalised critic are."""
    made, axes = figure(2, 2, size=(10.5, 6.0))
    piled: dict[str, float] = {}
    rows: list[list[Any]] = []
    deep = f"{LAYERS} layers"
    shallow = "3 layers, begun inside"
    moving: dict[str, float] = {}
    for column, (label, train) in enumerate(((deep, _trained), (shallow, _shallow))):
        for row, (bound, colour) in enumerate(((CLIP, RED), (None, BLUE))):
            name = f"{_name(bound)}; {label}"
            weights = _weights(train(study, bound).trainer.critic)
            largest = float(weights.abs().max())
            if label == deep:
                before = _weights(_fresh(study, "toy12-critic", study.settings.width))
            else:
                before = _weights(_inside(CLIP, _fresh(study, "toy-critic", study.settings.shallow_width)))
            moved = (weights - before).abs() > 0.1 * CLIP
            piled[name] = at_ends(weights, bound, torch.ones_like(moved))
            moving[name] = at_ends(weights, bound, moved)
            share = float(moved.double().mean())
            rows.append([name, largest, float(weights.std()), piled[name], share, moving[name]])
            limit = 2 * CLIP if bound else 1.1 * largest
            axes[row, column].hist(weights.numpy(), bins=161, range=(-limit, limit), color=colour)
            axes[row, column].set(title=name, ylabel="weights", xlim=(-limit, limit))
            axes[row, column].locator_params(axis="x", nbins=5)
        axes[1, column].set(xlabel="weight of the critic's hidden layers")
    first = _weights(_fresh(study, "toy12-critic", study.settings.width)).clamp(-CLIP, CLIP)
    alone = at_ends(first, CLIP, torch.ones_like(first, dtype=torch.bool))
    rows.append([f"{deep}, untrained, clipped once", CLIP, float(first.std()), alone, None, None])
    study.heading("Weights")
    study.picture(
        "weight-histogram.png",
        "Weights of the hidden layers of critics that are clipped to [-0.01, 0.01] (above) and penalised "
        "(below); each on its own axis.",
        made,
    )
    columns = [
        "critic", "largest", "deviation", f"share at the ends (beyond {NEAR} of the bound or of the largest)",
        "share that moved by a tenth of c", "share of those at the ends",
    ]  # fmt: skip
    study.table("Where the weights are", columns, rows)
    study.text(
        "He's initial weights of the deep critic are larger than c, so that the first clipping alone puts "
        "most of them at the bounds, where they stay; and with the penalty so short a training hardly moves "
        "them. The second pair of critics therefore begins with all weights inside the bounds: what is at "
        "the ends was pushed there. Many of their weights hardly move, such as those of units that ReLU "
        "keeps at zero; so the last column is of those that do."
    )
    study.number("share at the ends", piled)
    study.number("share at the ends of those that moved", moving)
    _weight_claims(study, deep, shallow, piled, moving)
    _bound_claim(study, (CLIP,))
    study.choice(
        "The paper does not say which weights it shows: here those between two hidden layers. That the claim "
        "on the small critic is about the weights that moved was decided after its first run."
    )
    _finish(study)


def _weight_claims(
    study: Study, deep: str, shallow: str, piled: dict[str, float], moving: dict[str, float]
) -> None:
    """The claims on the shares of weights at the ends, of all and of those that moved, by critic."""
    smoke = study.scale == "smoke"
    key = f"{_name(CLIP)}; {shallow}"
    clipped, spread = moving[key], piled[f"{PENALTY}; {shallow}"]
    study.claim(
        "Clipping pushes weights towards two values, the ends of the range (at least half of those moved)",
        "P 3.2, figure 1b",
        f"{piled[f'{_name(CLIP)}; {deep}']:.3f} of the weights in {deep}; in {shallow} {clipped:.3f} of "
        f"those that moved, {piled[key]:.3f} of all" + ("; too few steps to tell" if smoke else ""),
        None if smoke else min(piled[f"{_name(CLIP)}; {deep}"], clipped) >= 0.5,
    )
    study.claim(
        "With the penalty they are spread out (at most 1 % at the ends)",
        "P 3.2, figure 1b",
        f"{number(piled[f'{PENALTY}; {deep}'])} in {deep}; {number(spread)} in {shallow}"
        + ("; too few steps to tell" if smoke else ""),
        None if smoke else max(piled[f"{PENALTY}; {deep}"], spread) <= 0.01,
    )


def _finish(study: Study) -> None:
    trainer = _trained(study, None).trainer
    real, fake, _ = trainer.critic_batch(0)
    kernels(study, f"toy12-critic, width {study.settings.width}", trainer.critic, real, fake)
    study.choice(
        "The paper does not give the width (512, as in all released toys), the length of the training, or "
        "the optimisers: RMSprop 5e-5 when clipping, Adam 1e-4 with the penalty, lambda 10. Its axis runs to "
        "13: 12 hidden layers and the score."
    )
