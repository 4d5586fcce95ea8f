"""The critic's loss as a module: one process's part of a step, which DistributedDataParallel wraps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wgangp_fast import backend
from wgangp_fast.execution import execution
from wgangp_fast.loss import CriticLoss
from wgangp_fast.penalty import penalty_and_norms

from .config import Config
from .losses import LOSSES, Loss

IMPL = {"fast": "auto", "stock": "ref"}


class Scores(NamedTuple):
    """Of one critic loss: the loss, and scalars for the log.

    ``penalty`` and ``grad_norm`` are None for losses without a penalty.
    """

    loss: Tensor
    wasserstein: Tensor
    penalty: Tensor | None = None
    grad_norm: Tensor | None = None


class Objective(nn.Module):
    """The critic's loss on a batch: ``forward(real, fake, alpha) -> Scores``.

    In float32 a penalised loss is the package's ``critic_loss``, one pass for everything. With ``bf16`` the
    scores are computed under autocast and the penalty in float32, in passes of their own.
    """

    def __init__(self, critic: nn.Module, config: Config) -> None:
        super().__init__()
        self.critic = critic
        self.kind = LOSSES[config.loss]
        self.mixed = config.precision == "bf16"
        self.lambda_gp = config.lambda_gp
        self.impl, self.one_sided = IMPL[config.penalty], config.one_sided
        self.whole = CriticLoss(critic, config.lambda_gp, one_sided=self.one_sided, impl=self.impl)

    def forward(self, real: Tensor, fake: Tensor, alpha: Tensor) -> Scores:
        """``real``, ``fake`` ``[N, ...]`` float32, ``alpha [N]``: the weight of real in a penalty point."""
        if self.kind.penalised and not self.mixed:
            found = self.whole(real, fake, alpha=alpha)
            return Scores(found.loss, found.wasserstein, found.penalty, found.grad_norm.mean())
        with half(real.device, self.mixed):
            of_real, of_fake = self.critic(real), self.critic(fake)
        of_real, of_fake = of_real.float(), of_fake.float()
        loss, wasserstein = self.kind.critic(of_real, of_fake), (of_real.mean() - of_fake.mean()).detach()
        if not self.kind.penalised:
            return Scores(loss, wasserstein)
        penalty, norms = self._penalty(real, fake, alpha)
        return Scores(loss + self.lambda_gp * penalty, wasserstein, penalty.detach(), norms.mean())

    def _penalty(self, real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        return penalty_and_norms(
            self.critic, real, fake, weights=alpha, target=1.0, one_sided=self.one_sided, reduction="mean",
            output=None, generator=None, chosen=backend.resolve(self.impl, real.device),
            how=execution(False, "eager"),
        )  # fmt: skip


def half(device: torch.device, wanted: bool) -> torch.autocast:
    """bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def generator_loss(kind: Loss, critic: nn.Module, images: Tensor) -> Tensor:
    """The generator's loss, a float32 scalar."""
    return kind.generator(critic(images).float())
