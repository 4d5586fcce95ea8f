"""Random critics: drawn from blocks of every kind, compared with stock code.

``WGANGP_FAST_FUZZ=500 pytest tests/test_fuzz.py`` draws 500 critics, different ones in every run; without
it the same few are drawn for everybody.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from penalty_checks import compare, points
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm
from zoo import ACTIVATIONS, Critic

# A GPU machine may lack it: then there is nothing to draw with.
hypothesis = pytest.importorskip("hypothesis")
st = pytest.importorskip("hypothesis.strategies")

MANY = int(os.environ.get("WGANGP_FAST_FUZZ", "0"))
Shape = tuple[int, int, int]
Made = tuple[Callable[[], nn.Module], Shape]  # how to make the block (weights are drawn later), what it gives
Draw = Callable[[Any], Any]

small = st.integers(1, 4)
# in place on the critic's input, or twice in a row, is an error in eager code too
activations = st.sampled_from(sorted(n for n in ACTIVATIONS if "in place" not in n and "channel" not in n))


def convolution(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    kernel = draw(st.integers(1, min(4, h, w)))
    stride, dilation = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    reach = dilation * (kernel - 1)
    padding = draw(st.integers(0, min(2, h - 1, w - 1)))
    if min(h, w) + 2 * padding <= reach:
        dilation, reach = 1, kernel - 1
    groups = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0]))
    out = groups * draw(st.integers(1, 2))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    bias, wrap = (
        draw(st.booleans()),
        draw(st.sampled_from([None, spectral_norm, parametrizations.weight_norm])),
    )

    def make() -> nn.Module:
        layer = nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, bias, mode)
        return wrap(layer) if wrap else layer

    return make, (out, *((n + 2 * padding - reach - 1) // stride + 1 for n in (h, w)))


def transposed(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    kernel, stride, groups = draw(small), draw(st.integers(1, 2)), draw(st.sampled_from([1, c]))
    padding = draw(st.integers(0, min(1, kernel - 1)))
    sizes = [(n - 1) * stride - 2 * padding + kernel for n in (h, w)]
    if min(sizes) < 1 or max(sizes) > 12:
        return nn.Identity, shape
    out = groups * draw(st.integers(1, 2))
    return lambda: nn.ConvTranspose2d(c, out, kernel, stride, padding, groups=groups), (out, *sizes)


def activation(draw: Draw, shape: Shape) -> Made:
    return ACTIVATIONS[draw(activations)], shape


def norm(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    affine = draw(st.booleans())
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.GroupNorm(1, c, affine=affine),
        lambda: nn.GroupNorm(c if h * w > 1 else 1, c, affine=affine),
        lambda: nn.LayerNorm([c, h, w], elementwise_affine=affine),
        lambda: nn.LayerNorm(w, elementwise_affine=affine),
        lambda: nn.BatchNorm2d(c, affine=affine).eval(),
        lambda: nn.RMSNorm([h, w]),
        lambda: nn.LocalResponseNorm(2),
    ]
    if h * w > 1:
        kinds += [lambda: nn.InstanceNorm2d(c, affine=affine), lambda: nn.BatchNorm2d(c, affine=affine)]
    return draw(st.sampled_from(kinds)), shape


def pool(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    out = draw(st.integers(1, 3))
    kernel = draw(st.integers(1, min(3, h, w)))
    rest = tuple((n - kernel) // 2 + 1 for n in (h, w))
    return draw(
        st.sampled_from(
            [
                (lambda: nn.MaxPool2d(kernel, 2), (c, *rest)),
                (lambda: nn.AvgPool2d(kernel, 2), (c, *rest)),
                (lambda: nn.AdaptiveAvgPool2d(out), (c, out, out)),
                (lambda: nn.AdaptiveMaxPool2d(out), (c, out, out)),
            ]
        )
    )


def resize(draw: Draw, shape: Shape) -> Made:
    c, size = shape[0], draw(st.tuples(st.integers(2, 9), st.integers(2, 9)))
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "bilinear", "bicubic", "area"]))
    return lambda: Critic(lambda m, x: F.interpolate(x, size, mode=mode)), (c, *size)


def pad(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    mode = draw(st.sampled_from(["constant", "reflect", "replicate", "circular"]))
    a, b = draw(st.integers(0, min(2, w - 1))), draw(st.integers(0, min(2, h - 1)))
    return lambda: Critic(lambda m, x: F.pad(x, (a, 1 if w > 1 else 0, 0, b), mode=mode)), (
        c, h + b, w + a + (1 if w > 1 else 0),
    )  # fmt: skip


def rearranged(draw: Draw, shape: Shape) -> Made:
    c, h, w = shape
    kinds: list[tuple[Callable[[Any, Tensor], Tensor], Shape]] = [
        (lambda m, x: x.transpose(2, 3), (c, w, h)),
        (lambda m, x: x.flip(2).roll((1, 1), (1, 3)), shape),
        (lambda m, x: x[:, :, ::2, -1:], (c, (h + 1) // 2, 1)),
        (lambda m, x: torch.stack([x, x.flip(3)], 2).flatten(1, 2), (2 * c, h, w)),
        (lambda m, x: x.permute(0, 2, 3, 1).reshape(x.shape[0], c, h, w), shape),
        (lambda m, x: x.cumsum(2) - x.mean((2, 3), keepdim=True), shape),
    ]
    if h % 2 == w % 2 == 0:
        kinds.append((lambda m, x: F.pixel_unshuffle(x, 2), (4 * c, h // 2, w // 2)))
    if c % 4 == 0:
        kinds.append((lambda m, x: F.pixel_shuffle(x, 2), (c // 4, 2 * h, 2 * w)))
    function, result = draw(st.sampled_from(kinds))
    return lambda: Critic(function), result


def arithmetic(draw: Draw, shape: Shape) -> Made:
    c = shape[0]
    kinds: list[Callable[[Any, Tensor], Tensor]] = [
        lambda m, x: x * m.w + torch.sigmoid(x) / (1 + x.square()),
        lambda m, x: torch.where(x > m.w, x.sin(), x * 0.5).clamp(-2, 2),
        lambda m, x: torch.maximum(x, m.w) - torch.minimum(x * 2, m.w.abs()),
        lambda m, x: F.normalize(x + m.w, dim=1),
        lambda m, x: (x.square() + 0.1).sqrt() * torch.softmax(x, 1),
        lambda m, x: x / ((x.var(0, unbiased=False, keepdim=True) + 0.1).sqrt() + m.w.square()),
        lambda m, x: x * x.var((1, 2, 3), correction=0, keepdim=True) + m.w.exp(),
        lambda m, x: (x.abs() + 1).log() * m.w - (x.abs() + 1).pow(-1.5),
        lambda m, x: torch.logsumexp(torch.stack([x, m.w * x]), 0),
    ]
    function = draw(st.sampled_from(kinds))
    return lambda: Critic(function, w=torch.randn(c, 1, 1)), shape


def dropout(draw: Draw, shape: Shape) -> Made:
    layer, p = draw(st.sampled_from([nn.Dropout, nn.Dropout2d])), draw(st.sampled_from([0.0, 0.3, 0.8]))
    # contiguous: masks are drawn in the order of memory, and captured code may lay its tensors out otherwise
    return lambda: Critic(lambda m, x: m.d(x.contiguous()), d=layer(p)), shape


def attention(draw: Draw, shape: Shape) -> Made:
    c = shape[0]
    causal = draw(st.booleans())

    def attend(m: Any, x: Tensor) -> Tensor:
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in m.qkv)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return x + m.gamma * out.transpose(1, 2).reshape(x.shape)

    return lambda: Critic(
        attend,
        qkv=nn.ModuleList([nn.Conv2d(c, 2, 1), nn.Conv2d(c, 2, 1), nn.Conv2d(c, c, 1)]),
        gamma=torch.randn(1),
    ), shape


def gate(draw: Draw, shape: Shape) -> Made:
    c = shape[0]

    def apply(m: Any, x: Tensor) -> Tensor:
        a, b = m.c(x).chunk(2, 1)
        return torch.tanh(a) * torch.sigmoid(b) + x

    return lambda: Critic(apply, c=nn.Conv2d(c, 2 * c, 3, padding=1)), shape


LEAVES = [
    convolution,
    convolution,
    activation,
    activation,
    norm,
    pool,
    resize,
    pad,
    rearranged,
    arithmetic,
    dropout,
]
LEAVES += [transposed, attention, gate]


def block(draw: Draw, shape: Shape, depth: int) -> Made:
    """A leaf, or (outside) two branches that are added or concatenated."""
    if depth and draw(st.integers(0, 3)) == 0:
        inner, result = chain(draw, shape, depth - 1, 2)
        if result == shape and draw(st.booleans()):
            return lambda: Critic(lambda m, x: x + m.b(x), b=inner()), shape
        if result[1:] == shape[1:]:
            return lambda: Critic(lambda m, x: torch.cat([m.b(x), x], 1), b=inner()), (
                result[0] + shape[0],
                *shape[1:],
            )
        return lambda: Critic(lambda m, x: m.b(x) * x.mean((1, 2, 3), keepdim=True), b=inner()), result
    return draw(st.sampled_from(LEAVES))(draw, shape)


def chain(draw: Draw, shape: Shape, depth: int, longest: int) -> Made:
    made: list[Callable[[], nn.Module]] = []
    for _ in range(draw(st.integers(1, longest))):
        if shape[0] * shape[1] * shape[2] > 600:
            break
        make, shape = block(draw, shape, depth)
        made.append(make)
    return lambda: nn.Sequential(*(make() for make in made)), shape


@st.composite
def critics(draw: Draw) -> tuple[Callable[[], nn.Module], tuple[int, ...]]:
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 8)), draw(st.integers(4, 8)))
    body, (c, h, w) = chain(draw, shape, 1, 5)
    # one nonlinearity at least, or nothing depends on the parameters twice
    head = draw(
        st.sampled_from(
            [
                lambda: nn.Sequential(nn.Flatten(), nn.Linear(c * h * w, 3), nn.Tanh(), nn.Linear(3, 1)),
                lambda: nn.Sequential(nn.Conv2d(c, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(2, 1, 1)),
                lambda: Critic(lambda m, x: m.o(F.silu(x.mean((2, 3)))).squeeze(1), o=nn.Linear(c, 1)),
            ]
        )
    )
    return lambda: nn.Sequential(body(), head()), (draw(st.integers(1, 5)), *shape)


@hypothesis.settings(
    max_examples=MANY or 25,
    derandomize=not MANY,
    database=None,
    deadline=None,
    report_multiple_bugs=False,
    phases=[hypothesis.Phase.generate],  # shrinking traces hundreds of critics; blocks are small as drawn
    suppress_health_check=list(hypothesis.HealthCheck),
)
@hypothesis.given(critics())
def test_random_critics_equal_stock_code(drawn: tuple[Callable[[], nn.Module], tuple[int, ...]]) -> None:
    make, shape = drawn
    hypothesis.note(f"{make()} on {shape}")
    torch.manual_seed(0)
    compare(make, points(shape))
