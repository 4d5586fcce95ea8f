"""The compilers that are here: C++ and CUDA, their versions, and the architectures that nvcc compiles for.

The standard library alone, like :mod:`.recipe`, which says what they are called with.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

DEFAULT_ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0+PTX")
OLDEST_ARCHITECTURE = (7, 5)  # what the CUDA sources are compiled for in the tests
# The names that torch.utils.cpp_extension takes, with its numbers.
NAMED_ARCHITECTURES: Mapping[str, str] = {
    "Kepler+Tesla": "3.7",
    "Kepler": "3.5+PTX",
    "Maxwell+Tegra": "5.3",
    "Maxwell": "5.0;5.2+PTX",
    "Pascal": "6.0;6.1+PTX",
    "Volta+Tegra": "7.2",
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere+Tegra": "8.7",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell+Tegra": "11.0",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}


class BuildError(RuntimeError):
    """The native library cannot be built here; the message says why."""


class SettingError(BuildError):
    """What was asked for cannot be built: an installation stops, since doing without would hide it."""


@dataclass(frozen=True)
class Cuda:
    """A CUDA compiler and what it compiles for (``"9.0"``, ``"12.0+PTX"``)."""

    nvcc: str
    architectures: tuple[str, ...]

    def flags(self) -> list[str]:
        """``-gencode`` for each architecture, with PTX where it is asked for."""
        flags = []
        for entry in self.architectures:
            number, _, ptx = entry.partition("+")
            name = number.replace(".", "")
            flags.append(f"-gencode=arch=compute_{name},code=sm_{name}")
            if ptx:
                flags.append(f"-gencode=arch=compute_{name},code=compute_{name}")
        return flags


def run_text(command: Sequence[str]) -> str:
    """Both outputs of a command; empty where it cannot run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=60,
            check=False,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


@lru_cache
def cuda_home(nvcc: str) -> Path:
    """The toolkit's folder; an nvcc on the path may be a script that calls the real one, so it is asked."""
    output = run_text([nvcc, "-v", "-E", "-x", "cu", os.devnull])
    found = re.search(r"^#\$ TOP=(.+)$", output, re.MULTILINE)
    return Path(found[1]).resolve() if found else Path(nvcc).resolve().parent.parent


def cudart_folders(nvcc: str) -> list[Path]:
    """Where a toolkit may keep the CUDA runtime: NVIDIA's lib64, conda's and pip's lib, a distribution's."""
    home = cuda_home(nvcc)
    return [home / "lib64", home / "lib", home / "targets" / f"{platform.machine()}-linux" / "lib"]


def check_nvcc(nvcc: str, torch_cuda: str | None) -> None:
    """Refuse an nvcc of another major version than torch's CUDA, and a toolkit that cannot link.

    Raises:
        SettingError: with both versions, or with what is missing.
    """
    remedy = "or BUILD_NO_CUDA=1 to do without CUDA kernels"
    found = re.search(r"release (\d+)\.", run_text([nvcc, "--version"]))
    major = torch_cuda.split(".")[0] if torch_cuda else None
    if major and found and found[1] != major:
        raise SettingError(
            f"{nvcc} is of CUDA {found[1]}, but this torch is built with CUDA {torch_cuda}: set CUDA_HOME to "
            f"a toolkit of CUDA {major}, {remedy}"
        )
    folders = cudart_folders(nvcc)
    if not any((folder / "libcudart_static.a").exists() for folder in folders):
        raise SettingError(
            f"{nvcc} has no libcudart_static.a in {', '.join(map(str, folders))}: install it, set CUDA_HOME "
            f"to another toolkit, {remedy}"
        )


@lru_cache
def compiler_version(program: str) -> str:
    """The line of ``program --version`` that names a version."""
    lines = [line.strip() for line in run_text([program, "--version"]).splitlines() if line.strip()]
    if "nvcc" in Path(program).name:
        lines = [line for line in lines if "release" in line]
    return lines[0].replace('"', "'") if lines else ""


def find_compiler(environment: Mapping[str, str] = os.environ) -> str:
    """The C++ compiler: ``CXX``, else the first of c++, g++, clang++ on the path.

    Raises:
        BuildError: there is none.
    """
    asked = environment.get("CXX")
    for name in [asked] if asked else ["c++", "g++", "clang++"]:
        found = shutil.which(name)
        if found:
            return found
    tried = f"CXX={asked} is not a program" if asked else "no c++, g++ or clang++ on the path"
    raise BuildError(f"there is no C++ compiler: {tried}")


def find_nvcc(environment: Mapping[str, str] = os.environ) -> str | None:
    """nvcc: from ``CUDA_HOME`` or ``CUDA_PATH``, else the path, else /usr/local/cuda."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = environment.get(variable)
        if home:
            return shutil.which(str(Path(home) / "bin" / "nvcc"))
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def known_architectures(nvcc: str) -> list[str]:
    """Numbers like 9.0 that this nvcc compiles for, in order; empty where it does not say."""
    found = {int(number) for number in re.findall(r"compute_(\d+)", run_text([nvcc, "--list-gpu-arch"]))}
    return [f"{number // 10}.{number % 10}" for number in sorted(found)]


def gpu_architectures() -> list[str]:
    """Numbers like 9.0 of this machine's GPUs, in order, as the driver tells them."""
    said = run_text(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    found = {tuple(map(int, line.split("."))) for line in re.findall(r"^\d+\.\d+$", said, re.MULTILINE)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


def architectures(nvcc: str, asked: str = "") -> tuple[str, ...]:
    """What ``TORCH_CUDA_ARCH_LIST`` asks for, or the default architectures that this nvcc knows.

    Entries are numbers (``9.0``, ``9.0a``, ``10.0f``, with or without ``+PTX``), torch's names (``Ampere``,
    ``Blackwell+Tegra``), ``native`` (this machine's GPUs), ``all`` and ``all-major`` (what nvcc knows), with
    any of ``;``, ``,`` and spaces between them.

    Raises:
        SettingError: an entry that is none of these, or that cannot be compiled here.
    """
    known = known_architectures(nvcc)
    usable = [number for number in known if capability(number) >= OLDEST_ARCHITECTURE]
    groups: dict[str, Callable[[], list[str]]] = {
        "native": gpu_architectures,
        "all": lambda: usable,
        "all-major": lambda: [number for number in usable if number.endswith(".0")],
    }
    chosen: list[str] = []
    for entry in re.findall(r"[^;,\s]+", asked):
        if entry in groups:
            found = groups[entry]()
            if not found:
                where = "nvidia-smi finds no GPU here" if entry == "native" else f"{nvcc} names none"
                raise SettingError(f"TORCH_CUDA_ARCH_LIST is {asked!r}, but {where}")
            chosen += _with_ptx(found)
        else:
            chosen += NAMED_ARCHITECTURES.get(entry, entry).split(";")
    for entry in chosen:
        _check_architecture(entry, known, nvcc)
    defaults = [entry for entry in DEFAULT_ARCHITECTURES if entry.partition("+")[0] in known]
    return tuple(dict.fromkeys(chosen or _with_ptx(defaults)))


def _with_ptx(numbers: list[str]) -> list[str]:
    """The same with PTX of the last: devices newer than nvcc run from that."""
    return [*numbers[:-1], numbers[-1].removesuffix("+PTX") + "+PTX"] if numbers else []


def _check_architecture(entry: str, known: list[str], nvcc: str) -> None:
    if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", entry):
        raise SettingError(
            "TORCH_CUDA_ARCH_LIST must hold entries like 9.0 or 9.0+PTX, torch's names "
            f"({', '.join(NAMED_ARCHITECTURES)}), native, all or all-major; got {entry!r}"
        )
    number = re.match(r"\d+\.\d", entry)
    assert number is not None
    if known and number[0] not in known:
        raise SettingError(
            f"TORCH_CUDA_ARCH_LIST asks for {entry}, which {nvcc} does not know; it knows {' '.join(known)}"
        )
    if capability(entry) < OLDEST_ARCHITECTURE:
        oldest = ".".join(map(str, OLDEST_ARCHITECTURE))
        raise SettingError(f"TORCH_CUDA_ARCH_LIST asks for {entry}; the kernels need {oldest} or newer")


def capability(architecture: str) -> tuple[int, int]:
    """``"9.0a+PTX"`` to ``(9, 0)``."""
    major, minor = re.findall(r"\d+", architecture)[:2]
    return int(major), int(minor)


def runs_on(architectures: str, device: tuple[int, int]) -> bool:
    """Whether a library compiled for these (``"8.0 12.0+PTX"``) has code for a device of this capability.

    Compiled code runs on the same major version from its minor one on, PTX on everything newer; of a
    ``9.0a`` both run on that one alone, of a ``10.0f`` on its family, which is the same major version here.
    """
    for entry in architectures.split():
        made, (number, _, ptx) = capability(entry), entry.partition("+")
        if made == device or (made < device and not number.endswith("a") and made[0] == device[0]):
            return True
        if ptx and made < device and number[-1].isdigit():
            return True
    return False
