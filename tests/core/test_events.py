"""What the log says of an event."""

from __future__ import annotations

from typing import get_args

import pytest

from packetwire import ConnectionEnded, PeerEndedRequests, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.events import (
    CancelReceived,
    ControlAnswered,
    Event,
    PeerCapabilities,
    PeerDrains,
    ProgressReceived,
    event_text,
    without_payload,
)
from packetwire.core.hello import Feature, Hello

TEXTS: list[tuple[Event, str]] = [
    (RequestReceived(3, 2, 7, 0x1F, b"abc"), "request 3:2 rq_type=7 flags=0x1f b'abc'"),
    (ResponseReceived(0, 300, True, 0x20, b"", "waiter"), "response 0:300 ok=True flags=0x20 b''"),
    (ResponseReceived(1, 2, False, 0, b"no", None), "response 1:2 ok=False flags=0x0 b'no'"),
    (PeerEndedRequests(), "end of requests"),
    (StreamEnded(ConnectionEnded("the cause"), (), False), "end: the cause"),
    (PeerCapabilities(Hello(software="s 1"), Feature(0)), f"capabilities: s 1, in common {Feature(0)!r}"),
    (CancelReceived(16, 5, 1, "no more"), "cancel 16:5 code=1 'no more'"),
    (ProgressReceived(0, 2, b"half", "waiter"), "progress 0:2 b'half'"),
    (ControlAnswered(True, b"", "waiter"), "control answered ok=True b''"),
    (PeerDrains(5000, "an update"), "drain within 5000 ms: 'an update'"),
    (PeerDrains(None, ""), "drain: ''"),
]


@pytest.mark.parametrize(("event", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_the_text_of_each_event(event: Event, text: str) -> None:
    assert event_text(event) == text


def test_every_event_is_tried() -> None:
    assert {type(event) for event, _ in TEXTS} == set(get_args(Event))


@pytest.mark.parametrize(
    "event",
    [
        RequestReceived(0, 2, 1, 0, b"x" * 33),
        ResponseReceived(0, 2, True, 0, b"x" * 33, None),
        ProgressReceived(0, 2, b"x" * 33, None),
        ControlAnswered(True, b"x" * 33, None),
    ],
)
def test_only_the_first_octets_of_a_payload_are_shown(event: Event) -> None:
    assert event_text(event).endswith(" b'" + "x" * 32 + "'")


def test_a_request_without_its_payload_is_otherwise_the_same() -> None:
    request = RequestReceived(3, 2, 7, 0x1F, b"abc")
    assert without_payload(request) == request._replace(payload=b"")
