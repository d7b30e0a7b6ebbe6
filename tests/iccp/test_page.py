"""docs/iccp.md: its programs and its command run as they stand, and its rules have tests."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from docs.pages import code_blocks, tables
from docs.programs import programs, promises, run_program, write_programs
from packetwire import iccp

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "iccp.md"
RULES = tables(PAGE)["|rule|inshort|tests|Saturnin|"]
TESTS = {
    name: re.findall(r"^def (test_\w+)", (HERE / name).read_text(), re.MULTILINE)
    for name in ("test_conformance.py", "test_carriers.py")
}


def test_each_rule_has_tests() -> None:
    assert [int(number) for number, *_ in RULES] == list(range(1, 7))
    for number, _, prefix, saturnin in RULES:
        assert prefix == f"test_{number}_"
        for tests in TESTS.values():
            assert any(name.startswith(prefix) for name in tests)
        assert saturnin


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["control.py", "keep.py", pytest.param("acontrol.py", marks=pytest.mark.long)])
def test_the_programs_run(name: str, tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, name)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == promises(programs(PAGE)[name])


@pytest.mark.timeout(60)
def test_the_command_runs(tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    (command,) = code_blocks(PAGE, "sh")
    packetwire, *arguments = [sys.executable if word == "python3" else word for word in shlex.split(command)]
    argv = [sys.executable, "-m", packetwire, *arguments]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        while "ready" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGINT)
        stdout, stderr = running.communicate(timeout=30)
    assert (running.returncode, stderr) == (0, "this goes to standard error\n")
    assert stdout.splitlines()[-1] == "  ok          outcome OK, exit status 0"


def test_the_exceptions_and_names_exist() -> None:
    text = PAGE.read_text()
    for name in re.findall(r"`((?:ICCP|Async|Component|Config|Controller|TimeLimits|Typed)\w*)`", text):
        assert hasattr(iccp, name), name
    assert {f"`{field.name}`" for field in fields(iccp.TimeLimits)} <= set(re.findall(r"`\w+`", text))
