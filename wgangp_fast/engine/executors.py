"""How a plan's code is run: as straight-line Python, compiled by Inductor, or replayed as CUDA graphs.

All three take and return the same. If one cannot run, Python does, and :class:`Report` says why. Only
``"graph"`` on a device without CUDA graphs is an error.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .. import checks
from ..cuda_graphs import capture as cudagraph
from ..errors import BackendError
from ..ops.registry import KERNELS, Kernels
from . import torch_internals
from .effects import EFFECTS, write
from .ir import Sweeps
from .torch_internals import tree

Run = Callable[..., Any]

#: how often a half is compiled (for new strides or numbers) or captured (for moved leaves); then Python runs
VARIANTS = 8


@dataclass
class Report:
    """What runs a plan.

    Attributes:
        asked: the executor that was asked for.
        runs: the one that ran last; None: nothing ran yet.
        reason: why another one runs than was asked for; empty if the same does.
    """

    asked: str
    runs: str | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.runs is None or self.runs == self.asked:
            return self.asked
        return f"{self.runs} ({self.asked} was asked for: {self.reason})"

    def ran(self, executor: str, reason: str = "") -> None:
        self.runs, self.reason = executor, reason


def executable(
    executor: str, sweeps: Sweeps, kernels: Kernels, forward: Run, backward: Run | None
) -> tuple[Run, Run | None, Report]:
    """The two halves of a plan under an executor.

    Args:
        executor: as in :class:`~wgangp_fast.options.Options`.
        sweeps: the code, after the passes.
        kernels: what its calls of the package's operations run on.
        forward: ``(x, *leaves) -> (first, *saved)``, the code as Python.
        backward: ``(seed, saved) -> (first, *gradients)``, which empties ``saved``; or None (no gradient).
    """
    report = Report(executor)
    if executor != "eager":
        [getattr(tree, name) for name in tree.paths]  # a missing name raises while stock code can still run
    if executor == "inductor":
        first = _Compiled(sweeps.forward, kernels, forward, report)
        if backward is None or sweeps.backward is None:
            return first, None, report
        run = backward  # not None below
        second = _Compiled(sweeps.backward, kernels, lambda seed, *saved: run(seed, list(saved)), report)

        def boxed(seed: Any, saved: list[Any]) -> Any:
            values = list(saved)
            saved.clear()
            return second(seed, *values)

        return first, boxed, report
    if executor == "graph":
        graphs = _Graphs(forward, backward, report)
        return graphs.forward, graphs.backward if backward is not None else None, report
    report.ran("eager")
    return forward, backward, report


# inductor ----------------------------------------------------------------------------------------


class _Compiled:
    """One half of a plan, compiled at the first call with each combination of strides and numbers."""

    def __init__(self, module: fx.GraphModule, kernels: Kernels, eager: Run, report: Report) -> None:
        self.module, self.kernels, self.eager, self.report = module, kernels, eager, report
        self.variants: dict[Any, Run | None] = {}

    def __call__(self, *args: Any) -> Any:
        if torch_internals.dispatch_modes_are_active():  # a FLOP counter sees operators, not compiled code
            return self.eager(*args)
        flat, spec = tree.tree_flatten(args)
        key = tuple([v.stride() if isinstance(v, Tensor) else v for v in flat])
        if key not in self.variants:
            if len(self.variants) >= VARIANTS:
                self.report.ran("eager", "its strides or numbers change from call to call")
                return self.eager(*args)
            self.variants[key] = self._compile(flat, spec)
        run = self.variants[key]
        if run is None:
            return self.eager(*args)
        if not self.report.reason:  # the other half may have fallen back
            self.report.ran("inductor")
        return run(flat)

    def _compile(self, flat: list[Any], spec: Any) -> Run | None:
        try:
            return _inductor(_plain(self.module, self.kernels), flat, spec)
        except Exception as error:  # compilers raise everything there is
            first = (str(error).strip().splitlines() or [""])[0]
            self.report.ran("eager", f"{type(error).__name__}: {first}"[:300])
            return None


def _plain(module: fx.GraphModule, kernels: Kernels) -> fx.GraphModule:
    """The code with the package's operations replaced by their PyTorch references, which Inductor fuses."""
    names = {id(found): name for name, found in vars(kernels).items() if name in KERNELS}
    copied = fx.Graph()
    output = copied.graph_copy(module.graph, {})
    copied.output(output)
    for node in copied.nodes:
        if node.op != "call_function":
            continue
        if node.target in EFFECTS:
            node.target = write  # compiled code has no .data, and saves nothing for a later backward pass
        elif id(node.target) in names:
            node.target = KERNELS[names[id(node.target)]].reference
        elif getattr(node.target, "__module__", "") == "wgangp_fast_plan":
            kernel = KERNELS.get(getattr(node.target, "__name__", ""))
            if kernel is not None:
                node.target = _returning(kernel.reference)
    return fx.GraphModule(module, copied)


def _returning(run: Run) -> Run:
    def written(value: Any, *rest: Any) -> Any:
        run(value, *rest)
        return value

    return written


def _inductor(module: fx.GraphModule, flat: list[Any], spec: Any) -> Run:
    places = [i for i, value in enumerate(flat) if isinstance(value, Tensor)]
    shapes: list[Any] = []

    def code(*tensors: Tensor) -> list[Any]:
        values = list(flat)
        for i, tensor in zip(places, tensors):
            values[i] = tensor
        results, result_spec = tree.tree_flatten(module(*tree.tree_unflatten(values, spec)))
        shapes[:] = [result_spec, [None if isinstance(r, Tensor) else (r,) for r in results]]
        return [r for r in results if isinstance(r, Tensor)]

    with torch.no_grad():
        mode = torch_internals.fake_mode()
        fakes = [mode.from_tensor(flat[i].detach(), static_shapes=True) for i in places]
        with mode:
            traced = torch_internals.trace_to_aten(code, *fakes)
        run = torch_internals.inductor(traced, [flat[i].detach() for i in places])
    result_spec, constants = shapes

    def call(values: list[Any]) -> Any:
        with torch.no_grad():
            tensors = iter(run(*[values[i] for i in places]))
        results = [next(tensors) if constant is None else constant[0] for constant in constants]
        return tree.tree_unflatten(results, result_spec)

    return call


# CUDA graphs -------------------------------------------------------------------------------------


class _Graphs:
    """A CUDA graph of each half.

    The saved tensors live in the graphs' memory, so a second forward pass before the first one's backward
    pass must not replay: it runs as Python. So does everything inside another capture. Gradients are copied
    out, because autograd keeps what it is given.
    """

    def __init__(self, forward: Run, backward: Run | None, report: Report) -> None:
        self.eager, self.eager_backward, self.report = forward, backward, report
        self.captures = 0
        self.reset()

    def reset(self) -> None:
        self.half: _Half | None = None
        self.back: _Half | None = None
        self.key: Any = None
        self.alive: list[weakref.ref[Tensor]] = []

    def forward(self, x: Tensor, *leaves: Any) -> Any:
        if x.device.type != cudagraph.Capture.device_type or cudagraph.Capture.missing():
            raise BackendError(
                f"executor='graph' needs tensors on a CUDA device; these are on {x.device}. Use "
                f"executor='eager' or 'inductor'"
            )
        reason = self._not_now(leaves)
        if reason:
            self.report.ran("eager", reason)
            return self.eager(x, *leaves)
        assert self.half is not None
        results = self.half(x, *leaves)
        self.report.ran("graph")
        if self.half.captured:
            results = tree.tree_map_only(Tensor, torch.detach, results)
            self.alive = [weakref.ref(t) for t in tree.tree_leaves(results) if isinstance(t, Tensor)]
        return results

    def _not_now(self, leaves: tuple[Any, ...]) -> str:
        """Why this call runs as Python; empty if it may replay."""
        if torch_internals.dispatch_modes_are_active() or checks.capturing(
            torch.device(cudagraph.Capture.device_type)
        ):
            return "inside a dispatch mode or another capture"
        if any(tensor() is not None for tensor in self.alive):
            return "the results of the call before are still in use"
        key = [leaf.data_ptr() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if key != self.key:
            if self.captures >= VARIANTS:
                return "its parameters move from call to call"
            self.captures += 1
            self.reset()
            self.key, self.half = key, _Half(self.eager)
        return ""

    def backward(self, seed: Any, saved: list[Any]) -> Any:
        assert self.eager_backward is not None
        run = self.eager_backward
        if not self._of_the_graph(saved) or checks.capturing(torch.device(cudagraph.Capture.device_type)):
            return run(seed, saved)
        assert self.half is not None
        static = list(self.half.outputs[1:])  # the same memory, whatever objects autograd handed over
        saved.clear()
        if self.back is None:
            self.back = _Half(lambda given: run(given, list(static)), self.half.pool())
        results = self.back(seed)
        return tree.tree_map_only(Tensor, torch.clone, results) if self.back.captured else results

    def _of_the_graph(self, saved: list[Any]) -> bool:
        if self.half is None or not self.half.captured:
            return False
        static = self.half.outputs[1:]
        return len(static) == len(saved) and all(
            a.data_ptr() == b.data_ptr() if isinstance(a, Tensor) and isinstance(b, Tensor) else a is b
            for a, b in zip(static, saved)
        )


class _Half:
    """One graph: the first argument is copied in, the others stay where they are.

    The first call runs on the side stream, the second is captured.
    """

    def __init__(self, run: Run, pool: Any = None) -> None:
        self.run, self.memory = run, pool
        self.capture: cudagraph.Capture | None = None
        self.captured = False
        self.outputs: Any = None

    def pool(self) -> Any:
        return None if self.capture is None else self.capture.pool()

    def __call__(self, first: Any, *rest: Any) -> Any:
        flat, spec = tree.tree_flatten(first)
        if self.capture is None:
            self.capture = cudagraph.Capture(next(v.device for v in flat if isinstance(v, Tensor)))
            return self.capture.aside(lambda: self.run(first, *rest))
        if not self.captured:
            self.static = [v.detach().clone() if isinstance(v, Tensor) else v for v in flat]
            inputs = tree.tree_unflatten(self.static, spec)
            self.outputs = self.capture.record(lambda: self.run(inputs, *rest), self.memory)
            self.captured = True
        for static, given in zip(self.static, flat):
            if isinstance(given, Tensor):
                static.copy_(given)
        self.capture.replay()
        return self.outputs
