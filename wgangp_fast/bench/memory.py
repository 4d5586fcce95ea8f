"""Peak memory of one call."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

CPU_DEVICE_TYPE = 0

METHOD = {
    "cpu": "allocations and frees through torch's CPU allocator, as torch.profiler records them; not the "
    "scratch memory that libraries take for themselves",
    "cuda": "torch.cuda.max_memory_allocated during the call less what was allocated before",
}


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes of tensors alive at one time that ``call()`` itself allocated.

    What was alive before, parameters and inputs, does not count, nor does freeing it lower the count on a
    CPU. The result of ``call`` is dropped. See :data:`METHOD` for what is counted.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    return peak_of_events(
        (event["ts"], event["args"]["Addr"], event["args"]["Bytes"])
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == CPU_DEVICE_TYPE
    )


def peak_of_events(events: Iterator[tuple[float, int, int]]) -> int:
    """Highest running sum of ``(time, address, bytes)`` events; bytes are negative where a block is freed.

    A free of an address that was not seen allocated belongs to something older, and counts nothing.
    """
    alive: dict[int, int] = {}
    now = peak = 0
    for _, address, size in sorted(events, key=lambda event: event[0]):
        if size >= 0:
            alive[address] = size
            now += size
        else:
            now -= alive.pop(address, 0)
        peak = max(peak, now)
    return peak


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence the C++ side of the profiler, which reports its own start and stop on file descriptor 2."""
    saved = os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as sink:
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
