"""Compilers and settings: what is built for whom, what stops a build at once, and what a GPU is told."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import torch
from paths import ROOT

from wgangp_fast import backend, doctor
from wgangp_fast.errors import BackendError
from wgangp_fast.native import load as native
from wgangp_fast.native import recipe, toolchain

KNOWN = "compute_75 compute_80 compute_86 compute_90 compute_100 compute_103 compute_120 compute_121"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def program(path: Path, *lines: str) -> Path:
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("#!/bin/sh", *lines)) + "\n")
    path.chmod(0o755)
    return path


def toolkit(folder: Path, known: str = KNOWN, cuda: str = "13.0", libraries: str = "lib64") -> str:
    """A CUDA toolkit whose nvcc says what the real one does; returns the path of nvcc."""
    (folder / libraries).mkdir(parents=True)
    (folder / libraries / "libcudart_static.a").touch()
    nvcc = program(
        folder / "bin" / "nvcc",
        f'case "$1" in --list-gpu-arch) echo {known};;',
        f"--version) echo 'Cuda compilation tools, release {cuda}, V{cuda}.88';; esac",
    )
    return str(nvcc)


# --- TORCH_CUDA_ARCH_LIST ---


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("9.0", "9.0"),
        ("8.6;9.0a", "8.6 9.0a"),
        ("8.0 12.0+PTX", "8.0 12.0+PTX"),
        (" 8.0, 10.0f ;", "8.0 10.0f"),
        ("Hopper", "9.0+PTX"),
        ("Turing Ampere;9.0", "7.5+PTX 8.0 8.6+PTX 9.0"),
        ("Blackwell", "10.0 10.3 12.0 12.1+PTX"),
        ("all", "7.5 8.0 8.6 9.0 10.0 10.3 12.0 12.1+PTX"),
        ("all-major", "8.0 9.0 10.0 12.0+PTX"),
        ("", "8.0 9.0 10.0 12.0+PTX"),
    ],
)
def test_architectures(asked: str, chosen: str, tmp_path: Path) -> None:
    assert toolchain.architectures(toolkit(tmp_path), asked) == tuple(chosen.split())


def test_names_are_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own reading of the list gives the same flags, for every name that we take."""
    cpp_extension = pytest.importorskip("torch.utils.cpp_extension")
    for name, numbers in toolchain.NAMED_ARCHITECTURES.items():
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", name)
        flags = toolchain.Cuda("nvcc", tuple(numbers.split(";"))).flags()
        assert sorted(flags) == cpp_extension._get_cuda_arch_flags(), name


def test_native_is_what_the_driver_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = toolkit(tmp_path / "cuda")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    program(tmp_path / "bin" / "nvidia-smi", "printf '9.0\\n8.6\\n9.0\\n'")
    assert toolchain.architectures(nvcc, "native") == ("8.6", "9.0+PTX")
    program(tmp_path / "bin" / "nvidia-smi", "echo 'No devices were found'; exit 6")
    with pytest.raises(toolchain.SettingError, match="nvidia-smi finds no GPU here"):
        toolchain.architectures(nvcc, "native")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("hopper", r"must hold entries like .* Hopper.* native, all or all-major; got 'hopper'"),
        ("9.0+PTX+PTX", "got '9.0.PTX.PTX'"),
        ("8.9", "asks for 8.9, which .*nvcc does not know; it knows 6.0 7.5 8.0"),
        ("Kepler", "asks for 3.5.PTX, which .* does not know"),
        ("6.0", "asks for 6.0; the kernels need 7.5"),
    ],
)
def test_architectures_that_cannot_be_had(asked: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(toolchain.SettingError, match=reason):
        toolchain.architectures(toolkit(tmp_path, f"compute_60 {KNOWN}"), asked)


def test_default_architectures_are_those_nvcc_knows(tmp_path: Path) -> None:
    assert toolchain.architectures(toolkit(tmp_path, "compute_80 compute_90")) == ("8.0", "9.0+PTX")


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0 9.0 10.0 12.0+PTX", (9, 0), True),
        ("8.0 9.0 10.0 12.0+PTX", (8, 9), True),  # compiled code runs on later minor versions
        ("8.0 9.0 10.0 12.0+PTX", (7, 5), False),  # a T4
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),
        ("8.0+PTX", (9, 0), True),
        ("9.0", (12, 0), False),
        ("9.0a+PTX", (10, 0), False),  # architecture-specific code runs there alone, its PTX too
        ("10.0a", (10, 3), False),
        ("10.0f", (10, 3), True),
        ("", (9, 0), False),
    ],
)
def test_which_devices_a_library_serves(architectures: str, capability: tuple[int, int], runs: bool) -> None:
    assert toolchain.runs_on(architectures, capability) == runs


# --- the toolkit ---


def test_nvcc_of_another_cuda_than_torch(tmp_path: Path) -> None:
    nvcc = toolkit(tmp_path, cuda="12.8")
    toolchain.check_nvcc(nvcc, "12.4")
    toolchain.check_nvcc(nvcc, None)  # FORCE_CUDA: this torch says nothing
    with pytest.raises(toolchain.SettingError, match=r"is of CUDA 12, .* with CUDA 13\.0: set CUDA_HOME"):
        toolchain.check_nvcc(nvcc, "13.0")


def test_cuda_runtime_in_lib_or_nowhere(tmp_path: Path) -> None:
    nvcc = toolkit(tmp_path, libraries="lib")
    toolchain.check_nvcc(nvcc, "13.0")
    linked = made_for(nvcc).link_step(Path("out"), Path("out/_C.so")).command
    assert {f"-L{tmp_path / 'lib64'}", f"-L{tmp_path / 'lib'}"} <= set(linked)
    (tmp_path / "lib" / "libcudart_static.a").unlink()
    with pytest.raises(toolchain.SettingError, match=r"has no libcudart_static\.a in .*/lib64, .*/lib,"):
        toolchain.check_nvcc(nvcc, "13.0")


# --- the order of a build ---


def made_for(nvcc: str) -> recipe.Recipe:
    torch_folder = Path(torch.__file__).parent
    return recipe.Recipe(ROOT / "csrc", torch_folder, "2.13.0", "g++", toolchain.Cuda(nvcc, ("9.0",)))


def test_everything_waits_for_the_binding() -> None:
    """What torch's headers can break ends before a kernel, which takes minutes, begins; with ninja too."""
    steps = made_for("nvcc").compile_steps(Path("out"))
    first = [step for step in steps if not step.after]
    sources = {step.inputs[0].name for step in first}
    assert sources == {path.name for path in (ROOT / "csrc").glob("ops*.cpp")}
    assert any(step.inputs[0].suffix == ".cu" for step in steps)
    outputs = [str(step.output) for step in first]
    builds = [line for line in recipe.ninja_text(steps).splitlines() if line.startswith("build ")]
    waiting = [line.partition(" || ")[2].split() for line in builds if " || " in line]
    assert waiting == [outputs] * (len(steps) - len(first))

    ended: list[recipe.Step] = []

    def fails(step: recipe.Step) -> None:
        time.sleep(0.01)  # a pool that did not wait would have begun the kernels
        ended.append(step)
        if step is first[-1]:
            raise recipe.BuildError("no such macro")

    with pytest.raises(recipe.BuildError, match="no such macro"):
        recipe.run_steps([*steps, recipe.Step(Path("out/_C.so"), (), ())], fails)
    assert all(step in first for step in ended)


@needs_compiler
def test_binding_compiles_with_the_macro_of_older_headers(tmp_path: Path) -> None:
    """torch 2.11 and 2.12 have TORCH_ERROR_CODE_CHECK alone; the other name is taken away here."""
    source = tmp_path / "old.cpp"
    source.write_text(
        "#include <torch/csrc/stable/library.h>\n#include <torch/csrc/stable/tensor.h>\n"
        "#include <torch/csrc/stable/accelerator.h>\n"
        "#undef STABLE_TORCH_ERROR_CODE_CHECK\n#undef TORCH_ERROR_CODE_CHECK\n"
        "#define TORCH_ERROR_CODE_CHECK(call) do { if (call) throw 1; } while (false)\n"
        f'#include "{ROOT}/csrc/ops_arrays.cpp"\n'
    )
    steps = made_for("nvcc").compile_steps(tmp_path)
    command = next(step.command for step in steps if step.inputs[0].name == "ops_arrays.cpp")
    flags = [word for word in command[1:] if word.startswith(("-D", "-I", "-std"))]
    headers = ["-isystem", str(Path(torch.__file__).parent / "include")]
    done = subprocess.run(
        ["g++", *flags, *headers, "-fsyntax-only", str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# --- setup.py ---


def setup_py(arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *shlex.split(arguments)],
        cwd=ROOT,
        env={**os.environ, "BUILD_NO_EXT": "", "BUILD_NO_CUDA": "", "FORCE_CUDA": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@needs_compiler
@pytest.mark.parametrize(
    ("asked", "reason"),
    [("Hoper", "got 'Hoper'"), ("Kepler", "asks for 3.5+PTX"), ("native", "finds no GPU")],
)
def test_a_setting_that_cannot_be_met_stops_the_installation(asked: str, reason: str, tmp_path: Path) -> None:
    """Not a warning, which pip hides, and an installation without kernels."""
    toolkit(tmp_path / "cuda")
    program(tmp_path / "bin" / "nvidia-smi", "exit 6")
    environment = {"CUDA_HOME": str(tmp_path / "cuda"), "TORCH_CUDA_ARCH_LIST": asked}
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = setup_py("build --help", environment)  # it would go on to print help
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_metadata_with_the_setuptools_of_a_fresh_environment(tmp_path: Path) -> None:
    """--no-build-isolation takes what is there: setuptools 65.5 in a venv of Python 3.11."""
    venv.create(tmp_path / "venv", with_pip=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    if not (site / "setuptools").exists():
        pytest.skip("this Python's venv has no setuptools: pip install setuptools brings a new one")
    subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "setup.py", "-q", "egg_info", "--egg-base", tmp_path],
        cwd=ROOT,
        env={name: text for name, text in os.environ.items() if name != "PYTHONPATH"},
        check=True,
        timeout=120,
    )
    told = (tmp_path / "wgangp_fast.egg-info" / "PKG-INFO").read_text()
    assert "Name: wgangp" in told
    assert "License: MIT" in told
    assert "Requires-Python: >=3.10" in told


# --- what a GPU is told ---


def test_a_device_that_the_library_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the reason and the remedy, instead of a launch that fails."""
    monkeypatch.setattr(backend, "no_gpu", lambda: None)
    monkeypatch.setattr(native, "_status", native.Status(True, "prebuilt", Path("x"), cuda=True))
    monkeypatch.setattr(native, "information", lambda: {"architectures": "8.0 9.0 12.0+PTX"})
    for device, reason in {
        (9, 0): None,
        (12, 1): None,
        (7, 5): r"kernels for 8.0 9.0 12.0\+PTX, this GPU has capability 7.5: .*ARCH_LIST=7.5 ",
        (7, 0): "compute capability 7.0, the CUDA kernels need 7.5",
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda found=device: found)
        if reason is None:
            assert backend.missing("cuda") is None
        else:
            with pytest.raises(BackendError, match=reason):
                backend.require("cuda")


@pytest.mark.parametrize(
    ("cuda", "why", "remedy"),
    [
        (None, "this torch is built without CUDA", "install one with CUDA"),
        ("13.0", "built with CUDA 13.0, but there is no GPU, or no driver", "see nvidia-smi"),
    ],
)
def test_no_gpu_or_no_cuda(cuda: str | None, why: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert why in (backend.missing("cuda") or "")
    rows = {row.name: row for row in doctor.backends(native.Status(True, "prebuilt", Path("x"), cuda=True))}
    assert not rows["cuda"].runs
    assert why in rows["cuda"].note
    assert remedy in rows["cuda"].remedy
