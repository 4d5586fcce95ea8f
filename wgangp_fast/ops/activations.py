"""The table of activations: number, what must be saved, whether it has a second derivative.

The same table, in the same order, stands in ``csrc/common/activations.h`` and
``wgangp_fast/kernels/activations.py``; a test compares them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Formula = Callable[[Tensor, float, float, float], Tensor]


@dataclass(frozen=True)
class Activation:
    """One row.

    Attributes:
        saves: ``"x"`` (before the activation, and before the bias) or ``"y"`` (its result): what
            ``df`` and ``d2f`` take.
        f, df, d2f: of a tensor and the parameters ``p0, p1, p2``; ``d2f`` None: zero everywhere.
        parameters: names of ``p0``, ``p1``, ``p2``.
    """

    saves: str
    f: Formula
    df: Formula
    d2f: Formula | None = None
    parameters: tuple[str, ...] = ()


def _elu(h: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return torch.where(h > 0, scale * h, scale * alpha * torch.expm1(input_scale * h))


def _elu_slope(y: Tensor, alpha: float, scale: float, input_scale: float) -> Tensor:
    return torch.where(y > 0, scale, input_scale * (y + scale * alpha))


def _silu_slope(h: Tensor, *_: float) -> Tensor:
    s = torch.sigmoid(h)
    return s * (1 + h * (1 - s))


def _silu_second(h: Tensor, *_: float) -> Tensor:
    s = torch.sigmoid(h)
    return s * (1 - s) * (2 + h * (1 - 2 * s))


def _density(h: Tensor) -> Tensor:
    return torch.exp(h * h * -0.5) * (1 / math.sqrt(2 * math.pi))


K, CUBIC = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_slope(h: Tensor, *_: float) -> Tensor:
    th = torch.tanh(K * (h + CUBIC * h**3))
    return 0.5 * (1 + th) + 0.5 * h * (1 - th * th) * K * (1 + 3 * CUBIC * h * h)


def _gelu_tanh_second(h: Tensor, *_: float) -> Tensor:
    th, u1 = torch.tanh(K * (h + CUBIC * h**3)), K * (1 + 3 * CUBIC * h * h)
    return (1 - th * th) * (u1 + 0.5 * h * (6 * K * CUBIC * h - 2 * th * u1 * u1))


def _softplus_slope(h: Tensor, beta: float, threshold: float, _: float) -> Tensor:
    return torch.where(beta * h > threshold, 1.0, torch.sigmoid(beta * h))


def _softplus_second(h: Tensor, beta: float, threshold: float, _: float) -> Tensor:
    s = torch.sigmoid(beta * h)
    return torch.where(beta * h > threshold, 0.0, beta * s * (1 - s))


def _smooth_elu(h: Tensor, *_: float) -> Tensor:
    return F.softplus(2 * h + 2, threshold=100) / 2 - 1


def _smooth_elu_second(h: Tensor, *_: float) -> Tensor:
    s = torch.sigmoid(2 * h + 2)
    return 2 * s * (1 - s)


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation("y", lambda h, *_: h.clone(), lambda y, *_: torch.ones_like(y)),
    "relu": Activation("y", lambda h, *_: torch.relu(h), lambda y, *_: (y > 0).to(y.dtype)),
    "leaky_relu": Activation(
        "y",
        lambda h, slope, *_: F.leaky_relu(h, slope),
        lambda y, slope, *_: torch.where(y > 0, torch.ones_like(y), slope),
        None,
        ("negative_slope",),
    ),
    "tanh": Activation(
        "y", lambda h, *_: torch.tanh(h), lambda y, *_: 1 - y * y, lambda y, *_: -2 * y * (1 - y * y)
    ),
    "sigmoid": Activation(
        "y",
        lambda h, *_: torch.sigmoid(h),
        lambda y, *_: y * (1 - y),
        lambda y, *_: y * (1 - y) * (1 - 2 * y),
    ),
    "elu": Activation(
        "y",
        _elu,
        _elu_slope,
        lambda y, a, s, i: torch.where(y > 0, 0.0, i * _elu_slope(y, a, s, i)),
        ("alpha", "scale", "input_scale"),
    ),
    "silu": Activation("x", lambda h, *_: F.silu(h), _silu_slope, _silu_second),
    "gelu": Activation(
        "x",
        lambda h, *_: F.gelu(h),
        lambda h, *_: 0.5 * (1 + torch.erf(h * math.sqrt(0.5))) + h * _density(h),
        lambda h, *_: _density(h) * (2 - h * h),
    ),
    "gelu_tanh": Activation(
        "x", lambda h, *_: F.gelu(h, approximate="tanh"), _gelu_tanh_slope, _gelu_tanh_second
    ),
    "softplus": Activation(
        "x",
        lambda h, beta, threshold, _: F.softplus(h, beta, threshold),
        _softplus_slope,
        _softplus_second,
        ("beta", "threshold"),
    ),
    "smooth_elu": Activation("x", _smooth_elu, lambda h, *_: torch.sigmoid(2 * h + 2), _smooth_elu_second),
}
NAMES = tuple(ACTIVATIONS)
NUMBER = {name: number for number, name in enumerate(NAMES)}
SELU = (1.6732632423543772, 1.0507009873554805, 1.0)

#: parameters by default
DEFAULTS: dict[str, tuple[float, float, float]] = {
    "leaky_relu": (0.01, 0.0, 0.0),
    "elu": (1.0, 1.0, 1.0),
    "softplus": (1.0, 20.0, 0.0),
}


def encode(name: str, parameters: tuple[float, ...]) -> tuple[int, float, float, float]:
    """``(act, p0, p1, p2)`` of a named activation; ``"selu"`` is elu with its constants.

    Raises:
        ValueError: an unknown name, too many parameters, or parameters for which ``saves`` would be wrong.
    """
    if name == "selu":
        name, parameters = "elu", SELU
    if name not in NUMBER:
        raise ValueError(f"activation must be one of {', '.join(map(repr, (*NAMES, 'selu')))}; got {name!r}")
    known = ACTIVATIONS[name].parameters
    if len(parameters) > len(known):
        raise ValueError(f"{name} takes {len(known)} parameters {known}; got {parameters}")
    given = [float(p) for p in parameters]
    p = [*given, *DEFAULTS.get(name, (0.0, 0.0, 0.0))[len(given) :]]
    if name == "leaky_relu" and p[0] < 0:
        raise ValueError(f"negative_slope must be at least 0: the result is what is saved; got {p[0]}")
    if name == "elu" and not (p[0] >= 0 and p[1] > 0 and p[2] > 0):
        raise ValueError(f"elu needs alpha >= 0, scale > 0, input_scale > 0; got {tuple(p)}")
    return NUMBER[name], p[0], p[1], p[2]
