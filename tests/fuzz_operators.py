"""Every operator that torch's own tests know to be differentiable twice, as a step of a random critic."""

from __future__ import annotations

import functools
import importlib.util
import random
import sys
import types
import unittest
from typing import Any

import torch
from fuzz_program import Block
from torch import Tensor, nn


@functools.cache
def known() -> dict[str, Any]:
    """Operators by name, from torch's table of them."""
    if importlib.util.find_spec("expecttest") is None:  # the table's module takes one name out of it
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase, stand_in.assert_expected_inline = unittest.TestCase, None
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.common_methods_invocations import op_db

    drawn = (
        "rand",
        "bernoulli",
        "multinomial",
        "normal",
        "dropout",
        "rrelu",
        "empty",
        "multi_head",
        "exponential",
    )
    # What stock code gives is no derivative: as_strided_scatter's is wrong where outputs share memory, and
    # linear_cross_entropy in chunks has no second one, as its documentation says. The check of a first call
    # finds both.
    wrong = ("as_strided_scatter", "linear_cross_entropy/chunked")
    slow = ("ctc", "pool3d", "conv3d", "conv_transpose3d", "lobpcg", "segment", "grid_sampler", "sparse")
    return {
        f"{op.name}{'/' + op.variant_test_name if op.variant_test_name else ''}": op
        for op in op_db
        if op.supports_autograd
        and op.supports_gradgrad
        and torch.float64 in op.dtypes
        and not any(word in f"{op.name}/{op.variant_test_name}" for word in (*drawn, *slow, *wrong))
    }


def _to_domain(value: Tensor, domain: tuple[float | None, float | None]) -> Tensor:
    """Numbers that the operator takes, smoothly from any."""
    low, high = domain
    if low is not None and high is not None:
        return low + (high - low) * (0.05 + 0.9 * torch.sigmoid(value))
    if low is not None:
        return low + 0.1 + torch.nn.functional.softplus(value)
    return value if high is None else high - 0.1 - torch.nn.functional.softplus(value)


class Elementwise(nn.Module):
    """A unary or binary operator or a reduction on a whole batch; a parameter where it takes two tensors."""

    def __init__(self, name: str, features: int) -> None:
        super().__init__()
        op = known()[name]
        kind = type(op).__name__
        self.call, self.reduces, self.binary = op.op, kind == "ReductionOpInfo", kind == "BinaryUfuncInfo"
        self.named = op.sample_kwargs("cpu", torch.float64, None)[0] if kind == "UnaryUfuncInfo" else {}
        both = (op.lhs_make_tensor_kwargs, op.rhs_make_tensor_kwargs) if self.binary else ({}, {})
        domain = getattr(op, "domain", None) or (None, None)
        self.domains = [(k.get("low", domain[0]), k.get("high", domain[1])) for k in both]
        self.gain = 0.0 if kind == "UnaryUfuncInfo" else 0.1
        if self.binary:
            self.other = nn.Parameter(torch.randn(features))

    def forward(self, h: Tensor) -> Tensor:
        mapped = _to_domain(h, self.domains[0])
        if self.reduces:
            result = self.call(mapped, dim=-1, keepdim=True)
        elif self.binary:
            result = self.call(mapped, _to_domain(self.other.expand_as(h), self.domains[1]))
        else:
            result = self.call(mapped, **self.named)
        return h * self.gain + torch.tanh(_real(result)[0].to(h.dtype))


def _real(value: Any) -> list[Tensor]:
    """The floating-point tensors in an operator's result; complex ones by their size."""
    if isinstance(value, (tuple, list)):
        return [t for member in value for t in _real(member)]
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return []
    if value.is_complex():
        return [value.abs()]
    return [value] if value.is_floating_point() else []


class Sample(nn.Module):
    """An operator on one of torch's own examples: its tensors are parameters, moved a little by the batch."""

    def __init__(self, name: str, which: int, features: int) -> None:
        super().__init__()
        op = known()[name]
        state = random.getstate()
        samples = [s for s, _ in zip(op.sample_inputs("cpu", torch.float64, requires_grad=False), range(12))]
        random.setstate(state)
        sample = samples[which % len(samples)]
        self.call: Any = functools.partial(op.gradcheck_wrapper, op.op)
        self.constants = list(sample.args)
        self.named = dict(sample.kwargs)
        first = [sample.input] if isinstance(sample.input, Tensor) else list(sample.input)
        self.single = isinstance(sample.input, Tensor)
        self.first = nn.ParameterList([nn.Parameter(t.detach().clone()) for t in first])
        self.places = [
            i for i, a in enumerate(self.constants) if isinstance(a, Tensor) and a.is_floating_point()
        ]
        self.others = nn.ParameterList(
            [nn.Parameter(self.constants[i].detach().clone()) for i in self.places]
        )
        self.lead = nn.ParameterList([nn.Parameter(0.1 * torch.randn(features, t.numel())) for t in first])

    def forward(self, h: Tensor) -> Tensor:
        row = torch.tanh(h.reshape(h.shape[0], -1)).mean(0)
        moved = [t + (0.1 * row @ lead).view(t.shape) for t, lead in zip(self.first, self.lead)]
        arguments = list(self.constants)
        for i, p in zip(self.places, self.others):
            arguments[i] = p
        result = self.call(moved[0] if self.single else moved, *arguments, **self.named)
        total = sum(torch.tanh(t).sum() for t in _real(result))
        return h * (1 + total)


def block(rng: random.Random) -> Block:
    """A step with a random operator."""
    name = rng.choice(sorted(known()))
    kind = type(known()[name]).__name__
    if kind in ("UnaryUfuncInfo", "BinaryUfuncInfo", "ReductionOpInfo"):
        return Block("[o] = self.[x]([h])", init=(f'self.[x] = Elementwise("{name}", [d])',))
    which = rng.randrange(12)
    return Block("[o] = self.[x]([h])", init=(f'self.[x] = Sample("{name}", {which}, math.prod([shape]))',))
