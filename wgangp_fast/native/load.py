"""The native kernels: the prebuilt library, else one built at first use, else a reason why not.

:func:`library` loads them and says whether they are there; :func:`status` says which, or why not. Nothing
is loaded, looked for or compiled until somebody asks. ``WGANGP_FAST_NATIVE=0`` disables them.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from ..engine import torch_internals
from . import cache, recipe, toolchain
from .recipe import Recipe
from .toolchain import BuildError

ENVIRONMENT = "WGANGP_FAST_NATIVE"
PACKAGE = Path(__file__).resolve().parent.parent
PREBUILT = PACKAGE / "_C.abi3.so"


class NativeError(RuntimeError):
    """The native kernels were required and are not there; the message has every cause."""


class NativeWarning(UserWarning):
    """The native kernels are not there, and slower code runs in their place."""


@dataclass(frozen=True)
class Status:
    """Whether the native kernels are loaded, and from where, or why they are not."""

    loaded: bool = False
    how: str | None = None  # "prebuilt", "cached build" or "built now"
    path: Path | None = None
    cuda: bool = False
    reason: str | None = None  # when not loaded


_lock = threading.Lock()
_status: Status | None = None  # None: nobody asked yet


def csrc() -> Path | None:
    """The sources: those beside the package in a checkout, else those that were installed with it."""
    for folder in (PACKAGE.parent / "csrc", PACKAGE / "_csrc"):
        if (folder / "ops.cpp").exists():
            return folder
    return None


def local_recipe(optimize: str = "-O3") -> Recipe:
    """How to build for this machine: its torch, its compiler, its GPU's architecture.

    Raises:
        BuildError: something that a build needs is not here.
    """
    sources = csrc()
    if sources is None:
        raise BuildError("this installation has no C++ sources")
    compiler = toolchain.find_compiler()
    nvcc = toolchain.find_nvcc() if torch.version.cuda and torch.cuda.is_available() else None
    cuda = None
    if nvcc and not os.environ.get("BUILD_NO_CUDA"):
        toolchain.check_nvcc(nvcc, torch.version.cuda)
        devices = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        cuda = toolchain.Cuda(nvcc, tuple(f"{major}.{minor}" for major, minor in sorted(devices)))
    where, version = Path(torch.__file__).parent, torch.__version__
    return Recipe(sources, where, version, compiler, cuda, optimize, local=recipe.local_capability())


def _load(path: Path, how: str) -> Status:
    torch.ops.load_library(str(path))
    with_cuda = torch_internals.has_cuda_kernel("wgangp_fast::interpolate")
    return Status(True, how, path, with_cuda)


def _find(build: bool) -> Status:
    """Try the prebuilt library, then the cache, then (if asked) a build; the reason names each cause."""
    if os.environ.get(ENVIRONMENT) == "0":
        return Status(reason=f"{ENVIRONMENT}=0 disables the native kernels")
    causes = [
        f"no prebuilt library: {PREBUILT} does not exist (installed without a compiler, or BUILD_NO_EXT)"
    ]
    if PREBUILT.exists():
        try:
            return _load(PREBUILT, "prebuilt")
        except (OSError, RuntimeError) as error:
            causes = [f"the prebuilt library does not load: {error}"]
    try:
        local = local_recipe()
        folder = cache.cache_folder()
        if not build and not cache.find(local, folder):
            failure = cache.remembered_failure(local, folder)
            if failure:
                raise BuildError(failure)
            causes.append(f"not built yet: the first use compiles it into {folder}")
        else:
            path, now = cache.build(local, folder)
            return _load(path, "built now" if now else "cached build")
    except (BuildError, OSError, RuntimeError, ImportError) as error:
        causes.append(f"building it failed: {error}")
    return Status(reason="; and ".join(causes))


def library(*, build: bool = True) -> bool:
    """Load the native kernels if they are not loaded; return whether they are.

    The first call decides for the process. Where they cannot be had, it warns once.

    Args:
        build: compile them if nothing prebuilt is there; False: only look.
    """
    global _status
    if _status is not None:
        return _status.loaded
    with _lock:
        if _status is None:
            found = _find(build)
            if not build and not found.loaded:
                return False
            _status = found
            if not found.loaded and os.environ.get(ENVIRONMENT) != "0":
                warnings.warn(
                    f"wgangp_fast runs without its native kernels (slower, same results): {found.reason}",
                    NativeWarning,
                    stacklevel=2,
                )
    return _status.loaded


def status() -> Status:
    """What :func:`library` found; before its first call: what is here without compiling anything."""
    global _status
    with _lock:
        found = _status or _find(build=False)
        if found.loaded:
            _status = found
    return found


def require() -> None:
    """Load the native kernels.

    Raises:
        NativeError: they are not there; with both causes, of the prebuilt library and of the build.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NativeWarning)
        loaded = library()
    if not loaded:
        raise NativeError(f"wgangp_fast's native kernels are not available: {status().reason}")


def information() -> dict[str, str]:
    """What the native code was built from, by what and for what; empty where nothing was built.

    From the loaded library, which every Python can ask; while none is loaded, from the module _build_info,
    which a checkout has for the Python that built it.
    """
    if _status is None or _status.path is None:
        try:
            return dict(importlib.import_module("wgangp_fast._build_info").info())
        except ImportError:
            return {}
    function = ctypes.CDLL(str(_status.path)).wgangp_fast_build_info
    function.restype = ctypes.c_char_p
    lines = function().decode().splitlines()
    return dict(line.split(": ", 1) for line in lines if ": " in line)


def without_cuda(device: tuple[int, int]) -> str | None:
    """Why the loaded library has no kernels for a GPU of this capability, with the remedy; None if it has."""
    number, oldest = (".".join(map(str, version)) for version in (device, toolchain.OLDEST_ARCHITECTURE))
    if device < toolchain.OLDEST_ARCHITECTURE:
        return f"this GPU has compute capability {number}, the CUDA kernels need {oldest}: use impl='auto'"
    remedy = f"build it with nvcc and TORCH_CUDA_ARCH_LIST={number} (docs/install.md)"
    if not status().cuda:
        return f"the native library was built without CUDA: {remedy}"
    made_for = information().get("architectures", "")
    if toolchain.runs_on(made_for, device):
        return None
    return f"the native library has CUDA kernels for {made_for}, this GPU has capability {number}: {remedy}"


__all__ = [
    "ENVIRONMENT",
    "BuildError",
    "NativeError",
    "NativeWarning",
    "Status",
    "csrc",
    "information",
    "library",
    "local_recipe",
    "require",
    "status",
    "without_cuda",
]
