"""What the log says of an event."""

from __future__ import annotations

import pytest

from packetwire import ConnectionEnded, PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.events import Event, event_text, without_payload

TEXTS: list[tuple[Event, str]] = [
    (RequestReceived(3, 2, 7, 0x1F, b"abc"), "request 3:2 rq_type=7 flags=0x1f b'abc'"),
    (ResponseReceived(0, 300, True, 0x20, b"", "waiter"), "response 0:300 ok=True flags=0x20 b''"),
    (ResponseReceived(1, 2, False, 0, b"no", None), "response 1:2 ok=False flags=0x0 b'no'"),
    (PeerEndedRequests(), "end of requests"),
    (StreamEnded(ConnectionEnded("the cause"), (), False), "end: the cause"),
]


@pytest.mark.parametrize(("event", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_the_text_of_each_event(event: Event, text: str) -> None:
    assert event_text(event) == text


@pytest.mark.parametrize(
    "event", [RequestReceived(0, 2, 1, 0, b"x" * 33), ResponseReceived(0, 2, True, 0, b"x" * 33, None)]
)
def test_only_the_first_octets_of_a_payload_are_shown(event: Event) -> None:
    assert event_text(event).endswith(" b'" + "x" * 32 + "'")


def test_a_request_without_its_payload_is_otherwise_the_same() -> None:
    request = RequestReceived(3, 2, 7, 0x1F, b"abc")
    assert without_payload(request) == request._replace(payload=b"")
