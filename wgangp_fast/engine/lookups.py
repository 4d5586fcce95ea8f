"""Names of torch by their path, for ``torch_internals``: what a torch lacks raises :class:`Unavailable`."""

from __future__ import annotations

import functools
import pkgutil
from typing import Any

import torch

from ..errors import Unavailable

#: what the tests have passed with
TESTED = ("2.11", "2.12", "2.13", "2.14", "2.15")
#: of this torch, where releases behave differently and no name shows it
RELEASE = tuple(int(number) for number in torch.__version__.split(".")[:2])


@functools.cache
def lookup(path: str) -> tuple[bool, Any]:
    """Whether this torch has the name ``path``, and its value."""
    try:
        return True, pkgutil.resolve_name(path)
    except (ImportError, AttributeError):
        return False, None


def perhaps(path: str) -> Any:
    """The value of the name ``path``; None on a torch without it."""
    return lookup(path)[1]


def need(path: str) -> Any:
    """The value of the name ``path``; raises :class:`Unavailable` on a torch without it."""
    known, found = lookup(path)
    if not known:
        raise unavailable(f"has no {path}")
    return found


def unavailable(what: str) -> Unavailable:
    from .. import __version__

    error = Unavailable(f"torch {torch.__version__} {what}, which wgangp_fast {__version__} needs")
    error.remedy = f"use torch {TESTED[0]} to {TESTED[-1]}, or a newer wgangp_fast"
    return error


def untested() -> str | None:
    """What to say of a torch that is not in :data:`TESTED`; None: it is."""
    from .. import __version__

    if ".".join(torch.__version__.split(".")[:2]) in TESTED:
        return None
    return (
        f"wgangp_fast {__version__} was tested with torch {TESTED[0]} to {TESTED[-1]}, and this is torch "
        f"{torch.__version__}: the first call of each critic is compared with stock code"
    )


class Names:
    """Private names by their last part; one that this torch lacks raises when it is read."""

    def __init__(self, prefix: str, paths: str) -> None:
        self.paths = {path.rpartition(".")[2]: f"{prefix}.{path}" for path in paths.split()}

    def __getattr__(self, name: str) -> Any:
        if name not in self.paths:
            raise AttributeError(f"{name} is not among the names that are looked up here")
        return need(self.paths[name])
