"""The floor under a row: what its unavoidable products and bytes take here, measured in the same rounds.

:mod:`.counting` says which products and bytes an exact method cannot leave out, :mod:`.library` how a product
may be computed. Of the ways of each product the fastest is chosen once a run; its time is then sampled in
every round between the contestants, so that a drift of the machine meets both, and the median counts. A
minimum would set a floor that nobody can reach twice.

What can pass below it, by as much as it saves: a product whose own kernel in this package is faster than
every way of the library; a pass over memory that is fused into a product; several products of one small MLP
in one kernel; library calls so small that they are mostly the call.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from .. import wrappers
from ..rules.nodes import info_of
from . import library
from .counting import LOSSES, Count, Product, Unit, count
from .timing import sample

RULE = (
    "floor = products + bytes. products: for each product of the critic the best measured library time of "
    "the calls that no exact method can leave out (forward, input gradient, tangent, weight gradients; "
    "decided a layer: sweep 4 and the second weight gradient only where second order is not structurally "
    "zero; whole critic loss: forward of 3N, input gradients of 2N or 3N, weight gradient of 3N or 4N in one "
    "call). bytes: what the sweeps of every other node read and write at least, fused with nothing, over the "
    "rate of a copy of as many bytes here. Medians of samples taken between the contestants' rounds, data in "
    "cache where it fits. Above 100 %: a kernel of this package's own, or a fusion, beats the library there"
)
LEAST_SECONDS = 1e-3  # of a sample
RACE = 3  # samples of each way before the choice
HOPELESS = 3.0  # times the fastest's first call: such ways do not race
LEAST_SAMPLES = 7
LEAST_COPY = 1 << 16  # bytes: below, a copy would measure the call

Choices = dict[Any, str]


class Call:
    """One way to do one piece of the work, and its samples, in seconds."""

    def __init__(self, way: str, run: Callable[[], Any], device: torch.device) -> None:
        self.way, self.run, self.device = way, run, device
        self.seconds: list[float] = []
        with torch.no_grad():
            run()
            self.first = max(sample(run, 1, device), 1e-7)
            self.calls = max(1, math.ceil(LEAST_SECONDS / self.first))

    def take(self) -> float:
        """One sample, the call before it unmeasured."""
        with torch.no_grad():
            if self.calls < 8:
                self.run()
            return sample(self.run, self.calls, self.device)

    def median(self) -> float:
        return statistics.median(self.seconds)


class Floor:
    """The floor of one critic; :meth:`take` samples all of it once, :meth:`result` sums up.

    Args:
        critic, x: as a contestant gets them; x ``[N, ...]`` is the real batch.
        loss: ``"penalty"`` or ``"critic_step"``.
        choices: which way won before, by product, dtype and device; shared by the rows of a run.
        dtype: of the products; by default x's.

    Raises:
        wgangp_fast.errors.CaptureError: the critic has no graph to count.
    """

    def __init__(
        self,
        critic: nn.Module,
        x: Tensor,
        loss: str,
        choices: Choices | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.device, self.loss = x.device, loss
        self.dtype = x.dtype if dtype is None else dtype
        self.choices: Choices = {} if choices is None else choices
        self.calls: dict[Any, Call] = {}
        self.count = count_critic(critic, x, loss)
        self.plan = [
            (name, product, [(unit, self._calls(product, unit)) for unit in units])
            for name, product, units in self.count.products
        ]
        self.draws = [
            self._call(("draw", size), library.draw(size, self.device)) for size in self.count.draws
        ]
        self.copies = [(size, self._copy(size)) for size in self.count.transfers]

    def _calls(self, product: Product, unit: Unit) -> list[tuple[Call, int]]:
        """The calls that make up ``unit``, and how often each: in one, or apart, whichever was faster."""
        options = []
        for split in dict.fromkeys([unit.multiples, (1,) * sum(unit.multiples)]):
            scaled = [product.times(k) for k in split]
            if all(p is not None for p in scaled):
                calls = [self._product_call(p, unit.function) for p in scaled if p is not None]
                options.append([(call, 1) for call in dict.fromkeys(calls)])
                options[-1] = [(call, calls.count(call)) for call, _ in options[-1]]
        return min(options, key=lambda calls: sum(n * self._guess(call) for call, n in calls))

    def _guess(self, call: Call) -> float:
        if not call.seconds:
            call.seconds += [call.take() for _ in range(RACE)]
        return call.median()

    def _product_call(self, product: Product, function: str) -> Call:
        key = (product, function)
        if key not in self.calls:
            self._call(key, library.ways(product, function, self.device, self.dtype))
        return self.calls[key]

    def _copy(self, size: int) -> Call:
        # One copy serves all sizes within a factor of two.
        about = max(LEAST_COPY, 1 << math.ceil(math.log2(max(size, 1))))
        return self._call(("copy", about), library.copy(about, self.device))

    def _call(self, key: Any, ways: library.Ways) -> Call:
        if key in self.calls:
            return self.calls[key]
        if self.choices.get(self._chosen(key)) in ways:
            way = self.choices[self._chosen(key)]
            found = Call(way, ways[way], self.device)
        else:
            racers = [Call(way, run, self.device) for way, run in ways.items()]
            fastest = min(racer.first for racer in racers)
            racers = [racer for racer in racers if racer.first < HOPELESS * fastest]
            for _ in range(RACE):
                for racer in racers:
                    racer.seconds.append(racer.take())
            found = min(racers, key=Call.median)
            self.choices[self._chosen(key)] = found.way
        self.calls[key] = found
        return found

    def _chosen(self, key: Any) -> Any:
        return (*key, self.dtype, self.device)

    def take(self) -> None:
        """One sample of every call."""
        for call in self._used():
            call.seconds.append(call.take())

    def _used(self) -> list[Call]:
        used = [call for _, _, units in self.plan for _, calls in units for call, _ in calls]
        return list(dict.fromkeys([*used, *self.draws, *(call for _, call in self.copies)]))

    def result(self) -> dict[str, Any]:
        """The floor, ready for JSON: seconds, what they are made of, and every sample."""
        while min(len(call.seconds) for call in self._used()) < LEAST_SAMPLES:
            self.take()
        per_product = [self._product_result(name, product, units) for name, product, units in self.plan]
        products = math.fsum(entry["seconds"] for entry in per_product)
        draws = math.fsum(call.median() for call in self.draws)
        moved = math.fsum(call.median() * size / self._size_of(call) for size, call in self.copies)
        used = set(self._used())
        return {
            "rule": RULE,
            "loss": self.loss,
            "seconds": products + draws + moved,
            "products_s": products,
            "draws_s": draws,
            "bytes_s": moved,
            "bytes": sum(self.count.transfers),
            "flops": round(self.count.forward_units * self.count.forward_flops),
            "forward_units": self.count.forward_units,
            "per_product": per_product,
            "samples": [
                {"call": _text(key), "way": call.way, "seconds": call.seconds}
                for key, call in self.calls.items()
                if call in used
            ],
        }

    def _size_of(self, copy: Call) -> int:
        return next(key[1] for key, call in self.calls.items() if call is copy)

    def _product_result(
        self, name: str, product: Product, units: list[tuple[Unit, list[tuple[Call, int]]]]
    ) -> dict[str, Any]:
        entries: list[dict[str, Any]] = []
        for unit, calls in units:
            entries.append({
                "function": unit.function,
                "batches": list(unit.multiples),
                "calls": sum(n for _, n in calls),
                "way": ", ".join(dict.fromkeys(call.way for call, _ in calls)),
                "seconds": math.fsum(n * call.median() for call, n in calls),
            })  # fmt: skip
        return {
            "node": name,
            "product": str(product),
            "gflop": sum(sum(unit.multiples) for unit, _ in units) * product.flops() / 1e9,
            "seconds": math.fsum(entry["seconds"] for entry in entries),
            "units": entries,
        }


def count_critic(critic: nn.Module, x: Tensor, loss: str) -> Count:
    """Capture ``critic`` at ``x [N, ...]`` and count; see :func:`.counting.count`.

    Raises:
        wgangp_fast.errors.CaptureError: it cannot be captured.
    """
    from ..engine.capture import dynamo as capture

    with torch.enable_grad():
        captured = capture.bind(wrappers.unwrap(critic), None, x.detach().clone().requires_grad_()).captured
    trains: set[fx.Node] = {leaf for leaf in captured.leaves() if info_of(leaf).requires_grad}
    prologue = None if captured.prologue is None else captured.prologue.graph
    return count(captured.critic, prologue, trains, loss)


def beside(judge: Any, choices: Choices) -> Floor | str | None:
    """The floor of what ``judge``'s contestants compute; the reason where there is none to be had.

    Args:
        judge: a :class:`.correctness.Judge`: workload, batch, task, arithmetic.

    Returns:
        None for a task that has no floor.
    """
    if judge.task.name not in LOSSES:
        return None
    critic, real, _ = judge.workload.build(judge.device, torch.float32, judge.seed, judge.batch)
    dtype = torch.bfloat16 if judge.mode.autocast else torch.float32
    try:
        return Floor(critic, real, judge.task.name, choices, dtype)
    except Exception as error:  # a critic that cannot be captured; the row is timed all the same
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def shares(floor: dict[str, Any], entry: dict[str, Any]) -> dict[str, float]:
    """What a timed contestant's entry is given: the floor over its median, 1 being the floor itself."""
    return {
        "share_of_floor": floor["seconds"] / entry["median_s"],
        "share_of_products": floor["products_s"] / entry["median_s"],
    }


def _text(key: Any) -> str:
    if isinstance(key[0], Product):
        return f"{key[1]} of {key[0]}"
    return f"{key[0]} {key[1]}"
