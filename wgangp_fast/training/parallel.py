"""The processes of a run, as torchrun starts them; one process is the same without a group.

Every process holds the whole state and draws the whole run's random numbers, of which it uses its share. So
rank 0's checkpoint is everybody's, and a run may go on with another number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wgangp_fast.errors import UserError

# A process that died closes its connections and is noticed at once; one that hangs, after this.
TIMEOUT = timedelta(seconds=60)
# Rank 0 prepares data while the others wait, which may take long.
PATIENCE = timedelta(days=1)

T = TypeVar("T")

_joined = False


def joined() -> bool:
    """Whether this process ever was one of several."""
    return _joined


class ProcessLost(Exception):
    """Another process of the run died or hangs; this one cannot go on."""


@dataclass(frozen=True)
class Group:
    """This process's place among the run's processes.

    Attributes:
        rank, world: its number, and how many there are.
        device: that it computes on.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    patient: Any = None  # a group for waits without a limit

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        return self.rank, self.world

    def mine(self, whole: Tensor) -> Tensor:
        """This process's rows of ``whole [N, ...]``."""
        count = len(whole) // self.world
        return whole[self.rank * count : (self.rank + 1) * count]

    def wrap(self, module: nn.Module) -> nn.Module:
        """``module``, its gradients averaged over the processes."""
        if self.world == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def largest(self, number: int) -> int:
        """The largest ``number`` of any process: how one tells the others to stop."""
        if self.world == 1:
            return number
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX)  # a CPU tensor: gloo, no wait for a GPU
        return int(value)

    def tell(self, value: T) -> T:
        """Rank 0's ``value``, in every process; waits for as long as rank 0 takes."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.patient)
        return box[0]

    def tell_of(self, work: Callable[[], T]) -> T:
        """What ``work()`` gives on rank 0, in every process.

        Raises:
            UserError: it did so on rank 0; then in every process, so that none waits for the others.
        """
        value, error = None, None
        if self.main:
            try:
                value = work()
            except UserError as found:
                error = found
        value, error = self.tell((value, error))
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # None only if that is what work() gave


def place() -> tuple[int, int]:
    """Rank and number of processes, from torchrun's environment; ``(0, 1)`` without it.

    Raises:
        UserError: the environment is incomplete.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        return 0, 1
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {world} but {', '.join(missing)} is not set: start the run with torchrun, or "
            "unset WORLD_SIZE"
        )
    return _number("RANK", 0), world


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError(f"the environment's {name} must be a number; got {text!r}") from None


@contextmanager
def launched(device: str) -> Iterator[Group]:
    """The group of this run, for as long as the block lasts.

    Args:
        device: as for :func:`torch.device`; ``"auto"``: a GPU if there is one. Several processes take the
            GPU of their ``LOCAL_RANK``.

    Raises:
        UserError: a device that cannot be used, or processes that do not find each other.
        ProcessLost: another process died inside the block.
    """
    rank, world = place()
    if world == 1:
        yield Group(usable(device))
        return
    local = _number("LOCAL_RANK", rank)
    chosen = usable(f"cuda:{local}" if _wants_cuda(device) else device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store=_store(), rank=rank, world_size=world, timeout=TIMEOUT)
    except Exception as error:  # a port in use, an unknown host, a rank that never came: all of them here
        raise UserError(
            f"cannot join the {world - 1} other processes at {os.environ['MASTER_ADDR']}:"
            f"{os.environ['MASTER_PORT']} ({_first_line(error)})"
        ) from None
    global _joined
    _joined = True
    group = Group(chosen, rank, world, dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        yield group
    except RuntimeError as error:
        if not _lost(error):
            raise
        raise ProcessLost(f"another process of the run ended or hangs ({_first_line(error)})") from None
    # Only a group that is whole can be taken down; after an error the process ends anyway.
    dist.destroy_process_group()


def _store() -> dist.Store:
    """Where the processes find each other's addresses. torchrun with a fixed port keeps one store over all
    restarts, in which those of the dead would be found."""
    store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _wants_cuda(device: str) -> bool:
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def _lost(error: RuntimeError) -> bool:
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "NCCL", "Connection"))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def usable(name: str) -> torch.device:
    """The device called ``name``; ``"auto"``: a GPU if there is one.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {name!r} cannot be used ({_first_line(error)})") from None
    return device
