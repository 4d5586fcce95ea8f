"""Twenty SIGKILLs at random moments cost the time since the last checkpoint, and never a file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import TESTS


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children are forked")
def test_kills_at_random_moments(tmp_path: Path) -> None:
    script = [sys.executable, str(TESTS / "killed_runs.py"), str(tmp_path)]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False, env=surroundings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "20 kills" in done.stdout
