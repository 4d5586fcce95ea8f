"""A critic whose forward does something in Python, and its comparison with stock code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from penalty_checks import assert_same, build, penalty, points
from torch import Tensor, nn

Forward = Callable[[Any, Tensor], Tensor]


class Critic(nn.Module):
    """``head`` after what ``forward_of`` does; attributes as given, tensors as buffers."""

    def __init__(self, forward_of: Forward, **attributes: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 1)
        self.forward_of = forward_of
        for name, value in attributes.items():
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                self.register_buffer(name, value.clone())
            else:
                setattr(self, name, value)

    def hidden(self, x: Tensor) -> Tensor:
        return torch.tanh(self.a(x))

    def head(self, x: Tensor) -> Tensor:
        return self.b(self.hidden(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_of(self, x)


def compare(forward_of: Forward, attributes: dict[str, Any], change: Any = None, calls: int = 1) -> nn.Module:
    """The engine against stock code, before and after ``change``: attributes to set, or a function."""
    ours, stock = (build(lambda: Critic(forward_of, **attributes)) for _ in range(2))
    batch = points((5, 6))
    for step in range(2 if change is not None else calls):
        if step and change is not None:
            for critic in (ours, stock):
                if callable(change):
                    change(critic)
                else:
                    for name, value in change.items():
                        setattr(critic, name, value)
        assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))
    return ours
