"""What stock code gives for a critic, and whether ours gives the same: values, every gradient, every buffer.

The stock penalty here is autograd and nothing else: it shares no line with the package.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import wgangp_fast
from wgangp_fast.errors import StockPathWarning

TOLERANCE = 1e-8


class Stock:
    """The three calls as the field writes them."""

    @staticmethod
    def gradient(critic: Any, x: Tensor) -> Tensor:
        if not x.requires_grad:
            x = x.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            score = critic(x)
            (found,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
        return found

    @classmethod
    def penalty(cls, critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        weight = alpha.view(-1, *[1] * (real.dim() - 1))
        gradient = cls.gradient(critic, weight * real + (1 - weight) * fake)
        return ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()

    @classmethod
    def loss(cls, critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        of_real, of_fake = critic(real).mean(), critic(fake).mean()
        return of_fake - of_real + 10 * cls.penalty(critic, real, fake, alpha)

    @classmethod
    def r1(cls, critic: Any, real: Tensor) -> Tensor:
        return cls.gradient(critic, real).flatten(1).square().sum(1).mean() / 2

    @staticmethod
    @contextlib.contextmanager
    def prepared(critic: Any) -> Iterator[Any]:
        """The critic, for a penalty that is written by hand."""
        with sdpa_kernel(SDPBackend.MATH):
            yield critic


class Ours:
    """The same calls of the package. ``together`` counts losses that ran as one pass."""

    together = 0

    @staticmethod
    def gradient(critic: Any, x: Tensor) -> Tensor:
        return wgangp_fast.input_gradient(critic, x)

    @staticmethod
    def penalty(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        return wgangp_fast.gradient_penalty(critic, real, fake, alpha=alpha)

    @classmethod
    def loss(cls, critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        loss = wgangp_fast.critic_loss(critic, real, fake, alpha=alpha).loss
        cls.together += type(loss.grad_fn).__name__ == "CriticLossFunctionBackward"
        return loss

    @staticmethod
    def r1(critic: Any, real: Tensor) -> Tensor:
        return wgangp_fast.r1_penalty(critic, real)

    @staticmethod
    @contextlib.contextmanager
    def prepared(critic: Any) -> Iterator[Any]:
        with sdpa_kernel(SDPBackend.MATH):  # where the module's own code runs
            try:
                yield wgangp_fast.accelerate(critic)
            finally:
                wgangp_fast.accelerate(critic, False)


Calls = Any  # Stock or Ours
Batch = tuple[Tensor, Tensor, Tensor]


def _penalty(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    yield calls.penalty(critic, *batch)


def _loss(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    yield calls.loss(critic, *batch)


def _gradient(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    found = calls.gradient(critic, batch[0])
    weights = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    yield (found * weights).sum() + found.square().sum()


def _step(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    """A critic step: scores before the penalty, and one behind it, in one graph."""
    real, fake, _ = batch
    scores = critic(fake).mean() - critic(real).mean()
    loss = scores + 10 * calls.penalty(critic, *batch)
    yield loss + 1e-3 * critic(real).square().mean()


def _two(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    """Two penalties of one critic, other points."""
    real, fake, alpha = batch
    yield calls.penalty(critic, real, fake, alpha) + 0.3 * calls.penalty(critic, fake, real * 1.5, alpha)


def _r1(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    yield calls.penalty(critic, *batch) + calls.r1(critic, batch[0])


def _losses(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    real, fake, alpha = batch
    yield calls.loss(critic, real, fake, alpha) + critic(fake).mean() + calls.loss(critic, fake, real, alpha)


def _steps(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    """Two steps with an update between, and the last parameter frozen."""
    yield calls.penalty(critic, *batch)
    with torch.no_grad():
        for p in critic.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad.clamp(-1, 1)
    last = list(critic.parameters())[-1:]
    for p in last:
        p.requires_grad_(False)
    yield calls.loss(critic, *batch)
    for p in last:
        p.requires_grad_()


def _accelerated(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    """A penalty written by hand, and the score that it differentiates, in one loss."""
    real, fake, alpha = batch
    weight = alpha.view(-1, *[1] * (real.dim() - 1))
    x = weight * real + (1 - weight) * fake
    if not x.requires_grad:
        x = x.requires_grad_()
    with calls.prepared(critic) as made:
        score = made(x)
        cotangent = torch.linspace(1, 2, score.numel()).to(score).view_as(score)
        (g,) = torch.autograd.grad(score, x, cotangent, create_graph=True)
        yield ((g.flatten(1).norm(2, dim=1) - 1) ** 2).mean() + 0.1 * score.mean()


def _modes(calls: Calls, critic: Any, batch: Batch) -> Iterator[Tensor]:
    """Training, then evaluation mode, then a smaller batch."""
    real, fake, alpha = batch
    yield calls.loss(critic, *batch)
    critic.eval()
    yield calls.penalty(critic, *batch)
    critic.train()
    yield calls.penalty(critic, real[1:], fake[1:], alpha[1:])


#: what is called; ``kept`` runs backward twice, of ``points`` real, fake and alpha get gradients too
SCENARIOS: dict[str, Callable[..., Iterator[Tensor]]] = {
    "penalty": _penalty,
    "loss": _loss,
    "gradient": _gradient,
    "penalty, points": _penalty,
    "loss, points": _loss,
    "gradient, points": _gradient,
    "penalty, kept": _penalty,
    "loss, kept": _loss,
    "step": _step,
    "step, points": _step,
    "two": _two,
    "r1": _r1,
    "losses": _losses,
    "steps": _steps,
    "modes": _modes,
    "accelerated": _accelerated,
    "accelerated, points": _accelerated,
    "accelerated, kept": _accelerated,
}
FIRST = ("penalty", "loss", "gradient")


@dataclass
class Outcome:
    values: list[Tensor]
    gradients: dict[str, Tensor | None]
    state: dict[str, Tensor]
    reasons: list[str]

    def finite(self) -> bool:
        tensors = [*self.values, *self.gradients.values(), *self.state.values()]
        return all(t is None or bool(torch.isfinite(t).all()) for t in tensors)


def points(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(5)
    real, fake = (torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    alpha = torch.rand(shape[0], dtype=torch.float64, generator=generator)
    return real.to(dtype), (fake * 0.8 + 0.3).to(dtype), alpha.to(dtype)


def outcome(calls: Calls, critic: nn.Module, batch: Batch, scenario: str) -> Outcome:
    """Run one scenario; its backward pass too."""
    of_points = "points" in scenario
    real, fake, alpha = (v.clone().requires_grad_(of_points) for v in batch)
    torch.manual_seed(3)
    critic.zero_grad()
    values, reasons = [], []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for value in SCENARIOS[scenario](calls, critic, (real, fake, alpha)):
            values.append(value.detach().clone())
            if value.requires_grad:
                if "kept" in scenario:
                    value.backward(retain_graph=True)
                value.backward()
    for warning in caught:
        if issubclass(warning.category, StockPathWarning):
            reasons.append(str(warning.message))
    gradients = {name: p.grad for name, p in critic.named_parameters()}
    if of_points:
        gradients |= {"real": real.grad, "fake": fake.grad, "alpha": alpha.grad}
    state = {name: v.detach().clone() for name, v in critic.state_dict().items()}
    return Outcome(values, gradients, state, reasons)


POINTS = ("real", "fake", "alpha")


def differences(ours: Outcome, stock: Outcome) -> tuple[list[str], list[str]]:
    """What is wrong in numbers; and what is only None here and zeros there."""
    wrong, kinds = [], []
    found = [g for g in stock.gradients.values() if g is not None and g.numel()]
    scale = max([1e-3, *(float(g.abs().max()) for g in found)])

    def off(name: str, a: Tensor, b: Tensor, least: float) -> None:
        if a.shape != b.shape or a.dtype != b.dtype:
            wrong.append(f"{name}: {tuple(a.shape)} {a.dtype}, stock {tuple(b.shape)} {b.dtype}")
        elif not (b.is_floating_point() or b.is_complex()):
            if not torch.equal(a, b):
                wrong.append(f"{name}: {a.flatten()[:4].tolist()}, stock {b.flatten()[:4].tolist()}")
        elif b.numel():
            error = float((a - b).abs().max())
            if not error <= TOLERANCE * max(float(b.abs().max()), least):
                sizes = f"{float(a.abs().max()):.6g}, stock {float(b.abs().max()):.6g}"
                wrong.append(f"{name}: {sizes}, off {error:.1e}")

    for i, (a, b) in enumerate(zip(ours.values, stock.values, strict=True)):
        off(f"value {i}", a, b, 1e-3)
    for name, b in stock.gradients.items():
        a = ours.gradients[name]
        if a is None and b is None:
            continue
        if (a is None) != (b is None) and name not in POINTS:
            ours_is, stock_is = ("None" if g is None else "zeros" for g in (a, b))
            kinds.append(f"{name}: {ours_is}, stock {stock_is}")
        like = a if a is not None else b
        # a gradient that is zero in exact arithmetic is rounding of the others
        off(name, *(torch.zeros_like(like) if g is None else g for g in (a, b)), 1e-2 * scale)
    for name, b in stock.state.items():
        off(f"state {name}", ours.state[name], b, 1e-3)
    return wrong, [] if wrong else kinds


REASON = re.compile(r"0x[0-9a-f]+|<critic [0-9a-f]+>|\d+")


def short(reason: str) -> str:
    """A refusal without what differs between critics."""
    text = re.split(r"as one graph\.|at stock speed\.", reason)[-1].split("Remedy:")[0].strip()
    return REASON.sub("#", text)[:110]
