"""``wgangp-fast doctor``: what is installed, which backends run here, and the remedy where one does not.

It compiles nothing, unless asked with ``--build``, and works where nothing was built.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from typing import NamedTuple

import torch

from . import __version__, backend
from .native import load as native
from .native import toolchain


class Backend(NamedTuple):
    name: str
    runs: bool
    note: str  # what it runs on, or why it does not
    remedy: str = ""


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str:
    """The NVIDIA driver's version; empty where there is none."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, timeout=20, check=False, encoding="utf-8", errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.splitlines()[0].strip() if done.returncode == 0 and done.stdout else ""


def _gpu() -> str:
    """Name and capability of the GPU; empty where torch has none."""
    if not torch.cuda.is_available():
        return ""
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()} (capability {major}.{minor})"


def versions() -> dict[str, str]:
    """Name to version, of what the package stands on."""
    try:
        compiler = toolchain.compiler_version(toolchain.find_compiler())
    except native.BuildError as error:
        compiler = str(error)
    nvcc = toolchain.find_nvcc()
    return {
        "wgangp_fast": __version__,
        "Python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
        "triton": _version("triton") or "not installed",
        "driver": _driver() or "none",
        "GPU": _gpu() or "none",
        "compiler": compiler,
        "nvcc": toolchain.compiler_version(nvcc) if nvcc else "none",
    }


def backends(status: native.Status) -> list[Backend]:
    """Every backend, and whether it can run here."""
    found = [Backend("ref", True, "torch's own operators")]
    loaded = f"{status.how}: {status.path}"
    if status.loaded:
        found.append(Backend("cpu", True, loaded))
    else:
        remedy = "install a C++ compiler (g++ 10 or newer), then: wgangp-fast doctor --build"
        if status.reason and native.ENVIRONMENT in status.reason.split()[0]:
            remedy = f"unset {native.ENVIRONMENT}"
        elif status.reason and "not built yet" in status.reason:
            remedy = "nothing, or now: wgangp-fast doctor --build"
        found.append(Backend("cpu", False, status.reason or "", remedy))
    for name in ("cuda", "triton"):
        why, remedy = _cannot_run(name, status)
        note = f"{_gpu()}; {loaded}" if name == "cuda" else _gpu()
        found.append(Backend(name, False, why, remedy) if why else Backend(name, True, note))
    return found


def _cannot_run(name: str, status: native.Status) -> tuple[str, str]:
    """Why a backend of the GPU cannot run, and the remedy; both empty if it can."""
    if name == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed", "pip install triton"
    reason = backend.no_gpu()
    if reason is None and name == "cuda":
        if not status.loaded:
            return "no native library (see cpu)", "as for cpu, with nvcc"
        reason = native.without_cuda(torch.cuda.get_device_capability())
    why, _, remedy = (reason or "").partition(": ")
    return why, remedy


def stale() -> bool:
    """Whether the loaded library was made from other C++ sources than those that lie here."""
    made_from = native.information().get("sources")
    try:
        return bool(made_from) and made_from != native.local_recipe().source_hash()
    except native.BuildError:
        return False


def report(status: native.Status) -> str:
    """What ``doctor`` prints."""
    lines = [f"{name:<12} {text}" for name, text in versions().items()]
    information = native.information()
    lines += ["", "native build" if information else "native build: none"]
    lines += [f"  {name:<17} {text}" for name, text in information.items() if text]
    if status.loaded and stale():
        lines.append(
            "  The C++ sources have changed since: make native, or python setup.py build_ext --inplace"
        )
    lines += ["", "backends"]
    for row in backends(status):
        lines.append(f"  {row.name:<7} {'yes' if row.runs else 'no '}  {row.note}")
        if row.remedy:
            lines.append(f"               remedy: {row.remedy}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report.

    Returns:
        0, or 1 where ``--build`` was asked for and failed.
    """
    parser = argparse.ArgumentParser(prog="wgangp-fast doctor", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--build", action="store_true", help="compile the native kernels now if there are none"
    )
    arguments = parser.parse_args(argv)
    failed = False
    if arguments.build:
        try:
            native.require()
        except native.NativeError:
            failed = True  # the report says why
    print(report(native.status()))
    return int(failed)
