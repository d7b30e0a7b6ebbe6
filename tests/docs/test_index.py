"""docs/index.md leads to all there is."""

from __future__ import annotations

import re

from .pages import ROOT, links

DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"
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
    assert pages - IN_THE_ROOT - {"index.md"} <= linked


def test_each_example_is_linked() -> None:
    examples = {path.name for path in (DOCS / "examples").glob("*.py")}
    assert examples == {link for link in links(DOCS / "examples" / "README.md") if re.fullmatch(r"\w+\.py", link)}
