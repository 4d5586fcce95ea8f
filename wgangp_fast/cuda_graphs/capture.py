"""A CUDA graph, and the stream that its work is warmed up on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Capture:
    """One graph. Tests put an emulation in its place.

    Args:
        device: where its work runs; None: torch's current one.
        generators: CUDA generators that captured operators draw from, besides torch's default.
    """

    device_type = "cuda"

    def __init__(self, device: torch.device | None, generators: Sequence[torch.Generator] = ()) -> None:
        self.device, self.generators = device, generators
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None

    @staticmethod
    def missing() -> str | None:
        """Why there can be no graph here; None if there can."""
        return None if torch.cuda.is_available() else "torch sees no CUDA device"

    def aside(self, run: Callable[[], Any]) -> Any:
        """``run()`` on the side stream, in order with the caller's."""
        caller = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(caller)
        with torch.cuda.stream(self.stream):
            result = run()
        caller.wait_stream(self.stream)
        return result

    def record(self, run: Callable[[], Any], pool: Any = None) -> Any:
        """Capture ``run()``, which computes nothing yet; its result is where the replays will write.

        ``pool``: of an earlier capture that is replayed before this one, see :meth:`pool`.
        """
        self.graph = torch.cuda.CUDAGraph()
        for generator in self.generators:
            self.graph.register_generator_state(generator)
        # A stream of its own, so that the libraries' workspaces are made in the graph's memory and live as
        # long as it does; other threads (a loader's) may go on allocating.
        with (
            torch.cuda.device(self.device),
            torch.cuda.graph(
                self.graph,
                pool=pool,
                stream=torch.cuda.Stream(self.device),
                capture_error_mode="thread_local",
            ),
        ):
            return run()

    def pool(self) -> Any:
        """The memory of the captured graph, to be shared with the next."""
        return None if self.graph is None else self.graph.pool()

    def replay(self) -> None:
        assert self.graph is not None
        with torch.cuda.device(self.device):
            self.graph.replay()
