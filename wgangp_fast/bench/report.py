"""Results for readers: a table on the terminal, and the same in Markdown. Pictures are in :mod:`.plots`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import accuracy, ops_suite, own
from .contestants import BASELINE

BUSY = 0.5
"""Load average per core above which a result says that the machine was not its own."""

Entry = dict[str, Any]


def baseline(result: dict[str, Any]) -> str:
    """The contestant that the ratios of ``result`` are against."""
    return ops_suite.BASELINE if result["suite"] == "ops" else BASELINE


def _ms(entry: Entry) -> str:
    return f"{entry['median_s'] * 1e3:.4g}"


def _spread(entry: Entry) -> str:
    return f"{entry['p10_s'] * 1e3:.4g}-{entry['p90_s'] * 1e3:.4g}"


def _number(key: str, pattern: str, scale: float = 1.0) -> Callable[[Entry], str]:
    def text(entry: Entry) -> str:
        value = entry.get(key)
        return "" if value is None else format(value * scale, pattern)

    return text


def _error(entry: Entry) -> str:
    kept = [draw["error"] for draw in entry.get("draws", ()) if draw["kept"]]
    return f"{max(kept):.1e}" if kept else ""


def _errors(key: str) -> Callable[[Entry], str]:
    """``MODE median, worst`` for each arithmetic."""

    def text(entry: Entry) -> str:
        return "; ".join(
            f"{mode} {_error_text(errors[key]['median'])}, {_error_text(errors[key]['worst'])}"
            for mode, errors in entry["errors"].items()
        )

    return text


def _error_text(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.1e}"


def _kinked(entry: Entry) -> str:
    counts = {m: (e["kinked"], len(e["loss"]["draws"])) for m, e in entry["errors"].items()}
    return "; ".join(f"{mode} {n} of {draws}" for mode, (n, draws) in counts.items() if n is not None)


@dataclass(frozen=True)
class Column:
    """A column of numbers; ``optional`` ones are left out where no entry has one."""

    head: str
    text: Callable[[Entry], str]
    optional: bool = False


_PEAK = Column("peak MiB", _number("peak_bytes", ".1f", 2**-20))
_TIMES = (
    Column("median ms", _ms),
    Column("p10-p90 ms", _spread),
    Column("sec/kimg", _number("sec_per_kimg", ".3g"), optional=True),
    Column(f"{BASELINE} / it", _number("ratio", ".2f")),
    Column("by medians", _number("ratio_of_medians", ".2f")),
    Column("% of floor", _number("share_of_floor", ".0f", 100), optional=True),
    Column("first call s", _number("first_call_s", ".2g")),
    Column("error", _error),
    _PEAK,
)
_SUITES: Mapping[str, tuple[Column, ...]] = {
    "memory": (_PEAK, Column(f"it / {BASELINE}", _number("peak_ratio", ".2f")), Column("error", _error)),
    "compile_time": (
        Column("first call s", _number("first_call_s", ".3g")),
        Column("not compared s", _number("first_call_unverified_s", ".3g"), optional=True),
        Column("second call s", _number("second_call_s", ".2g")),
        Column("second shape s", _number("second_shape_s", ".3g")),
    ),
    "accuracy": (
        *(Column(f"{name.replace('_', ' ')}: median, worst", _errors(name)) for name in accuracy.MEASURES),
        Column("kinked", _kinked),
    ),
}
COLUMNS = ("workload", "batch", "contestant", *(column.head for column in _TIMES if not column.optional))


def header(result: dict[str, Any]) -> list[str]:
    """What was measured, where and how, a line each."""
    e = result["environment"]
    commit = (e["commit"] or "unknown")[:10] + (" with local changes" if e["dirty"] else "")
    where = f"{e['device']}, {e['threads']} threads on {e['cores']} cores; torch {e['torch']}"
    if e["cuda"]:
        flags = ", ".join(f"{name} {'on' if on else 'off'}" for name, on in e["tf32"].items())
        where += f", CUDA {e['cuda']}, cuDNN {e['cudnn']}, driver {e['driver']}, TF32: {flags}"
    first = f"{where}; Python {e['python']}; commit {commit}; {e['date']}"
    if result["suite"] == "ops":
        return [first, *ops_suite.header(result)]
    if result["suite"] == "accuracy":
        settings = result["settings"]
        draws = f"draws: {settings['draws']} of weights, inputs and alpha, seeds from {settings['seed']} on"
        return [
            first,
            f"computed: {result['timed'].partition('; float32 with')[0]}",
            draws,
            accuracy.DEFINITION,
        ]
    rule, how = result["rule"], ""
    if result["suite"] not in _SUITES:
        how = f"; interleaved rounds; '{BASELINE} / it' is the median of paired ratios"
    lines = [
        first,
        f"timed: {result['timed']}{how}",
        f"error: relative, against {rule['truth']}; allowed {rule['factor']:g} times {BASELINE}'s own in the "
        f"same dtype, or {rule['tolerance']:.1e}",
    ]
    if result["suite"] == "memory":
        lines.append(f"peak: {result['memory_method']}")
    rules = {row["floor"]["rule"] for row in result["rows"] if "seconds" in row.get("floor", {})}
    return lines + sorted(rules)


def _columns(result: dict[str, Any]) -> list[Column]:
    entries = [entry for row in result["rows"] for entry in row["contestants"].values()]
    right = [entry for entry in entries if entry["status"] == "ok"]
    return [
        column
        for column in _SUITES.get(result["suite"], _TIMES)
        if not column.optional or any(column.text(entry) for entry in right)
    ]


def _steps(result: dict[str, Any]) -> bool:
    """Whether rows differ in what is computed."""
    return len({row.get("step") for row in result["rows"]}) > 1


def columns(result: dict[str, Any]) -> tuple[str, ...]:
    """Heads of the table."""
    if result["suite"] == "ops":
        return ops_suite.COLUMNS
    step = ["step"] if _steps(result) else []
    return ("workload", *step, "batch", "contestant", *(column.head for column in _columns(result)))


def cells(result: dict[str, Any]) -> list[list[str]]:
    """Strings as :func:`columns`, a list for each workload and contestant; no time beside a wrong answer.

    Who is absent has no line, but a note.
    """
    if result["suite"] == "ops":
        return ops_suite.cells(result)
    found, step = _columns(result), _steps(result)
    return [
        [
            row["workload"], *([row["step"]] if step else []), str(row["batch"]), name,
            *_numbers(entry, found),
        ]
        for row in result["rows"]
        for name, entry in row["contestants"].items()
        if entry["status"] != "absent"
    ]  # fmt: skip


def _numbers(entry: Entry, found: Sequence[Column]) -> list[str]:
    if entry["status"] != "ok":
        return [entry["status"].upper(), *[""] * (len(found) - 1)]
    return [column.text(entry) for column in found]


def notes(result: dict[str, Any]) -> list[str]:
    """What a reader must know of single cells: faults, warnings, who is absent, draws that met a kink."""
    lines = []
    load, cores = result["environment"]["load"], result["environment"]["cores"]
    if load is not None and load > BUSY * cores:
        busy = f"the machine was busy: load {load:.1f} on {cores} cores when it began"
        if result["suite"] == "accuracy":
            lines.append(f"{busy}, which errors do not depend on")
        else:
            lines.append(
                f"{busy}. Threads that wait for each other then dominate the times, and the ratios are not "
                "those of a machine at rest"
            )
    if result["suite"] == "own":
        lines += own.notes(result["rows"])
    lines += _grouped(result, _absences)
    lines += _grouped(result, lambda entry: iter(entry.get("warnings", [])))
    for row in result["rows"]:
        if "missing" in row.get("floor", {}):
            lines.append(f"{row['workload']}: no floor: {row['floor']['missing']}")
        for name, entry in row["contestants"].items():
            if entry["status"] not in ("ok", "absent"):
                lines.append(f"{row['workload']}, {name}: {entry['status']}: {entry['message']}")
            elif not all(draw["kept"] for draw in entry.get("draws", [])):
                first = entry["draws"][0]
                lines.append(
                    f"{row['workload']}, {name}: the first draw broke the rule at {first['where']} "
                    f"({first['error']:.1e}, allowed {first['limit']:.1e}), the next two kept it"
                )
    return lines


def _absences(entry: Entry) -> Iterator[str]:
    if entry["status"] == "absent":
        yield f"absent: {entry['message']}"
    if entry.get("peak_absent"):
        yield f"peak not counted: {entry['peak_absent']}"


def _grouped(result: dict[str, Any], texts: Callable[[Entry], Iterator[str]]) -> list[str]:
    """``CONTESTANT on WORKLOADS: text``, one line for what many rows say alike."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        for name, entry in row["contestants"].items():
            for text in texts(entry):
                found.setdefault((name, text), []).append(row["workload"])
    count = len(result["rows"])
    return [
        f"{name} on {'every row' if len(rows) == count > 1 else ', '.join(dict.fromkeys(rows))}: {text}"
        for (name, text), rows in found.items()
    ]


def markdown(result: dict[str, Any]) -> str:
    """The table, ready for a README."""
    lines = [*(f"- {line}" for line in header(result)), f"- command: `{result['command']}`", ""]
    lines += ["| " + " | ".join(columns(result)) + " |", "|" + "---|" * len(columns(result))]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells(result)]
    if notes(result):
        lines += ["", *(f"- {note}" for note in notes(result))]
    return "\n".join(lines)


def brief(result: dict[str, Any]) -> str:
    """Header, and a line a workload in Markdown: stock, ours, the best rival, floor and peak memory.

    Raises:
        ValueError: no result with times of stock and ours.
    """
    if result["suite"] not in ("penalty", "critic_step", "train_step"):
        raise ValueError(f"a brief table needs times of stock and ours, not of {result['suite']!r}")
    heads = ["workload", "batch", "stock ms", "ours ms", "stock / ours", "p10-p90", "best rival"]
    heads += ["% of floor", "peak MiB stock", "ours"]
    lines = [f"- {line}" for line in header(result)]
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in result["rows"]:
        lines.append(f"| {' | '.join([row['workload'], str(row['batch']), *_brief(row['contestants'])])} |")
    return "\n".join(lines)


def _brief(entries: dict[str, Entry]) -> list[str]:
    stock, ours = entries[BASELINE], entries["ours"]
    rivals = {
        name: entry["ratio"]
        for name, entry in entries.items()
        if not name.startswith(("ours", BASELINE + "@")) and name != BASELINE and "ratio" in entry
    }
    best = max(rivals, key=lambda name: rivals[name], default="")
    peak = _number("peak_bytes", ".1f", 2**-20)
    return [
        _ms(stock) if "median_s" in stock else stock["status"],
        *([_ms(ours), f"{ours['ratio']:.2f}", f"{ours['ratio_p10']:.2f}-{ours['ratio_p90']:.2f}"]
          if "ratio" in ours else [ours["status"], "", ""]),
        f"{best} {rivals[best]:.2f}" if best else "",
        _number("share_of_floor", ".0f", 100)(ours),
        peak(stock),
        peak(ours),
    ]  # fmt: skip


def plain(result: dict[str, Any]) -> str:
    """The table in columns of text."""
    return _aligned(columns(result), cells(result))


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


TEXT = ("workload", "step", "operation", "about", "contestant", "error", "verdict")


def print_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: Collection[str] = TEXT,
    marks: Mapping[str, str] | None = None,
) -> None:
    """Print a table: with rich if it is installed, else as plain text.

    Args:
        text: the columns that are aligned to the left.
        marks: rich style of a line whose last cell is the key.
    """
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        print(_aligned(heads, rows))
        return
    table = Table()
    for head in heads:
        table.add_column(head, justify="left" if head in text else "right", overflow="fold")
    previous = ""
    for row in rows:
        if previous and row[0] != previous:
            table.add_section()
        previous = row[0]
        table.add_row(*row, style=(marks or {}).get(row[-1]))
    # A file or a pipe has no width; rich would fold the table to 80 columns there.
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(table)


def show(result: dict[str, Any]) -> None:
    """Print header, table and notes."""
    for line in header(result):
        print(line)
    print_table(columns(result), cells(result))
    for note in notes(result):
        print(f"note: {note}")


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the picture of the result's suite; see :mod:`.plots`.

    Raises:
        ImportError: matplotlib is missing; the message says what to install.
        ValueError: nothing but the baseline was measured.
    """
    from . import plots

    plots.of_suite(result, path)
