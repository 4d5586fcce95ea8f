"""Matrix products on a CPU by the library that is fastest there.

torch takes MKL for float32 products. MKL keeps its best code for processors of its own maker; elsewhere
oneDNN, which is part of torch as well, is 1.4 to 2.2 times as fast (``benchmarks/products.py``). The
choice depends on the processor's maker and on the size, never on a race: then results would differ in their
last bits from run to run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

from ..ops.registry import KERNELS
from .nodes import Value, args_of, info_of

aten = torch.ops.aten

#: multiply-adds below which a call's fixed cost outweighs the faster product
LEAST = 1 << 20


@functools.cache
def onednn_is_faster() -> bool:
    """Whether this processor is one on which torch's own choice, MKL, runs below its best."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "GenuineIntel" not in described and "avx2" in described


def _takes(rows: int, inner: int, columns: int, value: Tensor) -> bool:
    return (
        value.device.type == "cpu"
        and value.dtype == torch.float32
        and min(rows, inner, columns) > 1
        and rows * inner * columns >= LEAST
        and bool(torch.backends.mkldnn.enabled)
        and onednn_is_faster()
    )


def takes(like: Tensor, inner: int, columns: int) -> bool:
    """Whether a product with a result like this goes to oneDNN."""
    return _takes(like.numel() // max(columns, 1), inner, columns, like)


def onednn(a: Value, b: Value) -> Value:
    """``a @ b.T`` by oneDNN: ``[..., k]`` and ``[n, k]`` (any strides) to ``[..., n]``."""
    return _pointwise(a, b, None, "none", [])


def _pointwise(a: Value, b: Value, bias: Value, post: str, numbers: list[float]) -> Value:
    return torch.ops.mkldnn._linear_pointwise.default(a, b, bias, post, numbers, "")


def prepare(graph: fx.Graph, own_kernels: bool) -> None:
    """Choose how sweep 1 and the rules make the large products of a critic.

    Linear nodes run on oneDNN, with the (leaky) ReLU behind them in the same call; with ``own_kernels``,
    convolutions run on the package's own kernels where these are faster (:func:`own_products`), and small
    batches with many weights as one matrix product of unfolded rows.
    Its ``run`` makes sweep 1's call from the arguments. The value of a linear node then includes its
    activation: no other node may read it, and the activation's node returns its argument.
    """
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is aten.linear.default:
            _prepare_linear(node)
        elif node.target is aten.convolution.default and own_kernels:
            _prepare_convolution(node)


def _prepare_linear(node: fx.Node) -> None:
    arguments = args_of(node)
    columns, inner = arguments[1].meta["val"].shape
    if not takes(node.meta["val"], inner, columns):
        return
    post, numbers = "none", []
    follower = next(iter(node.users)) if len(node.users) == 1 else None
    if follower is not None and follower.op == "call_function" and not info_of(follower).no_grad:
        after = args_of(follower)
        if follower.target is aten.relu.default:
            post = "relu"
        elif follower.target is aten.leaky_relu.default:
            slope = after[1] if len(after) > 1 else 0.01
            if isinstance(slope, (int, float)) and slope >= 0:
                post, numbers = "leaky_relu", [float(slope)]
        if post != "none":
            follower.meta["info"] = replace(
                info_of(follower), run=lambda value, *_: value, library="in the product before it"
            )
    library = "oneDNN" if post == "none" else f"oneDNN, {post} in it"
    run = functools.partial(_run, post, numbers)
    node.meta["info"] = replace(info_of(node), run=run, library=library)


def _prepare_convolution(node: fx.Node) -> None:
    own, info = own_products(node), info_of(node)
    if own:
        pooled = ", mean pooling in it" if info.pooled else ""
        library = f"own kernel: {', '.join(sorted(own))}{pooled}"
        info = replace(info, own_products=own, library=library)
    if "forward" in own:
        info = replace(info, run=_run_own(node))
    elif _few_outputs(node):
        info = replace(info, unfolded=True, run=_run_rows(node), library="oneDNN, of unfolded rows")
    node.meta["info"] = info


def own_products(node: fx.Node) -> frozenset[str]:
    """Which of ``forward``, ``back`` and ``weight`` of a convolution the package's own kernels make.

    They keep tiles of 8 images (``weight``: 8 input channels) and 32 output channels in registers, skip the
    padding and need no unfolded copy: up to twice as fast as the library at small maps
    (``benchmarks/products.py``). Where tiles would stay half empty, or where a value is used too seldom to
    be worth packing (a 1 x 1 kernel, few channels), the library remains.
    """
    arguments = args_of(node)
    x, weight = (value.meta["val"] for value in arguments[:2])
    y, transposed, groups = node.meta["val"], arguments[6], arguments[8]
    fits = x.dim() == 4 and not transposed and groups == 1 and x.device.type == "cpu"
    if not fits or x.dtype not in (torch.float32, torch.float64) or not 0 < y.numel() < 1 << 31:
        return frozenset()
    inputs, outputs, taps = weight.shape[1], weight.shape[0], weight[0, 0].numel()
    if y.numel() * inputs * taps < LEAST or not tiles_are_fast():
        return frozenset()
    found = set()
    if taps >= 4 and inputs <= FEW_CHANNELS:
        found.add("back")
    if taps >= 4 and _full(inputs, 32) and _full(outputs, 32):
        found.add("weight")
        if _full(x.shape[0], 8):
            found |= {"forward", "back"}
    return frozenset(found)


def _full(size: int, tile: int) -> bool:
    """Whether ``size`` fills at least three quarters of the tiles that it needs."""
    return 4 * size >= 3 * tile * -(-size // tile)


#: with at most so many input channels (a first layer) the gradient of the input has a kernel of its own
FEW_CHANNELS = 4


@functools.cache
def tiles_are_fast() -> bool:
    """Whether this processor has the vectors that the own kernels' tiles are cut for."""
    wide = torch.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2")
    if not wide or not hasattr(torch.ops.wgangp_fast, "convolve"):  # a library from before these kernels
        return False
    for name, flops in CONVOLUTION_FLOPS.items():
        register_flop_formula(getattr(torch.ops.wgangp_fast, name))(flops)
    return True


def steps(stride: list[int], padding: list[int], dilation: list[int]) -> tuple[int, ...]:
    """Stride, padding and dilation of a convolution over images, two numbers each."""
    return tuple(number for pair in (stride, padding, dilation) for number in (list(pair) * 2)[:2])


def _run_own(node: fx.Node) -> Callable[..., Value]:
    arguments = args_of(node)
    numbers = steps(*arguments[3:6])
    return lambda x, weight, bias, *_: KERNELS["convolve"].call(x, weight, bias, *numbers)


def _few_outputs(node: fx.Node) -> bool:
    """Whether the library would spend its time on reordering the weights.

    At batch 16, 256 to 512 channels at 8 x 8 (3.3 million weights, 0.4 million activations), the library
    takes 7.7 ms and the product of unfolded rows 4.9 (``benchmarks/products.py``).
    """
    arguments = args_of(node)
    x, weight = (value.meta["val"] for value in arguments[:2])
    transposed, groups = arguments[6], arguments[8]
    y = node.meta["val"]
    return (
        x.dim() == 4
        and not transposed
        and groups == 1
        and weight.is_contiguous()
        and weight.numel() >= 4 * (x.numel() + y.numel())
        and _takes(y.numel() // weight.shape[0], weight[0].numel(), weight.shape[0], y)
    )


def window(stride: list[int], padding: list[int], dilation: list[int], weight: Tensor) -> tuple[int, ...]:
    """The window's numbers as ``unfold_rows`` takes them."""
    return (*weight.shape[2:], *steps(stride, padding, dilation))


def convolved(x: Value, weight: Value, bias: Value, numbers: tuple[int, ...], shape: list[int]) -> Value:
    """A convolution as a product of unfolded rows; ``shape`` is the result's."""
    n, columns = shape[:2]
    rows = KERNELS["unfold_rows"].call(x, *numbers)
    y = _pointwise(rows, weight.reshape([columns, -1]), bias, "none", [])
    return y.reshape([n, -1, columns]).transpose(1, 2).reshape(shape)


def convolved_back(
    g: Value, weight: Value, numbers: tuple[int, ...], shape: list[int], columns: int
) -> Value:
    """The gradient of :func:`convolved` for ``x`` of this ``shape``; ``g [N, columns, OH, OW]``."""
    n = shape[0]
    rows = g.reshape([n, columns, -1]).transpose(1, 2).reshape([-1, columns])
    return KERNELS["fold_rows"].call(onednn(rows, weight.reshape([columns, -1]).t()), *shape, *numbers)


def _run_rows(node: fx.Node) -> Callable[..., Value]:
    arguments = args_of(node)
    numbers = window(arguments[3], arguments[4], arguments[5], arguments[1].meta["val"])
    shape = list(node.meta["val"].shape)
    return lambda x, weight, bias, *_: convolved(x, weight, bias, numbers, shape)


def _run(post: str, numbers: list[float], a: Value, weight: Value, bias: Value = None) -> Value:
    return _pointwise(a, weight, bias, post, numbers)


def _flops(a: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
    rows = 1
    for size in a[:-1]:
        rows *= size
    return 2 * rows * weight[0] * weight[1]


def _convolution_flops(places: Sequence[int], weight: Sequence[int]) -> int:
    """Two for each multiply-add, with the padding, as torch counts; shapes of outputs and weight."""
    return 2 * math.prod(places) * math.prod(weight[1:])


#: what a flop counter counts for the package's own products, from shapes
CONVOLUTION_FLOPS: dict[str, Callable[..., int]] = {
    "convolve": lambda x, weight, *_, out_shape, **__: _convolution_flops(out_shape, weight),
    "convolve_back": lambda g, weight, *_, **__: _convolution_flops(g, weight),
    "weight_gradient": lambda xs, gs, *_, out_shape, **__: sum(_convolution_flops(g, out_shape) for g in gs),
}

if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)
