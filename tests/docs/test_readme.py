"""The README: what it tells people to type, the program in it, and what it says about errors."""

from __future__ import annotations

import builtins
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import packetwire
from packetwire import ChildExited, PreambleMissing, RemoteProtocolError, RequestFailed, errors

from .pages import README, ROOT, code_blocks, tables

DEMO, TESTS = code_blocks(README, "sh")
(PROGRAM,) = code_blocks(README, "python")


@pytest.mark.timeout(60)
def test_the_shortest_program_does_what_its_comment_says(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-W", "error", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    promised = re.findall(r"print\(.*\)  # (.*)", PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promised
    assert promised


def test_the_shortest_program_is_short() -> None:
    assert len(PROGRAM.strip().splitlines()) < 16


@pytest.mark.parametrize("command", [DEMO, TESTS])
def test_the_commands_are_one_line_and_install_extras_that_exist(command: str) -> None:
    assert command.count("\n") == 1
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
    (extras,) = re.findall(r" '\.\[(.*)\]' ", command)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert "packetwire" in project["scripts"]


@pytest.mark.parametrize("command", [DEMO, TESTS])
def test_ci_runs_the_same_commands(command: str) -> None:
    assert command.strip() in map(str.strip, (ROOT / ".ci" / "run").read_text().splitlines())


def ours_of(kind: type[Exception]) -> list[type[Exception]]:
    """Its subclasses beside it; protocols have more of their own."""
    # not the kind that a cancellation is made of at the time, for users of cs.result
    return [sub for sub in kind.__subclasses__() if getattr(errors, sub.__name__, None) is sub]


def test_the_table_of_exceptions_has_all_of_them() -> None:
    ((_, rows),) = ((head, rows) for head, rows in tables(README).items() if head.startswith("|exception|"))
    kinds = {name for name in errors.__all__ if not ours_of(getattr(errors, name))}
    with_kinds = {
        *("CapabilityMissing", "ConnectionEnded", "Draining", "PeerClosed", "RequestFailed", "RequestTimeout"),
    }
    assert kinds | with_kinds == {row[0] for row in rows}


def test_the_attributes_in_the_table_of_exceptions_exist() -> None:
    with_attributes = (
        RequestFailed(0, b"text"),
        ChildExited("gone", ["command"], -9, b""),
        PreambleMissing("no line", b"", None, b""),
        RemoteProtocolError("packet-too-large", "too large"),
    )
    (rows,) = (rows for head, rows in tables(README).items() if head.startswith("|exception|"))
    for name, _, known in rows:
        for base in re.findall(r"also a `(\w+)`", known):
            assert issubclass(getattr(packetwire, name), getattr(builtins, base))
        for attribute in re.findall(r"`\.(\w+)`", known):
            (error,) = (error for error in with_attributes if type(error).__name__ == name)
            assert hasattr(error, attribute)
