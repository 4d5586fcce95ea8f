"""Nodes of a critic's graph: their arguments and values, and what the engine knows of them beside torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import fx

#: a value of a sweep: an FX proxy while a plan is written, a tensor in the tests of the rules; of an operator
#: with several outputs a tuple of them, None for those that are zero
Value: TypeAlias = Any
#: an argument of an operator, or its result, before any sweep: a fake tensor, a number, a list, a dtype
Argument: TypeAlias = Any
#: an overload of ATen (its attributes are torch's), or a function of the package's own
Operator: TypeAlias = Any


@dataclass(frozen=True)
class NodeInfo:
    """Frozen, because FX copies of a node share it: a writer puts a changed copy on its own node.

    Attributes:
        requires_grad: whether a gradient is asked of the value: of an input, or of what is made of one
            before the critic runs.
        run: makes sweep 1's call from the arguments, in place of the operator.
        own_products: which of ``forward``, ``back`` and ``weight`` the package's own kernels make.
        unfolded: whether a convolution runs as one matrix product of unfolded rows.
        pooled: whether a mean pooling was merged into the convolution.
        no_grad: whether the critic had switched gradients off.
        library: what runs it, where that is not torch's own choice; for ``explain``.
        kernel_of: which operators one of the package's own stands for; for ``explain``.
        data_replaced: an input that a call gives other memory (``t.data = ...``): what autograd saved of the
            tensor itself sees the new numbers, what it saved of a view or a copy those of before.
    """

    requires_grad: bool = False
    run: Callable[..., Value] | None = None
    own_products: frozenset[str] = frozenset()
    unfolded: bool = False
    pooled: bool = False
    no_grad: bool = False
    library: str = ""
    kernel_of: str = ""
    data_replaced: bool = False


def info_of(node: fx.Node) -> NodeInfo:
    """What is known of ``node``; to change it: ``node.meta["info"] = replace(info_of(node), ...)``."""
    found: NodeInfo = node.meta.get("info", NodeInfo())
    return found


def args_of(node: fx.Node) -> tuple[Argument, ...]:
    """``node.args``, which FX types as everything that an argument can be."""
    return node.args
