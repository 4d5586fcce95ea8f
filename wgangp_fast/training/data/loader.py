"""Minibatches on the device that trains, made ahead of the step that needs them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from .dataset import Batches, Stored, moved

Placement = Literal["auto", "device", "ahead", "plain"]

# What a set may take of the GPU memory that is free when the run starts.
SHARE_OF_MEMORY = 0.5
# Batches in flight: one is copied while the next is gathered.
DEPTH = 2


class Loader:
    """Batch ``k`` of :class:`.Batches` on a device.

    Args:
        batches: the sequence; its samples may move.
        device: where the networks are.
        placement: ``"device"``: the whole set lies there; ``"ahead"``: a thread gathers the next batches
            from (mapped) memory, into pinned memory for a GPU, and copies them on a stream of its own;
            ``"plain"``: gathered when asked for; ``"auto"``: on a GPU the first if the set takes at most
            half of the free memory, else the second; on a CPU the third, as gathering costs little there.
    """

    def __init__(self, batches: Batches, device: torch.device, placement: Placement = "auto") -> None:
        self.batches, self.device = batches, device
        self.placement = self._choose(placement)
        if self.placement == "device" and isinstance(batches.samples, Stored):
            batches.samples = batches.samples.to(device)
        self._cuda = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1, "batches") if self.placement == "ahead" else None
        self._side = torch.cuda.Stream(device) if self._thread and self._cuda else None
        self._made: dict[int, Future[tuple[Tensor, torch.cuda.Event | None]]] = {}

    def _choose(self, placement: Placement) -> Placement:
        samples = self.batches.samples
        if placement != "auto":
            return placement
        if self.device.type != "cuda" or not isinstance(samples, Stored):
            return "plain"
        free, _ = torch.cuda.mem_get_info(self.device)
        return "device" if samples.nbytes() <= SHARE_OF_MEMORY * free else "ahead"

    def __call__(self, k: int) -> Tensor:
        """``[batch / processes, *shape]``, float32, on the device."""
        if self._thread is None:
            return self.batches.finish(k, moved(self.batches.raw(k), self.device))
        if k not in self._made:  # the first batch, or a jump: what was made ahead is of no use
            self.cancel()
        for ahead in range(k, k + DEPTH + 1):
            if ahead not in self._made:
                self._made[ahead] = self._thread.submit(self._make, ahead)
        chosen, copied = self._made.pop(k).result()
        if copied is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            chosen.record_stream(stream)
        return self.batches.finish(k, chosen)

    def labels(self, k: int) -> Tensor | None:
        """int64 ``[batch / processes]`` on the device: labels of batch ``k``; None: there are none."""
        found = self.batches.labels(k)
        return None if found is None else moved(found, self.device)

    def _make(self, k: int) -> tuple[Tensor, torch.cuda.Event | None]:
        chosen = self.batches.raw(k)
        if self._side is None:
            return chosen.to(self.device), None
        # torch keeps pinned blocks and gives one back when the copy out of it is done: the double buffer.
        pinned = chosen.pin_memory()
        with torch.cuda.stream(self._side):
            moved = pinned.to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._side)
        return moved, copied

    def cancel(self) -> None:
        """Forget what was made ahead."""
        for made in self._made.values():
            made.cancel()
        self._made.clear()

    def close(self) -> None:
        """End the thread."""
        self.cancel()
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)
