"""The rival in JAX: the critic's own operations, traced by torch, run by ``jax.jit`` of ``jax.grad``.

make_fx gives the critic as ATen operations; :data:`OPERATIONS` says each of them in JAX. Weights are the
torch module's, handed over at every call without a copy where DLPack can. A critic with an operation that
the table lacks, or that draws random numbers or changes buffers, is reported as absent.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..engine.torch_internals import trace_to_aten
from .modes import Mode
from .rivals import with_tensors
from .steps import Absent, Contestant, Step, Task, give, interpolate


def jitted(task: Task, mode: Mode) -> Contestant:
    """The loss and its gradients in JAX."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        try:
            jax = importlib.import_module("jax")
        except ImportError as error:
            raise Absent("jax is not installed: pip install 'wgangp_fast[jax]'") from error
        if mode.autocast:
            raise Absent("torch's autocast has no counterpart in JAX")
        if real.device.type == "cuda" and jax.default_backend() != "gpu":
            raise Absent(f"this jax runs on {jax.default_backend()}, the tensors are on a GPU")
        jnp = jax.numpy
        module, names = _traced(critic, real)
        buffers = {name: _to_jax(jax, b) for name, b in critic.named_buffers()}

        def score(parameters: dict[str, Any]) -> Callable[[Any], Any]:
            tensors = {**parameters, **buffers}
            return lambda x: _interpret(module, jax, [tensors[name] for name in names], x)

        def loss(parameters: dict[str, Any], real: Any, fake: Any, alpha: Any) -> Any:
            def penalty() -> Any:
                x = interpolate(real, fake, alpha)
                gradient = jax.grad(lambda x: score(parameters)(x).sum())(x).reshape(x.shape[0], -1)
                return ((jnp.sqrt((gradient * gradient).sum(1)) - 1) ** 2).mean()

            return task.combine(score(parameters), real, fake, penalty)

        run = jax.jit(jax.value_and_grad(loss))
        tf32 = real.device.type == "cuda" and torch.backends.cudnn.allow_tf32
        precision = "tensorfloat32" if tf32 else "highest"

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            parameters = {name: _to_jax(jax, p) for name, p in critic.named_parameters()}
            with jax.default_matmul_precision(precision):
                value, gradients = run(parameters, *(_to_jax(jax, t) for t in (real, fake, alpha)))
            # Handing over a result waits for it where it must (the CPU); a stream orders it on a GPU.
            give(critic.parameters(), (torch.from_dlpack(gradients[name]) for name in parameters))
            found: Tensor = torch.from_dlpack(value)
            return found

        return step

    return contestant


def _to_jax(jax: Any, tensor: Tensor) -> Any:
    return jax.dlpack.from_dlpack(tensor.detach().contiguous())


def _traced(critic: nn.Module, real: Tensor) -> tuple[fx.GraphModule, list[str]]:
    """The critic's forward as ATen operations of ``(*tensors, x)``, and the names of the tensors."""
    tensors = dict(critic.named_parameters()) | dict(critic.named_buffers())
    names = list(tensors)  # JAX sorts the keys of a dict that passes through it
    with torch.no_grad():
        graph = trace_to_aten(
            lambda values, x: with_tensors(critic, dict(zip(names, values)))(x), list(tensors.values()), real
        )
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if node.op == "call_function" and node.target not in OPERATIONS:
            raise Absent(f"the converter to JAX has no {node.target}")
    return graph, names


def _interpret(module: fx.GraphModule, jax: Any, tensors: list[Any], x: Any) -> Any:
    """Run the graph on JAX arrays."""
    inputs = iter([*tensors, x])
    known: dict[fx.Node, Any] = {}

    def value(argument: Any) -> Any:
        return fx.node.map_arg(argument, lambda node: known[node])

    for node in module.graph.nodes:
        if node.op == "placeholder":
            known[node] = next(inputs)
        elif node.op == "output":
            found = value(node.args[0])
            return found[0] if isinstance(found, (list, tuple)) else found
        else:
            known[node] = OPERATIONS[node.target](jax, *value(node.args), **value(node.kwargs))
    raise AssertionError("a graph ends in an output")


def _convolution(
    jax: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Any:
    if transposed:
        raise Absent("the converter to JAX has no transposed convolution")
    spatial = "DHW"[3 - len(stride) :]
    y = jax.lax.conv_general_dilated(
        x,
        weight,
        stride,
        [(p, p) for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=(f"NC{spatial}", f"OI{spatial}", f"NC{spatial}"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias.reshape(1, -1, *[1] * len(stride))


def _group_norm(
    jax: Any, x: Any, weight: Any, bias: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> Any:
    grouped = x.reshape(n, groups, -1)
    mean = grouped.mean(-1, keepdims=True)
    centred = grouped - mean
    y = (centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + eps)).reshape(x.shape)
    shape = (1, c, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape), None, None)


def _batch_norm_of_instances(
    jax: Any, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float
) -> Any:
    """Instance norm as torch runs it: batch norm of one sample with N * C channels."""
    if not training or mean is not None:
        raise Absent("the converter to JAX has no batch norm with running statistics")
    axes = (0, *range(2, x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(axes, keepdims=True) + eps)
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return (y if bias is None else y + bias.reshape(shape), None, None)


def _layer_norm(jax: Any, x: Any, shape: list[int], weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    centred = x - x.mean(axes, keepdims=True)
    y = centred * jax.lax.rsqrt((centred * centred).mean(axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias, None, None)


def _mean_pool(jax: Any, x: Any, kernel: list[int], stride: list[int] | None = None, *rest: Any) -> Any:
    stride = stride or kernel
    if rest and any(rest[0]):
        raise Absent("the converter to JAX has no padded mean pool")
    window, step = (1, 1, *kernel), (1, 1, *stride)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, step, "VALID") / math.prod(kernel)


def _slice(jax: Any, x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _squeeze(jax: Any, x: Any, dim: int) -> Any:
    return jax.numpy.squeeze(x, dim) if x.shape[dim] == 1 else x


def _addmm(jax: Any, bias: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Any:
    return beta * bias + alpha * (a @ b)


def _add(jax: Any, a: Any, b: Any, alpha: float = 1) -> Any:
    return a + alpha * b


def _sub(jax: Any, a: Any, b: Any, alpha: float = 1) -> Any:
    return a - alpha * b


aten = torch.ops.aten
OPERATIONS: dict[Any, Callable[..., Any]] = {
    operator.getitem: lambda jax, x, index: x[index],
    aten.add.Tensor: _add,
    aten.addmm.default: _addmm,
    aten.avg_pool2d.default: _mean_pool,
    aten.bmm.default: lambda jax, a, b: a @ b,
    aten.clone.default: lambda jax, x, memory_format=None: x,
    aten.convolution.default: _convolution,
    aten.detach.default: lambda jax, x: x,
    aten.div.Tensor: lambda jax, a, b: a / b,
    aten.expand.default: lambda jax, x, shape: jax.numpy.broadcast_to(
        x, [have if want == -1 else want for have, want in zip(x.shape, shape)]
    ),
    aten.leaky_relu.default: lambda jax, x, slope=0.01: jax.numpy.where(x > 0, x, slope * x),
    aten.mean.dim: lambda jax, x, dim, keepdim=False: x.mean(tuple(dim), keepdims=keepdim),
    aten.mm.default: lambda jax, a, b: a @ b,
    aten.mul.Tensor: lambda jax, a, b: a * b,
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten._native_batch_norm_legit.no_stats: lambda jax, x, w, b, training, momentum, eps: (
        _batch_norm_of_instances(jax, x, w, b, None, None, training, momentum, eps)
    ),
    aten.native_batch_norm.default: _batch_norm_of_instances,
    aten.permute.default: lambda jax, x, dims: x.transpose(dims),
    aten.relu.default: lambda jax, x: jax.numpy.where(x > 0, x, 0.0),
    aten.repeat.default: lambda jax, x, times: jax.numpy.tile(x, times),
    aten.sigmoid.default: lambda jax, x: jax.nn.sigmoid(x),
    aten.slice.Tensor: _slice,
    aten._softmax.default: lambda jax, x, dim, half: jax.nn.softmax(x, axis=dim),
    aten.squeeze.dim: _squeeze,
    aten.sub.Tensor: _sub,
    aten.t.default: lambda jax, x: x.T,
    aten.tanh.default: lambda jax, x: jax.numpy.tanh(x),
    aten.transpose.int: lambda jax, x, a, b: jax.numpy.swapaxes(x, a, b),
    aten.unsqueeze.default: lambda jax, x, dim: jax.numpy.expand_dims(x, dim),
    aten.view.default: lambda jax, x, shape: x.reshape(shape),
    aten._unsafe_view.default: lambda jax, x, shape: x.reshape(shape),
    aten.reshape.default: lambda jax, x, shape: x.reshape(shape),
}
"""ATen operation to its meaning in JAX, called with the jax module first."""
