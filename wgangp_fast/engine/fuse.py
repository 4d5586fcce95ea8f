"""Rewrites of derived sweeps into cheaper code with the same meaning."""

from __future__ import annotations

from .derive import Sweeps


def fuse(sweeps: Sweeps) -> None:
    """Rewrite both graphs in place."""
    for module in (sweeps.forward, sweeps.backward):
        if module is not None:
            module.recompile()
