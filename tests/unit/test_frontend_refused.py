"""What critics do in Python and the engine refuses: a warning says which line, and what to do."""
# ruff: noqa: NPY002 - critics draw from numpy's global stream

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from frontend_critic import Critic, Forward
from penalty_checks import build, points
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import wgangp_fast
from wgangp_fast.errors import StockPathWarning

LOG = logging.getLogger("a critic's")


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def _derived(c: Any, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(c.hidden(x).sum(), x, create_graph=True)  # the line
    return c.head(x) + gradient.square().sum(1, keepdim=True)


def _packed(c: Any, x: Tensor) -> Tensor:
    packed = nn.utils.rnn.pack_padded_sequence(x.view(5, 3, 2), [3, 3, 2, 2, 1], batch_first=True)  # the line
    return c.b(torch.tanh(c.g(packed)[1][-1]))


def _drawn(c: Any, x: Tensor) -> Tensor:
    return c.head(torch.roll(x, int(torch.randint(0, 3, (1,))), 1))  # the line


def _permuted(c: Any, x: Tensor) -> Tensor:
    order = list(range(6))
    random.shuffle(order)  # the line
    return c.head(x[:, order])


def _scripted(c: Any, x: Tensor) -> Tensor:
    return c.s(x)  # the line


def _counted(c: Any, x: Tensor) -> Tensor:
    return c.head(x) * F.one_hot((x[:, 0] > 0).long()).to(x.dtype).sum(1, keepdim=True)  # the line


def _logging_x(c: Any, x: Tensor) -> Tensor:
    LOG.info("mean %s", x.mean())  # the line
    return c.head(x)


def _linearized(c: Any, x: Tensor) -> Tensor:
    y, along = torch.func.linearize(c.hidden, x)  # the line
    return c.b(y * along(torch.ones_like(x)).tanh())


def _counting(c: Any, x: Tensor) -> Tensor:
    c.n.add_(1)
    return c.head(x) * (2 if c.n > 2 else 3)  # the line


def _measuring(c: Any, x: Tensor) -> Tensor:
    """An operator whose name does not say that it writes."""
    h = F.batch_norm(x, c.m, torch.ones_like(c.m), training=True)
    return c.head(h) * (2 if c.m.any() else 3)  # the line


def _reading(c: Any, x: Tensor) -> Tensor:
    spectrum = torch.stft(x, 4, 2, return_complex=True)
    return c.head(torch.ops.aten.istft(spectrum, 4, 2, length=6))  # the line


def _drawing_first(c: Any, x: Tensor) -> Tensor:
    h = c.head(x) * np.random.rand()
    return h * 2 if x.sum() > 0 else h  # the line


def _repeated(c: Any, x: Tensor) -> Tensor:
    """Stock code makes the inside again in its backward pass, with other weights."""
    h = checkpoint(lambda y: torch.tanh(y @ c.w), x, use_reentrant=False)  # the line
    c.w.data.mul_(0.9)
    return c.head(h)


REFUSED: dict[str, tuple[Forward, Callable[[], dict[str, Any]], str]] = {
    "autograd.grad": (_derived, dict, "torch.func"),
    "packed sequences": (_packed, lambda: {"g": nn.GRU(2, 8, batch_first=True)}, "padded batch"),
    "torch's random number as a size": (_drawn, dict, "keep it a tensor"),
    "a draw, then a branch": (_drawing_first, dict, "torch.where"),
    "a counter": (_counting, lambda: {"n": torch.tensor(0)}, "count in a float attribute"),
    "statistics of x": (_measuring, lambda: {"m": torch.zeros(6, dtype=torch.float64)}, "torch.where"),
    "an operator that reads numbers": (_reading, dict, "torch.where"),
    "a checkpoint of what changes": (
        _repeated,
        lambda: {"w": nn.Parameter(torch.randn(6, 6))},
        "outside of the",
    ),
    "shuffle": (_permuted, dict, "draw with"),
    "one_hot of x": (_counted, dict, "pass num_classes"),
    "a log of x": (_logging_x, dict, "log outside"),
    "linearize": (_linearized, dict, "torch.func.jvp"),
    "a scripted module": (
        lambda c, x: c.s(x),  # the line
        lambda: {"s": torch.jit.script(_layers())},
        "that was scripted",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_line_and_its_remedy(name: str) -> None:
    forward_of, attributes, remedy = REFUSED[name]
    ours, stock = (build(lambda: Critic(forward_of, **attributes())) for _ in range(2))
    real, fake, alpha = points((5, 6))
    values = []
    for critic, impl in ((ours, "auto"), (stock, "ref")):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            values.append(wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl))
        if impl == "auto":
            (message,) = [str(w.message) for w in said if issubclass(w.category, StockPathWarning)]
            assert remedy in message
            assert "test_frontend_refused.py" in message
            assert "the line" in message
    assert torch.equal(*values)
