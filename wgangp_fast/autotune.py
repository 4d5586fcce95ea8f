"""Which executor is the fastest for a critic and a batch on this machine: measured, not guessed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks
from .errors import BackendError
from .explanation import explain
from .loss import critic_loss
from .options import EXECUTORS
from .wrappers import Critic

#: another executor than eager has to win by this much: a tie is not worth a compiler
MARGIN = 0.97


@dataclass(frozen=True)
class ExecutorChoice:
    """What :func:`choose_executor` found; ``str()`` is a line for each executor.

    Attributes:
        name: the fastest, to be passed as ``executor=``.
        seconds: median of one critic loss with its gradients, by executor.
        refused: why an executor was not measured.
    """

    name: str
    seconds: dict[str, float]
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = []
        for name, median in self.seconds.items():
            ratio = self.seconds["eager"] / median
            chosen = "  chosen" if name == self.name else ""
            lines.append(f"{name:<10}{1e3 * median:>10.3f} ms  {ratio:.2f} times eager's speed{chosen}")
        lines += [f"{name:<10}{'':>10}     {reason}" for name, reason in self.refused.items()]
        return "\n".join(lines)


def choose_executor(
    critic: Critic,
    real: Tensor,
    fake: Tensor | None = None,
    *,
    executors: Sequence[str] = EXECUTORS,
    rounds: int = 15,
    **options: Any,
) -> ExecutorChoice:
    """Time ``critic_loss`` and its gradients under every executor, in turns, and name the fastest.

    Compilation and first runs are not timed. Parameters, their ``.grad`` and the critic's buffers are left as
    they were.

    Args:
        critic: as in :func:`wgangp_fast.critic_loss`.
        real: ``[N, ...]``, a batch as in training.
        fake: as ``real``; by default ``real`` in reverse order.
        executors: what to try; ``"eager"`` always is.
        rounds: turns; the medians are compared.
        options: of :func:`wgangp_fast.critic_loss`, without ``executor`` and ``alpha``.

    Example:
        >>> import torch, wgangp_fast
        >>> critic = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> wgangp_fast.choose_executor(critic, torch.randn(4, 2), executors=["eager"]).name
        'eager'
    """
    checks.samples("real", real)
    for name in executors:
        if name not in EXECUTORS:
            raise ValueError(f"executors must be among {', '.join(map(repr, EXECUTORS))}; got {name!r}")
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be at least 1; got {rounds!r}")
    fake = real.flip(0) if fake is None else fake
    checks.pair(real, fake)
    alpha = torch.full((len(real),), 0.5, dtype=real.dtype, device=real.device)
    parameters = _trained(critic)
    runs: dict[str, Callable[[], None]] = {}
    refused: dict[str, str] = {}
    buffers = list(critic.buffers()) if isinstance(critic, torch.nn.Module) else []
    kept = [buffer.clone() for buffer in buffers]
    random = torch.get_rng_state()

    def run_of(name: str) -> Callable[[], None]:
        def run() -> None:
            found = critic_loss(critic, real, fake, alpha=alpha, executor=name, **options).loss
            if found.requires_grad:
                torch.autograd.grad(found, parameters, allow_unused=True)

        return run

    try:
        for name in dict.fromkeys(["eager", *executors]):
            run = run_of(name)
            try:
                for _ in range(4):  # compiled, captured, warm
                    run()
                reason = "" if name == "eager" else _fell_back(critic, real, name, options)
            except BackendError as error:
                reason = str(error)
            if reason:
                refused[name] = reason
            else:
                runs[name] = run
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds):
            names = list(runs)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                samples[name].append(_seconds(runs[name], real.device))
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, kept):
                buffer.copy_(value)
        torch.set_rng_state(random)
    medians = {name: statistics.median(times) for name, times in samples.items()}
    best = min(medians, key=medians.__getitem__)
    if medians[best] > MARGIN * medians["eager"]:
        best = "eager"
    return ExecutorChoice(best, medians, refused)


def _trained(critic: Critic) -> list[Tensor]:
    """What the loss has gradients for: the module's parameters, or whatever autograd's graph reaches."""
    if isinstance(critic, torch.nn.Module):
        return [p for p in critic.parameters() if p.requires_grad]
    from .cuda_graphs.guards import parameters, reachable

    return parameters(reachable(critic))


def _fell_back(critic: Critic, real: Tensor, name: str, options: dict[str, Any]) -> str:
    """Why Python ran instead; empty if it did not."""
    found = explain(critic, real, output=options.get("output"), loss=True, executor=name)
    if found.path == "stock":
        return f"the critic runs on the stock path: {found.reason}"
    return "" if found.executor == name else found.executor


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin
