"""Whether a contestant computes what stock code computes: the gate in front of every printed time.

The truth is stock code in float64. A contestant's float32 answers (the penalty, every parameter gradient,
every buffer afterwards) may be as far from it as ten times stock code's own float32 answers, or
:data:`TOLERANCE`, whichever is more. Two calls in a row are compared, so that a contestant which repeats
its first answer, or changes buffers once too often, is found out.

A rectified critic jumps where rounding carries an activation across its kink: between two of PyTorch's own
convolution kernels, 1 of 16 draws of the DCGAN-64 critic did so, with a relative error of 1e-2. So who
breaks the rule on the first draw of weights and inputs must keep it on both of the next two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .contestants import BASELINE, CONTESTANTS, Contestant, clear_gradients
from .workloads import Workload

TOLERANCE = 100 * torch.finfo(torch.float32).eps  # 1.2e-5, relative
FACTOR = 10.0
CALLS = 2

Answers = list[dict[str, Tensor]]
"""One dict for each call: what it is ("penalty", "grad NAME", "buffer NAME") to float64 on the CPU."""


class _MaskAsInFloat32(nn.Module):
    """Dropout in float64 with float32's mask: on a GPU the order of the draws depends on the dtype."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        ones = torch.ones_like(x, dtype=torch.float32)
        return x * F.dropout(ones, self.p, self.training).to(x.dtype)


def _with_float32_masks(critic: nn.Module) -> nn.Module:
    for name, child in list(critic.named_modules()):
        if isinstance(child, nn.Dropout):
            critic.set_submodule(name, _MaskAsInFloat32(child.p))
    return critic


def answers(
    contestant: Contestant,
    workload: Workload,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    batch: int | None = None,
) -> Answers:
    """What ``contestant`` answers to :data:`CALLS` calls on a fresh build of ``workload``.

    torch's global generator is seeded before each call, so that dropout draws the same masks for all.
    """
    critic, real, fake = workload.build(device, dtype, seed, batch)
    if dtype == torch.float64:
        critic = _with_float32_masks(critic)
    alpha = sample_alpha(real, seed)
    step = contestant(critic, real, fake, alpha)
    calls = []
    for call in range(CALLS):
        clear_gradients(critic)
        torch.manual_seed(seed + call)
        penalty = step()
        calls.append({name: t.detach().double().cpu().clone() for name, t in _state(critic, penalty)})
    return calls


def sample_alpha(real: Tensor, seed: int) -> Tensor:
    """``[N]``, uniform in [0, 1): the same for every contestant, dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(real.shape[0], generator=generator).to(real)


def _state(critic: nn.Module, penalty: Tensor) -> Iterator[tuple[str, Tensor]]:
    yield "penalty", penalty
    for name, parameter in critic.named_parameters():
        gradient = parameter.grad
        yield f"grad {name}", torch.zeros_like(parameter) if gradient is None else gradient
    for name, buffer in critic.named_buffers():
        yield f"buffer {name}", buffer


def errors(actual: Answers, truth: Answers) -> dict[str, float]:
    """Relative error of each answer, the worst of the calls: ``max|a - t| / max|t|``.

    A gradient that is zero but for the truth's own rounding (the bias in front of a norm) has no scale of
    its own; it is measured against the largest entry of all gradients. Not finite, or absent: infinity.
    """
    worst: dict[str, float] = {}
    for got, want in zip(actual, truth, strict=True):
        sizes = {name: float(t.abs().max()) for name, t in want.items()}
        largest = max((size for name, size in sizes.items() if name.startswith("grad ")), default=0.0)
        for name, t in want.items():
            no_scale = sizes[name] <= 1e-12 * largest
            scale = max(largest if no_scale else sizes[name], torch.finfo(torch.float32).tiny)
            error = float((got[name] - t).abs().max()) / scale if name in got else float("inf")
            worst[name] = max(worst.get(name, 0.0), error if error == error else float("inf"))
    return worst


@dataclass(frozen=True)
class Draw:
    """How one contestant did on one draw; ``where`` is the answer that came nearest to its limit."""

    seed: int
    where: str
    error: float
    limit: float

    @property
    def kept(self) -> bool:
        """Whether every answer was within its limit."""
        return self.error <= self.limit


def three_way(error: dict[str, float], stock_error: dict[str, float], seed: int) -> Draw:
    """Apply ``error <= max(FACTOR * stock_error, TOLERANCE)`` to each answer; return the worst one."""
    limits = {name: max(FACTOR * stock_error[name], TOLERANCE) for name in error}
    # A limit of infinity would excuse everything: stock code's own NaN is no licence for another's.
    limits = {name: limit if limit < float("inf") else TOLERANCE for name, limit in limits.items()}
    where = max(error, key=lambda name: error[name] / limits[name])
    return Draw(seed, where, error[where], limits[where])


class Judge:
    """Decides for one workload; keeps the truth and stock code's errors of each draw.

    Args:
        workload: the row; ``batch`` overrides its number of samples.
        device: where contestants run; the truth runs there too.
        seed: of the first draw; the next two draws are ``seed + 1`` and ``seed + 2``.
    """

    def __init__(
        self, workload: Workload, device: torch.device, seed: int = 0, batch: int | None = None
    ) -> None:
        self.workload, self.device, self.seed, self.batch = workload, device, seed, batch
        self._known: dict[int, tuple[Answers, dict[str, float]]] = {}

    def _answers(self, contestant: Contestant, dtype: torch.dtype, seed: int) -> Answers:
        return answers(contestant, self.workload, self.device, dtype, seed, self.batch)

    def draw(self, contestant: Contestant, seed: int) -> Draw:
        """Compare ``contestant`` with the truth on the draw ``seed``."""
        if seed not in self._known:
            stock = CONTESTANTS[BASELINE]
            truth = self._answers(stock, torch.float64, seed)
            self._known[seed] = truth, errors(self._answers(stock, torch.float32, seed), truth)
        truth, stock_error = self._known[seed]
        if contestant is CONTESTANTS[BASELINE]:
            return three_way(stock_error, stock_error, seed)
        return three_way(errors(self._answers(contestant, torch.float32, seed), truth), stock_error, seed)

    def judge(self, contestant: Contestant) -> tuple[bool, list[Draw]]:
        """Return whether ``contestant`` is right, and the draws that say so: one, or three."""
        first = self.draw(contestant, self.seed)
        if first.kept:
            return True, [first]
        later = [self.draw(contestant, self.seed + k) for k in (1, 2)]
        return all(draw.kept for draw in later), [first, *later]
