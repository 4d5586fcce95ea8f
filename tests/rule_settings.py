"""One settings entry a rule: the arguments on which the tests of the rules walk the table.

``SETTINGS[op]`` is a list of cases in float64. A new rule without an entry here fails the tests. Values
stay clear of kinks only where an operator has a domain (``log``); elsewhere random numbers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.rules.assignment import strided_assignment
from wgangp_fast.rules.registry import bind, tensor_slots

aten = torch.ops.aten
_random = torch.Generator().manual_seed(20)


@dataclass(frozen=True)
class Case:
    """One call of an operator.

    Attributes:
        arguments: by schema name, defaults filled in.
        active: the sets of slots that move with the critic's input, one run each.
        wanted: the slots whose derivatives are compared (what moves, and parameters).
        stand_in: the same function for autograd, where it cannot differentiate the operator itself.
    """

    op: Any
    arguments: dict[str, Any]
    active: tuple[frozenset[str], ...]
    wanted: frozenset[str]
    stand_in: Callable[..., Any] | None = None

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={_show(value)}" for name, value in self.arguments.items())
        return f"{self.op}({shown})"


def _show(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)}/{list(value.stride())}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_show, value)) + "]"
    return repr(value)


def case(
    op: Any,
    *args: Any,
    active: Iterable[Iterable[str]] | None = None,
    fixed: Iterable[str] = (),
    stand_in: Callable[..., Any] | None = None,
    **kwargs: Any,
) -> Case:
    """A case; by default each floating-point slot moves in turn, and all of them together.

    Args:
        active: the sets of moving slots, where the default is not meant.
        fixed: slots that never have a derivative (running statistics).
        stand_in: the same in differentiable torch code, where autograd knows nothing of ``op``.
    """
    arguments = bind(op, args, kwargs)
    wanted = [slot for slot in tensor_slots(arguments) if slot not in fixed and _moves(_at(arguments, slot))]
    if active is None:
        active = [s for k in {1, len(wanted)} for s in combinations(wanted, k)]
    stock = stand_in or STAND_INS.get(op)
    return Case(op, arguments, tuple(map(frozenset, active)), frozenset(wanted), stock)


#: hardsigmoid has no second derivative in autograd (it is zero), and copy no derivative at all
STAND_INS: dict[Any, Callable[..., Any]] = {
    # the library's backward kernel holds 1/6 in float32, whatever the dtype
    aten.hardsigmoid.default: lambda self: (self * float(torch.tensor(1 / 6).float()) + 0.5).clamp(0, 1),
    aten.copy.default: lambda self, src, non_blocking: src.to(self.dtype).expand_as(self),
    # autograd's derivative of this one is wrong (torch 2.13)
    aten.as_strided_scatter.default: lambda self, src, size, stride, storage_offset: strided_assignment(
        self, src, size, stride, storage_offset
    ),
}


def _moves(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _at(arguments: dict[str, Any], slot: str) -> Tensor:
    name, _, index = slot.partition(".")
    return arguments[name][int(index)] if index else arguments[name]


# inputs ------------------------------------------------------------------------------------------


def r(*shape: int) -> Tensor:
    """Standard normal."""
    return torch.randn(shape, generator=_random, dtype=torch.float64)


def pos(*shape: int) -> Tensor:
    """In ``[0.5, 2]``."""
    return torch.rand(shape, generator=_random, dtype=torch.float64) * 1.5 + 0.5


def last(*shape: int) -> Tensor:
    """Standard normal, channels_last."""
    return r(*shape).to(memory_format=torch.channels_last)


def mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_random) > 0.4


def index(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=_random)


def layouts(make: Any = r) -> list[Tensor]:
    """A scalar, nothing, and the memory layouts that an elementwise kernel may meet."""
    return [
        make(3, 4),
        make(),
        make(0, 3),
        make(1, 3, 1),
        make(4, 3).t(),
        make(3, 8)[:, 1::2],
        make(3, 1).expand(3, 4),
        make(2, 3, 4, 2).to(memory_format=torch.channels_last),
    ]


def each(op: Any, *attributes: Any, inputs: Any = None, **kwargs: Any) -> list[Case]:
    """A case for every layout, with the same attributes."""
    return [case(op, h, *attributes, **kwargs) for h in (layouts() if inputs is None else inputs)]


SETTINGS: dict[Any, list[Case]] = {}


def enter(op: Any, *cases: Any) -> None:
    """Add cases (or lists of them) to an operator's entry."""
    entry = SETTINGS.setdefault(op, [])
    for item in cases:
        entry.extend(item if isinstance(item, list) else [item])


# elementwise -------------------------------------------------------------------------------------

for _op in (
    *(aten.relu, aten.abs, aten.tanh, aten.sigmoid, aten.silu, aten.mish, aten.exp, aten.expm1, aten.sin),
    *(aten.cos, aten.erf, aten.atan, aten.hardsigmoid, aten.hardswish, aten.neg),
):
    enter(_op.default, each(_op.default), case(_op.default, r(5, 6) * 4))
for _op in (aten.log, aten.log1p, aten.sqrt, aten.rsqrt, aten.reciprocal):
    enter(_op.default, each(_op.default, inputs=layouts(pos)))
enter(aten.reciprocal.default, case(aten.reciprocal.default, -pos(3, 4)))
for _op, _rows in {
    aten.leaky_relu.default: [(0.2,), (0.0,), (-0.3,)],
    aten.threshold.default: [(0.1, -0.5), (-0.4, 0.0)],
    aten.hardtanh.default: [(), (-0.3, 0.6)],
    aten.clamp.default: [(-0.5, 0.7), (None, 0.2), (-0.1, None)],
    aten.clamp_min.default: [(0,), (-0.3,)],
    aten.clamp_max.default: [(0.3,)],
    aten.softshrink.default: [(0.5,), (0.1,)],
    aten.hardshrink.default: [(0.5,), (0.1,)],
    aten.elu.default: [(), (0.5,), (0.7, 1, 1 / 0.7), (1.673, 1.0507), (2.0, 1, 0.5), (-0.4,), (0.7, -1.2)],
    aten.softplus.default: [(), (3.0, 1.0), (0.5, -1.0)],
    aten.pow.Tensor_Scalar: [(2,), (3,), (1,), (0,), (2.0,)],
    aten.mul.Scalar: [(1.7,), (0,)],
    aten.div.Scalar: [(1.7,)],
    aten.add.Scalar: [(0.5,), (2, 3)],
    aten.sub.Scalar: [(0.5,), (2, 3)],
    aten.rsub.Scalar: [(1.0,), (1.0, 2.5)],
}.items():
    for _row in _rows:
        enter(_op, each(_op, *_row))
for _p in (0.5, -1, -1.5, 2.7):
    enter(aten.pow.Tensor_Scalar, each(aten.pow.Tensor_Scalar, _p, inputs=layouts(pos)))
for _kind in ("none", "tanh"):
    enter(aten.gelu.default, each(aten.gelu.default, approximate=_kind))


def pairs(make: Any = r) -> list[tuple[Tensor, Tensor]]:
    """Two factors that broadcast in every way."""
    return [
        (r(3, 4), make(3, 4)),
        (r(3, 4), make(4)),
        (r(4), make(3, 4)),
        (r(3, 1), make(1, 4)),
        (r(), make(2, 3)),
        (r(2, 3), make()),
        (r(), make()),
        (r(2, 3, 1, 1), make(2, 3, 2, 2)),
        (r(4, 3).t(), make(3, 8)[:, ::2]),
        (last(2, 3, 2, 2), make(3, 1, 1)),
        (r(0, 3), make(3)),
        (r(1, 1, 2), make(3, 1, 1)),
    ]


for _op in (aten.mul.Tensor, aten.maximum.default, aten.minimum.default, aten.add.Tensor, aten.sub.Tensor):
    enter(_op, [case(_op, *_pair) for _pair in pairs()])
_tie = r(3, 4).round()
for _op in (aten.maximum.default, aten.minimum.default):
    enter(_op, case(_op, _tie, r(3, 4).round()), case(_op, _tie, _tie.clone()))
for _op in (aten.add.Tensor, aten.sub.Tensor):
    enter(_op, [case(_op, *_pair, alpha=-1.5) for _pair in pairs()], case(_op, r(3, 4), 2.0))


def mixed() -> list[tuple[Tensor, Tensor]]:
    """Two dtypes, which promote; a scalar tensor does not."""
    single = torch.float32
    return [
        (r(3, 4), r(3, 4).to(single)),
        (r(3, 4).to(single), r(1, 4)),
        (r(3, 4).to(single), r()),
        (r(), r(3, 4).to(single)),
    ]


enter(aten.mul.Tensor, case(aten.mul.Tensor, r(3, 4), 1.5), case(aten.mul.Tensor, r(3, 4), index(5, 4)))
enter(aten.div.Tensor, [case(aten.div.Tensor, *_pair) for _pair in pairs(pos)])
enter(aten.div.Tensor, case(aten.div.Tensor, r(3, 4), 1.5), case(aten.div.Tensor, r(3, 4), -pos(4)))
enter(aten.div.Tensor, case(aten.div.Tensor, index(5, 3, 4), pos(3, 4)))
for _h, _w in (
    (r(2, 3, 4), r(1, 3, 1)),
    (r(2, 3), r(3)),
    (r(4), r(1)),
    (last(2, 3, 4, 4), r(3, 1, 1)),
    (r(0, 2), r(2)),
):
    enter(aten._prelu_kernel.default, case(aten._prelu_kernel.default, _h, _w))
for _condition, _a, _b in (
    (mask(3, 4), r(3, 4), r(3, 4)),
    (mask(3, 1), r(4), r(3, 4)),
    (mask(3, 4), r(), r(1, 4)),
    (mask(2, 3, 4), r(3, 1), r(4)),
    (mask(4), r(3, 1), r(3, 4)),
    (mask(), r(2, 2), r(2)),
):
    enter(aten.where.self, case(aten.where.self, _condition, _a, _b))

# bilinear ----------------------------------------------------------------------------------------


def convolution(h: Tensor, w: Tensor, bias: bool, stride: int = 1, padding: int = 0, dilation: int = 1,
                transposed: bool = False, extra: int = 0, groups: int = 1) -> Case:  # fmt: skip
    rank = h.dim() - 2
    outputs = w.shape[1] * groups if transposed else w.shape[0]
    geometry = ([stride] * rank, [padding] * rank, [dilation] * rank, transposed, [extra] * rank, groups)
    return case(aten.convolution.default, h, w, r(outputs) if bias else None, *geometry)


enter(
    aten.convolution.default,
    convolution(r(2, 3, 8, 8), r(4, 3, 5, 5), True, 2, 2),
    convolution(last(2, 3, 7, 6), r(4, 3, 3, 3), False, 1, 1),
    convolution(last(2, 4, 5, 5), last(6, 4, 3, 3), True),
    convolution(r(1, 4, 9, 9), r(6, 2, 3, 3), True, 1, 2, 2, groups=2),
    convolution(r(2, 4, 6, 6), r(4, 1, 3, 3), True, 2, 1, groups=4),
    convolution(r(2, 3, 6, 6), r(1, 3, 6, 6), True),
    convolution(r(2, 3, 8, 4).transpose(2, 3), r(2, 3, 1, 1), False),
    convolution(r(2, 3, 9), r(4, 3, 4), True, 3, 1),
    convolution(r(2, 2, 4, 5, 4), r(3, 2, 2, 3, 2), True, 2, 1),
    convolution(r(2, 3, 4, 4), r(3, 2, 5, 5), True, 2, 2, transposed=True, extra=1),
    convolution(r(2, 4, 3, 3), r(4, 2, 3, 3), False, 2, 1, 2, transposed=True, groups=2),
    convolution(r(2, 4, 5), r(4, 3, 3), True, 2, transposed=True),
    convolution(r(1, 2, 3, 3, 3), r(2, 2, 2, 2, 2), True, 2, transposed=True),
    convolution(r(0, 3, 6, 6), r(4, 3, 3, 3), True, 1, 1),
)
for _h, _w, _bias in (
    (r(3, 4), r(5, 4), r(5)),
    (r(3, 4), r(5, 4), None),
    (r(4, 3).t(), r(4, 5).t(), r(5)),
    (r(2, 3, 4), r(5, 4), r(5)),
    (r(2, 3, 4), r(1, 4), None),
    (r(4), r(5, 4), r(5)),
    (r(0, 4), r(5, 4), r(5)),
    (r(1, 1), r(1, 1), r(1)),
):
    enter(aten.linear.default, case(aten.linear.default, _h, _w, _bias))
for _op, _rows in {
    aten.mm.default: [(r(3, 4), r(4, 2)), (r(4, 3).t(), r(2, 4).t()), (r(0, 4), r(4, 2)), (r(1, 4), r(4, 1))],
    aten.bmm.default: [
        (r(2, 3, 4), r(2, 4, 5)),
        (r(2, 4, 3).mT, r(5, 2, 4).permute(1, 2, 0)),
        (r(0, 3, 4), r(0, 4, 5)),
    ],
    aten.mv.default: [(r(3, 4), r(4)), (r(4, 3).t(), r(8)[::2])],
    aten.dot.default: [(r(4), r(4)), (r(8)[::2], r(4))],
}.items():
    enter(_op, [case(_op, *_row) for _row in _rows])

for _op in (aten.mul.Tensor, aten.add.Tensor, aten.sub.Tensor, aten.maximum.default, aten.minimum.default):
    enter(_op, [case(_op, *_pair) for _pair in mixed()])
enter(aten.div.Tensor, [case(aten.div.Tensor, _a, _b.abs() + 0.5) for _a, _b in mixed()])
enter(aten.where.self, [case(aten.where.self, mask(3, 4), *_pair) for _pair in mixed()])
enter(
    aten.copy.default,
    case(aten.copy.default, r(3, 4), r(3, 4).to(torch.float32)),
    case(aten.copy.default, r(3, 4).to(torch.float32), r(4)),
)
for _op in (aten.cat.default, aten.stack.default):
    enter(
        _op,
        case(_op, [r(3, 4), r(3, 4).to(torch.float32)], 1),
        case(_op, [r(2, 2).to(torch.float32), r(2, 2)], 0),
    )

# the generic rule: operators without a written one -----------------------------------------------

GENERIC: list[Case] = [
    case(aten.logsumexp.default, r(3, 4), [1]),
    case(aten.prod.dim_int, r(3, 4), 1),
    case(aten.grid_sampler_2d.default, r(2, 3, 4, 4), r(2, 5, 5, 2) * 0.4, 0, 0, False),
    case(aten._fft_r2c.default, r(3, 8), [1], 0, True),
    case(aten._fft_c2c.default, torch.complex(r(3, 4), r(3, 4)), [1], 0, True),
    case(aten._fft_c2r.default, torch.complex(r(3, 5), r(3, 5)), [1], 2, 8),
    case(aten.mul.Tensor, torch.complex(r(3, 4), r(3, 4)), torch.complex(r(4), r(4))),
    case(aten.abs.default, torch.complex(r(3, 4), r(3, 4))),
    case(aten.topk.default, r(3, 6), 2),
    case(aten._trilinear.default, r(2, 3), r(4, 3, 5), r(2, 5), [1, 3], [0], [1, 2], [2, 3]),
    case(aten.amax.default, r(3, 4), [1]),
    case(aten.amin.default, r(3, 4), [0], True),
    case(aten.sort.default, r(3, 4), 1),
    case(aten.max.dim, r(3, 4), 1),
    case(aten.atan2.default, r(3, 4), pos(4)),
    case(aten.pow.Tensor_Tensor, pos(3, 4), r(4)),
    case(aten.addcmul.default, r(3, 4), r(4), r(3, 1), value=0.5),
    case(aten.lerp.Scalar, r(3, 4), r(3, 4), 0.3),
    case(aten.linalg_vector_norm.default, r(3, 4), 3, [1]),
    case(aten.rsub.Tensor, r(3, 4), r(4)),
    case(aten.linalg_inv_ex.default, r(3, 3) + 3 * torch.eye(3)),
    case(aten.scatter_add.default, r(4, 3), 0, index(4, 2, 3), r(2, 3)),
    case(aten.index_put.default, r(5, 2), [torch.tensor([0, 3])], r(2, 2)),
]
