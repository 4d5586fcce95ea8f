"""What the engine knows of a node of a critic's graph, beside the fake value that torch keeps there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx


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
    """

    requires_grad: bool = False
    run: Callable[..., Any] | None = None
    own_products: frozenset[str] = frozenset()
    unfolded: bool = False
    pooled: bool = False


def info_of(node: fx.Node) -> NodeInfo:
    """What is known of ``node``; to change it: ``node.meta["info"] = replace(info_of(node), ...)``."""
    found: NodeInfo = node.meta.get("info", NodeInfo())
    return found
