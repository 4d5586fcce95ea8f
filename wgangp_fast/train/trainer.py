"""One training iteration, and everything that must be saved to continue it exactly."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wgangp_fast import cudagraph, graphs, models
from wgangp_fast.data import Dataset, UserError
from wgangp_fast.loss import critic_loss

from .config import Config
from .losses import LOSSES, clip_

SAMPLE_BATCH = 500
_IMPL = {"fast": "auto", "stock": "ref"}


def build_networks(config: Config, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Critic and generator for samples of ``shape``, their weights drawn from ``config.seed``.

    Raises:
        UserError: a network that does not suit the data.
    """
    image = len(shape) == 3
    for name in (config.critic, config.generator):
        if name.startswith("toy-") == image:
            found = f"images {list(shape)}" if image else "points"
            hint = "digits" if image else "toy-8gaussians"
            raise UserError(f"{name} does not suit {config.data}, which holds {found}; try --preset {hint}")
    critic_settings: dict[str, Any] = {"dim": config.critic_dim}
    generator_settings: dict[str, Any] = {"dim": config.generator_dim, "latent": config.latent}
    if image:
        common = {"channels": shape[0], "size": shape[1]}
        critic_settings |= {**common, "norm": config.critic_norm}
        generator_settings |= {**common, "norm": config.generator_norm}
    elif (config.critic_norm, config.generator_norm) != ("none", "none"):
        raise UserError("perceptrons have no norm: critic_norm and generator_norm must be none")
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return models.build(config.critic, **critic_settings), models.build(
            config.generator, **generator_settings
        )


def build_optimizer(
    config: Config, parameters: Iterable[nn.Parameter], capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of a network; ``capturable``: its step can be part of a CUDA graph."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=config.lr, capturable=capturable)
    betas = (config.beta1, config.beta2)
    return torch.optim.Adam(parameters, lr=config.lr, betas=betas, fused=True, capturable=capturable)


class Trainer:
    """Networks, optimisers, random streams and counters of a run.

    Args:
        config: complete settings.
        data: real samples.
        device: of the networks. Random numbers are drawn on the CPU, so that a seed means the same
            everywhere.

    Raises:
        UserError: a network that does not suit the data.
    """

    def __init__(self, config: Config, data: Dataset, device: torch.device) -> None:
        self.config, self.data, self.device = config, data, device
        self.loss = LOSSES[config.loss]
        critic, generator = build_networks(config, data.shape)
        self.critic, self.generator = critic.to(device), generator.to(device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.graphs = config.graphs and device.type == cudagraph.Capture.device_type
        self.critic_optimizer = build_optimizer(config, self.critic.parameters(), self.graphs)
        self.generator_optimizer = build_optimizer(config, self.generator.parameters())
        self.random = torch.Generator().manual_seed(config.seed + 1)  # latents and interpolation
        self.iteration = 0
        self.seconds = 0.0
        self.sums = self._no_sums()
        self.last: tuple[Tensor, Tensor, Tensor] | None = None  # real, fake, alpha of the last critic step
        self.critic_updates = graphs.make_graphed_step(
            self._critic_updates, enabled=self.graphs, watch=[self.critic, self.critic_optimizer]
        )

    def iterate(self) -> None:
        """One generator step (none in the first iteration), then n_critic critic steps (paper 2.3)."""
        if self.iteration > 0:
            self.generator_step()
        self.critic_steps()
        self.iteration += 1

    def generator_step(self) -> None:
        loss = self.loss.generator(self.critic(self.generator(self.latents(self.config.batch))))
        self.generator_optimizer.zero_grad()
        # inputs=: the critic's own gradients are neither needed nor computed.
        loss.backward(inputs=list(self.generator.parameters()))
        self.generator_optimizer.step()
        self._update_average()
        self._add("generator", generator_loss=loss)

    def critic_steps(self) -> None:
        """n_critic updates on fresh batches; with a GPU, one launch."""
        # The generator does not change meanwhile, so all the batches can be made first.
        batches = [self.critic_batch() for _ in range(self.config.n_critic)]
        try:
            results = self.critic_updates(batches)
        except graphs.GraphError as error:
            raise UserError(f"{error}. Here: --no-graphs") from error
        for values in results:
            self._add("critic", **values)

    def critic_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """What one update needs: real and fake ``[N, ...]``, alpha ``[N]``, the weight of real."""
        config = self.config
        real = self.data.batch(config.batch).to(self.device)
        with torch.no_grad():
            fake = self.generator(self.latents(config.batch))
        self.last = real, fake, torch.rand(config.batch, generator=self.random).to(self.device)
        return self.last

    def _critic_updates(self, batches: list[tuple[Tensor, Tensor, Tensor]]) -> list[dict[str, Tensor]]:
        return [self.critic_update(*batch) for batch in batches]

    def critic_update(self, real: Tensor, fake: Tensor, alpha: Tensor) -> dict[str, Tensor]:
        """One update of the critic; scalars for the log, from before it."""
        config = self.config
        if self.loss.penalised:
            found = critic_loss(
                self.critic, real, fake, lambda_gp=config.lambda_gp, alpha=alpha, one_sided=config.one_sided,
                impl=_IMPL[config.penalty],
            )  # fmt: skip
            loss, wasserstein = found.loss, found.wasserstein
            values = {"penalty": found.penalty, "grad_norm": found.grad_norm.mean()}
        else:
            real_score, fake_score = self.critic(real), self.critic(fake)
            loss = self.loss.critic(real_score, fake_score)
            wasserstein, values = real_score.mean() - fake_score.mean(), {}
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        if self.loss.clipped:
            clip_(self.critic.parameters(), config.clip)
        return {"critic_loss": loss, "wasserstein": wasserstein, **values}

    def latents(self, count: int) -> Tensor:
        """``[count, latent]`` standard normal."""
        return torch.randn(count, self.config.latent, generator=self.random).to(self.device)

    def sample(self, z: Tensor) -> Tensor:
        """Samples of the averaged generator, 500 at a time; ``z [N, latent]`` on any device."""
        with torch.no_grad():
            return torch.cat([self.average(part.to(self.device)) for part in z.split(SAMPLE_BATCH)])

    @property
    def kimg(self) -> float:
        """Thousands of real samples that the critic has seen."""
        return self.iteration * self.config.n_critic * self.config.batch / 1000

    def _update_average(self) -> None:
        # The half-life grows with the run at first, or the random weights of the start would linger.
        half_life = min(self.config.ema_kimg, self.kimg / 20)
        keep = 0.5 ** (self.config.n_critic * self.config.batch / 1000 / half_life) if half_life else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - keep)

    def _no_sums(self) -> dict[str, Tensor]:
        names = [
            "critic",
            "critic_loss",
            "wasserstein",
            "penalty",
            "grad_norm",
            "generator",
            "generator_loss",
        ]
        return {name: torch.zeros((), device=self.device) for name in names}

    def _add(self, counter: str, **values: Tensor) -> None:
        # Sums stay on the device: reading a number there at every step would wait for the device.
        self.sums[counter] += 1
        for name, value in values.items():
            self.sums[name] += value.detach()

    def take_means(self) -> dict[str, float | None]:
        """Means since the last call. The critic's gradient norm is the mean over all penalty points; a loss
        without a penalty has it from the last step's points."""
        sums = {name: value.item() for name, value in self.sums.items()}
        self.sums = self._no_sums()
        means: dict[str, float | None] = {
            name: sums[name] / sums["critic"]
            for name in ("critic_loss", "wasserstein", "penalty", "grad_norm")
        }
        if not self.loss.penalised:
            means["penalty"], means["grad_norm"] = None, self._gradient_norm()
        means["generator_loss"] = sums["generator_loss"] / sums["generator"] if sums["generator"] else None
        return means

    def _gradient_norm(self) -> float | None:
        if self.last is None:
            return None
        real, fake, alpha = self.last
        weight = alpha.view(-1, *[1] * (real.dim() - 1))
        x = (weight * real + (1 - weight) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(self.critic(x).sum(), x)
        return gradient.flatten(1).norm(dim=1).mean().item()

    def _parts(self) -> dict[str, Any]:
        return {
            "critic": self.critic,
            "generator": self.generator,
            "average": self.average,
            "critic_optimizer": self.critic_optimizer,
            "generator_optimizer": self.generator_optimizer,
            "data": self.data,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iterations depend on, as tensors, numbers and dictionaries of them."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            "random": self.random.get_state(),
            "iteration": self.iteration,
            "seconds": self.seconds,
            "sums": self.sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # Whether steps are captured is this run's affair, not that of the run which wrote the checkpoint.
        saved = state["critic_optimizer"]
        own = [{**group, "capturable": self.graphs} for group in saved["param_groups"]]
        state = {**state, "critic_optimizer": {**saved, "param_groups": own}}
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.critic_updates.reset()
        self.random.set_state(state["random"])
        self.iteration, self.seconds = state["iteration"], state["seconds"]
        self.sums = self._no_sums() | {name: value.to(self.device) for name, value in state["sums"].items()}
