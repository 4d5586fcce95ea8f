"""Public functions: gradient_penalty and r1_penalty (stock path only, until the engine lands)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import backend, reference


def gradient_penalty(
    critic: Callable[..., Any], real: Tensor, fake: Tensor, *, alpha: Tensor | None = None, target: float = 1.0,
    one_sided: bool = False, reduction: str = "mean", output: Callable[[Any], Tensor] | None = None,
    generator: torch.Generator | None = None, impl: str = "auto",
) -> Tensor:
    backend.resolve(impl)
    if alpha is None:
        alpha = torch.rand(real.shape[0], generator=generator, device=real.device, dtype=real.dtype)
    a = alpha.view(-1, *[1] * (real.dim() - 1))
    f = critic if output is None else (lambda x: output(critic(x)))
    return reference.gradient_penalty(f, real, fake, a, target=target, one_sided=one_sided, reduction=reduction)
