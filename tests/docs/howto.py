"""The how-to pages: their programs stand side by side in one directory, since a page may use those of another."""

from __future__ import annotations

import re
from pathlib import Path

from .pages import ROOT
from .programs import programs

HOWTO = ROOT / "docs" / "howto"
PAGES = sorted(HOWTO.glob("*.md"))
PROGRAMS_OF = {page: programs(page) for page in PAGES}
PROGRAMS = {name: program for texts in PROGRAMS_OF.values() for name, program in texts.items()}
PAGE_OF = {name: page for page, texts in PROGRAMS_OF.items() for name in texts}


def text() -> str:
    """All pages, one behind the other."""
    return "\n".join(page.read_text() for page in PAGES)


def uses(words: str) -> set[str]:
    """The programs that a program or a command names or imports."""
    return {
        name
        for name in PROGRAMS
        if re.search(rf"\b{re.escape(name)}\b|(?:from|import) {name[:-3]}\b|\b{name[:-3]}:[A-Z]", words)
    }


def write_programs(directory: Path) -> None:
    """The programs of all pages."""
    for name, program in PROGRAMS.items():
        (directory / name).write_text(program)
