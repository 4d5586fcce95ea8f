"""The CUDA sources compile without a warning for every architecture, and no kernel spills registers.

Needs nvcc, and no GPU. ``pytest -s`` prints the table of resources.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from paths import ROOT

from wgangp_fast.native.toolchain import find_nvcc

CSRC = ROOT / "csrc"
ARCHITECTURES = ("80", "90", "100", "120")
TYPES = 4  # float64, float32, float16, bfloat16

KERNELS = {
    "bias_act_cuda.cu": {
        "flat_kernel<Forward<": TYPES,
        "flat_kernel<Grad<": TYPES,
        "flat_kernel<Adjoint<": TYPES,
    },
    "gate_cuda.cu": {f"flat_kernel<{body}<": TYPES for body in ("Forward", "Vjp", "Jvp", "Adjoint")},
    "interpolate_cuda.cu": {"flat_kernel<Interpolate<": TYPES, "flat_kernel<AlphaAlone<": TYPES},
    "norm_penalty_cuda.cu": {
        "chunk_kernel<": TYPES,
        "sample_kernel<": TYPES,
        "finish_kernel<": 2,  # by the type of accumulation
        "flat_kernel<Seed<": TYPES,
    },
    # One of scalars for each type; one of packs for all but float64.
    "norm_act_cuda.cu": {
        "NormForward>": 2 * TYPES - 1,
        "NormVjp>": 2 * TYPES - 1,
        "NormJvp>": 2 * TYPES - 1,
        "NormAdjoint>": 2 * TYPES - 1,
        "affine_kernel<": TYPES,
    },
    # float32, float16 and bfloat16, for each of three tiles.
    "mlp_penalty_cuda.cu": {"forward_kernel<": 9, "backward_kernel<": 9},
}
"""Of each file: how many kernels have a name with this in it."""

nvcc = find_nvcc(os.environ)
needs_nvcc = pytest.mark.skipif(nvcc is None, reason="nvcc is not installed")


@dataclass(frozen=True)
class Resources:
    """What ptxas reports of one kernel on one architecture."""

    name: str
    architecture: str
    registers: int
    shared: int
    spilled: int  # bytes stored


REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\w+)'.*?"
    r"(?P<spilled>\d+) bytes spill stores.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def resources(report: str) -> list[Resources]:
    """Every kernel of a ``--resource-usage`` report."""
    found = list(REPORT.finditer(report))
    names = demangled([match["name"] for match in found])
    rows = []
    for name, match in zip(names, found):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        rows.append(
            Resources(
                name,
                match["architecture"],
                int(match["registers"]),
                int(shared[1]) if shared else 0,
                int(match["spilled"]),
            )
        )
    return rows


def demangled(names: list[str]) -> list[str]:
    """Readable names, without namespaces and parameters; as they are where there is no c++filt."""
    tool = shutil.which("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        return names
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True)
    short = []
    for line in done.stdout.splitlines():
        line = re.sub(r"\(anonymous namespace\)::|\b(wgangp_fast|cuda|common)::", "", line)
        line = re.sub(r"^(?:::)?void (?:::)?", "", line)
        short.append(re.sub(r"\((?!int\)).*", "", line).replace("(int)", ""))
    return short


def compile_source(source: Path, folder: Path) -> list[Resources]:
    """The kernels of ``source``, compiled for all architectures; fails on any warning."""
    assert nvcc is not None
    command = [nvcc, "-std=c++20", "-O3", f"-I{CSRC}", "-DUSE_CUDA", "--resource-usage", "--threads=2"]
    command += ["-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra,-Wno-unknown-pragmas"]
    command += [f"-gencode=arch=compute_{name},code=sm_{name}" for name in ARCHITECTURES]
    command += ["-c", str(source), "-o", str(folder / "out.o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    warnings = [line for line in text.splitlines() if "warning" in line.lower()]
    assert not warnings, "\n".join(warnings)
    return resources(text)


def table(rows: list[Resources]) -> str:
    """Registers on each architecture, the most shared memory and spilled bytes of each kernel."""
    lines = [f"{'registers ' + ' '.join(ARCHITECTURES):<24}{'shared':>8}{'spilled':>9}  kernel"]
    for name in sorted({row.name for row in rows}):
        own = [row for row in rows if row.name == name]
        used = {row.architecture: row.registers for row in own}
        counts = " ".join(f"{used.get(a, 0):>4}" for a in ARCHITECTURES)
        shared, spilled = max(row.shared for row in own), max(row.spilled for row in own)
        lines.append(f"{counts:<24}{shared:>8}{spilled:>9}  {name}")
    return "\n".join(lines)


@needs_nvcc
@pytest.mark.parametrize("name", sorted(path.name for path in (CSRC / "cuda").glob("*.cu")))
def test_compiles_without_spills(name: str, tmp_path: Path) -> None:
    rows = compile_source(CSRC / "cuda" / name, tmp_path)
    print("\n" + name + "\n" + table(rows))
    spilling = sorted({f"{row.name} on sm_{row.architecture}" for row in rows if row.spilled})
    assert not spilling, f"registers spill: {', '.join(spilling)}"
    if shutil.which("c++filt") is None and shutil.which("cu++filt") is None:
        return
    for architecture in ARCHITECTURES:
        names = [row.name for row in rows if row.architecture == architecture]
        found = Counter({part: sum(part in kernel for kernel in names) for part in KERNELS.get(name, {})})
        assert found == Counter(KERNELS.get(name, {})), f"sm_{architecture} has {names}"


def test_every_source_is_in_the_table() -> None:
    """A file with kernels must say which; files without any need no entry."""
    sources = {p.name for p in (CSRC / "cuda").glob("*.cu")}
    assert sources - set(KERNELS) <= {"error_cuda.cu", "rows_cuda.cu"}  # no kernels in them
    assert set(KERNELS) <= sources


def test_reads_the_report_of_ptxas() -> None:
    report = (
        "ptxas info    : Compiling entry function '_Z1av' for 'sm_90'\n"
        "ptxas info    : Function properties for _Z1av\n"
        "    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem\n"
        "ptxas info    : Compiling entry function '_Z1bv' for 'sm_100'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 12 registers\n"
    )
    found = [(row.architecture, row.registers, row.shared, row.spilled) for row in resources(report)]
    assert found == [("90", 40, 1024, 8), ("100", 12, 0, 0)]
