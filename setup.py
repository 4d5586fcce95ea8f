"""Build entry point; the facts about the package are in pyproject.toml, the compilers' in native/recipe.py.

One extension, optional: ``wgangp_fast/_C.abi3.so``, the kernels and their binding on torch's stable ABI. No
Python is in it: one file serves every Python from 3.10 and every torch from 2.11 on. In a checkout
(``build_ext --inplace``, ``pip install -e``), where pybind11 is there, ``wgangp_fast/_build_info`` as well,
for the Python that builds it; never in a wheel.

Environment: BUILD_NO_EXT=1 does without it; BUILD_NO_CUDA=1 leaves the CUDA kernels out, FORCE_CUDA=1 builds
them although this torch has no CUDA; TORCH_CUDA_ARCH_LIST, CUDA_HOME, CXX and MAX_JOBS as everywhere.
Without a compiler, or where the build cannot see torch (pip's isolation: pass --no-build-isolation), the
installation is Python alone and says so; a compiler that fails fails the installation.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SUFFIXES = {".cpp", ".cu", ".h", ".cuh"}


sys.path.insert(0, str(ROOT))
from wgangp_fast.native import recipe as recipes  # noqa: E402 - this checkout's; torch is not imported
from wgangp_fast.native import toolchain  # noqa: E402 - as above: the path comes first


def torch_facts() -> tuple[Path, str, str | None]:
    """Folder, version and CUDA version of the torch that this build sees, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        raise toolchain.BuildError(
            "this build does not see torch, whose headers it needs (pip install --no-build-isolation)"
        )
    folder = Path(next(iter(spec.submodule_search_locations)))
    facts: dict[str, object] = {}
    exec((folder / "version.py").read_text(encoding="utf-8"), facts)
    version = str(facts["__version__"])
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    if numbers < [2, 11]:
        raise toolchain.BuildError(f"torch {version} has no stable ABI of 2.11")
    cuda = facts.get("cuda")
    return folder, version, str(cuda) if cuda else None


def commit() -> str:
    """The commit that is built, with a + where the tree differs from it; empty outside a checkout."""
    if not (ROOT / ".git").exists():
        return ""
    name = toolchain.run_text(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]).strip()
    changed = toolchain.run_text(["git", "-C", str(ROOT), "status", "--porcelain", "-uno", "csrc"]).strip()
    return name + ("+" if changed else "") if re.fullmatch(r"[0-9a-f]+", name) else ""


def find_cuda(torch_cuda: str | None) -> Any:
    """The CUDA compiler to use, or None: a torch without CUDA could not call what it compiles."""
    if os.environ.get("BUILD_NO_CUDA") or not (torch_cuda or os.environ.get("FORCE_CUDA")):
        return None
    nvcc = toolchain.find_nvcc()
    if nvcc is None:
        return None
    toolchain.check_nvcc(nvcc, torch_cuda)
    return toolchain.Cuda(nvcc, toolchain.architectures(nvcc, os.environ.get("TORCH_CUDA_ARCH_LIST", "")))


def find_ninja() -> str | None:
    """ninja from the path, else the one installed beside this Python."""
    return shutil.which("ninja") or shutil.which("ninja", path=sysconfig.get_path("scripts"))


class BuildNative(build_ext):
    """Builds the extensions with the recipe's commands instead of distutils' own."""

    def build_extension(self, ext: Extension) -> None:
        # Not build_temp, which an editable install makes anew: what is compiled stays for the next time.
        tag = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        folder = ROOT / "build" / tag / ext.name
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        made = folder / output.name
        if ext.name == "wgangp_fast._C":
            steps = [*RECIPE.compile_steps(folder), RECIPE.link_step(folder, made)]
        else:
            steps = [information_step(made)]
        try:
            self.run_steps(steps, folder)
        except toolchain.BuildError as error:
            raise SystemExit(
                f"wgangp_fast: building {ext.name} failed (BUILD_NO_EXT=1 skips it)\n{error}"
            ) from None
        # Replaced, not written over: a process that has the old file mapped keeps it whole.
        beside = output.with_name(output.name + ".new")
        shutil.copy2(made, beside)
        os.replace(beside, output)

    def run_steps(self, steps: Any, folder: Path) -> None:
        ninja = find_ninja()
        if ninja is None:
            recipes.run_steps(steps)
            return
        (folder / "build.ninja").write_text(recipes.ninja_text(steps), encoding="utf-8")
        command = [ninja, "-C", str(folder), f"-j{recipes.jobs()}"]
        if subprocess.run(command, check=False).returncode:
            raise toolchain.BuildError("ninja stopped; the compiler's error is above")


def information_step(output: Path) -> Any:
    """One command: the module _build_info."""
    import pybind11

    source = RECIPE.csrc / "build_info.cpp"
    command = [RECIPE.compiler, *RECIPE.cpp_flags(), *RECIPE.information_flags(), "-DWGANGP_FAST_PYBIND"]
    for folder in (pybind11.get_include(), sysconfig.get_path("include")):
        command += ["-isystem", folder]
    command += ["-shared", str(source), "-o", str(output)]
    if sys.platform == "darwin":
        command += ["-undefined", "dynamic_lookup"]
    return recipes.Step(output, tuple(command), (source,))


class BuildPython(build_py):
    """Puts the C++ sources into wheels, for building at first use; an editable install reads ./csrc."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        source = ROOT / "csrc"
        for path in source.rglob("*"):
            relative = path.relative_to(source)
            if path.suffix in SUFFIXES and relative.parts[0] != "tests":
                target = Path(self.build_lib) / "wgangp_fast" / "_csrc" / relative
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)


def find_recipe() -> Any:
    """How to build here, or None after a line that says why not."""
    if os.environ.get("BUILD_NO_EXT"):
        return None
    try:
        folder, version, torch_cuda = torch_facts()
        compiler = toolchain.find_compiler()
        return recipes.Recipe(
            ROOT / "csrc", folder, version, compiler, find_cuda(torch_cuda), commit=commit()
        )
    except toolchain.SettingError as error:
        raise SystemExit(f"wgangp_fast: {error}") from None
    except toolchain.BuildError as error:
        print(
            f"warning: wgangp_fast is installed without its native kernels: {error}. They are compiled at "
            "first use where that is possible; `wgangp-fast doctor` tells.",
            file=sys.stderr,
        )
        return None


# Asking for metadata (egg_info, sdist) must not need a compiler, and must not warn.
BUILDING = not {"egg_info", "dist_info", "sdist", "clean", "--version", "--name"} & set(sys.argv)
RECIPE = find_recipe() if BUILDING else None

WHEEL = "bdist_wheel" in sys.argv
extensions = []
if RECIPE is not None:
    sources = [str(path.relative_to(ROOT)) for path in RECIPE.files()]
    extensions.append(Extension("wgangp_fast._C", sources=[], depends=sources, py_limited_api=True))
    if importlib.util.find_spec("pybind11") and not WHEEL:
        extensions.append(Extension("wgangp_fast._build_info", sources=[], depends=sources))

options = {"bdist_wheel": {"py_limited_api": "cp310"}} if extensions else {}
if WHEEL:
    options["build"] = {"build_base": "build/wheel"}  # nothing that a checkout's build has left

setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
    options=options,
)
