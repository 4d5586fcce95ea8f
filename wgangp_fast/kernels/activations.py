"""The activation table in Triton: f, f' and f'' of a constexpr row, from what the row saves.

Rows 0 to 5 save the result y, the others the input u. The row and its parameters are compile-time
constants: one kernel an activation, no branch in it. Everything is made of exp and erf, which the
compiler and the interpreter share; whatever cancels near zero goes through :func:`expm1` or :func:`log1p`.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs
from __future__ import annotations

import triton
import triton.language as tl

IDENTITY = tl.constexpr(0)
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)
TANH = tl.constexpr(3)
SIGMOID = tl.constexpr(4)
ELU = tl.constexpr(5)
SILU = tl.constexpr(6)
GELU = tl.constexpr(7)
GELU_TANH = tl.constexpr(8)
SOFTPLUS = tl.constexpr(9)
SMOOTH_ELU = tl.constexpr(10)


def saves_input(act: int) -> bool:
    """Whether the derivatives of row ``act`` are functions of the input, not of the result."""
    return act >= 6


def is_smooth(act: int) -> bool:
    """Whether row ``act`` has a second derivative that is not zero everywhere."""
    return act >= 3


@triton.jit
def expm1(x):
    """``exp(x) - 1``: Cephes' rational where |x| < 1/2, exact to float64."""
    z = x * x
    p = x * ((1.2617719307481059088e-4 * z + 3.0299440770744196130e-2) * z + 1.0)
    q = ((3.0019850513866445504e-6 * z + 2.5244834034968410419e-3) * z + 2.2726554820815502877e-1) * z + 2.0
    return tl.where(tl.abs(x) < 0.5, 2.0 * p / (q - p), tl.exp(x) - 1.0)


@triton.jit
def log1p(w):
    """``log(1 + w)`` for w in [0, 1], as 2 artanh(w / (2 + w)): its series in z <= 1/9."""
    if w.dtype == tl.float64:
        TERMS: tl.constexpr = 17
    else:
        TERMS: tl.constexpr = 8
    s = w / (2.0 + w)
    z = s * s
    total = z * 0.0
    for i in tl.static_range(TERMS):
        total = total * z + 1.0 / (2 * (TERMS - 1 - i) + 1)
    return 2.0 * s * total


@triton.jit
def tanh(x):
    e = expm1(-2.0 * tl.abs(x))
    size = -e / (e + 2.0)
    return tl.where(x < 0, -size, size)


@triton.jit
def tanh_slope(x):
    """``1 - tanh(x)^2`` without cancellation where tanh is nearly 1."""
    q = tl.exp(-2.0 * tl.abs(x))
    return 4.0 * q / ((1.0 + q) * (1.0 + q))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def softplus(x):
    positive = tl.where(x < 0, 0.0, x)  # NaN stays
    return positive + log1p(tl.exp(-tl.abs(x)))


@triton.jit
def value(u, ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr):
    """f(u). Comparisons are written so that NaN passes through."""
    if ACT == RELU:
        return tl.where(u <= 0, 0.0, u)
    elif ACT == LEAKY_RELU:
        return tl.where(u > 0, u, u * P0)
    elif ACT == TANH:
        return tanh(u)
    elif ACT == SIGMOID:
        return sigmoid(u)
    elif ACT == ELU:
        return tl.where(u > 0, u * P1, expm1(u * P2) * (P0 * P1))
    elif ACT == SILU:
        return u * sigmoid(u)
    elif ACT == GELU:
        return 0.5 * u * (1.0 + tl.erf(u * 0.70710678118654752440))
    elif ACT == GELU_TANH:
        return 0.5 * u * (1.0 + tanh(0.79788456080286535588 * (u + 0.044715 * u * u * u)))
    elif ACT == SOFTPLUS:
        return tl.where(u * P0 > P1, u, softplus(u * P0) / P0)
    elif ACT == SMOOTH_ELU:
        return 0.5 * softplus(2.0 * u + 2.0) - 1.0
    else:
        return u


@triton.jit
def saved(u, ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr):
    """What :func:`times_slope` and :func:`second` want, from u: the result, or u itself."""
    if ACT <= 5:
        return value(u, ACT, P0, P1, P2)
    else:
        return u


@triton.jit
def times_slope(v, s, ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr):
    """``f' * v``; a slope of zero selects 0 instead of multiplying, as the library's kernels do."""
    if ACT == RELU:
        return tl.where(s <= 0, 0.0, v)
    elif ACT == LEAKY_RELU:
        return tl.where(s > 0, v, v * P0)
    elif ACT == TANH:
        return v * (1.0 - s * s)
    elif ACT == SIGMOID:
        return v * (s * (1.0 - s))
    elif ACT == ELU:
        return v * tl.where(s > 0, P1, (s + P0 * P1) * P2)
    elif ACT == SILU:
        y = sigmoid(s)
        return v * (y * (1.0 + s * (1.0 - y)))
    elif ACT == GELU:
        density = tl.exp(-0.5 * s * s) * 0.39894228040143267794
        return v * (0.5 * (1.0 + tl.erf(s * 0.70710678118654752440)) + s * density)
    elif ACT == GELU_TANH:
        inner = 0.79788456080286535588 * (s + 0.044715 * s * s * s)
        y = tanh(inner)
        rate = 0.79788456080286535588 * (1.0 + 0.134145 * s * s)
        # Far out tanh's slope is 0 and the other factor may be infinite; their product is 0.
        bump = tl.where(tl.abs(s) > 16.0, 0.0, 0.5 * s * tanh_slope(inner) * rate)
        return v * (0.5 * (1.0 + y) + bump)
    elif ACT == SOFTPLUS:
        return v * tl.where(s * P0 > P1, 1.0, sigmoid(s * P0))
    elif ACT == SMOOTH_ELU:
        return v * sigmoid(2.0 * s + 2.0)
    else:
        return v


@triton.jit
def second(s, ACT: tl.constexpr, P0: tl.constexpr, P1: tl.constexpr, P2: tl.constexpr):
    """f'', of the smooth rows alone."""
    if ACT == TANH:
        return -2.0 * s * (1.0 - s * s)
    elif ACT == SIGMOID:
        return s * (1.0 - s) * (1.0 - 2.0 * s)
    elif ACT == ELU:
        return tl.where(s > 0, 0.0, (s + P0 * P1) * (P2 * P2))
    elif ACT == SILU:
        y = sigmoid(s)
        return y * (1.0 - y) * (2.0 + s * (1.0 - 2.0 * y))
    elif ACT == GELU:
        density = tl.exp(-0.5 * s * s) * 0.39894228040143267794
        return tl.where(tl.abs(s) > 40.0, 0.0, density * (2.0 - s * s))
    elif ACT == GELU_TANH:
        inner = 0.79788456080286535588 * (s + 0.044715 * s * s * s)
        y = tanh(inner)
        rate = 0.79788456080286535588 * (1.0 + 0.134145 * s * s)
        rise = 0.79788456080286535588 * 0.26829 * s
        bump = tanh_slope(inner) * (rate + 0.5 * s * (rise - 2.0 * y * rate * rate))
        return tl.where(tl.abs(s) > 16.0, 0.0, bump)
    elif ACT == SOFTPLUS:
        y = sigmoid(s * P0)
        return tl.where(s * P0 > P1, 0.0, P0 * (y * (1.0 - y)))
    elif ACT == SMOOTH_ELU:
        y = sigmoid(2.0 * s + 2.0)
        return 2.0 * (y * (1.0 - y))
    else:
        return s * 0.0
