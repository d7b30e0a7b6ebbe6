"""Requests and responses of one engine: tags, waiters, and what cannot be sent."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import pytest

from packetwire import ConnectionEnded, LocalProtocolError, Packet, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.engine import (
    JOIN_LIMIT,
    MAX_REQUEST_FLAGS,
    MAX_RESPONSE_FLAGS,
    MAX_RQ_TYPE,
    MAX_TAILS,
    ConnectionEngine,
)
from packetwire.core.events import Event
from packetwire.core.packets import MAX_UINT

from .golden import decode
from .naming import plain
from .wire import request, response, sent_packets

# asking


def test_a_request_on_the_wire() -> None:
    engine = ConnectionEngine()
    assert engine.request(7, 5, b"abc") == 2
    assert engine.request(0, channel=300) == 2
    assert sent_packets(engine) == [
        Packet(is_request=True, tag=2, flags=5, rq_type=8, payload=b"abc"),
        Packet(is_request=True, channel=300, tag=2, flags=0, rq_type=1, payload=b""),
    ]


def test_tags_increase_per_channel_from_2() -> None:
    engine = ConnectionEngine()
    channels = [0, 0, 21, 0, 17, 21, 0, 21]
    assert [engine.request(1, channel=channel) for channel in channels] == [2, 3, 2, 4, 2, 3, 5, 4]
    engine.receive(response(2) + response(3))
    assert engine.request(1) == 6, "an answered tag is not used again"


def test_a_request_may_be_given_up_while_its_response_is_received() -> None:
    """By another thread, at any moment: then the response is late, and no fault of the reader's."""

    class Forgetting(list[Event]):
        def append(self, event: Event) -> None:
            super().append(event)
            assert engine.forget(0, 2)

    engine = ConnectionEngine()
    engine.request(1, waiter="given up")
    events = Forgetting()
    assert engine.receive(response(2, 1, b"late"), events) == []
    assert (engine.outstanding, engine.given_up, engine.late_responses) == (0, 1, 1)
    engine._add_response((2, 1, -1, b"later still"), events)  # it was given up between two looks
    assert events == []
    assert engine.late_responses == 2


def test_a_response_finds_its_waiter() -> None:
    engine = ConnectionEngine()
    for waiter in ("first", "second"):
        engine.request(1, waiter=waiter)
    engine.request(1, channel=25, waiter="other channel")
    assert engine.outstanding == 3
    assert engine.receive(response(2, 0b1011, b"yes", channel=25) + response(3, 0b110, b"no") + response(2)) == [
        ResponseReceived(25, 2, True, 0b101, b"yes", "other channel"),
        ResponseReceived(0, 3, False, 0b11, b"no", "second"),
        ResponseReceived(0, 2, True, 0, b"", "first"),
    ]
    assert engine.outstanding == 0
    assert engine.late_responses == 0


@pytest.mark.parametrize("payload", [b"", b"abc", bytes(16_384), bytes(16_385), bytes(1 << 20)], ids=len)
def test_payloads_of_every_kind_and_size(payload: bytes) -> None:
    engine = ConnectionEngine()
    for bytes_like in (payload, bytearray(payload), memoryview(payload)):
        engine.request(1, payload=bytes_like)
    unsent = engine.unsent_octets
    octets = engine.data_to_send()
    assert sum(map(len, octets)) == unsent
    assert [packet.payload for packet in decode(b"".join(octets))] == [payload] * 3


@pytest.mark.parametrize(("size", "pieces"), [(0, 1), (JOIN_LIMIT, 1), (JOIN_LIMIT + 1, 2)])
def test_a_large_payload_is_not_copied_behind_its_head(size: int, pieces: int) -> None:
    engine = ConnectionEngine()
    payload = bytes(size)
    engine.request(1, payload=payload)
    taken = engine.data_to_send()
    assert len(taken) == pieces
    assert (taken[-1] is payload) == (pieces == 2)


def test_a_payload_is_taken_when_it_is_given() -> None:
    engine = ConnectionEngine()
    payload = bytearray(b"x" * 20_000)
    engine.request(1, payload=payload)
    payload[:] = b"y" * 20_000
    assert sent_packets(engine)[0].payload == b"x" * 20_000


def test_a_request_type_that_looks_like_the_key_of_another() -> None:
    engine = ConnectionEngine()
    engine.request(5, 7, channel=16)
    sent_packets(engine)
    with pytest.raises(TypeError, match="rq_type must be an int"):
        engine.request((16, 7, 5))  # type: ignore[arg-type]
    assert sent_packets(engine) == []


def test_many_kinds_of_requests() -> None:
    """More than the engine remembers the octets of, twice."""
    engine = ConnectionEngine(max_outstanding=10_000)
    kinds = [(rq_type, flags, channel) for rq_type in range(200) for flags in (0, 77, 300) for channel in (0, 200)]
    for rq_type, flags, channel in kinds * 2:
        engine.request(rq_type, flags, channel=channel)
        assert len(engine._request_tails) + len(engine._usual_tails) <= MAX_TAILS
    packets = sent_packets(engine)
    assert [(packet.rq_type, packet.flags, packet.channel) for packet in packets] == [
        (rq_type + 1, flags, channel) for rq_type, flags, channel in kinds * 2
    ]


def test_events_are_given_as_they_come_about() -> None:
    """Whoever interrupts `receive` finds the event of each response that has lost its waiter."""
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    events: list[Event] = [RequestReceived(0, 9, 0, 0, b"")]
    assert engine.receive(response(2), events) is events
    assert [type(event) for event in events] == [RequestReceived, ResponseReceived]


# answers that nobody waits for


def test_a_forgotten_request_is_answered_late() -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="gone")
    engine.request(1, channel=20, waiter="gone too")
    assert engine.forget(0, 2)
    assert engine.forget(20, 2)
    assert engine.outstanding == 0
    assert engine.receive(response(2) + response(2, channel=20)) == []
    assert engine.late_responses == 2
    assert engine.ended is None


def test_forget_is_false_for_what_is_not_outstanding() -> None:
    engine = ConnectionEngine()
    engine.request(1)
    assert not engine.forget(0, 3)
    assert not engine.forget(1, 2)
    assert engine.forget(0, 2)
    assert not engine.forget(0, 2)
    engine.request(1)
    engine.receive(response(3))
    assert not engine.forget(0, 3)


def test_a_second_answer_is_late() -> None:
    engine = ConnectionEngine()
    engine.request(1)
    assert len(engine.receive(response(2) + response(2))) == 1
    assert engine.late_responses == 1


@pytest.mark.parametrize(("channel", "tag"), [(0, 0), (0, 1), (0, 3), (0, MAX_UINT), (17, 2), (23, 4)])
@pytest.mark.parametrize("whole", [True, False], ids=["complete", "incomplete"])
def test_a_response_to_a_tag_never_used_ends_the_connection(channel: int, tag: int, whole: bool) -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    for _ in range(2):
        engine.request(1, channel=23, waiter="waiting")
    octets = response(tag, payload=bytes(1000), channel=channel)
    (end,) = engine.receive(octets if whole else octets[:-1])
    assert isinstance(end, StreamEnded)
    assert f"response to tag {tag} on channel {channel}, which was never used" in str(end.cause)
    assert f"the bytes there: {octets[:200]!r}…" in str(end.cause)
    assert end.lost == ("waiting",) * 3
    assert not end.clean


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_incomplete_response_in_order_is_waited_for(cut: int) -> None:
    engine = ConnectionEngine()
    engine.request(1, waiter="waiting")
    engine.request(1, channel=200, waiter="forgotten")
    engine.forget(200, 2)
    for octets in (response(2, payload=bytes(10)), response(2, payload=bytes(10), channel=200)):
        events = [*engine.receive(octets[:cut]), *engine.receive(octets[cut:])]
    assert events == []
    assert engine.late_responses == 1
    assert engine.outstanding == 0
    assert engine.ended is None


# answering


def test_a_request_of_the_peer() -> None:
    engine = ConnectionEngine()
    assert engine.receive(request(2, 8, 5, b"abc") + request(0, channel=19)) == [
        RequestReceived(0, 2, 7, 5, b"abc"),
        RequestReceived(19, 0, 0, 0, b""),
    ]
    assert engine.owed == 2
    assert engine.respond(19, 0, True, 0b101, b"yes")
    assert engine.respond(0, 2, False, payload=bytearray(b"no"))
    assert engine.owed == 0
    assert sent_packets(engine) == [
        Packet(is_request=False, channel=19, tag=0, flags=0b1011, payload=b"yes"),
        Packet(is_request=False, tag=2, flags=0, payload=b"no"),
    ]


@pytest.mark.parametrize("tag", [0, 1, 2, 127, 128, MAX_UINT])
def test_every_tag_of_the_peer_is_legal(tag: int) -> None:
    engine = ConnectionEngine()
    assert engine.receive(request(tag)) == [RequestReceived(0, tag, 0, 0, b"")]
    engine.respond(0, tag, True)
    assert sent_packets(engine)[0].tag == tag


def test_a_duplicate_in_flight_is_refused_and_the_first_answered_once() -> None:
    engine = ConnectionEngine()
    assert len(engine.receive(request(5) + request(5, payload=b"again") + request(5, channel=17))) == 2
    assert engine.respond(0, 5, True, 0, b"first")
    with pytest.raises(LocalProtocolError, match="no request with tag 5 on channel 0"):
        engine.respond(0, 5, True)
    refusal, answer = sent_packets(engine)
    assert refusal == Packet(is_request=False, tag=5, flags=0, payload=b"tag 5 is in use on channel 0")
    assert answer == Packet(is_request=False, tag=5, flags=1, payload=b"first")


def test_an_answered_tag_can_be_used_again() -> None:
    engine = ConnectionEngine()
    for _ in range(3):
        assert engine.receive(request(5)) == [RequestReceived(0, 5, 0, 0, b"")]
        assert engine.respond(0, 5, True)
    assert len(sent_packets(engine)) == 3


def test_an_answer_to_nothing_is_refused() -> None:
    engine = ConnectionEngine()
    engine.receive(request(5, channel=17))
    for channel, tag in ((0, 5), (17, 6), (18, 5), (None, 5), (-1, 5)):
        with pytest.raises(LocalProtocolError, match=f"tag {tag} on channel {channel} "):
            engine.respond(channel, tag, True)
    assert sent_packets(engine) == []
    assert engine.owed == 1


# what cannot be sent

State = tuple[object, ...]


def state(engine: ConnectionEngine) -> State:
    return (
        engine.outstanding,
        engine.owed,
        engine.unsent_octets,
        engine._next_tag,
        dict(engine._next_tags_of),
        dict(engine._inbound),
        engine.ours,
        engine.theirs,
    )


class Overlong:
    def __repr__(self) -> str:
        return "x" * 1000


BAD_REQUESTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rq_type": -1}, LocalProtocolError, f"rq_type must be from 0 to {MAX_RQ_TYPE}, got -1"),
    ({"rq_type": MAX_RQ_TYPE + 1}, LocalProtocolError, f"rq_type .* got {MAX_RQ_TYPE + 1}"),
    ({"rq_type": "7"}, TypeError, "rq_type must be an int, got str: '7'"),
    ({"rq_type": None}, TypeError, "rq_type must be an int, got NoneType: None"),
    ({"rq_type": [7]}, TypeError, r"rq_type must be an int, got list: \[7\]"),
    ({"channel": []}, TypeError, r"channel must be an int, got list: \[\]"),
    ({"rq_type": 7.0}, TypeError, "rq_type must be an int, got float: 7.0"),
    ({"flags": -1}, LocalProtocolError, "flags must be from 0 to .* got -1"),
    ({"flags": MAX_REQUEST_FLAGS + 1}, LocalProtocolError, f"flags .* got {MAX_REQUEST_FLAGS + 1}"),
    ({"flags": 10**5000}, LocalProtocolError, "flags .* got 0x[0-9a-f]{30}…$"),
    ({"flags": b"\1"}, TypeError, "flags must be an int, got bytes"),
    ({"channel": -1}, LocalProtocolError, f"channel must be from 0 to {MAX_UINT}, got -1"),
    ({"channel": MAX_UINT + 1}, LocalProtocolError, f"channel .* got {MAX_UINT + 1}"),
    ({"channel": None}, TypeError, "channel must be an int, got NoneType"),
    ({"payload": "text"}, TypeError, "payload must be bytes-like, got str: 'text'"),
    ({"payload": None}, TypeError, "payload must be bytes-like, got NoneType"),
    ({"payload": [1, 2]}, TypeError, r"payload must be bytes-like, got list: \[1, 2\]"),
    ({"payload": Overlong()}, TypeError, "got Overlong: x{100}$"),
    (
        {"payload": bytes(97)},
        LocalProtocolError,
        "a packet of 101 bytes, 97 of them payload, .*max_packet_size=100",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "error", "text"), BAD_REQUESTS, ids=[plain(text) for *_, text in BAD_REQUESTS]
)
def test_a_bad_request_changes_nothing(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    engine = ConnectionEngine(max_packet_size=100)
    engine.request(1, channel=17)
    before = state(engine)
    with pytest.raises(error, match=text):
        engine.request(**({"rq_type": 1, "channel": 17} | arguments))
    assert state(engine) == before
    assert engine.request(1, channel=17) == 3
    assert len(sent_packets(engine)) == 2


BAD_RESPONSES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"flags": -1}, LocalProtocolError, f"flags must be from 0 to {MAX_RESPONSE_FLAGS}, got -1"),
    ({"flags": MAX_RESPONSE_FLAGS + 1}, LocalProtocolError, f"flags .* got {MAX_RESPONSE_FLAGS + 1}"),
    ({"flags": None}, TypeError, "flags must be an int, got NoneType"),
    ({"payload": "text"}, TypeError, "payload must be bytes-like, got str: 'text'"),
    ({"payload": 3}, TypeError, "payload must be bytes-like, got int: 3"),
    (
        {"payload": bytes(99)},
        LocalProtocolError,
        "a packet of 101 bytes, 99 of them payload, .*max_packet_size=100",
    ),
    ({"tag": 6}, LocalProtocolError, "no request with tag 6 on channel 0"),
    ({"tag": "5"}, LocalProtocolError, "no request with tag 5 on channel 0"),
]


@pytest.mark.parametrize(
    ("arguments", "error", "text"), BAD_RESPONSES, ids=[plain(text) for *_, text in BAD_RESPONSES]
)
def test_a_bad_response_leaves_the_request_waiting(
    arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    engine = ConnectionEngine(max_packet_size=100)
    engine.receive(request(5))
    engine.end()
    before = state(engine)
    with pytest.raises(error, match=text):
        engine.respond(**({"channel": 0, "tag": 5, "ok": True} | arguments))
    assert state(engine) == before
    assert engine.respond(0, 5, True)
    assert [packet.tag for packet in sent_packets(engine)] == [1, 5, 0]


@pytest.mark.parametrize(
    "ask",
    [
        lambda engine: engine.request(MAX_RQ_TYPE, MAX_REQUEST_FLAGS, channel=MAX_UINT),
        lambda engine: engine.request(0, 0, b"", channel=0),
    ],
    ids=["largest", "smallest"],
)
def test_the_extremes_that_can_be_sent(ask: Callable[[ConnectionEngine], int]) -> None:
    a, b = ConnectionEngine(), ConnectionEngine()
    ask(a)
    (event,) = b.receive(b"".join(a.data_to_send()))
    assert isinstance(event, RequestReceived)
    assert event.rq_type in (0, MAX_RQ_TYPE)
    b.respond(event.channel, event.tag, True, MAX_RESPONSE_FLAGS)
    (answer,) = a.receive(b"".join(b.data_to_send()))
    assert isinstance(answer, ResponseReceived)
    assert answer.flags == MAX_RESPONSE_FLAGS
    assert answer.ok


def test_flags_of_an_enum_are_numbers_on_the_wire() -> None:
    class Flag(enum.IntFlag):
        A = 1
        B = 64

    class Kind(enum.IntEnum):
        ADD = 200

    engine = ConnectionEngine()
    engine.request(Kind.ADD, Flag.A | Flag.B)
    assert sent_packets(engine) == [Packet(is_request=True, tag=2, flags=65, rq_type=201)]


@pytest.mark.parametrize("end", ["end_requests", "end", "fail", "send_failed", "eof"])
def test_nothing_can_be_asked_after_an_end(end: str) -> None:
    engine = ConnectionEngine()
    cause = ConnectionEnded("the cause")
    act: dict[str, Callable[[], object]] = {
        "end_requests": engine.end_requests,
        "end": engine.end,
        "fail": lambda: engine.fail(cause),
        "send_failed": lambda: engine.send_failed(cause),
        "eof": lambda: engine.receive(bytes.fromhex("03000200")),
    }
    assert engine.may_request
    act[end]()
    assert not engine.may_request
    before = state(engine)
    texts = {"fail": "^the cause$", "send_failed": "the cause", "eof": "peer ended the connection"}
    with pytest.raises(ConnectionEnded, match=texts.get(end, r"\(ERQ\)")) as caught:
        engine.request(1)
    assert caught.value is not cause
    assert state(engine) == before
