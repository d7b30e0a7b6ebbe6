"""docs/fbsp.md: its programs run as they stand, and its rules have tests."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.commands import check_command, commands, start, write_shell
from docs.pages import tables
from docs.programs import programs, promises, run_program, write_programs

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "fbsp.md"
RULES = tables(PAGE)["|rule|inshort|tests|Saturnin|"]
TESTS = re.findall(r"^def (test_\w+)", (HERE / "test_conformance.py").read_text(), re.MULTILINE)


def test_each_rule_has_tests() -> None:
    assert [int(number) for number, *_ in RULES] == list(range(1, 31))
    for number, _, prefix, saturnin in RULES:
        assert prefix == f"test_{number}_"
        assert any(name.startswith(prefix) for name in TESTS)
        assert saturnin


@pytest.mark.timeout(60)
@pytest.mark.parametrize("program", ["ask.py", "count.py", "gateway.py", "as_saturnin.py"])
def test_the_programs_run(tmp_path: Path, program: str) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, program)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.splitlines() == promises(programs(PAGE)[program])


SHOWN = {"hello": "clock 1.0", "ping": "round trips 100"}
"""What the commands print that print a table."""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("command", commands(PAGE))
def test_the_commands_run(tmp_path: Path, command: str) -> None:
    shell = write_shell(PAGE, tmp_path)
    _, _, name, *_ = command.split()
    if name in SHOWN:
        with start(command, shell) as called:
            stdout, stderr = called.communicate(timeout=60)
        assert (called.returncode, stderr) == (0, "")
        assert SHOWN[name] in stdout
    else:
        check_command(command, shell)
