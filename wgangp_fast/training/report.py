"""One HTML file about a run, or about several side by side, that needs nothing but a browser.

What a run folder lacks, the page lacks: a report of a run that has just begun, was stopped or was copied in
part is a report all the same.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wgangp_fast import __version__
from wgangp_fast.console import drawable
from wgangp_fast.errors import UserError
from wgangp_fast.files import write_text
from wgangp_fast.optional_dependencies import require
from wgangp_fast.training.data.pixels import decode

from .report_charts import COLOURS, SMOOTH, Chart, Curve, chart, duration, finite, number
from .report_run import MISSING, Run, differences, inside, is_number, read_all, settings, shared_judge

GRIDS = 4  # pictures of a run's samples, with the real ones a row; twice as many of a single run
LARGE = 1_500_000  # bytes; a larger picture is embedded as JPEG
SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Title, statistics and what each is, a y worth a line, whether y begins at 0.
CHARTS: tuple[tuple[str, dict[str, str], float | None, bool], ...] = (
    ("Critic loss", {"critic_loss": "training", "held_out_critic_loss": "held out"}, None, False),
    ("Wasserstein estimate", {"wasserstein": "training", "held_out_wasserstein": "held out"}, None, False),
    ("Generator loss", {"generator_loss": ""}, None, False),
    ("Gradient norm of the critic", {"grad_norm": ""}, 1.0, False),
    ("Gradient penalty, before lambda", {"penalty": ""}, None, True),
    ("Images per second", {"img_per_s": ""}, None, True),
    ("Learning rate", {"learning_rate": ""}, None, True),
)
LOWER, HIGHER = "\u2193", "\u2191"
# Measures that have a column, and which way is better; all others are details.
MEASURES = {
    "fid": ("FID", LOWER),
    "frechet_distance": ("Fr\u00e9chet distance", LOWER),
    "kid": ("KID", LOWER),
    "inception_score": ("Inception score", HIGHER),
    "inception_type_score": ("Inception-type score", HIGHER),
    "sliced_wasserstein": ("Sliced Wasserstein", LOWER),
    "modes_covered": ("Modes covered", HIGHER),
    "high_quality": ("On a mode", HIGHER),
    "classes_covered": ("Classes covered", HIGHER),
    "score": ("Digit score", HIGHER),
}
TOTALS = {"modes_covered": "modes", "classes_covered": "classes"}


class Summary(NamedTuple):
    """A run in a few words: ``facts`` by name."""

    label: str
    judge: str
    facts: dict[str, str]


class Evaluation(NamedTuple):
    """A row of the table; of each cell the value, and what real images get."""

    run: int
    label: str
    iteration: str
    cells: list[tuple[str, str]]
    details: str


def write_report(runs: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Write the report.

    Args:
        runs: run folders. The first is the one that others are compared with, unless exactly one of them has
            the stock penalty.
        out: the file; its folder is made.
        title: the page's heading.

    Returns:
        ``out``.

    Raises:
        ValueError: no runs.
        UserError: one is no folder, or the file cannot be written.
    """
    if not runs:
        raise ValueError("a report needs at least one run folder")
    found = read_all(runs)
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    charts, undrawn = _curves(found)
    measures = [name for name in MEASURES if any(name in e for run in found for e in run.evaluations)]
    summaries = _summaries(found)
    text = _template().render(
        title=title or "Training: " + ", ".join(run.label for run in found),
        written=f"Written by wgangp_fast {__version__}, {now}",
        runs=found,
        several=len(found) > 1,
        colours=COLOURS,
        missing=MISSING,
        summaries=summaries,
        columns=list(dict.fromkeys(name for summary in summaries for name in summary.facts)),
        comparison=_comparison(found),
        settings={name: [run.setting(name) for run in found] for name in settings(found)},
        differing=differences(found),
        charts=charts,
        undrawn=undrawn,
        smoothed=any(len(run.ticks) >= 2 * SMOOTH for run in found),
        samples=[_pictures(run, GRIDS if len(found) > 1 else 2 * GRIDS + 1) for run in found],
        measures=[" ".join(MEASURES[name]) for name in measures],
        evaluations=_evaluations(found, measures),
    )
    # In ASCII any program reads it right, whatever encoding it assumes.
    page = drawable(text).encode("ascii", "xmlcharrefreplace").decode("ascii")
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        write_text(out, page)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from None
    return out


def _template() -> Any:
    jinja2 = require("jinja2")
    return jinja2.Environment(
        loader=jinja2.PackageLoader("wgangp_fast.training"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("report.html")


def _facts(run: Run) -> dict[str, str]:
    """How far, how long, how fast."""
    done, whole = run.last("iteration"), run.config.get("iters")
    if done is None:
        return {"Iterations": "no statistics yet"}
    known = {"Iterations": f"{done:,.0f}" + (f" of {whole:,}" if is_number(whole) else "")}
    if (run.path / "diverged.pt").exists() and is_number(whole) and done < whole:
        known["Iterations"] += ", then diverged"
    kimg, seconds, pace = run.last("kimg"), run.last("seconds"), run.pace()
    known |= {"Images shown (kimg)": number(kimg)} if kimg is not None else {}
    known |= {"Time": duration(seconds)} if seconds is not None else {}
    known |= {"Images/s (median)": number(pace)} if pace is not None else {}
    return known


def _qualities(quality: dict[str, Any]) -> dict[str, str]:
    return {text: _measure(quality, name) for name, (text, _) in MEASURES.items() if name in quality}


def _judge(quality: dict[str, Any]) -> str:
    name = quality.get("features")
    return f"Judged by {name}" if name else ""


def _summaries(runs: Sequence[Run]) -> list[Summary]:
    # Distances by different networks are not comparable.
    judge = shared_judge(runs) if len(runs) > 1 else None
    qualities = [run.quality(judge) for run in runs]
    return [
        Summary(run.label, _judge(quality), _facts(run) | _qualities(quality))
        for run, quality in zip(runs, qualities, strict=True)
    ]


def _comparison(runs: Sequence[Run]) -> str:
    """How fast the others are, measured by one of them."""
    stock = [run for run in runs if run.config.get("penalty") == "stock"]
    base = stock[0] if len(stock) == 1 else runs[0]
    pace = base.pace()
    ratios = [(run.label, run.pace()) for run in runs if run is not base]
    texts = [f"{label} {value / pace:.2f} times" for label, value in ratios if value and pace]
    return f"Images per second against {base.label}: {', '.join(texts)}." if texts else ""


def _curves(runs: Sequence[Run]) -> tuple[dict[str, list[Chart]], str]:
    """Charts over each kind of x that there is, and why there are none where they cannot be drawn."""
    found: dict[str, list[Chart]] = {}
    try:
        for over, unit, kind in (
            ("iteration", "generator iterations", "iterations"),
            ("seconds", "seconds", "seconds"),
        ):
            drawn = [
                chart(title, curves, unit, reference, zero)
                for title, names, reference, zero in CHARTS
                if (curves := _of_chart(runs, names, over)) and (title != "Learning rate" or _moves(curves))
            ]
            found |= {kind: drawn} if drawn else {}
    except UserError as error:  # the rest of the page needs no matplotlib
        return {}, str(error)
    return found, ""


def _of_chart(runs: Sequence[Run], names: dict[str, str], over: str) -> list[Curve]:
    curves = []
    for index, run in enumerate(runs):
        for place, (name, what) in enumerate(names.items()):
            points = run.values(name, over)
            label = " ".join(filter(None, (run.label if len(runs) > 1 else "", what))) or "last"
            if finite(points):
                curves.append(Curve(label, points, index, dashed=place > 0))
    return curves


def _moves(curves: Sequence[Curve]) -> bool:
    return any(len({y for _, y in curve.points}) > 1 for curve in curves)


def _pictures(run: Run, most: int) -> list[tuple[str, str, str | None]]:
    """Caption, file name and data address of the run's first, last and some pictures between, and of the real
    ones."""
    fakes = sorted(
        (int(found[1]), path)
        for path in run.path.glob("fakes_*.png")
        if (found := re.fullmatch(r"fakes_(\d+)\.png", path.name))
    )
    count = min(most, len(fakes))
    places = sorted({round(k * (len(fakes) - 1) / max(1, count - 1)) for k in range(count)})
    shown = [(f"iteration {fakes[k][0]:,}", fakes[k][1]) for k in places]
    if (run.path / "reals.png").is_file():
        shown.append(("real data", run.path / "reals.png"))
    return [(caption, path.name, _embedded(path)) for caption, path in shown]


def _embedded(path: Path) -> str | None:
    """A PNG as a data address; a large one as JPEG where Pillow is there; None if it is damaged."""
    if not inside(path):
        return None
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if not data.startswith(SIGNATURE) or b"IEND" not in data[-12:]:
        return None
    kind = "png"
    if len(data) > LARGE:
        with contextlib.suppress(Exception):  # decoders raise whatever they like; then it stays a PNG
            image, packed = decode(data).convert("RGB"), io.BytesIO()
            image.save(packed, "JPEG", quality=90)
            kind, data = "jpeg", packed.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _evaluations(runs: Sequence[Run], names: Sequence[str]) -> list[Evaluation]:
    """Rows of the table whose columns are ``names``."""
    rows = []
    for index, run in enumerate(runs):
        for found in run.evaluations:
            iteration = found.get("iteration")
            text = f"{iteration:,}" if is_number(iteration) else MISSING
            cells = [(_measure(found, name), _beside(found, name)) for name in names]
            rows.append(Evaluation(index, run.label, text, cells, _details(found, names)))
    return rows


def _measure(found: dict[str, Any], name: str) -> str:
    if name not in found:
        return MISSING
    text = _plain(found[name])
    if name in TOTALS and TOTALS[name] in found:
        text += f" of {_plain(found[TOTALS[name]])}"
    if is_number(found.get(f"{name}_std")):
        text += f" \u00b1 {found[f'{name}_std']:.2g}"
    return text


def _beside(found: dict[str, Any], name: str) -> str:
    return f"real {_measure(found, f'real_{name}')}" if f"real_{name}" in found else ""


def _details(found: dict[str, Any], names: Sequence[str]) -> str:
    """What has no column."""
    told = {"iteration", *names, *(TOTALS[name] for name in names if name in TOTALS)}
    told |= {f"{before}{name}{after}" for name in names for before in ("", "real_") for after in ("", "_std")}
    rest = {name: value for name, value in found.items() if name not in told}
    if "features" in rest:
        rest = {"judged_by": rest.pop("features"), **rest}
    return "; ".join(f"{name.replace('_', ' ')}: {_plain(value)}" for name, value in rest.items())


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if value is None:
        return "not finite"
    if is_number(value):
        return f"{value:,}" if isinstance(value, int) else number(value)
    return str(value)
