"""Critics that are plain MLPs: their whole penalty is two launches and the weight gradients' products.

A chain of linear layers with one activation between them, dropout behind it or not, is recognised in the
captured graph; :func:`~wgangp_fast.ops.mlp_penalty.mlp_penalty` then takes the place of the sweeps where it
exists (on a GPU). On a CPU library products and the sweeps are faster than any product of our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ...ops.mlp_penalty import MAX_LAYERS
from ...ops.registry import Kernels
from ..ir import args_of, result_of, value_of
from .kernel_patterns import RESHAPES

aten = torch.ops.aten
MAX_WIDTH = 1024
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ACTS: dict[Any, int] = {aten.relu.default: 1, aten.leaky_relu.default: 2, aten.tanh.default: 3}


@dataclass
class Mlp:
    """A recognised critic.

    Attributes:
        act, slope: the activation between the layers, as ``mlp_penalty`` counts them.
        weights, biases: indices of leaves, one a layer; None: no bias.
        dropouts: ``(keep, divisor)`` behind each hidden layer, or None.
        widths: of the hidden layers.
        kernels: what runs it.
    """

    act: int
    slope: float
    weights: list[int]
    biases: list[int | None]
    dropouts: list[tuple[float, float] | None]
    widths: list[int]
    kernels: Kernels

    def arguments(self, leaves: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor | None]]:
        """Weights and biases."""
        return [leaves[i] for i in self.weights], [None if i is None else leaves[i] for i in self.biases]

    def masks(self, rows: int, like: Tensor) -> list[Tensor | None]:
        """Dropout multipliers, drawn as eager dropout draws them."""
        return [
            None if drop is None else like.new_empty(rows, width).bernoulli_(drop[0]).div_(drop[1])
            for drop, width in zip(self.dropouts, self.widths)
        ]

    def gradients(
        self, t: Tensor, c: Tensor, g: Tensor, h: Tensor | None, x: Tensor | None, masks: list[Tensor | None]
    ) -> dict[int, Tensor]:
        """Leaf index to gradient: ``dW_l = g_l^T t_{l-1} + c_l^T a_{l-1}``, ``db_l = sum c_l``."""
        found: dict[int, Tensor] = {}
        inner = t.shape[1] - g.shape[1]
        sizes = [inner, *self.widths]
        tangents, cotangents = t.split(sizes, 1), g.split(self.widths, 1)
        smooth = c.numel() > 0
        adjoints = c.split(self.widths, 1) if smooth else ()
        hidden: tuple[Tensor, ...] = (x, *h.split(self.widths, 1)) if x is not None and h is not None else ()
        for layer, weight in enumerate(self.weights):
            if layer == len(self.widths):
                found[weight] = tangents[layer].sum(0, keepdim=True)  # the score's cotangent is one
                continue
            found[weight] = torch.mm(cotangents[layer].t(), tangents[layer])
            if not smooth:
                continue
            below, mask = hidden[layer], masks[layer - 1] if layer else None
            found[weight].addmm_(adjoints[layer].t(), below if mask is None else below * mask)
            bias = self.biases[layer]
            if bias is not None:
                found[bias] = adjoints[layer].sum(0)
        return found


def recognise(graph: fx.Graph, kernels: Kernels) -> Mlp | None:
    """The MLP in a critic's graph, if it is one and ``kernels`` have ``mlp_penalty`` for it."""
    if kernels.device != "cuda" or (kernels.which == "auto" and kernels.backend_of("mlp_penalty") == "ref"):
        return None
    x, *leaves = graph.find_nodes(op="placeholder")
    mlp = Mlp(0, 0.0, [], [], [], [], kernels)
    node, state = x, "start"
    rows = value_of(x).shape[0]
    while node is not result_of(graph):
        user = _next(node)
        if user is None:
            return None
        if user.target in RESHAPES or user.target is aten.squeeze.dim:
            # flattened samples before the first layer, a squeezed score after the last
            if state == "start" and tuple(value_of(user).shape) != (rows, value_of(x)[0].numel()):
                return None
            if state not in ("start", "linear"):
                return None
        elif user.target is aten.linear.default and state in ("start", "act", "dropout"):
            if not _layer(mlp, user, node, leaves):
                return None
            state = "linear"
        elif user.target in ACTS and state == "linear" and value_of(user).dim() == 2:
            if not _activation(mlp, user):
                return None
            state = "act"
        elif user.target is aten.mul.Tensor and state == "act":
            drop = _dropout(user, node)
            if drop is None:
                return None
            mlp.dropouts[-1] = drop
            state = "dropout"
        else:
            return None
        node = user
    fits = (
        state == "linear"
        and 1 <= len(mlp.weights) <= MAX_LAYERS
        and len(mlp.weights) == len(mlp.widths) + 1
        and len({*mlp.weights, *(b for b in mlp.biases if b is not None)})
        == len(mlp.weights) + sum(b is not None for b in mlp.biases)
        and value_of(node).numel() == rows
        and value_of(x).dtype in (DTYPES if kernels.which != "ref" else (*DTYPES, torch.float64))
        and all(value_of(leaf).dtype == value_of(x).dtype for leaf in leaves)
        and all(width <= MAX_WIDTH for width in mlp.widths)
    )
    return mlp if fits else None


def _next(node: fx.Node) -> fx.Node | None:
    """The one node that carries the value on; a dropout mask only asks for its shape."""
    users = [user for user in node.users if user.target is not aten.empty_like.default]
    return users[0] if len(users) == 1 else None


def _layer(mlp: Mlp, node: fx.Node, source: fx.Node, leaves: list[fx.Node]) -> bool:
    args = args_of(node)
    parameters = [a for a in args[1:] if a is not None]
    if args[0] is not source or not all(p in leaves for p in parameters) or value_of(source).dim() != 2:
        return False
    mlp.weights.append(leaves.index(args[1]))
    mlp.biases.append(leaves.index(parameters[1]) if len(parameters) > 1 else None)
    return True


def _activation(mlp: Mlp, node: fx.Node) -> bool:
    slope = 0.0
    if node.target is aten.leaky_relu.default:
        slope = args_of(node)[1] if len(args_of(node)) > 1 else 0.01
    if not isinstance(slope, (int, float)) or slope < 0:
        return False
    found = (ACTS[node.target], float(slope))
    if mlp.widths and found != (mlp.act, mlp.slope):
        return False
    mlp.act, mlp.slope = found
    mlp.widths.append(value_of(node).shape[1])
    mlp.dropouts.append(None)
    return True


def _dropout(node: fx.Node, source: fx.Node) -> tuple[float, float] | None:
    """``(keep, divisor)`` of ``source * bernoulli(keep) / divisor``."""
    args = args_of(node)
    scaled = args[1] if args[0] is source else args[0]
    if not isinstance(scaled, fx.Node) or scaled.target is not aten.div.Scalar or len(scaled.users) != 1:
        return None
    drawn, divisor = args_of(scaled)
    if not isinstance(drawn, fx.Node) or drawn.target is not aten.bernoulli_.float or len(drawn.users) != 1:
        return None
    empty, keep = args_of(drawn)[:2]
    if empty.target is not aten.empty_like.default or args_of(empty)[0] is not source:
        return None
    numbers = (keep, divisor)
    return numbers if all(isinstance(n, (int, float)) for n in numbers) else None
