"""Critics and generators by name: ``build("dcgan64-critic", dim=64, norm="layer")``.

Each name is a class with the sizes of the paper filled in; keywords override them, and :func:`info` says
which there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .architectures import Architecture, random_architecture
from .blocks import NORMS, PADDINGS, check_padding
from .dcgan import ConvCritic, ConvGenerator
from .language import LanguageCritic, LanguageGenerator
from .mlp import MLP, ImageMLPCritic, ImageMLPGenerator, PointCritic, PointGenerator
from .resnet import (
    CifarCritic,
    GoodCritic,
    Lsun128Critic,
    ResidualGenerator,
    ResNet101Critic,
    ResNet101Generator,
)

__all__ = [
    "MLP",
    "Architecture",
    "ConvCritic",
    "ConvGenerator",
    "Info",
    "build",
    "info",
    "names",
    "random_architecture",
]

PLAIN = ("none",)
LABELLED = tuple(NORMS)
ANY = (*PLAIN, *LABELLED)


@dataclass(frozen=True)
class _Row:
    """A class and what this name changes of its defaults; ``norms`` where the class has places for them."""

    family: type[nn.Module]
    defaults: Mapping[str, Any]
    norms: tuple[str, ...]


def _row(family: type[nn.Module], norms: tuple[str, ...], **defaults: Any) -> _Row:
    return _Row(family, defaults, norms)


# .02 is the deviation that the released 64 x 64 script puts on every weight of these networks alone.
_DCGAN64 = {"sigma": 0.02}
_MNIST = {"channels": 1, "size": 28, "depth": 3, "uneven": True}
_DIGITS = {"channels": 1, "size": 8, "kernel": 3}
# A WGAN of its own (clipped, hence the batch norm in its critic); .02 is the WGAN authors' deviation.
_MNIST32 = {"channels": 1, "size": 32, "dim": 256, "kernel": 4, "norm": "batch", "sigma": 0.02}
_CIFAR = {"size": 32, "dim": 128}
_CIFAR_RESNET = {**_CIFAR, "pyramid": False, "bias": True, "he": False}

_REGISTRY: dict[str, _Row] = {
    "toy-critic": _row(PointCritic, PLAIN),
    "toy-generator": _row(PointGenerator, PLAIN),
    "toy12-critic": _row(PointCritic, PLAIN, depth=12),
    "toy12-generator": _row(PointGenerator, PLAIN, depth=12),
    "digits-critic": _row(ConvCritic, ANY, **_DIGITS),
    "digits-generator": _row(ConvGenerator, ANY, **_DIGITS),
    "mnist-critic": _row(ConvCritic, ANY, **_MNIST),
    "mnist-generator": _row(ConvGenerator, ANY, **_MNIST, norm="none", flat_norm=True, output="sigmoid"),
    "mnist32-critic": _row(ConvCritic, ANY, **_MNIST32),
    "mnist32-generator": _row(ConvGenerator, ANY, **_MNIST32, latent=100, project="conv"),
    "cifar-critic": _row(ConvCritic, ANY, **_CIFAR),
    "cifar-generator": _row(ConvGenerator, ANY, **_CIFAR, flat_norm=True),
    "cifar-resnet-critic": _row(CifarCritic, ANY),
    "cifar-resnet-generator": _row(ResidualGenerator, ANY, **_CIFAR_RESNET),
    "cifar-resnet-acgan-critic": _row(CifarCritic, ANY, classes=10),
    "cifar-resnet-acgan-generator": _row(ResidualGenerator, LABELLED, **_CIFAR_RESNET, classes=10),
    "dcgan64-critic": _row(ConvCritic, ANY, **_DCGAN64),
    "dcgan64-generator": _row(ConvGenerator, ANY, **_DCGAN64),
    "crippled64-generator": _row(ConvGenerator, PLAIN, constant=True, norm="none"),
    "gated64-critic": _row(ConvCritic, ANY, activation="gate", norm="layer"),
    "gated64-generator": _row(ConvGenerator, ANY, activation="gate"),
    "good64-critic": _row(GoodCritic, ANY),
    "good64-generator": _row(ResidualGenerator, ANY),
    "resnet101-critic": _row(ResNet101Critic, ANY),
    "resnet101-generator": _row(ResNet101Generator, ANY),
    "fc64-critic": _row(ImageMLPCritic, PLAIN),
    "fc64-generator": _row(ImageMLPGenerator, PLAIN),
    "lsun128-critic": _row(Lsun128Critic, ANY),
    "lsun128-generator": _row(
        ResidualGenerator, ANY, size=128, bias=True, late=True, kernel=5, he=False, gain=0.5
    ),
    "language-critic": _row(LanguageCritic, PLAIN),
    "language-generator": _row(LanguageGenerator, PLAIN),
}

# First part of a name to the kind of its samples and their number of sides; all others are of images.
_KINDS = {"toy": ("points", 0), "toy12": ("points", 0), "language": ("sequences", 1)}
# Keywords that count something.
_COUNTS = ("channels", "size", "dim", "depth", "latent", "kernel", "blocks")


@dataclass(frozen=True)
class Info:
    """What :func:`build` makes of a name.

    Attributes:
        role: ``"critic"`` or ``"generator"``.
        samples: ``"points"``, ``"images"`` or ``"sequences"``.
        shape: of one sample by default: ``(2,)``, ``(channels, size, size)`` or ``(channels, size)``.
        norms: values of ``norm`` that it takes; ``("none",)`` if it has no place for one.
        classes: how many labels it knows: a critic then returns ``(scores, logits)``, a generator takes
            ``(z, labels)``; 0: none.
        defaults: every keyword that it takes, and its value if not given. ``"latent"`` is a generator's,
            ``"size"`` and ``"channels"`` are missing for points.
    """

    role: str
    samples: str
    shape: tuple[int, ...]
    norms: tuple[str, ...]
    classes: int
    defaults: Mapping[str, Any]


def names() -> list[str]:
    """Names that :func:`build` knows, sorted."""
    return sorted(_REGISTRY)


def info(name: str) -> Info:
    """Describe the network called ``name``.

    Raises:
        ValueError: an unknown name.
    """
    row = _find(name)
    parameters = inspect.signature(row.family).parameters
    defaults = {key: value.default for key, value in parameters.items()} | dict(row.defaults)
    defaults.setdefault("norm", "none")
    if defaults["norm"] is None:
        defaults["norm"] = "none"
    samples, sides = _KINDS.get(name.split("-")[0], ("images", 2))
    shape = (defaults["channels"], *[defaults["size"]] * sides) if sides else (2,)
    role = name.rpartition("-")[2]
    return Info(role, samples, shape, row.norms, defaults.get("classes", 0), defaults)


def build(name: str, **settings: Any) -> nn.Module:
    """Build a network with fresh weights, drawn from torch's default generator.

    Args:
        name: one of :func:`names`.
        settings: keywords of :func:`info`'s ``defaults``, and ``padding``, ``"symmetric"`` or ``"same"`` (the
            released code's, a row and a column less in front; see :mod:`.blocks`).

    Returns:
        float32 module on the CPU. A critic maps ``[N, ...]`` to scores ``[N]``, a generator ``[N, latent]``
        to samples. With ``classes``, a critic returns ``(scores [N], logits [N, classes])`` and a generator
        takes ``(z [N, latent], labels [N] int64)``.

    Raises:
        ValueError: an unknown name, or values that the class refuses.
        TypeError: a keyword that the class does not have.
    """
    row = _find(name)
    for key in _COUNTS:
        value = settings.get(key, 1)
        if not (value is None or (isinstance(value, int) and value >= 1)):
            raise ValueError(f"{key} of {name} must be a whole number of at least 1; got {value!r}")
    norm = settings.get("norm")
    if row.norms == PLAIN and norm is not None and norm != "none":
        raise ValueError(f"{name} has no place for a norm, so norm must be 'none'; got {norm!r}")
    defaults = dict(row.defaults)
    if settings.get("activation") == "gate":
        defaults.pop("sigma", None)  # the released script's gated pair has no deviation of its own
    taken = inspect.signature(row.family).parameters
    if "norm" not in taken:
        settings.pop("norm", None)
    if "padding" not in taken:  # no strided convolution, in which alone the paddings differ
        check_padding(settings.pop("padding", PADDINGS[0]))
    return row.family(**{**defaults, **settings})


def _find(name: str) -> _Row:
    if name not in _REGISTRY:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(names())}")
    return _REGISTRY[name]
