"""The functions that are given the critic's output: autograd differentiates the graph that exists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import reference
from ..penalty import input_gradient
from .shared import (
    Device,
    check_choice,
    check_number,
    check_samples,
    first,
    kind,
    labelled,
)


def lucidrains_gradient_penalty(images: Tensor, output: Tensor, weight: float = 10) -> Tensor:
    """lucidrains' ``gradient_penalty``: ``weight * mean_i (||d output / d images_i|| - 1)^2``.

    The critic has run already, so autograd differentiates the given graph, at stock speed; for the engine
    call :func:`wgangp_fast.gradient_penalty` with the critic instead.

    Args:
        images: ``[N, ...]``, requires a gradient.
        output: what the critic made of ``images``.
        weight: lambda, inside.
    """
    check_number("weight", weight)
    norm = reference.sample_norm(_of_graph("images", images, "output", output))
    return weight * (norm - 1).square().mean()


def wasserstein_gradient_penalty(
    interpolate: Tensor, d_interpolate: Tensor, reduction: str = "mean"
) -> Tensor:
    """torchgan: ``(||d d_interpolate / d interpolate|| - 1)^2`` with ONE norm over the whole batch, a scalar.

    Not the paper's penalty. The critic has run already, so autograd differentiates the given graph, at
    stock speed.

    Args:
        interpolate: ``[N, ...]``, requires a gradient.
        d_interpolate: what the critic made of it.
        reduction: ``"mean"``, ``"sum"``, ``"none"`` or ``"elementwise_mean"``: of a scalar, all the same.
    """
    check_choice("reduction", reduction, _TORCHGAN_REDUCTIONS)
    return (_of_graph("interpolate", interpolate, "d_interpolate", d_interpolate).norm(2) - 1).square()


def ZeroCenteredGradientPenalty(samples: Tensor, critics: Tensor) -> Tensor:
    """R3GAN: ``||d critics / d samples_i||^2`` for each sample: R1 on real samples, R2 on fake ones.

    The critic has run already, so autograd differentiates the given graph, at stock speed; for the engine
    call :func:`wgangp_fast.r1_penalty` with ``gamma=2, reduction="none"``.

    Args:
        samples: ``[N, ...]``, requires a gradient.
        critics: what the critic made of them, any shape.

    Returns:
        ``[N]``.
    """
    gradient = _of_graph("samples", samples, "critics", critics)
    return gradient.square().reshape(gradient.shape[0], -1).sum(1)


_TORCHGAN_REDUCTIONS = ("mean", "sum", "none", "elementwise_mean")


class WassersteinGradientPenalty(nn.Module):
    """torchgan's loss: ``forward`` on the caller's graph, ``train_ops`` for a critic step by the engine.

    For torchgan's ``Trainer``: ``class Penalty(WassersteinGradientPenalty, DiscriminatorLoss): pass``.

    Args:
        reduction: as in :func:`wasserstein_gradient_penalty`.
        lambd: lambda, used by ``train_ops`` alone.
        override_train_ops: called in place of ``train_ops``, with this loss in front.
    """

    def __init__(
        self,
        reduction: str = "mean",
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


def _of_graph(input_name: str, x: Any, output_name: str, output: Any) -> Tensor:
    """``d output.sum() / d x``, with history: ``[N, ...]``."""
    check_samples(input_name, x)
    if not isinstance(output, Tensor):
        raise TypeError(f"{output_name} must be a tensor, got {kind(output)}")
    if not x.requires_grad:
        raise ValueError(
            f"{input_name} must require a gradient before the critic runs: {input_name}.requires_grad_()"
        )
    if not output.requires_grad:
        raise ValueError(f"{output_name} must be the critic's output at {input_name}; it has no history")
    (gradient,) = torch.autograd.grad(
        output, x, torch.ones_like(output), create_graph=True, retain_graph=True, allow_unused=True
    )
    if gradient is None:
        raise ValueError(
            f"{output_name} must be the critic's output at {input_name}; it does not depend on it"
        )
    return gradient
