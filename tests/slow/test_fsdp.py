"""``DDP(CriticLoss(critic))`` and ``fully_shard(CriticLoss(critic))``: two and four gloo processes, each with
its share of the batch, against one process with all of it and stock autograd."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, autograd, nn
from torch.nn.parallel import DistributedDataParallel

import wgangp_fast
from wgangp_fast import CriticLoss

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs gloo"
)

RANKS, STEPS, BATCH, LAMBDA = 4, 3, 8, 10.0
TOLERANCE = 1e-9  # relative to the largest element of each gradient
LIMIT = 90  # seconds until a process that waits for the others gives up

CRITICS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    # The last bias cancels between real and fake, and is nothing to the penalty.
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 6), nn.LeakyReLU(0.2), nn.Linear(6, 1)
        ),
        (5,),
    ),
    "convolution and norm": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 3, 3, 2, 1)),
            *(nn.LayerNorm([3, 2, 2]), nn.SiLU(), nn.Flatten(), nn.Linear(12, 1)),
        ),
        (2, 8, 8),
    ),
}


def sharded(loss: nn.Module, group: Any, **options: Any) -> nn.Module:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(loss, mesh=DeviceMesh.from_group(group, "cpu"), **options)


WRAPPERS: dict[str, Callable[[nn.Module, Any], nn.Module]] = {
    "ddp": lambda loss, group: DistributedDataParallel(loss, process_group=group),
    "ddp, unused": lambda loss, group: DistributedDataParallel(
        loss, process_group=group, find_unused_parameters=True
    ),
    "fsdp": sharded,
    "fsdp, resharded": lambda loss, group: sharded(loss, group, reshard_after_forward=True),
}

# critic, wrapper, processes, options of the loss
RUNS: list[tuple[str, str, int, dict[str, Any]]] = [
    ("mlp", "ddp", 2, {}),
    ("mlp", "ddp, unused", 4, {}),
    ("mlp", "fsdp", 4, {"one_sided": True}),
    ("mlp", "fsdp, resharded", 2, {}),
    ("convolution and norm", "ddp", 4, {}),
    ("convolution and norm", "ddp, unused", 2, {}),
    ("convolution and norm", "fsdp", 2, {}),
    ("convolution and norm", "fsdp, resharded", 4, {}),
    ("convolution and norm", "fsdp", 4, {"impl": "ref"}),
]


def build(name: str) -> nn.Module:
    torch.manual_seed(5)
    return CRITICS[name][0]().double()


def batch(name: str, step: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    shape = CRITICS[name][1]
    real, fake = torch.randn(2, BATCH, *shape, generator=generator, dtype=torch.float64)
    return real, fake, torch.rand(BATCH, generator=generator, dtype=torch.float64)


Loss = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def stock_loss(critic: nn.Module, one_sided: bool) -> Loss:
    """Loss, estimate and penalty, written out."""

    def loss(real: Tensor, fake: Tensor, alpha: Tensor) -> tuple[Tensor, ...]:
        weight = alpha.view(-1, *[1] * (real.dim() - 1))
        x = (weight * real + (1 - weight) * fake).requires_grad_()
        (gradient,) = autograd.grad(critic(x).sum(), x, create_graph=True)
        excess = gradient.flatten(1).norm(2, dim=1) - 1
        penalty = (excess.clamp(min=0) if one_sided else excess).square().mean()
        wasserstein = critic(real).mean() - critic(fake).mean()
        return LAMBDA * penalty - wasserstein, wasserstein.detach(), penalty.detach()

    return loss


def run(name: str, module: nn.Module, loss: Loss, rows: slice) -> dict[str, Any]:
    """Gradients and numbers of each of the steps, and the parameters after them."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9)
    gradients, numbers = [], []
    for step in range(STEPS):
        real, fake, alpha = (t[rows] for t in batch(name, step))
        optimizer.zero_grad()
        value, *rest = loss(real, fake, alpha)
        value.backward()
        numbers.append(torch.stack([value.detach(), *rest]))
        gradients.append({n: _whole(p.grad) for n, p in _named(module) if p.grad is not None})
        optimizer.step()
    return {
        "gradients": gradients,
        "numbers": numbers,
        "parameters": {n: _whole(p.detach()) for n, p in _named(module)},
    }


def _named(module: nn.Module) -> list[tuple[str, Any]]:
    return [(n.removeprefix("module.").removeprefix("critic."), p) for n, p in module.named_parameters()]


def _whole(tensor: Any) -> Tensor:
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).clone()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/init",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=LIMIT),
    )
    pairs = [torch.distributed.new_group([0, 1]), torch.distributed.new_group([2, 3])]
    groups = {2: pairs[rank // 2], 4: torch.distributed.new_group([0, 1, 2, 3])}
    results = []
    for name, wrapper, processes, options in RUNS:
        share = BATCH // processes
        start = rank % processes * share
        module = WRAPPERS[wrapper](CriticLoss(build(name), LAMBDA, **options), groups[processes])

        def loss(real: Tensor, fake: Tensor, alpha: Tensor, module: nn.Module = module) -> Any:
            found = module(real, fake, alpha=alpha)
            return found.loss, found.wasserstein, found.penalty

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = run(name, module, loss, slice(start, start + share))
        result["stock"] = any(w.category is wgangp_fast.StockPathWarning for w in caught)
        results.append(result)
    results.append(_refusals(groups[4]))  # the last entry: texts
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _refusals(group: Any) -> list[str]:
    """What is said where the critic, or a part of it, is sharded instead of the loss."""
    whole, part = build("mlp"), build("mlp")
    sharded(part[0], group)
    real, fake, alpha = batch("mlp", 0)
    calls: list[Callable[[], Any]] = [
        lambda: wgangp_fast.critic_loss(sharded(whole, group), real, fake, alpha=alpha),
        lambda: sharded(CriticLoss(part), group)(real, fake, alpha=alpha),
        lambda: wgangp_fast.gradient_penalty(part, real, fake, alpha=alpha, impl="ref"),
    ]
    texts = []
    for call in calls:
        try:
            call()
        except RuntimeError as error:
            texts.append(str(error))
    return texts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What each rank found: one start of four processes serves all the tests, two pairs among them."""
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


@pytest.mark.parametrize("index", range(len(RUNS)), ids=[f"{n}-{w}-{p}" for n, w, p, _ in RUNS])
def test_processes_train_like_one(results: list[Any], index: int) -> None:
    name, _, processes, options = RUNS[index]
    critic = build(name)
    truth = run(name, critic, stock_loss(critic, options.get("one_sided", False)), slice(0, BATCH))
    for first in range(0, RANKS, processes):
        ranks = [results[rank][index] for rank in range(first, first + processes)]
        for result in ranks:
            assert not result["stock"]
            for step in range(STEPS):
                assert truth["gradients"][step].keys() == result["gradients"][step].keys()
                for key, expected in truth["gradients"][step].items():
                    close(result["gradients"][step][key], expected, f"{key} at {step}")
            for key, expected in truth["parameters"].items():
                close(result["parameters"][key], expected, key)
        for step in range(STEPS):  # the shares' means make up the batch's
            mean = torch.stack([result["numbers"][step] for result in ranks]).mean(0)
            close(mean, truth["numbers"][step], "numbers")


def close(found: Tensor, expected: Tensor, what: str) -> None:
    error = (found - expected).abs().max() / expected.abs().max().clamp(min=1e-3)
    assert error <= TOLERANCE, what


def test_one_share_has_other_gradients() -> None:
    """The comparison above would notice gradients that were never averaged."""
    for name in CRITICS:
        critics = build(name), build(name)
        found = [
            run(name, critic, stock_loss(critic, False), slice(0, rows))["gradients"][0]
            for critic, rows in zip(critics, (BATCH, BATCH // 2))
        ]
        assert (found[0]["0.weight"] - found[1]["0.weight"]).abs().max() > 1e-3


def test_a_sharded_critic_is_refused_with_the_remedy(results: list[Any]) -> None:
    for rank in range(RANKS):
        texts = results[rank][-1]
        assert len(texts) == 3
        assert all("fully_shard(wgangp_fast.CriticLoss(critic))" in text for text in texts)
