"""mlp_penalty: its reference against autograd, its kernels against the reference."""

from __future__ import annotations

import pytest
import torch
from mlp_cases import REFERENCE_CASES, Case, arguments, incoming_of, stock, weight_gradients

from wgangp_fast.ops import mlp_penalty as op


@pytest.mark.parametrize("case", REFERENCE_CASES, ids=str)
def test_reference_is_what_autograd_finds(case: Case) -> None:
    settings = arguments(case, torch.float64)
    incoming = incoming_of(case, torch.float64)
    outputs = op.mlp_penalty(**settings)
    t, c = op.mlp_penalty_backward(
        incoming, outputs.slope, outputs.gradient, outputs.h, outputs.g,
        settings["weights"], settings["masks"], settings["act"], settings["negative_slope"],
    )  # fmt: skip
    dw, db = weight_gradients(settings, outputs, t, c)
    truth = stock(settings, outputs.alpha, incoming)
    for name in ("value", "norm", "gradient", "x"):
        torch.testing.assert_close(getattr(outputs, name), truth[name], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(dw, truth["dw"], rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(db, truth["db"]):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
