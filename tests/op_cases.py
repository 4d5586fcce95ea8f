"""One table of cases for every operation and every backend: awkward shapes, layouts and parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wgangp_fast.ops.activations import encode

#: name and parameters of each activation; two where a parameter changes the branch
ACTIVATIONS = (
    *(("identity", ()), ("relu", ()), ("leaky_relu", (0.2,)), ("leaky_relu", (0.0,)), ("tanh", ())),
    *(("sigmoid", ()), ("elu", (1.0, 1.0, 1.0)), ("elu", (0.7, 1.3, 0.9)), ("selu", ()), ("silu", ())),
    *(
        ("gelu", ()),
        ("gelu_tanh", ()),
        ("softplus", (1.0, 20.0)),
        ("softplus", (3.0, 2.0)),
        ("smooth_elu", ()),
    ),
)
Draw = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One call of one operation.

    Attributes:
        name: of the operation.
        label: of the case.
        build: makes the arguments from a source of normal draws, ``draw(*shape) -> Tensor`` of the tested
            dtype and device.
    """

    name: str
    label: str
    build: Callable[[Draw], tuple[Any, ...]]

    def arguments(self, dtype: torch.dtype, device: str | torch.device) -> tuple[Any, ...]:
        """The same numbers in every dtype, rounded to it, and on every device."""
        generator = torch.Generator().manual_seed(7)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).to(device)

        return self.build(draw)


SHAPES = ((1, 1), (2, 3), (7, 1), (1, 4097), (5, 3, 5, 7), (3, 64, 8, 8), (0, 4), (4, 0), (33, 17))


def nhwc(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def sliced(tensor: Tensor) -> Tensor:
    """The same values with a hole after each sample."""
    wide = torch.cat([tensor, tensor], 1)
    return wide[:, : tensor.shape[1]]


def permuted(tensor: Tensor) -> Tensor:
    """The same shape, the batch innermost in memory."""
    return tensor.permute(*range(1, tensor.dim()), 0).contiguous().permute(-1, *range(tensor.dim() - 1))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _interpolate() -> Iterator[Case]:
    for shape in (*SHAPES, (6,), (2, 3, 1030)):
        label = _shape(shape)
        yield Case("interpolate", f"{label}-given", lambda d, s=shape: (d(*s), d(*s), d(s[0]).abs(), 0, 0))
        yield Case("interpolate", f"{label}-drawn", lambda d, s=shape: (d(*s), d(*s), None, 7, 5))
    big = (-(2**62) + 12345, 2**33 + 1)
    yield Case("interpolate", "long-key", lambda d: (d(70, 3), d(70, 3), None, *big))
    for change in (nhwc, permuted, sliced):
        yield Case(
            "interpolate", change.__name__,
            lambda d, f=change: (f(d(4, 6, 5, 3)), d(4, 6, 5, 3), d(4).abs(), 0, 0),
        )  # fmt: skip


def _norm_penalty() -> Iterator[Case]:
    for shape in (*SHAPES, (6,), (1, 70_001), (3001, 2)):
        for target, one_sided, reduction in (
            (1.0, False, 2),
            (1.0, True, 0),
            (0.0, True, 1),
            (3.5, False, 1),
        ):
            yield Case(
                "norm_penalty", f"{_shape(shape)}-{target}-{one_sided}-{reduction}",
                lambda d, s=shape, o=(target, one_sided, reduction): (d(*s), *o),
            )  # fmt: skip
    yield Case(
        "norm_penalty",
        "a-zero-row",
        lambda d: (d(3, 9) * torch.tensor([[1], [0], [1]]).to(d(1)), 1.0, False, 2),
    )
    for change in (
        nhwc,
        permuted,
        sliced,
        lambda t: t[:, ::2],
        lambda t: t.mT,
        lambda t: t[:1].expand(4, -1, -1, -1),
    ):
        name = getattr(change, "__name__", "view").strip("<>")
        yield Case("norm_penalty", f"strides-{name}", lambda d, f=change: (f(d(4, 6, 5, 3)), 1.0, False, 2))
    for shape in SHAPES:
        yield Case("penalty_seed", f"{_shape(shape)}-one", lambda d, s=shape: (d(*s), _acc(d(s[0])), d()))
        yield Case(
            "penalty_seed", f"{_shape(shape)}-each", lambda d, s=shape: (d(*s), _acc(d(s[0])), _acc(d(s[0])))
        )
    for change in (nhwc, permuted, sliced):
        yield Case(
            "penalty_seed", f"strides-{change.__name__}",
            lambda d, f=change: (f(d(4, 6, 5, 3)), _acc(d(4)), _acc(d(4))),
        )  # fmt: skip


def _acc(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))


def _saved(x: Tensor, bias: Tensor | None, dim: int, act: tuple[Any, ...], y_too: bool = True) -> Tensor:
    """What the activation saves, made by the reference."""
    from wgangp_fast.ops.activations import ACTIVATIONS as TABLE
    from wgangp_fast.ops.activations import NAMES
    from wgangp_fast.ops.bias_act import bias_act_ref

    return bias_act_ref(x, bias, dim, *act) if TABLE[NAMES[act[0]]].saves == "y" else x


def _bias_act() -> Iterator[Case]:
    plain = [(s, None, 1, lambda t: t) for s in SHAPES]
    biased = [
        ((5, 3, 5, 7), True, 1, lambda t: t),
        ((33, 17), True, 1, lambda t: t),
        ((2, 3, 9), True, 2, lambda t: t),
    ]
    layouts = [((4, 6, 5, 3), True, 1, f) for f in (nhwc, permuted, sliced)]
    for number, (shape, bias, dim, change) in enumerate((*plain, *biased, *layouts)):
        for name, parameters in ACTIVATIONS if number in (4, 9, 12) else ACTIVATIONS[2:5]:
            act = encode(name, parameters)
            label = f"{_shape(shape)}-{number}-{name}{parameters[:1]}"
            yield from _orders(label, shape, bias, dim, change, act)


def _orders(label: str, shape: tuple[int, ...], bias: Any, dim: int, change: Any, act: Any) -> Iterator[Case]:
    def base(d: Draw) -> tuple[Tensor, Tensor | None]:
        return change(d(*shape) * 2), d(shape[dim]) if bias else None

    def forward(d: Draw) -> tuple[Any, ...]:
        x, b = base(d)
        return x, b, dim, *act

    def grad(d: Draw) -> tuple[Any, ...]:
        x, b = base(d)
        return d(*shape), _saved(x, b, dim, act), b, dim, *act

    def adjoint(d: Draw) -> tuple[Any, ...]:
        x, b = base(d)
        return d(*shape), d(*shape), change(d(*shape)), _saved(x, b, dim, act), b, dim, *act

    def alone(d: Draw) -> tuple[Any, ...]:
        return None, *adjoint(d)[1:]

    yield Case("bias_act", label, forward)
    yield Case("bias_act_", label, forward)
    yield Case("bias_act_grad", label, grad)
    yield Case("bias_act_grad_", label, grad)
    yield Case("bias_act_adjoint", label, adjoint)
    yield Case("bias_act_adjoint_", label, adjoint)
    yield Case("bias_act_adjoint", f"{label}-alone", alone)


def _gate() -> Iterator[Case]:
    def halves(d: Draw, *s: int) -> tuple[Tensor, Tensor]:
        a, b = d(s[0], 2 * s[1], *s[2:]).chunk(2, 1)
        return a, b

    def alternate(d: Draw, *s: int) -> tuple[Tensor, Tensor]:
        both = d(s[0], 2 * s[1], *s[2:])
        return both[:, ::2], both[:, 1::2]

    def apart(d: Draw, *s: int) -> tuple[Tensor, Tensor]:
        return d(*s), d(*s)

    for shape, ab in itertools.product(
        ((3, 5, 7), (1, 1), (0, 3), (2, 6, 4, 4), (9, 515)), (halves, alternate, apart)
    ):
        label = f"{_shape(shape)}-{ab.__name__}"
        yield Case("gate", label, lambda d, s=shape, ab=ab: ab(d, *s))
        yield Case("gate_vjp", label, lambda d, s=shape, ab=ab: (d(*s), *ab(d, *s)))
        yield Case("gate_jvp", label, lambda d, s=shape, ab=ab: (*ab(d, *s), *ab(d, *s)))
        yield Case("gate_adjoint", label, lambda d, s=shape, ab=ab: (d(*s), d(*s), *ab(d, *s), *ab(d, *s)))
        yield Case(
            "gate_adjoint", f"{label}-alone", lambda d, s=shape, ab=ab: (None, d(*s), *ab(d, *s), *ab(d, *s))
        )


#: shape, groups, dims, affine, layout
NORMS = (
    ((4, 6, 5, 3), 1, 0, True, None),
    ((4, 6, 5, 3), 3, 0, True, None),
    ((4, 6, 5, 3), 6, 0, False, None),
    ((4, 6, 5, 3), 6, 0, True, None),
    ((4, 6, 5, 3), 1, 0, True, nhwc),
    ((4, 6, 5, 3), 3, 0, True, nhwc),
    ((4, 6, 5, 3), 6, 0, True, nhwc),
    ((4, 6, 5, 3), 2, 0, True, permuted),
    ((2, 4, 33), 2, 0, True, None),
    ((5, 7), 0, 1, True, None),
    ((3, 4, 5), 0, 2, True, None),
    ((3, 4, 5), 0, 3, False, None),
    ((2, 3, 515), 0, 1, True, None),
    ((1, 1), 0, 1, True, None),
    ((0, 4, 3), 2, 0, True, None),
    ((0, 5), 0, 1, True, None),
    ((300, 6), 0, 1, True, None),
    ((2, 8, 40, 41), 1, 0, True, None),
    ((2, 32, 9, 9), 32, 0, True, nhwc),
    ((1, 3, 4099), 3, 0, True, None),
)


def _norm_act() -> Iterator[Case]:
    for number, (shape, groups, dims, affine, change) in enumerate(NORMS):
        acts = ACTIVATIONS if number == 1 else (("identity", ()), ("leaky_relu", (0.2,)), ("silu", ()))
        for name, parameters in acts:
            act = encode(name, parameters)
            yield from _norm_orders(f"{number}-{_shape(shape)}-g{groups}-{name}{parameters[:1]}",
                                    shape, groups, dims, affine, change, act)  # fmt: skip


def _norm_orders(
    label: str, shape: Any, groups: int, dims: int, affine: bool, change: Any, act: Any
) -> Iterator[Case]:
    from wgangp_fast.ops.norm_act import norm_act_ref

    extent = (shape[1],) if groups else shape[len(shape) - dims :]

    def base(d: Draw) -> tuple[Tensor, Tensor | None, Tensor | None]:
        x = d(*shape) * 2 + 3
        weight, bias = (d(*extent) + 1, d(*extent)) if affine else (None, None)
        return (change(x) if change else x), weight, bias

    def forward(d: Draw) -> tuple[Any, ...]:
        return *base(d), groups, dims, 1e-5, *act

    def saved(d: Draw) -> tuple[Any, ...]:
        x, weight, bias = base(d)
        return (
            x,
            *norm_act_ref(x, weight, bias, groups, dims, 1e-5, *act)[1:],
            weight,
            bias,
            groups,
            dims,
            *act,
        )

    yield Case("norm_act", label, forward)
    yield Case("norm_act_vjp", label, lambda d: (d(*shape), *saved(d), True))
    yield Case("norm_act_vjp", f"{label}-input", lambda d: (d(*shape), *saved(d), False))
    yield Case("norm_act_jvp", label, lambda d: (d(*shape), *saved(d)))
    yield Case("norm_act_adjoint", label, lambda d: (d(*shape), d(*shape), d(*shape), *saved(d), True))
    yield Case("norm_act_adjoint", f"{label}-alone", lambda d: (None, d(*shape), d(*shape), *saved(d), False))


CASES: tuple[Case, ...] = (*_interpolate(), *_norm_penalty(), *_bias_act(), *_gate(), *_norm_act())
