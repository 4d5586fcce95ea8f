"""More critics of the zoo: blocks, attention, recurrence, statistics of a batch, spectra."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import IMAGE, ROWS, SEQUENCE, Critic, add


class Residual(nn.Module):
    """A pre-activation block with a pooled, projected short cut, as in the paper's ResNet critic."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)
        self.norm, self.short = nn.GroupNorm(1, channels), nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(F.relu(self.a(F.relu(self.norm(x)))))
        return F.avg_pool2d(h, 2) + self.short(F.avg_pool2d(x, 2))


def _gated(m: Any, x: Tensor) -> Tensor:
    a, b = m.a(x).chunk(2, 1)
    return m.o((torch.tanh(a) * torch.sigmoid(b) + x.repeat(1, 2, 1, 1)).mean((2, 3)))


def _dag(m: Any, x: Tensor) -> Tensor:
    """Values with several uses, of several kinds."""
    a = torch.tanh(m.a(x))
    b = F.leaky_relu(m.b(torch.cat([x, a], 1)), 0.1)
    c = a * b[:, :2] + x
    return (
        m.o((c * c - a / (1 + b[:, :2].square())).flatten(1))
        + b.mean((1, 2, 3))[:, None] * a.sum((1, 2, 3))[:, None]
    )


def _minibatch_stddev(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.a(x))
    s = h.std(0, unbiased=False).mean().expand(x.shape[0], 1, *h.shape[2:])
    return m.o(F.leaky_relu_(m.b(torch.cat([h, s], 1)), 0.1).flatten(1))


def _grouped_stddev(m: Any, x: Tensor) -> Tensor:
    """As StyleGAN2 writes it."""
    h = m.a(x)
    y = h.reshape(3, -1, 1, h.shape[1], *h.shape[2:])
    y = ((y - y.mean(0)).square().mean(0) + 1e-8).sqrt().mean((2, 3, 4)).reshape(-1, 1, 1, 1)
    y = y.repeat(3, 1, *h.shape[2:])
    return m.o(torch.cat([h, y], 1).flatten(1).var(1, keepdim=True) * m.a(x).flatten(1)[:, :3])


def _minibatch_discrimination(m: Any, x: Tensor) -> Tensor:
    k = (x @ m.t).view(-1, 3, 2)
    near = (k[:, None] - k[None]).abs().sum(3).neg().exp().sum(1)
    return m.o(torch.cat([x, near], 1))


def _sagan(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.q(x).flatten(2), m.k(x).flatten(2), m.v(x).flatten(2)
    a = torch.softmax(q.transpose(1, 2) @ k, -1)
    return m.o((m.gamma * (v @ a.transpose(1, 2)).view_as(x) + x).flatten(1))


def _multihead(m: Any, x: Tensor) -> Tensor:
    h = m.c(x)
    return m.o(m.n(h + m.a(h, h, h, need_weights=False)[0])).mean(1)


def _sdpa(m: Any, x: Tensor, **options: Any) -> Tensor:
    q, k, v = m.c(x).view(x.shape[0], 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    return m.o(F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).flatten(2)).sum(1)


def _recurrent(m: Any, x: Tensor) -> Tensor:
    return m.o(m.r(x)[0][:, -1])


def _spectrum(m: Any, x: Tensor) -> Tensor:
    z = torch.fft.rfft2(x)
    return (
        m.o(((z * m.w).abs() + 1).log().mean((1, 2)))
        + torch.fft.irfft2(z * m.w).tanh().sum((1, 2, 3))[:, None]
    )


def _grid(m: Any, x: Tensor) -> Tensor:
    grid = F.affine_grid(torch.tanh(m.a(x.flatten(1))).view(-1, 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False).square().sum((1, 2, 3)) * m.s


def _demodulated(m: Any, x: Tensor) -> Tensor:
    """A convolution whose weights depend on the sample: both factors move."""
    style = m.s(x.mean((2, 3)))
    w = m.w[None] * style[:, None, :, None, None]
    w = w * torch.rsqrt(w.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    h = F.conv2d(x.reshape(1, -1, 8, 8), w.flatten(0, 1), padding=1, groups=x.shape[0])
    return F.leaky_relu(h.view(x.shape[0], -1, 8, 8), 0.2).mean((1, 2, 3))


def _conditional_norm(m: Any, x: Tensor) -> Tensor:
    """Scale and shift computed from the input."""
    gain, bias = m.g(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
    return torch.tanh(F.instance_norm(m.a(x)) * (1 + gain) + bias).sum((1, 2, 3))


def _multiscale(m: Any, x: Tensor) -> Tensor:
    total = 0
    for layer in m.c:
        total = total + torch.tanh(layer(x)).mean((1, 2, 3))
        x = F.avg_pool2d(x, 2)
    return total


add(
    "residual",
    lambda: nn.Sequential(Residual(2, 4), Residual(4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 1)),
    IMAGE,
)
add("gated", lambda: Critic(_gated, a=nn.Conv2d(2, 8, 3, padding=1), o=nn.Linear(4, 1)), IMAGE)
add(
    "DAG",
    lambda: Critic(
        _dag, a=nn.Conv2d(2, 2, 3, padding=1), b=nn.Conv2d(4, 4, 3, padding=1), o=nn.Linear(128, 1)
    ),
    IMAGE,
)
add(
    "minibatch stddev",
    lambda: Critic(_minibatch_stddev, a=nn.Conv2d(2, 3, 3, 2), b=nn.Conv2d(4, 2, 2), o=nn.Linear(8, 1)),
    IMAGE,
)
add("grouped stddev", lambda: Critic(_grouped_stddev, a=nn.Conv2d(2, 2, 3, 2), o=nn.Linear(3, 1)), IMAGE)
add(
    "minibatch discrimination",
    lambda: Critic(_minibatch_discrimination, t=torch.randn(6, 6), o=nn.Linear(9, 1)),
    ROWS,
)
add(
    "self attention",
    lambda: Critic(
        _sagan,
        **{name: nn.Conv2d(2, c, 1) for name, c in (("q", 3), ("k", 3), ("v", 2))},
        gamma=torch.randn(1),
        o=nn.Linear(128, 1),
    ),
    IMAGE,
)
add(
    "multihead attention",
    lambda: Critic(
        _multihead,
        c=nn.Linear(4, 8),
        a=nn.MultiheadAttention(8, 2, batch_first=True),
        n=nn.LayerNorm(8),
        o=nn.Linear(8, 1),
    ),
    SEQUENCE,
)
for _name, _options in {
    "attention, fused": {},
    "attention, causal": {"is_causal": True},
    "attention, masked": {"attn_mask": torch.arange(25).view(5, 5) % 3 != 1},
    "attention, biased": {
        "attn_mask": torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5),
        "scale": 0.3,
    },
}.items():
    add(
        _name,
        lambda options=_options: Critic(
            lambda m, x: _sdpa(m, x, **options), c=nn.Linear(4, 24), o=nn.Linear(8, 1)
        ),
        SEQUENCE,
    )
add(
    "transformer layer",
    lambda: nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), nn.Flatten(), nn.Linear(20, 1)
    ),
    SEQUENCE,
)
for _kind in (nn.LSTM, nn.GRU, nn.RNN):
    add(
        _kind.__name__,
        lambda kind=_kind: Critic(_recurrent, r=kind(4, 3, batch_first=True), o=nn.Linear(3, 1)),
        SEQUENCE,
    )
add(
    "LSTM, deep",
    lambda: Critic(
        _recurrent, r=nn.LSTM(4, 2, num_layers=2, bidirectional=True, batch_first=True), o=nn.Linear(4, 1)
    ),
    (2, 3, 4),
)
add("FFT", lambda: Critic(_spectrum, o=nn.Linear(5, 1), w=torch.randn(8, 5, dtype=torch.complex128)), IMAGE)
# the second derivative of bilinear sampling jumps at every pixel
add("grid sample", lambda: Critic(_grid, a=nn.Linear(128, 6), s=torch.randn(1)), IMAGE, smooth=False)
add(
    "modulated convolution", lambda: Critic(_demodulated, s=nn.Linear(2, 2), w=torch.randn(3, 2, 3, 3)), IMAGE
)
add("conditional norm", lambda: Critic(_conditional_norm, a=nn.Conv2d(2, 3, 3), g=nn.Linear(2, 6)), IMAGE)
add(
    "multiscale",
    lambda: Critic(_multiscale, c=nn.ModuleList(nn.Conv2d(2, 3, 3, padding=1) for _ in range(3))),
    IMAGE,
)
