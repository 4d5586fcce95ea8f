"""One training iteration, and everything that must be saved to continue it exactly."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from wgangp_fast.cuda_graphs import capture as cudagraph
from wgangp_fast.cuda_graphs import step as graphs
from wgangp_fast.errors import UserError
from wgangp_fast.training.data import Batches, Loader, Samples, moved, stream

from .config import Config
from .losses import clip_
from .networks import build_networks, build_optimizer, count_classes, load_optimizer, set_rate
from .objectives import Objective, generator_loss, half, scores_of
from .parallel import Group

# Latents that are sampled at a time. A generator with batch norm has the statistics of that many.
SAMPLE_BATCH = 128
# Held-out batches in a tick.
HELD_OUT_BATCHES = 4


class Trainer:
    """Networks, optimisers and counters of a run.

    Batches, latents and interpolation weights are drawn for all processes, from streams that the seed and
    the counters address; each process uses its rows. So a run is the same for any number of processes, up
    to the order of sums (and batch norm's statistics, which are of a process's own rows).

    Args:
        config: complete settings.
        train: samples to train on; ``held_out``: samples to compare with, or None.
        group: this process among the others. Random numbers are drawn on the CPU, so that a seed means the
            same on every device.
        networks: critic and generator to train; None: those that the settings name. With an attribute
            ``classes`` above 0, a critic returns ``(scores [N], logits [N, classes])`` and a generator takes
            ``(z, labels [N])``, and they are trained as an AC-GAN (paper section 9): the critic's fakes have
            the labels of its real samples, the generator's are drawn uniformly.

    Raises:
        UserError: a network that does not suit the data or its labels, or a batch that the processes cannot
            share.
    """

    def __init__(
        self,
        config: Config,
        train: Samples,
        held_out: Samples | None,
        group: Group,
        networks: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        self.config, self.group, self.device = config, group, group.device
        self.shape = train.shape
        critic, generator = networks or build_networks(config, train.shape)
        names = (config.critic, config.generator)
        self.classes = count_classes(critic, generator, names, train, held_out)
        self.critic, self.generator = critic.to(self.device), generator.to(self.device)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.low = getattr(generator, "low", -1.0)
        self.objective = Objective(self.critic, config)
        self.loss = self.objective.kind
        self.shared_objective = group.wrap(self.objective)
        self.shared_generator = group.wrap(self.generator)
        self.graphs = config.graphs and self.device.type == cudagraph.Capture.device_type and group.world == 1
        self.critic_optimizer = build_optimizer(config, self.critic.parameters(), self.graphs)
        self.generator_optimizer = build_optimizer(config, self.generator.parameters())
        self.iteration, self.seconds, self.rollbacks = 0, 0.0, 0
        self.images = 0  # real samples that the critic has seen; a run may go on with another batch
        self.sums = self._no_sums()
        self.last: tuple[Tensor, ...] | None = None  # real, fake, alpha and labels of the last critic step
        self.generator_batch = config.generator_batch or config.batch
        for name, batch in (("batch", config.batch), ("generator_batch", self.generator_batch)):
            parts = group.world * config.accumulate
            if batch % parts:
                raise UserError(
                    f"{name} {batch} must be a multiple of {parts}: {group.world} processes times accumulate "
                    f"{config.accumulate}"
                )
        options: dict[str, Any] = {"dequantize": config.dequantize, "low": self.low, "share": group.share}
        batches = Batches(train, config.batch, config.seed, flip=config.flip, **options)
        self.loader = Loader(batches, self.device, config.placement)
        self.held_out: Loader | None = None
        if held_out is not None:
            part = config.batch // config.accumulate
            size = part if held_out.size is None else min(part, held_out.size)
            size -= size % group.world
            if size:  # another seed: what is drawn anew must not be what is trained on
                others = Batches(held_out, size, -1 - config.seed, **options)
                self.held_out = Loader(others, self.device, "plain")
        self.critic_updates = graphs.make_graphed_step(
            self._critic_updates, enabled=self.graphs, watch=[self.critic, self.critic_optimizer]
        )

    def iterate(self) -> None:
        """One generator step (none in the first iteration), then n_critic critic steps (paper 2.3)."""
        rate = self.learning_rate
        for optimizer in (self.critic_optimizer, self.generator_optimizer):
            set_rate(optimizer, rate)
        if self.iteration > 0:
            self.generator_step()
        self.critic_steps()
        self.iteration += 1
        self.images += self.shown

    @property
    def learning_rate(self) -> float:
        """Of the coming iteration: ``lr``, or on its linear way from there to 0 at ``iters``."""
        config = self.config
        if config.lr_decay == "none":
            return config.lr
        rate = config.lr * max(0.0, 1 - self.iteration / config.iters)
        return torch.tensor(rate, dtype=torch.float32).item()  # as a captured step reads it from memory

    def generator_step(self) -> None:
        config = self.config
        z = [self.latents("generator", self.iteration, self.generator_batch)]
        if self.classes:
            z.append(self.labels("generator", self.iteration, self.generator_batch))
        sums: dict[str, Tensor] = {}
        self.generator_optimizer.zero_grad()
        parts = self._cut(*z)
        for index, part in enumerate(parts):
            with _waiting(self.shared_generator, index + 1 < len(parts)):
                with half(self.device, config.precision == "bf16"):
                    images = self.shared_generator(*part)
                    labels = part[1] if self.classes else None
                    loss, of_classes = generator_loss(
                        self.loss, self.critic, images, labels, config.acgan_generator
                    )
                # inputs=: the critic's own gradients are neither needed nor computed.
                (loss / len(parts)).backward(inputs=list(self.generator.parameters()))
            _add_shares(sums, len(parts), generator_loss=loss, fake_class_loss=of_classes)
        self.generator_optimizer.step()
        self._update_average()
        self._add("generator", **sums)

    def critic_steps(self) -> None:
        """n_critic updates on fresh batches; with a GPU, one launch."""
        # The generator does not change meanwhile, so all the batches can be made first.
        first = self.iteration * self.config.n_critic
        batches = [self.critic_batch(first + index) for index in range(self.config.n_critic)]
        try:
            results = self.critic_updates(batches)
        except graphs.GraphError as error:
            raise UserError(f"{error}. Here: --no-graphs") from error
        for values in results:
            self._add("critic", **values)

    def critic_batch(self, k: int) -> tuple[Tensor, ...]:
        """What critic update ``k`` needs: real and fake ``[N, ...]``, alpha ``[N]``, the weight of real; for
        networks with classes ``labels [N]`` too, which are those of real and of fake."""
        self.last = self._batch("critic", self.loader, k)
        return self.last

    def _batch(self, purpose: str, loader: Loader, k: int) -> tuple[Tensor, ...]:
        batch = loader.batches.batch
        found = loader.labels(k) if self.classes else None
        labels = () if found is None else (found,)
        real = loader(k)
        fake = self._fakes(self.latents(purpose, k, batch), *labels)
        return real, fake, self._alpha(purpose, k, batch), *labels

    def _fakes(self, *inputs: Tensor) -> Tensor:
        with torch.no_grad(), half(self.device, self.config.precision == "bf16"):
            parts = [self.generator(*part) for part in self._cut(*inputs)]
        return (torch.cat(parts) if len(parts) > 1 else parts[0]).float()

    def _cut(self, *values: Tensor) -> list[tuple[Tensor, ...]]:
        """The parts of a batch whose gradients add up."""
        return list(zip(*(value.chunk(self.config.accumulate) for value in values), strict=True))

    def _critic_updates(self, batches: list[tuple[Tensor, ...]]) -> list[dict[str, Tensor]]:
        return [self.critic_update(*batch) for batch in batches]

    def critic_update(self, real: Tensor, fake: Tensor, alpha: Tensor, *labels: Tensor) -> dict[str, Tensor]:
        """One update of the critic; scalars for the log, from before it."""
        parts = self._cut(real, fake, alpha, *labels)
        self.critic_optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(parts):
            with _waiting(self.shared_objective, index + 1 < len(parts)):
                found = self.shared_objective(*part)
                (found.loss / len(parts)).backward()
            _add_shares(sums, len(parts), **found._asdict())
        self.critic_optimizer.step()
        if self.loss.clipped:
            clip_(self.critic.parameters(), self.config.clip)
        sums["critic_loss"] = sums.pop("loss")
        return sums

    def _stream(self, name: str, *key: int) -> torch.Generator:
        # After a rollback the same numbers would lead to the same divergence.
        return stream(self.config.seed, name, self.rollbacks, *key)

    def latents(self, purpose: str, k: int, count: int) -> Tensor:
        """This process's rows of ``[count, latent]`` standard normal, the ``k``-th for ``purpose``."""
        z = torch.randn(count, self.config.latent, generator=self._stream(f"z {purpose}", k))
        return moved(self.group.mine(z), self.device)

    def labels(self, purpose: str, k: int, count: int) -> Tensor:
        """This process's rows of ``[count]`` int64, uniform, the ``k``-th for ``purpose``."""
        found = torch.randint(self.classes, (count,), generator=self._stream(f"labels {purpose}", k))
        return moved(self.group.mine(found), self.device)

    def _alpha(self, purpose: str, k: int, count: int) -> Tensor:
        alpha = torch.rand(count, generator=self._stream(f"alpha {purpose}", k))
        return moved(self.group.mine(alpha), self.device)

    def sample(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples of the averaged generator, on the CPU; ``z [N, latent]`` on any device, and for networks
        with classes ``labels [N]``, by default 0, 1, ... in turn."""
        return sample(self.average, z, self.device, labels)

    @property
    def kimg(self) -> float:
        """Thousands of real samples that the critic has seen."""
        return self.images / 1000

    @property
    def shown(self) -> int:
        """Real samples that the critic sees in an iteration."""
        return self.config.n_critic * self.config.batch

    def _update_average(self) -> None:
        # The half-life grows with the run at first, or the random weights of the start would linger.
        half_life = min(self.config.ema_kimg, self.kimg / 20)
        keep = 0.5 ** (self.shown / 1000 / half_life) if half_life else 0.0
        move = get_ema_multi_avg_fn(keep)
        move(list(self.average.parameters()), list(self.generator.parameters()), None)

    def _no_sums(self) -> dict[str, Tensor]:
        names = (
            "critic", "critic_loss", "wasserstein", "penalty", "grad_norm", "generator", "generator_loss"
        )  # fmt: skip
        of_classes = ("class_loss", "fake_class_loss") if self.classes else ()
        return {name: torch.zeros((), device=self.device) for name in (*names, *of_classes)}

    def _add(self, counter: str, **values: Tensor) -> None:
        # Sums stay on the device: reading a number there at every step would wait for the device.
        self.sums[counter] += 1
        for name, value in values.items():
            self.sums[name] += value.detach()

    def take_means(self) -> dict[str, float | None]:
        """Means since the last call, over all processes. The critic's gradient norm is the mean over all
        penalty points; a loss without a penalty has it from the last step's points. Networks with classes
        have the cross entropy of real samples in the critic's steps, of fakes in the generator's."""
        summed = self.group.sum(torch.stack(list(self.sums.values()))).tolist()
        sums = dict(zip(self.sums, summed, strict=True))
        self.sums = self._no_sums()
        means: dict[str, float | None] = {
            name: sums[name] / sums["critic"]
            for name in ("critic_loss", "wasserstein", "penalty", "grad_norm")
        }
        if not self.loss.penalised:
            means["penalty"], means["grad_norm"] = None, self._gradient_norm()
        count = sums["generator"]
        means["generator_loss"] = sums["generator_loss"] / count if count else None
        if self.classes:
            means["class_loss"] = sums["class_loss"] / sums["critic"]
            means["fake_class_loss"] = sums["fake_class_loss"] / count if count else None
        return means

    def _gradient_norm(self) -> float | None:
        if self.last is None:
            return None
        real, fake, alpha = self.last[:3]
        weight = alpha.view(-1, *[1] * (real.dim() - 1))
        x = (weight * real + (1 - weight) * fake).requires_grad_()
        (gradient,) = torch.autograd.grad(scores_of(self.critic(x)).sum(), x)
        return gradient.flatten(1).norm(dim=1).mean().item()

    def held_out_means(self) -> dict[str, float]:
        """The critic's loss and Wasserstein estimate on samples that it is not trained on, against the
        generator of this moment; empty where none are held out. Float32, or as the training is."""
        if self.held_out is None:
            return {}
        batches = self.held_out.batches
        count = HELD_OUT_BATCHES
        if batches.samples.size is not None:
            count = min(count, batches.samples.size // batches.batch)
        sums = torch.zeros(3, device=self.device)
        for k in range(count):
            batch = self._batch("held out", self.held_out, k)
            with torch.no_grad():
                found = self.objective(*batch)
            sums += torch.stack([torch.ones_like(found.loss), found.loss, found.wasserstein])
        number, loss, wasserstein = self.group.sum(sums).tolist()
        return {"held_out_critic_loss": loss / number, "held_out_wasserstein": wasserstein / number}

    def finite(self) -> bool:
        """Whether every parameter, and every loss since the last tick, is a finite number; waits for the
        device."""
        values = [*self.critic.parameters(), *self.generator.parameters(), *self.sums.values()]
        return math.isfinite(torch.nn.utils.get_total_norm([v.detach() for v in values], math.inf).item())

    def _parts(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator, "average": self.average}

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {
            "critic_optimizer": self.critic_optimizer,
            "generator_optimizer": self.generator_optimizer,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next iterations depend on, as tensors, numbers and dictionaries of them."""
        return {
            **{name: part.state_dict() for name, part in self._parts().items()},
            **{name: part.state_dict() for name, part in self._optimizers().items()},
            "shape": list(self.shape),
            "size": self.loader.batches.samples.size,
            "iteration": self.iteration,
            "images": self.images,
            "seconds": self.seconds,
            "rollbacks": self.rollbacks,
            "sums": dict(self.sums),
            "torch_random": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over ``state``.

        Raises:
            UserError: it is of other networks, or of another set.
        """
        for name, mine in (("shape", list(self.shape)), ("size", self.loader.batches.samples.size)):
            if state.get(name) != mine:
                raise UserError(
                    f"the checkpoint was trained on samples of {name} {state.get(name)}; the data has {mine}"
                )
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            for name, optimizer in self._optimizers().items():
                load_optimizer(optimizer, state[name])
            self.iteration, self.rollbacks = int(state["iteration"]), int(state["rollbacks"])
            self.images = int(
                state.get("images", self.iteration * self.shown)
            )  # absent: of an earlier version
            self.seconds = float(state["seconds"])
            sums = {name: value.to(self.device) for name, value in state["sums"].items()}
            torch.set_rng_state(state["torch_random"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint is of other networks than these settings ({reason[:200]})"
            ) from None
        self.critic_updates.reset()
        self.loader.cancel()
        self.sums = self._no_sums() | sums

    def close(self) -> None:
        """End the threads of the loader."""
        self.loader.close()


def sample(generator: nn.Module, z: Tensor, device: torch.device, labels: Tensor | None = None) -> Tensor:
    """Samples ``[N, ...]`` float32 on the CPU for ``z [N, latent]``, in full batches of 128.

    A last part is filled up with latents of its own, so that batch norm sees as many samples as elsewhere.
    A generator with classes gets ``labels [N]`` int64, by default 0, 1, ... in turn, as the fill has.
    """
    count = len(z)
    missing = -count % SAMPLE_BATCH
    fill = torch.randn(missing, z.shape[1], generator=stream("fill", count))
    inputs = [torch.cat([z.cpu(), fill])]
    if classes := getattr(generator, "classes", 0):
        turns = torch.arange(count + missing) % classes
        inputs.append(turns if labels is None else torch.cat([labels.cpu(), turns[count:]]))
    with torch.no_grad():
        made = [
            generator(*(part.to(device) for part in parts)).float().cpu()
            for parts in zip(*(whole.split(SAMPLE_BATCH) for whole in inputs), strict=True)
        ]
    return torch.cat(made)[:count]


def _add_shares(sums: dict[str, Tensor], count: int, **values: Tensor | None) -> None:
    """Add a ``count``-th of each value that there is."""
    for name, value in values.items():
        if value is not None:
            share = value.detach() / count
            sums[name] = sums[name] + share if name in sums else share


def _waiting(module: nn.Module, wanted: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients stay in the process until the last part's backward."""
    if wanted and isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return contextlib.nullcontext()
