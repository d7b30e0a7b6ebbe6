"""Links between the pages lead somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import CHANGELOG, CONTRIBUTING, README, ROOT, SECURITY, anchors, links

PAGES = [README, CHANGELOG, CONTRIBUTING, SECURITY, *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
