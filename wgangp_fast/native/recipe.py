"""How the native library is compiled: flags, sources, and the commands in order.

``setup.py`` (ahead of time) and :mod:`.cache` (at first use) share it. The standard library alone:
``setup.py`` imports it without the package, before torch can be imported.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from .toolchain import BuildError, Cuda, compiler_version, cudart_folders

TARGET = 0x020B000000000000  # torch 2.11: the oldest whose stable ABI has what the binding calls
TARGET_TEXT = "2.11"
STANDARD = "-std=c++20"
# No -ffast-math: NaN and infinity must come out as torch's do.
COMMON = (STANDARD, "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
WARNINGS = ("-Wall", "-Wextra")
CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "baseline": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"),
        *("-mavx2", "-mfma", "-mf16c", "-mprefer-vector-width=512"),
    ),
}


@dataclass(frozen=True)
class Step:
    """One command and the file that it makes."""

    output: Path
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    after: tuple[Path, ...] = ()  # outputs of other steps that are waited for, but not read


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the library is."""

    csrc: Path
    torch: Path  # the folder of the torch package: its headers and libraries
    torch_version: str
    compiler: str
    cuda: Cuda | None = None
    optimize: str = "-O3"
    commit: str = ""
    local: str | None = None  # the one instruction set to compile for: a library for this machine alone

    def capabilities(self) -> Mapping[str, tuple[str, ...]]:
        """Instruction sets that the CPU kernels are compiled for, with their flags."""
        if self.local:
            return {"baseline": CAPABILITIES[self.local]}
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        return CAPABILITIES if x86 else {"baseline": ()}

    def files(self) -> list[Path]:
        """Every source that counts, headers too, in a fixed order."""
        suffixes = {".cpp", ".cu", ".h", ".cuh"}
        found = (path for path in self.csrc.rglob("*") if path.suffix in suffixes)
        return sorted(path for path in found if path.relative_to(self.csrc).parts[0] != "tests")

    def source_hash(self) -> str:
        """Of the sources alone: what a library was made from."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(f"{path.relative_to(self.csrc).as_posix()}\n".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]

    def key(self) -> str:
        """Of everything that decides the outcome: sources, flags, compilers, torch, CUDA, machine."""
        folder = Path("build")
        steps = [*self.compile_steps(folder), self.link_step(folder, folder / "out")]
        parts = [
            *self.information().values(),
            *(shlex.join(step.command) for step in steps),
            platform.machine(),
            sys.platform,
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]

    def information(self) -> dict[str, str]:
        """What the built library says about itself: macros of build_info.cpp, texts."""
        return {
            "COMPILER": compiler_version(self.compiler),
            "CAPABILITIES": self.local or " ".join(self.capabilities()),
            "CUDA": compiler_version(self.cuda.nvcc) if self.cuda else "",
            "ARCHITECTURES": " ".join(self.cuda.architectures) if self.cuda else "",
            "TORCH_TARGET": TARGET_TEXT,
            "TORCH_BUILT_WITH": self.torch_version,
            "SOURCES": self.source_hash(),
            "COMMIT": self.commit,
        }

    def step_key(self, step: Step) -> str:
        """Of what decides one object file: its source, every header, its command, the compiler."""
        digest = hashlib.sha256()
        for path in self.files():
            if path.suffix in (".h", ".cuh") or path in step.inputs:
                digest.update(path.read_bytes())
        folder = str(step.output.parent)
        command = [word.replace(folder, "") for word in step.command]
        digest.update(shlex.join([*command, compiler_version(step.command[0])]).encode())
        return digest.hexdigest()[:24]

    def _definitions(self) -> list[str]:
        flags = []
        if self.cuda:
            flags.append("-DWGANGP_FAST_CUDA")
            if (self.csrc / "cuda" / "mlp_penalty_cuda.cu").exists():
                flags.append("-DWGANGP_FAST_MLP")
        return flags

    def information_flags(self) -> list[str]:
        return [f'-DWGANGP_FAST_INFO_{name}="{text}"' for name, text in self.information().items()]

    def cpp_flags(self) -> list[str]:
        """For any C++ file of the project, without torch."""
        only = ["-DWGANGP_FAST_ONLY_BASELINE"] if self.local else []
        return [self.optimize, *COMMON, *WARNINGS, "-fPIC", "-fvisibility=hidden", f"-I{self.csrc}", *only]

    def compile_steps(self, folder: Path) -> list[Step]:
        """Object files in ``folder``.

        The binding comes first and everything else waits for it: it takes seconds, and it is what fails where
        torch's headers are not those that it knows. Then the slow ones, which decide when the last one ends.
        """
        base = [self.compiler, *self.cpp_flags()]
        binding = [*base, *self._definitions(), f"-DTORCH_TARGET_VERSION=0x{TARGET:016x}"]
        binding += ["-isystem", str(self.torch / "include")]
        first = [
            self._compile(binding, source, folder / f"{source.stem}.o")
            for source in sorted(self.csrc.glob("ops*.cpp"))
        ]
        steps = []
        if self.cuda:
            host = ",".join([*WARNINGS, "-fPIC", "-fvisibility=hidden"])
            command = [self.cuda.nvcc, "-O3", STANDARD, f"-Xcompiler={host}", *self.cuda.flags()]
            command += [f"-I{self.csrc}", *self._definitions()]
            if self.compiler:
                command += ["-ccbin", self.compiler]
            for source in sorted((self.csrc / "cuda").glob("*.cu")):
                steps.append(self._compile(command, source, folder / f"{source.stem}.o"))
        for source in sorted((self.csrc / "cpu").glob("*.cpp")):
            if not source.stem.endswith("_cpu"):
                steps.append(self._compile(base, source, folder / f"{source.stem}.o"))
                continue
            for capability, flags in self.capabilities().items():
                command = [*base, *flags, f"-DWGANGP_FAST_CAPABILITY={capability}"]
                steps.append(self._compile(command, source, folder / f"{source.stem}.{capability}.o"))
        about = self.csrc / "build_info.cpp"
        if about.exists():
            steps.append(self._compile([*base, *self.information_flags()], about, folder / "build_info.o"))
        outputs = tuple(step.output for step in first)
        return [*first, *(replace(step, after=outputs) for step in steps)]

    def _compile(self, command: Sequence[str], source: Path, output: Path) -> Step:
        depend = ["-MMD", "-MF", f"{output}.d"]
        return Step(output, (*command, *depend, "-c", str(source), "-o", str(output)), (source,))

    def link_step(self, folder: Path, output: Path) -> Step:
        """The shared library ``output`` from the objects in ``folder``."""
        objects = tuple(step.output for step in self.compile_steps(folder))
        command = [self.compiler, "-shared", *map(str, objects), "-o", str(output)]
        if sys.platform == "darwin":
            command += ["-undefined", "dynamic_lookup"]
        else:
            # libtorch is named though nothing refers to it: through it a torch with CUDA brings its CUDA
            # functions into scope. -z defs: a kernel that is missing is found now, not at loading.
            command += ["-Wl,-z,defs", f"-L{self.torch / 'lib'}", "-Wl,--no-as-needed"]
            command += ["-ltorch", "-ltorch_cpu", "-lc10", "-Wl,--as-needed"]
            if self.cuda:
                command += [f"-L{folder}" for folder in cudart_folders(self.cuda.nvcc)]
                command += ["-lcudart_static", "-lrt", "-ldl"]
            command += ["-lpthread"]
        return Step(output, tuple(command), objects)


def local_capability() -> str:
    """The best instruction set of this machine, as ``csrc/cpu/dispatch.cpp`` would choose."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        flags = set(re.findall(r"^flags\s*:(.*)$", described, re.MULTILINE)[0].split())
    except (OSError, IndexError):
        return "baseline"
    if not flags >= {"avx2", "fma", "f16c"}:
        return "baseline"
    return "avx512" if flags >= {"avx512f", "avx512bw", "avx512vl", "avx512dq"} else "avx2"


def jobs(environment: Mapping[str, str] = os.environ) -> int:
    """How many compilers run at once: ``MAX_JOBS``, else one a processor."""
    asked = environment.get("MAX_JOBS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else os.cpu_count() or 1


def run_step(step: Step) -> None:
    """Run one command.

    Raises:
        BuildError: it failed; the message has the command and what it said.
    """
    done = subprocess.run(step.command, capture_output=True, check=False, encoding="utf-8", errors="replace")
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-4000:]
        raise BuildError(f"{shlex.join(step.command)}\nended with {done.returncode}:\n{said}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)


def run_steps(steps: Sequence[Step], run: Callable[[Step], None] = run_step) -> None:
    """Run compile steps in parallel, first those that others wait for; then the last one, which needs all."""
    *compiles, last = steps
    for group in (
        [step for step in compiles if not step.after],
        [step for step in compiles if step.after],
    ):
        with ThreadPoolExecutor(jobs()) as pool:
            futures = [pool.submit(run, step) for step in group]
            try:
                for future in futures:
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    run(last)


def ninja_text(steps: Sequence[Step]) -> str:
    """A build.ninja of these steps; compile steps leave dependency files, so that a rerun does little."""

    def escaped(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    lines = ["ninja_required_version = 1.3", "rule run", "  command = $cmd", "  description = $out"]
    lines += [
        "rule compile",
        "  command = $cmd",
        "  description = $out",
        "  depfile = $out.d",
        "  deps = gcc",
    ]
    for step in steps:
        rule = "compile" if "-MMD" in step.command else "run"
        needs = [*map(escaped, step.inputs), *(["||", *map(escaped, step.after)] if step.after else [])]
        lines.append(f"build {escaped(step.output)}: {rule} {' '.join(needs)}")
        lines.append("  cmd = " + shlex.join(step.command).replace("$", "$$"))
    return "\n".join(lines) + "\n"
