"""What critics do in Python: random draws, library functions; and what is refused."""
# ruff: noqa: NPY002 - critics draw from numpy's global stream

from __future__ import annotations

import logging
import random
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from frontend_critic import Critic, Forward
from penalty_checks import assert_same, build, penalty, points
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint_sequential

import wgangp_fast
from wgangp_fast.engine.capture import dynamo as capture
from wgangp_fast.engine.capture import frontend_draws
from wgangp_fast.errors import StockPathWarning

# random numbers drawn in Python --------------------------------------------------------------------


def _shuffled(c: Any, x: Tensor) -> Tensor:
    shift = random.randint(-1, 1)
    return c.head(torch.roll(x, shift, 1) if shift else x)


def _augmented(c: Any, x: Tensor) -> Tensor:
    if random.random() < 0.5:
        x = x * (random.random() + 0.5)
    return c.head(x) + random.uniform(0, 1) * c.head(x * 2)


DRAWS: dict[str, Forward] = {
    "a whole number as a size": _shuffled,
    "a branch, and more draws in it": _augmented,
    "choice": lambda c, x: c.head(x) * random.choice([1.0, 2.0, 3.0]),
    "gauss": lambda c, x: c.head(x) * random.gauss(0, 1),
    "numpy": lambda c, x: c.head(x * np.random.rand()) * np.random.normal(1, 2),
    "numpy's whole number": lambda c, x: c.head(torch.roll(x, int(np.random.randint(0, 2)), 1)),
    "numpy's array": lambda c, x: c.head(x * torch.from_numpy(np.random.rand(6))),
    "numpy's permutation": lambda c, x: c.head(x[:, torch.from_numpy(np.random.permutation(6))]),
    "a stream of the critic's": lambda c, x: c.head(x) * c.python.random() * c.numpy.random(),
    "and torch's": lambda c, x: c.head(x * torch.rand(6, dtype=x.dtype) * random.random()),
    "random_": lambda c, x: c.head(x * torch.empty(6, dtype=x.dtype).random_(1, 5)),
}


def _seed(critic: Any, seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    critic.python.seed(seed)
    critic.numpy.bit_generator.state = np.random.default_rng(seed).bit_generator.state


def _next(critic: Any) -> list[float]:
    return [
        random.random(),
        np.random.rand(),
        critic.python.random(),
        critic.numpy.random(),
        float(torch.rand(())),
    ]


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_drawn_in_python_are_those_of_stock_code(name: str) -> None:
    def make() -> nn.Module:
        return Critic(DRAWS[name], python=random.Random(0), numpy=np.random.default_rng(0))

    ours, stock = build(make), build(make)
    batch = points((5, 6))
    values = set()
    for seed in range(4):
        _seed(ours, seed)
        mine = penalty(ours, batch, "auto", seed=seed)
        streams = _next(ours)
        _seed(stock, seed)
        theirs = penalty(stock, batch, "ref", seed=seed)
        assert streams == _next(stock), "a stream is elsewhere than after stock code"
        assert_same(mine, theirs)
        values.add(float(mine.value))
    assert len(values) > 1
    real, fake, alpha = batch
    losses = []
    for critic, impl in ((ours, "auto"), (stock, "ref")):
        _seed(critic, 7)
        torch.manual_seed(7)
        losses.append(wgangp_fast.critic_loss(critic, real, fake, alpha=alpha, impl=impl).loss)
        losses.append(torch.tensor(_next(critic)))
    torch.testing.assert_close(losses[0], losses[2], rtol=1e-9, atol=1e-12)
    assert torch.equal(losses[1], losses[3])


def test_floats_drawn_need_one_graph_and_another_stream_another() -> None:
    critic = build(lambda: Critic(lambda c, x: c.head(x) * c.python.random(), python=random.Random(0)))
    batch = points((5, 6))

    def check() -> None:
        state = critic.python.getstate()
        mine = penalty(critic, batch, "auto")
        critic.python.setstate(state)
        assert_same(mine, penalty(critic, batch, "ref"))

    for _ in range(3):
        check()
    (kind,) = capture.entry(critic).kinds.values()
    assert kind.count() == 1
    critic.python = random.Random(5)
    check()


@pytest.mark.parametrize("name", [*DRAWS, "shuffle"])
def test_a_draw_that_is_not_recognised_is_never_kept(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As on a torch that writes such calls in another way: then stock code runs, without any check of it."""
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")
    monkeypatch.setattr(frontend_draws, "_stream_of", lambda tx, function: None)

    def shuffled(c: Any, x: Tensor) -> Tensor:
        order = list(range(6))
        random.shuffle(order)
        return c.head(x[:, order])

    def make() -> nn.Module:
        return Critic(DRAWS.get(name, shuffled), python=random.Random(0), numpy=np.random.default_rng(0))

    ours, stock = build(make), build(make)
    real, fake, alpha = points((5, 6))
    refused = False
    for seed in range(3):
        found = []
        for critic, impl in ((ours, "auto"), (stock, "ref")):
            _seed(critic, seed)
            torch.manual_seed(seed)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                value = wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha, impl=impl)
            refused |= any(issubclass(w.category, StockPathWarning) for w in said)
            found.append([value.item(), *_next(critic)])
        assert found[0] == pytest.approx(found[1], rel=1e-9)
    assert refused or name == "random_"


def test_what_a_draw_is_asked_for_may_change() -> None:
    def forward(c: Any, x: Tensor) -> Tensor:
        return c.head(x) * random.uniform(0, 5 if c.wide else 1)

    critic = build(lambda: Critic(forward, wide=False))
    batch = points((5, 6))
    for wide in (False, True, False, True):
        critic.wide = wide
        found = []
        for impl in ("auto", "ref"):
            random.seed(wide)
            found.append(penalty(critic, batch, impl))
        assert_same(*found)


# library functions ---------------------------------------------------------------------------------


class _Quiet(warnings.catch_warnings):
    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        return result


def _quiet(c: Any, x: Tensor) -> Tensor:
    with _Quiet():
        assert x.shape[1] == 6
    return c.head(x)


def _spectrum(c: Any, x: Tensor) -> Tensor:
    modes = torch.fft.rfft(x)
    out = torch.zeros_like(modes)
    out[:, :3] = torch.einsum("bi,io->bo", modes[:, :3], c.w)
    return c.head(torch.fft.irfft(out, n=6))


def _outer(x: Tensor) -> Tensor:
    return x[:, :, None] * x[:, None, :] + torch.eye(6, dtype=x.dtype)


def _waves(c: Any, x: Tensor, **options: Any) -> Tensor:
    """Through ``stft`` and back, with the critic's window."""
    spectrum = torch.stft(x.repeat(1, 4), 8, 2, window=c.w, return_complex=True) * (1 + 0.5j)
    waves = torch.istft(spectrum, 8, 2, window=c.w, **options)
    return c.head(waves[:, :6] + waves[:, -6:].sum(1, keepdim=True))


def _two_sided(c: Any, x: Tensor) -> Tensor:
    window = torch.hamming_window(5, dtype=x.dtype)
    options = {"win_length": 5, "window": window, "normalized": True}
    spectrum = torch.stft(x, 8, 2, return_complex=True, onesided=False, **options) * (1 + 0.5j)
    real = torch.istft(spectrum, 8, length=6, **options)
    both = spectrum.istft(8, 2, return_complex=True, onesided=False, **options)
    return c.head(real + both.abs())


def _longer(c: Any, x: Tensor) -> Tensor:
    """More samples than there are: zeros behind them."""
    window = torch.hamming_window(8, dtype=x.dtype)
    spectrum = torch.stft(x.repeat(1, 4), 8, 4, window=window, return_complex=True)
    return c.head(torch.istft(spectrum * 1.5, 8, 4, window=window, length=40)[:, 22:28])


def _typed(c: Any, x: Tensor) -> Tensor:
    both = [x, x]
    kinds = [typing.List[Tensor], typing.List[int]]  # noqa: UP006 - as torchaudio writes them
    tensors, numbers = (torch.jit.isinstance(both, kind) for kind in kinds)
    if tensors and not numbers:
        return c.head(x) * 2
    return c.head(x)


def _layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def _window() -> dict[str, Any]:
    return {"w": torch.hann_window(8, dtype=torch.float64)}


LIBRARY: dict[str, tuple[Forward, Callable[[], dict[str, Any]]]] = {
    "istft": (_waves, _window),
    "istft of a part": (
        lambda c, x: _waves(c, x, center=False, length=16)[2:],
        lambda: {"w": _window()["w"] + 0.1},
    ),
    "istft of two sides": (_two_sided, dict),
    "istft, longer": (_longer, dict),
    "one_hot of a constant": (
        lambda c, x: c.head(x) * F.one_hot(c.k).to(x.dtype)[:, :1],
        lambda: {"k": torch.arange(5) % 3},
    ),
    "catch_warnings": (_quiet, dict),
    "checkpoint_sequential": (
        lambda c, x: checkpoint_sequential(c.s, 2, x, use_reentrant=False),
        lambda: {"s": _layers()},
    ),
    "jit.isinstance": (_typed, dict),
    "inv": (lambda c, x: (x @ torch.linalg.inv(c.a.weight[:6])).tanh().sum(1), dict),
    "solve": (lambda c, x: torch.linalg.solve(c.a.weight[:6], x.T).tanh().sum(0), dict),
    "cholesky of x": (lambda c, x: c.head(torch.linalg.cholesky(_outer(x)).sum(1)), dict),
    "inverse of x": (lambda c, x: c.head(torch.linalg.inv(_outer(x)).sum(1)), dict),
    "cayley": (
        lambda c, x: c.head(c.o(x)),
        lambda: {"o": parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley")},
    ),
    "a slice of a spectrum": (
        _spectrum,
        lambda: {"w": nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))},
    ),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_library_functions(name: str) -> None:
    forward_of, attributes = LIBRARY[name]
    ours, stock = (build(lambda: Critic(forward_of, **attributes())) for _ in range(2))
    batch = points((5, 6))
    assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))


def test_a_window_that_changes_and_one_with_gaps() -> None:
    """The engine follows a changed buffer, and raises what stock code raises where windows leave a gap."""
    critic = build(lambda: Critic(lambda c, x: _waves(c, x, length=16), **_window()))
    batch = points((5, 6))
    for _ in range(2):
        assert_same(penalty(critic, batch, "auto"), penalty(critic, batch, "ref"))
        critic.w.mul_(2).add_(0.3)
    critic.w.zero_()
    for impl in ("auto", "ref"):
        with pytest.raises(RuntimeError, match="window overlap add min"):
            penalty(critic, batch, impl)


@pytest.mark.parametrize(
    "wrong",
    [
        {"window": torch.ones(6, dtype=torch.float64)},
        {"win_length": 3, "hop_length": 4},
        {"onesided": False},
        {"return_complex": True},
        {"window": torch.ones(8, dtype=torch.complex128)},
        {"n_fft": 10},
    ],
)
def test_what_istft_does_not_accept(wrong: dict[str, Any]) -> None:
    def forward(c: Any, x: Tensor) -> Tensor:
        spectrum = torch.stft(x.repeat(1, 4), 8, 2, return_complex=True)
        waves = torch.istft(spectrum, **({"n_fft": 8, "hop_length": 2} | wrong))
        return c.head(waves.abs()[:, :6])

    critic = build(lambda: Critic(forward))
    for impl in ("auto", "ref"):
        with pytest.raises(RuntimeError, match=r"istft|window"):
            penalty(critic, points((5, 6)), impl)


def test_the_classes_that_one_hot_counts_may_change() -> None:
    forward_of, attributes = LIBRARY["one_hot of a constant"]
    critic = build(lambda: Critic(forward_of, **attributes()))
    batch = points((5, 6))
    for _ in range(2):
        assert_same(penalty(critic, batch, "auto"), penalty(critic, batch, "ref"))
        critic.k.copy_(torch.arange(5))


LOG = logging.getLogger("a critic's")


def _logging(c: Any, x: Tensor) -> Tensor:
    LOG.info("of %s", tuple(x.shape))
    c.log.log(logging.WARNING, f"{len(x)} samples")
    logging.info("and one more")
    print("printed", x.shape)
    return c.head(x)


def test_what_is_logged_is_logged_at_each_call(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # the comparison runs stock code, which logs too
    critic = build(lambda: Critic(_logging, log=LOG))
    caplog.set_level(logging.INFO)
    found = []
    for impl in ("auto", "auto", "ref"):
        caplog.clear()
        outcome = penalty(critic, points((5, 6)), impl)
        ours = [(r.levelno, r.getMessage()) for r in caplog.records if not r.name.startswith("torch")]
        found.append((ours, capsys.readouterr().out))
        assert outcome.value > 0
    assert found[0] == found[1] == found[2]
    assert [level for level, _ in found[0][0]] == [logging.INFO, logging.WARNING, logging.INFO]
    caplog.set_level(logging.WARNING)
    caplog.clear()
    penalty(critic, points((5, 6)), "auto")
    assert [r.levelno for r in caplog.records if r.name == LOG.name] == [logging.WARNING]


def test_what_a_critic_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")

    def forward(c: Any, x: Tensor) -> Tensor:
        warnings.warn("beware", category=FutureWarning, stacklevel=2)
        return c.head(x)

    critic = build(lambda: Critic(forward))
    penalty(critic, points((5, 6)), "auto")
    with pytest.warns(FutureWarning, match="beware"):
        penalty(critic, points((5, 6)), "auto")


def test_a_matrix_that_has_no_factor_raises_as_in_stock_code() -> None:
    critic = build(
        lambda: Critic(
            lambda c, x: c.head(torch.linalg.cholesky(_outer(x) * c.s).sum(1)), s=torch.tensor(1.0)
        )
    )
    batch = points((5, 6))
    penalty(critic, batch, "auto")
    critic.s.neg_()
    with pytest.raises(torch.linalg.LinAlgError):
        penalty(critic, batch, "auto")


def _differentiated(how: str) -> Forward:
    def forward(c: Any, x: Tensor) -> Tensor:
        if how == "grad":
            return c.head(torch.func.grad(lambda y: c.n(y).sum())(x).tanh())
        if how == "vjp":
            y, back = torch.func.vjp(c.n, x)
            return c.head(back(torch.ones_like(y))[0].tanh())
        if how == "jvp":
            return c.head(torch.func.jvp(c.n, (x,), (torch.ones_like(x),))[1].tanh())
        jacobian = getattr(torch.func, how)(c.n if how != "hessian" else lambda y: c.n(y).sum())
        return c.head(x) + torch.vmap(jacobian)(x).sum((1, 2))[:, None]

    return forward


@pytest.mark.parametrize("how", ["grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian"])
def test_torch_func_inside(how: str) -> None:
    inner = {"n": lambda: nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))}
    ours, stock = (build(lambda: Critic(_differentiated(how), n=inner["n"]())) for _ in range(2))
    batch = points((5, 6))
    assert_same(penalty(ours, batch, "auto"), penalty(stock, batch, "ref"))
