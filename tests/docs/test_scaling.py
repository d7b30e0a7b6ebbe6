"""docs/scaling.md: its programs run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import ROOT
from .programs import programs, promises, run_program, write_programs

PAGE = ROOT / "docs" / "scaling.md"


@pytest.mark.timeout(90)
def test_the_workers_behind_a_proxy_answer(tmp_path: Path) -> None:
    write_programs(PAGE, tmp_path)
    done = run_program(tmp_path, "ask.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == promises(programs(PAGE)["ask.py"])
