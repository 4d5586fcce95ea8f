"""Sets of real samples, and the endless sequence of minibatches that is drawn from one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from ...errors import UserError
from .rng import stream

Flip = Literal["none", "sample", "batch"]


class Samples(Protocol):
    """A set of real samples.

    Attributes:
        name: for the run folder and for messages.
        shape: of one sample: ``(C, H, W)`` or ``(2,)``.
        size: number of samples, or None if every batch is drawn anew.
        shuffled: whether each pass has an order of its own; False: always the order they are in.
    """

    name: str
    shape: tuple[int, ...]
    size: int | None
    shuffled: bool

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """``[n, *shape]`` for ``rows [n]``, int64: uint8 pixels, or float32 (images in [-1, 1]). Where
        ``size`` is None: n new samples, drawn from ``generator``."""


class Fresh:
    """Points that are drawn anew for each batch: nothing ever repeats."""

    size: int | None = None
    shuffled = False

    def __init__(self, name: str, draw: Callable[[int, torch.Generator], Tensor]) -> None:
        self.name, self._draw = name, draw
        self.shape: tuple[int, ...] = (2,)

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self._draw(len(rows), generator)


class Stored:
    """A fixed array, in memory, in a file that is mapped, or on a GPU.

    Args:
        samples: ``[N, *shape]``, uint8 or float32.
        rows: int64 ``[M]``, which of them belong to the set; None: all.
        labels: int64 ``[N]``, one for each of ``samples``, from 0 on; they stay on the CPU. None: unknown.

    Raises:
        ValueError: labels of another type or number.
        UserError: negative ones.
    """

    def __init__(
        self,
        name: str,
        samples: Tensor,
        *,
        rows: Tensor | None = None,
        shuffled: bool = True,
        labels: Tensor | None = None,
    ) -> None:
        if labels is not None:
            if labels.dtype != torch.int64 or labels.shape != samples.shape[:1]:
                found = f"{labels.dtype} {list(labels.shape)}"
                raise ValueError(f"labels of {name} must be int64 [{len(samples)}]; got {found}")
            if bool((labels < 0).any()):
                raise UserError(f"labels of {name} must be at least 0; the smallest is {labels.min()}")
        self.name, self.samples, self._rows, self.shuffled = name, samples, rows, shuffled
        self.all_labels = labels
        self.shape: tuple[int, ...] = tuple(samples.shape[1:])
        self.size: int | None = len(samples) if rows is None else len(rows)

    def take(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        if self._rows is not None:
            rows = self._rows[rows]
        return self.samples[moved(rows, self.samples.device)]

    def labels(self, rows: Tensor) -> Tensor | None:
        """int64 ``[n]`` for ``rows [n]``; None where the set has none."""
        if self.all_labels is None:
            return None
        return self.all_labels[rows if self._rows is None else self._rows[rows]]

    @property
    def classes(self) -> int:
        """One more than the largest label of the whole array, held out or not; 0 without labels."""
        labels = self.all_labels
        return 0 if labels is None or not len(labels) else int(labels.max()) + 1

    def to(self, device: torch.device) -> Stored:
        """The same set, its samples in the memory of ``device``."""
        return self._of(self.samples.to(device), self._rows)

    def subset(self, rows: Tensor) -> Stored:
        """What is in ``rows`` (int64 ``[n]``, of this set) alone, with its labels."""
        return self._of(self.samples, rows if self._rows is None else self._rows[rows])

    def _of(self, samples: Tensor, rows: Tensor | None) -> Stored:
        return Stored(self.name, samples, rows=rows, shuffled=self.shuffled, labels=self.all_labels)

    def nbytes(self) -> int:
        return self.samples.nbytes


def hold_out(samples: Samples, count: int) -> tuple[Samples, Samples | None]:
    """Split ``samples`` into what is trained on, and ``count`` that are kept for comparison.

    Which ones is the same for every seed, so that runs can be compared. Points that are drawn anew serve
    for both. With ``count`` 0 there is no second set.

    Raises:
        UserError: there are not more than ``count`` samples.
    """
    if not count:
        return samples, None
    if not isinstance(samples, Stored):
        return samples, samples
    total = samples.size or 0
    if count >= total:
        raise UserError(f"holdout {count} leaves nothing to train on: {samples.name} has {total} samples")
    kept = torch.zeros(total, dtype=torch.bool)
    kept[torch.randperm(total, generator=stream("held out"))[:count]] = True
    train, held = (samples.subset(mask.nonzero().squeeze(1)) for mask in (~kept, kept))
    return train, held


class Batches:
    """The endless sequence of minibatches of a set: batch ``k`` depends on the seed and on ``k`` alone.

    A pass shows each sample once, in an order of its own; the remainder that does not fill a batch is left
    out. With several processes, each has its share of every batch: the same samples in the same order as
    one process would have.

    Args:
        samples: the set.
        batch: samples in a batch, of all processes together.
        seed: of the order, the flips and the noise.
        share: ``(rank, processes)``.
        flip: mirror images left to right, with probability 1/2: each ``sample`` by itself, or a ``batch``
            as a whole (Gulrajani et al., LSUN 128).
        dequantize: uint8 ``x`` becomes ``2 (x / 256) - 1 + U(0, 1/128)`` instead of ``2 (x / 255) - 1``
            (their CIFAR ResNet).
        low: where black is: -1, or 0 for networks whose images are in [0, 1].

    Raises:
        UserError: a batch larger than the set, or one that the processes cannot share evenly.
    """

    def __init__(
        self,
        samples: Samples,
        batch: int,
        seed: int,
        *,
        share: tuple[int, int] = (0, 1),
        flip: Flip = "none",
        dequantize: bool = False,
        low: float = -1.0,
    ) -> None:
        if samples.size is not None and batch > samples.size:
            raise UserError(
                f"batch {batch} is larger than the data: {samples.name} has {samples.size} samples"
            )
        rank, processes = share
        if batch % processes:
            raise UserError(f"batch {batch} cannot be shared by {processes} processes: it must be a multiple")
        self.samples, self.batch, self.seed = samples, batch, seed
        self.flip, self.dequantize, self.low = flip, dequantize, low
        self._mine = slice(rank * batch // processes, (rank + 1) * batch // processes)
        self._kept = (-1, torch.empty(0, dtype=torch.int64))  # a pass and its order

    def rows(self, k: int) -> Tensor:
        """int64 ``[batch / processes]``: this process's rows of batch ``k``."""
        if self.samples.size is None:
            return torch.arange(self.batch)  # what is drawn anew has no rows: all of them are drawn
        number, place = divmod(k, self.samples.size // self.batch)
        # One assignment, and a name of its own: a thread asks for later batches meanwhile.
        kept = self._kept
        if kept[0] != number:
            kept = self._kept = (number, self._new_order(number))
        return kept[1][place * self.batch : (place + 1) * self.batch][self._mine]

    def _new_order(self, number: int) -> Tensor:
        assert self.samples.size is not None
        if self.samples.shuffled:
            return torch.randperm(self.samples.size, generator=stream(self.seed, "order", number))
        return torch.arange(self.samples.size)

    def raw(self, k: int) -> Tensor:
        """Batch ``k`` as it is stored, this process's share."""
        chosen = self.samples.take(self.rows(k), stream(self.seed, "draw", k))
        return chosen[self._mine] if self.samples.size is None else chosen

    def labels(self, k: int) -> Tensor | None:
        """int64 ``[batch / processes]`` on the CPU: the labels of batch ``k``, in the order of :meth:`raw`;
        None where the samples have none."""
        return self.samples.labels(self.rows(k)) if isinstance(self.samples, Stored) else None

    def finish(self, k: int, chosen: Tensor) -> Tensor:
        """What :meth:`raw` gave, on any device, as the networks want it: float32, flipped, with noise."""
        noisy = self.dequantize and not chosen.is_floating_point()
        x = to_unit(chosen, 256 if noisy else 255, self.low)
        if noisy:
            noise = torch.rand(self.batch, *self.samples.shape, generator=stream(self.seed, "noise", k))
            x += moved(noise[self._mine], x.device).mul_((1 - self.low) / 256)
        if self.flip == "none" or x.dim() != 4:
            return x
        coins = torch.rand(self.batch if self.flip == "sample" else 1, generator=stream(self.seed, "flip", k))
        turned = moved((coins < 0.5)[self._mine if self.flip == "sample" else slice(None)], x.device)
        return torch.where(turned.view(-1, 1, 1, 1), x.flip(3), x)

    def __call__(self, k: int) -> Tensor:
        """Batch ``k``: ``[batch / processes, *shape]``, float32, where the samples are."""
        return self.finish(k, self.raw(k))


def moved(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; a GPU is not waited for, which copies from ordinary memory would do."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def to_unit(samples: Tensor, levels: int = 255, low: float = -1.0) -> Tensor:
    """uint8 ``0..levels`` to float32 from ``low`` to 1; floats, which are in [-1, 1], likewise."""
    if samples.is_floating_point():
        return samples if low == -1.0 or samples.dim() != 4 else (samples + 1) * ((1 - low) / 2) + low
    return samples.to(torch.float32).mul_((1 - low) / levels).add_(low)
