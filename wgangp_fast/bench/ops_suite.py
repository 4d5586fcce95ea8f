"""The operation suite: each kernel against the eager sequence that it replaces, beside a measured copy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backend
from ..ops.registry import Kernels
from .environment import command_line, environment
from .measures import Settings, as_json, statistics
from .operations import OPERATIONS, Inputs, Operation
from .suite import FORMAT
from .timing import cold_sets, interleave, warm_up

BASELINE, COPY = "eager", "copy"
TIMED = (
    "the operation alone, outputs allocated; float32; on a CPU inputs as the last call left them in the "
    "caches, on a GPU inputs that are not in the L2 cache"
)
COLUMNS = (
    "operation",
    "about",
    "contestant",
    "median ms",
    "p10-p90 ms",
    "eager / it",
    "GB/s",
    "% of copy",
    "error",
)


def select(names: list[str] | None, preset: str) -> dict[str, Operation]:
    """The rows called ``names``, or those of ``preset``.

    Raises:
        ValueError: an unknown name.
    """
    unknown = sorted(set(names or []) - set(OPERATIONS))
    if unknown:
        raise ValueError(f"unknown operation {', '.join(unknown)}; known: {', '.join(OPERATIONS)}")
    if names:
        return {name: OPERATIONS[name] for name in names}
    return {name: row for name, row in OPERATIONS.items() if preset == "full" or not row.large}


def run(
    operations: dict[str, Operation],
    device: torch.device,
    settings: Settings,
    argv: list[str],
    progress: Callable[[str], None] = lambda name: None,
    keep: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Measure, and return a result ready for JSON; a wrong answer gets a status and no time."""
    which = ("cpu",) if device.type == "cpu" else ("cuda", "triton")
    missing = {name: backend.missing(name) for name in which}
    result: dict[str, Any] = {
        "format": FORMAT,
        "suite": "ops",
        "command": command_line(argv),
        "environment": environment(device),
        "settings": as_json(settings),
        "timed": TIMED,
        "missing": {name: reason for name, reason in missing.items() if reason},
        "rows": [],
    }
    for name, operation in operations.items():
        progress(name)
        kernels = {key: Kernels.of(key, device.type) for key, reason in missing.items() if reason is None}
        result["rows"].append(_row(name, operation, device, settings, kernels))
        keep(result)
    return result


def _row(
    name: str, operation: Operation, device: torch.device, settings: Settings, kernels: dict[str, Kernels]
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(settings.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    first = operation.make(draw)
    size = operation.bytes(first)
    sets = [first, *([operation.make(draw) for _ in range(cold_sets(size, device) - 1)])]
    errors = {key: _error(operation, found, first) for key, found in kernels.items()}
    calls = {BASELINE: _cycle(operation.eager, sets)}
    calls |= {
        key: _cycle(lambda *inputs, k=found: operation.ours(k, *inputs), sets)
        for key, found in kernels.items()
        if errors[key]["status"] == "ok"
    }
    calls[COPY] = _copy(size, device, len(sets))
    prepared = {key: (call, warm_up(call, device)) for key, call in calls.items()}
    samples = interleave(prepared, device, settings.rounds, settings.budget)
    found: dict[str, Any] = {}
    for key in (BASELINE, COPY, *kernels):
        entry = dict(errors.get(key, {"status": "ok"}))
        if key in samples:
            entry |= {"calls_per_sample": prepared[key][1], "seconds": samples[key]}
            entry |= statistics(samples[BASELINE], samples[key])
            entry["gb_per_s"] = size / entry["median_s"] / 1e9
            entry["of_copy"] = statistics(samples[COPY], samples[key])["ratio"]
        found[key] = entry
    return {
        "workload": name,
        "about": operation.about,
        "device": device.type,
        "dtype": "float32",
        "bytes": size,
        "sets": len(sets),
        "contestants": found,
    }


def checked(name: str, contestant: str, device: torch.device) -> Callable[[], Any]:
    """One contestant of the operation ``name``, ready to be timed by others.

    Raises:
        ValueError: its answers are wrong.
    """
    operation = OPERATIONS[name]
    generator = torch.Generator().manual_seed(0)
    inputs = operation.make(lambda *shape: torch.randn(shape, generator=generator).to(device))
    if contestant == BASELINE:
        return _cycle(operation.eager, [inputs])
    kernels = Kernels.of(contestant, device.type)
    found = _error(operation, kernels, inputs)
    if found["status"] != "ok":
        raise ValueError(f"no time for wrong answers: {name}, {contestant}: {found['message']}")
    return _cycle(lambda *inputs: operation.ours(kernels, *inputs), [inputs])


def _cycle(call: Callable[..., Any], sets: list[Inputs]) -> Callable[[], Any]:
    turn = itertools.cycle(sets)

    def once() -> Any:
        with torch.no_grad():
            return call(*next(turn))

    return once


def _copy(size: int, device: torch.device, sets: int) -> Callable[[], Any]:
    """A copy that moves ``size`` bytes: half read, half written, into memory allocated as the results are."""
    sources = itertools.cycle([torch.ones(max(size // 8, 1), device=device) for _ in range(sets)])
    return lambda: next(sources).clone()


def _error(operation: Operation, kernels: Kernels, inputs: Inputs) -> dict[str, Any]:
    """Relative error against the eager sequence in float64, three-way: at most twice eager's own."""
    with torch.no_grad():
        wide = [v.double() if isinstance(v, Tensor) else v for v in inputs]
        try:
            ours = operation.ours(kernels, *inputs)
        except Exception as error:
            return {"status": "error", "message": f"{type(error).__name__}: {error}"}
        if operation.about.endswith("drawn"):  # another random stream: the points need only lie between
            low, high = torch.minimum(*inputs[:2]), torch.maximum(*inputs[:2])
            off = torch.maximum(low - ours[0], ours[0] - high).clamp(min=0).max().item()
            return {"status": "ok" if off < 1e-6 else "wrong", "error": off, "message": f"{off:.1e} outside"}
        truth, eager = operation.eager(*wide), operation.eager(*inputs)
    worst = 0.0
    for mine, theirs, exact in zip(ours, eager, truth, strict=True):
        scale = exact.abs().max().item() or 1.0
        off, own = ((v.double() - exact).abs().max().item() / scale for v in (mine, theirs))
        limit = 2 * own + 32 * torch.finfo(mine.dtype).eps
        if not off <= limit:
            return {"status": "wrong", "error": off, "message": f"error {off:.1e}, allowed {limit:.1e}"}
        worst = max(worst, off)
    return {"status": "ok", "error": worst}


def cells(result: dict[str, Any]) -> list[list[str]]:
    """Strings as :data:`COLUMNS`."""
    rows = []
    for row in result["rows"]:
        for name, entry in row["contestants"].items():
            head = [row["workload"], row["about"], name]
            if "median_s" not in entry:
                rows.append([*head, entry["status"].upper(), *[""] * 5])
                continue
            ms = {key: entry[f"{key}_s"] * 1e3 for key in ("median", "p10", "p90")}
            rows.append([
                *head, f"{ms['median']:.4g}", f"{ms['p10']:.4g}-{ms['p90']:.4g}", f"{entry['ratio']:.2f}",
                f"{entry['gb_per_s']:.1f}", f"{100 * entry['of_copy']:.0f}",
                f"{entry['error']:.1e}" if "error" in entry else "",
            ])  # fmt: skip
    return rows


def header(result: dict[str, Any]) -> list[str]:
    """What was measured, and the formula of GB/s."""
    return [
        f"timed: {result['timed']}; interleaved rounds",
        "GB/s: the bytes that the kernels must move at least (every input read and every result written once "
        "an order) over the median; copy: torch's clone of as many bytes, in the same rounds",
        "error: relative, against the eager sequence in float64; allowed twice eager's own",
        *(f"not here: {name}: {reason}" for name, reason in result["missing"].items()),
    ]
