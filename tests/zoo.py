"""Small critics of every kind, in float64: what the whole penalty is tested on.

``ZOO[name]`` builds one. The shape is that of a batch; ``smooth`` says whether the penalty may be
compared with finite differences (not where the critic hides a dependence from autograd on purpose).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm


@dataclass(frozen=True)
class Entry:
    build: Callable[[], Any]
    shape: tuple[int, ...]
    smooth: bool = True


ZOO: dict[str, Entry] = {}

IMAGE = (3, 2, 8, 8)
ROWS = (4, 6)
SEQUENCE = (3, 5, 4)


def add(name: str, build: Callable[[], Any], shape: tuple[int, ...], smooth: bool = True) -> None:
    assert name not in ZOO
    ZOO[name] = Entry(build, shape, smooth)


class Critic(nn.Module):
    """Parameters by keyword, and a function ``(module, x) -> score``: one line a critic."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            buffer = getattr(part, "_is_buffer", False)  # nn.Buffer
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) and not buffer else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


# rows --------------------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    **{
        name: getattr(nn, name)
        for name in (
            *("ReLU", "LeakyReLU", "Tanh", "Sigmoid", "ELU", "SELU", "GELU", "SiLU", "Mish", "Softplus"),
            *("Hardtanh", "ReLU6", "Hardswish", "PReLU", "LogSigmoid", "Softsign", "Tanhshrink"),
        )
    },
    "CELU": lambda: nn.CELU(0.7),
    "GELU tanh": lambda: nn.GELU("tanh"),
    "PReLU per channel": lambda: nn.PReLU(8),
    "Softshrink": lambda: nn.Softshrink(0.1),
    "Hardshrink": lambda: nn.Hardshrink(0.1),
    "Threshold": lambda: nn.Threshold(0.1, -0.2),
    "ELU in place": lambda: nn.ELU(0.5, inplace=True),
    "ReLU in place": lambda: nn.ReLU(inplace=True),
    "LeakyReLU in place": lambda: nn.LeakyReLU(0.2, inplace=True),
    "SiLU in place": lambda: nn.SiLU(inplace=True),
    "Hardtanh in place": lambda: nn.Hardtanh(-0.4, 0.6, inplace=True),
    "Softmax": lambda: nn.Softmax(1),
    "LogSoftmax": lambda: nn.LogSoftmax(1),
}


def rows(activation: Callable[[], nn.Module], norm: Callable[[], nn.Module] = nn.Identity) -> nn.Module:
    layers = [nn.Linear(6, 8), norm(), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)]
    return nn.Sequential(*layers)


for _name, _make in ACTIVATIONS.items():
    add(_name, lambda make=_make: rows(make), ROWS)
add("one linear layer", lambda: nn.Linear(6, 1), ROWS)
add("GLU", lambda: nn.Sequential(nn.Linear(6, 8), nn.GLU(1), nn.Linear(4, 1)), ROWS)
add("layer norm", lambda: rows(nn.Tanh, lambda: nn.LayerNorm(8)), ROWS)
add("layer norm, bare", lambda: rows(nn.ReLU, lambda: nn.LayerNorm(8, elementwise_affine=False)), ROWS)
add("layer norm, no bias", lambda: rows(nn.ReLU, lambda: nn.LayerNorm(8, bias=False)), ROWS)
add("RMS norm", lambda: rows(nn.SiLU, lambda: nn.RMSNorm(8)), ROWS)
add("batch norm 1-D", lambda: rows(nn.LeakyReLU, lambda: nn.BatchNorm1d(8)), ROWS)
add("dropout", lambda: rows(nn.Tanh, lambda: nn.Dropout(0.4)), ROWS)
add("alpha dropout", lambda: rows(nn.SELU, lambda: nn.AlphaDropout(0.2)), ROWS)
add(
    "bilinear layer",
    lambda: Critic(lambda m, x: m.b(x[:, :3], torch.tanh(x[:, 3:])), b=nn.Bilinear(3, 3, 1)),
    ROWS,
)
add(
    "einsum",
    lambda: Critic(
        lambda m, x: torch.einsum("ni,ijk,nj->nk", x, m.w, torch.sigmoid(x)).logsumexp(1),
        w=torch.randn(6, 6, 3),
    ),
    ROWS,
)
add(
    "maxout, minimum, where",
    lambda: Critic(
        lambda m, x: m.o(
            torch.where(x > 0, m.a(x).view(-1, 6, 2).amax(2), torch.minimum(x, m.s))
            + torch.maximum(x, x * m.s)
        ),
        a=nn.Linear(6, 12),
        s=torch.randn(6),
        o=nn.Linear(6, 1),
    ),
    ROWS,
)
add(
    "arithmetic",
    lambda: Critic(
        lambda m, x: (
            (
                (m.a / (1 + x.pow(2)) + (1 - x).exp().log1p() * m.b - x.abs().sqrt() / 2)
                * (x.sin() + x.cos().square() + torch.atan(x) + torch.erf(x * m.b) - torch.expm1(x * 0.1))
            )
            .clamp(-3, 3)
            .sum(1)
            + (x.square() + 1).rsqrt().mean(1) * (x.square() + 1).reciprocal().sum(1) ** 1.5
        ),
        a=torch.randn(6),
        b=torch.randn(1),
    ),
    ROWS,
)
add(
    "indexing and writing",
    lambda: Critic(lambda m, x: _written(m, x), o=nn.Linear(6, 1), w=torch.randn(4, 2), e=torch.randn(3)),
    ROWS,
)


def _written(m: Any, x: Tensor) -> Tensor:
    h = torch.zeros_like(x)
    h[:, 1:3] = torch.tanh(x[:, :2]) * m.w
    h[:, -1] = x[:, 0] * x[:, 1]
    h[:, 3:] += m.e * x.flip(1)[:, [2, 0, 1]]
    h = h.roll(1, 1).cumsum(1).tril(2) + torch.stack(x.unbind(1), 1).gather(1, x.argsort(1).detach())
    return m.o(h) + x.topk(2).values.prod(1, keepdim=True)


add(
    "projection critic",
    lambda: Critic(
        lambda m, x: (
            m.o(torch.tanh(m.h(x))) + (m.e(torch.arange(4) % 3) * torch.tanh(m.h(x))).sum(1, keepdim=True)
        ),
        h=nn.Linear(6, 8),
        e=nn.Embedding(3, 8),
        o=nn.Linear(8, 1),
    ),
    ROWS,
)
add("score [N]", lambda: Critic(lambda m, x: m.o(torch.tanh(x)).squeeze(1), o=nn.Linear(6, 1)), ROWS)
add("score scalar", lambda: Critic(lambda m, x: m.o(torch.tanh(x)).mean(), o=nn.Linear(6, 1)), ROWS)
add(
    "score of norms",
    lambda: Critic(lambda m, x: m.o(x).norm(dim=1) + m.o(x).norm(p=3, dim=1), o=nn.Linear(6, 4)),
    ROWS,
)
add("normalised rows", lambda: Critic(lambda m, x: m.o(F.normalize(m.o(x))), o=nn.Linear(6, 6)), ROWS)
add(
    "no_grad region",
    lambda: Critic(lambda m, x: _no_grad(m, x), a=nn.Linear(6, 6), o=nn.Linear(6, 1)),
    ROWS,
    smooth=False,
)
add(
    "detach",
    lambda: Critic(
        lambda m, x: m.o(torch.tanh(m.a(x)) * torch.sigmoid(m.a(x)).detach() + m.o.weight.detach() * x**2),
        a=nn.Linear(6, 6),
        o=nn.Linear(6, 1),
    ),
    ROWS,
    smooth=False,
)


add(
    "a number out of the data",
    lambda: Critic(lambda m, x: m.o(torch.tanh(x) * float(x.detach().abs().max())), o=nn.Linear(6, 1)),
    ROWS,
    smooth=False,
)


def _no_grad(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.a(x))
    with torch.no_grad():
        scale = m.a(h).abs().mean() + 1
    return m.o(h / scale)


# images ------------------------------------------------------------------------------------------


def image(
    activation: Callable[[], nn.Module] = lambda: nn.LeakyReLU(0.2),
    norm: Callable[[int], nn.Module] | None = None,
    wrap: Callable[[nn.Module], nn.Module] = lambda layer: layer,
) -> nn.Module:
    """Strided convolutions as in DCGAN."""
    layers: list[nn.Module] = [wrap(nn.Conv2d(2, 4, 4, 2, 1)), activation(), wrap(nn.Conv2d(4, 6, 3, 2, 1))]
    layers += [norm(6)] if norm else []
    return nn.Sequential(*layers, activation(), nn.Flatten(), wrap(nn.Linear(24, 1)))


def convolutions(first: nn.Module, *rest: nn.Module) -> nn.Module:
    return Critic(lambda m, x: m.body(x).flatten(1).sum(1), body=nn.Sequential(first, nn.Tanh(), *rest))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group norm 1": lambda c: nn.GroupNorm(1, c),
    "group norm 2": lambda c: nn.GroupNorm(2, c),
    "group norm, bare": lambda c: nn.GroupNorm(3, c, affine=False),
    "instance norm": lambda c: nn.InstanceNorm2d(c),
    "instance norm, affine": lambda c: nn.InstanceNorm2d(c, affine=True),
    "instance norm, statistics": lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True),
    "instance norm, eval": lambda c: nn.InstanceNorm2d(c, affine=True, track_running_stats=True).eval(),
    "batch norm": lambda c: nn.BatchNorm2d(c),
    "batch norm, bare": lambda c: nn.BatchNorm2d(c, affine=False),
    "batch norm, no statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "batch norm, eval": lambda c: nn.BatchNorm2d(c).eval(),
    "layer norm of images": lambda c: nn.LayerNorm([c, 2, 2]),
    "local response norm": lambda c: nn.LocalResponseNorm(3),
    "dropout 2-D": lambda c: nn.Dropout2d(0.4),
}
for _name, _norm in NORMS.items():
    add(_name, lambda norm=_norm: image(nn.Tanh, norm), IMAGE)
add("DCGAN", lambda: image(), IMAGE)
add(
    "DCGAN, channels_last",
    lambda: image(norm=lambda c: nn.GroupNorm(2, c)).to(memory_format=torch.channels_last),
    IMAGE,
)
add("spectral norm", lambda: image(wrap=spectral_norm), IMAGE, smooth=False)
add(
    "spectral norm, parametrized",
    lambda: image(nn.Tanh, wrap=parametrizations.spectral_norm),
    IMAGE,
    smooth=False,
)
add("spectral norm, eval", lambda: image(wrap=parametrizations.spectral_norm).eval(), IMAGE, smooth=False)
add("weight norm", lambda: image(wrap=weight_norm), IMAGE)
add("weight norm, parametrized", lambda: image(nn.Tanh, wrap=parametrizations.weight_norm), IMAGE)
add("patch scores", lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.SiLU(), nn.Conv2d(3, 1, 3)), IMAGE)
add(
    "grouped, dilated",
    lambda: convolutions(nn.Conv2d(2, 4, 3, dilation=2, groups=2), nn.Conv2d(4, 4, 2, groups=4)),
    IMAGE,
)
add(
    "transposed",
    lambda: convolutions(nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, groups=2), nn.ConvTranspose2d(4, 1, 2)),
    IMAGE,
)
add("1-D", lambda: convolutions(nn.Conv1d(5, 4, 3, padding=1), nn.MaxPool1d(2), nn.AvgPool1d(2)), SEQUENCE)
add(
    "1-D transposed",
    lambda: convolutions(nn.ConvTranspose1d(5, 3, 3, 2), nn.AdaptiveAvgPool1d(3), nn.Flatten()),
    SEQUENCE,
)
add(
    "3-D",
    lambda: convolutions(
        nn.Conv3d(2, 3, 2, padding=1), nn.MaxPool3d(2), nn.ConvTranspose3d(3, 1, 2), nn.AvgPool3d(2)
    ),
    (2, 2, 4, 4, 5),
)
for _name, _pool in {
    "max pool": nn.MaxPool2d(3, 2, 1),
    "max pool, ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average pool": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "power pool": nn.LPPool2d(2, 2),
    "adaptive average pool": nn.AdaptiveAvgPool2d(3),
    "global average pool": nn.AdaptiveAvgPool2d(1),
    "adaptive max pool": nn.AdaptiveMaxPool2d(3),
    "unfold": nn.Unfold(3, stride=2),
}.items():
    add(_name, lambda pool=_pool: Critic(lambda m, x: _squared(m, x), a=nn.Conv2d(2, 4, 3), b=pool), IMAGE)


def _squared(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.b(torch.sigmoid(m.a(x)))).flatten(1).square().sum(1)


for _mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
    add(
        f"upsample {_mode}",
        lambda mode=_mode: Critic(
            lambda m, x: _squared(m, x),
            a=nn.Conv2d(2, 2, 3),
            b=Critic(lambda m, x: F.interpolate(x, size=9, mode=mode)),
        ),
        IMAGE,
    )
for _mode in ("reflect", "replicate", "circular", "zeros"):
    add(
        f"padding {_mode}",
        lambda mode=_mode: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), nn.Tanh(), nn.Conv2d(3, 1, 8)
        ),
        IMAGE,
    )
add(
    "pixel shuffle",
    lambda: convolutions(nn.PixelUnshuffle(2), nn.Conv2d(8, 4, 1), nn.Tanh(), nn.PixelShuffle(2)),
    IMAGE,
)
