"""Replaces attributes of torch for the duration of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

#: Dynamo's objects, whose classes differ from torch to torch: what stands for a value of the critic's Python
#: (``VariableTracker``), what runs its bytecode (``InstructionTranslator``), the graph that it collects
#: (``OutputGraph``), where a value comes from (``Source``), and the maker and the record of a guard on it
Variable: TypeAlias = Any
Translator: TypeAlias = Any
OutputGraph: TypeAlias = Any
Source: TypeAlias = Any
GuardBuilder: TypeAlias = Any
Guard: TypeAlias = Any

Method = Callable[..., Any]  # a function of torch's that is replaced, or what replaces it
Patch = tuple[object, str, Callable[[Any], Any]]  # owner, attribute, the new value from the old


@contextlib.contextmanager
def patched(patches: Iterable[Patch]) -> Iterator[None]:
    """Apply the patches inside the block; skip an owner that lacks the attribute (in another torch)."""
    with contextlib.ExitStack() as stack:
        for owner, name, make in patches:
            original = vars(owner).get(name)
            if original is None:
                continue
            static = isinstance(original, staticmethod)
            made = make(original.__func__ if static else original)
            setattr(owner, name, staticmethod(made) if static else made)
            stack.callback(setattr, owner, name, original)
        yield
