"""The page of a report: whole by itself, bounded, and nothing in it is what a capture wants it to be."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.captures import capture_of, records, request, response

from packetwire.capture import CaptureDecoder, Kind, Record
from packetwire.cli.conversation import Conversations, Input
from packetwire.cli.failure import CommandFailed
from packetwire.cli.report import read
from packetwire.cli.reporting import sampling
from packetwire.cli.reporting.collecting import PREVIEW, report_of
from packetwire.cli.reporting.markup import Markup, element
from packetwire.cli.reporting.page import MAX_PAGE, page_of
from packetwire.core.varint import MAX_UINT

HOME = Path(__file__).parents[2] / "lib" / "packetwire" / "cli" / "reporting"
OURS = tuple((HOME / name).read_text() for name in ("page.js", "page.css"))
HOSTILE = (
    "</script x></script><script>pwned=1</script><img src=x onerror=pwned=1>"
    "\"'&amp;\x00\x1b[31m\u202e\u2028]]>--><!--"
)
SECRET = b"a secret of the shop"


class Parsed(HTMLParser):
    """The elements of a page, and the text in its scripts and outside."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == [], "all that was begun has ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._open and self._open[-1] != "style":
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        """The JSON of the exchanges."""
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def page_about(capture: bytes, name: str = "a.cap", payload_limit: int = PREVIEW) -> str:
    """The page about a capture, as far as it can be read. Raises `CommandFailed` if it is not one."""
    rest = [capture[at : at + 65536] for at in range(0, len(capture), 65536)]
    source = Input(lambda _: rest.pop(0) if rest else b"")
    return page_of(read(source, Conversations()), name, payload_limit)


def check(page: str) -> Parsed:
    """Parse a page, but for our own script and style, and see that it is what ours are."""
    for part in OURS:
        assert page.count(part) == 1
    parsed = Parsed(page.replace(OURS[0], "").replace(OURS[1], ""))
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 2
    assert not {"img", "iframe", "link", "object", "base", "form"} & set(tags)
    assert not any(name.startswith("on") for _, attributes in parsed.elements for name in attributes)
    assert {key for _, attributes in parsed.elements for key in attributes if key in ("src", "href")} <= {"href"}
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    for _, attributes in parsed.elements:
        assert attributes.get("aria-labelledby", ids[0]) in ids
        assert (attributes.get("href") or "#diagram").removeprefix("#") in ids
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page) is None
    assert len(page.encode()) <= MAX_PAGE
    assert not set("<>&") & set(parsed.scripts[0]), "nothing can end the element of the data"
    columns = parsed.data["columns"]
    assert len({len(column) for column in columns.values()}) == 1
    return parsed


def shop(packets: int = 400) -> str:
    return page_of(report_of(records(packets)), "shop.cap", PREVIEW)


# all that it needs is in it


def test_it_needs_nothing_else() -> None:
    page = shop()
    check(page)
    assert re.findall(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|localStorage", page) == []


def test_its_policy_allows_its_own_script_alone() -> None:
    parsed = Parsed(shop())
    (policy,) = (
        attributes["content"] or ""
        for _, attributes in parsed.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    digest = b64encode(hashlib.sha256(parsed.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")


def test_the_script_makes_no_markup_of_texts() -> None:
    script = (HOME / "page.js").read_text()
    assert re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(", script) == []


def test_the_figures_are_in_the_text_without_scripts() -> None:
    text = check(shop(3000)).text
    for words in (
        *("get (type 1)", "3 connections", "KeyError: 'Emma'", "BUSY, not begun", "12 bodies, 12 whole"),
        *("PeerUnresponsive: nothing was heard for 15 s", "3 requests had no answer", "answered with CANCELLED"),
    ):
        assert words in text


def test_its_parts_are_named_for_who_does_not_see_it() -> None:
    parsed = check(shop(3000))
    for tag, attributes in parsed.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "section":
            assert attributes["aria-labelledby"]
        if attributes.get("class") == "scrolls":
            assert (attributes["tabindex"], attributes["role"]) == ("0", "region")
            assert attributes["aria-label"]


def test_the_data_are_the_exchanges() -> None:
    data = check(shop()).data
    columns = data["columns"]
    assert data["count"] == len(columns["time"])
    first = columns["label"].index(data["labels"].index("get"))
    assert b64decode(columns["request"][first]).startswith(b'{"title": "Emma"')
    assert data["outcomes"][columns["outcome"][first]] == "ok"


def test_a_sample_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "show a sample" not in shop()
    for name in "AT_RANDOM", "FIRST", "LAST":
        monkeypatch.setattr(sampling, name, 10)
    parsed = check(shop(1000))
    assert "The diagram and the list show a sample" in parsed.text
    assert len(parsed.data["columns"]["time"]) < parsed.data["count"]


def test_without_payloads_nothing_of_them_is_there() -> None:
    events = [
        *((">", 1, tag, request(tag, 7, SECRET)) for tag in (2, 3)),
        ("<", 1, 5, response(2, SECRET)),
        ("<", 1, 6, response(3, SECRET, ok=False)),
    ]
    capture = capture_of(*events)
    for encoded in (SECRET.decode(), b64encode(SECRET).decode()[:20]):
        assert encoded in page_about(capture)
        assert encoded not in page_about(capture, payload_limit=0)
    assert b64encode(SECRET[:8]).decode() in page_about(capture, payload_limit=8)
    assert SECRET.decode() in page_about(capture, payload_limit=8)  # as the text of an error


# it is bounded


@pytest.mark.long
def test_the_page_is_bounded_whatever_its_numbers() -> None:
    """As many exchanges as are kept, and in each as much as there can be."""
    huge = MAX_UINT - 1
    packets = [
        request(MAX_UINT - number, huge, b"\xff" * PREVIEW, flags=1 << 60, channel=huge) for number in range(9000)
    ]
    events = [(">", 1 + number % 3, number, packet) for number, packet in enumerate(packets)]
    events += [
        ("<", 1 + number % 3, 10**6, response(MAX_UINT - number, b"\xff" * PREVIEW, ok=False, channel=huge))
        for number in range(9000)
    ]
    parsed = check(page_about(capture_of(*events)))
    assert parsed.data["columns"]["tag"][0] == str(MAX_UINT)


def test_what_does_not_fit_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("packetwire.cli.reporting.page.MAX_PAGE", 150_000)
    page = shop(4000)
    assert len(page.encode()) < 150_000
    assert 10 < len(check(page).data["columns"]["time"]) < 2000


# nothing in it is the capture's


def test_whatever_the_peer_says_is_text() -> None:
    words = HOSTILE.encode()
    schema = json.dumps({"methods": {HOSTILE: {"number": 7}}}).encode()
    events = [
        ("+", 1, 0, words),
        (">", 1, 1, request(2, 3, channel=1)),
        ("<", 1, 1, response(2, schema, channel=1)),
        (">", 1, 1, request(4, 7, words)),
        (">", 1, 1, request(5, 7, words)),
        ("<", 1, 2, response(4, words, ok=False)),
        ("-", 1, 3, words),
    ]
    parsed = check(page_about(capture_of(*events), name=HOSTILE))
    assert "<script>pwned=1</script>" in parsed.text
    assert b64decode(parsed.data["columns"]["request"][1]) == words
    assert HOSTILE[:8] in parsed.data["labels"][1]


def test_attributes_are_escaped() -> None:
    assert element("b", "<&", class_='"x', hidden=True) == '<b class="&quot;x" hidden>&lt;&amp;</b>'
    assert element("b", Markup("<i></i>"), None, [1, "<"], title=None) == "<b><i></i>1&lt;</b>"


SMALL = st.integers(0, 70)
PEERS_WORDS = (b'{"methods":{"</b>":{"number":1}}}', b"pw2!\x01\x01\x01\x02\x02\x83\x7f", HOSTILE.encode())
PACKETS = st.builds(
    lambda tag, rq_type, payload, flags, channel: request(tag, rq_type, payload, flags=flags, channel=channel),
    st.integers(0, 4),
    st.sampled_from([-1, *range(9), 5265202]),
    st.sampled_from([b"pw2?\x01\x01\x01", b"pw2!", b"\x01", HOSTILE.encode()]) | st.binary(max_size=40),
    st.integers(0, 9),
    st.integers(0, 3),
) | st.builds(
    lambda tag, payload, ok, flags, channel: response(tag, payload, ok=ok, flags=flags, channel=channel),
    st.integers(0, 4),
    st.sampled_from(PEERS_WORDS) | st.binary(max_size=40),
    st.booleans(),
    st.integers(0, 40),
    st.integers(0, 3),
)
RECORDS = st.builds(
    lambda kind, connection, when, data: bytes(Record(kind, connection, when, data)),
    st.sampled_from([Kind.BEGIN, Kind.OVER, *[Kind.FORTH, Kind.BACK] * 5]),
    st.integers(1, 2),
    st.integers(0, 10**9) | st.integers(0, (1 << 64) - 1),
    PACKETS | st.lists(PACKETS).map(b"".join) | st.binary(max_size=60),
)
CAPTURES = st.lists(RECORDS, max_size=25).map(lambda found: capture_of() + b"".join(found))


@settings(deadline=None, max_examples=40)
@given(CAPTURES, SMALL, st.binary(max_size=4))
def test_any_capture_gives_a_page(capture: bytes, cut: int, behind: bytes) -> None:
    parsed = check(page_about(capture[: len(capture) - cut % 7] + behind if cut % 2 else capture))
    data = parsed.data
    assert data["duration"] >= 0
    assert all(time >= 0 for time in data["columns"]["time"])


def page_or_failure(data: bytes) -> str:
    """The page about a file, or the words of the error that it is."""
    try:
        return page_about(data)
    except CommandFailed as failure:
        return str(failure)


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_any_file_gives_a_page_or_an_error(data: bytes, is_capture: bool) -> None:
    page = page_or_failure((capture_of() if is_capture else b"") + data)
    if page.startswith("<!doctype html>"):
        check(page)
    else:
        assert re.fullmatch(r"[ -~…]+", page)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 20_000), st.binary(min_size=1, max_size=3))
def test_a_capture_with_damage_gives_a_page_up_to_there(at: int, damage: bytes) -> None:
    at = len(WHOLE) * at // 20_000
    page = page_or_failure(WHOLE[:at] + damage + WHOLE[at + len(damage) :])
    if at:
        check(page)


WHOLE = capture_of() + b"".join(map(bytes, records(120, connections=1)))


def test_the_whole_one_has_no_damage() -> None:
    assert report_of(CaptureDecoder().feed(WHOLE)).fault_count == 0
