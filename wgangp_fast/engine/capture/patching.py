"""Replaces attributes of torch for the duration of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Patch = tuple[Any, str, Callable[[Any], Any]]  # owner, attribute, function from the old value to the new one


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
