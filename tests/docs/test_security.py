"""What the page on security says has a test, and nothing makes code of octets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import packetwire

from .pages import ROOT

PAGE = ROOT / "docs" / "security.md"
ROW = re.compile(r"\| ([^|]+) \| \[[^\]]+\]\(\.\./(tests/[^)]+)\)(?: `(\w+)`)? \|")
ROWS = ROW.findall(PAGE.read_text())
SOURCES = sorted(Path(packetwire.__file__).parent.rglob("*.py"))
MODULES = {"pickle", "marshal", "shelve", "dill", "yaml"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOADER = "loader.py"
"""It runs at a far end that was started for that, and makes code of what its near end sends."""


def test_every_row_names_a_test() -> None:
    tables = re.findall(r"^\| what holds .*\n\|---.*\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)
    claims = [line for table in tables for line in table.splitlines()]
    assert len(ROWS) == len(claims) > 20


@pytest.mark.parametrize(("claim", "file", "name"), ROWS, ids=[claim[:40] for claim, *_ in ROWS])
def test_the_test_is_there(claim: str, file: str, name: str) -> None:
    text = (ROOT / file).read_text()
    assert re.search(rf"^(?:async )?def {name or 'test_'}\b" if name else r"^def test_", text, re.MULTILINE)


def test_no_octets_are_made_into_code() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {alias.name.partition(".")[0] for alias in node.names} & MODULES, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in MODULES, path
            elif isinstance(node, ast.Call):
                makes_code = isinstance(node.func, ast.Name) and node.func.id in CALLS
                assert not makes_code or path.name == LOADER, path
                assert not any(keyword.arg == "shell" for keyword in node.keywords), path
