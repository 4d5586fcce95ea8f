"""Critics as public code writes them: the architectures whose ways of writing surprised an engine once.

``PUBLIC`` has the form of :data:`zoo.ZOO`. What may still run on the stock path is in ``STOCK_PATH``, with
the reason; an entry that reaches the engine must leave that list.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo import IMAGE, Critic, Entry

PUBLIC: dict[str, Entry] = {}

#: critics that may run on the stock path: what they need that the engine does not have
STOCK_PATH: dict[str, str] = {
    "phase shuffle": "Tensor.random_, and steps that Python reads",
    "packed sequences": "pack_padded_sequence",
}

#: critics that draw random numbers: a critic loss that runs as one pass draws them once for all rows
RANDOM = {"phase shuffle"}


def add(name: str, build: Callable[[], Any], shape: tuple[int, ...], smooth: bool = True) -> None:
    assert name not in PUBLIC
    PUBLIC[name] = Entry(build, shape, smooth)


# images ------------------------------------------------------------------------------------------


class _Quiet(warnings.catch_warnings):
    """StyleGAN2-ADA's ``suppress_tracer_warnings``."""

    def __enter__(self) -> Any:
        super().__enter__()
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        return self


def _bias_act(x: Tensor, bias: Tensor, gain: Any, clamp: float | None = None) -> Tensor:
    x = F.leaky_relu(x + bias.reshape([-1 if i == 1 else 1 for i in range(x.ndim)]), 0.2)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


class StyleGan2(nn.Module):
    """Residual blocks with a resampling filter, numpy gains, grouped standard deviation, a mapped label."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.as_tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("taps", taps.ger(taps) / taps.ger(taps).sum())
        self.register_buffer("labels", torch.eye(3))
        sizes = {"rgb": (4, 2, 1), "a": (4, 4, 3), "b": (6, 4, 3), "skip": (6, 4, 1), "last": (6, 7, 3)}
        for name, (out, channels, kernel) in sizes.items():
            setattr(self, name, nn.Parameter(torch.randn(out, channels, kernel, kernel)))
            setattr(self, f"{name}_bias", nn.Parameter(torch.zeros(out)))
        self.fc, self.out, self.map = nn.Linear(6 * 16, 5), nn.Linear(5, 4), nn.Linear(3, 4)
        self.act_gain, self.skip_gain = np.sqrt(2), np.sqrt(0.5)

    def _conv(self, x: Tensor, name: str, down: int = 1, gain: Any = 1, act: bool = True) -> Tensor:
        w, bias = getattr(self, name), getattr(self, f"{name}_bias")
        w = w * (1 / np.sqrt(w[0].numel()))
        if down > 1:
            pad = w.shape[-1] // 2 + 1
            x = F.pad(x, [pad, pad, pad, pad])
            x = F.conv2d(x, self.taps[None, None].repeat([x.shape[1], 1, 1, 1]), groups=x.shape[1])
            return self._finish(F.conv2d(x, w, stride=down), bias, gain, act)
        return self._finish(F.conv2d(x, w, padding=w.shape[-1] // 2), bias, gain, act)

    def _finish(self, x: Tensor, bias: Tensor, gain: Any, act: bool) -> Tensor:
        return _bias_act(x, bias, self.act_gain * gain, 256) if act else x * gain

    def forward(self, x: Tensor) -> Tensor:
        with _Quiet():
            assert x.shape[1] == 2
        x = self._conv(x, "rgb")
        y = self._conv(x, "skip", 2, self.skip_gain, act=False)
        x = y + self._conv(self._conv(x, "a"), "b", 2, self.skip_gain)
        n, c, h, w = x.shape
        group = torch.min(torch.as_tensor(3), torch.as_tensor(n)) if torch.jit.is_tracing() else min(3, n)
        s = x.reshape(group, -1, 1, c, h, w)
        s = ((s - s.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=[2, 3, 4]).reshape(-1, 1, 1, 1)
        x = self._conv(torch.cat([x, s.repeat(group, 1, h, w)], dim=1), "last")
        x = self.out(F.leaky_relu(self.fc(x.flatten(1)), 0.2) * self.act_gain)
        c_map = self.map(self.labels[torch.arange(n) % 3])
        c_map = c_map * (c_map.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        return (x * c_map).sum(dim=1, keepdim=True) * (1 / np.sqrt(4))


class DataSpectralNorm(nn.Module):
    """Self-Attention-GAN's: one power iteration on ``.data`` in each forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        w = module._parameters.pop("weight")
        height, width = w.shape[0], w.view(w.shape[0], -1).shape[1]
        for name, size in (("weight_u", height), ("weight_v", width)):
            vector = nn.Parameter(F.normalize(torch.randn(size), dim=0), requires_grad=False)
            module.register_parameter(name, vector)
        module.register_parameter("weight_bar", nn.Parameter(w.data))

    def forward(self, x: Tensor) -> Tensor:
        m = self.module
        u, v, w = m.weight_u, m.weight_v, m.weight_bar
        height = w.data.shape[0]
        v.data = F.normalize(torch.mv(torch.t(w.view(height, -1).data), u.data), dim=0)
        u.data = F.normalize(torch.mv(w.view(height, -1).data, v.data), dim=0)
        m.weight = w / u.dot(w.view(height, -1).mv(v)).expand_as(w)
        return m(x)


class SelfAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(channels, c, 1) for c in (2, 2, channels))
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, w, h = x.size()
        q = self.q(x).view(n, -1, w * h).permute(0, 2, 1)
        energy = torch.bmm(q, self.k(x).view(n, -1, w * h))
        out = torch.bmm(self.v(x).view(n, -1, w * h), torch.softmax(energy, -1).permute(0, 2, 1))
        return self.gamma * out.view(n, c, w, h) + x


def _sagan() -> nn.Module:
    return nn.Sequential(
        DataSpectralNorm(nn.Conv2d(2, 4, 4, 2, 1)), nn.LeakyReLU(0.1), SelfAttention(4),
        DataSpectralNorm(nn.Conv2d(4, 4, 4, 2, 1)), nn.LeakyReLU(0.1), nn.Conv2d(4, 1, 2),
    )  # fmt: skip


def _label_map(m: Any, x: Tensor) -> Tensor:
    """Labels as one more channel (conditional PyTorch-GAN), and a projection head."""
    plane = m.plane(m.labels).view(m.labels.shape[0], 1, *x.shape[2:])
    h = F.leaky_relu(m.a(torch.cat([x, plane], 1)), 0.2).sum((2, 3))
    return m.o(h) + (m.e(m.labels) * h).sum(1, keepdim=True)


def _squeeze(m: Any, x: Tensor) -> Tensor:
    """Channels weighed by statistics that get no gradient."""
    h = torch.tanh(m.a(x))
    gate = torch.sigmoid(m.g(h.detach().mean((2, 3))))
    return m.o((h * gate[:, :, None, None]).flatten(1))


add("StyleGAN2-ADA", StyleGan2, (3, 2, 8, 8))
add("SAGAN, .data spectral norm", _sagan, IMAGE, smooth=False)
add(
    "label map and projection",
    lambda: Critic(
        _label_map, a=nn.Conv2d(3, 4, 3, 2), o=nn.Linear(4, 1), e=nn.Embedding(3, 4),
        plane=nn.Embedding(3, 64), labels=nn.Buffer(torch.tensor([0, 2, 1])),
    ),
    IMAGE,
)  # fmt: skip
add(
    "squeeze of detached features",
    lambda: Critic(_squeeze, a=nn.Conv2d(2, 4, 3), g=nn.Linear(4, 4), o=nn.Linear(144, 1)),
    IMAGE,
    smooth=False,
)


# sound -------------------------------------------------------------------------------------------


class ComplexConv(nn.Module):
    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.view_as_real(torch.randn(out, channels, 3, 3, dtype=torch.cdouble)))
        self.bias, self.stride = nn.Parameter(torch.zeros(out, 2)), stride

    def forward(self, x: Tensor) -> Tensor:
        w, b = torch.view_as_complex(self.weight), torch.view_as_complex(self.bias)
        return F.conv2d(x, w, b, stride=self.stride, padding=1)


class ComplexStft(nn.Module):
    """SoundStream's: complex convolutions of a short-time Fourier transform, modReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(8))
        self.a, self.b, self.shift = ComplexConv(1, 2), ComplexConv(2, 1, 2), nn.Parameter(torch.tensor(-0.1))

    def forward(self, x: Tensor) -> Tensor:
        z = torch.stft(x.squeeze(1), 8, hop_length=4, window=self.window, return_complex=True)[:, None]
        z = self.a(z)
        z = F.relu(z.abs() + self.shift) * torch.exp(1j * z.angle())
        return self.b(z).abs().flatten(1).mean(1)


class PhaseShuffle(nn.Module):
    """WaveGAN's: each sample moved by a few random steps, reflected at the ends."""

    def __init__(self, most: int = 2) -> None:
        super().__init__()
        self.most = most

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.Tensor(x.shape[0]).random_(0, 2 * self.most + 1) - self.most
        shuffled = torch.empty_like(x)
        for row, step in enumerate(steps.numpy().astype(int)):
            if step > 0:
                shuffled[row] = F.pad(x[row][..., :-step], (step, 0), mode="reflect")
            else:
                shuffled[row] = F.pad(x[row][..., -step:], (0, -step), mode="reflect")
        return shuffled


class MelGan(nn.Module):
    """Weight-normed convolutions at two scales; the number of steps is numpy's."""

    def __init__(self) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.ReflectionPad1d(1), norm(nn.Conv1d(1, 4, 3)), nn.LeakyReLU(0.2),
                norm(nn.Conv1d(4, 4, 5, np.int64(2), padding=2, groups=2)), nn.LeakyReLU(0.2),
                norm(nn.Conv1d(4, 1, 3, padding=1)),
            )
            for _ in range(np.int64(2))
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        total = 0
        for scale in self.scales:
            total = total + scale(x).flatten(1).mean(1)
            x = F.avg_pool1d(x, 4, 2, 1, count_include_pad=False)
        return total


def _shuffled() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 3, 5, 2, 2), nn.LeakyReLU(0.2), PhaseShuffle(), nn.Conv1d(3, 4, 5, 2, 2), nn.Flatten(),
        nn.Linear(16, 1),
    )  # fmt: skip


add("complex STFT", ComplexStft, (3, 1, 16))
add("phase shuffle", _shuffled, (3, 1, 16), smooth=False)
add("MelGAN", MelGan, (3, 1, 16))
