"""How an operation's results are compared: with float64, and with torch in the same dtype."""

from __future__ import annotations

from typing import Any

import torch
from op_cases import Case
from torch import Tensor

from wgangp_fast.ops.interpolate import uniform
from wgangp_fast.ops.registry import KERNELS


def error(found: Tensor, truth: Tensor) -> float:
    return (found.double().cpu() - truth).abs().max().item() if truth.numel() else 0.0


def outcome(function: Any, case: Case, dtype: torch.dtype, device: str) -> list[Tensor]:
    """The results; for an operation in place, what it wrote."""
    arguments = case.arguments(dtype, device)
    before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
    result = function(*arguments)
    mutates = KERNELS[case.name].mutates
    for old, new in list(zip(before, arguments, strict=True))[1 if mutates else 0 :]:
        assert not isinstance(old, Tensor) or torch.equal(old, new), "an argument was overwritten"
    if mutates:
        assert result is None or result == ()
        return [arguments[0]]
    return [result] if isinstance(result, Tensor) else list(result)


def widened(reference: Any, case: Case, dtype: torch.dtype) -> list[Tensor]:
    """The reference in float64 on the inputs as the narrow dtype has them."""
    arguments = case.arguments(dtype, "cpu")
    if case.name == "interpolate" and arguments[2] is None:  # the draw belongs to the dtype
        n = len(arguments[0])
        alpha = uniform(arguments[3], arguments[4], n, dtype, torch.device("cpu"))
        arguments = (*arguments[:2], alpha, *arguments[3:])
    wide = [a.double() if isinstance(a, Tensor) else a for a in arguments]
    result = reference(*wide)
    if KERNELS[case.name].mutates:
        return [wide[0]]
    return [result] if isinstance(result, Tensor) else list(result)
