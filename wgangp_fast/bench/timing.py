"""Interleaved timing, and the statistics of it. Times are seconds per call."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch

SAMPLE_SECONDS = 0.02
"""One sample repeats the call until it lasts this long, so that the clock's grain does not show."""
MIN_ROUNDS = 5

Call = Callable[[], object]


def percentile(values: Sequence[float], q: float) -> float:
    """The ``q``-th percentile, 0 to 100, linear between the two nearest values.

    Raises:
        ValueError: ``values`` is empty, or ``q`` is not in 0..100.
    """
    if not values or not 0 <= q <= 100:
        raise ValueError(f"percentile needs values and 0 <= q <= 100; got {len(values)} values, q = {q}")
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def spread(values: Sequence[float]) -> dict[str, float]:
    """``{"median", "p10", "p90"}`` of ``values``."""
    return {"median": percentile(values, 50), "p10": percentile(values, 10), "p90": percentile(values, 90)}


def paired_ratios(baseline: Sequence[float], other: Sequence[float]) -> list[float]:
    """``baseline / other`` of each round: how many times as fast the other was, side by side.

    Raises:
        ValueError: the two have not the same number of rounds.
    """
    if len(baseline) != len(other):
        raise ValueError(f"paired ratios need the same rounds; got {len(baseline)} and {len(other)}")
    return [a / b for a, b in zip(baseline, other, strict=True)]


def synchronize(device: torch.device) -> None:
    """Wait for the device; nothing to wait for on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def sample(call: Call, calls: int, device: torch.device) -> float:
    """Seconds per call over ``calls`` calls: wall clock on a CPU, CUDA events (gaps included) on a GPU."""
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        synchronize(device)
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        synchronize(device)
        return begin.elapsed_time(end) / 1e3 / calls
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def first_call(call: Call, device: torch.device) -> float:
    """Wall-clock seconds of one call, the device's work included."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def warm_up(call: Call, device: torch.device, calls: int = 2) -> int:
    """Run ``calls`` calls, and return how many calls fill a sample of :data:`SAMPLE_SECONDS`."""
    fastest = min(sample(call, 1, device) for _ in range(calls))
    return max(1, math.ceil(SAMPLE_SECONDS / max(fastest, 1e-7)))


def cold_sets(size: int, device: torch.device) -> int:
    """Copies of inputs of ``size`` bytes to go round, so that a GPU finds none of them in its L2 cache."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(32, 1 + math.ceil(2 * cache / max(size, 1)))


def interleave(
    contestants: Mapping[str, tuple[Call, int]], device: torch.device, rounds: int, budget: float = math.inf
) -> dict[str, list[float]]:
    """Time all contestants in turn: A B, then B A, then A B, so that a drift of the machine meets them all.

    Args:
        contestants: name to ``(call, calls per sample)``.
        rounds: samples of each contestant.
        budget: seconds; once they are spent, and :data:`MIN_ROUNDS` rounds are done, no round begins.

    Returns:
        Name to seconds per call, one for each round.
    """
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    start = time.perf_counter()
    for index in range(rounds):
        if index >= MIN_ROUNDS and time.perf_counter() - start > budget:
            break
        gc.collect()
        for name in list(contestants)[:: 1 if index % 2 == 0 else -1]:
            call, calls = contestants[name]
            samples[name].append(sample(call, calls, device))
    return samples
