"""Our programs in docs/comingfrom do what they say, and each of its pages is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import ROOT, code_blocks
from .programs import programs, promises, run_program, write_programs

NAMES = ("execnet.md", "grpc.md", "jsonrpc.md", "multiprocessing.md", "pyro5.md", "rpyc.md")
PAGES = [ROOT / "docs" / "comingfrom" / name for name in NAMES]
TWO_SCREENS = 120
"""Lines."""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_our_program(page: Path, tmp_path: Path) -> None:
    write_programs(page, tmp_path)
    for name, program in programs(page).items():
        done = run_program(tmp_path, name)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == promises(program) == ["4", "there is no text"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_their_program_can_be_compiled(page: Path) -> None:
    (theirs,) = code_blocks(page, "py")
    compile(theirs, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_is_short(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= TWO_SCREENS
