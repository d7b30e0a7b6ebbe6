"""The diagrams are those of the present tables, and stand in a page."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from packetwire.core import state

from .diagrams import DIAGRAMS, DIRECTORY, mark, of_packets, of_states
from .pages import ROOT, links

USED = {link for page in (ROOT / "docs").glob("*.md") for link in links(page) if link.startswith("diagrams/")}


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_was_drawn_from_the_present_table(name: str) -> None:
    assert mark(DIAGRAMS[name]()) in (DIRECTORY / f"{name}.svg").read_text(), "run python -m tests.docs.diagrams"


def test_each_diagram_stands_in_a_page_and_is_one_of_these() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == {f"{name}.svg" for name in DIAGRAMS}
    assert {f"diagrams/{name}.svg" for name in DIAGRAMS} == USED


@pytest.mark.parametrize("name", DIAGRAMS)
def test_a_diagram_needs_nothing_else(name: str) -> None:
    text = (DIRECTORY / f"{name}.svg").read_text()
    assert {each.tag.rpartition("}")[2] for each in ET.fromstring(text).iter()} <= {
        *("svg", "g", "title", "text", "path", "polygon", "polyline", "ellipse"),
    }


def test_another_table_is_another_diagram() -> None:
    table = dict(state.TRANSITIONS)
    before = of_states(state.Half.OPEN, table, "LR")
    del table[state.Half.OPEN, state.Act.EOF]
    assert of_states(state.Half.OPEN, table, "LR") != before


def test_a_packet_is_shown_octet_by_octet() -> None:
    assert (
        "<td>" + "</td><td>".join(f'<font face="monospace">{each}</font>' for each in ("07", "82", "2c"))
        in of_packets()
    )
