"""Porting from cs.packetstream: the page against packetwire. `tests/interop` holds it against the reference."""

from __future__ import annotations

from pathlib import Path

import pytest

import packetwire

from .pages import ROOT, tables
from .programs import programs, promises, run_program, write_programs

PORTING = ROOT / "docs" / "porting.md"
BEFORE, AFTER = programs(PORTING).items()
NAMES = [name for name, _ in tables(PORTING)["|name|whattoknow|"]]


@pytest.mark.timeout(90)
def test_the_service_after(tmp_path: Path) -> None:
    name, program = AFTER
    write_programs(PORTING, tmp_path)
    done = run_program(tmp_path, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promises(program)


@pytest.mark.timeout(90)
def test_the_service_before_runs_once_the_import_is_changed(tmp_path: Path) -> None:
    name, program = BEFORE
    assert program.count("from cs.packetstream import") == 1
    (tmp_path / name).write_text(program.replace("from cs.packetstream import", "from packetwire import"))
    done = run_program(tmp_path, name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promises(program) == promises(AFTER[1])


@pytest.mark.parametrize("path", NAMES)
def test_a_name_that_stays(path: str) -> None:
    name, _, attribute = path.partition(".")
    assert name in packetwire.__all__
    assert not attribute or hasattr(getattr(packetwire, name), attribute)
