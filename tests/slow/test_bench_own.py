"""``wgangp-fast bench --critic``: somebody's own critic and penalty. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import own_critics
import pytest
import torch
from paths import ROOT

from wgangp_fast.bench import cli, own, report, suite
from wgangp_fast.bench.modes import FLOAT32
from wgangp_fast.bench.steps import PENALTY

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = "4,3,2,2"
CPU = torch.device("cpu")


def bench(*flags: str) -> int:
    return cli.main(["--shape", SHAPE, "--rounds", "2", *flags])


def measured(tmp_path: Path, *flags: str, expected: int = 0) -> dict[str, Any]:
    out = tmp_path / "own.json"
    assert bench(*flags, "--out", str(out)) == expected
    return suite.load(out)


def rows(result: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    penalty, step = result["rows"]
    assert (penalty["step"], step["step"]) == ("penalty", "critic_step")
    return penalty, step


def test_a_critic_that_the_engine_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--critic", "own_critics:rectified", "--penalty", "own_critics:numpy_alpha", "--memory"]
    result = measured(tmp_path, *flags)
    for row, names in zip(rows(result), (["ours"], ["ours", "ours-penalty-only"]), strict=True):
        assert list(row["contestants"]) == ["stock", "yours", *names]
        for entry in row["contestants"].values():
            assert entry["status"] == "ok"
            assert len(entry["seconds"]) == 2
            assert entry["first_call_s"] > 0
            assert entry["peak_bytes"] > 0
        assert all(row["contestants"][name]["float64"]["error"] < 1e-12 for name in names)
        assert row["runs"]["path"] == "engine"
        assert (row["runs"]["operators"], row["runs"]["generic"]) == (6, [])
        assert list(row["over_yours"]) == names
    penalty, step = (row["runs"]["forward_units"] for row in rows(result))
    assert 3 < penalty < 4 < 6 < step < 10
    printed = capsys.readouterr().out
    assert all(f"note: {note}\n" in printed for note in report.notes(result))
    assert "penalty: on the engine: 6 operators, 0 of them by the generic rule" in printed
    assert "penalty: yours is 10 times the stock penalty, in value and gradients" in printed
    assert "critic step: ours-penalty-only is" in printed
    assert str(ROOT) not in json.dumps(result)
    assert cli.main(["--table", str(tmp_path / "own.json")]) == 0
    assert "| own_critics:rectified | critic_step | 4 | yours |" in capsys.readouterr().out


def test_a_critic_on_the_stock_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(tmp_path, "--critic", "own_critics:Branching")
    assert [row["runs"]["path"] for row in rows(result)] == ["stock", "stock"]
    assert [list(row["contestants"]) for row in rows(result)] == [
        ["stock", "ours"], ["stock", "ours", "ours-penalty-only"],
    ]  # fmt: skip
    printed = capsys.readouterr().out
    for step in ("penalty", "critic step"):
        assert f"note: {step}: on the stock path, so nothing is gained: Python looks at numbers" in printed
    assert "at tests/own_critics.py, line" in printed
    assert "Remedy: write the choice with torch.where" in printed
    assert printed.count("Remedy: ") == 2, "the warnings say it again"
    assert str(ROOT) not in json.dumps(result)


@pytest.mark.parametrize(
    ("name", "agrees", "factor", "between"),
    [
        ("numpy_alpha", True, 10.0, True),
        ("other_way", True, 1.0, True),
        ("one_gradient_off", False, None, True),
        ("zero_centred", False, None, True),  # at alpha 1
        ("perturbed", False, None, False),
        ("not_finite", False, None, True),
    ],
)
@pytest.mark.parametrize("critic", ["rectified", "spectral", "Dropping", "Layer"])
def test_penalties_of_users(critic: str, name: str, agrees: bool, factor: float, between: bool) -> None:
    workloads, contestants = own.brought(f"own_critics:{critic}", SHAPE, f"own_critics:{name}", CPU, FLOAT32)
    (workload,) = workloads.values()
    judge = own.OwnJudge(workload, CPU, 0, None, PENALTY, FLOAT32)
    assert judge.judge(contestants(PENALTY)["yours"]) == (True, []), "it is timed whatever it computes"
    assert (judge.yours["agrees"], judge.yours["between"]) == (agrees, between)
    if agrees:
        assert judge.yours["factor"] == pytest.approx(factor, rel=1e-5)
    (said,) = [note for note in own.notes([note_row(judge)]) if "yours" in note]
    assert ("computes something else" in said) == (not agrees)
    value = "not finite" if name == "not_finite" else f"{judge.yours['value']:.6g}"
    assert f"{value}, stock {judge.yours['stock']:.6g}" in said


def test_one_kink_is_forgiven_and_not_told() -> None:
    workloads, _ = own.brought("own_critics:rectified", SHAPE, None, CPU, FLOAT32)
    judge = own.OwnJudge(workloads["own_critics:rectified"], CPU, 0, None, PENALTY, FLOAT32)
    penalties = iter([own_critics.one_gradient_off, own_critics.other_way, own_critics.other_way])
    judge.judge(own.Yours(lambda *inputs: next(penalties)(*inputs), PENALTY, FLOAT32))
    assert judge.yours["agrees"]
    assert judge.yours["error"] < 1e-4


def note_row(judge: own.OwnJudge) -> dict[str, Any]:
    runs = {"path": "stock", "reason": ""}
    return {
        "step": "penalty", "runs": runs, "narrow": "", "incomparable": "", "contestants": {},
        "yours": judge.yours,
    }  # fmt: skip


def test_a_penalty_that_differs_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = measured(tmp_path, "--critic", "own_critics:Generic", "--penalty", "own_critics:zero_centred")
    assert all(len(row["contestants"]["yours"]["seconds"]) == 2 for row in rows(result))
    assert rows(result)[0]["runs"]["generic"] == ["aten.logcumsumexp.default"]
    printed = capsys.readouterr().out
    assert "penalty: yours computes something else: " in printed
    assert "1 of them by the generic rule (aten.logcumsumexp.default)" in printed


def test_random_numbers_outside_of_dropout_layers(tmp_path: Path) -> None:
    penalty, step = rows(measured(tmp_path, "--critic", "own_critics:Dropping"))
    assert penalty["incomparable"] == ""
    assert penalty["contestants"]["ours"]["draws"]
    assert penalty["contestants"]["ours"]["float64"]["error"] < 1e-12
    assert "one pass over all samples draws in another order" in step["incomparable"]
    assert step["contestants"]["ours"]["draws"] == []
    _, step = rows(measured(tmp_path, "--critic", "own_critics:Layer"))
    assert step["incomparable"] == ""
    assert step["contestants"]["ours"]["draws"][0]["kept"]


def test_a_critic_that_cannot_be_float64(tmp_path: Path) -> None:
    result = measured(tmp_path, "--critic", "own_critics:Narrow")
    for row in rows(result):
        assert "same dtype" in row["narrow"]
        assert row["contestants"]["ours"]["draws"][0]["kept"]
        assert "float64" not in row["contestants"]["ours"]
    assert any("truth is stock code in float32" in note for note in report.notes(result))


def test_a_callable_that_is_no_module(tmp_path: Path) -> None:
    for row in rows(measured(tmp_path, "--critic", "own_critics:plain")):
        assert row["parameters"] == 12 * 8 + 8 + 8 + 1
        assert row["contestants"]["ours"]["status"] == "ok"
        assert row["runs"]["path"] == "engine"


def test_ours_is_wrong_if_it_is_in_float64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = PENALTY.ours["ours"]

    def off(score: Any, real: Any, fake: Any, alpha: Any) -> Any:
        return inner(score, real, fake, alpha) * (1.001 if real.dtype == torch.float64 else 1)

    monkeypatch.setitem(PENALTY.ours, "ours", off)
    penalty, _ = rows(measured(tmp_path, "--critic", "own_critics:rectified", expected=1))
    assert "in float64: error 1.0e-03" in penalty["contestants"]["ours"]["message"]
    assert "seconds" not in penalty["contestants"]["ours"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--critic", "nowhere:make"], "nowhere:make: ModuleNotFoundError: No module named 'nowhere'"),
        (["--critic", "own_critics:nobody"], "has no attribute 'nobody'"),
        (["--critic", "own_critics"], "a callable is named as MODULE:CALLABLE; got 'own_critics'"),
        (["--critic", "own_critics:ONE.inner.weight"], "must be a callable that returns a critic"),
        (["--critic", "models:nobody"], "unknown model 'nobody'"),
        (["--critic", "own_critics:raising"], "own_critics:raising: RuntimeError: no weights"),
        (["--critic", "sys:exit"], "sys:exit: SystemExit"),
        (["--critic", "own_critics:shared"], "must make a new critic at each call"),
        (["--critic", "own_critics:pair"], "must return a tensor; it returned a tuple: let the callable"),
        (["--critic", "own_critics:untrainable"], "no parameters that could be trained"),
        (["--critic", "builtins:int"], "must return a critic; it returned a int"),
        (["--critic", "own_critics:rectified", "--shape", "4,5"], "the critic at [4, 5]: RuntimeError"),
        (["--critic", "own_critics:rectified", "--shape", "4,x"], "--shape must be the batch"),
        (["--critic", "own_critics:rectified", "--penalty", "own_critics:no_tensor"], "returned a float"),
        (["--critic", "own_critics:rectified", "--penalty", "own_critics:one_a_sample"], "one number"),
        (["--critic", "own_critics:rectified", "--penalty", "builtins:len"], "builtins:len: TypeError"),
        (["--critic", "own_critics:rectified", "--penalty", "math:pi"], "math:pi"),
        (["--critic", "own_critics:rectified", "--workload", "toy"], "and no --workload"),
        (["--critic", "own_critics:rectified", "--suite", "ops"], "or --suite"),
        (["--penalty", "own_critics:other_way"], "need --critic"),
    ],
)
def test_mistakes_of_users(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("wgangp-fast bench: ")
    assert message in line


def test_every_critic_has_the_weights_of_the_first() -> None:
    """Also where torch's seed does not decide them."""
    workloads, _ = own.brought("own_critics:plain", SHAPE, None, CPU, FLOAT32)
    (workload,) = workloads.values()
    one, other = (workload.build("cpu", seed=seed)[0] for seed in (0, 1))
    assert len(list(one.parameters())) == 4
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert a is not b
        assert torch.equal(a, b)
