"""Structure, proved from the other side: a plan gives gradients to the parameters that autograd reaches.

No number is compared. What autograd reaches is read from stock code: parameters whose gradient is not None,
and those that a walk over its graph finds. What ours reaches is read from the plan: the leaves for which the
code of sweeps 3 and 4 returns something (or that it states to be zero), and through the prologue's graph what
they are made of.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import zoo_deep  # noqa: F401  (enters its critics into the zoo)
import zoo_public_rows  # noqa: F401
from fuzz_truth import Ours, Stock
from penalty_checks import build, points
from torch import Tensor, fx, nn
from zoo import ZOO
from zoo_public import PUBLIC, STOCK_PATH

EVERY = ZOO | {f"public: {name}": entry for name, entry in PUBLIC.items()}


def given(plan: Any) -> list[bool]:
    """For each leaf that asks for a gradient, in order: whether the plan's code makes one."""
    sweeps, made = plan.sweeps, []
    results: list[Any] = []
    if sweeps.backward is not None:
        (output,) = sweeps.backward.graph.find_nodes(op="output")
        results = list(output.args[0][1:])
    for k in range(len(sweeps.wanted)):
        made.append(k in sweeps.leaf_zero or (bool(results) and isinstance(results[k], fx.Node)))
    return made


def edges(node: Any) -> Iterator[Any]:
    """Where a gradient goes from here."""
    following = [n for n, _ in node.next_functions if n is not None]
    plan = getattr(node, "plan", None)
    if plan is not None:
        made = given(plan)
        assert len(following) >= len(made)
        first = len(following) - len(made)  # the points come before the leaves
        following = following[:first] + [n for n, m in zip(following[first:], made) if m]
    yield from following


def walked(value: Tensor, critic: nn.Module) -> tuple[set[str], int]:
    """Names of the parameters found from this value's graph, and how many plans were met."""
    names = {id(p): name for name, p in critic.named_parameters()}
    found: set[str] = set()
    seen: set[Any] = set()
    plans, waiting = 0, [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        plans += getattr(node, "plan", None) is not None
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) in names:
            found.add(names[id(variable)])
        waiting.extend(edges(node))
    return found, plans


@pytest.mark.parametrize("name", [name for name in EVERY if name.removeprefix("public: ") not in STOCK_PATH])
def test_plan_reaches_what_autograd_reaches(name: str) -> None:
    critic, batch = build(EVERY[name].build), points(EVERY[name].shape)
    if "channels_last" in name:
        batch = (*(v.to(memory_format=torch.channels_last) for v in batch[:2]), batch[2])
    for call in ("penalty", "loss"):
        critic.zero_grad()
        stock = getattr(Stock, call)(critic, *batch)
        reachable, _ = walked(stock, critic)
        stock.backward()
        truth = {n for n, p in critic.named_parameters() if p.grad is not None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found, plans = walked(getattr(Ours, call)(critic, *batch), critic)
        assert plans, f"{call}: the stock path, so that nothing is shown"
        assert found == truth, call
        assert found <= reachable
