"""mlp_penalty: its reference against autograd, its kernels against the reference."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from mlp_cases import REFERENCE_CASES, Case, arguments, incoming_of, stock, weight_gradients
from paths import TESTS

from wgangp_fast.errors import BackendError
from wgangp_fast.ops.mlp_penalty import mlp_penalty, mlp_penalty_backward


@pytest.mark.parametrize("case", REFERENCE_CASES, ids=str)
def test_reference_is_what_autograd_finds(case: Case) -> None:
    settings = arguments(case, torch.float64)
    incoming = incoming_of(case, torch.float64)
    outputs = mlp_penalty(**settings)
    t, c = mlp_penalty_backward(
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


def test_alpha_is_returned_or_drawn_the_same_for_every_batch_size() -> None:
    given = arguments(Case(), torch.float64)
    assert torch.equal(mlp_penalty(**given).alpha, given["alpha"])
    few, many = (arguments(Case(given_alpha=False, batch=n), torch.float32) for n in (3, 500))
    drawn = mlp_penalty(**many).alpha
    assert torch.equal(mlp_penalty(**few).alpha, drawn[:3])
    assert drawn.unique().numel() > 490
    assert 0 <= drawn.min() < 0.02
    assert 0.98 < drawn.max() < 1
    many["offset"] += 1
    assert not torch.equal(mlp_penalty(**many).alpha, drawn)


@pytest.mark.parametrize("reduction", [0, 1, 2])
def test_empty_batch(reduction: int) -> None:
    settings = arguments(Case(batch=0, reduction=reduction), torch.float64)
    outputs = mlp_penalty(**settings)
    expected = (torch.zeros(0), torch.tensor(0.0), torch.tensor(float("nan")))[reduction].double()
    torch.testing.assert_close(outputs.value, expected, equal_nan=True)
    assert outputs.h.shape == (0, 49)


def test_a_gradient_of_zero_has_slope_zero() -> None:
    settings = arguments(Case(act="relu", reduction=1), torch.float64)
    settings["biases"][0].fill_(-1e3)  # every unit is off
    outputs = mlp_penalty(**settings)
    assert outputs.value == 20
    assert torch.equal(outputs.slope, torch.zeros(20, dtype=torch.float64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pac": 3}, "pac must divide"),
        ({"act": 4}, "act must be"),
        ({"act": 2, "negative_slope": -0.1}, "negative_slope must be"),
        ({"reduction": 3}, "reduction must be"),
        ({"alpha": torch.zeros(19, dtype=torch.float64)}, "alpha must be"),
        ({"fake": torch.zeros(20, 5)}, "fake must be"),
        ({"weights": []}, "weights must have"),
        ({"masks": [None]}, "masks must have"),
        ({"biases": [None]}, "biases must have"),
        ({"real": torch.zeros(20, 5, dtype=torch.int64)}, "real must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_errors_name_the_argument(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mlp_penalty(**{**arguments(Case(), torch.float64), **change})


def test_a_named_backend_runs_or_says_why_not() -> None:
    with pytest.raises(BackendError, match="float32, float16 and bfloat16"):
        mlp_penalty(**arguments(Case(), torch.float64), impl="triton")
    with pytest.raises(BackendError, match="'cuda' and 'triton'"):
        mlp_penalty(**arguments(Case(), torch.float32), impl="cpu")


@pytest.mark.parametrize("part", ["values", "meetings", "compile"])
def test_triton_kernels_without_a_gpu(part: str) -> None:
    """values: against the reference; meetings: programs that share a tile; compile: registers and spills."""
    pytest.importorskip("triton")
    here = TESTS
    interpret = "0" if part == "compile" else "1"
    environment = {**os.environ, "PYTHONPATH": str(here.parent), "TRITON_INTERPRET": interpret}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(here / "mlp_triton.py"), part],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
