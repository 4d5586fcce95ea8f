"""Whether a contestant computes what stock code computes: the gate in front of every printed time.

The truth is stock code in float64. A contestant's answers (the loss, every parameter gradient, every buffer
afterwards) may be as far from it as ten times stock code's own answers in the same arithmetic, or
:data:`TOLERANCE`, whichever is more. Two calls in a row are compared, so that a contestant which repeats
its first answer, or changes buffers once too often, is found out. The step that is judged is the one that
is timed: its critic is given the weights and inputs of each draw.

A rectified critic jumps where rounding carries an activation across its kink: between two of PyTorch's own
convolution kernels, 1 of 16 draws of the DCGAN-64 critic did so, with a relative error of 1e-2. So who
breaks the rule on the first draw of weights and inputs must keep it on both of the next two.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .modes import FLOAT32, Mode
from .steps import PENALTY, Contestant, Step, Task, clear_gradients
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


class _FixedMask(nn.Module):
    """Dropout with a mask that is the same for every sample: every other feature is dropped.

    What draws masks once for several passes draws others than stock code; fixed, they can be compared.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.arange(x.shape[1], device=x.device) % 2 == 0
        return x * (kept / (1 - self.p)).to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


def _replace_dropout(critic: nn.Module, by: type[_MaskAsInFloat32] | type[_FixedMask]) -> nn.Module:
    for name, child in list(critic.named_modules()):
        if isinstance(child, nn.Dropout):
            critic.set_submodule(name, by(child.p))
    return critic


def _as_product(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    """``layer`` as one product of unfolded rows: ``[N, C, *] -> [N, K, *]``."""
    one = layer.weight.dim() == 3  # of height 1
    kernel, padding, dilation, stride = (
        ((fill, *numbers) if one else tuple(numbers))
        for fill, numbers in (
            (1, layer.kernel_size),
            (0, cast("tuple[int, ...]", layer.padding)),
            (1, layer.dilation),
            (1, layer.stride),
        )
    )
    image = x.unsqueeze(2) if one else x
    size = [
        (side + 2 * p - d * (k - 1) - 1) // s + 1
        for side, k, p, d, s in zip(image.shape[2:], kernel, padding, dilation, stride)
    ]
    y = layer.weight.flatten(1) @ F.unfold(image, kernel, dilation, padding, stride)  # [N, K, positions]
    y = y if layer.bias is None else y + layer.bias[:, None]
    return y.unflatten(2, size[1:] if one else size)


def as_products(critic: nn.Module) -> nn.Module:
    """``critic``, whose plain convolutions (no groups, zeros around) now run as products.

    A CPU's libraries have fast products in float64, and no fast convolutions: the double backward of a
    DCGAN-64 critic's takes half a minute. The layers stay what they are: their hooks and whoever reads their
    weights see no difference.
    """
    for child in critic.modules():
        plain = type(child) in (nn.Conv1d, nn.Conv2d)
        if plain and child.groups == 1 and child.padding_mode == "zeros" and child.padding != "same":
            child.__dict__["forward"] = functools.partial(_as_product, cast(nn.Conv2d, child))
    return critic


def draws_masks(critic: nn.Module) -> bool:
    """Whether ``critic`` has dropout."""
    return any(isinstance(module, nn.Dropout) for module in critic.modules())


def sample_alpha(real: Tensor, seed: int) -> Tensor:
    """``[N]``, uniform in [0, 1): the same for every contestant, dtype and device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(real.shape[0], generator=generator).to(real)


@dataclass(frozen=True)
class Built:
    """A contestant made for a critic: what is judged, and then timed.

    Attributes:
        critic: the module whose gradients ``step`` adds to; weights may be written into it in place.
        inputs: ``(real, fake, alpha)`` that the step was made with.
    """

    critic: nn.Module
    inputs: tuple[Tensor, Tensor, Tensor]
    step: Step


def make(contestant: Contestant, critic: nn.Module, real: Tensor, fake: Tensor, seed: int) -> Built:
    """Build ``contestant`` on ``critic``."""
    inputs = real, fake, sample_alpha(real, seed)
    return Built(critic, inputs, contestant(critic, *inputs))


def load_weights(critic: nn.Module, weights: nn.Module) -> None:
    """Write the parameters and buffers of ``weights`` into ``critic``, in place and in its own layout."""
    with torch.no_grad():
        for mine, theirs in ((critic.named_parameters, weights.named_parameters),
                             (critic.named_buffers, weights.named_buffers)):  # fmt: skip
            new = dict(theirs())
            for name, tensor in mine():
                tensor.copy_(new[name])


def answers(built: Built, seed: int, repeats: bool = False) -> Answers:
    """What the step answers to :data:`CALLS` calls; ``repeats``: all are the first, so it is made alone.

    torch's global generators are seeded before each call, so that dropout draws the same masks for all.
    """
    calls: Answers = []
    for call in range(1 if repeats else CALLS):
        clear_gradients(built.critic)
        torch.manual_seed(seed + call)
        value = built.step(*built.inputs)
        calls.append({name: t.detach().double().cpu().clone() for name, t in _state(built.critic, value)})
    return calls * (CALLS // len(calls))


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
        task: what is computed.
        mode: the arithmetic of the contestants and of stock code beside the truth.
    """

    draws = False  #: whether the critic draws random numbers elsewhere than in ``nn.Dropout``

    def __init__(
        self,
        workload: Workload,
        device: torch.device,
        seed: int = 0,
        batch: int | None = None,
        task: Task = PENALTY,
        mode: Mode = FLOAT32,
    ) -> None:
        self.workload, self.device, self.seed, self.batch = workload, device, seed, batch
        self.task, self.mode = task, mode
        with torch.random.fork_rng(devices=[]):
            self.fixed = task.one_pass and draws_masks(workload.network(device))
        self._known: dict[int, tuple[Answers, dict[str, float]]] = {}

    def fresh(
        self,
        contestant: Contestant,
        seed: int,
        dtype: torch.dtype = torch.float32,
        products: bool = True,
    ) -> Built:
        """``contestant`` on a build of its own, dropout as this judge compares it, and in float64 on a CPU
        convolutions as ``products``."""
        critic, real, fake = self.workload.build(self.device, dtype, seed, self.batch)
        if self.fixed:
            _replace_dropout(critic, _FixedMask)
        elif dtype == torch.float64:
            _replace_dropout(critic, _MaskAsInFloat32)
        if products and dtype == torch.float64 and self.device.type == "cpu":
            as_products(critic)
        return make(contestant, critic, real, fake, seed)

    def truth(self, seed: int) -> Answers:
        """What stock code answers in float64."""
        if seed not in self._known:
            wide = self.fresh(self.task.around(self.task.stock, FLOAT32), seed, torch.float64)
            changes = self.task.stateful or any(True for _ in wide.critic.buffers())
            masks = any(isinstance(module, _MaskAsInFloat32) for module in wide.critic.modules())
            truth = answers(wide, seed, repeats=not (changes or masks or self.draws))
            stock = answers(self.fresh(self.task.around(self.task.stock, self.mode), seed), seed)
            self._known[seed] = truth, errors(stock, truth)
        return self._known[seed][0]

    def exact(self, seed: int) -> Answers:
        """What stock code answers to a first call in float64; nothing is kept, unlike :meth:`truth`."""
        wide = self.fresh(self.task.around(self.task.stock, FLOAT32), seed, torch.float64)
        return answers(wide, seed, repeats=True)

    def answers(
        self, contestant: Contestant, seed: int, built: Built | None = None, repeats: bool = False
    ) -> Answers:
        """What ``contestant`` answers on the draw ``seed``; ``built`` spares another trace of it."""
        if built is None or self.fixed or self.task.stateful:
            return answers(self.fresh(contestant, seed), seed, repeats)
        weights, real, fake = self.workload.build(self.device, torch.float32, seed, self.batch)
        load_weights(built.critic, weights)
        return answers(Built(built.critic, (real, fake, sample_alpha(real, seed)), built.step), seed, repeats)

    def draw(self, contestant: Contestant, seed: int, built: Built | None = None) -> Draw:
        """Compare ``contestant`` with the truth on the draw ``seed``."""
        truth = self.truth(seed)
        found = errors(self.answers(contestant, seed, built), truth)
        return three_way(found, self._known[seed][1], seed)

    def judge(self, contestant: Contestant, built: Built | None = None) -> tuple[bool, list[Draw]]:
        """Return whether ``contestant`` is right, and the draws that say so: one, or three.

        Args:
            built: the contestant as it will be timed. Afterwards its critic holds other weights.
        """
        first = self.draw(contestant, self.seed, built)
        if first.kept:
            return True, [first]
        later = [self.draw(contestant, self.seed + k, built) for k in (1, 2)]
        return all(draw.kept for draw in later), [first, *later]
