"""Runs the Triton kernels of mlp_penalty where there is no GPU; a program of its own for each part.

``values`` and ``meetings`` need TRITON_INTERPRET=1, ``compile`` must not have it.
"""

from __future__ import annotations

import inspect
import random
import re
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import Any

import torch
import triton
from mlp_cases import Case, arguments, incoming_of
from torch import Tensor

from wgangp_fast.kernels import mlp_penalty as kernels
from wgangp_fast.ops.mlp_penalty import MlpPenalty, mlp_penalty_backward_ref, mlp_penalty_ref

Launch = kernels.Launch
WHOLE = Launch(16, 16, 16, 1, 4, 2)
PARTS = Launch(16, 16, 16, 3, 4, 2, phased=True)
CASES = (
    (Case(act="leaky_relu", widths=(16, 33)), WHOLE),
    (Case(act="leaky_relu", widths=(16, 33), given_alpha=False), PARTS),
    (Case(act="tanh", widths=(16, 9, 33), masks=True, batch=40, pac=2, given_alpha=False), PARTS),
    (Case(act="tanh", widths=(40,), reduction=0, target=0.0), WHOLE),
    (Case(act="relu", widths=(5, 16, 7, 33, 6), masks=True, reduction=1, bias=False), WHOLE),
    (Case(act="relu", widths=(33,), one_sided=True, target=0.4, reduction=0), PARTS),
    (Case(act="identity", widths=(), features=40), PARTS),
    (Case(act="identity", widths=(7,), batch=0, reduction=1), WHOLE),
    (Case(act="leaky_relu", widths=(16,), features=3, batch=40, pac=10, masks=True), None),
)


def call(function: Any, settings: dict[str, Any], outputs: Any, incoming: Tensor, **extra: Any) -> Any:
    _, _, slope, _, _, gradient, h, g = outputs
    rest = (settings[name] for name in ("weights", "masks", "act", "negative_slope"))
    return function(incoming, slope, gradient, h, g, *rest, **extra)


def widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double()
    return [widened(item) for item in value] if isinstance(value, (list, tuple)) else value


def compare(what: str, names: Any, ours: Any, theirs: Any, truth: Any) -> None:
    """err(ours) <= 3 err(the reference in the same dtype) + a rounding, each against float64."""
    for name, mine, other, exact in zip(names, ours, theirs, truth):
        assert mine.shape == other.shape, (what, name, mine.shape, other.shape)
        assert mine.dtype == other.dtype, (what, name, mine.dtype, other.dtype)
        error, allowed = ((t.double() - exact).norm() for t in (mine, other))
        unit = 2 * torch.finfo(mine.dtype).eps * exact.norm()
        fine = error <= 3 * allowed + unit or (exact.isnan().all() and mine.isnan().all())
        assert fine, f"{what} {name}: error {error:.3g}, the reference's {allowed:.3g}, a rounding {unit:.3g}"


def penalty_of(norm: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """(value, slope) from norms."""
    excess = norm - case.target
    if case.one_sided:
        excess = excess.clamp(min=0)
    slope = torch.where(norm == 0, 0.0, 2 * excess / norm) if case.target else torch.full_like(norm, 2)
    penalty = excess.square()
    value = (penalty, penalty.sum(), penalty.mean())[case.reduction]
    return value, slope / case.rows if case.reduction == 2 else slope


def check(case: Case, dtype: torch.dtype, launch: Launch | None) -> None:
    settings = arguments(case, dtype)
    ours, again = (kernels.mlp_penalty(**settings, launch=launch) for _ in range(2))
    what = f"{case} {dtype} {launch}"
    same = all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(ours, again))
    assert same, f"{what}: two runs differ"
    alpha = mlp_penalty_ref(**settings)[3]
    assert torch.equal(ours[3], alpha), f"{what}: alpha"
    exact = {**widened_settings(settings), "alpha": alpha.double()}
    truth = list(mlp_penalty_ref(**exact))
    # In a low precision the norm's rounding can cancel or not in the value: the value is that of our norm.
    theirs = list(mlp_penalty_ref(**settings))
    theirs[0], theirs[2] = truth[0], truth[2] = penalty_of(ours[1].double(), case)
    theirs[0], theirs[2] = theirs[0].float(), theirs[2].float()
    # A unit that rounding takes over the kink has another gradient, rightly: such rows are left out.
    sides = torch.stack([results[6] > 0 for results in (ours, theirs, truth)])
    kept = (
        (sides == sides[0]).all(0).all(1) if case.act != "tanh" else torch.ones(case.rows, dtype=torch.bool)
    )
    assert kept.sum() * 2 >= case.rows, f"{what}: too many units change sides"
    picked = [
        [value if index in (0, 2) else value[kept] for index, value in enumerate(results)]
        for results in (ours, theirs, truth)
    ]
    compare(what, MlpPenalty._fields, *picked)
    incoming = incoming_of(case, torch.float32)
    backward = [
        call(kernels.mlp_penalty_backward, settings, ours, incoming, launch=launch),
        call(mlp_penalty_backward_ref, settings, ours, incoming),
        call(mlp_penalty_backward_ref, exact, widened(ours), incoming.double()),
    ]
    compare(f"{what} backward", "tc", *backward)


def widened_settings(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: widened(value) for name, value in settings.items()}


def repair_bfloat16() -> None:
    """The interpreter keeps bfloat16 as integers: its dot multiplies those, and its casts cut off bits."""
    from triton.runtime import interpreter

    dot = interpreter.InterpreterBuilder.create_dot

    def float_of(operand: Any) -> Any:
        if operand.dtype.scalar != triton.language.bfloat16:
            return operand
        numbers = (operand.data.astype("uint32") << 16).view("float32")
        return interpreter.TensorHandle(numbers, triton.language.float32)

    def repaired(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, float_of(a), float_of(b), *rest)

    interpreter.InterpreterBuilder.create_dot = repaired
    cast = interpreter.InterpreterBuilder.cast_impl

    def rounding(self: Any, source: Any, target: Any) -> Any:
        kinds = (source.dtype.scalar, target.scalar)
        if kinds != (triton.language.float32, triton.language.bfloat16):
            return cast(self, source, target)
        rounded = torch.from_numpy(source.data.copy()).bfloat16().view(torch.int16).numpy()
        return interpreter.TensorHandle(rounded.view("uint16"), triton.language.bfloat16)

    interpreter.InterpreterBuilder.cast_impl = rounding


def values() -> None:
    repair_bfloat16()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for case, launch in CASES:
            check(case, dtype, launch)


def meetings() -> None:
    """Programs that wait for one another, under the interpreter: one thread each, one runs at a time.

    A program gives way at its atomic operations, so that those ahead of the others really run ahead.
    """
    from triton.runtime import interpreter

    builder, limit = interpreter.interpreter_builder, 20_000
    state: dict[str, Any] = {"live": [], "switches": 0}

    def give_way() -> None:
        state["switches"] += 1
        if state["switches"] > limit:
            raise RuntimeError("the programs wait for one another for ever")
        mine, index = state["turn"], builder.grid_idx
        random.choice(state["live"]).release()
        mine.acquire()
        state["turn"] = mine
        builder.grid_idx = index

    def interleave(function: Any, arguments: dict[str, Any], grid: tuple[int, ...]) -> None:
        state["live"], state["switches"] = [], 0
        done, errors = threading.Semaphore(0), []

        def program(x: int, y: int, mine: threading.Semaphore) -> None:
            mine.acquire()
            state["turn"] = mine
            builder.set_grid_idx(x, y, 0)
            try:
                function(**arguments)
            except Exception as error:
                errors.append(error)
            state["live"].remove(mine)
            (random.choice(state["live"]) if state["live"] else done).release()

        for x in range(grid[0]):
            for y in range(grid[1]):
                mine = threading.Semaphore(0)
                state["live"].append(mine)
                threading.Thread(target=program, args=(x, y, mine), daemon=True).start()
        state["live"][0].release()
        done.acquire()
        if errors:
            raise errors[0]

    source = textwrap.dedent(inspect.getsource(interpreter.GridExecutor.__call__))
    loop = r"for x in range\(grid\[0\]\):.*?self\.fn\(\*\*args\)"
    source, found = re.subn(loop, "interleave(self.fn, args, grid)", source, flags=re.DOTALL)
    assert found == 1, "the interpreter of this Triton runs its programs in another way"
    scope = {**vars(interpreter), "interleave": interleave}
    exec(source, scope)
    interpreter.GridExecutor.__call__ = scope["__call__"]
    atomic = interpreter.InterpreterBuilder.create_atomic_rmw

    def yielding(self: Any, *operands: Any) -> Any:
        result = atomic(self, *operands)
        give_way()
        return result

    interpreter.InterpreterBuilder.create_atomic_rmw = yielding
    counters = {}
    original = kernels._counters
    kernels._counters = lambda device, count: counters.setdefault(count, original(device, count))
    random.seed(1)
    for parts in (2, 3):
        for case, _ in CASES[:4]:
            check(case, torch.float32, Launch(16, 16, 16, parts, 4, 2))
    for kept in counters.values():  # a launch leaves them as the next one wants them
        assert not kept.any(), "counters that are not zero again"


def report(
    kernel: Any, widths: tuple[int, ...], dtype: str, act: int, capability: int, launch: Launch
) -> str:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    smooth, hidden = act == 3, len(widths) - 2
    forward = kernel is kernels.forward_kernel
    phases = max(1, 2 * hidden if forward else 2 * hidden - 1 if smooth else hidden)
    constants = {
        "WIDTHS": widths, "OFFSETS": tuple(sum(widths[1 : 1 + n]) for n in range(hidden + 1)), "ACT": act,
        "SLOPE": 0.2, "ONE_SIDED": False, "ZERO_CENTRED": False, "REDUCTION": 2, "PER_ROW": False,
        "PRECISION": "ieee", "BM": launch.bm, "BN": launch.bn, "BK": launch.bk, "PARTS": launch.parts,
        "FIRST": 0, "LAST": phases,
    }  # fmt: skip
    half = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}[dtype]
    other = dict.fromkeys(("penalty", "norm", "slope", "squares", "incoming"), "*fp32")
    other |= dict.fromkeys(("seed_low", "seed_high", "offset_low", "offset_high", "rows"), "i32")
    other |= {"counters": "*i32", "target": "fp32", "weights": (half,) * (hidden + 1)}
    for name in ("biases", "masks"):  # the launcher's tuples are never empty
        other[name] = (half,) * hidden if hidden and (smooth or name == "biases") else ("constexpr",)
    signature, values, hints = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        signature[name] = "constexpr" if name in constants else other.get(name, half)
        if name in constants:
            values[(index,)] = constants[name]
        elif signature[name] == ("constexpr",):
            signature[name] *= max(hidden, 1)
            values |= {(index, layer): None for layer in range(max(hidden, 1))}
        elif name == "weights":
            hints |= {(index, layer): [["tt.divisibility", 16]] for layer in range(hidden + 1)}
        elif signature[name] == half:
            hints[(index,)] = [["tt.divisibility", 16]]
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(
        ASTSource(kernel, signature, values, hints), target=GPUTarget("cuda", capability, 32), options=options
    )
    shared = compiled.metadata.shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        usage = subprocess.check_output([tool, "--dump-resource-usage", cubin.name], text=True)
    registers, stack = (int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK"))
    name = kernel.fn.__name__
    line = f"sm_{capability} {name} {widths} {dtype} {launch}: "
    line += f"{registers} registers, {stack} stack, {shared} shared"
    assert stack == 0, f"spills: {line}"
    assert shared <= 99 * 1024, f"shared memory: {line}"  # of sm_86, 89 and 120; sm_80 has 163 KB, sm_90 227
    return line


def compile_all() -> None:
    ctgan, toy = (1000, 256, 256, 1), (2, 512, 512, 512, 1)
    for widths, rows, dtype, act, capability in (
        ((40, 1), 50, "float32", 1, 90),
        (ctgan, 50, "float32", 2, 90),
        (ctgan, 50, "bfloat16", 3, 80),
        (toy, 256, "float32", 3, 90),
        (toy, 256, "float16", 2, 100),
        (toy, 65536, "float32", 2, 90),
        (toy, 65536, "bfloat16", 2, 90),
    ):
        launch = Launch.choose(rows, widths, getattr(torch, dtype), 132)
        for kernel in (kernels.forward_kernel, kernels.backward_kernel):
            print(report(kernel, widths, dtype, act, capability, launch), flush=True)


if __name__ == "__main__":
    {"values": values, "meetings": meetings, "compile": compile_all}[sys.argv[1]]()
