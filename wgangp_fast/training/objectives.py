"""The critic's loss as a module: one process's part of a step, which DistributedDataParallel wraps.

A critic with an attribute ``classes`` above 0 has the second head of an AC-GAN: it returns scores ``[N]`` and
logits ``[N, classes]``. Wasserstein estimate and penalty are of the scores, a cross entropy of the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wgangp_fast.loss import CriticLoss
from wgangp_fast.penalty import penalty_and_norms
from wgangp_fast.request import checked

from .config import Config
from .losses import LOSSES, Loss, classes

IMPL = {"fast": "auto", "stock": "ref"}


class Scores(NamedTuple):
    """Of one critic loss: the loss, and scalars for the log.

    ``penalty`` and ``grad_norm`` are None for losses without a penalty, ``class_loss`` for critics without
    classes.
    """

    loss: Tensor
    wasserstein: Tensor
    penalty: Tensor | None = None
    grad_norm: Tensor | None = None
    class_loss: Tensor | None = None


def scores_of(found: Any) -> Tensor:
    """The scores ``[N]`` of what a critic returned, with or without a second head."""
    scores: Tensor = found[0] if isinstance(found, tuple) else found
    return scores


class Objective(nn.Module):
    """The critic's loss on a batch: ``forward(real, fake, alpha[, labels]) -> Scores``.

    In float32 the loss of a WGAN-GP is the package's ``critic_loss``, one pass for everything. With ``bf16``
    the scores are computed under autocast and the penalty in float32, in passes of their own; other losses
    with a penalty have it in a pass of its own too.
    """

    def __init__(self, critic: nn.Module, config: Config) -> None:
        super().__init__()
        self.critic = critic
        self.kind = LOSSES[config.loss]
        self.mixed = config.precision == "bf16"
        self.lambda_gp = config.lambda_gp
        self.impl, self.one_sided = IMPL[config.penalty], config.one_sided
        self.class_weight = config.acgan_critic
        self.output = scores_of if getattr(critic, "classes", 0) else None
        self.whole = CriticLoss(
            critic, config.lambda_gp, one_sided=self.one_sided, impl=self.impl, output=self.output
        )

    def forward(self, real: Tensor, fake: Tensor, alpha: Tensor, *labels: Tensor) -> Scores:
        """``real``, ``fake`` ``[N, ...]`` float32, ``alpha [N]``: the weight of real in a penalty point;
        for a critic with classes ``labels [N]`` int64, of real."""
        if self.kind.whole and not self.mixed:
            found = self.whole(real, fake, alpha=alpha)
            scores = Scores(found.loss, found.wasserstein, found.penalty, found.grad_norm.mean())
            # critic_loss gives no logits, so real samples pass once more: that costs as much as three forward
            # passes, the rest of the step as much as ten.
            return self._with_classes(scores, self.critic(real), *labels) if labels else scores
        with half(real.device, self.mixed):
            out, fake_out = self.critic(real), self.critic(fake)
        of_real, of_fake = scores_of(out).float(), scores_of(fake_out).float()
        loss, wasserstein = self.kind.critic(of_real, of_fake), (of_real.mean() - of_fake.mean()).detach()
        scores = Scores(loss, wasserstein)
        if self.kind.penalised:
            penalty, norms = self._penalty(real, fake, alpha)
            scores = Scores(loss + self.lambda_gp * penalty, wasserstein, penalty.detach(), norms.mean())
        return self._with_classes(scores, out, *labels) if labels else scores

    def _with_classes(self, scores: Scores, of_real: tuple[Tensor, Tensor], labels: Tensor) -> Scores:
        found = classes(of_real[1], labels)
        return scores._replace(loss=scores.loss + self.class_weight * found, class_loss=found.detach())

    def _penalty(self, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        request, _ = checked(
            self.critic, real, fake, alpha=alpha, target=1.0, one_sided=self.one_sided, output=self.output,
            generator=None, impl=self.impl, recompute=False, executor="eager",
        )  # fmt: skip
        return penalty_and_norms(request)


def half(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def generator_loss(
    kind: Loss, critic: nn.Module, images: Tensor, labels: Tensor | None, weight: float
) -> tuple[Tensor, Tensor | None]:
    """The generator's loss, a float32 scalar; with ``labels [N]`` int64, of ``images``, plus ``weight`` times
    the cross entropy of the critic's logits, which is also returned."""
    found = critic(images)
    loss = kind.generator(scores_of(found).float())
    if labels is None:
        return loss, None
    of_classes = classes(found[1], labels)
    return loss + weight * of_classes, of_classes.detach()
