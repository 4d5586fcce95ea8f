"""The penalty suite under pytest-benchmark, for its statistics, comparisons and history.

The timed call clears the gradients, then computes the penalty and its parameter gradients. Tables come
from ``wgangp-fast bench`` instead, which interleaves the contestants.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wgangp_fast.bench.contestants import table
from wgangp_fast.bench.steps import PENALTY
from wgangp_fast.bench.workloads import select


@pytest.mark.parametrize("contestant", table(PENALTY, preset="quick"))
@pytest.mark.parametrize("workload", select(None, "quick"))
def test_penalty(time_step: Callable[[str, str, str], None], workload: str, contestant: str) -> None:
    time_step("penalty", workload, contestant)
