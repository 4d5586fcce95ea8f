"""What the tests of the experiments share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wgangp_fast.experiments import speed
from wgangp_fast.experiments.cli import open_study, run
from wgangp_fast.experiments.study import Study

for package in ("matplotlib", "PIL", "sklearn"):
    pytest.importorskip(package)


def smoke_run(name: str, path: Path, **changes: Any) -> tuple[Study, dict[str, Any]]:
    """A whole experiment at the smallest scale, in ``path``; its study and its results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "ROUNDS", {"smoke": (2, 0.0)})
        study = open_study(name, "smoke", path, device="cpu", **changes)
        assert run(study) == path / "README.md"
    return study, json.loads((path / "results.json").read_text())
