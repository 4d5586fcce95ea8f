# ruff: noqa: E501 - tables
"""critic_loss on critics that look at their batch, their history or their state: as three stock terms, always."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_loss import stock, together
from torch import Tensor, nn

from wgangp_fast import critic_loss, gradient_penalty
from wgangp_fast.errors import StockPathWarning

N, V, C = 4, 5, 3


class Kind(nn.Module):
    """A critic of ``[N, V, C]``; ``h [N * V, 8]`` are features of all rows, ``forward`` is in the table."""

    def __init__(self, score: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.e = nn.Linear(C, 8), nn.Linear(8, 1), nn.Embedding(16, 8)
        self.score, self.calls, self.log = score, 0, []

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self, x, torch.tanh(self.a(x.reshape(-1, C))))


def _counted(m: Any, x: Tensor, h: Tensor) -> Tensor:
    m.calls += 1
    return m.b(h) * m.calls


def _logged(m: Any, x: Tensor, h: Tensor) -> Tensor:
    m.log.append(1)
    return m.b(h) * len(m.log)


def _hooked(m: Any, x: Tensor, h: Tensor) -> Tensor:
    score = m.b(h)
    if score.requires_grad:
        score.register_hook(lambda g: 2 * g)
    return score


def _spd(m: Any, x: Tensor) -> Tensor:
    h = m.a(x[:, 0])
    return h[:, :, None] * h[:, None] + torch.arange(1, 9, dtype=x.dtype).diag()


def _bins(h: Tensor) -> Tensor:
    return (h.sigmoid() * 15).long()[:, 0]


SHARED: dict[str, Any] = {
    "pooled by graph": lambda m, x, h: m.b(
        h.new_zeros(len(x), 8).index_add(0, torch.arange(len(x)).repeat_interleave(V), h)
    ),
    "neighbours by row": lambda m, x, h: m.b(
        torch.tanh(h + h[torch.arange(len(x) * V).view(-1, V).roll(1, 1).reshape(-1)])
    ).view(len(x), V).mean(1),
    "edges with offsets": lambda m, x, h: m.b(
        h.new_zeros(len(h), 8).scatter_add(
            0, (torch.arange(len(x))[:, None] * V + torch.arange(V).flip(0)).reshape(-1, 1).expand(-1, 8), h
        )
    ),
    "one row a sample": lambda m, x, h: m.b(h.view(len(x), V, 8)[torch.arange(len(x)), torch.arange(len(x)) % V]),
    "positions in the batch": lambda m, x, h: m.b(h.view(len(x), V, 8) * torch.arange(len(x))[:, None, None].to(h)),
    "labels in a table": lambda m, x, h: m.b(h.view(len(x), V, 8).mean(1) * m.e(torch.tensor([3, 1, 2, 1]))),
    "statistics of a batch": lambda m, x, h: m.b(torch.cat([h[:, :7], h.std(0).mean().expand(len(h), 1)], 1)),
    "embedding of bins": lambda m, x, h: m.b(h * m.e(_bins(h))),
    "gather of bins": lambda m, x, h: m.b(h.gather(1, (h.sigmoid() * 3).long())),
    "look-up": lambda m, x, h: m.b(h * m.e.weight[_bins(h)]),
    "one hot": lambda m, x, h: m.b(h * F.one_hot((h.sigmoid() * 7.9).long()[:, 0], 8)),
    "singular values": lambda m, x, h: m.b(torch.linalg.svdvals(_spd(m, x))),
    "pseudo-inverse": lambda m, x, h: m.b(torch.linalg.pinv(_spd(m, x)[:, :2, :2]).sum(1).repeat(1, 4)),
    "looks, and does the same": lambda m, x, h: m.b(torch.relu(h) if x.requires_grad else h.relu()),
}  # fmt: skip
ALONE: dict[str, Any] = {
    "branches on requires_grad": lambda m, x, h: m.b(h) * (2.0 if x.requires_grad else 1.0),
    "branches deep inside": lambda m, x, h: m.b(h.detach() if not x.requires_grad else h),
    "chooses a parameter": lambda m, x, h: F.linear(h, m.b.weight if x.requires_grad else m.e.weight[:1]),
    "counts its calls": _counted,
    "keeps a list": _logged,
    "a number of the data": lambda m, x, h: m.b(h) * float(h.detach().abs().max()),
}


def _outcome(
    critic: nn.Module, loss: Callable[..., Any], batch: Any, **options: Any
) -> tuple[Any, list[Any]]:
    critic.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        result = loss(critic, *batch[:2], alpha=batch[2], **options)
    result[0].backward()
    return result, [p.grad for p in critic.parameters()]


def _batch() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(N, V, C).double(), torch.randn(N, V, C).double() + 0.5, torch.rand(N).double()


def _same(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours[0], theirs[0]):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-8, atol=1e-10)
    for a, b in zip(ours[1], theirs[1]):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [*SHARED, *ALONE])
def test_equals_the_three_stock_terms(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # a difference would be mended there
    torch.manual_seed(0)
    critic, copy = (Kind((SHARED | ALONE)[name]).double() for _ in range(2))
    copy.load_state_dict(critic.state_dict())
    for _ in range(2):
        batch = _batch()
        ours = _outcome(critic, critic_loss, batch)
        _same(ours, _outcome(copy, stock, batch))
        assert together(ours[0]) == (name in SHARED)
    assert (critic.calls, critic.log) == (copy.calls, copy.log)


def test_a_hook_on_the_score_is_heard() -> None:
    torch.manual_seed(0)
    critic, batch = Kind(_hooked).double(), _batch()
    with pytest.warns(StockPathWarning):
        gradient_penalty(critic, *batch[:2], alpha=batch[2])
    critic.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = critic_loss(critic, *batch[:2], alpha=batch[2])
    found.loss.backward()
    ours = [p.grad for p in critic.parameters()]
    critic.zero_grad()
    theirs = stock(critic, *batch)
    theirs[0].backward()
    _same((found, ours), (theirs, [p.grad for p in critic.parameters()]))


def test_noise_on_a_weight_is_drawn_for_each_batch() -> None:
    """Drop-connect: one draw for all three batches would tie them together."""
    critic = Kind(lambda m, x, h: m.b(F.linear(h, F.dropout(m.e.weight[:8], 0.5)))).double()
    found = critic_loss(critic, *_batch()[:2])
    assert not together(found)


def test_an_attribute_that_changes_what_samples_alone_see() -> None:
    """Real and fake are looked at again in each call, not only in the first."""
    critic = Kind(lambda m, x, h: m.b(h) * (1.0 if x.requires_grad or m.plain else 3.0)).double()
    critic.plain = True
    for plain in (True, False, True):
        critic.plain, batch = plain, _batch()
        ours = _outcome(critic, critic_loss, batch)
        _same(ours, _outcome(critic, stock, batch))
        assert together(ours[0]) == plain


def test_samples_of_two_dtypes() -> None:
    """As under autocast: each of the samples in its own, the points in what torch promotes them to."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(V * C, 8), nn.Tanh(), nn.Linear(8, 1))
    real, fake, alpha = torch.randn(N, V, C), torch.randn(N, V, C).bfloat16(), torch.rand(N)
    for a, b in ((real, fake), (fake, real), (fake, fake * 0.5)):
        found = []
        for loss, options in ((critic_loss, {}), (critic_loss, {"impl": "ref"}), (stock, {})):
            points = [v.clone().requires_grad_() for v in (a, b, alpha)]
            with torch.autocast("cpu", torch.bfloat16):
                result = loss(module, *points[:2], alpha=points[2], **options)
            gradients = torch.autograd.grad(result[0], [*points, *module.parameters()], allow_unused=True)
            assert [g.dtype for g in gradients] == [p.dtype for p in (*points, *module.parameters())]
            found.append((result, gradients))
        for ours in found[:2]:
            for v, w in zip((*ours[0], *ours[1]), (*found[2][0], *found[2][1])):
                assert float((v - w).norm()) <= 0.05 * float(w.norm()) + 1e-3


@pytest.mark.parametrize("impl", ["auto", "ref"])
def test_the_points_have_the_promoted_dtype(impl: str) -> None:
    seen: list[torch.dtype] = []
    weight = torch.randn(C).double().requires_grad_()

    def critic(x: Tensor) -> Tensor:
        seen.append(x.dtype)
        return (x.tanh() @ weight.to(x.dtype)).sum(1)

    half = torch.randn(N, V, C).bfloat16()
    for a, b, alpha, expected in (
        (half, half.float(), None, torch.float32),
        (half.float(), half, torch.rand(N).bfloat16(), torch.float32),
        (half, half, torch.rand(N), torch.float32),
        (half, half, None, torch.bfloat16),
        (half.float(), half.double(), torch.rand(N), torch.float64),
    ):
        seen.clear()
        gradient_penalty(critic, a, b, alpha=alpha, impl=impl).backward()
        assert set(seen) == {expected} or impl == "auto"
        assert critic_loss(critic, a, b, alpha=alpha, impl=impl).grad_norm.isfinite().all()
