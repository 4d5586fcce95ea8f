"""What the tests of graphed steps share: critics, optimisers, and a captured step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from wgangp_fast import GraphedCriticStep

BATCH, CALLS = 4, 6


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))


CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (3,)),
    "dcgan": (
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 5, 2, 2), nn.LeakyReLU(0.2), nn.Conv2d(4, 6, 5, 2, 2), nn.LeakyReLU(0.2)),
            *(nn.Flatten(), nn.Linear(24, 1)),
        ),
        (3, 8, 8),
    ),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1)),
        (3,),
    ),
    "dropout": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)),
        (3,),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)),
        (3,),
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.0, 0.9), fused=True, capturable=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
}


def adam_step(critic: nn.Module, **options: Any) -> tuple[GraphedCriticStep, torch.optim.Optimizer]:
    optimizer = OPTIMIZERS["adam"](critic.parameters())
    return GraphedCriticStep(critic, optimizer, warmup=1, **options), optimizer


def ready(critic: nn.Module) -> tuple[GraphedCriticStep, torch.optim.Optimizer, Callable[[], Any]]:
    """A captured step, and how to call it."""
    step, optimizer = adam_step(critic)
    real, fake = torch.randn(2, BATCH, 3)

    def call() -> Any:
        return step(real, fake)

    call()
    call()
    assert step.captured
    return step, optimizer, call
