"""The table of the operation suite: an operation, the eager sequence that it replaces, and its bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..ops.activations import encode
from ..ops.registry import Kernels

Inputs = tuple[Any, ...]
Outputs = tuple[Tensor, ...]
SLOPE = 0.2


@dataclass(frozen=True)
class Operation:
    """One row.

    Attributes:
        about: shape and what is done, for the table.
        make: draws the inputs, ``make(draw)`` with ``draw(*shape) -> Tensor``.
        eager: the sequence of torch calls that existing code runs for the same results.
        ours: the same by the package's kernels.
        passes: how often the kernels read or write something of the size of the first input.
        large: beyond any cache; the quick preset leaves these out.
    """

    about: str
    make: Callable[[Callable[..., Tensor]], Inputs]
    eager: Callable[..., Outputs]
    ours: Callable[..., Outputs]
    passes: float
    large: bool = False

    def bytes(self, inputs: Inputs) -> int:
        """Bytes that must be moved: ``passes`` times the first input."""
        return int(self.passes * inputs[0].numel() * inputs[0].element_size())


def _interpolate_eager(real: Tensor, fake: Tensor) -> Outputs:
    alpha = torch.rand(len(real), *[1] * (real.dim() - 1), dtype=real.dtype, device=real.device)
    return (alpha * real + (1 - alpha) * fake,)


def _interpolate(kernels: Kernels, real: Tensor, fake: Tensor) -> Outputs:
    return (kernels.interpolate(real, fake, None, 7, 0)[0],)


def _given_eager(real: Tensor, fake: Tensor, alpha: Tensor) -> Outputs:
    alpha = alpha.reshape(-1, *[1] * (real.dim() - 1))
    return (alpha * real + (1 - alpha) * fake,)


def _given(kernels: Kernels, real: Tensor, fake: Tensor, alpha: Tensor) -> Outputs:
    return (kernels.interpolate(real, fake, alpha, 0, 0)[0],)


def _norm_eager(gradient: Tensor) -> Outputs:
    leaf = gradient.requires_grad_()
    with torch.enable_grad():
        value = ((leaf.reshape(len(leaf), -1).norm(2, dim=1) - 1) ** 2).mean()
    (seed,) = torch.autograd.grad(value, leaf)
    gradient.requires_grad_(False)
    return value.detach(), seed


def _norm(kernels: Kernels, gradient: Tensor) -> Outputs:
    value, _, slope = kernels.norm_penalty(gradient, 1.0, False, 2)
    return value, kernels.penalty_seed(gradient, slope, value.new_ones(()))


def _bias_leaky_eager(x: Tensor, bias: Tensor) -> Outputs:
    return (F.leaky_relu(x + bias.view(1, -1, 1, 1), SLOPE),)


def _bias_leaky(kernels: Kernels, x: Tensor, bias: Tensor) -> Outputs:
    return (kernels.bias_act(x, bias, 1, *encode("leaky_relu", (SLOPE,))),)


def _tanh_grad_eager(v: Tensor, y: Tensor) -> Outputs:
    return (v * (1 - y * y),)


def _tanh_grad(kernels: Kernels, v: Tensor, y: Tensor) -> Outputs:
    return (kernels.bias_act_grad(v, y, None, 1, *encode("tanh", ())),)


def _tanh_adjoint_eager(c: Tensor, g: Tensor, t: Tensor, y: Tensor) -> Outputs:
    slope = 1 - y * y
    return (slope * c - 2 * y * slope * g * t,)


def _tanh_adjoint(kernels: Kernels, c: Tensor, g: Tensor, t: Tensor, y: Tensor) -> Outputs:
    return (kernels.bias_act_adjoint(c, g, t, y, None, 1, *encode("tanh", ())),)


def _second_order(f: Callable[[Tensor], Tensor]) -> Callable[..., Outputs]:
    """What stock code runs for an elementwise ``f`` in all: forward, vjp, and the double backward."""

    def eager(x: Tensor, g: Tensor, t: Tensor, c: Tensor) -> Outputs:
        with torch.enable_grad():
            x, g = x.detach().requires_grad_(), g.detach().requires_grad_()
            y = f(x)
            (vjp,) = torch.autograd.grad(y, x, g, create_graph=True)
        adjoint, jvp = torch.autograd.grad([vjp, y], [x, g], [t, c])
        return y.detach(), vjp.detach(), jvp, adjoint

    return eager


def _act(name: str) -> Callable[..., Outputs]:
    def ours(kernels: Kernels, x: Tensor, g: Tensor, t: Tensor, c: Tensor) -> Outputs:
        tail = (None, 1, *encode(name, ()))
        y = kernels.bias_act(x, *tail)
        vjp, jvp = (kernels.bias_act_grad(v, x, *tail) for v in (g, t))
        return y, vjp, jvp, kernels.bias_act_adjoint(c, g, t, x, *tail)

    return ours


def _norm_act_eager(groups: int) -> Callable[..., Outputs]:
    def eager(x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, t: Tensor, c: Tensor) -> Outputs:
        with torch.enable_grad():
            x, weight, bias, g = (v.detach().requires_grad_() for v in (x, weight, bias, g))
            u = (
                F.group_norm(x, groups or x.shape[1], weight, bias)
                if groups >= 0
                else F.layer_norm(x, x.shape[1:], weight, bias)
            )
            y = F.leaky_relu(u, SLOPE)
            (vjp,) = torch.autograd.grad(y, x, g, create_graph=True)
        cx, dweight, dbias, jvp = torch.autograd.grad([vjp, y], [x, weight, bias, g], [t, c])
        return y.detach(), vjp.detach(), jvp, cx, dweight, dbias

    return eager


def _norm_act(groups: int) -> Callable[..., Outputs]:
    def ours(
        kernels: Kernels, x: Tensor, weight: Tensor, bias: Tensor, g: Tensor, t: Tensor, c: Tensor
    ) -> Outputs:
        geometry = (groups or x.shape[1], 0) if groups >= 0 else (0, x.dim() - 1)
        act = encode("leaky_relu", (SLOPE,))
        y, mean, rstd = kernels.norm_act(x, weight, bias, *geometry, 1e-5, *act)
        saved = (x, mean, rstd, weight, bias, *geometry, *act)
        vjp, _, _ = kernels.norm_act_vjp(g, *saved, False)
        jvp = kernels.norm_act_jvp(t, *saved)
        return y, vjp, jvp, *kernels.norm_act_adjoint(c, g, t, *saved, True)

    return ours


def _gate_eager(a: Tensor, b: Tensor, g: Tensor, ta: Tensor, tb: Tensor, c: Tensor) -> Outputs:
    with torch.enable_grad():
        a, b, g = (v.detach().requires_grad_() for v in (a, b, g))
        y = torch.sigmoid(a) * torch.tanh(b)
        vjp = torch.autograd.grad(y, [a, b], g, create_graph=True)
    ca, cb, jvp = torch.autograd.grad([*vjp, y], [a, b, g], [ta, tb, c])
    return y.detach(), vjp[0].detach(), vjp[1].detach(), jvp, ca, cb


def _gate(kernels: Kernels, a: Tensor, b: Tensor, g: Tensor, ta: Tensor, tb: Tensor, c: Tensor) -> Outputs:
    vjp, jvp = kernels.gate_vjp(g, a, b), kernels.gate_jvp(ta, tb, a, b)
    return kernels.gate(a, b), *vjp, jvp, *kernels.gate_adjoint(c, g, ta, tb, a, b)


def _elementwise(*shape: int, count: int) -> Callable[..., Inputs]:
    return lambda draw: tuple(draw(*shape) for _ in range(count))


def _normed(*shape: int, extent: int | tuple[int, ...]) -> Callable[..., Inputs]:
    size = (extent,) if isinstance(extent, int) else extent
    return lambda draw: (draw(*shape), draw(*size), draw(*size), draw(*shape), draw(*shape), draw(*shape))


ACTIVATION, BIG, ROWS = (16, 64, 32, 32), (64, 64, 128, 128), (64, 3, 512, 512)


OPERATIONS: dict[str, Operation] = {
    "interpolate": Operation(
        "[64, 3, 64, 64], drawn", _elementwise(64, 3, 64, 64, count=2), _interpolate_eager, _interpolate, 3
    ),
    "interpolate-large": Operation(
        "[64, 3, 512, 512], given", lambda d: (d(*ROWS), d(*ROWS), d(64).abs()), _given_eager, _given, 3, True
    ),
    "norm_penalty": Operation(
        "[64, 3, 64, 64], value and seed", _elementwise(64, 3, 64, 64, count=1), _norm_eager, _norm, 3
    ),
    "norm_penalty-large": Operation(
        "[64, 3, 512, 512], value and seed", _elementwise(*ROWS, count=1), _norm_eager, _norm, 3, True
    ),
    "norm_penalty-wide": Operation(
        "[1, 3000000], value and seed", _elementwise(1, 3_000_000, count=1), _norm_eager, _norm, 3
    ),
    "norm_penalty-tall": Operation(
        "[65536, 2], value and seed", _elementwise(65_536, 2, count=1), _norm_eager, _norm, 3
    ),
    "bias_act": Operation(
        "[16, 64, 32, 32], leaky_relu", lambda d: (d(*ACTIVATION), d(64)), _bias_leaky_eager, _bias_leaky, 2
    ),
    "bias_act-large": Operation(
        "[64, 64, 128, 128], leaky_relu", lambda d: (d(*BIG), d(64)), _bias_leaky_eager, _bias_leaky, 2, True
    ),
    "bias_act_grad-large": Operation(
        "[64, 64, 128, 128], tanh",
        lambda d: (d(*BIG), d(*BIG).tanh_()),
        _tanh_grad_eager,
        _tanh_grad,
        3,
        True,
    ),
    "bias_act_adjoint": Operation(
        "[16, 64, 32, 32], tanh",
        lambda d: (*(d(*ACTIVATION) for _ in range(3)), d(*ACTIVATION).tanh_()),
        _tanh_adjoint_eager,
        _tanh_adjoint,
        5,
    ),
    "bias_act_adjoint-large": Operation(
        "[64, 64, 128, 128], tanh",
        lambda d: (*(d(*BIG) for _ in range(3)), d(*BIG).tanh_()),
        _tanh_adjoint_eager,
        _tanh_adjoint,
        5,
        True,
    ),
    "silu": Operation(
        "[16, 64, 32, 32], all orders",
        _elementwise(*ACTIVATION, count=4),
        _second_order(F.silu),
        _act("silu"),
        13,
    ),
    "gelu": Operation(
        "[16, 64, 32, 32], all orders",
        _elementwise(*ACTIVATION, count=4),
        _second_order(F.gelu),
        _act("gelu"),
        13,
    ),
    "gate": Operation(
        "[16, 64, 32, 32], all orders", _elementwise(*ACTIVATION, count=6), _gate_eager, _gate, 21
    ),
    "layer_norm": Operation(
        "[256, 1024] an element, leaky_relu, all orders",
        _normed(256, 1024, extent=1024),
        _norm_act_eager(-1),
        _norm_act(-1),
        13,
    ),
    "layer_norm-images": Operation(
        "[16, 128, 16, 16] a channel, leaky_relu, all orders",
        _normed(16, 128, 16, 16, extent=128),
        _norm_act_eager(1),
        _norm_act(1),
        13,
    ),
    "layer_norm-large": Operation(
        "[16, 64, 64, 64] a channel, leaky_relu, all orders",
        _normed(16, 64, 64, 64, extent=64),
        _norm_act_eager(1),
        _norm_act(1),
        13,
        True,
    ),
    "instance_norm": Operation(
        "[16, 128, 16, 16], leaky_relu, all orders",
        _normed(16, 128, 16, 16, extent=128),
        _norm_act_eager(0),
        _norm_act(0),
        13,
    ),
}
