"""The critic-step suite under pytest-benchmark: the critic's whole loss and its parameter gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wgangp_fast.bench.contestants import table
from wgangp_fast.bench.steps import CRITIC_STEP
from wgangp_fast.bench.workloads import select


@pytest.mark.parametrize("contestant", table(CRITIC_STEP, preset="quick"))
@pytest.mark.parametrize("workload", select(None, "quick"))
def test_critic_step(time_step: Callable[[str, str, str], None], workload: str, contestant: str) -> None:
    time_step("critic_step", workload, contestant)
