"""What is particular to the Triton kernels; test_ops.py asks of every backend whether it is right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from paths import TESTS

pytest.importorskip("triton")

FAMILIES = ("bias_act", "gate", "interpolate", "norm_act", "norm_penalty", "penalty_seed")


def interpreted(arguments: list[str], timeout: int = 900) -> str:
    """Run Python where Triton interprets: it decides at its import, and Dynamo may have imported it here."""
    environment = dict(os.environ, TRITON_INTERPRET="1", WGANGP_FAST_TEST_TRITON="1", WGANGP_FAST_NATIVE="0")
    run = subprocess.run(
        [sys.executable, *arguments], cwd=TESTS.parent, env=environment, capture_output=True, text=True,
        timeout=timeout,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-3000:]
    return run.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_interpreter(family: str) -> None:
    """Every case of test_ops.py, in float32; the other dtypes in :func:`test_interpreter_dtypes`."""
    wanted = f"test_backend_equals_reference and float32 and {family}"
    said = interpreted(["-m", "pytest", "-q", "-x", "tests/unit/test_ops.py", "-k", wanted])
    assert "passed" in said


DTYPES = """
import sys
import torch
sys.path.insert(0, "tests")
from op_cases import CASES
from op_checks import error, outcome, widened
from wgangp_fast import ops
from wgangp_fast.ops.registry import KERNELS

torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True
for dtype in (torch.float64, torch.float16, torch.bfloat16):
    for name in KERNELS:
        cases = [case for case in CASES if case.name == name]
        for case in cases[:: max(len(cases) // 6, 1)]:  # the rest differ in shape, which float32 has tried
            found = outcome(ops.implementation(name, "triton"), case, dtype, "cpu")
            narrow = outcome(KERNELS[name].reference, case, dtype, "cpu")
            for ours, theirs, truth in zip(found, narrow, widened(KERNELS[name].reference, case, dtype)):
                assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, (case, dtype)
                finite = ~truth.isnan()
                scale = max(truth[finite].abs().max().item(), 1) if finite.any() else 1  # inputs are around 1
                limit = 2 * error(theirs[finite], truth[finite]) + 8 * torch.finfo(ours.dtype).eps * scale
                assert error(ours[finite], truth[finite]) <= limit, (case, dtype)
                assert torch.equal(ours.isnan(), truth.isnan()), (case, dtype)
print("compared")
"""


def test_interpreter_dtypes() -> None:
    assert interpreted(["-c", DTYPES]).endswith("compared\n")


LAUNCHES = """
import torch
from wgangp_fast.kernels import bias_act, norm_act, norm_penalty, norm_rows

torch.use_deterministic_algorithms(True, warn_only=True)
torch.utils.deterministic.fill_uninitialized_memory = True

# Row blocks: what a GPU's heuristics choose where they differ from the interpreter's, and back.
x, weight, bias, g, t, c = torch.randn(6, 40, 6, dtype=torch.float64).unbind()
weight, bias = weight[0], bias[0]
def all_of(fill):
    norm_rows.FILL = fill
    y, mean, rstd = norm_act.norm_act(x, weight, bias, 0, 1, 1e-5, 3, 0.0, 0.0, 0.0)
    tail = (x, mean, rstd, weight, bias, 0, 1, 3, 0.0, 0.0, 0.0, True)
    return y, *norm_act.norm_act_vjp(g, *tail), *norm_act.norm_act_adjoint(c, g, t, *tail)
few, many = all_of(1), all_of(1000)
middle = all_of(7)
for a, b in [*zip(few, many), *zip(few, middle)]:
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

# A mean of 1e4 with deviation 1 stays accurate in float32, in one tile and in blocks.
for k in (500, 9001):
    x = torch.randn(3, k, dtype=torch.float64).add(1e4).float()
    y, mean, rstd = norm_act.norm_act(x, None, None, 0, 1, 1e-5, 0, 0.0, 0.0, 0.0)
    exact = torch.nn.functional.layer_norm(x.double(), (k,))
    assert (y - exact).abs().max() < 2e-3, k  # the mean itself is known to 1e4 * 2^-24 = 6e-4

# NaN goes through, infinity saturates, as in torch.
special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 88.0, -104.0, 1e-6, -1e-6])
stock = {1: torch.relu, 3: torch.tanh, 4: torch.sigmoid, 5: torch.nn.functional.elu,
         9: torch.nn.functional.softplus}
for act, function in stock.items():
    p = {5: (1.0, 1.0, 1.0), 9: (1.0, 20.0, 0.0)}.get(act, (0.0, 0.0, 0.0))
    ours = bias_act.bias_act(special, None, 0, act, *p)
    torch.testing.assert_close(ours, function(special), equal_nan=True, rtol=2e-6, atol=0)

# Every bit the same, whatever runs beside it.
gradient = torch.randn(3, 40_000)
first = norm_penalty.norm_penalty(gradient, 1.0, False, 2)
assert all(torch.equal(a, b) for a, b in zip(first, norm_penalty.norm_penalty(gradient, 1.0, False, 2)))
assert torch.allclose(first[1], gradient.double().norm(dim=1).float(), rtol=1e-6)
# A target that float32 does not hold.
wide = norm_penalty.norm_penalty(gradient.double(), 0.1, False, 0)[0]
torch.testing.assert_close(wide, (gradient.double().norm(dim=1) - 0.1) ** 2, rtol=1e-13, atol=0)
print("compared")
"""


def test_launches() -> None:
    assert interpreted(["-c", LAUNCHES]).endswith("compared\n")


PHILOX = """
import torch, triton
import triton.language as tl
from wgangp_fast.kernels.interpolate import philox

@triton.jit
def kernel(c0, c1, c2, c3, k0, k1, out):
    lane = tl.arange(0, 1)
    zero = lane.to(tl.uint32)
    w0, w1 = philox(zero + c0.to(tl.uint32), zero + c1.to(tl.uint32), zero + c2.to(tl.uint32),
                    zero + c3.to(tl.uint32), zero + k0.to(tl.uint32), zero + k1.to(tl.uint32))
    tl.store(out + lane, w0.to(tl.int64))
    tl.store(out + 1 + lane, w1.to(tl.int64))

pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]
for key, expected in (([0] * 6, [0x6627E8D5, 0xE169C58D]), (pi, [0xD16CFE09, 0x94FDCCEB])):
    out = torch.zeros(2, dtype=torch.int64)
    kernel[(1,)](*key, out)
    assert out.tolist() == expected, [hex(v) for v in out.tolist()]
print("compared")
"""


def test_philox_known_answers(tmp_path: Path) -> None:
    """Random123's published vectors of philox4x32-10: zeros, and digits of pi."""
    file = tmp_path / "answers.py"
    file.write_text(PHILOX)  # a file, since Triton reads the source of its kernels
    assert interpreted(["-c", f"import runpy; runpy.run_path({str(file)!r})"]).endswith("compared\n")


@pytest.fixture(scope="module")
def reports() -> Any:
    """Every kernel compiled for sm_80, sm_90 and sm_100 in float32 and bfloat16; about a minute."""
    get = pytest.importorskip("triton.backends.nvidia.compiler").get_ptxas
    for architecture in (80, 100):
        try:
            assert get(architecture).path
        except RuntimeError as error:
            pytest.skip(f"no ptxas: {error}")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(TESTS / "triton_compile.py"), "--json"],
        capture_output=True, text=True, timeout=900, cwd=TESTS.parent,
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout)


def test_every_kernel_compiles_without_spills(reports: Any) -> None:
    assert {report["architecture"] for report in reports} == {80, 90, 100}
    kernels = {report["name"].split()[0] for report in reports}
    sources = (TESTS.parent / "wgangp_fast" / "kernels").glob("*.py")
    defined = {
        name
        for source in sources
        if not source.name.startswith("mlp_")
        for name in re.findall(r"^def (\w+_kernel)\(", source.read_text(), re.M)
    }
    assert kernels == defined
    spilling = [(report["name"], report["architecture"]) for report in reports if report["spills"]]
    assert not spilling
    assert max(report["registers"] * report["warps"] * 32 for report in reports) <= 65536


def found(reports: Any, name: str) -> Any:
    return next(r for r in reports if r["name"] == name and r["architecture"] == 90)


@pytest.mark.parametrize(
    "name",
    ["bias_act_adjoint_kernel gelu_tanh", "bias_act_kernel leaky-last", "gate_adjoint_kernel ",
     "norm_rows_kernel image", "norm_chunks_kernel long", "interpolate_kernel drawn",
     "norm_act_kernel layer-512", "norm_act_adjoint_kernel layer-65536", "norm_act_kernel instance-last",
     "norm_act_vjp_kernel instance"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_loads_are_wide(reports: Any, name: str, dtype: str) -> None:
    """16 bytes a lane: the compiler understood which index runs through memory."""
    assert "ld.global.v4.b32" in found(reports, f"{name} {dtype}")["loads"]


def test_short_rows_are_loaded_once(reports: Any) -> None:
    """Three passes over a row that fits the tile are one load: one of x, one of weight, one of bias."""
    assert found(reports, "norm_act_kernel layer-512 fp32")["tt_loads"] == 3
    assert found(reports, "norm_act_kernel layer-65536 fp32")["tt_loads"] == 5


SMALL = {"weight", "bias", "dweight", "dbias", "partial", "value", "incoming"}
"""Arguments of as many elements as channels, or as programs, have."""


def test_offsets_are_64_bits(reports: Any) -> None:
    """No int32 is added to the pointer of a tensor that may have 2^31 elements."""
    narrow = {(r["name"].split()[0], name) for r in reports for name in r["narrow_offsets"]}
    assert {name for _, name in narrow} <= SMALL, narrow
    assert narrow, "the search finds what is there: partial sums are indexed by int32"
