"""What a plan holds at each of its calls, without running it.

The two graphs of a plan are joined into one :class:`JointGraph`; fake tensors tell the size of each value and
which values share memory; a :class:`Liveness` says what is alive when. The passes that lower the peak
(``reorder_for_peak_memory``, ``rematerialize``) move and copy its calls; then it is split again.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import flop_registry

from ...ops.registry import KERNELS
from ...rules.registry import PACKET
from ..ir import Sweeps, args_of, result_of
from ..torch_internals import each_operator, fake_mode, schema_of, storage_key, without_dispatch_modes

aten = torch.ops.aten

#: arithmetic that takes as long as moving one byte: about that on CPUs and on GPUs in float32
FLOPS_PER_BYTE = 10
#: bytes that could be moved while a call begins, on a CPU and on a GPU
LAUNCH = 64 << 10, 8 << 20

#: operator -> the arguments of which it reads the shape alone
SHAPE_ONLY: dict[Any, Callable[[Any], tuple[int, ...]]] = {
    aten.convolution_backward.default: lambda args: (1,) * (not args[-1][1]) + (2,) * (not args[-1][0]),
    aten.avg_pool2d_backward.default: lambda args: (1,),
    aten.avg_pool3d_backward.default: lambda args: (1,),
    aten._adaptive_avg_pool2d_backward.default: lambda args: (1,),
}

_LIBRARY = (aten.convolution.default, torch.convolution, aten.convolution_backward.default)
_BLOCKED = {
    KERNELS[name].call for name in ("convolve", "convolve_back", "weight_gradient") if name in KERNELS
}
_POINTWISE = (
    torch.ops.mkldnn._linear_pointwise.default if hasattr(torch.ops.mkldnn, "_linear_pointwise") else None
)
_REFERENCES = {kernel.call: kernel.reference for kernel in KERNELS.values()}


def forward_backward_boundary(result: Any) -> Any:
    """Stands for what autograd does between the graphs: from the forward results to the seeds."""
    return fx.node.map_aggregate(result, lambda v: torch.empty_like(v) if isinstance(v, Tensor) else v)


@dataclass
class Facts:
    """What is known of one call, wherever it stands.

    Attributes:
        value: the fake result.
        holds: the memory that the result keeps: ``("new", bytes)``, or ``(i, j)``: the j-th block of the
            i-th of ``node.all_input_nodes``.
        cost: arithmetic, and bytes moved in units of arithmetic.
        scratch: bytes that the library takes during the call besides its results.
    """

    value: Any
    holds: tuple[tuple[Any, int], ...] = ()
    cost: float = 0.0
    scratch: int = 0


def facts(node: fx.Node) -> Facts:
    return node.meta["facts"]


class Unknown(Exception):
    """A value of the plan has no fake tensor: its size is not known."""


class JointGraph:
    """Both graphs of a plan as one.

    Attributes:
        graph: placeholders are x and the leaves; the output is that of the backward graph.
        boundary: the call of :func:`forward_backward_boundary`, which makes the seeds of what the forward
            graph returns before the saved values; before it is the forward graph.
        device: the type of the device.
    """

    def __init__(self, sweeps: Sweeps, inputs: Sequence[Any]) -> None:
        assert sweeps.backward is not None
        self.sweeps, self.graph = sweeps, fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in sweeps.forward.graph.nodes:
            if node.op != "output":
                copies[node] = self.graph.node_copy(node, copies.__getitem__)
        result, *saved = result_of(sweeps.forward.graph)
        self.boundary = self.graph.call_function(
            forward_backward_boundary, (fx.map_arg(result, copies.__getitem__),)
        )
        first, *places = sweeps.backward.graph.find_nodes(op="placeholder")
        copies[first] = self.boundary
        self.boundary.meta = dict(first.meta)
        copies.update(zip(places, (copies[node] for node in saved)))
        for node in sweeps.backward.graph.nodes:
            if node.op not in ("placeholder", "output"):
                copies[node] = self.graph.node_copy(node, copies.__getitem__)
        found = fx.map_arg(result_of(sweeps.backward.graph), copies.__getitem__)
        self.end = self.graph.output(found)
        self.device = _propagate(self, list(inputs), first.meta.get("val"))

    def clone(self) -> JointGraph:
        """A copy to try things on."""
        copies: dict[fx.Node, fx.Node] = {}
        other = object.__new__(JointGraph)
        other.sweeps, other.device, other.graph = self.sweeps, self.device, fx.Graph()
        other.end = other.graph.output(other.graph.graph_copy(self.graph, copies))
        other.end.meta, other.boundary = dict(self.end.meta), copies[self.boundary]
        return other

    def take(self, other: JointGraph) -> None:
        """Become ``other``, a changed copy."""
        self.graph, self.boundary, self.end = other.graph, other.boundary, other.end

    def split(self) -> None:
        """Write the program back into the two graphs."""
        sweeps, order = self.sweeps, list(self.graph.nodes)
        assert sweeps.backward is not None
        here = {node: i for i, node in enumerate(order)}
        boundary = here[self.boundary]
        for node in order:  # a tuple is not saved, but its members
            if node.target is operator.getitem and here[node] > boundary:
                source = args_of(node)[0]
                if source is not self.boundary and here[source] < boundary:
                    self.boundary.prepend(node)
        order = list(self.graph.nodes)
        here = {node: i for i, node in enumerate(order)}
        boundary = here[self.boundary]
        forward, backward = fx.Graph(), fx.Graph()
        ahead: dict[fx.Node, fx.Node] = {}
        for node in order[:boundary]:
            ahead[node] = forward.node_copy(node, ahead.__getitem__)
        saved: dict[fx.Node, fx.Node] = {}
        seed = backward.placeholder("seed")
        seed.meta = dict(self.boundary.meta)
        after: dict[fx.Node, fx.Node] = {self.boundary: seed}
        for node in order[boundary + 1 :]:
            for source in node.all_input_nodes:
                if here[source] < boundary and source not in saved and node is not self.end:
                    saved[source] = after[source] = backward.placeholder(f"saved_{source.name}")

        def look(node: fx.Node) -> fx.Node:
            if node not in after:  # a gradient that is ready after sweep 2
                saved[node] = after[node] = backward.placeholder(f"saved_{node.name}")
            return after[node]

        for node in order[boundary + 1 :]:
            if node is not self.end:
                after[node] = backward.node_copy(node, look)
        backward.output(fx.map_arg(args_of(self.end)[0], look))
        result = fx.map_arg(args_of(self.boundary)[0], ahead.__getitem__)
        forward.output((result, *(ahead[node] for node in saved)))
        for graph in (forward, backward):
            for node in graph.nodes:
                node.meta.pop("facts", None)
        sweeps.forward = fx.GraphModule(torch.nn.Module(), forward, "Forward")
        sweeps.backward = fx.GraphModule(torch.nn.Module(), backward, "Backward")
        kinds = [facts(node).value for node in saved]
        sweeps.saved_is_tensor = tuple(isinstance(value, Tensor) for value in kinds)


# sizes --------------------------------------------------------------------------------------------


class _Arithmetic:
    def __init__(self) -> None:
        self.total = 0

    def __call__(self, func: Any, args: Any, kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        formula = _formulas().get(func)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=out)
        return out


@functools.cache
def _formulas() -> dict[Any, Any]:
    """What torch's table of FLOPs says of each operator."""
    packets = [(packet, formula) for packet, formula in flop_registry.items() if isinstance(packet, PACKET)]
    return {getattr(packet, name): formula for packet, formula in packets for name in packet.overloads()}


def blocks(value: Any) -> dict[int, int]:
    """The memory that a fake value keeps: identity of each block to its bytes, in order."""
    found: dict[int, int] = {}

    def visit(member: Any) -> Any:
        if isinstance(member, Tensor):
            found[storage_key(member)] = member.untyped_storage().nbytes()
        return member

    fx.node.map_aggregate(value, visit)
    return found


def _fresh(value: Any) -> Any:
    """Fake tensors like those in ``value``, apart from everything else; numbers as they are."""

    def like(member: Any) -> Any:
        if not isinstance(member, Tensor):
            return member
        shape, stride = tuple(map(int, member.shape)), tuple(map(int, member.stride()))
        return torch.empty_strided(shape, stride, dtype=member.dtype, device=member.device)

    return fx.node.map_aggregate(value, like)


def _propagate(joint: JointGraph, inputs: list[Any], seed: Any) -> str:
    """Fill in the facts of every call; the type of the device.

    Raises:
        Unknown: a call refuses fake tensors.
    """
    arithmetic, device = _Arithmetic(), "cpu"
    with without_dispatch_modes(), torch.no_grad(), fake_mode(), each_operator(arithmetic):
        given = iter(inputs)
        for node in joint.graph.nodes:
            if node.op == "output":
                node.meta["facts"] = Facts(None)
                continue
            if node.op == "placeholder":
                value = _fresh(next(given))
                node.meta["facts"] = Facts(value, tuple(("new", size) for size in blocks(value).values()))
                if isinstance(value, Tensor):
                    device = value.device.type
                continue
            before = arithmetic.total
            try:
                value = _call(node, seed if node is joint.boundary else None)
            except Exception as error:  # whatever the operator raises: it cannot be sized
                raise Unknown(f"{node.target}: {error}") from error
            node.meta["facts"] = _facts(node, value, arithmetic.total - before)
    return device


def _call(node: fx.Node, seed: Any) -> Any:
    if seed is not None:
        return _fresh(seed)
    args = fx.map_arg(args_of(node), lambda n: facts(n).value)
    kwargs = fx.map_arg(node.kwargs, lambda n: facts(n).value)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    target: Any = node.target
    return _REFERENCES.get(target, target)(*args, **kwargs)


def _facts(node: fx.Node, value: Any, flops: int) -> Facts:
    sources = {
        key: (i, j)
        for i, source in enumerate(node.all_input_nodes)
        for j, key in enumerate(blocks(facts(source).value))
    }
    made = blocks(value)
    holds: list[tuple[Any, int]] = [sources.get(key, ("new", size)) for key, size in made.items()]
    new = sum(size for kind, size in holds if kind == "new")
    unread = shape_only(node)
    read = {
        key: size
        for source in node.all_input_nodes
        if source not in unread
        for key, size in blocks(facts(source).value).items()
    }
    on_cpu = all(tensor.device.type == "cpu" for tensor in _tensors(value))
    scratch = _scratch(node, sum(read.values()), new) if on_cpu else 0
    if new == 0 and node.target is not forward_backward_boundary:
        return Facts(value, tuple(holds))  # a view
    moved = sum(read.values()) + new + 2 * scratch + LAUNCH[not on_cpu]
    cost = flops + FLOPS_PER_BYTE * moved
    return Facts(value, tuple(holds), cost, scratch)


def _scratch(node: fx.Node, read: int, new: int) -> int:
    """What a product on a CPU takes besides its result, as ``torch.profiler`` shows it on torch 2.13."""
    if node.target in _BLOCKED:  # copies of all operands in the layout of the kernel
        return read
    if node.target is _POINTWISE:  # dense copies of transposed operands
        operands = [facts(v).value for v in args_of(node)[:2]]
        return sum(v.numel() * v.element_size() for v in operands if not v.is_contiguous())
    if node.target not in _LIBRARY:
        return 0
    # oneDNN reorders what it reads into blocks, and its result from blocks.
    args = args_of(node)
    of_input = node.target is aten.convolution_backward.default and args[-1][0]
    twice = of_input and max(args[4]) > 1  # strided: its result is copied once more
    return max(read, 2 * new if twice else new)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for member in value:
            yield from _tensors(member)


def shape_only(node: fx.Node) -> set[fx.Node]:
    """The arguments of which ``node`` reads nothing but the shape."""
    args = args_of(node)
    places = SHAPE_ONLY[node.target](args) if node.target in SHAPE_ONLY else ()
    found = {args[i] for i in places if isinstance(args[i], fx.Node)}
    return {source for source in found if all(a is not source or i in places for i, a in enumerate(args))}


# time ---------------------------------------------------------------------------------------------


class Liveness:
    """What is alive at each call of a program, in the order of its graph.

    Args:
        program: the program as it is now.
        overwrites: whether a call will write its result into its first argument.

    Attributes:
        nodes: the calls, placeholders and the output; ``place`` is the inverse.
        size: bytes of each block of memory that the plan itself takes; leaves belong to the caller.
        held: for each node, the blocks that its value keeps.
        written: places at which a block gets new contents.
        born, dies: first and last place of each block, inclusive.
        load: bytes alive during each call, scratch memory included.
    """

    def __init__(self, joint: JointGraph, overwrites: Callable[[fx.Node], bool]) -> None:
        self.nodes = list(joint.graph.nodes)
        self.place = {node: i for i, node in enumerate(self.nodes)}
        self.held: dict[fx.Node, list[int]] = {}
        self.written: dict[int, list[int]] = {}
        size: list[int] = []
        uses: list[list[int]] = []
        for i, node in enumerate(self.nodes):
            own, sources = facts(node), node.all_input_nodes
            held: list[int] = []
            for kind, j in own.holds:
                if kind != "new":
                    held.append(self.held[sources[kind]][j])
                elif not held and overwrites(node):
                    held.append(self.held[args_of(node)[0]][0])
                    self.written.setdefault(held[0], []).append(i)
                else:
                    held.append(len(size))
                    size.append(0 if node.op == "placeholder" and i > 0 else j)
                    uses.append([i])
            if held and _mutates(node):
                self.written.setdefault(held[0], []).append(i)
            self.held[node] = held
            for block in {b for source in sources for b in self.held[source]} | set(held):
                uses[block].append(i)
        if self.nodes[0].op == "placeholder":
            for block in self.held[self.nodes[0]]:  # the caller holds x until sweep 2 is done
                uses[block].append(self.place[joint.boundary])
        self.size = np.asarray(size, dtype=np.int64)
        self.scratch = np.asarray([facts(node).scratch for node in self.nodes], dtype=np.int64)
        self._uses = np.asarray([i for of_block in uses for i in of_block], dtype=np.int64)
        self._starts = np.cumsum([0, *map(len, uses)])[:-1]
        self.born, self.dies, self.load = self._at(np.arange(len(self.nodes)))

    def _at(self, place: Any) -> tuple[Any, Any, Any]:
        at = place[self._uses]
        if not len(at):
            empty = np.zeros(0, dtype=np.int64)
            return empty, empty, np.zeros(len(self.nodes), dtype=np.int64)
        born, dies = np.minimum.reduceat(at, self._starts), np.maximum.reduceat(at, self._starts)
        count = len(self.nodes) + 1
        change = np.bincount(born, self.size, count) - np.bincount(dies + 1, self.size, count)
        scratch = np.zeros(count - 1)
        scratch[place] = self.scratch
        return born, dies, np.cumsum(change[:-1]) + scratch

    def reordered(self, order: Any) -> Any:
        """``load`` if the calls stood in this order (places in :attr:`nodes`)."""
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        return self._at(place)[2]

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return int(self.load.max())

    def alive(self, place: int) -> list[int]:
        """The blocks alive at ``place``, largest first."""
        found = np.flatnonzero((self.born <= place) & (place <= self.dies) & (self.size > 0))
        return sorted(found.tolist(), key=lambda block: -self.size[block])

    def __str__(self) -> str:
        """The peak and what makes it, a line a value."""
        at = int(self.load.argmax())
        first: dict[int, fx.Node] = {}
        for node in self.nodes:
            for block in self.held[node]:
                first.setdefault(block, node)
        lines = [f"{self.peak / 2**20:.2f} MiB at {self.nodes[at].name}"]
        lines += [f"  {self.size[b] / 2**20:8.2f}  {first[b].name}" for b in self.alive(at)]
        return "\n".join([*lines, f"  {self.scratch[at] / 2**20:8.2f}  taken by the library"])


def _mutates(node: fx.Node) -> bool:
    schema = schema_of(node.target)
    return bool(schema and schema.is_mutable)


def pressure(load: Any, scale: float) -> float:
    """How near the loads come to ``scale``, most of all the highest: less is better, also between plans of
    one peak."""
    return float(((load / scale) ** 24).sum())
