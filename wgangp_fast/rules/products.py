"""Matrix products on a CPU by the library that is fastest there.

torch takes MKL for float32 products. MKL keeps its best code for processors of its own maker; elsewhere
oneDNN, which torch brings as well, is 1.3 to 2.5 times as fast (``benchmarks/results``). It is chosen by
the maker of the processor and the size, never by a race of the two: a race would make bits differ from
run to run.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.flop_counter import register_flop_formula

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
        described = Path("/proc/cpuinfo").read_text()
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


def onednn(a: Any, b: Any) -> Any:
    """``a @ b.T`` by oneDNN: ``[..., k]`` and ``[n, k]`` (any strides) to ``[..., n]``."""
    return _pointwise(a, b, None, "none", [])


def _pointwise(a: Any, b: Any, bias: Any, post: str, numbers: list[float]) -> Any:
    return torch.ops.mkldnn._linear_pointwise.default(a, b, bias, post, numbers, "")


def prepare(graph: fx.Graph) -> None:
    """Let large linear nodes of a critic run on oneDNN, with the (leaky) ReLU behind them in the same call.

    ``node.meta["run"]`` makes sweep 1's call from the arguments; the activation's passes its argument on.
    The linear node's value is then the activated one: nothing but that activation may read it.
    """
    for node in graph.nodes:
        if node.op != "call_function" or node.target is not aten.linear.default:
            continue
        weight = node.args[1]
        columns, inner = weight.meta["val"].shape
        if not takes(node.meta["val"], inner, columns):
            continue
        post, numbers = "none", []
        follower = next(iter(node.users)) if len(node.users) == 1 else None
        if follower is not None and follower.op == "call_function" and not follower.meta.get("no_grad"):
            if follower.target is aten.relu.default:
                post = "relu"
            elif follower.target is aten.leaky_relu.default:
                slope = follower.args[1] if len(follower.args) > 1 else 0.01
                if isinstance(slope, (int, float)) and slope >= 0:
                    post, numbers = "leaky_relu", [float(slope)]
            if post != "none":
                follower.meta |= {"run": lambda value, *_: value, "library": "in the product before it"}
        node.meta |= {
            "run": functools.partial(_run, post, numbers),
            "library": "oneDNN" if post == "none" else f"oneDNN, {post} in it",
        }


def _run(post: str, numbers: list[float], a: Any, weight: Any, bias: Any = None) -> Any:
    return _pointwise(a, weight, bias, post, numbers)


def _flops(a: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    rows = 1
    for size in a[:-1]:
        rows *= size
    return 2 * rows * weight[0] * weight[1]


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_flops)
