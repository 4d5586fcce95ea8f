"""Compile every Triton launch for GPUs that are not here, and report what it takes.

The launchers run on meta tensors with the launch itself replaced: what they would have passed is
compiled to a cubin, at the block sizes and warps they chose, and ptxas is asked for registers, shared
memory and spills. ``python tests/triton_compile.py`` prints the table.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest import mock

import torch

ARCHITECTURES = (80, 90, 100)
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]  # kernel, arguments, constants


@dataclass(frozen=True)
class Report:
    """One kernel on one architecture.

    Attributes:
        name: kernel, what was launched, dtype.
        architecture: 90 for sm_90.
        warps: of a program.
        registers: of a thread.
        shared: bytes of a program.
        spills: bytes stored to and loaded from local memory.
        loads: kinds of loads from global memory in the assembly.
        tt_loads: number of loads in Triton's own code.
        narrow_offsets: arguments that some offset of 32 bits is added to.
    """

    name: str
    architecture: int
    warps: int
    registers: int
    shared: int
    spills: int
    loads: list[str]
    tt_loads: int
    narrow_offsets: list[str]


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Launches, collected instead of run."""
    from wgangp_fast.kernels import bias_act, gate, interpolate, norm_act, norm_penalty, norm_rows

    found: list[Launch] = []

    def record(kernel: Any, count: int, on: Any, *arguments: Any, **constants: Any) -> None:
        assert 0 < count < 2**31
        found.append((kernel, arguments, constants))

    with ExitStack() as stack:
        for module in (bias_act, gate, interpolate, norm_act, norm_penalty, norm_rows):
            stack.enter_context(mock.patch.object(module, "launch", record))
        yield found


TYPES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def source(launch: Launch) -> tuple[Any, dict[str, Any]]:
    """What Triton's own launch would compile: types, ones and multiples of 16 as it specialises them."""
    from triton.compiler import ASTSource

    kernel, arguments, constants = launch
    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    constexprs = {name: value for name, value in constants.items() if name not in options}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    fixed = getattr(kernel, "do_not_specialize", ())
    for index, (name, value) in enumerate(zip(kernel.arg_names, arguments)):
        free = name not in fixed and index not in fixed
        if isinstance(value, torch.Tensor):
            signature[name] = f"*{TYPES[value.dtype]}"
            attributes[(index,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and free:
            signature[name] = "constexpr"
            constexprs[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and free:
                attributes[(index,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys((name for name in constants if name not in options), "constexpr")
    ordered = {name: signature[name] for name in kernel.arg_names}
    return ASTSource(kernel, ordered, constexprs, attributes), options


def compiled(name: str, launch: Launch, architecture: int) -> Report:
    """Compile one launch; needs no GPU.

    Raises:
        RuntimeError: ptxas says something that is not understood.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    code, options = source(launch)
    target = GPUTarget("cuda", architecture, 32)
    result = triton.compile(code, target=target, options=options)
    registers, spills = assembled(result.asm["ptx"], architecture)
    return Report(
        f"{launch[0].__name__} {name}", architecture, result.metadata.num_warps, registers,
        result.metadata.shared, spills,
        sorted(set(re.findall(r"ld\.global[.\w]*", result.asm["ptx"]))),
        len(re.findall(r"\btt\.load\b", result.asm["ttir"])), narrow_offsets(result.asm["ttir"]),
    )  # fmt: skip


def narrow_offsets(ttir: str) -> list[str]:
    """Kernel arguments that an int32 is added to, directly, after a splat or after another addition."""
    made_of = dict(re.findall(r"(%\w+) = tt\.(?:splat|addptr|broadcast) (%\w+)[, ].*!tt\.ptr", ttir))
    names = set()
    for pointer in re.findall(r"tt\.addptr (%\w+), %\S+ : .*?, (?:tensor<[\dx]*x)?i32>?(?:\s|$)", ttir):
        while pointer in made_of:
            pointer = made_of[pointer]
        names.add(pointer.lstrip("%"))
    return sorted(names)


def assembled(ptx: str, architecture: int) -> tuple[int, int]:
    """``(registers, bytes of spills)`` from the ptxas that Triton uses."""
    from triton.backends.nvidia.compiler import get_ptxas

    match = re.search(r"^\.target (\w+)", ptx, re.M)
    assert match
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kernel.ptx"
        file.write_text(ptx)
        tool = get_ptxas(architecture).path
        said = subprocess.run(
            [tool, "-v", f"--gpu-name={match[1]}", file, "-o", file.with_suffix(".cubin")],
            capture_output=True, text=True, check=True,
        ).stderr  # fmt: skip
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said)
    if not registers or not spills:
        raise RuntimeError(f"ptxas reported no registers: {said}")
    return int(registers[1]), int(spills[1]) + int(spills[2])


def calls(dtype: torch.dtype) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every launcher at a typical size; gelu_tanh takes the most registers of the activations."""
    from wgangp_fast.kernels import bias_act, gate, interpolate, norm_act, norm_penalty

    acc = torch.promote_types(dtype, torch.float32)

    def t(*shape: int, of: torch.dtype = dtype, last: bool = False) -> torch.Tensor:
        made = torch.empty(shape, dtype=of, device="meta")
        return made.contiguous(memory_format=torch.channels_last) if last else made

    image, leaky, bent = t(64, 64, 32, 32), (2, 0.2, 0.0, 0.0), (8, 0.0, 0.0, 0.0)
    flat, channel = t(64, 512), t(64)
    yield "drawn", lambda: interpolate.interpolate(image, image, None, 7, 5)
    yield "given", lambda: interpolate.interpolate(image, image, channel, 7, 5)
    for label, shape in (("image", (64, 3, 64, 64)), ("short", (65536, 2)), ("long", (1, 3_000_000))):
        yield label, partial(norm_penalty.norm_penalty, t(*shape), 1.0, False, 2)
    yield "strided", lambda: norm_penalty.norm_penalty(t(64, 3, 64, 64)[..., ::2, ::2], 1.0, True, 0)
    yield "seed", lambda: norm_penalty.penalty_seed(image, t(64, of=acc), t(of=acc))
    yield "leaky", lambda: bias_act.bias_act(image, channel, 1, *leaky)
    yield "leaky-last", lambda: bias_act.bias_act(t(64, 64, 32, 32, last=True), channel, 1, *leaky)
    yield "gelu_tanh", lambda: bias_act.bias_act(image, channel, 1, *bent)
    yield "gelu_tanh", lambda: bias_act.bias_act_grad(image, image, channel, 1, *bent)
    yield "gelu_tanh", lambda: bias_act.bias_act_adjoint(image, image, image, image, channel, 1, *bent)
    yield "", lambda: gate.gate(image, image)
    yield "", lambda: gate.gate_vjp(image, image, image)
    yield "", lambda: gate.gate_jvp(image, image, image, image)
    yield "", lambda: gate.gate_adjoint(image, image, image, image, image, image)
    settings: Sequence[tuple[str, torch.Tensor, int, tuple[Any, ...]]] = (
        ("layer-512", flat, 0, bent), ("layer-65536", t(64, 65536), 0, bent),
        ("instance", image, 64, bent), ("instance-last", t(64, 64, 32, 32, last=True), 64, leaky),
        ("group-last", t(64, 64, 32, 32, last=True), 8, bent),
    )  # fmt: skip
    for label, x, groups, act in settings:
        weight = t(x.shape[1])
        rest = (weight, weight, groups, 1)
        statistics = (t(x.shape[0], max(groups, 1), of=acc),) * 2
        tail = (x, *statistics, *rest, *act)
        yield label, partial(norm_act.norm_act, x, *rest, 1e-5, *act)
        yield label, partial(norm_act.norm_act_jvp, x, *tail)
        yield label, partial(norm_act.norm_act_vjp, x, *tail, True)
        yield label, partial(norm_act.norm_act_adjoint, x, x, x, *tail, True)


def launches(dtype: torch.dtype) -> Iterator[tuple[str, Launch]]:
    """Every launch of :func:`calls`, the same one once."""
    seen = set()
    for label, call in calls(dtype):
        with recorded() as found:
            call()
        for launch in found:
            name = f"{label} {TYPES[dtype]}"
            key = (launch[0].__name__, str(source(launch)[0].hash()))
            if key not in seen:
                seen.add(key)
                yield name, launch


def _report(task: tuple[str, int, int]) -> Report:
    dtype, index, architecture = getattr(torch, task[0]), task[1], task[2]
    name, launch = list(launches(dtype))[index]
    return compiled(name, launch, architecture)


def reports(
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16),
    architectures: Sequence[int] = ARCHITECTURES,
    processes: int = 2,
) -> list[Report]:
    """Compile everything, in a few processes: Triton's compiler keeps one core busy."""
    tasks = [
        (str(dtype)[6:], index, architecture)
        for dtype in dtypes
        for index in range(len(list(launches(dtype))))
        for architecture in architectures
        if dtype == torch.float32 or architecture == 90  # the other dtypes differ in loads and stores alone
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_report, tasks, chunksize=4))


def table(found: Sequence[Report]) -> str:
    """The reports as text."""
    lines = [f"{'kernel':58} {'sm':>4} {'warps':>5} {'regs':>5} {'shared':>7} {'spills':>7}"]
    lines += [
        f"{r.name:58} {r.architecture:4} {r.warps:5} {r.registers:5} {r.shared:7} {r.spills:7}" for r in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    every = reports(architectures=numbers or ARCHITECTURES)
    print(json.dumps([asdict(report) for report in every]) if "--json" in sys.argv else table(every))
    sys.exit(any(report.spills for report in every) and "--json" not in sys.argv)
