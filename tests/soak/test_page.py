"""docs/reliability.md: its commands can be given, and what it says was found has a test."""

from __future__ import annotations

import re
import shlex

import pytest

from docs.pages import ROOT, code_blocks

from .__main__ import parsed

PAGE = ROOT / "docs" / "reliability.md"
COMMANDS = [
    shlex.split(line, comments=True)
    for block in code_blocks(PAGE, "sh")
    for line in block.splitlines()
    if "-m tests.soak" in line
]
FOUND = re.findall(r"\[[^\]]+\]\(\.\./(tests/[^)]+)\) `(test_\w+)` \|", PAGE.read_text())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_commands(command: list[str]) -> None:
    assert command[:3] == ["python", "-m", "tests.soak"]
    parsed(command[3:])


def test_there_are_commands_and_findings() -> None:
    assert len(COMMANDS) > 2
    assert len(FOUND) > 3


@pytest.mark.parametrize(("file", "name"), FOUND, ids=[name for _, name in FOUND])
def test_what_was_found_has_a_test(file: str, name: str) -> None:
    assert re.search(rf"^(?:async )?def {name}\b", (ROOT / file).read_text(), re.MULTILINE)
