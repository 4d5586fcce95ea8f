"""Settings of the rules of the package's own operations; see ``rule_settings``."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import ACTIVATIONS, permuted
from rule_settings import case, enter, last, layouts, r
from torch import Tensor
from torch.nn import functional as F

from wgangp_fast.ops.activations import ACTIVATIONS as TABLE
from wgangp_fast.ops.activations import NAMES, encode
from wgangp_fast.ops.registry import KERNELS

bias_act, gate, norm_act = (KERNELS[name].call for name in ("bias_act", "gate", "norm_act"))


def _bias_act(x: Tensor, bias: Tensor | None, dim: int, act: int, p0: float, p1: float, p2: float) -> Tensor:
    if bias is not None:
        shape = [1] * x.dim()
        shape[dim] = -1
        x = x + bias.reshape(shape)
    return _activated(x, act, p0, p1, p2)


def _activated(x: Tensor, act: int, *p: float) -> Tensor:
    """Autograd's own activations where the table's formula is not differentiated as they are."""
    stock: dict[str, Any] = {
        "leaky_relu": lambda h: F.leaky_relu(h, p[0]),
        "elu": lambda h: torch.ops.aten.elu(h, *p),
    }
    name = NAMES[act]
    return stock[name](x) if name in stock else TABLE[name].f(x, *p)


for _name, _parameters in ACTIVATIONS:
    _code = encode(_name, _parameters)
    for _x, _bias, _dim in (
        *((h, None, 1) for h in (layouts() if _name == "tanh" else [r(3, 4)])),
        *((r(3, 4, 2), r(4), 1), (r(3, 4), r(4), 1), (r(2, 3, 4), r(4), 2), (last(2, 3, 4, 2), r(3), 1)),
        (permuted(r(2, 3, 4)), r(3), 1),
    ):
        enter(bias_act, case(bias_act, _x, _bias, _dim, *_code, active=[["x"]], stand_in=_bias_act))

for _shape in ((3, 4), (2, 3, 5), (1, 1), (0, 3)):
    for _a, _b in ((r(*_shape), r(*_shape)), tuple(r(_shape[0], 2 * _shape[1], *_shape[2:]).chunk(2, 1))):
        enter(gate, case(gate, _a, _b, active=[["a", "b"], ["a"], ["b"]],
                         stand_in=lambda a, b: torch.sigmoid(a) * torch.tanh(b)))  # fmt: skip


def _norm_act(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, groups: int, dims: int, eps: float,
    act: int, p0: float, p1: float, p2: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if groups:
        u = F.group_norm(x, groups, weight, bias, eps)
        rows = x.reshape(x.shape[0], groups, -1)
    else:
        u = F.layer_norm(x, x.shape[x.dim() - dims :], weight, bias, eps)
        rows = x.flatten(x.dim() - dims)
    mean = rows.mean(-1)
    rstd = torch.rsqrt(rows.var(-1, correction=0) + eps)
    return _activated(u, act, p0, p1, p2), mean.detach(), rstd.detach()


for _x, _groups, _dims in (
    (r(3, 4, 5), 1, 0),
    (r(3, 4, 5), 2, 0),
    (r(3, 4, 5), 4, 0),
    (last(2, 4, 3, 3), 2, 0),
    (last(2, 4, 3, 3), 4, 0),
    (permuted(r(3, 4, 5)), 2, 0),
    (r(3, 6), 0, 1),
    (r(2, 3, 4), 0, 2),
    (r(1, 6), 0, 1),
):
    _extent = (_x.shape[1],) if _groups else tuple(_x.shape[_x.dim() - _dims :])
    for _weight, _bias in ((r(*_extent), r(*_extent)), (None, None)):
        for _name in ("identity", "leaky_relu", "tanh", "silu"):
            _rest = (_groups, _dims, 1e-5, *encode(_name, (0.2,) if _name == "leaky_relu" else ()))
            enter(
                norm_act,
                case(norm_act, _x * 2 + 1, _weight, _bias, *_rest, active=[["x"]], stand_in=_norm_act),
            )
