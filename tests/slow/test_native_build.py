"""How the native library is built, found, remembered and described; and that doing without it works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT

from wgangp_fast import doctor
from wgangp_fast.native import cache, recipe, toolchain
from wgangp_fast.native import load as native
from wgangp_fast.ops.registry import KERNELS

CSRC = ROOT / "csrc"

# A whole library in one file, so that a test compiles for seconds: the loader cares for nothing else.
SMALL = """
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
torch::stable::Tensor same(const torch::stable::Tensor& x) { return x; }
STABLE_TORCH_LIBRARY(wgangp_fast, m) { m.def("interpolate(Tensor x) -> Tensor"); }
STABLE_TORCH_LIBRARY_IMPL(wgangp_fast, CPU, m) { m.impl("interpolate", TORCH_BOX(&same)); }
"""

needs_compiler = pytest.mark.skipif(
    not any(Path(folder, "g++").exists() for folder in os.environ["PATH"].split(os.pathsep)),
    reason="needs g++",
)


def run(program: str, environment: dict[str, str]) -> subprocess.Popen[str]:
    """A fresh interpreter on ``program``, which sees only what ``environment`` adds."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("WGANGP_FAST", "XDG_CACHE", "CXX"))}
    return subprocess.Popen(
        [sys.executable, "-W", "always", "-c", program],
        env={**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output_of(program: str, environment: dict[str, str]) -> tuple[str, str]:
    process = run(program, environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out, err


def elsewhere(csrc: Path) -> str:
    """Lines that make the loader see no prebuilt library and other sources, compiled without optimisation."""
    return f"""
import pathlib, torch
from wgangp_fast.native import load as native
native.PREBUILT = pathlib.Path("/nonexistent/_C.abi3.so")
native.csrc = lambda: pathlib.Path({str(csrc)!r})
recipe = native.local_recipe
native.local_recipe = lambda: recipe("-O0")
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "ops.cpp").write_text(SMALL)
    return folder


@pytest.fixture
def compiler(tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """A compiler that writes a line to calls.txt for each compilation, and then does ``action``."""

    def make(action: str) -> dict[str, str]:
        path = tmp_path / "compiler"
        path.write_text(
            '#!/bin/sh\n[ "$1" = --version ] && exec g++ --version\n'
            f"echo call >> {tmp_path}/calls.txt\n{action}\n"
        )
        path.chmod(0o755)
        return {"CXX": str(path), "WGANGP_FAST_CACHE": str(tmp_path / "cache")}

    return make


@needs_compiler
def test_two_processes_build_once(
    small: Path, tmp_path: Path, compiler: Callable[[str], dict[str, str]]
) -> None:
    """One builds while the other waits; both load; a third finds it. Other sources are another library."""
    program = elsewhere(small) + (
        "assert native.library()\n"
        "assert torch.ops.wgangp_fast.interpolate(torch.ones(2)).sum() == 2\n"
        "s = native.status()\n"
        "assert s.loaded and not s.cuda and s.reason is None and s.path.exists(), s\n"
        "print(s.how)"
    )
    environment = compiler('sleep 1; exec g++ "$@"')
    processes = [run(program, environment) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert sorted(out.strip() for out, _ in outputs) == ["built now", "cached build"]
    calls = (tmp_path / "calls.txt").read_text().count("call")
    assert calls == 2  # one file compiled, one link
    assert output_of(program, environment)[0].strip() == "cached build"
    (folder,) = (path.parent for path in (tmp_path / "cache").glob("*/_C.so"))
    assert sorted(path.name for path in folder.iterdir()) == ["_C.so", "lock"]
    (small / "more.h").write_text("// another source")
    looked = output_of(elsewhere(small) + "print(native.status().reason)", environment)[0]
    assert "not built yet" in looked
    (small / "more.h").unlink()
    (small / "ops_more.cpp").write_text("int more() { return 1; }")
    assert output_of(program, environment)[0].strip() == "built now"
    calls += 2  # the new file, and a link: the object of the old one was kept
    assert (tmp_path / "calls.txt").read_text().count("call") == calls


@needs_compiler
def test_failure_is_said_once_and_remembered(
    small: Path, tmp_path: Path, compiler: Callable[[str], dict[str, str]]
) -> None:
    environment = compiler("echo 'no room left' >&2; exit 3")
    program = elsewhere(small) + (
        "assert native.library() is False\n"
        "assert native.library() is False\n"
        "try:\n    native.require()\nexcept native.NativeError as error:\n    print(error)\n"
    )
    out, err = output_of(program, environment)
    assert err.count("NativeWarning") == 1
    for text in (out, err):  # the warning and the error have both causes
        assert "/nonexistent/_C.abi3.so does not exist" in text
        assert "building it failed" in text
        assert "no room left" in text
    assert (tmp_path / "calls.txt").read_text().count("call") == 1
    out, _ = output_of(program, environment)
    assert "from an earlier attempt" in out
    assert "no room left" in out
    assert (tmp_path / "calls.txt").read_text().count("call") == 1
    (marker,) = (tmp_path / "cache").glob("*/failed.txt")
    marker.unlink()
    output_of(program, environment)
    assert (tmp_path / "calls.txt").read_text().count("call") == 2


def test_without_a_compiler(small: Path, tmp_path: Path) -> None:
    program = elsewhere(small) + "assert not native.library()\nprint(native.status().reason)"
    environment = {"CXX": "no-such-compiler", "WGANGP_FAST_CACHE": str(tmp_path / "cache")}
    out, err = output_of(program, environment)
    assert "there is no C++ compiler: CXX=no-such-compiler is not a program" in out
    assert err.count("NativeWarning") == 1
    assert not (tmp_path / "cache").exists()


def test_disabled(small: Path, tmp_path: Path) -> None:
    """Neither loads nor builds nor warns; what is required says why it is not there."""
    program = elsewhere(small) + (
        "assert not native.library()\n"
        "try:\n    native.require()\nexcept native.NativeError as error:\n    print(error)\n"
    )
    out, err = output_of(program, {"WGANGP_FAST_NATIVE": "0", "WGANGP_FAST_CACHE": str(tmp_path / "cache")})
    assert "WGANGP_FAST_NATIVE=0 disables" in out
    assert "NativeWarning" not in err
    assert not (tmp_path / "cache").exists()


def test_prebuilt_that_does_not_load_is_a_cause(small: Path, tmp_path: Path) -> None:
    broken = tmp_path / "_C.abi3.so"
    broken.write_text("not a library")
    program = elsewhere(small) + (
        f"native.PREBUILT = pathlib.Path({str(broken)!r})\nprint(native.status().reason)"
    )
    out, _ = output_of(program, {"WGANGP_FAST_CACHE": str(tmp_path / "cache")})
    assert "the prebuilt library does not load" in out
    assert "not built yet" in out


def test_cache_folder() -> None:
    assert cache.cache_folder({"WGANGP_FAST_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache.cache_folder({"XDG_CACHE_HOME": "/b"}) == Path("/b/wgangp_fast")
    assert cache.cache_folder({}) == Path.home() / ".cache" / "wgangp_fast"


def make_recipe(csrc: Path, **changes: Any) -> recipe.Recipe:
    settings: dict[str, Any] = {
        "torch": Path(torch.__file__).parent,
        "torch_version": "2.13.0",
        "compiler": "g++",
        **changes,
    }
    return recipe.Recipe(csrc, **settings)


def test_key_changes_with_whatever_decides_the_outcome(small: Path) -> None:
    recipes = [
        make_recipe(small),
        make_recipe(small, torch_version="2.12.0"),
        make_recipe(small, optimize="-O0"),
        make_recipe(small, compiler="other-compiler"),
        make_recipe(small, cuda=toolchain.Cuda("nvcc", ("9.0",))),
        make_recipe(small, cuda=toolchain.Cuda("nvcc", ("8.0",))),
    ]
    keys = [one.key() for one in recipes]
    assert keys[0] == make_recipe(small).key()
    (small / "ops.cpp").write_text(SMALL + "// changed")
    keys.append(make_recipe(small).key())
    assert len(set(keys)) == len(keys)
    (small / "tests").mkdir()
    (small / "tests" / "test_cpu_x.cpp").write_text("")
    assert make_recipe(small).key() == keys[-1]  # tests are no part of the library


def test_each_kernel_is_compiled_for_each_capability() -> None:
    one = make_recipe(CSRC)
    commands = [shlex.join(step.command) for step in one.compile_steps(Path("out"))]
    assert len({step.output for step in one.compile_steps(Path("out"))}) == len(commands)
    kernels = [path.stem for path in (CSRC / "cpu").glob("*_cpu.cpp")]
    for kernel in kernels:
        mine = [command for command in commands if f"/{kernel}.cpp" in command]
        found = {re.search(r"WGANGP_FAST_CAPABILITY=(\w+)", command)[1]: command for command in mine}
        assert set(found) == set(one.capabilities())
        if "avx512" in found:
            assert "-mavx" not in found["baseline"]
            assert "-mavx512f" not in found["avx2"]
            assert "-mavx512bw" in found["avx512"]
    assert not [command for command in commands if "-ffast-math" in command or "-march" in command]


# --- schemas ---

ATEN_TYPES = {"Tensor", "Tensor?", "Tensor(a!)", "Tensor[]", "Tensor?[]", "int", "float", "bool"}


def schemas() -> dict[str, str]:
    """Name to text of every operator that csrc/ops.cpp defines."""
    texts = re.findall(r'm\.def\("(.+?)"\);', (CSRC / "ops.cpp").read_text())
    return {text.split("(")[0]: text for text in texts}


def test_schemas_are_the_references_and_each_is_implemented() -> None:
    found = schemas()
    assert found == {kernel.name: kernel.schema for kernel in KERNELS.values()}
    source = (CSRC / "ops.cpp").read_text()
    assert sorted(re.findall(r'm\.impl\("(\w+)", TORCH_BOX\(&binding::(\w+)\)', source)) == sorted(
        (name, name) for name in found
    )
    others = [path.name for path in CSRC.rglob("*.cpp") if "STABLE_TORCH_LIBRARY" in path.read_text()]
    assert others == ["ops.cpp"]


def test_binding_keeps_to_the_stable_abi() -> None:
    """One include of anything else of torch, and the library would serve one version of it."""
    allowed = ("torch/csrc/stable/", "torch/headeronly/")
    for path in [*CSRC.glob("*.cpp"), *CSRC.glob("*.h")]:
        included = re.findall(r"#include <((?:torch|ATen|c10)[^>]*)>", path.read_text())
        assert not [name for name in included if not name.startswith(allowed)], path
    for path in [*CSRC.glob("cpu/*"), *CSRC.glob("cuda/*"), *CSRC.glob("common/*"), CSRC / "ops.h"]:
        assert not re.search(r"#include <(torch|ATen|c10|Python)", path.read_text()), path


# --- setup.py ---


def setup_py(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def extensions(environment: dict[str, str]) -> tuple[list[str], str]:
    """Names of what setup.py would build, and what it said on stderr."""
    program = (
        "import setuptools, sys\n"
        "setuptools.setup = lambda **facts: print([e.name for e in facts['ext_modules']], facts['options'])\n"
        "sys.argv = ['setup.py', 'build']\n"
        f"__file__ = {str(ROOT / 'setup.py')!r}\n"
        "exec(compile(open(__file__).read(), __file__, 'exec'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    names, _, options = run.stdout.strip().partition("] ")
    assert ("cp310" in options) == (names != "[")
    return ast.literal_eval(names + "]"), run.stderr


def test_build_no_ext() -> None:
    assert extensions({"BUILD_NO_EXT": "1"}) == ([], "")


def test_without_a_compiler_the_installation_is_python_alone() -> None:
    names, said = extensions({"CXX": "no-such-compiler", "BUILD_NO_EXT": ""})
    assert names == []
    assert said.count("warning:") == 1
    assert "there is no C++ compiler: CXX=no-such-compiler" in said


@needs_compiler
def test_with_a_compiler_the_extensions_are_built() -> None:
    names, said = extensions({"CXX": "g++", "BUILD_NO_EXT": ""})
    assert names[0] == "wgangp_fast._C"
    assert said == ""


@pytest.mark.skipif(
    not os.environ.get("WGANGP_FAST_TEST_WHEEL"), reason="slow: WGANGP_FAST_TEST_WHEEL=1 runs it"
)
def test_wheel_in_a_clean_environment(tmp_path: Path) -> None:
    """The wheel is abi3, has the sources, and its library loads where nothing else of the tree is seen."""
    built = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            tmp_path,
            ROOT,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-cp310-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".so")] == ["wgangp_fast/_C.abi3.so"]
    assert "wgangp_fast/_csrc/ops.cpp" in names
    assert not [name for name in names if "/tests/" in name]
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    program = (  # the checkout, which is the working folder or an editable installation, must not be found
        f"import sys\nsys.path.insert(0, {str(site)!r})\nimport torch\n"
        "from wgangp_fast.native import load as native\n"
        "assert native.library()\ns = native.status()\nprint(s.how, s.path, native.csrc())"
    )
    out, _ = output_of(program, {"PYTHONPATH": str(site), "CXX": "no-such-compiler"})
    assert out.split() == ["prebuilt", f"{site}/wgangp_fast/_C.abi3.so", f"{site}/wgangp_fast/_csrc"]


# --- doctor ---


def test_doctor_without_anything_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native, "PREBUILT", tmp_path / "_C.abi3.so")
    monkeypatch.setattr(native, "_status", None)
    monkeypatch.setenv("WGANGP_FAST_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^  ref +yes", text, re.MULTILINE)
    assert re.search(r"^  cpu +no .*does not exist.*there is no C\+\+ compiler", text, re.MULTILINE)
    assert "remedy: install a C++ compiler" in text
    assert doctor.main(["--build"]) == 1


def test_doctor_names_every_backend_and_a_remedy_for_those_that_cannot_run() -> None:
    for status in (native.Status(), native.Status(True, "prebuilt", Path("x"), cuda=True)):
        found = doctor.backends(status)
        assert [backend.name for backend in found] == ["ref", "cpu", "cuda", "triton"]
        assert all(backend.runs or backend.remedy for backend in found)
        assert found[1].runs == status.loaded
