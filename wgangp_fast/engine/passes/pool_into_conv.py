"""A convolution and the mean pooling behind it become one strided convolution with a wider kernel.

``mean_pool(conv(x, w))`` with windows of s x s adds s*s shifted copies of ``w``: that sum, divided by s*s,
is itself a kernel of (k + s - 1) x (k + s - 1), applied with stride s. Behind a 3 x 3 convolution and 2 x 2
pooling that is 16 multiply-adds where there were 36, in every sweep, and no pooling of large maps. The wider
kernel is a mean pooling of the padded one, an ordinary node of the graph with its own rule, so gradients
reach ``w`` through it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from ...rules.nodes import info_of
from ...rules.registry import bind
from ..ir import args_of, value_of

aten = torch.ops.aten


def merge_pooling(graph: fx.Graph) -> None:
    """Rewrite ``graph`` in place, wherever a convolution's only reader is a mean pooling that fits."""
    for pool in list(graph.nodes):
        if pool.op != "call_function" or pool.target is not aten.avg_pool2d.default:
            continue
        convolution = args_of(pool)[0]
        size = _merged(convolution, pool)
        if size is not None:
            _merge(graph, convolution, pool, size)


def _merged(convolution: Any, pool: fx.Node) -> list[int] | None:
    """The pooling's window, if one strided convolution can do both."""
    if not isinstance(convolution, fx.Node) or convolution.target is not aten.convolution.default:
        return None
    if len(convolution.users) != 1 or info_of(pool).no_grad != info_of(convolution).no_grad:
        return None
    pooling = bind(pool.target, args_of(pool), pool.kwargs)
    _, weight, _, stride, _, dilation, transposed, _, _ = args_of(convolution)
    size = (list(pooling["kernel_size"]) * 2)[:2]
    steps = (list(pooling["stride"]) * 2)[:2] or size
    fits = (
        value_of(weight).dim() == 4
        and value_of(weight).dtype in (torch.float32, torch.float64)
        and not transposed
        and set(stride) == {1}
        and set(dilation) == {1}
        and steps == size
        and not any(pooling["padding"])
        and not pooling["ceil_mode"]
        and pooling["divisor_override"] is None
        and all(isinstance(n, int) for n in size)
    )
    return size if fits and _fewer(list(value_of(weight).shape[2:]), size) else None


def _fewer(kernel: list[int], size: list[int]) -> bool:
    """Whether the wider kernel at fewer places takes fewer multiply-adds than the kernel at all."""
    wide = (kernel[0] + size[0] - 1) * (kernel[1] + size[1] - 1)
    return wide < kernel[0] * kernel[1] * size[0] * size[1]


def _merge(graph: fx.Graph, convolution: fx.Node, pool: fx.Node, size: list[int]) -> None:
    x, weight, bias, _, padding, dilation, transposed, output_padding, groups = args_of(convolution)
    margin = [n - 1 for n in size]
    with graph.inserting_before(convolution):
        padded = graph.call_function(
            aten.constant_pad_nd.default, (weight, [margin[1], margin[1], margin[0], margin[0]], 0.0)
        )
        padded.meta = {"val": aten.constant_pad_nd.default(value_of(weight), padded.args[1], 0.0)}
        wide = graph.call_function(aten.avg_pool2d.default, (padded, size, [1, 1]))
        wide.meta = {"val": aten.avg_pool2d.default(value_of(padded), size, [1, 1])}
        arguments = (x, wide, bias, size, padding, dilation, transposed, output_padding, groups)
        merged = graph.call_function(aten.convolution.default, arguments)
    info = replace(info_of(pool), pooled=True, library="mean pooling in it")
    merged.meta = {**pool.meta, "info": info}
    pool.replace_all_uses_with(merged)
    graph.erase_node(pool)
    graph.erase_node(convolution)
