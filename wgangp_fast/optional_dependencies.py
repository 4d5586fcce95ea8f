"""Imports optional packages when they are needed, and says how to install one that is missing."""

from __future__ import annotations

import importlib
from typing import Any

from .errors import UserError


def require(module: str) -> Any:
    """Import ``module`` of an optional package, or say in one line how to get it.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise  # the package is installed, but something that it imports is not
        names = {"sklearn": "scikit-learn", "PIL": "Pillow"}
        raise UserError(
            f"{names.get(package, package)} is not installed: pip install 'wgangp_fast[train]'"
        ) from None
