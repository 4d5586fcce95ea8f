"""The trainer: ``train(Config(preset="digits"))``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import lazy

if TYPE_CHECKING:
    from ..errors import UserError
    from .config import Config
    from .loop import Diverged, Interrupted, train
    from .parallel import ProcessLost
    from .presets import PRESETS

__all__ = ["PRESETS", "Config", "Diverged", "Interrupted", "ProcessLost", "UserError", "train"]

__getattr__, __dir__ = lazy.attach(
    __name__,
    {
        "config": ("Config",),
        "loop": ("Diverged", "Interrupted", "UserError", "train"),
        "parallel": ("ProcessLost",),
        "presets": ("PRESETS",),
    },
)
