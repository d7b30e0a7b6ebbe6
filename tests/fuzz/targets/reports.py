"""The page that `packetwire report` makes of a capture, and the JSON in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser

from tests.captures import records

from packetwire.capture import HEADER
from packetwire.cli.conversation import Conversations, Input
from packetwire.cli.failure import CommandFailed
from packetwire.cli.report import read
from packetwire.cli.reporting.data import OUTCOMES
from packetwire.cli.reporting.page import MAX_PAGE, page_of

from ..target import Target, choices_of, chunks_of
from .recorded import CAPTURES, FAULT, mutate_capture

NO_CAPTURE, DAMAGE = "no capture", "damage"
PREVIEWS = (0, 5, 256)
MAX_PACKET = 1 << 16


class Scripts(HTMLParser):
    """The texts of the scripts of a page; its elements have to end in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)


def hear_report(octets: bytes) -> list[str]:
    chunks: Iterator[bytes] = iter([*filter(None, chunks_of(octets)), b""])
    conversations = Conversations(max_packet_size=MAX_PACKET)
    try:
        report = read(Input(lambda _: next(chunks)), conversations)
    except CommandFailed:
        return [NO_CAPTURE]
    limit = choices_of(octets).choice(PREVIEWS)
    page = page_of(report, "a capture", limit)
    assert len(page.encode()) <= MAX_PAGE
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page) is None
    data, _ = Scripts(page).scripts
    check_data(data, limit)
    return [FAULT] * bool(conversations.faults) + [DAMAGE] * bool(report.damage)


def check_data(text: str, limit: int) -> None:
    """The JSON is what the script of the page expects."""
    assert not set("<>&") & set(text)
    data = json.loads(text, parse_constant=lambda name: 1 / 0)
    columns = data["columns"]
    (rows,) = {len(column) for column in columns.values()}
    assert rows <= data["count"]
    assert all(0 <= number < len(OUTCOMES) for number in columns["outcome"])
    assert all(number is None or 0 <= number < len(data["labels"]) for number in columns["label"])
    assert all(
        len(each) <= (limit + 2) // 3 * 4 for name in ("request", "response") for each in columns[name] if each
    )
    assert all(0 <= int(number) < rows for number in data["extras"])
    for name, each in columns.items():
        if name in ("time", "end"):
            continue  # nanoseconds: to which of them, after a hundred days, does not matter
        assert all(not isinstance(value, int) or abs(value) < 1 << 53 for value in each)


WITH_ALL = HEADER + b"".join(map(bytes, records(200, connections=2, seed=3)))

TARGETS = (
    Target(
        name="report",
        seeds=[*CAPTURES, WITH_ALL[:9000], WITH_ALL],
        mutate=mutate_capture,
        hear=hear_report,
        reasons=frozenset({NO_CAPTURE, DAMAGE, FAULT}),
        growth=5000,
        besides=1 << 20,
    ),
)
