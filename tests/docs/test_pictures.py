"""The pictures of terminals are those of the present views, and stand in a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from packetwire.cli.topview import text_of

from .diagrams import mark
from .pages import ROOT, links
from .pictures import DIRECTORY, PICTURES, WIDTH, source

USED = {
    link.rpartition("/")[2]
    for page in (ROOT / "docs").rglob("*.md")
    for link in links(page)
    if "pictures/" in link and link.endswith(".svg")
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_was_drawn_from_the_present_view(name: str) -> None:
    text = (DIRECTORY / f"{name}.svg").read_text()
    assert mark(source(PICTURES[name]())) in text, "run python -m tests.docs.pictures"
    shown = "".join(ET.fromstring(text).itertext()).replace("\xa0", " ")
    for line in text_of(PICTURES[name]()).splitlines():
        assert len(line) <= WIDTH
        for word in line.split():
            assert word in shown, word


def test_each_picture_stands_in_a_page() -> None:
    assert {path.name for path in DIRECTORY.glob("*.svg")} == {f"{name}.svg" for name in PICTURES}
    assert {f"{name}.svg" for name in PICTURES} == USED


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_needs_nothing_else(name: str) -> None:
    text = (DIRECTORY / f"{name}.svg").read_text()
    assert text.count("http") == text.count("http://www.w3.org/2000/svg") == 1
