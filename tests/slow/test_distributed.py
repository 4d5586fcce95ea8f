"""DistributedDataParallel: two gloo processes with half a batch each against one process with all of it."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import fabric_double
import pytest
import torch
from torch import Tensor, autograd, nn
from torch.nn.parallel import DistributedDataParallel

import wgangp_fast
from wgangp_fast import compat

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)

RANKS, STEPS, BATCH = 2, 2, 8
TOLERANCE = 1e-9  # relative to the largest element of each gradient
LIMIT = 90  # seconds until a process that waits for the other gives up


def body(columns: int) -> nn.Module:
    """Smooth and piecewise linear; the last bias never matters to a penalty, which DDP has to survive."""
    return nn.Sequential(
        nn.Linear(columns, 8), nn.Tanh(), nn.Linear(8, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1)
    )


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = body(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 4)
        self.body = body(9)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.body(torch.cat([x, self.embed(labels)], dim=1))


def build(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind().double()


def batch(step: int) -> dict[str, Tensor]:
    """real, fake ``[N, 5]``, alpha ``[N]``, labels ``[N]``."""
    generator = torch.Generator().manual_seed(100 + step)
    real, fake = torch.randn(2, BATCH, 5, generator=generator, dtype=torch.float64)
    alpha = torch.rand(BATCH, generator=generator, dtype=torch.float64)
    return {"real": real, "fake": fake, "alpha": alpha, "labels": torch.arange(BATCH) % 3}


# what a training step computes: with ours and DDP, and by stock autograd on the whole batch ---------

Penalty = Callable[[Callable[..., Tensor], dict[str, Tensor]], Tensor]


def ours(D: Any, b: dict[str, Tensor]) -> Tensor:
    return wgangp_fast.gradient_penalty(D, b["real"], b["fake"], alpha=b["alpha"])


def ours_as_stock(D: Any, b: dict[str, Tensor]) -> Tensor:
    return wgangp_fast.gradient_penalty(D, b["real"], b["fake"], alpha=b["alpha"], impl="ref")


def ours_in_a_closure(D: Any, b: dict[str, Tensor]) -> Tensor:
    return wgangp_fast.gradient_penalty(lambda x: D(x, b["labels"]), b["real"], b["fake"], alpha=b["alpha"])


def ours_wrapped(wrap: Callable[[nn.Module], Any]) -> Penalty:
    """The penalty of ``wrap(D)``: DDP is inside another wrapper, and has to be found there."""
    return lambda D, b: ours(wrap(D), b)


def hooked(D: nn.Module) -> nn.Module:
    """DDP with a hook that changes nothing, but could."""
    if not D._forward_hooks:
        D.register_forward_hook(lambda module, arguments, score: 1.0 * score)
    return D


def ours_labelled(D: Any, b: dict[str, Tensor]) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, **_: b["alpha"].view(*size))
        return compat.compute_gradient_penalty(D, b["real"], b["fake"], b["labels"])


def ours_by_gradient(D: Any, b: dict[str, Tensor]) -> Tensor:
    gradient = wgangp_fast.input_gradient(D, b["real"])
    return gradient.abs().sum(1).sub(1).square().mean()


def stock(D: Any, b: dict[str, Tensor], *labels: Tensor) -> Tensor:
    alpha = b["alpha"].view(-1, 1)
    x = (alpha * b["real"] + (1 - alpha) * b["fake"]).requires_grad_()
    (gradient,) = autograd.grad(D(x, *labels).sum(), x, create_graph=True)
    return (gradient.norm(2, dim=1) - 1).square().mean()


def accelerated(D: Any, b: dict[str, Tensor]) -> Tensor:
    """The stock penalty, of a module that is accelerated inside DDP."""
    wgangp_fast.accelerate(D.module)
    return stock(D, b)


def stock_labelled(D: Any, b: dict[str, Tensor]) -> Tensor:
    return stock(D, b, b["labels"])


def stock_by_gradient(D: Any, b: dict[str, Tensor]) -> Tensor:
    x = b["real"].clone().requires_grad_()
    (gradient,) = autograd.grad(D(x).sum(), x, create_graph=True)
    return gradient.abs().sum(1).sub(1).square().mean()


# name: critic, ours, truth, whether D also scores real and fake, and whether the engine must run
SCENARIOS: dict[str, tuple[type[nn.Module], Penalty, Penalty, bool, bool]] = {
    "whole loss": (Plain, ours, stock, True, True),
    "penalty alone": (Plain, ours, stock, False, True),
    "accelerated": (Plain, accelerated, stock, True, True),
    "input gradient alone": (Plain, ours_by_gradient, stock_by_gradient, False, True),
    # A closure hides DDP: Dynamo cannot trace its forward, so the stock path runs.
    "closure over DDP": (Labelled, ours_in_a_closure, stock_labelled, True, False),
    "closure over DDP, penalty alone": (Labelled, ours_in_a_closure, stock_labelled, False, False),
    "compiled over DDP, penalty alone": (
        *(Plain, ours_wrapped(lambda D: torch.compile(D, backend="eager")), stock, False, True),
    ),
    "partial over DDP, penalty alone": (Plain, ours_wrapped(functools.partial), stock, False, True),
    "Fabric over DDP, penalty alone": (Plain, ours_wrapped(fabric_double.setup), stock, False, True),
    "DDP with hooks of its own": (Plain, ours_wrapped(hooked), stock, True, False),
    "stock path": (Plain, ours_as_stock, stock, True, False),
    "stock path, penalty alone": (Plain, ours_as_stock, stock, False, False),
    "labels": (Labelled, ours_labelled, stock_labelled, True, True),
    "labels, penalty alone": (Labelled, ours_labelled, stock_labelled, False, True),
}

# find_unused_parameters=True makes DDP walk the graph behind what its forward returned.
RUNS = [(name, False) for name in SCENARIOS] + [
    ("whole loss", True),
    ("penalty alone", True),
    ("closure over DDP", True),
    ("stock path", True),
    ("labels, penalty alone", True),
]


def gradients(D: nn.Module, penalty: Penalty, scored: bool, rows: slice) -> list[dict[str, Tensor]]:
    """Parameter gradients of each of the steps, with an update in between."""
    found = []
    optimizer = torch.optim.SGD(D.parameters(), lr=0.3)
    for step in range(STEPS):
        b = {name: value[rows] for name, value in batch(step).items()}
        optimizer.zero_grad()
        if scored:
            labels = (b["labels"],) if any(isinstance(m, Labelled) for m in D.modules()) else ()
            loss = D(b["fake"], *labels).mean() - D(b["real"], *labels).mean() + 10 * penalty(D, b)
        else:
            loss = 10 * penalty(D, b)
        loss.backward()
        now = {name.removeprefix("module."): p.grad for name, p in D.named_parameters()}
        found.append({name: grad.clone() for name, grad in now.items() if grad is not None})
        optimizer.step()
    return found


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=LIMIT),
    )
    share = BATCH // RANKS
    rows = slice(rank * share, (rank + 1) * share)
    results = {}
    for name, find_unused in RUNS:
        kind, penalty, _, scored, _ = SCENARIOS[name]
        D = DistributedDataParallel(build(kind), find_unused_parameters=find_unused)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = gradients(D, penalty, scored, rows)
        stock_path = any(w.category is wgangp_fast.StockPathWarning for w in caught)
        results[name, find_unused] = (found, stock_path)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, bool], Any]]:
    """What each rank found: one start of two processes serves all the tests."""
    folder: Path = tmp_path_factory.mktemp("ranks")
    context = torch.multiprocessing.spawn(work, (str(folder),), nprocs=RANKS, join=False)
    assert context is not None
    deadline = time.monotonic() + 2 * LIMIT
    while not context.join(timeout=5):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f"the processes did not end within {2 * LIMIT} s")
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize(("name", "find_unused"), RUNS)
def test_two_processes_have_the_gradients_of_one(results: list[Any], name: str, find_unused: bool) -> None:
    kind, _, penalty, scored, engine = SCENARIOS[name]
    truth = gradients(build(kind), penalty, scored, slice(0, BATCH))
    for rank in range(RANKS):
        found, stock_path = results[rank][name, find_unused]
        assert not (engine and stock_path)
        for step in range(STEPS):
            assert truth[step].keys() <= found[step].keys()
            for parameter, gradient in found[step].items():
                # What cannot matter has no gradient by stock autograd, and zeros by the engine.
                expected = truth[step].get(parameter, torch.zeros(()))
                error = (gradient - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
                assert error <= TOLERANCE, (rank, step, parameter)


def test_half_a_batch_has_other_gradients() -> None:
    """The comparison above would notice gradients that were never averaged."""
    for kind, _, penalty, scored, _ in SCENARIOS.values():
        whole = gradients(build(kind), penalty, scored, slice(0, BATCH))[0]
        half = gradients(build(kind), penalty, scored, slice(0, BATCH // RANKS))[0]
        for name in ("body.0.weight", "body.2.weight", "body.4.weight"):
            assert (whole[name] - half[name]).abs().max() > 1e-3 * whole[name].abs().max()
