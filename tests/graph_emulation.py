"""CUDA graphs on the CPU: the operators of one run, recorded and run again on the same memory.

``torch.cuda.graph`` keeps what a step launched: kernels, addresses, numbers. So does
:class:`EmulatedCapture`, with a dispatch mode: ATen and the package's operators, their tensors and their
numbers, while everything that the host did (draws of seeds, decisions, counters) is gone at a replay. Other
than a real capture, recording computes; what it wrote is put back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

HOST_READS = ("_local_scalar_dense", "is_nonzero", "equal", "item")


class Recorder(TorchDispatchMode):
    """Notes every operator that is called, and what each tensor that existed before held."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self.made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.name.split("::")[1] in HOST_READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self._keep(value)
        result = func(*args, **kwargs)
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor):
                self.made.add(value.untyped_storage()._cdata)
        self.calls.append((func, args, kwargs, result))
        return result

    def _keep(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self.before and key not in self.made:
            self.before[key] = (storage, storage.clone())

    def restore(self) -> None:
        """What the run wrote into tensors that existed before it."""
        for storage, content in self.before.values():
            storage.copy_(content)

    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            again = func(*args, **kwargs)
            for kept, new in zip(pytree.tree_leaves(results), pytree.tree_leaves(again)):
                if isinstance(kept, Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class EmulatedCapture:
    """Stands in for ``wgangp_fast.cuda_graphs.capture.Capture``."""

    device_type = "cpu"
    active = 0

    def __init__(self, device: torch.device | None, generators: Sequence[torch.Generator] = ()) -> None:
        self.recorder: Recorder | None = None

    @staticmethod
    def missing() -> None:
        return None

    def aside(self, run: Callable[[], Any]) -> Any:
        return run()

    def record(self, run: Callable[[], Any], pool: Any = None) -> Any:
        self.recorder = Recorder()
        random = torch.get_rng_state()
        EmulatedCapture.active += 1
        try:
            with self.recorder:
                return run()
        finally:
            EmulatedCapture.active -= 1
            self.recorder.restore()
            torch.set_rng_state(random)

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        assert self.recorder is not None
        with torch.no_grad():
            self.recorder.replay()


def capturing(device: torch.device) -> bool:
    """Stands in for ``wgangp_fast.checks.capturing``."""
    return EmulatedCapture.active > 0
