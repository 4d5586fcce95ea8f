"""What people wrap a critic in: torch.compile, and DistributedDataParallel (DDP)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

Finish = Callable[[Tensor], Tensor]


def unwrap(critic: Any) -> Any:
    """The callable behind ``torch.compile`` and DDP, both of which refuse to be captured."""
    while True:
        if isinstance(critic, torch.nn.Module):
            modules = critic._modules
            inner = modules["_orig_mod"] if "_orig_mod" in modules else None  # noqa: SIM401 - scripted: no get
            if inner is None and isinstance(critic, DistributedDataParallel):
                inner = critic.module
        else:
            inner = getattr(critic, "_torchdynamo_orig_callable", None)
        if inner is None:
            return critic
        critic = inner


def enter(critic: Any) -> tuple[Any, Finish]:
    """The unwrapped critic, and what is to be done with its penalty.

    For DDP: what its ``forward`` does around the module, so that the reduction of gradients is prepared
    also where the penalty is the only use of the critic.
    """
    if not callable(critic):
        raise TypeError(f"critic must be callable, got {type(critic).__name__}")
    if not isinstance(critic, DistributedDataParallel):
        return unwrap(critic), _same
    critic._pre_forward()
    parameters = _trained(critic)
    return unwrap(critic), lambda penalty: critic._post_forward(_Reach.apply(penalty, *parameters))


def _same(penalty: Tensor) -> Tensor:
    return penalty


def _trained(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


class _Reach(Function):
    """Identity whose graph reaches every parameter: DDP waits for all of them, and the penalty does not
    depend on the last bias."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, *parameters: Tensor) -> Tensor:
        ctx.count = len(parameters)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        return gradients[0], *[None] * ctx.count


def _is_sharded(module: torch.nn.Module) -> bool:
    """What ``torch.distributed.fsdp.fully_shard`` made; by name, so as not to import it."""
    return any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)


@contextlib.contextmanager
def reaching() -> Iterator[Finish]:
    """Around the stock path: gives the function that makes its result reach every parameter of each DDP
    module that ran, however deep in a closure. A sharded module is refused as it runs."""
    met: list[DistributedDataParallel] = []

    def note(module: torch.nn.Module, _: Any) -> None:
        if isinstance(module, DistributedDataParallel):
            met.append(module)
        elif _is_sharded(module):
            raise RuntimeError(
                f"fully_shard was applied to the critic ({type(module).__name__}) or to a part of it: its "
                f"parameters are gathered for one forward and one backward pass, and a gradient penalty "
                f"needs two of each. Shard the whole loss: fully_shard(wgangp_fast.CriticLoss(critic))"
            )

    def reach(result: Tensor) -> Tensor:
        parameters = [parameter for module in met for parameter in _trained(module)]
        return _Reach.apply(result, *parameters) if parameters else result

    handle = register_module_forward_pre_hook(note)
    try:
        yield reach
    finally:
        handle.remove()
