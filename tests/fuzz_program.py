"""Random critics as programs: named steps, written out as the Python that a person would write.

A :class:`Program` is a list of steps, each a few lines that read values and write one. It can be printed,
built, and made smaller by taking steps away, so that a failure is reported as the shortest critic that fails.
"""

from __future__ import annotations

import dataclasses
import linecache
import math
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import nn

Shape = tuple[int, ...]


class Quiet(warnings.catch_warnings):
    """As StyleGAN2-ADA silences the tracer."""

    def __enter__(self) -> Any:
        super().__enter__()
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        return self


#: what the lines of a critic may name
SCOPE = {"warnings": warnings, "Quiet": Quiet, "torch": torch, "nn": nn, "F": F, "np": np, "math": math}


@dataclass(frozen=True)
class Block:
    """Lines with places to fill in; they turn a value of some shape into another.

    In the text ``[h]`` is the value that goes in, ``[k]`` another value of its shape (or itself), ``[o]`` the
    result, ``[t]`` a name for what is between, ``[d]`` the last size. Things that belong to the critic, made
    when asked for (with a digit behind them: several): ``[p]`` parameter ``[d]``, ``[s]`` scalar, ``[m]``
    ``[d, d]``, ``[e]`` table ``[5, d]``, ``[f]`` of the shape of one sample, ``[c]`` complex ``[d]``;
    ``[b]`` buffer ``[d]``; ``[id]`` an index buffer ``[d]``. ``{name}`` are numbers of the block's own.

    Attributes:
        text: the lines of the forward pass.
        dims: sizes of one sample it takes, by their number; None: any.
        out: shape of a sample of the result, from that of ``[h]`` and the numbers.
        init: lines for the constructor, with ``[x]`` for a name of their own.
        need: whether it fits this shape.
        draws: the block's own numbers.
    """

    text: str
    dims: int | None = None
    out: Callable[..., Shape] = lambda s, **_: s
    init: tuple[str, ...] = ()
    need: Callable[[Shape], bool] = lambda s: True
    draws: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    random: bool = False


@dataclass(frozen=True)
class Step:
    group: str
    text: str
    reads: tuple[str, ...]
    writes: str
    shape: Shape
    init: tuple[str, ...]


@dataclass(frozen=True)
class Program:
    """One critic.

    Attributes:
        shape: of a batch.
        steps: the forward pass; the last one writes ``score``.
        random: whether it draws random numbers.
        dtype: what it computes in; complex numbers are as wide.
        more: what its lines name besides torch.
    """

    shape: Shape
    steps: tuple[Step, ...]
    random: bool = False
    dtype: torch.dtype = torch.float64
    more: dict[str, Any] = field(default_factory=dict, compare=False)

    def source(self) -> str:
        text = "\n".join(step.text for step in self.steps)
        init = dict.fromkeys(line for step in self.steps for line in step.init)
        lines = ["class Critic(nn.Module):", "    def __init__(self):", "        super().__init__()"]
        lines += [f"        {line}" for line in init if _name_of(line) is None or _name_of(line) in text]
        lines += [f"    def forward(self, x):  # {list(self.shape)}"]
        lines += ["        n = x.shape[0]"] if re.search(r"\bn\b", text) else []
        lines += [f"        {line}" for line in text.splitlines()]
        source = "\n".join([*lines, "        return score"])
        return source.replace("torch.complex128", str(self.dtype.to_complex()))

    def build(self) -> nn.Module:
        """The same critic every time."""
        source = self.source()
        name = f"<critic {abs(hash(source)):x}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        scope = SCOPE | self.more | {"__name__": __name__}
        exec(compile(source, name, "exec"), scope)
        state = torch.get_rng_state()
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        try:
            torch.manual_seed(1)
            return scope["Critic"]()
        finally:
            torch.set_default_dtype(before)
            torch.set_rng_state(state)

    def smaller(self) -> Iterator[Program]:
        """The program with one step less: its readers get what it read, or a plain value of its shape."""
        for i in reversed(range(len(self.steps) - 1)):
            step = self.steps[i]
            before: dict[str, Shape] = {"x": self.shape[1:], **{s.writes: s.shape for s in self.steps[:i]}}
            same = [r for r in (*step.reads, *before) if before.get(r) == step.shape]
            rest = self.steps[:i], self.steps[i + 1 :]
            if not any(step.writes in s.reads for s in rest[1]):
                yield dataclasses.replace(self, steps=rest[0] + rest[1])
            elif same:
                later = tuple(_renamed(s, step.writes, same[0]) for s in rest[1])
                yield dataclasses.replace(self, steps=rest[0] + later)
            elif step.group != "plain":
                ones = ", ".join(["1"] * len(step.shape))
                source = step.reads[0]
                text = (
                    f"{step.writes} = {source}.flatten(1).mean(1).view(n, {ones}) * torch.ones({step.shape})"
                )
                plain = Step("plain", text, (source,), step.writes, step.shape, ())
                yield dataclasses.replace(self, steps=(*rest[0], plain, *rest[1]))


def _name_of(line: str) -> str | None:
    found = re.match(r"(?:self\.register_buffer\(\"(\w+)\"|(self\.\w+) =)", line)
    return None if found is None else found.group(2) or f"self.{found.group(1)}"


def _renamed(step: Step, old: str, new: str) -> Step:
    text = re.sub(rf"(?<![\w.]){re.escape(old)}\b", new, step.text)
    return dataclasses.replace(step, text=text, reads=tuple(new if r == old else r for r in step.reads))


OWN = {
    "p": "nn.Parameter(torch.randn({d}))",
    "s": "nn.Parameter(torch.tensor({r}))",
    "m": "nn.Parameter(torch.randn({d}, {d}) * 0.6)",
    "e": "nn.Parameter(torch.randn(5, {d}))",
    "f": "nn.Parameter(torch.randn({full}))",
    "c": "nn.Parameter(torch.randn({d}, dtype=torch.complex128))",
}


class Writer:
    """Writes a program of ``blocks``, groups of :class:`Block` by name."""

    def __init__(self, rng: random.Random, shape: Shape) -> None:
        self.rng, self.shape = rng, shape
        self.steps: list[Step] = []
        self.values: list[tuple[str, Shape]] = [("x", shape[1:])]
        self.own: list[tuple[str, str, str]] = []  # name, how it is made, its line
        self.random = False

    def _owned(self, kind: str, init: str, made: list[str]) -> str:
        """A parameter of the critic: now and then one that another step uses too."""
        same = [name for name, how, _ in self.own if how == init]
        if same and self.rng.random() < 0.3:
            name = self.rng.choice(same)
        else:
            name = f"self.{kind}{len(self.own)}"
            self.own.append((name, init, f"{name} = {init}"))
        made.extend(line for owned, _, line in self.own if owned == name)
        return name

    def add(self, group: str, block: Block, last: str = "") -> None:
        h, shape = self.values[-1]
        numbers = {key: self.rng.choice(values) for key, values in block.draws.items()}
        d, made, number = shape[-1] if shape else 1, [], len(self.steps)
        mine, text = f"{group.replace(' ', '')[:3]}{number}", block.text
        for key, value in numbers.items():
            text = text.replace("{" + key + "}", str(value))
        others = [name for name, s in self.values if s == shape]
        k = self.rng.choice(others) if "[k]" in text else h
        for line in block.init:
            for key, value in numbers.items():
                line = line.replace("{" + key + "}", str(value))
            made.append(
                line.replace("[d]", str(d)).replace("[x]", mine)
                .replace("[shape]", str(list(shape))).replace("[c0]", str(shape[0]))
            )  # fmt: skip
        places: dict[str, str] = {}
        for place in dict.fromkeys(re.findall(r"\[([a-z]+\d?)\]", text)):
            kind = place.rstrip("0123456789")
            if place == "c0":  # the first size
                continue
            if kind in OWN:
                init = OWN[kind].format(d=d, r=round(self.rng.uniform(0.3, 1.2), 2), full=list(shape))
                places[place] = self._owned(kind, init, made)
            elif kind == "b":
                places[place] = f"self.b{number}{place[1:]}"
                made.append(f'self.register_buffer("{places[place][5:]}", torch.randn({d}))')
            elif kind == "id":
                places[place] = f"self.i{number}"
                made.append(f'self.register_buffer("i{number}", torch.randperm({d}))')
        out = last or f"h{number}"
        places |= {"h": h, "k": k, "o": out, "t": f"t{number}", "d": str(d), "c0": str(shape[0]), "x": mine}
        text = re.sub(r"\[([a-z]+\d?)\]", lambda match: places.get(match[1], match[0]), text)
        self.random = self.random or block.random
        result = block.out(shape, **numbers)
        self.steps.append(Step(group, text, tuple(dict.fromkeys((h, k))), out, result, tuple(made)))
        self.values.append((out, result))

    def fits(self, block: Block) -> bool:
        shape = self.values[-1][1]
        return (block.dims is None or block.dims == len(shape)) and block.need(shape)

    def program(self) -> Program:
        return Program(self.shape, tuple(self.steps), self.random)


def draw(rng: random.Random, groups: dict[str, tuple[float, list[Block]]], heads: list[Block],
         operator: Callable[[random.Random], Block]) -> Program:  # fmt: skip
    """A critic on rows, sequences or images of random size; ``operator`` makes blocks of torch's own."""
    n = rng.randint(3, 4)
    kind = rng.choice(("rows", "rows", "sequence", "image"))
    size = rng.randint
    shape = {
        "rows": (n, size(2, 6)),
        "sequence": (n, size(2, 4), size(2, 5)),
        "image": (n, size(1, 3), size(3, 6), size(3, 6)),
    }[kind]
    writer = Writer(rng, shape)
    names, weights = list(groups), [weight for weight, _ in groups.values()]
    wanted = rng.randint(2, 6)
    writer.add("layer", rng.choice([b for b in groups["layer"][1] if writer.fits(b)]))
    while len(writer.steps) < wanted:
        (name,) = rng.choices(names, weights)
        fitting = [block for block in groups[name][1] if writer.fits(block)] or [operator(rng)]
        if math.prod(writer.values[-1][1]) >= 80:
            break
        writer.add(name, rng.choice(fitting))
    writer.add("head", rng.choice([head for head in heads if writer.fits(head)]), "score")
    return writer.program()
