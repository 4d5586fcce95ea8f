"""The benchmark's own arithmetic, its gate, and its files. No time is asserted anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paths import ROOT
from torch import Tensor, nn

from wgangp_fast.bench import cli, contestants, correctness, critics, measures, memory, report, suite, timing
from wgangp_fast.bench.contestants import CONTESTANTS, Contestant, Step, stock
from wgangp_fast.bench.workloads import WORKLOADS, Workload, select

# paper.md 15.1 where it lists the layout; else the formula in*out + out a layer, written out.
PARAMETERS = {
    "toy": 527_361,
    "ctgan": (1000 * 256 + 256) + (256 * 256 + 256) + (256 + 1),
    "amp": (60 * 1024 + 1024) + (1024 * 512 + 512) + (512 + 1),
    "dcgan64": 4_314_753,
    "dcgan64-layernorm": 4_316_545,
    "dcgan64-instancenorm": 4_316_545,
    "dcgan64-tanh": 2432 + 51_264 + 204_928 + 819_456 + 4097,
    # 5 x 5 convolutions of twice the outputs, of which the gate leaves half; LayerNorm behind the later ones
    "dcgan64-gated": (75 * 64 + 64)
    + (800 * 128 + 3 * 128)
    + (1600 * 256 + 3 * 256)
    + (3200 * 512 + 3 * 512)
    + 4097,
    "mnist": 1_030_145,
    "cifar": 4_114_689,
    "resnet64": 471_361,
    # checked at the full width below, against the paper
    "resnet101": 481_741,
    "spectral": 3 * 1024 + 64 + 131_072 + 128 + 524_288 + 256 + 4097,
    "attention": 4864 + 204_928 + 2 * 2064 + 16_512 + 1 + 819_456 + 4097,
    "audio": 208 + sum(25 * 8 * k * 16 * k + 16 * k for k in (1, 2, 4, 8)) + (16 * 128 + 1),
    "language": (100 * 128 + 128) + 10 * (5 * 128**2 + 128) + (32 * 128 + 1),
}

TINY = Workload(lambda: critics.perceptron((3, 8, 8, 1), lambda: [nn.Tanh()]), (3,), 6, 6, "quick", "tiny")
DROPPING = Workload(
    lambda: critics.perceptron((3, 32, 32, 1), lambda: [nn.LeakyReLU(0.2), nn.Dropout(0.5)]),
    (3,), 6, 6, "quick", "tiny with dropout",
)  # fmt: skip
SPECTRAL = Workload(lambda: critics.spectral(2, 16), (3, 16, 16), 3, 3, "quick", "tiny, with buffers")


@pytest.mark.parametrize("name", WORKLOADS)
def test_workload_builds(name: str) -> None:
    row = WORKLOADS[name]
    critic, real, fake = row.build("cpu", torch.float64, seed=1, batch=2)
    assert sum(p.numel() for p in critic.parameters()) == PARAMETERS[name]
    assert real.shape == fake.shape == (2, *row.sample)
    assert not torch.equal(real, fake)
    assert critic(real).numel() == 2
    assert torch.isfinite(critic(fake)).all()
    assert {t.dtype for t in (real, fake, *critic.parameters())} == {torch.float64}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet64", 7_491_841), ("resnet101", 7_618_801), ("language", 13_129_217 + 512 * 100)],
)
def test_critics_at_the_papers_width(name: str, parameters: int) -> None:
    assert sum(p.numel() for p in WORKLOADS[name].network("cuda").parameters()) == parameters


def test_a_seed_means_the_same_numbers_in_every_dtype() -> None:
    state = torch.get_rng_state()
    narrow, wide = TINY.build("cpu", torch.float32, 3), TINY.build("cpu", torch.float64, 3)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(narrow[1].double(), wide[1])
    assert torch.equal(narrow[0][0].weight.double(), wide[0][0].weight)
    assert not torch.equal(TINY.build("cpu", torch.float32, 4)[1], narrow[1])


def test_select() -> None:
    assert list(select(None, "full")) == list(WORKLOADS)
    assert "resnet64" not in select(None, "quick")
    assert "dcgan64" in select(None, "quick")
    assert list(select(["mnist", "toy"], "quick")) == ["toy", "mnist"]
    with pytest.raises(ValueError, match="unknown workload moon; known: toy"):
        select(["moon"], "quick")


def test_statistics() -> None:
    assert timing.percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert timing.percentile([float(i) for i in range(11)], 10) == 1.0
    assert timing.percentile([7.0], 90) == 7.0
    assert timing.paired_ratios([2.0, 6.0], [1.0, 2.0]) == [2.0, 3.0]
    # The machine slowed down in the last round: pairs do not see it.
    summary = measures.statistics([2.0, 2.0, 20.0], [1.0, 1.0, 10.0])
    assert summary["ratio"] == 2.0
    assert summary["ratio_of_medians"] == 2.0
    assert measures.statistics([1.0, 4.0, 9.0], [1.0, 2.0, 3.0])["ratio_of_medians"] == 2.0
    assert measures.statistics([1.0, 6.0, 9.0], [1.0, 2.0, 9.0])["ratio"] == 1.0
    assert "ratio" not in measures.statistics(None, [1.0])
    for values, q in (([], 50), ([1.0], 101)):
        with pytest.raises(ValueError, match="percentile needs"):
            timing.percentile(values, q)
    with pytest.raises(ValueError, match="same rounds"):
        timing.paired_ratios([1.0], [1.0, 2.0])


def test_interleave_alternates_and_counts() -> None:
    order: list[str] = []
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "a": (lambda: order.append("a"), 1),
        "b": (lambda: order.append("b"), 2),
    }
    samples = timing.interleave(calls, torch.device("cpu"), rounds=3)
    assert "".join(order) == "abb" + "bba" + "abb"
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}
    spent = timing.interleave(calls, torch.device("cpu"), rounds=99, budget=0.0)
    assert len(spent["a"]) == timing.MIN_ROUNDS


def scaled(factor: float) -> Contestant:
    """Stock, but one weight gradient is off by ``factor``."""

    def contestant(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        step = stock(critic, real, fake, alpha)

        def wrong(*inputs: Tensor) -> Tensor:
            penalty = step(*inputs)
            for parameter in list(critic.parameters())[:1]:
                assert parameter.grad is not None
                parameter.grad *= factor
            return penalty

        return wrong

    return contestant


def stale(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    """Answers every call with its first answer."""
    first: list[Tensor] = []
    kept: list[Tensor | None] = []
    step = stock(critic, real, fake, alpha)

    def repeat(*inputs: Tensor) -> Tensor:
        if not first:
            first.append(step(*inputs))
            kept.extend(None if p.grad is None else p.grad.clone() for p in critic.parameters())
        for parameter, gradient in zip(critic.parameters(), kept, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        return first[0]

    return repeat


def eager_twice(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    """Runs the critic once more than stock code, which moves buffers."""
    step = stock(critic, real, fake, alpha)

    def twice(*inputs: Tensor) -> Tensor:
        critic(real)
        return step(*inputs)

    return twice


def refusing(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
    raise RuntimeError("does not currently support double backward")


@pytest.mark.parametrize("workload", [TINY, DROPPING, SPECTRAL], ids=lambda w: w.about)
@pytest.mark.parametrize("name", ["stock", "ours"])
def test_the_contestants_are_right(name: str, workload: Workload, device: torch.device) -> None:
    right, draws = correctness.Judge(workload, device).judge(CONTESTANTS[name])
    assert right, draws


@pytest.mark.parametrize(
    ("contestant", "workload", "where"),
    [
        (scaled(1.001), TINY, "grad 0.weight"),
        (scaled(math.nan), TINY, "grad 0.weight"),
        (stale, DROPPING, "grad "),
        (eager_twice, SPECTRAL, ""),  # a stale vector moves everything
    ],
)
def test_the_judge_finds_faults(contestant: Contestant, workload: Workload, where: str) -> None:
    right, draws = correctness.Judge(workload, torch.device("cpu")).judge(contestant)
    assert not right
    assert len(draws) == 3
    assert where in draws[0].where
    assert not draws[0].kept


@pytest.mark.parametrize(
    ("broken", "right", "draws"), [({5}, True, 3), ({6}, True, 1), ({5, 6}, False, 3), ({5, 7}, False, 3)]
)
def test_one_kink_is_forgiven_two_are_not(broken: set[int], right: bool, draws: int) -> None:
    class Fixed(correctness.Judge):
        def draw(self, contestant: Contestant, seed: int, built: Any = None) -> correctness.Draw:
            return correctness.Draw(seed, "penalty", 1.0 if seed in broken else 0.0, 1e-5)

    verdict = Fixed(TINY, torch.device("cpu"), seed=5).judge(stock)
    assert (verdict[0], len(verdict[1])) == (right, draws)


def test_three_way_rule() -> None:
    rule = correctness.three_way
    tolerance = correctness.TOLERANCE
    assert rule({"a": tolerance}, {"a": 0.0}, 0).kept
    assert not rule({"a": 1.1 * tolerance}, {"a": 0.0}, 0).kept
    assert rule({"a": 0.009}, {"a": 0.001}, 0).kept
    assert not rule({"a": 0.011, "b": 0.0}, {"a": 0.001, "b": 1.0}, 0).kept
    assert not rule({"a": math.inf}, {"a": math.inf}, 0).kept


def test_errors_are_relative_and_find_what_is_missing() -> None:
    t = torch.tensor
    truth = [{"penalty": t(4.0), "grad w": t([1.0, -2.0]), "grad b": t([0.0])}]
    found = correctness.errors([{"penalty": t(5.0), "grad w": t([1.0, -1.0]), "grad b": t([2e-9])}], truth)
    assert found["penalty"] == 0.25
    assert found["grad w"] == 0.5
    assert found["grad b"] == pytest.approx(1e-9)  # 2e-9 against the largest entry of all gradients
    assert correctness.errors([{"penalty": t(4.0)}], truth)["grad w"] == math.inf


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """A run with a right, a wrong and a failing contestant."""
    return suite.run(
        {"tiny": TINY},
        torch.device("cpu"),
        measures.Settings(rounds=3, memory=True),
        ["--workload", "tiny"],
        contestants=lambda task: {"stock": stock, "same": stock, "off": scaled(1.01), "refusing": refusing},
    )


def test_no_time_for_a_wrong_answer(result: dict[str, Any], tmp_path: Path) -> None:
    entries = result["rows"][0]["contestants"]
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "stock": "ok", "same": "ok", "off": "wrong", "refusing": "error",
    }  # fmt: skip
    for name in ("off", "refusing"):
        assert not [key for key in entries[name] if "_s" in key or "second" in key or "ratio" in key]
        (line,) = [cells for cells in report.cells(result) if cells[2] == name]
        assert line[3] == entries[name]["status"].upper()
        assert not any(line[4:])
    assert len(entries["same"]["seconds"]) == 3
    assert "grad 0.weight: relative error 1.0e-02" in entries["off"]["message"]
    assert entries["refusing"]["message"] == "RuntimeError: does not currently support double backward"
    assert suite.all_right(result)  # of rivals, everything is borne
    row = result["rows"][0]
    entries = {"stock": entries["same"], "ours": entries["off"]}
    assert not suite.all_right(result | {"rows": [row | {"contestants": entries}]})
    assert any("off: wrong: grad 0.weight" in note for note in report.notes(result))


def test_round_trip_table_and_plot(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "r.json"
    suite.save(result, path)
    assert suite.load(path) == result
    assert cli.main(["--table", str(path)]) == 0
    table = capsys.readouterr().out
    assert table == report.markdown(result) + "\n"
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4
    assert {line.count("|") for line in lines} == {len(report.columns(result)) + 1}
    assert result["environment"]["torch"] in table
    median = result["rows"][0]["contestants"]["same"]["median_s"]
    assert f"| same | {median * 1e3:.4g} |" in table

    pytest.importorskip("matplotlib")
    png = tmp_path / "r.png"
    assert cli.main(["--plot", str(path), str(png)]) == 0
    assert png.read_bytes()[:4] == b"\x89PNG"

    path.write_text(json.dumps({"suite": "penalty", "format": -1}))
    with pytest.raises(ValueError, match="format"):
        suite.load(path)


def test_results_name_no_folder_of_the_machine(result: dict[str, Any]) -> None:
    root = ROOT
    assert str(root) not in json.dumps(result)
    assert result["command"] == "wgangp-fast bench --workload tiny"


def test_a_run_cut_short_keeps_what_it_has() -> None:
    def interrupted(critic: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Step:
        if real.shape[1:] == (4,):
            raise KeyboardInterrupt
        return stock(critic, real, fake, alpha)

    later = Workload(lambda: nn.Linear(4, 1), (4,), 2, 2, "quick", "interrupted")
    kept: list[list[str]] = []
    with pytest.raises(KeyboardInterrupt):
        suite.run(
            {"tiny": TINY, "later": later},
            torch.device("cpu"),
            measures.Settings(rounds=1),
            [],
            contestants=lambda task: {"stock": interrupted},
            keep=lambda result: kept.append([row["workload"] for row in result["rows"]]),
        )
    assert kept == [["tiny"]]


def test_a_busy_machine_is_named(result: dict[str, Any]) -> None:
    for load, named in ((0.9, False), (1.1, True), (None, False)):
        environment = result["environment"] | {"load": load, "cores": 2}
        notes = report.notes(result | {"environment": environment})
        assert any("the machine was busy" in note for note in notes) == named


def test_plain_table_lines_up(result: dict[str, Any]) -> None:
    lines = report.plain(result).splitlines()
    at = lines[0].index("contestant")
    assert [line[at:].split()[0] for line in lines[1:]] == ["stock", "same", "off", "refusing"]


def test_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(WORKLOADS, "toy", TINY)
    monkeypatch.setitem(WORKLOADS, "mnist", DROPPING)
    out = tmp_path / "r.json"
    arguments = [
        "--workload",
        "toy",
        "--workload",
        "mnist",
        "--rounds",
        "2",
        "--batch",
        "4",
        "--out",
        str(out),
    ]
    assert cli.main(arguments) == 0
    assert [(row["workload"], row["batch"]) for row in suite.load(out)["rows"]] == [("toy", 4), ("mnist", 4)]
    table = {"stock": stock, "ours": scaled(0.5)}
    monkeypatch.setattr(contestants, "table", lambda task, mode, preset: table)
    assert cli.main(arguments) == 1
    printed = capsys.readouterr().out
    assert "WRONG" in printed
    assert cli.main(["--list"]) == 0
    assert all(name in capsys.readouterr().out for name in ["dcgan64-tanh"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workload", "moon"], "unknown workload moon"),
        (["--rounds", "0"], "must be at least 1"),
        (["--table", "nowhere.json"], "nowhere.json"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_peak_bytes_counts_what_is_alive_at_once(device: torch.device) -> None:
    mebi = 2**20
    before = torch.empty(5 * mebi, dtype=torch.uint8, device=device)

    def call() -> None:
        a = torch.empty(2 * mebi, dtype=torch.uint8, device=device)
        b = torch.empty(4 * mebi, dtype=torch.uint8, device=device)
        del a
        c = torch.empty(mebi, dtype=torch.uint8, device=device)
        before.add_(1)
        del b, c
        torch.empty(3 * mebi, dtype=torch.uint8, device=device)

    assert memory.peak_bytes(call, device) == 6 * mebi


def test_peak_bytes_is_not_lowered_by_freeing_what_was_there() -> None:
    old = [torch.empty(10**6, dtype=torch.uint8)]

    def call() -> None:
        old.clear()
        torch.empty(10**5, dtype=torch.uint8)

    assert memory.peak_bytes(call) == 10**5
    assert memory.peak_of_events(iter([(2.0, 7, -10), (1.0, 8, 4), (3.0, 9, 5), (4.0, 8, -4)])) == 9


def test_peak_bytes_of_a_backward_pass() -> None:
    """Autograd keeps the squares' inputs: three squares of n floats keep three, the backward adds two."""
    n = 1 << 16
    x = torch.ones(n, requires_grad=True)

    def call() -> None:
        x.square().square().square().sum().backward()

    assert 4 * 4 * n <= memory.peak_bytes(call) <= 7 * 4 * n
