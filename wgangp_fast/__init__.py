"""wgangp_fast: the WGAN-GP gradient penalty, exact and fast.

    penalty = gradient_penalty(critic, real, fake)      # replaces the stock call
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty

Each name is imported when it is first used; torch and numpy are all that it needs. The first call loads the
engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import (
    interrupts,  # noqa: F401 - before torch, whose import takes seconds
    lazy,
)

if TYPE_CHECKING:
    from .acceleration import accelerate
    from .autotune import ExecutorChoice, choose_executor
    from .cuda_graphs.step import GraphedCriticStep, GraphedStep, make_graphed_step
    from .errors import (
        BackendError,
        BatchNormWarning,
        GraphError,
        ManyCapturesWarning,
        StockPathWarning,
        UntestedTorchWarning,
    )
    from .explanation import Explanation, explain
    from .loss import CriticLoss, CriticLossOutput, critic_loss
    from .penalty import gradient_norm, gradient_penalty, input_gradient, r1_penalty

__all__ = [
    "BackendError",
    "BatchNormWarning",
    "CriticLoss",
    "CriticLossOutput",
    "ExecutorChoice",
    "Explanation",
    "GraphError",
    "GraphedCriticStep",
    "GraphedStep",
    "ManyCapturesWarning",
    "StockPathWarning",
    "UntestedTorchWarning",
    "accelerate",
    "choose_executor",
    "critic_loss",
    "explain",
    "gradient_norm",
    "gradient_penalty",
    "input_gradient",
    "make_graphed_step",
    "r1_penalty",
]
__version__ = "0.1.0.dev0"

__getattr__, __dir__ = lazy.attach(
    __name__,
    {
        "acceleration": ("accelerate",),
        "autotune": ("ExecutorChoice", "choose_executor"),
        "cuda_graphs.step": ("GraphedCriticStep", "GraphedStep", "make_graphed_step"),
        "errors": (
            *("BackendError", "BatchNormWarning", "GraphError", "ManyCapturesWarning", "StockPathWarning"),
            "UntestedTorchWarning",
        ),
        "explanation": ("Explanation", "explain"),
        "loss": ("CriticLoss", "CriticLossOutput", "critic_loss"),
        "penalty": ("gradient_norm", "gradient_penalty", "input_gradient", "r1_penalty"),
    },
    modules=("compat", "ops", "training"),
)
