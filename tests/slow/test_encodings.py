"""Text files name their encoding, so that they mean the same under every locale."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from paths import ROOT

SOURCES = [
    *ROOT.glob("*.py"),
    *(path for name in ("wgangp_fast", "benchmarks") for path in (ROOT / name).rglob("*.py")),
]
# Functions that open text; where the mode stands among the arguments, and what it is by default (None: they
# have no mode).
MODES: dict[str, tuple[int | None, str]] = {
    "open": (1, "r"),
    "fdopen": (1, "r"),
    "NamedTemporaryFile": (0, "w+b"),
    "TemporaryFile": (0, "w+b"),
    "SpooledTemporaryFile": (1, "w+b"),
    "TextIOWrapper": (None, "r"),
    "read_text": (None, "r"),
    "write_text": (None, "r"),
    "reconfigure": (None, "b"),
}
OWN_OPEN = {"os", "lmdb", "Image", "module", "tarfile", "zipfile", "Cache", "webbrowser", "cls"}
RUN = {"run", "Popen", "check_output", "check_call"}
OURS = {"folder", "files"}  # modules whose functions have an encoding of their own


def name_of(call: ast.Call) -> tuple[str, str]:
    """What is called, and on what."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr, ast.unparse(call.func.value).split(".")[-1].split("(")[0]
    return (call.func.id, "") if isinstance(call.func, ast.Name) else ("", "")


def faults(source: str) -> Iterator[int]:
    """Lines at which text is opened in the locale's encoding."""
    tree = ast.parse(source)
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in OURS
        for alias in node.names
    } | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called, owner = name_of(node)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in given or (not owner and called in imported) or owner in OURS:
            continue
        if called in RUN:
            text = [given[key] for key in ("text", "universal_newlines", "errors") if key in given]
            if any(not (isinstance(value, ast.Constant) and value.value in (False, None)) for value in text):
                yield node.lineno
        elif called in MODES and not (called == "open" and owner in OWN_OPEN):
            place, mode = MODES[called]
            if called == "open" and owner and owner not in ("gzip", "bz2", "lzma", "io"):
                place = 0  # of a path
            if place is not None:
                found = given.get("mode") or (node.args[place] if len(node.args) > place else None)
                mode = (
                    found.value if isinstance(found, ast.Constant)
                    else mode if found is None and owner not in ("gzip", "bz2", "lzma") else "rb"
                )  # fmt: skip
            if "b" not in str(mode):
                yield node.lineno


def test_text_is_never_opened_in_the_locales_encoding() -> None:
    found = {str(path.relative_to(ROOT)): list(faults(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert "wgangp_fast/training/folder.py" in found
    assert not {path: lines for path, lines in found.items() if lines}, "text is opened without encoding="


@pytest.mark.parametrize(
    "line",
    [
        "open(p)", "open(p, 'w')", "open(p, mode='a')", "p.open()", "p.open('w')", "(a / b).open('r')",
        "p.read_text()", "p.write_text(x)", "(a / b).write_text(x)", "os.fdopen(d)", "io.TextIOWrapper(b)",
        "gzip.open(p, 'rt')", "tempfile.NamedTemporaryFile('w')", "subprocess.run(c, text=True)",
        "subprocess.Popen(c, universal_newlines=True)", "Path(p).read_text(errors='replace')",
    ],
)  # fmt: skip
def test_faults_are_found(line: str) -> None:
    assert list(faults(line)) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'rb')", "open(p, encoding='utf-8')", "p.open('xb')", "os.open(p, os.O_RDONLY)",
        "lmdb.open(p)", "p.read_text(encoding='utf-8')", "gzip.open(p)", "os.fdopen(d, 'wb')",
        "from .files import write_text\nwrite_text(p, x)", "folder.write_text(p, x)", "p.read_bytes()",
        "subprocess.run(c, text=True, encoding='utf-8')", "subprocess.run(c)", "tempfile.TemporaryFile()",
    ],
)  # fmt: skip
def test_what_is_right_is_left_alone(line: str) -> None:
    assert not list(faults(line))
