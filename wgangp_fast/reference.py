"""The stock gradient penalty: the ground truth of every test, and what runs if a critic cannot be captured.

This is the usual code (Gulrajani et al. 2017, eq. 3 and algorithm 1): ``autograd.grad``
with ``create_graph=True``, so that the penalty can be backpropagated through the backward pass. It
shares no code with the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import checks

Critic = Callable[[Tensor], Any]


def input_gradient(critic: Critic, x: Tensor, grad_outputs: Tensor | None = None) -> Tensor:
    """Gradient of ``(critic(x) * grad_outputs).sum()`` with respect to ``x``, itself differentiable.

    Args:
        critic: returns a tensor of any shape.
        grad_outputs: the score's cotangent, in its shape and dtype; None: ones, as in published penalties.
        x: ``[N, ...]``, floating point. Gradients flow back to it if it requires them.

    Returns:
        ``[N, ...]``, dtype and device of ``x``.
    """
    # The fused attention kernels have no second derivative; attention made of plain operators has.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        score = critic(x)
        gradient = None
        if score.requires_grad:
            cotangent = torch.ones_like(score) if grad_outputs is None else grad_outputs
            checks.cotangent(cotangent, tuple(score.shape), score.dtype, score.device)
            (gradient,) = torch.autograd.grad(score, x, cotangent, create_graph=True, allow_unused=True)
    if gradient is None:
        raise ValueError("critic: its output does not depend on x, so there is no gradient to penalise")
    return gradient


def sample_norm(gradient: Tensor) -> Tensor:
    """Euclidean norm of each sample: ``[N, ...]`` to ``[N]``.

    float32 at least, whatever the gradient's dtype. No epsilon, like the paper's code; the
    subgradient at exactly zero is zero, so nothing becomes NaN.
    """
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    if gradient.dim() < 2:
        return gradient.to(dtype).abs()
    return torch.linalg.vector_norm(gradient, dim=tuple(range(1, gradient.dim())), dtype=dtype)


def penalty_of_norm(norm: Tensor, target: float, one_sided: bool) -> Tensor:
    """``(n - target)^2``, or ``max(0, n - target)^2`` if one-sided (paper, appendix C)."""
    excess = norm - target
    return (excess.clamp(min=0) if one_sided else excess).square()


def reduce(penalty: Tensor, reduction: str) -> Tensor:
    """``"mean"``, ``"sum"`` or ``"none"`` over the samples."""
    return penalty if reduction == "none" else getattr(penalty, reduction)()


def gradient_penalty(
    critic: Critic,
    real: Tensor,
    fake: Tensor,
    alpha: Tensor,
    *,
    target: float = 1.0,
    one_sided: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """The stock penalty at ``alpha * real + (1 - alpha) * fake``; ``alpha`` broadcasts against ``real``."""
    norm = penalty_norms(critic, real, fake, alpha)
    return reduce(penalty_of_norm(norm, target, one_sided), reduction)


def penalty_norms(critic: Critic, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Norms ``[N]`` of the critic's gradient at ``alpha * real + (1 - alpha) * fake``."""
    return sample_norm(input_gradient(critic, alpha * real + (1 - alpha) * fake))
