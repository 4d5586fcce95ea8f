"""In-place changes, views, detached aliases and replaced data: what autograd records of them is what counts.

The truth is autograd on hand-written stock code; the engine has to run: the stock path is an error here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Critic

from wgangp_fast import critic_loss, gradient_penalty
from wgangp_fast.errors import StockPathWarning

Function = Callable[[Any, Tensor], Tensor]


def critic_of(function: Function) -> nn.Module:
    torch.manual_seed(0)
    parts = {"a": nn.Linear(4, 6), "g": nn.Linear(4, 6), "b": nn.Linear(6, 1)}
    tensors = {
        "t": torch.randn(6),
        "m": torch.randn(4, 6),
        "p": torch.tensor(0.3),
        "table": torch.randn(5, 6),
    }
    made = Critic(function, **parts, **tensors).double()
    made.register_buffer("u", torch.rand(6, dtype=torch.double) + 0.5)
    return made


def samples() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(5, 4).double(), torch.randn(5, 4).double() + 0.3, torch.rand(5).double()


def stock_penalty(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    x = (alpha[:, None] * real + (1 - alpha[:, None]) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=1) - 1).square().mean()


def stock_loss(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    of_real, of_fake = critic(real).mean(), critic(fake).mean()
    return of_fake - of_real + 10 * stock_penalty(critic, real, fake, alpha)


def outcome(critic: nn.Module, loss: Callable[..., Tensor]) -> list[Tensor | None]:
    """The loss, every parameter's gradient, and every buffer after the call."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StockPathWarning)
        value = loss(critic, *samples())
    value.backward()
    return [value.detach(), *(p.grad for p in critic.parameters()), *critic.buffers()]


def same(critic: nn.Module, ours: Callable[..., Tensor], stock: Callable[..., Tensor]) -> None:
    mine, theirs = outcome(copy.deepcopy(critic), ours), outcome(copy.deepcopy(critic), stock)
    for a, b in zip(mine, theirs):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def by_engine(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return gradient_penalty(critic, real, fake, alpha=alpha)


def whole_loss(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    return critic_loss(critic, real, fake, alpha=alpha).loss


# a parameter meets x only through values without a derivative ---------------------------------------


def no_grad_features(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        z = torch.tanh(m.g(x))
    return m.b(torch.tanh(m.a(x)) * (z @ m.m.t() @ m.m))


STILL: dict[str, Function] = {
    "gate of x.detach()": lambda m, x: m.b(torch.tanh(m.a(x)) * torch.sigmoid(m.g(x.detach()))),
    "half of the fused gate": lambda m, x: m.b(torch.tanh(m.g(x.detach())) * torch.sigmoid(m.a(x))),
    "matrix product": lambda m, x: m.b(torch.tanh(m.a(x) * (x.detach() @ m.m))),
    "mask": lambda m, x: m.b(torch.tanh(m.a(x)) * ((m.a(x) > 0) * m.t)),
    "mask in the dtype": lambda m, x: m.b(torch.tanh(m.a(x) * ((x > 0).to(x.dtype) @ m.m))),
    "ones_like": lambda m, x: m.b(torch.tanh(m.a(x)) * (torch.ones_like(m.a(x)) * m.t)),
    "new_zeros": lambda m, x: m.b(torch.tanh(m.a(x)) * (x.new_zeros(x.shape[0], 6) + m.t)),
    "PReLU by hand": lambda m, x: m.b(m.a(x) * torch.where(m.a(x) > 0, torch.ones_like(m.a(x)), m.t)),
    "masked_fill": lambda m, x: m.b(torch.tanh(m.a(x)) * m.t.expand(len(x), 6).masked_fill(m.a(x) > 0, 0.0)),
    "sign": lambda m, x: m.b(torch.tanh(m.a(x)) * (m.a(x).sign() * m.t)),
    "floor": lambda m, x: m.b(torch.tanh(m.a(x)) * torch.tanh(m.a(x).floor() * m.t)),
    "table at an index": lambda m, x: m.b(torch.tanh(m.a(x)) * m.table[x.argmax(1)]),
    "embedding of bins": lambda m, x: m.b(
        torch.tanh(m.a(x))
        * F.embedding(torch.bucketize(x[:, 0].detach(), x.new_tensor([-1.0, 0, 1])), m.table)
    ),
    "one_hot": lambda m, x: m.b(torch.tanh(m.a(x)) * (F.one_hot(x.argmax(1), 5).to(x.dtype) @ m.table)),
    "codebook": lambda m, x: (lambda h: m.b(torch.tanh(h * (h + ((h.detach() > 0) * m.t - h).detach()))))(
        m.a(x)
    ),
    "detached norm": lambda m, x: (lambda h: m.b(h / (h.detach().norm(dim=1, keepdim=True) * m.t.exp())))(
        m.a(x)
    ),
    "convolution of a mask": lambda m, x: m.b(
        torch.tanh(m.a(x)) * F.conv1d((x > 0).to(x.dtype)[:, None], m.m[:3, None, :3]).mean((1, 2))[:, None]
    ),
    "layer norm of detached": lambda m, x: m.b(m.a(x) * F.layer_norm(m.g(x).detach(), [6], m.t, m.u)),
    "no_grad features": no_grad_features,
    "complex view of a parameter": lambda m, x: m.b(
        torch.tanh(m.a(x)) * torch.view_as_complex(m.t.reshape(3, 2)).abs().repeat(2)
    ),
    "torch.complex of parameters": lambda m, x: m.b(
        torch.tanh(
            (torch.fft.rfft(m.a(x)) * torch.complex(m.t[:4], m.t[2:])).abs().sum(1, keepdim=True) * m.t
        )
    ),
}


@pytest.mark.parametrize("name", sorted(STILL))
def test_a_parameter_beside_values_without_a_derivative(name: str) -> None:
    critic = critic_of(STILL[name])
    same(critic, by_engine, stock_penalty)
    same(critic, whole_loss, stock_loss)


# in place -------------------------------------------------------------------------------------------


def changed(change: Callable[[Any, Tensor, Tensor], Any]) -> Function:
    """A critic that computes h of x, lets ``change`` write into it, and scores it."""

    def forward(m: Any, x: Tensor) -> Tensor:
        h = torch.tanh(m.a(x)) * 2
        kept = change(m, x, h)
        return m.b(h * h) if kept is None else m.b(h * h + kept)

    return forward


def quietly(change: Callable[[Any, Tensor, Tensor], Any]) -> Function:
    def run(m: Any, x: Tensor, h: Tensor) -> Any:
        with torch.no_grad():
            return change(m, x, h)

    return changed(run)


def read_quietly(m: Any, x: Tensor, h: Tensor) -> Tensor:
    h[:, 0] = x[:, 1] * m.t[0]
    with torch.no_grad():  # the first to read what was written
        return h.mean(1, keepdim=True)


def view_read_quietly(m: Any, x: Tensor, h: Tensor) -> Tensor:
    view = h[:, :2]
    h.mul_(m.t)
    with torch.no_grad():
        view.sum()
    return view.sum(1, keepdim=True)


def alias_before(m: Any, x: Tensor, h: Tensor) -> Tensor:
    alias = h.detach()
    with torch.no_grad():
        h.clamp_(-0.5, 0.5)
    return alias * h


IN_PLACE: dict[str, Function] = {
    "clamp_ under no_grad": quietly(lambda m, x, h: h.clamp_(max=0.5) * 0),
    "mul_ by x under no_grad": quietly(lambda m, x, h: h.mul_(x[:, :1]) * 0),
    "a view under no_grad": quietly(lambda m, x, h: h[:, :2].clamp_(min=0.1).sum() * 0),
    "an index under no_grad": quietly(lambda m, x, h: h.__setitem__((slice(None), 0), 0.7)),
    "a mask under no_grad": quietly(lambda m, x, h: h.masked_fill_(h > 1, 0.2) * 0),
    "a detached alias": changed(lambda m, x, h: h.detach().mul_(0.5) * 0),
    "data of an intermediate": changed(lambda m, x, h: h.data.clamp_(max=0.5) * 0),
    "a diagonal": changed(lambda m, x, h: (h[:, :, None] * h[:, None]).sum(0).fill_diagonal_(0.3).mean() * h),
    "a buffer is counted up": quietly(lambda m, x, h: m.u.add_(h.mean(0)) * 0),
    "a parameter is clamped": quietly(lambda m, x, h: m.t.clamp_(-0.5, 0.5) * 0),
    "data of a parameter": changed(lambda m, x, h: m.t.data.clamp_(-0.5, 0.5).sum() * 0 + m.t),
    "written with gradients, read without": changed(read_quietly),
    "an old view, read without gradients": changed(view_read_quietly),
    "a detached alias from before": changed(alias_before),
    "cosine similarity": lambda m, x: F.cosine_similarity(m.a(x), m.t[None], dim=1),
    "data of a parameter, after its use": changed(lambda m, x, h: (h * m.t, m.t.data.mul_(0.9))[0]),
    "data of a buffer, after its use": changed(lambda m, x, h: (h * m.u, m.u.data.mul_(0.9))[0]),
    "a parameter and then its data": changed(lambda m, x, h: h * m.t + m.t.data.mul_(0.9) * 0 + h * m.t),
    "a row of parameters": lambda m, x: m.b(torch.tanh(m.a(x)) @ written_matrix(m)),
    "a diagonal of parameters": lambda m, x: m.b(torch.tanh(m.a(x)) @ diagonal_matrix(m)),
}


def written_matrix(m: Any) -> Tensor:
    matrix = torch.zeros(6, 6, dtype=torch.double)
    matrix[0, 0], matrix[0, 1], matrix[1, 0] = m.p.cos(), -m.p.sin(), m.p.sin()
    matrix[2:4] = m.t
    return matrix


def diagonal_matrix(m: Any) -> Tensor:
    matrix = torch.ones(6, 6, dtype=torch.double)
    matrix.diagonal().copy_(m.t.exp())
    matrix = matrix * m.t
    matrix.fill_diagonal_(0.5)
    matrix[:, 2].fill_(m.p)
    return matrix


@pytest.mark.parametrize("name", sorted(IN_PLACE))
def test_in_place(name: str) -> None:
    critic = critic_of(IN_PLACE[name])
    same(critic, by_engine, stock_penalty)


# other data for the same tensor ---------------------------------------------------------------------


class Spectral(nn.Module):
    """Spectral norm that assigns ``.data``, as SAGAN's and its many copies do."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner
        self.bar = nn.Parameter(inner.weight.data)
        del inner._parameters["weight"]
        rows, columns = self.bar.shape
        self.u = nn.Parameter(F.normalize(torch.randn(rows), dim=0), requires_grad=False)
        self.v = nn.Parameter(F.normalize(torch.randn(columns), dim=0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.v.data = F.normalize(self.bar.data.t() @ self.u.data, dim=0)
        self.u.data = F.normalize(self.bar.data @ self.v.data, dim=0)
        self.inner.weight = self.bar / self.u.dot(self.bar.mv(self.v))
        return self.inner(x)


class Centred(nn.Module):
    """Keeps a running mean of what it sees by assigning ``.data``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(4))
        self.a, self.b = nn.Parameter(torch.randn(4)), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.data = 0.9 * self.mean.data + 0.1 * x.detach().mean(0)
        return self.b(torch.tanh((x - self.mean * self.a) ** 2))


def around(penalty: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Scores before, between and after two penalties, all in one graph."""

    def loss(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        before = critic(fake).mean()
        first = penalty(critic, real, fake, alpha)
        between = critic(real).mean()
        second = penalty(critic, fake, real, alpha)
        return before - between + 10 * first + second + critic(fake + 1).mean()

    return loss


class Normed(nn.Module):
    """Scales its weight in place before it uses it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.b = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data.div_(self.weight.data.norm() + 0.1)
        return self.b(torch.tanh(x @ self.weight + x))


class Fading(nn.Module):
    """Counts a buffer down behind autograd's back."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(4))
        self.a, self.b = nn.Parameter(torch.randn(4)), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.mul_(0.9)
        return self.b(torch.tanh((x * self.scale + self.a) ** 2))


def spectral() -> nn.Module:
    return nn.Sequential(Spectral(nn.Linear(4, 8)), nn.LeakyReLU(0.2), Spectral(nn.Linear(8, 1)))


@pytest.mark.parametrize("build", [spectral, Centred, Normed, Fading])
@pytest.mark.parametrize("loss", ["penalty", "whole"])
def test_replaced_data(loss: str, build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    critic = build().double()
    if loss == "penalty":
        same(critic, around(by_engine), around(stock_penalty))
    else:
        same(critic, around(whole_loss), around(stock_loss))


def test_replaced_data_is_other_memory() -> None:
    critic = nn.Sequential(Spectral(nn.Linear(4, 8)), nn.Tanh(), nn.Linear(8, 1)).double()
    held = critic[0].u.data
    numbers = held.clone()
    by_engine(critic, *samples())
    assert torch.equal(held, numbers)
    assert not torch.equal(critic[0].u, numbers)


#: how a critic uses tensors to which it assigns ``.data``; and whether it runs on the engine
USES: dict[str, tuple[Callable[[Any, Tensor], Tensor], bool]] = {
    "linear": (lambda c, x: F.linear(x, c.m), True),
    "linear with bias": (lambda c, x: F.linear(x, c.m, c.g), True),
    "linear of a sequence": (lambda c, x: F.linear(x[:, None].expand(-1, 2, -1), c.m).sum(1), True),
    "transposed": (lambda c, x: x @ c.m.t(), True),
    "view": (lambda c, x: x @ c.m.view(16).view(4, 4), True),
    "copy": (lambda c, x: x @ c.m.clone(), True),
    "rows": (lambda c, x: x * c.m[0] + c.m[1:2], True),
    "scale": (lambda c, x: (x * c.g) * c.g, True),
    "shift": (lambda c, x: x + c.g, True),
    "convolution": (lambda c, x: F.conv1d(x[:, :, None], c.m[:, :, None]).squeeze(2), True),
    "instance norm": (
        lambda c, x: F.instance_norm(
            torch.cat([x, x * x, x + 1], 1).view(-1, 4, 3), weight=c.g, bias=c.g
        ).sum(2),
        True,
    ),
    "torch.func": (lambda c, x: torch.func.grad(lambda y: torch.tanh(y @ c.m).sum())(x), False),
    "product": (lambda c, x: x @ c.m, False),
    "divisor": (lambda c, x: x / c.g, False),
}


class Replaced(nn.Module):
    """Assigns ``.data`` before or after it uses a parameter."""

    def __init__(self, use: Callable[[Any, Tensor], Tensor], before: bool) -> None:
        super().__init__()
        self.m, self.g, self.head = (
            nn.Parameter(torch.randn(4, 4) * 0.6), nn.Parameter(torch.rand(4) + 0.5), nn.Linear(4, 1),
        )  # fmt: skip
        self.use, self.before = use, before

    def replace(self) -> None:
        self.m.data = self.m.data * 0.9
        self.g.data = self.g.data * 1.1

    def forward(self, x: Tensor) -> Tensor:
        if self.before:
            self.replace()
        h = self.use(self, x)
        if not self.before:
            self.replace()
        return self.head(torch.tanh(h))


@pytest.mark.parametrize("before", [True, False], ids=["replaced before", "replaced after"])
@pytest.mark.parametrize("use", USES)
def test_uses_of_a_parameter_whose_data_are_replaced(
    use: str, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autograd has saved the tensor itself, which shows later data, or a view or a copy, which does not. Each
    of several calls in one graph must read what stock code reads."""
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # which would find some of it, of one call alone
    function, on_engine = USES[use]
    torch.manual_seed(0)
    critic = Replaced(function, before).double()

    def by_stock_code(*arguments: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StockPathWarning)
            return by_engine(*arguments)

    same(critic, around(by_engine if on_engine else by_stock_code), around(stock_penalty))
    if not on_engine:
        with pytest.warns(StockPathWarning, match=r"assigns \.data .*test_history\.py.*t\.data\.copy_"):
            by_engine(copy.deepcopy(critic), *samples())
