"""One HTML file about a run, or about several side by side, that needs nothing but a browser.

What a run folder lacks, the page lacks: a report of a run that has just begun, was stopped or was copied in
part is a report all the same.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import html
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wgangp_fast import __version__
from wgangp_fast.files import write_text
from wgangp_fast.training.data import UserError
from wgangp_fast.training.data.pixels import decode

from .report_charts import SMOOTH, Curve, chart, duration, finite, number
from .report_page import COLOURS, cell, dot, folded, page, pairs, row_head, section, table
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
    title = title or "Training: " + ", ".join(run.label for run in found)
    now = datetime.datetime.now().astimezone().isoformat(" ", "minutes")
    body = [_head(found, title), _settings(found), _curves(found), _samples(found), _evaluations(found)]
    body.append(_logs(found))
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        write_text(out, page(title, body, f"Written by wgangp_fast {__version__}, {now}"))
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror or error})") from None
    return out


def _head(runs: Sequence[Run], title: str) -> str:
    heading = f"<h1>{html.escape(title)}</h1>"
    if len(runs) == 1:
        quality = runs[0].quality()
        found = pairs("facts", _facts(runs[0]) | _qualities(quality))
        return f'<header>{heading}{found}<p class="note">{html.escape(_judge(quality))}</p></header>'
    comparison = f'<p class="verdict">{html.escape(_comparison(runs))}</p>'
    return f"<header>{heading}{comparison}{_summary(runs)}</header>"


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


def _summary(runs: Sequence[Run]) -> str:
    judge = shared_judge(runs)  # distances by different networks are not comparable
    qualities = [run.quality(judge) for run in runs]
    found = [_facts(run) | _qualities(quality) for run, quality in zip(runs, qualities, strict=True)]
    names = list(dict.fromkeys(name for known in found for name in known))
    rows = []
    for index, (run, known) in enumerate(zip(runs, found, strict=True)):
        cells = [cell(known.get(name, MISSING), kind="number") for name in names]
        rows.append(("", [row_head(index, run.label, _judge(qualities[index])), *cells]))
    return table(["Run", *names], rows, names)


def _comparison(runs: Sequence[Run]) -> str:
    """How fast the others are, measured by one of them."""
    stock = [run for run in runs if run.config.get("penalty") == "stock"]
    base = stock[0] if len(stock) == 1 else runs[0]
    pace = base.pace()
    ratios = [(run.label, run.pace()) for run in runs if run is not base]
    texts = [f"{label} {value / pace:.2f} times" for label, value in ratios if value and pace]
    return f"Images per second against {base.label}: {', '.join(texts)}." if texts else ""


def _settings(runs: Sequence[Run]) -> str:
    names = settings(runs)
    if not names:
        return ""
    if len(runs) == 1:
        every = pairs("columns", {name: runs[0].setting(name) for name in names})
        return section("Settings", folded(f"All {len(names)} settings", every))
    differing = differences(runs)
    head = ["Setting", *(run.label for run in runs)]

    def rows_of(chosen: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
        for name in chosen:
            cells = [row_head(None, name), *(cell(run.setting(name)) for run in runs)]
            yield "differs" if name in differing else "", cells

    short = table(head, rows_of(differing)) if differing else "<p>All settings are equal.</p>"
    return section("Settings that differ", short, folded("All settings", table(head, rows_of(names))))


def _curves(runs: Sequence[Run]) -> str:
    groups = []
    for over, unit, kind in (
        ("iteration", "generator iterations", "iterations"),
        ("seconds", "seconds", "seconds"),
    ):
        drawn = [
            chart(title, curves, unit, reference, zero)
            for title, names, reference, zero in CHARTS
            if (curves := _of_chart(runs, names, over)) and (title != "Learning rate" or _moves(curves))
        ]
        groups.append(f'<div class="charts {kind}">{"".join(drawn)}</div>' if drawn else "")
    if not any(groups):
        return ""
    switch = (
        '<input class="axis" type="radio" name="axis" id="by-iterations" checked>'
        '<input class="axis" type="radio" name="axis" id="by-seconds">'
        '<div class="axes"><label for="by-iterations">over iterations</label>'
        '<label for="by-seconds">over time</label></div>'
    )
    many = any(len(run.ticks) >= 2 * SMOOTH for run in runs)
    note = '<p class="note">The lines are running medians, pale behind them every value.</p>' if many else ""
    return section("Curves", (switch if all(groups) else "") + "".join(groups), note)


def _of_chart(runs: Sequence[Run], names: dict[str, str], over: str) -> list[Curve]:
    curves = []
    for index, run in enumerate(runs):
        for place, (name, what) in enumerate(names.items()):
            points = run.values(name, over)
            label = " ".join(filter(None, (run.label if len(runs) > 1 else "", what))) or "last"
            if finite(points):
                curves.append(Curve(label, points, index % COLOURS, dashed=place > 0))
    return curves


def _moves(curves: Sequence[Curve]) -> bool:
    return any(len({y for _, y in curve.points}) > 1 for curve in curves)


def _samples(runs: Sequence[Run]) -> str:
    parts = []
    for index, run in enumerate(runs):
        fakes = sorted(
            (int(found[1]), path)
            for path in run.path.glob("fakes_*.png")
            if (found := re.fullmatch(r"fakes_(\d+)\.png", path.name))
        )
        count = min(GRIDS if len(runs) > 1 else 2 * GRIDS + 1, len(fakes))
        places = sorted({round(k * (len(fakes) - 1) / max(1, count - 1)) for k in range(count)})
        shown = [(f"iteration {fakes[k][0]:,}", fakes[k][1]) for k in places]
        if (run.path / "reals.png").is_file():
            shown.append(("real data", run.path / "reals.png"))
        if not shown:
            continue
        name = f"<h3>{dot(index)}{html.escape(run.label)}</h3>" if len(runs) > 1 else ""
        figures = "".join(_figure(f"{run.label}, {text}", text, path) for text, path in shown)
        parts.append(f'{name}<div class="grids">{figures}</div>')
    return section("Samples over time, of the same latents", *parts)


def _figure(spoken: str, caption: str, path: Path) -> str:
    source = _embedded(path)
    if source is None:
        return f"<figure><figcaption>{html.escape(caption)}: {path.name} cannot be read</figcaption></figure>"
    image = f'<img src="{source}" alt="{html.escape(spoken, quote=True)}">'
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


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


def _evaluations(runs: Sequence[Run]) -> str:
    every = [(index, run, found) for index, run in enumerate(runs) for found in run.evaluations]
    names = [name for name in MEASURES if any(name in found for _, _, found in every)]
    several = len(runs) > 1
    rows = []
    for index, run, found in every:
        first = [row_head(index, run.label)] if several else []
        iteration = found.get("iteration")
        first.append(cell(f"{iteration:,}" if is_number(iteration) else MISSING, kind="number"))
        cells = [cell(_measure(found, name), _beside(found, name), "number") for name in names]
        rows.append(("above", [*first, *cells]))
        rows.append(("", [cell(_details(found, names), kind="wide", span=len(first) + len(cells))]))
    measures = ["Iteration", *(" ".join(MEASURES[name]) for name in names)]
    head = [*(["Run"] if several else []), *measures]
    note = '<p class="note">real: what real images get by the same measure, one half against the other.</p>'
    return section("Quality of the samples", table(head, rows, measures), note) if every else ""


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


def _logs(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        if run.log:
            title = f"Last {len(run.log)} lines" + (f" of {run.label}" if len(runs) > 1 else "")
            parts.append(folded(title, f"<pre>{html.escape(chr(10).join(run.log))}</pre>"))
    return section("Log", *parts)
