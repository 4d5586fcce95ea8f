"""Critic, generator and optimisers of a run, as its settings say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast.errors import UserError
from wgangp_fast.training import models
from wgangp_fast.training.data import Samples, Stored

from .config import Config


def build_networks(config: Config, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Critic and generator for samples of ``shape``, their weights drawn from ``config.seed``.

    Raises:
        UserError: a network that does not suit the data.
    """
    image = len(shape) == 3
    for name in (config.critic, config.generator):
        network = models.info(name)
        if network.samples != ("images" if image else "points"):
            found = f"images {list(shape)}" if image else "points"
            hint = "digits" if image else "toy-8gaussians"
            raise UserError(f"{name} does not suit {config.data}, which holds {found}; try --preset {hint}")
    critic_settings: dict[str, Any] = {"dim": config.critic_dim}
    generator_settings: dict[str, Any] = {"dim": config.generator_dim, "latent": config.latent}
    if image:
        common = {"channels": shape[0], "size": shape[1], "padding": config.padding}
        critic_settings |= {**common, "norm": config.critic_norm}
        generator_settings |= {**common, "norm": config.generator_norm}
    elif (config.critic_norm, config.generator_norm) != ("none", "none"):
        raise UserError("perceptrons have no norm: critic_norm and generator_norm must be none")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        try:
            critic = models.build(config.critic, **critic_settings)
            generator = models.build(config.generator, **generator_settings)
        except ValueError as error:  # a size that the network cannot halve, a norm that it does not have
            raise UserError(f"{config.data}, samples {list(shape)}: {error}") from None
    return critic, generator


def count_classes(
    critic: nn.Module, generator: nn.Module, names: tuple[str, str], *samples: Samples | None
) -> int:
    """How many labels critic and generator know; 0: none.

    Args:
        names: of critic and generator, for messages.
        samples: sets whose labels the networks get; None is left out.

    Raises:
        UserError: one network knows labels and the other does not, or they and the data differ in number.
    """
    counts = [int(getattr(network, "classes", 0)) for network in (critic, generator)]
    if not any(counts):
        return 0
    (most, name), (least, other) = sorted(zip(counts, names, strict=True), reverse=True)
    if most != least:
        what = f"knows {least} classes instead of {most}" if least else "takes none"
        raise UserError(f"{name} needs labels, and {other} {what}: choose two networks of the same classes")
    for found in samples:
        there = found.classes if isinstance(found, Stored) else 0
        if found is not None and there != most:
            what = f"has {there} classes" if there else "has no labels"
            raise UserError(f"{name} needs labels of {most} classes, and {found.name} {what}")
    return most


def build_optimizer(
    config: Config, parameters: Iterable[nn.Parameter], capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of a network; ``capturable``: its step and a falling rate can be part of a CUDA graph."""
    parameters = list(parameters)
    lr: float | Tensor = config.lr
    if capturable and config.lr_decay != "none":
        lr = torch.tensor(config.lr, device=parameters[0].device)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, capturable=capturable)
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(parameters, lr=lr, betas=betas, fused=True, capturable=capturable)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Change the learning rate; in place where a graph reads it from memory."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load ``state``, but keep how this run steps (captured or not), which the checkpoint cannot know."""
    own = [{key: group[key] for key in ("lr", "capturable")} for group in optimizer.param_groups]
    groups = [{**saved, **kept} for saved, kept in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
