"""Ways to compute one product with torch and its libraries: what the floor chooses the fastest of.

No kernel of this package is among them: the floor is what others' best products take.

Each way is a function of no arguments on tensors of its own, which returns the result alone. Layouts are
part of the way: a channels_last way gets channels_last arguments, as in a critic that is kept so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .counting import FORWARD, OF_A, OF_B, Product

Ways = dict[str, Callable[[], Any]]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def ways(product: Product, function: str, device: torch.device, dtype: torch.dtype = torch.float32) -> Ways:
    """Name to call, for one function of ``product`` (``"forward"``, ``"gradient a"``, ``"gradient b"``)."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, device=device, dtype=dtype).sub_(0.5)

    a, b, g = draw(product.a), draw(product.b), draw(product.y)
    return _FAMILIES[product.family](product, function, a, b, g)


def draw(numbers: int, device: torch.device) -> Ways:
    """Random numbers as dropout needs them."""
    mask = torch.empty(numbers, device=device)
    return {"bernoulli": lambda: mask.bernoulli_(0.5)}


def copy(size: int, device: torch.device) -> Ways:
    """A copy that moves ``size`` bytes: half of them read, half written, the buffers allocated before."""
    source = torch.ones(max(size // 8, 1), device=device)
    target = torch.ones_like(source)
    return {"copy": lambda: target.copy_(source)}


def _linear(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Ways:
    """``y [r, n] = a [r, k] @ b [n, k].T``."""
    found: Ways = {
        FORWARD: {"linear": lambda: F.linear(a, b)},
        OF_A: {"mm": lambda: torch.mm(g, b)},
        OF_B: {"mm": lambda: torch.mm(g.t(), a), "mm, transposed": lambda: torch.mm(a.t(), g).t()},
    }[function]
    pointwise = _onednn(a)
    if pointwise is not None:
        left, right = {FORWARD: (a, b), OF_A: (g, b.t()), OF_B: (g.t(), a.t())}[function]
        found["oneDNN"] = lambda: pointwise(left, right)
    return found


def _onednn(like: Tensor) -> Callable[[Tensor, Tensor], Tensor] | None:
    """``left @ right.T`` by oneDNN, where torch has it."""
    if like.device.type != "cpu" or like.dtype not in (torch.float32, torch.bfloat16):
        return None
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return None
    call = torch.ops.mkldnn._linear_pointwise.default
    return lambda left, right: call(left, right, None, "none", [], "")


def _mm(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Ways:
    return {
        FORWARD: {"mm": lambda: a @ b},
        OF_A: {"mm": lambda: g @ b.mT},
        OF_B: {"mm": lambda: a.mT @ g},
    }[function]


def _bmm(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Ways:
    """Also with the factors stored the other way round, as a transposed view of keys is."""
    turned_a, turned_b = a.mT.contiguous().mT, b.mT.contiguous().mT
    found = _mm(product, function, a, b, g)
    found["mm, transposed factors"] = _mm(product, function, turned_a, turned_b, g)["mm"]
    return found


def _mv(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Ways:
    return {
        FORWARD: {"mv": lambda: torch.mv(a, b)},
        OF_A: {"outer": lambda: torch.outer(g, b)},
        OF_B: {"mv": lambda: torch.mv(a.t(), g)},
    }[function]


def _convolution(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Ways:
    found: Ways = {}
    for name, layout in LAYOUTS.items():
        # The channels_last backward of 1x1 convolutions can crash on a CPU (torch 2.13).
        crashes = a.device.type == "cpu" and b[0, 0].numel() == 1
        if name == "contiguous" or (a.dim() == 4 and not crashes):
            own = [t.contiguous(memory_format=layout) for t in (a, b, g)]
            found[name] = _convolved(product, function, *own)
    if a.dim() == 4 and product.geometry[3] is False and product.geometry[5] == 1:
        found["unfold + mm"] = _unfolded(product, function, a, b, g)
    return found


def _convolved(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Callable[[], Any]:
    geometry = product.geometry
    if function == FORWARD:
        return lambda: torch.convolution(a, b, None, *geometry)
    index = 0 if function == OF_A else 1
    mask = [index == 0, index == 1, False]
    call = torch.ops.aten.convolution_backward.default
    return lambda: call(g, a, b, None, *geometry, mask)[index]


def _unfolded(product: Product, function: str, a: Tensor, b: Tensor, g: Tensor) -> Callable[[], Any]:
    stride, padding, dilation = product.geometry[:3]
    window = (b.shape[2:], dilation, padding, stride)
    w, columns = b.reshape(b.shape[0], -1), g.flatten(2)  # [O, K], [N, O, L]
    if function == FORWARD:
        return lambda: torch.matmul(w, F.unfold(a, *window)).view(g.shape)
    if function == OF_A:
        return lambda: F.fold(torch.matmul(w.t(), columns), a.shape[2:], *window)
    return lambda: torch.einsum("nol,nkl->ok", columns, F.unfold(a, *window)).view(b.shape)


_FAMILIES: dict[str, Callable[[Product, str, Tensor, Tensor, Tensor], Ways]] = {
    "convolution": _convolution,
    "linear": _linear,
    "mm": _mm,
    "bmm": _bmm,
    "mv": _mv,
}
