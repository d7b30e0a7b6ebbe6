"""The table of checks: its numbers, and the places in docs/wire.md that it names."""

from __future__ import annotations

import re

from docs.pages import WIRE
from packetwire.conformance.play import Line, Outcome, Verdict
from packetwire.conformance.report import junit, lines_about
from packetwire.conformance.table import CHECKS


def test_numbers_are_unique_and_go_up() -> None:
    numbers = [check.number for check in CHECKS]
    assert numbers == sorted(set(numbers))


def test_each_check_names_a_section_of_the_specification() -> None:
    headings = set(re.findall(r"^#+ (.*)$", WIRE.read_text(), re.MULTILINE))
    assert {check.section for check in CHECKS} <= headings


def test_titles_tell_the_checks_apart() -> None:
    assert len({check.title for check in CHECKS}) == len(CHECKS)


def test_what_a_far_end_says_controls_no_terminal() -> None:
    outcome = Outcome(Verdict.FAILED, "\x1b[2J", (Line("<", bytes(100), "\x07"),))
    lines = list(lines_about(CHECKS[0], outcome))
    assert all(line.isprintable() for line in lines)
    assert lines[-1].endswith("… 100 bytes (\\x07)")
    assert "\x1b" not in junit("\x1b<", [(CHECKS[0], outcome)])
