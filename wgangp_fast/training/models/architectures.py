"""Random pairs of 32 x 32 networks, as drawn for the paper's study of robustness (section 5.1, table 1).

The depth counts layers of the DCGAN of that size, which has four; a deeper network has 3x3 convolutions of
stride 1 at its 8 x 8 stage besides. The paper does not say where it adds layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .dcgan import ConvCritic, ConvGenerator

ACTIVATIONS = ("relu", "leaky_relu", "shifted_softplus", "tanh")
DEPTHS = (4, 8, 12, 20)
DIMS = (32, 64, 128)


@dataclass(frozen=True)
class Architecture:
    """One of the 9216 pairs.

    Attributes:
        generator_activation, critic_activation: a name of :data:`ACTIVATIONS`.
        generator_depth, critic_depth: layers, of :data:`DEPTHS`.
        generator_norm, critic_norm: whether there are norms.
        generator_dim, critic_dim: base filters, of :data:`DIMS`.
    """

    generator_activation: str
    critic_activation: str
    generator_depth: int
    critic_depth: int
    generator_norm: bool
    critic_norm: bool
    generator_dim: int
    critic_dim: int

    def build_critic(
        self, norm: str = "layer", *, channels: int = 3, size: int = 32, padding: str = "symmetric"
    ) -> nn.Module:
        """The critic ``[N, channels, size, size] -> [N]`` with fresh weights.

        Args:
            norm: what a critic with norms has: ``"layer"`` under a gradient penalty, ``"batch"`` in a GAN.
            padding: ``"symmetric"`` or ``"same"`` (see :mod:`.blocks`).
        """
        return ConvCritic(
            channels=channels,
            size=size,
            dim=self.critic_dim,
            norm=norm if self.critic_norm else None,
            activation=self.critic_activation,
            extra=self.critic_depth - DEPTHS[0],
            padding=padding,
        )

    def build_generator(
        self, *, latent: int = 128, channels: int = 3, size: int = 32, padding: str = "symmetric"
    ) -> nn.Module:
        """The generator ``[N, latent] -> [N, channels, size, size]`` in (-1, 1), with fresh weights."""
        return ConvGenerator(
            channels=channels,
            size=size,
            dim=self.generator_dim,
            norm="batch" if self.generator_norm else None,
            activation=self.generator_activation,
            latent=latent,
            extra=self.generator_depth - DEPTHS[0],
            padding=padding,
        )


CHOICES: dict[str, tuple[str, ...] | tuple[int, ...] | tuple[bool, ...]] = {
    "generator_activation": ACTIVATIONS,
    "critic_activation": ACTIVATIONS,
    "generator_depth": DEPTHS,
    "critic_depth": DEPTHS,
    "generator_norm": (False, True),
    "critic_norm": (False, True),
    "generator_dim": DIMS,
    "critic_dim": DIMS,
}


def random_architecture(seed: int | torch.Generator) -> Architecture:
    """Draw each setting independently and uniformly.

    Args:
        seed: a number, which means the same pair everywhere, or a generator on the CPU, which is advanced.
    """
    random = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    drawn: dict[str, Any] = {
        name: choices[int(torch.randint(len(choices), (), generator=random))]
        for name, choices in CHOICES.items()
    }
    return Architecture(**drawn)
