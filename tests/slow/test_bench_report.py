"""Tables, pictures and the report, of made-up results and of a small run; the growth suite's points."""

from __future__ import annotations

import builtins
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from wgangp_fast.bench import cli, document, growth, measures, plots, report, suite
from wgangp_fast.bench.environment import environment
from wgangp_fast.bench.measures import Settings

ENVIRONMENT = environment(torch.device("cpu")) | {"load": 0.0}
DRAW = {"seed": 0, "where": "penalty", "error": 1e-6, "limit": 1e-5, "kept": True}
NAMES = ("stock", "stock-channels-last", "stock-make-fx", "jax", "ours")

Result = dict[str, Any]


def entry(seconds: list[float], stock: list[float], peak: int) -> dict[str, Any]:
    return {
        "status": "ok", "draws": [DRAW], "warnings": [], "first_call_s": 0.5, "seconds": seconds,
        "peak_bytes": peak, "peak_ratio": peak / 2**21,
    } | measures.statistics(stock, seconds)  # fmt: skip


def row(workload: str, step: str = "penalty", floor: bool = True, batch: int = 16) -> dict[str, Any]:
    generator = random.Random(workload)
    stock = [0.02 * generator.uniform(0.9, 1.1) for _ in range(9)]
    found: dict[str, Any] = {"stock": entry(stock, stock, 2**21)}
    for index, name in enumerate(NAMES[1:]):
        found[name] = entry([s / (1 + index / 4) for s in stock], stock, 2**20)
    found["jax"] = {"status": "absent", "message": "jax is not installed"}
    more: dict[str, Any] = {}
    if floor:
        more["floor"] = {
            "rule": "the rule of floors", "seconds": 0.008, "products_s": 0.007, "draws_s": 0.0,
            "bytes_s": 0.001, "bytes": 10**7, "flops": 10**9, "forward_units": 4.0,
        }  # fmt: skip
        for one in found.values():
            if one["status"] == "ok":
                one |= {"share_of_floor": 0.008 / one["median_s"], "share_of_products": 0.5}
    return {
        "workload": workload, "step": step, "batch": batch, "device": "cpu", "dtype": "float32",
        "contestants": found, **more,
    }  # fmt: skip


def result(which: str, rows: list[dict[str, Any]]) -> Result:
    return {
        "format": suite.FORMAT, "suite": which, "command": f"wgangp-fast bench --suite {which}",
        "environment": dict(ENVIRONMENT), "timed": "made up", "memory_method": "counted", "rows": rows,
        "rule": {"factor": 10.0, "tolerance": 1e-5, "truth": "stock in float64"},
    }  # fmt: skip


def grown() -> Result:
    rows = []
    for name, (axis, value) in growth.POINTS.items():
        rows.append(row(name, floor=False) | {"axis": axis, "value": value, "growing": "about"})
    return result("growth", rows)


def column(found: Result, head: str) -> list[str]:
    index = report.columns(found).index(head)
    return [cells[index] for cells in report.cells(found)]


def test_absent_contestants_are_named_once_with_the_reason() -> None:
    found = result("penalty", [row("toy"), row("amp")])
    assert "jax" not in column(found, "contestant")
    assert report.notes(found) == ["jax on every row: absent: jax is not installed"]
    found["rows"][0]["contestants"]["jax"] = found["rows"][0]["contestants"]["ours"]
    assert column(found, "contestant").count("jax") == 1
    assert report.notes(found) == ["jax on amp: absent: jax is not installed"]


def test_the_share_of_the_floor_has_a_column_where_there_is_one() -> None:
    found = result("penalty", [row("toy"), row("amp", floor=False)])
    entries = found["rows"][0]["contestants"]
    shares = column(found, "% of floor")
    assert shares[:2] == [f"{100 * entries[name]['share_of_floor']:.0f}" for name in NAMES[:2]]
    assert shares[-1] == ""
    assert "the rule of floors" in report.header(found)
    without = result("penalty", [row("amp", floor=False)])
    assert report.columns(without) == report.COLUMNS
    found["rows"][1]["floor"] = {"missing": "CaptureError: a graph break"}
    assert "amp: no floor: CaptureError: a graph break" in report.notes(found)


def test_tables_of_the_other_suites() -> None:
    memory = result("memory", [row("toy", "penalty"), row("toy", "critic_step")])
    assert report.columns(memory)[:4] == ("workload", "step", "batch", "contestant")
    assert column(memory, "peak MiB")[:2] == ["2.0", "1.0"]
    assert column(memory, "it / stock")[:2] == ["1.00", "0.50"]
    first = row("toy")
    first["contestants"] = {
        "stock": {"status": "ok", "first_call_s": 0.25, "second_call_s": 0.125, "second_shape_s": None},
        "ours": {"status": "error", "message": "TimeoutError"},
    }
    compiled = result("compile_time", [first])
    assert report.cells(compiled) == [
        ["toy", "16", "stock", "0.25", "0.12", ""],
        ["toy", "16", "ours", "ERROR", "", ""],
    ]
    wide = row("toy")
    found = {
        "loss": {"median": 1e-7, "worst": 2e-7, "draws": [1e-7, 1e-7, 2e-7]},
        "all_gradients": {"median": 2e-7, "worst": 3e-3, "draws": [2e-7, 2e-7, 3e-3]},
        "one_gradient": {"median": 3e-7, "worst": None, "draws": [3e-7, 3e-7, None]},
    }
    modes = {"fp32": found | {"kinked": 1}, "bf16-autocast": found | {"kinked": None}}
    wide["contestants"] = {"stock": {"status": "ok", "errors": modes}}
    accuracy = result("accuracy", [wide]) | {"settings": {"draws": 3, "seed": 0}}
    assert column(accuracy, "loss: median, worst") == [
        "fp32 1.0e-07, 2.0e-07; bf16-autocast 1.0e-07, 2.0e-07"
    ]
    assert column(accuracy, "one gradient: median, worst")[0].startswith("fp32 3.0e-07, not finite; ")
    assert column(accuracy, "kinked") == ["fp32 1 of 3"]
    assert "off by more than 0.0001" in report.markdown(accuracy)
    for made in (memory, compiled, accuracy):
        assert report.markdown(made).count("\n| ") == 1 + len(report.cells(made))


def test_terminal_with_and_without_rich(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = result("penalty", [row("toy"), row("amp")])
    pytest.importorskip("rich")
    report.show(found)
    rich = capsys.readouterr().out
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    report.show(found)
    plain = capsys.readouterr().out
    for cells in report.cells(found):
        for printed in (rich, plain):
            assert any(all(cell in line for cell in cells) for line in printed.splitlines()), cells
    assert "note: jax on every row: absent" in rich
    assert "note: jax on every row: absent" in plain
    assert "│" in rich
    assert "│" not in plain


def test_a_bar_for_each_contestant_that_was_timed() -> None:
    found = result("penalty", [row("toy"), row("amp")])
    bars = list(plots.speedup_bars(found))
    assert [(bar.label, bar.contestant) for bar in bars] == [
        (label, name) for label in ("toy (16)", "amp (16)") for name in NAMES if name not in ("stock", "jax")
    ]
    ours = found["rows"][0]["contestants"]["ours"]
    assert bars[2].value == ours["ratio"]
    assert (bars[2].low, bars[2].high) == (ours["ratio_p10"], ours["ratio_p90"])
    shares = list(plots.floor_bars(found))
    assert [bar.contestant for bar in shares[:4]] == [name for name in NAMES if name != "jax"]
    assert shares[3].value == pytest.approx(100 * ours["share_of_floor"])
    assert shares[3].low <= shares[3].value <= shares[3].high
    assert {bar.value for bar in plots.memory_bars(found)} == {0.5}
    assert plots._order(["ours", "jax", "stock", "ours-penalty-only"]) == [
        "stock", "jax", "ours-penalty-only", "ours",
    ]  # fmt: skip


def test_panels() -> None:
    few = result("penalty", [row(f"w{i}") for i in range(8)])
    assert [len(labels) for _, labels in plots._panels(list(plots.speedup_bars(few)))] == [8]
    many = result("penalty", [row(f"w{i}") for i in range(9)])
    assert [len(labels) for _, labels in plots._panels(list(plots.speedup_bars(many)))] == [5, 4]
    both = result("memory", [row("toy", "penalty"), row("toy", "critic_step")])
    assert plots._panels(list(plots.memory_bars(both))) == [
        ("penalty", ["toy (16)"]),
        ("critic_step", ["toy (16)"]),
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was drawn, kept open to be looked at."""
    pytest.importorskip("matplotlib")
    drawn: list[Any] = []
    save = plots._save

    def kept(pyplot: Any, figure: Any, path: Path) -> None:
        drawn.append(figure)
        save(pyplot, figure, path)

    monkeypatch.setattr(plots, "_save", kept)
    return drawn


def test_pictures_have_no_overlapping_text(figures: list[Any], tmp_path: Path) -> None:
    """Titles, labels and legends of each picture, by the boxes that matplotlib draws them in."""
    many = result("penalty", [row(f"dcgan64-instancenorm-{i}") for i in range(13)])
    steps = result("memory", [row("toy", "penalty"), row("toy", "critic_step")])
    plots.speedups(many, tmp_path / "a.png")
    plots.floor_shares(many, tmp_path / "b.png")
    plots.memory(steps, tmp_path / "c.png")
    plots.growth(grown(), tmp_path / "d.png")
    plots.speedups(result("penalty", [row("toy")]), tmp_path / "e.png")
    assert len(figures) == 5
    for figure in figures:
        figure.draw_without_rendering()
        width, height = figure.get_size_inches() * figure.dpi
        assert width == 9 * figure.dpi  # legible at the width of a README
        boxes = []
        texts = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
        for axes in figure.axes:
            texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            texts += axes.texts
            # Ticks beyond the limits exist, but are not drawn.
            for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
                ticks = [(tick.get_loc(), tick.label1) for tick in axis.get_major_ticks()]
                texts += [label for at, label in ticks if min(limits) <= at <= max(limits)]
        for text in texts:
            if text.get_text().strip() and text.get_visible():
                box = text.get_window_extent()
                assert box.x0 >= -1, text
                assert box.x1 <= width + 1, text
                assert box.y0 >= -1, text
                assert box.y1 <= height + 1, text
                if not text.get_text().endswith("\n"):  # the title's empty line is the next line's
                    boxes.append((text.get_text(), box.shrunk(0.9, 0.8)))
        for i, (one, a) in enumerate(boxes):
            assert not [other for other, b in boxes[i + 1 :] if a.overlaps(b)], one


def test_nothing_to_draw(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    alone = row("toy", floor=False)
    alone["contestants"] = {"stock": alone["contestants"]["stock"]}
    for draw in (plots.speedups, plots.memory, plots.floor_shares, plots.growth):
        with pytest.raises(ValueError, match="nothing to plot"):
            draw(result("penalty", [alone]), tmp_path / "none.png")


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    memory = result("memory", [row("toy", "penalty", False), row("toy", "critic_step", False)])
    for made in memory["rows"]:
        for one in made["contestants"].values():
            for key in [key for key in one if key.startswith(("ratio", "median", "p10", "p90"))]:
                del one[key]
    results = {"p": result("penalty", [row("toy"), row("amp")]), "m": memory, "g": grown()}
    for name, made in results.items():
        suite.save(made, tmp_path / f"{name}.json")
    out = tmp_path / "out"
    files = [str(tmp_path / f"{name}.json") for name in results]
    assert cli.main(["report", *files, "--out", str(out)]) == 0
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "growth.png", "memory.png", "penalty-floor.png", "penalty-memory.png", "penalty-speedup.png",
        "report.md",
    ]  # fmt: skip
    assert sorted(Path(line).name for line in capsys.readouterr().out.splitlines()) == names
    text = (out / "report.md").read_text()
    for name in names[:-1]:
        assert f"]({name})" in text
        assert (out / name).read_bytes()[:4] == b"\x89PNG"
    for made in results.values():
        assert report.markdown(made) in text
    assert "| toy | 16 | 8 | 7 | 0 | 1 | 10 | 4.00 | 143 |" in text
    assert str(tmp_path) not in text


def test_report_of_two_results_of_a_suite(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    wide, narrow = (result("penalty", [row("toy")]) for _ in range(2))
    narrow["rows"][0]["dtype"] = "bf16-autocast"
    written = document.write([wide, narrow], tmp_path)
    assert "cpu-bf16-autocast-penalty-floor.png" in {path.name for path in written}
    assert "## The gradient penalty (cpu-float32)" in written[0].read_text()
    with pytest.raises(ValueError, match="report them apart"):
        document.write([wide, wide], tmp_path)


def test_report_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "none.json"), "--out", str(tmp_path)]) == 2
    assert "none.json" in capsys.readouterr().err


def test_growth_points() -> None:
    assert list(growth.select(None, "quick")) == list(growth.POINTS)
    assert list(growth.select(["depth", "batch-4"], "quick"))[:2] == ["batch-4", "depth-2"]
    assert len(growth.select(["depth"], "full")) == 6
    with pytest.raises(ValueError, match="unknown point moon; known: batch, width, depth, batch-1"):
        growth.select(["moon"], "quick")
    ends = {axis: (row.values[0], row.values[-1]) for axis, row in growth.AXES.items()}
    assert ends == {"batch": (1, 1024), "width": (16, 512), "depth": (2, 100)}
    for name, workload in growth.select(["batch-1024", "width-512", "depth-100"], "quick").items():
        critic, real, _ = workload.build("cpu")
        axis, value = growth.POINTS[name]
        layers = [m for m in critic.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
        grew = {"batch": real.shape[0], "width": layers[0].weight.shape[0], "depth": len(layers) - 1}
        assert grew[axis] == value


def test_growth_suite(tmp_path: Path) -> None:
    out = tmp_path / "g.json"
    kept: list[Result] = []

    def keep(result: Result) -> None:
        kept.append({"suite": result["suite"], "axes": [row["axis"] for row in result["rows"]]})

    found = growth.run(
        growth.select(["batch-1", "depth-2"], "quick"),
        torch.device("cpu"),
        Settings(rounds=2),
        [],
        keep=keep,
    )
    assert kept == [{"suite": "growth", "axes": ["batch"]}, {"suite": "growth", "axes": ["batch", "depth"]}]
    assert [(row["axis"], row["value"], row["batch"]) for row in found["rows"]] == [
        ("batch", 1, 1),
        ("depth", 2, growth.MLP_BATCH),
    ]
    for made in found["rows"]:
        assert set(made["contestants"]) == {"stock", "ours"}
        assert "floor" not in made
        assert all(len(one["seconds"]) == 2 and one["draws"] for one in made["contestants"].values())
    suite.save(found, out)
    assert suite.load(out) == found
    pytest.importorskip("matplotlib")
    assert cli.main(["--plot", str(out), str(tmp_path / "g.png")]) == 0
