"""What Lightning Fabric's ``setup`` puts around a module, as far as a critic sees it.

Written after lightning-fabric 2.6: a wrapper that casts what goes in and comes out, opens the precision
plugin's context, and hooks the scores so that only ``fabric.backward`` may differentiate them.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn


class Precision:
    """``"32-true"``: does nothing; the others cast, and ``"bf16-mixed"`` opens autocast as well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = {
            "bf16-mixed": torch.bfloat16,
            "bf16-true": torch.bfloat16,
            "64-true": torch.float64,
        }.get(name)

    def forward_context(self) -> Any:
        if self.name == "bf16-mixed":
            return torch.autocast("cpu", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module.to(self.dtype) if self.name.endswith("true") and self.dtype else module

    def convert_input(self, data: Any) -> Any:
        return data if self.dtype is None else _cast(data, self.dtype)

    def convert_output(self, data: Any) -> Any:
        return data if self.dtype is None else _cast(data, torch.get_default_dtype())


def _cast(data: Any, dtype: torch.dtype) -> Any:
    if isinstance(data, dict):
        return {key: _cast(value, dtype) for key, value in data.items()}
    if isinstance(data, (tuple, list)):
        return type(data)(_cast(value, dtype) for value in data)
    return data.to(dtype) if isinstance(data, Tensor) and data.is_floating_point() else data


class Strategy:
    def __init__(self, precision: Precision) -> None:
        self.precision = precision


class _FabricModule(nn.Module):
    def __init__(self, module: nn.Module, strategy: Strategy) -> None:
        super().__init__()
        self._forward_module = self._original_module = module
        self._strategy = strategy
        self.demanding = True  # whether a backward pass that is not Fabric's own raises, as under bf16-mixed

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        precision = self._strategy.precision
        args, kwargs = precision.convert_input((args, kwargs))
        with precision.forward_context():
            output = self._forward_module(*args, **kwargs)
        output = precision.convert_output(output)
        if self.demanding and output.requires_grad:
            output.register_hook(_not_ours)
        return output


def _not_ours(gradient: Tensor) -> None:
    raise RuntimeError("you must call fabric.backward(loss)")


def setup(module: nn.Module, precision: str = "32-true") -> nn.Module:
    """``module`` as ``Fabric(precision=...).setup`` returns it."""
    plugin = Precision(precision)
    return _FabricModule(plugin.convert_module(module), Strategy(plugin))
