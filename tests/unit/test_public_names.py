"""Names, commands and flags that programs and scripts use: none is lost. They are in
``tests/public_names.json``; what the package gains is added there."""

from __future__ import annotations

import contextlib
import importlib
import json
import re

import pytest
from paths import TESTS

from wgangp_fast.cli import COMMANDS, main

pytest.importorskip("tyro")  # a part of the commands needs the extras

NAMES = json.loads((TESTS / "public_names.json").read_text(encoding="utf-8"))
FLAGS = NAMES.pop("commands")


@pytest.mark.parametrize("module", NAMES)
def test_every_name_is_there(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []
    listed = set(getattr(found, "__all__", NAMES[module]))
    assert listed <= set(NAMES[module]), "a new public name: add it to tests/public_names.json"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_there(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    flags = set(re.findall(r"(?<![\w-])--[a-z0-9][a-z0-9-]*", capsys.readouterr().out))
    assert set(FLAGS[command]) - flags == set()
    assert flags - set(FLAGS[command]) == set(), "a new flag: add it to tests/public_names.json"


def test_every_command_is_there() -> None:
    assert set(FLAGS) == set(COMMANDS)
