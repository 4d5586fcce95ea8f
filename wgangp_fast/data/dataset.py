"""Sources of minibatches whose position can be saved and restored exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .extras import UserError


class Dataset(Protocol):
    """An endless source of real samples.

    Attributes:
        name: for the run folder and for messages.
        shape: of one sample: ``(C, H, W)`` or ``(2,)``.
        size: number of samples, or None if every batch is drawn anew.
    """

    name: str
    shape: tuple[int, ...]
    size: int | None

    def batch(self, count: int) -> Tensor:
        """The next ``[count, *shape]``, float32, images in [-1, 1]."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Fresh:
    """Batches drawn anew from a distribution: nothing ever repeats, and only the generator has a state."""

    size: int | None = None

    def __init__(
        self,
        name: str,
        draw: Callable[[int, torch.Generator], Tensor],
        generator: torch.Generator,
    ) -> None:
        self.name = name
        self.shape: tuple[int, ...] = (2,)
        self._draw, self._generator = draw, generator

    def batch(self, count: int) -> Tensor:
        return self._draw(count, self._generator)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


class Stored:
    """Passes over a fixed array; the remainder of a pass that does not fill a batch is dropped.

    Args:
        samples: ``[N, *shape]``; uint8 becomes float32 in [-1, 1] batch by batch, float32 stays.
        generator: of the order.
        reshuffle: a new order for every pass; False: the same order in all of them.
    """

    def __init__(
        self, name: str, samples: Tensor, generator: torch.Generator, *, reshuffle: bool = True
    ) -> None:
        self.name, self.shape = name, tuple(samples.shape[1:])
        self.size: int | None = len(samples)
        self._samples, self._generator, self._reshuffle = samples, generator, reshuffle
        self._position = 0
        self._order = self._new_order()

    def _new_order(self) -> Tensor:
        if self._reshuffle:
            return torch.randperm(len(self._samples), generator=self._generator)
        return torch.arange(len(self._samples))

    def batch(self, count: int) -> Tensor:
        if count > len(self._samples):
            raise UserError(f"batch {count} is larger than the data: {self.name} has {len(self._samples)}")
        if self._position + count > len(self._samples):
            self._order, self._position = self._new_order(), 0
        chosen = self._order[self._position : self._position + count]
        self._position += count
        return to_unit(self._samples[chosen])

    def state_dict(self) -> dict[str, Any]:
        return {
            "generator": self._generator.get_state(),
            "order": self._order,
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["order"]) != len(self._samples):
            raise UserError(
                f"the checkpoint was trained on {len(state['order'])} samples; {self.name} has {self.size}"
            )
        self._generator.set_state(state["generator"])
        self._order, self._position = state["order"], state["position"]


def to_unit(samples: Tensor) -> Tensor:
    """uint8 ``0..255`` to float32 ``2 (x / 255) - 1``; float32 unchanged."""
    return samples if samples.is_floating_point() else samples.to(torch.float32).mul_(2 / 255).sub_(1)
