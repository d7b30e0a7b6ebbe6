"""The changelog keeps to its form."""

from __future__ import annotations

import re

import packetwire

from .pages import CHANGELOG

UPGRADING = "Everything that worked with"
"""The paragraph that leads to the notes on upgrading."""
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_has_its_entry() -> None:
    versions = re.findall(r"^## \[(.*?)\]", CHANGELOG.read_text(), re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert packetwire.__version__ in versions


def test_its_sections_are_those_of_keep_a_changelog() -> None:
    found = re.findall(r"^### (.*)$", CHANGELOG.read_text(), re.MULTILINE)
    assert found
    assert set(found) <= SECTIONS


def test_each_entry_is_one_line() -> None:
    for line in CHANGELOG.read_text().split("\n## ", 1)[1].splitlines()[1:]:
        assert not line or line.startswith(("## [", "### ", "#### ", "- ", UPGRADING)), line
