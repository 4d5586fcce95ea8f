"""Calls of ATen's operators, found by running the samples that torch keeps for its own tests.

``torch.testing._internal`` may be absent or need packages that are not here: tests then skip.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from rule_settings import Case, _at, _moves
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from wgangp_fast.rules.registry import bind, call_operator, tensor_slots

#: operators that autograd differentiates wrongly (torch 2.13); rule_settings has a stand-in for it
WRONG_IN_TORCH = {torch.ops.aten.as_strided_scatter.default}

#: calls kept of each operator, real and complex ones apart; more of them take longer and see more
EACH = int(os.environ.get("WGANGP_FAST_SAMPLES", "2"))


def op_db() -> list[Any]:
    """torch's own samples; skips the test where they cannot be imported."""
    module = pytest.importorskip("torch.testing._internal.common_methods_invocations", exc_type=ImportError)
    # The import forbids to set torch.backends' flags for the rest of the process; other tests do.
    setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
    return list(module.op_db)


class _Calls(TorchDispatchMode):
    """Keeps the calls that reach ATen below autograd, which is where the engine's graphs come from."""

    def __init__(self, each: int) -> None:
        super().__init__()
        self.each, self.found = each, defaultdict[Any, dict[Any, Any]](dict)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = (args, kwargs or {})
        tensors = [v for v in tree_leaves(given) if isinstance(v, Tensor)]
        kept = None
        if self._counts(func, tensors):
            of_kind = self.found[func, any(v.is_complex() for v in tensors)]
            key = str([f"{v.dtype}{v.shape}" if isinstance(v, Tensor) else v for v in tree_leaves(given)])
            if len(of_kind) < self.each and key not in of_kind:
                kept = tree_map_only(Tensor, lambda v: v.detach().clone(), given)
        result = func(*args, **given[1])
        results = [v for v in tree_leaves(result) if isinstance(v, Tensor)]
        if kept is not None and any(map(_moves, results)) and all(map(_strided, results)):
            of_kind[key] = kept
        return result

    @staticmethod
    def _counts(func: Any, tensors: list[Tensor]) -> bool:
        drawn = torch.Tag.nondeterministic_seeded in func.tags  # refused where x is concerned
        usable = any(map(_moves, tensors)) and all(map(_strided, tensors))
        return usable and not drawn and not func._schema.is_mutable


def _strided(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided


def calls(infos: Iterable[Any], each: int = EACH) -> dict[Any, list[Case]]:
    """Cases in float64 and complex128 by operator; each differentiable slot moves, alone and all together."""
    recorder = _Calls(each)
    torch.manual_seed(0)
    with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
        for info in infos:
            for dtype in (torch.float64, torch.complex128):
                if not info.supports_autograd or dtype not in info.supported_backward_dtypes("cpu"):
                    continue
                for _, sample in zip(range(2 * each + 2), _samples(info, dtype)):
                    with recorder:
                        info(sample.input, *sample.args, **sample.kwargs)
    cases: dict[Any, list[Case]] = defaultdict(list)
    for (op, _), found in recorder.found.items():
        for args, kwargs in found.values():
            arguments = bind(op, args, kwargs)
            wanted = frozenset(s for s in tensor_slots(arguments) if _differentiable(op, arguments, s))
            active = {frozenset({slot}) for slot in wanted} | {wanted}
            if wanted and op not in WRONG_IN_TORCH:
                cases[op].append(Case(op, arguments, tuple(sorted(active, key=sorted)), wanted))
    return dict(sorted(cases.items(), key=lambda item: str(item[0])))


def _samples(info: Any, dtype: torch.dtype) -> Iterator[Any]:
    try:
        # not sample_inputs(), which seeds every generator before each sample and so takes most of the time
        yield from info.sample_inputs_func(info, "cpu", dtype, True)
    except (ImportError, RuntimeError):  # a sample that needs a library that is not here
        return


def _differentiable(op: Any, arguments: dict[str, Any], slot: str) -> bool:
    """Whether autograd has a derivative of some output by this slot."""
    if not _moves(_at(arguments, slot)):
        return False
    leaf = _at(arguments, slot).detach().requires_grad_()
    name, _, index = slot.partition(".")
    changed = leaf
    if index:
        changed = list(arguments[name])
        changed[int(index)] = leaf
    try:
        results = tree_leaves(call_operator(op, {**arguments, name: changed}))
        moved = [r for r in results if isinstance(r, Tensor) and r.requires_grad]
        if not moved:
            return False
        torch.autograd.grad(moved, leaf, [torch.zeros_like(r) for r in moved], allow_unused=True)
    except RuntimeError:
        return False
    return True
