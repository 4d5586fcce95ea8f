"""The report: what a reader finds on the page, whatever the run folders hold or lack."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from report_drawings import DRAWING, decoded, look, pieces

from wgangp_fast.errors import UserError
from wgangp_fast.training import report, report_charts
from wgangp_fast.training.pictures import image_grid
from wgangp_fast.training.report import write_report

for package in ("PIL", "matplotlib"):
    pytest.importorskip(package)

VOID = {"meta", "input", "img"}


class Page(HTMLParser):
    """A page as a reader has it: text, pictures, and whether every tag is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="ascii")
        self.words: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def charts(self) -> dict[str, str]:
        """SVG by what is said of it."""
        images = [(str(image["alt"]), str(image["src"])) for image in self.all("img")]
        return {alt: decoded(source) for alt, source in images if source.startswith(DRAWING)}

    @property
    def pictures(self) -> list[dict[str, str | None]]:
        return [image for image in self.all("img") if not str(image["src"]).startswith(DRAWING)]


def tick(iteration: int, **changes: Any) -> dict[str, Any]:
    return {
        "iteration": iteration,
        "kimg": iteration * 0.064,
        "seconds": iteration * 0.5,
        "img_per_s": 640.0,
        "critic_loss": -8.0 / iteration,
        "held_out_critic_loss": -7.0 / iteration,
        "wasserstein": 9.0 / iteration,
        "held_out_wasserstein": 6.0 / iteration,
        "penalty": 0.01,
        "grad_norm": 1.05,
        "generator_loss": None if iteration == 10 else 0.5,
        "learning_rate": 1e-4,
        **changes,
    }


def run_folder(path: Path, penalty: str = "fast", pace: float = 640.0, **config: Any) -> Path:
    path.mkdir(parents=True)
    settings = {"preset": "digits", "penalty": penalty, "iters": 40, "outdir": str(path.parent), "lr": 0.0001}
    (path / "config.json").write_text(json.dumps(settings | config))
    ticks = [tick(10, img_per_s=1.0), *(tick(i, img_per_s=pace) for i in (20, 30, 40))]
    (path / "stats.jsonl").write_text("".join(json.dumps(t) + "\n" for t in ticks))
    evaluation = {
        "iteration": 40, "samples": 1000, "features": "random convolutions <seed 0>",
        "frechet_distance": 12.3456, "real_frechet_distance": 0.789, "kid": 0.0123, "kid_std": 0.001,
        "sliced_wasserstein": 20.5, "sliced_wasserstein_levels": {"32": 19.0, "16": 22.0},
    }  # fmt: skip
    lines = [{"iteration": 40, "classes_covered": 9, "classes": 10, "samples": 2000}, evaluation]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (path / "log.txt").write_text("".join(f"line {k} & more\n" for k in range(100)))
    for iteration in range(0, 41, 2):
        image_grid(path / f"fakes_{iteration:06d}.png", torch.rand(4, 1, 8, 8) * 2 - 1)
    image_grid(path / "reals.png", torch.ones(4, 1, 8, 8))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "00000-digits")


def written(runs: list[Path], out: Path, title: str | None = None) -> Page:
    assert write_report(runs, out, title) == out
    return Page(out)


def test_one_run(run: Path, tmp_path: Path) -> None:
    page = written([run], tmp_path / "report.html")
    text = page.text
    assert "Training: 00000-digits" in text
    for fact in (
        "Iterations 40 of 40", "Images shown (kimg) 2.56", "Time 20 s", "Images/s (median) 640",
        "Fr\u00e9chet distance 12.35", "KID 0.0123 \u00b1 0.001", "Classes covered 9 of 10",
        "Judged by random convolutions <seed 0>", "real 0.789", "sliced wasserstein levels: 32 19, 16 22",
        "penalty fast", "Last 40 lines", "line 99 & more", "line 60 & more",
    ):  # fmt: skip
        assert fact in text
    assert "line 59 & more" not in text
    assert len(page.charts) == 2 * 6  # over iterations and over seconds; the learning rate never moves
    spoken = list(page.charts)
    assert spoken[0] == "Critic loss over generator iterations; last values: training -0.2, held out -0.175"
    assert spoken[6].startswith("Critic loss over seconds")
    assert "Critic loss training -0.2 held out -0.175" in text
    for title, drawing in page.charts.items():
        (curve,) = pieces(drawing, "curve-0")
        assert len(curve) == (3 if title.startswith("Generator loss") else 4)  # its first is None


def test_nothing_is_fetched(run: Path, tmp_path: Path) -> None:
    page = written([run], tmp_path / "report.html")
    assert not {"script", "link", "iframe", "object", "base"} & {name for name, _ in page.tags}
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = page.source[: page.source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "http" not in re.sub('base64,[^"]*', "", page.source)
    for drawing in page.charts.values():
        links = re.findall(r'(?:href="|url\()(.)', drawing)
        assert set(links) == {"#"}
        assert not re.search("<script|<image|<a |@import", drawing)


def test_pictures_are_first_last_and_some_between(run: Path, tmp_path: Path) -> None:
    page = written([run], tmp_path / "report.html")
    shown = [str(image["alt"]).removeprefix("00000-digits, ") for image in page.pictures]
    assert shown[0] == "iteration 0"
    assert shown[-2:] == ["iteration 40", "real data"]
    assert len(shown) == 2 * report.GRIDS + 2
    assert len(set(shown)) == len(shown)
    embedded = str(page.pictures[0]["src"]).removeprefix("data:image/png;base64,")
    assert base64.b64decode(embedded) == (run / "fakes_000000.png").read_bytes()


def test_a_torn_picture_is_not_shown(run: Path, tmp_path: Path) -> None:
    (run / "reals.png").write_bytes((run / "reals.png").read_bytes()[:-30])
    page = written([run], tmp_path / "report.html")
    assert "real data: reals.png cannot be read" in page.text
    assert len(page.pictures) == 2 * report.GRIDS + 1


def test_large_pictures_shrink(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "LARGE", 10)
    source = str(written([run], tmp_path / "report.html").pictures[0]["src"])
    head, _, data = source.partition(",")
    assert head == "data:image/jpeg;base64"
    assert base64.b64decode(data).startswith(b"\xff\xd8\xff")


def test_two_runs_side_by_side(run: Path, tmp_path: Path) -> None:
    stock = run_folder(tmp_path / "00001-digits", penalty="stock", pace=400.0, outdir="elsewhere")
    page = written([run, stock], tmp_path / "report.html", "Stock & fast")
    assert "<title>Stock &amp; fast</title>" in page.source
    names = "00000-digits (penalty fast)", "00001-digits (penalty stock)"
    assert f"Images per second against {names[1]}: {names[0]} 1.60 times." in page.text
    spoken, drawing = next(iter(page.charts.items()))
    assert spoken.endswith(
        f"last values: {names[0]} training -0.2, {names[0]} held out -0.175, "
        f"{names[1]} training -0.2, {names[1]} held out -0.175"
    )
    first, _, second, _ = looks = [look(drawing, f"curve-{k}") for k in range(4)]
    assert ["stroke-dasharray" in found for found in looks] == [False, True, False, True]
    for found, colour in ((first, report_charts.COLOURS[0]), (second, report_charts.COLOURS[1])):
        assert f"stroke: {colour}" in found
        assert page.source.count(f'class="key" style="border-color: {colour}"') == len(page.charts)
    assert len(page.pictures) == 2 * (report.GRIDS + 1)
    section = page.source[page.source.index("Settings that differ") :]
    short, _, whole = section.partition("<details>")
    assert re.findall(r'<tr class="differs"><th scope="row">(\w+)</th>', short) == ["penalty"]
    assert "outdir" not in short
    assert whole.count('<tr class="differs">') == 1
    assert "outdir" in whole


def test_many_differences_stay_out_of_the_names(run: Path, tmp_path: Path) -> None:
    other = run_folder(tmp_path / "b" / "00000-digits", penalty="stock", lr=0.1, preset="mnist")
    page = written([run, other], tmp_path / "report.html")
    assert f"Training: {tmp_path.name}/00000-digits, b/00000-digits" in page.text
    assert "(penalty" not in page.text
    same = written([run, run], tmp_path / "report.html")
    assert "All settings are equal." in same.text


def test_runs_are_compared_by_a_judge_of_both(run: Path, tmp_path: Path) -> None:
    other = run_folder(tmp_path / "00001-digits")
    with open(other / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 40, "features": "another", "frechet_distance": 777.0}) + "\n")
    source = written([run, other], tmp_path / "report.html").source
    head = source[: source.index("</header>")]
    assert head.count(">12.35<") == 2
    assert "777" not in head
    assert "777" in source
    (run / "metrics.jsonl").unlink()
    assert "777" in written([run, other], tmp_path / "report.html").source.partition("</header>")[0]


def test_quality_is_measured_in_one_way(run: Path, tmp_path: Path) -> None:
    """A score of one network never stands beside the distance of another."""
    lines = [
        {"iteration": 20, "features": "one", "kid": 99.0},
        {"iteration": 40, "features": "one", "inception_type_score": 7.0, "frechet_distance": 5.0},
        {"iteration": 40, "features": "two", "frechet_distance": 6.0},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = written([run], tmp_path / "report.html").source
    head = source[: source.index("</header>")]
    assert "<dt>Fr&#233;chet distance</dt><dd>6</dd>" in head
    assert "Judged by two" in head
    assert "score" not in head
    assert "KID" not in head
    assert all(text in source for text in ("judged by: one", "judged by: two", ">99<"))


@pytest.mark.parametrize(
    "name", ["config.json", "stats.jsonl", "metrics.jsonl", "log.txt", "reals.png", "fakes"]
)
@pytest.mark.parametrize("content", [None, b"", b'\xff\xfe[1, 2]\n{"iteration": 3, "kim', b"[]\n7\nnull\n"])
def test_what_is_missing_or_damaged_is_left_out(
    name: str, content: bytes | None, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Drawing takes most of the time, and others look at it.
    monkeypatch.setattr(report_charts, "_address", lambda figure: DRAWING)
    paths = list(run.glob("fakes_*.png")) if name == "fakes" else [run / name]
    for path in paths:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
    page = written([run], tmp_path / "report.html")
    assert "Training: 00000-digits" in page.text
    expected = {"config.json": "Settings", "stats.jsonl": "Curves", "metrics.jsonl": "Quality of the samples"}
    for file, title in expected.items():
        assert (f"<h2>{title}</h2>" in page.source) == (file != name)
    assert ("no statistics yet" in page.text) == (name == "stats.jsonl")
    if name == "fakes":
        assert len(page.pictures) == 1
        assert ("cannot be read" in page.text) == (content is not None)
    assert written([run, run], tmp_path / "report.html")


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    page = written([tmp_path / "empty"], tmp_path / "new" / "folder" / "report.html")
    assert "no statistics yet" in page.text
    assert not page.charts


def test_old_metrics_file(run: Path, tmp_path: Path) -> None:
    (run / "metrics.jsonl").unlink()
    (run / "metrics.json").write_text(json.dumps({"modes_covered": 7, "modes": 8, "high_quality": 0.93}))
    assert "Modes covered 7 of 8 On a mode 0.93" in written([run], tmp_path / "report.html").text


def test_a_run_that_stopped_and_one_that_diverged(run: Path, tmp_path: Path) -> None:
    lines = (run / "stats.jsonl").read_text().splitlines()[:2]
    (run / "stats.jsonl").write_text("\n".join(lines) + '\n{"iteration": 30, "kimg"')
    assert "Iterations 20 of 40 Images" in written([run], tmp_path / "report.html").text
    (run / "diverged.pt").touch()
    assert "20 of 40, then diverged" in written([run], tmp_path / "report.html").text


def test_text_is_escaped(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>'
    run = run_folder(tmp_path / "a<b>&'\"", data=evil, preset="\u00fc\u4e2d")
    (run / "log.txt").write_text(f"{evil}\n")
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"iteration": 50, "features": evil, evil: evil}) + "\n")
    for runs in ([run], [run, run_folder(tmp_path / "other", data="x")]):
        page = written(runs, tmp_path / "report.html", f"{evil} title")
        assert not page.all("script")
        assert "<script" not in page.source
        assert page.text.count(evil) >= 5
        assert "\u00fc\u4e2d" in page.text


def test_values_that_are_no_numbers(run: Path, tmp_path: Path) -> None:
    """They interrupt a line."""
    ticks = [tick(k) for k in range(1, 14)]
    for k, value in ((3, math.nan), (5, math.inf), (7, None), (9, "text"), (11, True)):
        ticks[k]["critic_loss"] = value
    ticks[0]["generator_loss"] = None
    ticks[9]["generator_loss"] = 0.5
    ticks.append({"critic_loss": 2.0})
    (run / "stats.jsonl").write_text("".join(json.dumps(t) + "\n" for t in ticks))
    (run / "metrics.jsonl").write_text('{"iteration": null, "kid": NaN, "kid_std": null, "score": null}\n')
    page = written([run], tmp_path / "report.html")
    first = page.source[page.source.index("<b>Critic loss</b>") :]
    figure = first[: first.index("</figure>")]
    drawing = next(iter(page.charts.values()))
    parts = pieces(drawing, "curve-0")
    assert [len(part) for part in parts] == [3, 1, 1, 1, 1, 1]
    spots = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"', drawing[drawing.index('id="curve-0"') :])
    assert [(float(x), float(y)) for x, y in spots[:5]] == [part[0] for part in parts[1:]]
    assert "5 values missing or not finite" in figure
    other = page.source[page.source.index("<b>Generator loss</b>") :]
    assert "not finite" not in other[: other.index("</figure>")]
    assert "nan" not in re.sub('base64,[^"]*', "", figure).lower() + drawing.lower()
    assert "KID nan" in page.text
    assert "Digit score not finite" in page.text


def test_mistakes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path / "report.html")
    (tmp_path / "file").touch()
    for runs, out in (
        ([tmp_path / "absent"], tmp_path / "report.html"),
        ([tmp_path / "file"], tmp_path / "report.html"),
        ([run], tmp_path),
        ([run], tmp_path / "file" / "report.html"),
    ):
        with pytest.raises(UserError) as error:
            write_report(runs, out)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_without_matplotlib_all_but_the_curves_is_there(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    page = written([run], tmp_path / "report.html")
    assert "Curves matplotlib is not installed: pip install" in page.text
    assert not page.charts
    assert len(page.pictures) == 2 * report.GRIDS + 2
    assert "12.35" in page.text
