"""wgangp_fast: the WGAN-GP gradient penalty, exact and fast.

    penalty = gradient_penalty(critic, real, fake)      # replaces the stock call
    loss = critic(fake).mean() - critic(real).mean() + 10 * penalty

Importing this needs torch and numpy alone; the engine is loaded by the first call.
"""

from . import interrupts  # noqa: F401 - before torch, whose import takes seconds
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
from .explain import Explanation, explain
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
