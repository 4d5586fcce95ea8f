"""The table of contestants: ways to compute a task's loss and its parameter gradients.

To add one, write a function that takes ``(task, mode)`` and returns a contestant (:mod:`.steps`), and give
it a row in :data:`RIVALS`. What cannot run raises :class:`~wgangp_fast.bench.steps.Absent` with the reason.
:mod:`.suite` checks it against float64, clears the gradients and times it. Approximations (a penalty every
k-th step, finite differences) compute something else, so they have no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..acceleration import accelerate
from . import jax_rival, rivals
from .modes import FLOAT32, Mode
from .steps import CRITIC_STEP, PENALTY, Absent, Contestant, Step, Task, clear_gradients, eager

__all__ = ["BASELINE", "CONTESTANTS", "Contestant", "Step", "clear_gradients", "ours", "stock"]


def _pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1


def channels_last(task: Task, mode: Mode) -> Contestant:
    """Stock code on a critic and inputs whose memory is channels_last."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        if real.dim() != 4:
            raise Absent(f"channels_last is a layout of 4-D inputs; these have {real.dim()} dimensions")
        if real.device.type == "cpu" and any(map(_pointwise, critic.modules())):
            # It would take the whole run with it: torch 2.13, [8, 8, 64, 64] to 16 channels with stride 2.
            raise Absent("torch's channels_last backward of a 1x1 convolution on a CPU can crash")
        for parameter in critic.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        inner = eager(task.stock, mode)(critic, real, fake, alpha)

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            # Batches come as they come for everybody; their copies are small beside the critic's.
            layout = torch.channels_last
            return inner(real.contiguous(memory_format=layout), fake.contiguous(memory_format=layout), alpha)

        return step

    return contestant


def accelerated(task: Task, mode: Mode) -> Contestant:
    """Stock code on an accelerated critic."""
    inner = eager(task.stock, mode)

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        return inner(accelerate(critic), real, fake, alpha)

    return contestant


@dataclass(frozen=True)
class Rival:
    """A row of the table.

    Attributes:
        make: from a task and a mode, the contestant.
        preset: ``"quick"`` rows are in every preset, ``"full"`` rows in that one alone.
        about: one line for ``--list``.
        uncounted: why its memory cannot be counted, or None.
        compiles: it takes half a minute for a convolutional row, so that rows of the preset ``"full"`` have
            it only where a contestant or a workload is named.
    """

    make: Callable[[Task, Mode], Contestant]
    preset: str
    about: str
    uncounted: str | None = None
    compiles: bool = False


BASELINE = "stock"
CHANNELS_LAST = "stock-channels-last"
RIVALS: dict[str, Rival] = {
    CHANNELS_LAST: Rival(channels_last, "quick", "the same, critic and inputs in channels_last"),
    "stock-make-fx": Rival(
        rivals.make_fx_compiled,
        "full",
        "loss traced to one first-order graph, torch.compile, backward()",
        compiles=True,
    ),
    "stock-dynamo": Rival(
        rivals.trace_autograd_ops,
        "full",
        "torch.compile of the whole step, trace_autograd_ops",
        compiles=True,
    ),
    "torch-func": Rival(
        rivals.functional, "full", "torch.func.grad of torch.func.grad, torch.compile", compiles=True
    ),
    "stock-cuda-graph": Rival(
        rivals.cuda_graph,
        "full",
        "a CUDA graph of the whole stock step",
        "a graph holds its memory from its capture on",
    ),
    "ours-accelerated": Rival(accelerated, "full", "stock code, its critic accelerated"),
    "jax": Rival(
        jax_rival.jitted, "full", "jax.jit of grad of grad, the same weights", "JAX allocates by itself"
    ),
}


def table(task: Task, mode: Mode = FLOAT32, preset: str = "full") -> dict[str, Contestant]:
    """Name to contestant for ``task``: the preset's rivals, and the package's own at the end."""
    found = {BASELINE: task.around(task.stock, mode)}
    if task.rivals:
        found |= {
            name: row.make(task, mode)
            for name, row in RIVALS.items()
            if preset == "full" or row.preset == "quick"
        }
    return found | {name: task.around(loss, mode) for name, loss in task.ours.items()}


OURS = {name for task in (PENALTY, CRITIC_STEP) for name in task.ours}


def absent(reason: str) -> Contestant:
    """A contestant that does not take part."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        raise Absent(reason)

    return contestant


def is_ours(name: str) -> bool:
    """Whether a contestant is the package's own."""
    return name.split("-")[0] == "ours"


def select(contestants: Mapping[str, Contestant], names: Iterable[str] | None) -> dict[str, Contestant]:
    """The contestants called ``names``, the baseline always among them; all where ``names`` is None.

    Raises:
        ValueError: an unknown name; the message lists the known ones.
    """
    if names is None:
        return dict(contestants)
    unknown = sorted(set(names) - set(contestants) - set(RIVALS) - OURS)
    if unknown:
        known = dict.fromkeys([*contestants, *RIVALS, *sorted(OURS)])
        raise ValueError(f"unknown contestant {', '.join(unknown)}; known: {', '.join(known)}")
    return {name: c for name, c in contestants.items() if name in {BASELINE, *names}}


stock = eager(PENALTY.stock)
ours = eager(PENALTY.ours["ours"])
CONTESTANTS: dict[str, Contestant] = table(PENALTY, preset="quick")
"""The penalty's quick contestants in float32, by name."""
