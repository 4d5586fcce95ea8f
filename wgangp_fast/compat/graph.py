"""The functions that get the critic's output, not the critic: autograd differentiates the caller's graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..penalty import input_gradient
from .shared import Device, check_choice, check_number, check_samples, first, labelled, of_graph


def wasserstein_gradient_penalty(
    interpolate: Tensor, d_interpolate: Tensor, reduction: str | None = "mean"
) -> Tensor:
    """torchgan: ``(||d d_interpolate / d interpolate|| - 1)^2`` with ONE norm over the whole batch, a scalar.

    Follows torchgan 0.1.0 (``torchgan.losses.functional``), and the releases before it, whose default
    reduction had another name. Not the paper's penalty. The critic has run already, so autograd
    differentiates the given graph, at stock speed unless the critic is accelerated
    (:func:`wgangp_fast.accelerate`).

    Args:
        interpolate: ``[N, ...]``, requires a gradient.
        d_interpolate: what the critic made of it.
        reduction: ``"mean"``, ``"sum"``, ``"none"``, None or ``"elementwise_mean"``: of a scalar, all the
            same.
    """
    check_choice("reduction", reduction, _TORCHGAN_REDUCTIONS)
    gradient = of_graph(("interpolate", interpolate), [("d_interpolate", d_interpolate)])
    return (gradient.norm(2) - 1).square()


def ZeroCenteredGradientPenalty(Samples: Tensor, Critics: Tensor) -> Tensor:
    """R3GAN: ``||d Critics / d Samples_i||^2`` for each sample: R1 on real samples, R2 on fake ones.

    Follows Lemutisme/R3GAN, ``R3GAN/Trainer.py`` (no releases; read at 328b811). Zero-centred; multiplied by
    ``Gamma / 2`` outside. The critic has run already, so autograd differentiates the given graph, at stock
    speed unless the critic is accelerated (:func:`wgangp_fast.accelerate`); or call
    :func:`wgangp_fast.r1_penalty` with ``gamma=2, reduction="none"``.

    Args:
        Samples: ``[N, ...]``, requires a gradient; the original takes images ``[N, C, H, W]``.
        Critics: what the critic made of them, any shape.

    Returns:
        ``[N]``.
    """
    gradient = of_graph(("Samples", Samples), [("Critics", Critics)])
    return gradient.square().reshape(gradient.shape[0], -1).sum(1)


_TORCHGAN_REDUCTIONS = ("mean", "sum", "none", "elementwise_mean", None)


class WassersteinGradientPenalty(nn.Module):
    """torchgan's loss: ``forward`` on the caller's graph, ``train_ops`` for a critic step by the engine.

    Follows torchgan 0.1.0 (``torchgan.losses``). For torchgan's ``Trainer``:
    ``class Penalty(WassersteinGradientPenalty, DiscriminatorLoss): pass``.

    Args:
        reduction: as in :func:`wasserstein_gradient_penalty`.
        lambd: lambda, used by ``train_ops`` alone.
        override_train_ops: called in place of ``train_ops``, with this loss in front.
    """

    def __init__(
        self,
        reduction: str | None = "mean",
        lambd: float = 10.0,
        override_train_ops: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        check_choice("reduction", reduction, _TORCHGAN_REDUCTIONS)
        check_number("lambd", lambd)
        self.reduction = reduction
        self.lambd = lambd
        self.override_train_ops = override_train_ops

    def forward(self, interpolate: Tensor, d_interpolate: Tensor) -> Tensor:
        """:func:`wasserstein_gradient_penalty`, unweighted."""
        return wasserstein_gradient_penalty(interpolate, d_interpolate, self.reduction)

    def train_ops(
        self,
        generator: Any,
        discriminator: Any,
        optimizer_discriminator: torch.optim.Optimizer,
        real_inputs: Tensor,
        device: Device,
        labels: Tensor | None = None,
    ) -> float:
        """One optimiser step on ``lambd`` times the penalty, at points with ONE alpha for the whole batch.

        ``generator`` and ``discriminator`` say by their ``label_type`` (``"none"``, ``"required"``,
        ``"generated"``) whether they take labels, as torchgan's models do.

        Returns:
            The penalty before the step, unweighted.
        """
        if self.override_train_ops is not None:
            return self.override_train_ops(
                self, generator, discriminator, optimizer_discriminator, real_inputs, labels
            )
        check_samples("real_inputs", real_inputs)
        if labels is None and "required" in (generator.label_type, discriminator.label_type):
            raise ValueError("labels: the model requires them (label_type is 'required'); got None")
        count = real_inputs.shape[0]
        noise = torch.randn(count, generator.encoding_dims, device=device)
        if generator.label_type == "generated":
            labels = torch.randint(0, generator.num_classes, (count,), device=device)
        optimizer_discriminator.zero_grad()
        fake = generator(noise) if generator.label_type == "none" else generator(noise, labels)
        alpha = torch.rand(1).item()
        critic, finish = labelled(discriminator, None if discriminator.label_type == "none" else labels)
        x = alpha * real_inputs + (1 - alpha) * fake
        penalty = (finish(input_gradient(critic, x, output=first)).norm(2) - 1).square()
        (self.lambd * penalty).backward()
        optimizer_discriminator.step()
        return penalty.item()
