"""Losses and penalty against values worked out by hand; a part of the experiment ``distances``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.errors import BatchNormWarning, UserError
from wgangp_fast.penalty import gradient_norm, gradient_penalty, input_gradient
from wgangp_fast.training import Config
from wgangp_fast.training.losses import LOSSES
from wgangp_fast.training.objectives import Objective

from .study import Study

EXACT = 1e-12  # error allowed in float64
FLOAT32 = 1e-6  # and in losses, whose scores are rounded to float32
LAMBDA = 10.0
NORMS = (0.25, 0.5, 0.9, 1.0, 1.5, 3.0)
IMPL = ("auto", "ref")


def softplus(x: float) -> float:
    """``log(1 + exp(x))``, without torch."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


# Critic's loss of real and fake scores, generator's of fake scores: paper section 2, in plain Python. The
# penalty of a linear critic of slope s is (s - 1)^2, or one-sided max(0, s - 1)^2.
BY_HAND: dict[str, tuple[Callable[..., float], Callable[..., float]]] = {
    "gan": (
        lambda r, f, s: (mean([softplus(x) for x in f]) + mean([softplus(-x) for x in r])) / 2,
        lambda f: mean([softplus(-x) for x in f]),
    ),
    "lsgan": (
        lambda r, f, s: (mean([(x - 1) ** 2 for x in r]) + mean([x**2 for x in f])) / 2,
        lambda f: mean([(x - 1) ** 2 for x in f]),
    ),
    "wgan": (lambda r, f, s: mean(f) - mean(r), lambda f: -mean(f)),
    "wgan-gp": (lambda r, f, s: mean(f) - mean(r) + LAMBDA * (s - 1) ** 2, lambda f: -mean(f)),
    "wgan-gp, one-sided": (
        lambda r, f, s: mean(f) - mean(r) + LAMBDA * max(0.0, s - 1) ** 2,
        lambda f: -mean(f),
    ),
}


def rules(study: Study) -> None:
    """Add the losses, the linear critic, the one-sided penalty and batch norm to the page."""
    study.heading("Losses and penalty")
    found = study.part("losses and penalty", measured_rules)
    study.table(
        "Losses of three linear critics on four samples in the plane",
        ["loss", "critic's slope", "critic", "by hand", "generator", "by hand "],
        [[row[key] for key in ("loss", "slope", "critic", "critic_hand", "generator", "generator_hand")]
         for row in found["losses"]],
    )  # fmt: skip
    study.table(
        "Penalty of linear critics in 12 dimensions",
        ["norm of the weights", "gradient norm", "two-sided penalty", "one-sided penalty"],
        [[row[key] for key in ("weight", "norm", "two_sided", "one_sided")] for row in found["linear"]],
    )
    losses = max(row["error"] for row in found["losses"])
    study.number("losses, largest relative error", losses)
    study.claim(
        f"The losses of {len(BY_HAND)} methods are the formulas' values (relative error at most {FLOAT32:g}: "
        "the trainer's scores are float32)",
        "P equation 3, appendix C; WGAN algorithm 1; the released scripts",
        f"largest relative error {losses:.1e}, of critic and generator",
        losses <= FLOAT32,
    )
    slope = max(row["norm_error"] for row in found["linear"])
    study.claim(
        "The gradient of a linear critic has the norm of its weights, and the penalty is (norm - 1)^2 "
        f"(difference at most {EXACT:g}), by our engine and by stock code",
        "P equation 3",
        f"norm within {slope:.1e}, penalty within {max(row['two_error'] for row in found['linear']):.1e}",
        max(slope, *(row["two_error"] for row in found["linear"])) <= EXACT,
    )
    below = [row["one_sided"] for row in found["linear"] if row["weight"] < 1]
    above = [row["one_error"] for row in found["linear"] if row["weight"] >= 1]
    study.claim(
        "The one-sided penalty is zero for norms below 1, and the two-sided one's value above",
        "P appendix C",
        f"largest below {max(below):g}; above within {max(above):.1e}",
        max(below) == 0 and max(above) <= EXACT,
    )
    norm = found["norm"]
    study.claim(
        "With batch norm in the critic the gradient at a sample depends on the others of the batch; with "
        "layer norm it does not",
        "P section 4",
        f"relative change of the gradient when the others are replaced: batch norm "
        f"{norm['batch']:.2f}, layer norm {norm['layer']:.1e}",
        norm["batch"] > 0.01 and norm["layer"] <= EXACT,
    )
    study.claim(
        "So this package warns of the penalty on a critic with batch norm, and its trainer refuses the pair",
        "P section 4",
        f"warned: {norm['warned']}; refused under wgan-gp: {norm['refused']}, under wgan: "
        f"{norm['wgan_refused']}",
        norm["warned"] and norm["refused"] and not norm["wgan_refused"],
    )


def measured_rules() -> dict[str, Any]:
    """All numbers of :func:`rules`, in float64."""
    return {"losses": _losses(), "linear": _linear(), "norm": _batch_norm()}


def _critic(features: int) -> tuple[nn.Module, Callable[[Tensor], None]]:
    """``weight . x + 0.1``, ``[N, features] -> [N]``, and a function that sets the weight.

    One module for all weights: a new one would be captured anew for each.
    """
    linear = nn.Linear(features, 1).double()
    nn.init.constant_(linear.bias, 0.1)

    def become(weight: Tensor) -> None:
        with torch.no_grad():
            linear.weight.copy_(weight[None])

    return nn.Sequential(linear, nn.Flatten(0)), become


def _losses() -> list[dict[str, Any]]:
    real = torch.tensor([[1.0, 0.5], [0.0, -1.0], [2.0, 0.25], [-0.5, 3.0]], dtype=torch.float64)
    fake = torch.tensor([[0.0, 0.0], [-1.0, 1.0], [0.5, -2.0], [1.5, 1.0]], dtype=torch.float64)
    alpha = torch.tensor([0.1, 0.5, 0.75, 1.0], dtype=torch.float64)
    critic, become = _critic(2)
    rows = []
    for name, (of_critic, of_generator) in BY_HAND.items():
        loss, _, sided = name.partition(", ")
        for weight, slope in (([0.6, 0.8], 1.0), ([-0.3, 0.4], 0.5), ([2.0, 0.0], 2.0)):
            r, f = (
                [sum(w * v for w, v in zip(weight, x, strict=True)) + 0.1 for x in part.tolist()]
                for part in (real, fake)
            )
            become(torch.tensor(weight, dtype=torch.float64))
            config = Config(preset="toy", loss=loss, one_sided=bool(sided), lambda_gp=LAMBDA)  # type: ignore[arg-type]
            ours = [
                Objective(critic, config)(real, fake, alpha).loss.item(),
                LOSSES[loss].generator(critic(fake)).item(),
            ]
            hand = [of_critic(r, f, slope), of_generator(f)]
            rows.append({
                "loss": name, "slope": slope, "critic": ours[0], "critic_hand": hand[0],
                "generator": ours[1], "generator_hand": hand[1],
                "error": max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(ours, hand, strict=True)),
            })  # fmt: skip
    return rows


def _linear() -> list[dict[str, float]]:
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(12, generator=random, dtype=torch.float64)
    real, fake = torch.randn(2, 16, 12, generator=random, dtype=torch.float64)
    critic, become = _critic(12)
    rows = []
    for wanted in NORMS:
        weight = direction / direction.norm() * wanted
        norm = math.sqrt(math.fsum(w * w for w in weight.tolist()))
        become(weight)
        norms = torch.stack([gradient_norm(critic, real, impl=impl).detach() for impl in IMPL])
        both, one = (
            [gradient_penalty(critic, real, fake, one_sided=sided, impl=impl).item() for impl in IMPL]
            for sided in (False, True)
        )
        rows.append({
            "weight": norm, "norm": norms.mean().item(), "two_sided": both[0], "one_sided": max(one),
            "norm_error": (norms - norm).abs().max().item(),
            "two_error": max(abs(value - (norm - 1) ** 2) for value in both),
            "one_error": max(abs(value - max(0.0, norm - 1) ** 2) for value in one),
        })  # fmt: skip
    return rows


def _batch_norm() -> dict[str, Any]:
    random = torch.Generator().manual_seed(0)
    x, others = torch.randn(2, 8, 4, 6, 6, generator=random, dtype=torch.float64)
    mixed = torch.cat([x[:1], others[1:]])
    found: dict[str, Any] = {}
    for name, norm in (("batch", nn.BatchNorm2d), ("layer", lambda channels: nn.GroupNorm(1, channels))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            gradient_penalty(_normed(norm(5)), x, others)
        if name == "batch":
            found["warned"] = any(issubclass(w.category, BatchNormWarning) for w in caught)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BatchNormWarning)
            critic = _normed(norm(5))
            first, second = (input_gradient(critic, part).detach()[0] for part in (x, mixed))
        found[name] = ((first - second).norm() / first.norm()).item()
    for loss, key in (("wgan-gp", "refused"), ("wgan", "wgan_refused")):
        try:
            Config(preset="cifar10", data="digits", loss=loss, critic_norm="batch")  # type: ignore[arg-type]
            found[key] = False
        except UserError:
            found[key] = True
    return found


def _normed(norm: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(4, 5, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(80, 1), nn.Flatten(0)
        ).double()
