"""Every operation: the reference against autograd, and every backend that runs here against the reference."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from op_cases import ACTIVATIONS, CASES, Case, permuted
from op_checks import error, outcome, widened
from torch import Tensor
from torch.nn import functional as F

from wgangp_fast import backend, ops
from wgangp_fast.ops.activations import ACTIVATIONS as TABLE
from wgangp_fast.ops.activations import NAMES, encode
from wgangp_fast.ops.interpolate import draw_key, uniform
from wgangp_fast.ops.registry import KERNELS

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def backends() -> list[tuple[str, str]]:
    """``(backend, device)`` pairs to test. The Triton interpreter is slow: only where it is asked for."""
    found = [("cpu", "cpu")] if backend.missing("cpu") is None else []
    if os.environ.get("WGANGP_FAST_TEST_TRITON"):
        found = [("triton", "cpu")]
    if torch.cuda.is_available() and os.environ.get("WGANGP_FAST_DEVICE") != "cpu":
        found += [(which, "cuda") for which in ("cuda", "triton") if backend.missing(which) is None]
    return found


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """``torch.empty`` holds NaN, so that an element nobody wrote is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


def terms(case: Case, dtype: torch.dtype) -> float:
    """Size of what a norm's derivative takes differences of: in a row of one element nothing is left."""
    places = {"norm_act_vjp": (0, 3), "norm_act_jvp": (0, 3), "norm_act_adjoint": (1, 5)}.get(case.name)
    if places is None:
        return 0.0
    found = [case.arguments(dtype, "cpu")[place].double().abs() for place in places]
    return math.prod(value.max().item() if value.numel() else 0.0 for value in found)


def steps_of(tensor: Tensor) -> list[int]:
    """The strides that mean something."""
    return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


@pytest.mark.parametrize("which", backends(), ids="-".join)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_backend_equals_reference(name: str, dtype: torch.dtype, which: tuple[str, str]) -> None:
    if not any(case.name == name for case in CASES):
        pytest.skip("has tests of its own")
    run, reference = ops.implementation(name, which[0]), KERNELS[name].reference
    faults = []
    for case in (case for case in CASES if case.name == name):
        try:
            found = outcome(run, case, dtype, which[1])
            again = outcome(run, case, dtype, which[1])
            narrow = outcome(reference, case, dtype, "cpu")
            # In float64 the reference is the truth; elsewhere on the same rounded inputs, widened.
            truth = widened(reference, case, dtype)
            cancelled = terms(case, dtype)
            for i, (ours, twice, theirs, exact) in enumerate(zip(found, again, narrow, truth, strict=True)):
                assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), (i, ours.shape, ours.dtype)
                if ours.numel() and name != "norm_penalty":
                    assert steps_of(ours) == steps_of(theirs), (i, ours.stride(), theirs.stride())
                assert torch.equal(ours.nan_to_num(9.5), twice.nan_to_num(9.5)), f"{i}: two runs differ"
                assert torch.equal(ours.isnan().cpu(), exact.isnan()), f"result {i}: NaN"
                finite = ~exact.isnan()
                scale = exact[finite].abs().max().item() if finite.any() else 0.0
                rounding = torch.finfo(ours.dtype).eps * max(scale, cancelled)
                # the truth's own rounding counts where the dtype is the truth's
                steps = 64 if ours.dtype == torch.float64 else 8
                limit = 2 * error(theirs[finite], exact[finite]) + steps * rounding
                worst = error(ours[finite.to(ours.device)], exact[finite])
                assert worst <= limit, f"result {i}: error {worst:.2e}, allowed {limit:.2e}"
        except Exception as fault:  # all faulty cases in one message
            faults.append(f"{case.label}: {type(fault).__name__}: {str(fault).splitlines()[0]}")
    assert not faults, f"{len(faults)} cases:\n" + "\n".join(faults[:20])


@pytest.mark.parametrize("which", [w for w in backends() if w[0] in ("cpu", "cuda")], ids="-".join)
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_registration(name: str, which: tuple[str, str]) -> None:
    """torch.library.opcheck: schema, fake implementation, autograd registration."""
    cases = [case for case in CASES if case.name == name]
    if not cases:
        pytest.skip("has tests of its own")
    for case in (cases[0], cases[len(cases) // 2], cases[-1]):
        torch.library.opcheck(
            ops.implementation(name, which[0]),
            case.arguments(torch.float32, which[1]),
            test_utils=("test_schema", "test_faketensor"),
        )


# the references against autograd -------------------------------------------------------------------


def second_order(f: Any, x: list[Tensor], g: Tensor, t: Tensor, c: Tensor) -> list[Tensor]:
    """``d/dx_i (<g, J t> + <c, f>)`` by double backward, the tangent ``t`` in the first x."""
    xs = [value.clone().requires_grad_() for value in x]
    y, seed = f(*xs), g.clone().requires_grad_()
    (first,) = torch.autograd.grad(y, xs[0], seed, create_graph=True)
    scalar = (first * t).sum() + (c * y).sum()
    found = torch.autograd.grad(scalar, xs, allow_unused=True)
    return [torch.zeros_like(v) if d is None else d for d, v in zip(found, x, strict=True)]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "parameters"), ACTIVATIONS, ids=str)
def test_activation_rows(name: str, parameters: tuple[float, ...]) -> None:
    act = encode(name, parameters)
    x, g, t, c = torch.randn(4, 3, 4, 50, dtype=torch.float64) * 2
    b = torch.randn(4, dtype=torch.float64)
    stock = {
        "identity": torch.clone, "relu": F.relu, "leaky_relu": lambda h: F.leaky_relu(h, *parameters),
        "tanh": torch.tanh, "sigmoid": torch.sigmoid, "elu": lambda h: torch.ops.aten.elu(h, *parameters),
        "selu": F.selu, "silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda h: F.gelu(h, approximate="tanh"),
        "softplus": lambda h: F.softplus(h, *parameters),
        "smooth_elu": lambda h: F.softplus(2 * h + 2) / 2 - 1,
    }[name]  # fmt: skip
    h = x + b.view(1, 4, 1)
    y = ops.bias_act(x, b, name, *parameters, impl="ref")
    close(y, stock(h))
    ref = y if TABLE[NAMES[act[0]]].saves == "y" else x
    leaf = h.clone().requires_grad_()
    (vjp,) = torch.autograd.grad(stock(leaf), leaf, g)
    close(ops.bias_act_grad(g, ref, b, name, *parameters, impl="ref"), vjp)
    (bent,) = second_order(stock, [h], g, t, c)
    close(ops.bias_act_adjoint(c, g, t, ref, b, name, *parameters, impl="ref"), bent)


@pytest.mark.parametrize(
    "act", [("identity", ()), ("leaky_relu", (0.2,)), ("silu", ()), ("tanh", ())], ids=str
)
@pytest.mark.parametrize("groups", [0, 1, 2, 4])
def test_norm_act_reference(groups: int, act: tuple[str, tuple[float, ...]]) -> None:
    code, dims = encode(*act), 2
    x, g, t, c = torch.randn(4, 3, 4, 5, 2, dtype=torch.float64)
    extent = (4,) if groups else (5, 2)
    weight, bias = torch.randn(2, *extent, dtype=torch.float64)

    def stock(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        u = F.group_norm(x, groups, weight, bias) if groups else F.layer_norm(x, extent, weight, bias)
        return TABLE[act[0]].f(u, *code[1:])

    y, mean, rstd = ops.norm_act(
        x, weight, bias, groups=groups, dims=dims, act=act[0], parameters=act[1], impl="ref"
    )
    close(y, stock(x, weight, bias))
    tail = (x, mean, rstd, weight, bias, groups, dims, *code)
    leaves = [v.clone().requires_grad_() for v in (x, weight, bias)]
    vjp = torch.autograd.grad(stock(*leaves), leaves, g)
    for ours, theirs in zip(KERNELS["norm_act_vjp"].reference(g, *tail, True), vjp, strict=True):
        close(ours, theirs)
    jvp = KERNELS["norm_act_jvp"].reference(t, *tail)
    close((jvp * g).sum(), (vjp[0] * t).sum())
    bent = second_order(stock, [x, weight, bias], g, t, c)
    for ours, theirs in zip(KERNELS["norm_act_adjoint"].reference(c, g, t, *tail, True), bent, strict=True):
        close(ours, theirs)


def test_gate_reference() -> None:
    a, b, g, ta, tb, c = torch.randn(6, 3, 7, dtype=torch.float64)
    leaves = [a.clone().requires_grad_(), b.clone().requires_grad_()]
    y = torch.sigmoid(leaves[0]) * torch.tanh(leaves[1])
    close(ops.gate(a, b, impl="ref"), y)
    vjp = torch.autograd.grad(y, leaves, g, create_graph=True)
    for ours, theirs in zip(KERNELS["gate_vjp"].reference(g, a, b), vjp, strict=True):
        close(ours, theirs)
    close((KERNELS["gate_jvp"].reference(ta, tb, a, b) * g).sum(), (vjp[0] * ta + vjp[1] * tb).sum())
    bent = torch.autograd.grad((vjp[0] * ta + vjp[1] * tb + c * y).sum(), leaves)
    for ours, theirs in zip(KERNELS["gate_adjoint"].reference(c, g, ta, tb, a, b), bent, strict=True):
        close(ours, theirs)


def test_norm_penalty_reference() -> None:
    gradient = torch.randn(5, 3, 4, dtype=torch.float64)
    for target, one_sided in ((1.0, False), (2.0, True), (0.0, False)):
        leaf = gradient.clone().requires_grad_()
        n = leaf.flatten(1).norm(dim=1)
        stock = ((n - target).clamp(min=0) if one_sided else n - target).square().mean()
        value, norm, slope = ops.norm_penalty(gradient, target, one_sided, "mean", impl="ref")
        close(value, stock)
        close(norm, n)
        (wanted,) = torch.autograd.grad(3 * stock, leaf)
        close(ops.penalty_seed(gradient, slope, torch.tensor(3.0), impl="ref"), wanted)


# the random draw -----------------------------------------------------------------------------------


def test_philox_known_answers() -> None:
    """Random123's published vectors for philox4x32-10."""
    found = uniform(0, 0, 1, torch.float32, torch.device("cpu"))
    assert found.item() == (0x6627E8D5 >> 8) / 2**24
    ones = uniform(-1, -1, 1, torch.float32, torch.device("cpu"))  # counter (0, ones): no published vector
    assert 0 <= ones.item() < 1
    wide = uniform(0, 0, 1, torch.float64, torch.device("cpu"))
    assert wide.item() == ((0x6627E8D5 << 32 | 0xE169C58D) >> 11) / 2**53


def test_draws_are_uniform_and_of_the_generator() -> None:
    generator = torch.Generator().manual_seed(3)
    real, fake = torch.ones(20_000, 1), torch.zeros(20_000, 1)
    x, alpha = ops.interpolate(real, fake, generator=generator)
    assert torch.equal(x[:, 0], alpha)
    assert abs(alpha.mean() - 0.5) < 0.01
    assert abs(alpha.var() - 1 / 12) < 0.003
    assert abs(torch.corrcoef(torch.stack([alpha[1:], alpha[:-1]]))[0, 1]) < 0.03
    assert not torch.equal(ops.interpolate(real, fake, generator=generator)[1], alpha)
    assert torch.equal(ops.interpolate(real, fake, generator=generator.manual_seed(3))[1], alpha)
    assert draw_key(torch.Generator().manual_seed(1), torch.device("cpu")) != draw_key(
        None, torch.device("cpu")
    )


# the public functions ------------------------------------------------------------------------------


def test_public_functions_say_what_is_wrong() -> None:
    x = torch.randn(2, 3)
    with pytest.raises(ValueError, match="activation must be one of"):
        ops.bias_act(x, act="swish")
    with pytest.raises(ValueError, match="takes 1 parameters"):
        ops.bias_act(x, None, "leaky_relu", 0.1, 0.2)
    with pytest.raises(ValueError, match="negative_slope must be at least 0"):
        ops.bias_act(x, None, "leaky_relu", -0.1)
    with pytest.raises(ValueError, match="elu needs alpha"):
        ops.bias_act(x, None, "elu", -1.0)
    with pytest.raises(ValueError, match="reduction must be one of"):
        ops.norm_penalty(x, reduction="median")
    with pytest.raises(ValueError, match="impl must be one of"):
        ops.gate(x, x, impl="gpu")


def test_inplace_and_selu() -> None:
    x = torch.randn(3, 5)
    expected, given = F.selu(x), x.clone()
    assert ops.bias_act(given, act="selu", inplace=True) is given
    torch.testing.assert_close(given, expected)
    y = ops.bias_act(permuted(torch.randn(3, 5, 2)), act="tanh")
    assert y.stride() == permuted(torch.randn(3, 5, 2)).stride()
