"""The project's pages, and how their code, tables and links are found."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
WIRE = ROOT / "docs" / "wire.md"
CHANGELOG = ROOT / "CHANGELOG.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
SECURITY = ROOT / "SECURITY.md"


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks in one language, exactly as they stand."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def tables(page: Path) -> dict[str, list[list[str]]]:
    """The tables, by their first line without spaces; a cell that is one piece of code is without its marks."""
    found: dict[str, list[list[str]]] = {}
    for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        head, _, *rows = table.splitlines()
        found.setdefault(head.replace(" ", ""), []).extend(map(_cells, rows))
    return found


def _cells(row: str) -> list[str]:
    return [re.sub(r"^`([^`]*)`$", r"\1", cell.strip()) for cell in row.strip("|").split("|")]


def links(page: Path) -> list[str]:
    """The targets of its links."""
    return re.findall(r"\]\(([^)]+)\)", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names that its headings get."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
