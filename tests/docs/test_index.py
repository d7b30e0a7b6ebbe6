"""docs/index.md leads to all there is, and the names in it exist."""

from __future__ import annotations

import re

import pytest

from packetwire.cli.main import commands

from .pages import ROOT, links, tables
from .public_names import public_modules

DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
ROWS = tables(INDEX)["|to…|read|names|aprogramtostartfrom|"]
MODULES = public_modules()
NAMES = {name: getattr(module, name) for module in MODULES.values() for name in module.__all__}
IN_THE_ROOT = {"changes.md", "contributing.md", "start.md"}
"""What these hold is linked where it stands, in the root of the project."""


def toctree() -> set[str]:
    """The pages that Sphinx puts beside each page."""
    (*trees,) = re.findall(r"^```\{toctree\}\n(.*?)^```$", INDEX.read_text(), re.DOTALL | re.MULTILINE)
    entries = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    named = {re.sub(r".*<(.*)>", r"\1", entry) for entry in entries if "*" not in entry}
    globbed = [page for entry in entries if "*" in entry for page in DOCS.glob(f"{entry}.md")]
    return named | {str(page.relative_to(DOCS).with_suffix("")) for page in globbed}


def test_each_page_is_in_the_list_beside_the_pages() -> None:
    pages = {
        str(page.relative_to(DOCS).with_suffix("")) for page in DOCS.rglob("*") if page.suffix in (".md", ".rst")
    }
    assert toctree() == pages - {"index"}


def test_each_page_is_linked_from_the_text() -> None:
    linked = {link.partition("#")[0] for page in (INDEX, DOCS / "porting.md") for link in links(page)}
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert pages - IN_THE_ROOT - {"index.md", "examples/README.md"} <= linked


def test_each_example_is_linked() -> None:
    examples = {f"examples/{path.name}" for path in (DOCS / "examples").glob("*.py")}
    assert examples == {link for link in links(INDEX) if link.startswith("examples/") and link.endswith(".py")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_names_exist(row: list[str]) -> None:
    for name in re.findall(r"[\w.= -]*\w=?", re.sub(r" and its kinds", "", row[2].replace("`", ""))):
        word = name.strip().removeprefix("packetwire ").partition(" ")[0].removesuffix("=")
        if name.strip().startswith("packetwire ") or word in ("dump", "replay", "bench"):
            assert word in {module.__name__.rpartition(".")[2] for module in commands()}
        elif word not in MODULES:
            owner, _, attribute = word.rpartition(".")
            things = [NAMES[owner]] if owner else NAMES.values()
            assert word in NAMES or any(has(thing, attribute or word) for thing in things), word


def has(thing: object, name: str) -> bool:
    """Whether it has this attribute, or takes this argument."""
    return hasattr(thing, name) or name in getattr(getattr(thing, "__init__", None), "__annotations__", {})
