"""The pictures of a report are of the present page, small, and stand in a page."""

from __future__ import annotations

from .pages import ROOT, links
from .report_pictures import DIGEST, DIRECTORY, MOST, PICTURES, digest


def test_the_pictures_are_of_the_present_page() -> None:
    assert DIGEST.read_text().strip() == digest(), "run python -m tests.docs.report_pictures"


def test_each_picture_is_small_and_stands_in_a_page() -> None:
    assert {path.name for path in DIRECTORY.glob("*.png")} == {f"{name}.png" for name in PICTURES}
    used = {link.rpartition("/")[2] for page in (ROOT / "docs").rglob("*.md") for link in links(page)}
    for name in PICTURES:
        data = (DIRECTORY / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) <= MOST
        assert f"{name}.png" in used
