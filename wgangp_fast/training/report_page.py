"""The report's page: its style, and the pieces of HTML that every section is made of."""

from __future__ import annotations

import html
from collections.abc import Collection, Iterable, Sequence

from wgangp_fast.console import drawable

# The runs' colours are Okabe and Ito's, which colour-blind readers can tell apart, lighter on dark ground.
STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fff; --panel: #f6f7f8; --ink: #1d2126; --soft: #5b636d; --faint: #dde1e5; --mark: #fff3d6;
  --run0: #0072b2; --run1: #d55e00; --run2: #007a5a; --run3: #a8437f; --run4: #6b5bb5; --run5: #8a6d00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #14171a; --panel: #1c2024; --ink: #e4e7ea; --soft: #9aa3ad; --faint: #31373d; --mark: #3a3016;
    --run0: #56b4e9; --run1: #f08a4b; --run2: #3ec79c; --run3: #e08fbd; --run4: #a99bea; --run5: #d9b84a;
  }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
p { margin: .25rem 0; }
.soft, .note, .sub { color: var(--soft); }
.note, .sub { font-size: .82rem; }
.verdict { font-size: 1.05rem; margin: .35rem 0 1rem; max-width: 60rem; }
.facts { display: flex; flex-wrap: wrap; gap: .75rem 2.25rem; margin: 1rem 0 .5rem; }
.facts dt { color: var(--soft); font-size: .82rem; }
.facts dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--faint); }
thead th { color: var(--soft); font-weight: 600; border-bottom-color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 400; white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.sub { display: block; }
tbody th .sub { white-space: normal; max-width: 18rem; }
tr.above td, tr.above th { border-bottom: none; }
td.wide { font-size: .82rem; color: var(--soft); padding-bottom: .7rem; max-width: 60rem; }
thead th.number { white-space: normal; }
tr.differs td { background: var(--mark); }
.columns { columns: 18rem; column-gap: 2.5rem; font-size: .88rem; margin: .5rem 0; }
.columns div { break-inside: avoid; display: flex; gap: 1rem; justify-content: space-between;
  border-bottom: 1px solid var(--faint); padding: .15rem 0; }
.columns dt { color: var(--soft); }
.columns dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
figure { margin: 0; }
.chart { background: var(--panel); border-radius: 8px; padding: .75rem .85rem .5rem; }
.chart figcaption { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; align-items: baseline; }
.chart figcaption b { font-size: .92rem; flex-basis: 100%; }
.chart > svg { display: block; width: 100%; height: auto; }
.entry { white-space: nowrap; color: var(--soft); }
.entry .value { color: var(--ink); font-variant-numeric: tabular-nums; }
.entry svg { display: inline-block; width: 18px; height: 8px; margin-right: .35em; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text.y { text-anchor: end; }
svg text.x { text-anchor: middle; }
svg .grid { stroke: var(--faint); }
svg .axis, svg .tick { stroke: var(--soft); }
svg .reference { stroke: var(--soft); stroke-dasharray: 2 3; }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .raw { fill: none; stroke-width: .8; opacity: .3; }
svg.key line { stroke-width: 2.4; }
svg .dashed, svg.dashed line { stroke-dasharray: 5 3; }
input.axis { position: absolute; opacity: 0; }
.axes label { display: inline-block; padding: .15rem .8rem; border: 1px solid var(--faint);
  border-radius: 6px; cursor: pointer; font-size: .85rem; color: var(--soft); margin: 0 .3rem .75rem 0; }
#by-iterations:checked ~ .axes [for=by-iterations], #by-seconds:checked ~ .axes [for=by-seconds] {
  color: var(--ink); border-color: var(--ink); }
#by-iterations:focus-visible ~ .axes [for=by-iterations],
#by-seconds:focus-visible ~ .axes [for=by-seconds] { outline: 2px solid var(--run0); outline-offset: 2px; }
#by-iterations:checked ~ .charts.seconds, #by-seconds:checked ~ .charts.iterations { display: none; }
.grids { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(45%, 13rem), 1fr)); }
.grids img { width: 100%; display: block; border-radius: 4px; background: var(--panel); }
.grids figcaption { font-size: .82rem; color: var(--soft); padding-top: .2rem; }
details summary { cursor: pointer; color: var(--soft); margin: .5rem 0; }
pre { background: var(--panel); border-radius: 8px; padding: .75rem .9rem; overflow-x: auto;
  font: 12px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
footer { margin-top: 3rem; color: var(--soft); font-size: .82rem; }
@media print {
  body { max-width: none; padding: 0; }
  .chart, img, tr { break-inside: avoid; }
  .axes { display: none; }
}
"""
COLOURS = 6


def run_styles() -> str:
    """A rule a colour, for lines and for the dots in front of names."""
    rules = []
    for run in range(COLOURS):
        colour = f"var(--run{run})"
        rules.append(f"svg .run{run}, svg.run{run} line {{ stroke: {colour}; }}")
        rules.append(f"svg circle.run{run} {{ fill: {colour}; }}")
        rules.append(f".dot.run{run} {{ background: {colour}; }}")
    return "\n".join(rules)


def page(title: str, body: Iterable[str], footer: str) -> str:
    """The whole document, in ASCII: any program reads it right, whatever encoding it assumes."""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}{run_styles()}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + f"\n<footer>{html.escape(footer)}</footer>\n</body>\n</html>\n"
    )
    return drawable(text).encode("ascii", "xmlcharrefreplace").decode("ascii")


def section(title: str, *parts: str) -> str:
    """A heading and what belongs to it; nothing where there is nothing."""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{content}\n</section>" if content else ""


def table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], numbers: Collection[str] = ()
) -> str:
    """``rows`` are a class and ready cells; ``head`` is text, ``numbers`` the columns that align right."""
    top = "".join(
        f'<th scope="col"{_class("number" if name in numbers else "")}>{html.escape(name)}</th>'
        for name in head
    )
    lines = "".join(f"<tr{_class(kind)}>{''.join(cells)}</tr>\n" for kind, cells in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>'


def cell(text: str, below: str = "", kind: str = "", span: int = 1) -> str:
    """A cell, ``span`` columns wide, with smaller text below."""
    wide = f' colspan="{span}"' if span > 1 else ""
    return f"<td{_class(kind)}{wide}>{html.escape(text)}{_below(below)}</td>"


def row_head(run: int | None, text: str, below: str = "") -> str:
    """The first cell of a row, with a run's spot, if it is one."""
    spot = "" if run is None else dot(run)
    return f'<th scope="row">{spot}{html.escape(text)}{_below(below)}</th>'


def _below(text: str) -> str:
    return f'<span class="sub">{html.escape(text)}</span>' if text else ""


def pairs(kind: str, found: dict[str, str]) -> str:
    """Names and values: ``facts`` side by side, or ``columns`` of them."""
    text = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in found.items())
    return f'<dl class="{kind}">{text}</dl>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def dot(run: int) -> str:
    """The spot of a run's colour that goes in front of its name."""
    return f'<span class="dot run{run % COLOURS}" aria-hidden="true"></span>'


def folded(title: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details><summary>{html.escape(title)}</summary>\n{content}\n</details>"
