"""Data to train on: embedded sets by name, prepared folders, and everything that can be prepared.

Names are imported when they are used: worker processes import a part that needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import lazy

if TYPE_CHECKING:
    from ...errors import UserError
    from ...optional_dependencies import require
    from .cache import Cache
    from .dataset import Batches, Fresh, Samples, Stored, hold_out, moved, to_unit
    from .loader import Loader
    from .preparation import Stopped, prepare
    from .rng import stream
    from .sets import digits, labelled, load, mark, modes, names

__all__ = [
    "Batches",
    "Cache",
    "Fresh",
    "Loader",
    "Samples",
    "Stopped",
    "Stored",
    "UserError",
    "digits",
    "hold_out",
    "labelled",
    "load",
    "mark",
    "modes",
    "moved",
    "names",
    "prepare",
    "require",
    "stream",
    "to_unit",
]

__getattr__, __dir__ = lazy.attach(
    __name__,
    {
        "cache": ("Cache",),
        "dataset": ("Batches", "Fresh", "Samples", "Stored", "hold_out", "moved", "to_unit"),
        "loader": ("Loader",),
        "preparation": ("Stopped", "prepare", "UserError", "require"),
        "rng": ("stream",),
        "sets": ("digits", "labelled", "load", "mark", "modes", "names"),
    },
)
