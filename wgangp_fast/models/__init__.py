"""Critics and generators by name: ``build("dcgan64-critic", dim=64, norm="layer")``.

Each name is a family of :mod:`.networks` with the sizes of the paper filled in; keywords override them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .networks import MLP, ConvCritic, ConvGenerator

__all__ = ["MLP", "ConvCritic", "ConvGenerator", "build", "names"]


def _toy_generator(latent: int = 2, **settings: Any) -> nn.Module:
    return MLP(latent, 2, **settings)


def _dcgan64(family: Callable[..., nn.Module], **settings: Any) -> nn.Module:
    # .02 is the deviation that the released 64 x 64 script puts on every weight, except in its gated pair.
    if settings.get("activation") != "gate":
        settings.setdefault("sigma", 0.02)
    return family(**settings)


_REGISTRY: dict[str, Callable[..., nn.Module]] = {
    "toy-critic": partial(MLP, 2, 1),
    "toy-generator": _toy_generator,
    "digits-critic": partial(ConvCritic, channels=1, size=8, kernel=3),
    "digits-generator": partial(ConvGenerator, channels=1, size=8, kernel=3),
    "dcgan64-critic": partial(_dcgan64, ConvCritic),
    "dcgan64-generator": partial(_dcgan64, ConvGenerator),
}


def names() -> list[str]:
    """Names that :func:`build` knows, sorted."""
    return sorted(_REGISTRY)


def build(name: str, **settings: Any) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's default generator.

    Args:
        name: one of :func:`names`.
        settings: keywords of its class (:class:`MLP`, :class:`ConvCritic`, :class:`ConvGenerator`).

    Returns:
        float32 module on the CPU. A critic maps ``[N, ...]`` to scores ``[N]``, a generator ``[N, latent]``
        to samples.

    Raises:
        ValueError: an unknown name, or values that the class refuses.
        TypeError: a keyword that the class does not have.
    """
    if name not in _REGISTRY:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(names())}")
    return _REGISTRY[name](**settings)
