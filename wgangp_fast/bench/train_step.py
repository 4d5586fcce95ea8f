"""A whole training iteration: five critic steps with Adam, then one generator step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .modes import Mode
from .steps import CRITIC_STEP, Contestant, Loss, Step, Task, clear_gradients
from .workloads import Workload

N_CRITIC = 5
LEARNING_RATE, BETAS = 1e-4, (0.0, 0.9)


def with_generators(workloads: Mapping[str, Workload]) -> dict[str, Workload]:
    """The workloads that have a generator; each builds critic and generator as one module."""

    def both(row: Workload, *dim: int) -> nn.Module:
        assert row.generator is not None
        return nn.ModuleDict({"critic": row.critic(*dim), "generator": row.generator()})

    return {
        name: replace(row, critic=lambda *dim, row=row: both(row, *dim))
        for name, row in workloads.items()
        if row.generator is not None
    }


def iteration(loss: Loss, mode: Mode) -> Contestant:
    """One iteration of Gulrajani et al. 2017, algorithm 1, with ``loss`` as the critic's.

    Noise and alpha are drawn in the call, in float32, from torch's generator of the device; the reals are the
    ones given, as no data is read. Returns the last critic loss plus the generator's.
    """

    def contestant(model: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        critic, generator = (model.get_submodule(name) for name in ("critic", "generator"))
        adams = [_adam(module) for module in (critic, generator)]
        latent = next(layer for layer in generator.modules() if isinstance(layer, nn.Linear)).in_features

        def fakes(real: Tensor) -> Tensor:
            z = torch.randn(real.shape[0], latent, device=real.device).to(real.dtype)
            with mode.loss(real.device):
                images: Tensor = generator(z)
            return images.to(real.dtype)

        def step(real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
            for _ in range(N_CRITIC):
                with torch.no_grad():
                    samples = fakes(real)
                mix = torch.rand(real.shape[0], device=real.device).to(real.dtype)
                clear_gradients(critic)
                with mode.loss(real.device):
                    value = loss(critic, real, samples, mix)
                value.backward()
                adams[0].step()
            critic.requires_grad_(False)
            clear_gradients(generator)
            samples = fakes(real)
            with mode.loss(real.device):
                score = -critic(samples).mean()
            score.backward()
            adams[1].step()
            critic.requires_grad_(True)
            return (value + score).detach()

        return step

    return contestant


def _adam(module: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=LEARNING_RATE, betas=BETAS, fused=True)


TRAIN_STEP = Task(
    "train_step",
    f"{N_CRITIC} critic steps and one generator step, noise drawn, gradients, fused Adam; no data is read",
    CRITIC_STEP.combine,
    {"ours": CRITIC_STEP.ours["ours"]},
    one_pass=True,
    around=iteration,
    stateful=True,
    rivals=False,
    critic_batches=N_CRITIC,
)
