"""``accelerate``: penalties written by hand, over an accelerated critic and over the module's own code."""

from __future__ import annotations

import pytest
import zoo_deep  # noqa: F401 - enters its critics
import zoo_public_rows  # noqa: F401 - enters its critics
from penalties_by_hand import (
    PENALTIES,
    compare,
    with_score,
)
from zoo import ZOO
from zoo_public import PUBLIC, STOCK_PATH

CRITICS = {**ZOO, **{f"public: {name}": entry for name, entry in PUBLIC.items()}}
FORMS = ("ReLU", "Tanh", "layer norm", "dropout", "batch norm", "spectral norm", "DCGAN")
OWN_CODE = {f"public: {name}" for name in STOCK_PATH}


@pytest.mark.usefixtures("no_stock_path")
@pytest.mark.parametrize("name", [name for name in CRITICS if name not in OWN_CODE])
def test_penalty_and_score(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", "never")  # the engine alone
    compare(CRITICS[name], with_score)


@pytest.mark.usefixtures("no_stock_path")
@pytest.mark.parametrize("verify", ["first", "never"])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("name", FORMS)
def test_forms(name: str, penalty: str, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGANGP_FAST_VERIFY", verify)
    compare(ZOO[name], PENALTIES[penalty])
