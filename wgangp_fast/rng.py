"""The state of random number generators in Python: the module :mod:`random`, numpy, and their generators."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, TypeAlias, TypeGuard

import numpy as np

Stream = random.Random | np.random.RandomState | np.random.Generator
State: TypeAlias = Any  # of a stream, as its own methods give and take it

GLOBAL: list[Stream | None] = [
    getattr(random.random, "__self__", None),
    getattr(np.random.rand, "__self__", None),
]


def is_stream(value: object) -> TypeGuard[Stream]:
    """Whether the value is a generator whose state can be read and restored."""
    return type(value) in (random.Random, np.random.RandomState, np.random.Generator)


def states(streams: Iterable[object]) -> list[tuple[Stream, State]]:
    """Each generator once, with its state."""
    return [(stream, state(stream)) for stream in {id(s): s for s in streams if is_stream(s)}.values()]


def state(stream: Stream) -> State:
    """The state that :func:`restore` sets again."""
    if isinstance(stream, np.random.Generator):
        return stream.bit_generator.state
    return stream.get_state() if isinstance(stream, np.random.RandomState) else stream.getstate()


def restore(before: Iterable[tuple[Stream, State]]) -> None:
    """Set generators to the states that :func:`states` returned."""
    for stream, kept in before:
        if isinstance(stream, np.random.Generator):
            stream.bit_generator.state = kept
        elif isinstance(stream, np.random.RandomState):
            stream.set_state(kept)
        else:
            stream.setstate(kept)
