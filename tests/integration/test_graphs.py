"""Graphed steps against the same steps run eagerly, on emulated CUDA graphs: equal bit for bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from graph_emulation import EmulatedCapture, capturing
from graph_settings import BATCH, CALLS, CRITICS, OPTIMIZERS, mlp, ready
from torch import Tensor, nn

import wgangp_fast
from wgangp_fast import CriticLoss, GraphedCriticStep, GraphError, checks
from wgangp_fast import make_graphed_step as graphed
from wgangp_fast.cuda_graphs import capture as cudagraph


@pytest.fixture(autouse=True)
def _emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cudagraph, "Capture", EmulatedCapture)
    monkeypatch.setattr(checks, "capturing", capturing)


def data(shape: tuple[int, ...], n_critic: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of each call, ``[n_critic, N, ...]``."""
    generator = torch.Generator().manual_seed(3)
    size = (CALLS, 2, n_critic, BATCH, *shape)
    return [(pair[0], pair[1]) for pair in torch.randn(size, generator=generator)]


def trained(
    critic: nn.Module, optimizer: str, n_critic: int, pairs: list[tuple[Tensor, Tensor]], **options: Any
) -> tuple[list[list[Tensor]], list[Tensor], GraphedCriticStep]:
    """Results of each call, the final state, and the step."""
    torch.manual_seed(7)
    source = torch.Generator().manual_seed(11)
    step = GraphedCriticStep(
        critic, OPTIMIZERS[optimizer](critic.parameters()), n_critic=n_critic, generator=source, **options
    )
    results = []
    for real, fake in pairs:
        given = (real, fake) if n_critic > 1 else (real[0], fake[0])
        results.append([member.clone() for member in step(*given)])
    state = [t.clone() for t in critic.state_dict().values()]
    state += [t.clone() for s in step.optimizer.state.values() for t in s.values() if t is not None]
    state += [p.grad.clone() for p in critic.parameters() if p.grad is not None]
    return results, state, step


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for left, right in zip(a, b):
        assert torch.equal(left, right)


@pytest.mark.filterwarnings("ignore::wgangp_fast.BatchNormWarning")
@pytest.mark.parametrize(
    ("name", "optimizer", "n_critic"),
    [
        *(("mlp", "adam", 1), ("mlp", "sgd", 3), ("dcgan", "adam", 2), ("layer norm", "momentum", 2)),
        *(("dropout", "sgd", 2), ("batch norm", "adam", 1)),
    ],
)
def test_replays_equal_eager_steps(name: str, optimizer: str, n_critic: int) -> None:
    build, shape = CRITICS[name]
    eager = build()
    replayed = copy.deepcopy(eager)
    pairs = data(shape, n_critic)
    expected, state, _ = trained(eager, optimizer, n_critic, pairs, enabled=False)
    found, again, step = trained(replayed, optimizer, n_critic, pairs, warmup=2)
    assert step.captured
    for a, b in zip(expected, found):
        assert_equal(a, b)
    assert_equal(state, again)
    assert not torch.equal(expected[-1][0], expected[-2][0])
    assert expected[0][3].shape == ((n_critic, BATCH) if n_critic > 1 else (BATCH,))


def test_eager_steps_are_the_written_out_ones() -> None:
    """The same numbers as ``critic_loss`` with the generator's own draws."""
    critic = mlp()
    other = copy.deepcopy(critic)
    pairs = data((3,), 2)
    expected, _, _ = trained(critic, "adam", 2, pairs, enabled=False)
    optimizer = OPTIMIZERS["adam"](other.parameters())
    source = torch.Generator().manual_seed(11)
    for (real, fake), result in zip(pairs, expected):
        # All draws of a call come first; here they come in between, from the same generator.
        for k in range(2):
            found = wgangp_fast.critic_loss(other, real[k], fake[k], generator=source)
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
            for a, b in zip(found, result):
                assert torch.equal(a, b[k])
    assert_equal(list(critic.parameters()), list(other.parameters()))


def test_lists_of_batches_and_alpha_of_the_caller() -> None:
    critic = mlp()
    other = copy.deepcopy(critic)
    alphas = torch.rand(CALLS, 2, BATCH)
    found = []
    for network, enabled in ((critic, False), (other, True)):
        step = GraphedCriticStep(
            CriticLoss(network, 3.0, one_sided=True), OPTIMIZERS["sgd"](network.parameters()), n_critic=2,
            warmup=1, enabled=enabled,
        )  # fmt: skip
        for (real, fake), alpha in zip(data((3,), 2), alphas):
            result = step(list(real), tuple(fake), alpha)
        found.append([member.clone() for member in result])
    assert_equal(*found)
    loss, wasserstein, penalty, norms = found[0]
    assert torch.allclose(loss, 3 * penalty - wasserstein)  # the CriticLoss's own lambda
    assert torch.allclose(penalty, (norms - 1).clamp(min=0).square().mean(1))


def test_the_stock_path_by_name_can_be_captured() -> None:
    critic = mlp()
    other = copy.deepcopy(critic)
    pairs = data((3,), 1)
    expected, state, _ = trained(critic, "adam", 1, pairs, enabled=False, impl="ref")
    found, again, step = trained(other, "adam", 1, pairs, warmup=1, impl="ref")
    assert step.captured
    for a, b in zip([*expected, state], [*found, again]):
        assert_equal(a, b)


def test_gradients_are_left_as_the_step_leaves_them() -> None:
    critic = mlp()
    _, optimizer, call = ready(critic)
    call()
    expected = [p.grad for p in critic.parameters()]
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none=set_to_none)  # somebody else's
        call()
        assert all(p.grad is grad for p, grad in zip(critic.parameters(), expected))
        assert all(grad is not None and grad.abs().sum() > 0 for grad in expected[:-1])


def test_a_step_that_only_adds_gradients() -> None:
    """Zeroed outside to None, as in torch's recipe for whole networks; anything else would be overwritten."""
    layer = nn.Linear(2, 1)

    def add(x: Tensor) -> Tensor:
        loss = layer(x).square().mean()
        loss.backward()
        return loss

    step = graphed(add, warmup=1)
    for _ in range(4):
        x = torch.randn(3, 2)
        layer.zero_grad(set_to_none=True)
        step(x)
        found = layer.weight.grad.clone()
        layer.zero_grad(set_to_none=True)
        add(x)
        assert torch.equal(found, layer.weight.grad)
    with pytest.raises(GraphError, match="overwrite them where the step adds"):
        step(x)


def structured_step(network: nn.Module, set_to_none: bool) -> Callable[[dict[str, Any], float], list[Any]]:
    """A step function of ``network`` that takes and gives nested values."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def step(batch: dict[str, Any], scale: float) -> list[Any]:
        optimizer.zero_grad(set_to_none=set_to_none)
        loss = scale * (network(batch["x"]) - batch["y"]).square().mean()
        loss.backward()
        optimizer.step()
        return [loss, {"scale": scale}]

    return step


@pytest.mark.parametrize("set_to_none", [True, False])
def test_any_step_and_any_structure(set_to_none: bool) -> None:
    networks = [nn.Linear(2, 1), nn.Linear(2, 1)]
    networks[1].load_state_dict(networks[0].state_dict())
    losses: list[list[float]] = []
    for network, enabled in zip(networks, (False, True)):
        step = structured_step(network, set_to_none)
        run = graphed(step, enabled=enabled, warmup=2)
        generator = torch.Generator().manual_seed(0)
        losses.append([])
        for _ in range(CALLS):
            x, y = torch.randn(2, 4, 2, generator=generator).unbind()
            loss, rest = run({"x": x, "y": y[:, :1]}, 2.0)
            assert rest == {"scale": 2.0}
            assert not loss.requires_grad
            losses[-1].append(loss.item())
        assert run.captured == enabled
    assert losses[0] == losses[1]
    with pytest.raises(GraphError, match=r"input 2 was 2.0, now it is 3.0"):
        run({"x": x, "y": y[:, :1]}, 3.0)
    with pytest.raises(GraphError, match="structure"):
        run({"x": x}, 2.0)
