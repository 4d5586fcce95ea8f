"""Comparison of two results, on samples that are made, not measured."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wgangp_fast.bench import cli, compare, measures, suite
from wgangp_fast.bench.environment import environment

ENVIRONMENT = environment(torch.device("cpu")) | {"load": 0.0, "device": "a processor", "threads": 2}
ROUNDS = 15

Result = dict[str, Any]


def made(
    seed: int,
    slower: dict[tuple[str, str], float] | None = None,
    noise: float = 0.05,
    rounds: int = ROUNDS,
    speed: float = 1.0,
    workloads: tuple[str, ...] = ("toy", "dcgan64", "amp"),
) -> Result:
    """A result of stock, ours and a rival; the machine drifts, and each sample has its own noise.

    Args:
        slower: factor on the time of (workload, contestant).
        speed: of the machine.
    """
    generator = random.Random(seed)
    rows = []
    for workload in workloads:
        drift = [speed * math.exp(generator.gauss(0, 0.3)) for _ in range(rounds)]
        samples = {
            name: [
                d * time * math.exp(generator.gauss(0, noise)) * (slower or {}).get((workload, name), 1.0)
                for d in drift
            ]
            for name, time in (("stock", 0.02), ("rival", 0.018), ("ours", 0.01))
        }
        found = {
            name: {"status": "ok", "seconds": seconds, "peak_bytes": 1 << 20}
            | measures.statistics(samples["stock"], seconds)
            for name, seconds in samples.items()
        }
        rows.append({
            "workload": workload, "step": "penalty", "batch": 16, "dtype": "float32", "contestants": found,
        })  # fmt: skip
    return {
        "format": suite.FORMAT, "suite": "penalty", "environment": dict(ENVIRONMENT), "timed": "made up",
        "rule": {"factor": 10.0, "tolerance": 1e-5, "truth": "stock in float64"}, "rows": rows,
    }  # fmt: skip


def verdicts(found: compare.Comparison) -> dict[tuple[str, str], str]:
    return {
        (pair.workload, pair.contestant): pair.verdict
        for pair in found.pairs
        if pair.verdict not in ("", "baseline")
    }


@pytest.mark.parametrize("seed", range(40))
def test_noise_is_not_flagged(seed: int) -> None:
    """Also where the machine of the second run is a third slower, and the samples scatter by 10 %."""
    found = compare.compare(made(seed, noise=0.1), made(1000 + seed, noise=0.1, speed=1.5))
    assert verdicts(found) == {}
    assert not found.worse()
    assert [pair.verdict for pair in found.pairs if pair.contestant == "stock"] == ["baseline"] * 3


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("factor", "verdict"), [(1.2, "slower"), (1 / 1.2, "faster")])
def test_a_known_change_is_found_and_nothing_else(seed: int, factor: float, verdict: str) -> None:
    new = made(1000 + seed, {("dcgan64", "ours"): factor}, speed=0.7)
    found = compare.compare(made(seed), new)
    assert verdicts(found) == {("dcgan64 (16)", "ours"): verdict}
    (pair,) = [p for p in found.pairs if p.verdict == verdict]
    assert pair.change == pytest.approx(factor - 1, abs=0.15)
    assert bool(found.worse()) == (verdict == "slower")


def test_a_sure_but_small_change_is_not_reported() -> None:
    old, new = made(1, noise=0.001), made(2, {("toy", "ours"): 1.03}, noise=0.001)
    assert verdicts(compare.compare(old, new)) == {}
    assert verdicts(compare.compare(old, new, effect=0.02)) == {("toy (16)", "ours"): "slower"}


def test_a_slower_baseline_is_no_gain_of_ours_beyond_its_ratio() -> None:
    """Ratios to stock are compared: stock's own change shows in its seconds, and in everybody's ratio."""
    slow = {(workload, "stock"): 1.3 for workload in ("toy", "dcgan64", "amp")}
    found = compare.compare(made(1), made(2, slow))
    assert set(verdicts(found).values()) == {"faster"}
    assert all(pair.change is not None for pair in found.pairs if pair.contestant == "stock")


def test_what_has_no_partner_is_named() -> None:
    old, new = made(1, workloads=("toy", "amp", "mnist")), made(2, workloads=("toy", "amp", "cifar"))
    del old["rows"][0]["contestants"]["rival"]
    del new["rows"][1]["contestants"]["rival"]
    found = compare.compare(old, new)
    assert found.notes == [
        "only in the old result: mnist (16)",
        "only in the new result: cifar (16)",
        "only in the new result: toy (16), rival",
        "only in the old result: amp (16), rival",
    ]
    assert [(p.workload, p.contestant) for p in found.pairs] == [
        ("toy (16)", "stock"), ("toy (16)", "ours"), ("amp (16)", "stock"), ("amp (16)", "ours"),
    ]  # fmt: skip


def test_what_gives_no_right_answer_any_more() -> None:
    old, new = made(1), made(2)
    broken = new["rows"][0]["contestants"]
    broken["ours"] = {"status": "wrong", "message": "grad 0.weight"}
    old["rows"][1]["contestants"]["rival"] = {"status": "error", "message": "RuntimeError"}
    for result in (old, new):
        result["rows"][2]["contestants"]["rival"] = {"status": "absent", "message": "not installed"}
    found = compare.compare(old, new)
    assert verdicts(found) == {
        ("toy (16)", "ours"): "broken", ("dcgan64 (16)", "rival"): "mended", ("amp (16)", "rival"): "absent",
    }  # fmt: skip
    assert [pair.verdict for pair in found.worse()] == ["broken"]


def test_without_a_baseline_nothing_is_claimed() -> None:
    old, new = made(1), made(2, {("toy", "ours"): 2.0})
    new["rows"][0]["contestants"]["stock"] = {"status": "error", "message": "out of memory"}
    found = compare.compare(old, new)
    assert verdicts(found)[("toy (16)", "ours")] == "no baseline"


def test_memory_is_a_note() -> None:
    new = made(2)
    new["rows"][0]["contestants"]["ours"]["peak_bytes"] = 3 << 19
    assert compare.compare(made(1), new).notes == ["toy (16), ours: peak memory 1.0 to 1.5 MiB"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["environment"].update(device="another"), "device a processor and another"),
        (lambda r: r["environment"].update(threads=1), "threads 2 and 1"),
        (lambda r: [row.update(dtype="bf16-autocast") for row in r["rows"]], "dtype float32 and bf16"),
    ],
)
def test_unlike_results_are_refused(change: Callable[[Result], Any], message: str) -> None:
    new = made(2)
    change(new)
    with pytest.raises(compare.Unlike, match=f"{message}.*--force"):
        compare.compare(made(1), new)
    assert any(message in note for note in compare.compare(made(1), new, force=True).notes)


def test_what_force_does_not_help() -> None:
    with pytest.raises(compare.Unlike, match="of one suite"):
        compare.compare(made(1), made(2) | {"suite": "critic_step"}, force=True)
    with pytest.raises(compare.Unlike, match="in common"):
        compare.compare(made(1), made(2, workloads=("mnist",)), force=True)


def test_other_versions_are_noted() -> None:
    new = made(2)
    new["environment"]["torch"] = "9.9"
    (note,) = compare.compare(made(1), new).notes
    assert note == f"differs: torch {ENVIRONMENT['torch']} and 9.9"


def brute_force(a: list[float], b: list[float]) -> float:
    """Share of the arrangements whose U is as far from the middle."""
    pooled = a + b

    def u(chosen: tuple[int, ...]) -> int:
        mine = [pooled[i] for i in chosen]
        rest = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        return sum(x > y for x in mine for y in rest)

    middle = len(a) * len(b) / 2
    seen = abs(u(tuple(range(len(a)))) - middle)
    every = [abs(u(chosen) - middle) for chosen in itertools.combinations(range(len(pooled)), len(a))]
    return sum(value >= seen for value in every) / len(every)


def test_rank_test() -> None:
    generator = random.Random(0)
    for n, m in ((1, 1), (3, 3), (4, 2), (5, 4)):
        for _ in range(5):
            a, b = [generator.random() for _ in range(n)], [generator.random() for _ in range(m)]
            assert compare.rank_test(a, b) == pytest.approx(brute_force(a, b))
    # Normal: ties, or many. The exact p of 20 and 20 well apart values is 2 / (40 choose 20).
    assert compare.rank_test([1.0] * 5, [1.0] * 5) == 1.0
    assert compare.rank_test(list(range(20)), list(range(20, 40))) == pytest.approx(2 / math.comb(40, 20))
    many, shifted = [i + 0.0 for i in range(60)], [i + 20.5 for i in range(60)]
    assert compare.rank_test(many, shifted) == pytest.approx(8.7476e-8, rel=1e-4)  # as SciPy has it
    assert compare.rank_test(many, [i + 0.5 for i in range(60)]) > 0.8
    with pytest.raises(ValueError, match="values on both sides"):
        compare.rank_test([], [1.0])


def test_holm_takes_the_number_of_pairs_into_account() -> None:
    pairs = [compare.Pair(str(i), "ours", change=0.5, p=p) for i, p in enumerate((0.02, 0.001, 0.03))]
    compare._judge(pairs, 0.05, 0.05)
    assert [pair.verdict for pair in pairs] == ["slower", "slower", "slower"]
    pairs = [compare.Pair(str(i), "ours", change=0.5, p=p) for i, p in enumerate((0.03, 0.001, 0.03))]
    compare._judge(pairs, 0.05, 0.05)
    assert [pair.verdict for pair in pairs] == ["", "slower", ""]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("old.json", "new.json", "same.json", "elsewhere.json")]
    elsewhere = copy.deepcopy(made(3))
    elsewhere["environment"]["threads"] = 64
    results = (made(1), made(2, {("amp", "ours"): 1.5}), made(3), elsewhere)
    for path, result in zip(paths, results, strict=True):
        suite.save(result, path)
    old, new, same, other = map(str, paths)
    assert cli.main(["compare", old, same]) == 0
    assert "nothing got slower by 5 % or more" in capsys.readouterr().out
    assert cli.main(["compare", old, new]) == 1
    printed = capsys.readouterr().out
    assert "amp (16) ours" in printed.splitlines()[-1]
    assert "slower" in printed
    assert cli.main(["compare", new, old]) == 0
    assert cli.main(["compare", old, new, "--effect", "60"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", old, other]) == 2
    assert "threads 2 and 64" in capsys.readouterr().err
    assert cli.main(["compare", old, other, "--force"]) == 0
    assert cli.main(["compare", old, str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "no.json").write_text(json.dumps({"suite": "penalty"}))
    assert cli.main(["compare", old, str(tmp_path / "no.json")]) == 2


def test_few_rounds_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        suite.save(made(ord(name), rounds=5), tmp_path / f"{name}.json")
    cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert "note: 5 rounds in a run are few" in capsys.readouterr().out
