"""What people wrap a critic in, and how each wrapper is taken off so that the critic can be captured.

| wrapper | what happens |
|---|---|
| ``torch.compile`` | taken off: the engine compiles by itself |
| DistributedDataParallel | taken off; it prepares its reduction of gradients around the penalty instead |
| ``AveragedModel``, DataParallel without a device | taken off: they only call their module |
| DataParallel on one device | taken off; the inputs go to that device |
| Lightning Fabric's module | taken off; its casts and its autocast stay around the critic |
| ``functools.partial`` | stays around the critic that is found inside |
| accelerate without processes, parametrised modules | nothing to take off: captured as they are |
| DataParallel on several devices, DDP with ``mixed_precision`` or hooks | the stock path, with a remedy |
| ``fully_shard``, FullyShardedDataParallel | an error with a remedy: a stock penalty cannot run there |

A wrapper with hooks of its own is left on, so that they run. Wrappers of other packages are known by name:
nothing is imported for them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from .engine import torch_internals
from .errors import Unavailable

#: what a caller hands over, and what picks the score out of what it returns
Critic = Callable[[Tensor], Any]
Output = Callable[[Any], Tensor]
Finish = Callable[[Tensor], Tensor]


def unwrap(critic: Critic) -> Critic:
    """The callable inside all wrappers, with what they do to inputs and outputs; see the table above."""
    return _strip(critic, [])


def enter(critic: Critic) -> tuple[Critic, Finish]:
    """The unwrapped critic, and a function that the caller applies to its penalty.

    For each DDP wrapper that was taken off, both do what DDP's ``forward`` does around its module: gradients
    are then reduced between processes even if the penalty is the only use of the critic.
    """
    if not callable(critic):
        raise TypeError(f"critic must be callable, got {type(critic).__name__}")
    met: list[DistributedDataParallel] = []
    inner = _strip(critic, met)
    if not met:
        return inner, _same
    around = [torch_internals.around_ddp(ddp) for ddp in met]
    for before, _ in around:
        before()

    def finish(penalty: Tensor) -> Tensor:
        for ddp, (_, after) in zip(reversed(met), reversed(around)):
            penalty = after(_Reach.apply(penalty, *_trained(ddp)))
        return penalty

    return inner, finish


def left_on(critic: Critic) -> tuple[str, str] | None:
    """If :func:`unwrap` returned a wrapper that it could not take off: why it must not be captured, and the
    remedy. None for a critic.

    Raises:
        Unavailable: a wrapper stays on because this torch's DistributedDataParallel is not known.
    """
    if not isinstance(critic, nn.Module):
        return None
    if torch_internals.inside_compiled(critic) is not None:
        return (
            "what torch.compile returned has hooks of its own, which a capture would lose",
            "register them on the module before it is compiled",
        )
    if isinstance(critic, DistributedDataParallel):
        torch_internals.around_ddp(critic)
        return (
            "DistributedDataParallel with hooks of its own or with mixed_precision= does more than call its "
            "module",
            "register the hooks on the module inside and use torch.autocast, or wrap the whole loss: "
            "DistributedDataParallel(wgangp_fast.CriticLoss(critic))",
        )
    if isinstance(critic, DataParallel) and len(critic.device_ids) > 1:
        return (
            f"DataParallel copies the critic to {len(critic.device_ids)} devices at each call",
            "use DistributedDataParallel, or pass critic.module to compute the penalty on its own device",
        )
    return None


def _same(penalty: Tensor) -> Tensor:
    return penalty


# taking off -------------------------------------------------------------------------------------


def _strip(critic: Critic, met: list[DistributedDataParallel]) -> Critic:
    """The callable inside all wrappers; each DDP taken off goes to ``met``, the outermost first."""
    if isinstance(critic, functools.partial):
        inner = _strip(critic.func, met)
        return critic if inner is critic.func else functools.partial(inner, *critic.args, **critic.keywords)
    if not isinstance(critic, nn.Module):
        inner = torch_internals.inside_compiled(critic)
        return critic if inner is None else _strip(inner, met)
    module = _inside(critic)
    if module is None or torch_internals.has_hooks(critic):
        return critic
    if isinstance(critic, DistributedDataParallel):
        met.append(critic)
    bare = _strip(module, met)
    if isinstance(critic, DataParallel) and critic.device_ids:
        return _on_device(bare, critic.src_device_obj)
    precision = _precision(critic)
    return bare if precision is None else _with_precision(bare, precision)


def _inside(wrapper: nn.Module) -> nn.Module | None:
    """The module that a known wrapper calls once, with its own inputs; None for any other module."""
    compiled = torch_internals.inside_compiled(wrapper)
    if compiled is not None:
        return compiled
    if isinstance(wrapper, DistributedDataParallel):
        known = getattr(wrapper, "mixed_precision", None) is None and _knows_around(wrapper)
        return wrapper.module if known else None
    if isinstance(wrapper, DataParallel):
        return wrapper.module if len(wrapper.device_ids) < 2 else None
    if isinstance(wrapper, AveragedModel):
        return wrapper.module
    return dict(wrapper.named_children()).get("_forward_module") if _is(wrapper, "_FabricModule") else None


def _knows_around(ddp: DistributedDataParallel) -> bool:
    try:
        torch_internals.around_ddp(ddp)
    except Unavailable:
        return False
    return True


def _is(module: object, *names: str) -> bool:
    """Whether the module's class or a base of it has one of these names; nothing is imported for that."""
    return any(kind.__name__ in names for kind in type(module).__mro__)


def _on_device(critic: Callable[..., Any], device: torch.device) -> Critic:
    """``critic``, after its inputs were moved to ``device``, as DataParallel does."""

    def moved(*args: Any, **kwargs: Any) -> Any:
        return critic(*(_to(a, device) for a in args), **{name: _to(a, device) for name, a in kwargs.items()})

    return moved


def _to(value: object, device: torch.device) -> object:
    return value.to(device) if isinstance(value, Tensor) else value


def _precision(module: Any) -> Any:
    """Fabric's plugin that casts inputs and outputs and opens autocast; None for any other module, and for
    the plugin of plain float32, which does nothing."""
    if not _is(module, "_FabricModule"):
        return None
    precision = module._strategy.precision
    probe = _PROBE
    idle = (
        precision.convert_input(probe) is probe
        and precision.convert_output(probe) is probe
        and isinstance(precision.forward_context(), contextlib.nullcontext)
    )
    return None if idle else precision


_PROBE = torch.empty(0, dtype=torch.float32)


def _with_precision(critic: Callable[..., Any], precision: Any) -> Critic:
    """What ``_FabricModule.forward`` computes. Its hook on the scores is left out: it demands
    ``fabric.backward`` of every derivative of theirs, the input gradient's too."""

    def cast(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = precision.convert_input((args, kwargs))
        with precision.forward_context():
            result = critic(*args, **kwargs)
        return precision.convert_output(result)

    return cast


# DDP, and what is sharded -----------------------------------------------------------------------


def _trained(module: nn.Module) -> list[nn.Parameter]:
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


@contextlib.contextmanager
def reaching() -> Iterator[Finish]:
    """Around the stock path. Gives a function that connects its result with every parameter of each DDP
    module that ran, even one deep in a closure. A sharded module raises when it runs."""
    met: list[DistributedDataParallel] = []

    def note(module: nn.Module, _: Any) -> None:
        if isinstance(module, DistributedDataParallel):
            met.append(module)
        elif _is(module, "FSDPModule", "FullyShardedDataParallel"):
            raise RuntimeError(
                f"the critic, or a part of it, is sharded ({type(module).__name__}): its "
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
