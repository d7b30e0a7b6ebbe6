"""PING, DESCRIBE, and the end of a server without a failed call: DRAIN, and what is said of an end."""

from __future__ import annotations

from typing import Any

import pytest

from packetwire import (
    ConnectionEnded,
    Drained,
    Draining,
    LocalProtocolError,
    PeerClosed,
    PeerEndedRequests,
    RequestReceived,
)
from packetwire.core.capabilities import Capabilities, Mode
from packetwire.core.engine import DRAINING, NOT_BEGUN, ConnectionEngine, limit_passed
from packetwire.core.events import ControlAnswered, Event, PeerDrains, ResponseReceived, StreamEnded
from packetwire.core.frames import Meta
from packetwire.core.hello import DRAIN, HELLO, MAX_REASON, PING, Feature, Hello, decode_drain
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, Packet
from packetwire.core.statuses import StatusCode

from .agreed import SEVEN, Waiter, agreed_pair, engine_of, exchange, known, packets_of, request_from, sent

REFUSED = "07 03 01 01 6e 6f 2e 2e"


def drain_of(payload: bytes, tag: int = 3) -> bytes:
    return bytes(Packet(is_request=True, channel=1, tag=tag, rq_type=DRAIN + 1, payload=payload))


# PING


def test_a_ping() -> None:
    a, b = agreed_pair()
    a.ping(b"", "w")
    assert sent(a) == bytes.fromhex("04 03 03 01 02")
    b.receive(bytes.fromhex("04 03 03 01 02"))
    assert sent(b) == bytes.fromhex("03 03 05 01")
    assert a.receive(bytes.fromhex("03 03 05 01")) == [ControlAnswered(True, b"", "w")]
    assert a.late_responses == 0
    assert a.receive(bytes.fromhex("03 03 05 01")) == []
    assert a.late_responses == 1


def test_pings_in_any_number_carry_their_payload_and_waiter() -> None:
    a, b = agreed_pair()
    for number in range(5):
        a.ping(b"%d" % number, number)
    a.ping(bytes(33), None)
    events, _ = exchange(a, b)
    assert events == [ControlAnswered(True, b"%d" % number, number) for number in range(5)]
    assert a.outstanding == b.owed == 0
    assert a.is_settled


def test_a_ping_of_too_much_is_refused() -> None:
    a, b = agreed_pair()
    a.ping(bytes(33), "w")
    (event,), _ = exchange(a, b)
    assert event == ControlAnswered(False, b"a PING of more than 32 bytes", "w")


# DESCRIBE


def describing(description: bytes | None, **options: Any) -> ConnectionEngine:
    return ConnectionEngine(capabilities=Capabilities(Mode.AUTO, SEVEN, description), **options)


def asked(b: ConnectionEngine, own: Hello = SEVEN) -> Any:
    """What an end that asks `b` is answered."""
    a = engine_of(own=own)
    a.ask_capabilities()
    exchange(a, b)
    a.describe("w")
    (event,), _ = exchange(a, b)
    return event


def test_a_description() -> None:
    assert asked(describing(b"{}")) == ControlAnswered(True, b"{}", "w")
    assert asked(describing(b"")) == ControlAnswered(True, b"", "w")


def test_an_end_that_does_not_describe_itself() -> None:
    assert asked(describing(None)) == ControlAnswered(False, b"this end does not describe itself", "w")


def test_a_description_that_does_not_fit() -> None:
    refused = ControlAnswered(False, b"its description has 1000 bytes, more than a packet may have", "w")
    assert asked(describing(bytes(1000)), Hello(features=Feature(0x7F), max_packet_size=999)) == refused
    assert asked(describing(bytes(1000), max_packet_size=999)) == refused


def test_a_few_bytes_do_not_ask_for_many() -> None:
    b = describing(bytes(100_000))
    a = engine_of()
    a.ask_capabilities()
    exchange(a, b)
    for _ in range(1000):
        a.describe("w")
    b.receive(sent(a))
    assert b.unsent_octets < 1_300_000
    events, _ = exchange(a, b)
    assert [len(event.payload) for event in events].count(100_000) == 11
    assert events[-1].payload.startswith(b"too much to do: ")


@pytest.mark.parametrize("engine", [ConnectionEngine(), engine_of()], ids=["off", "not agreed"])
def test_a_peer_that_has_not_agreed_is_asked_nothing(engine: ConnectionEngine) -> None:
    with pytest.raises(LocalProtocolError, match="has not agreed on control requests"):
        engine.ping(b"", None)
    with pytest.raises(LocalProtocolError, match="has not agreed on control requests"):
        engine.drain(None, "", None)
    assert sent(engine) == b""


def test_control_requests_may_follow_the_end_of_requests() -> None:
    a, b = agreed_pair()
    tag = request_from(b, a, "w").tag
    a.end()
    a.ping(b"", "ping")
    b.receive(sent(a))
    assert a.receive(sent(b)) == [ControlAnswered(True, b"", "ping")]
    a.respond(0, tag, True)
    with pytest.raises(ConnectionEnded) as caught:
        a.ping(b"", "late")
    assert caught.value.begun is False
    assert packets_of(a) == [Packet(is_request=False, tag=tag, flags=1), EOF_PACKET]


def test_who_waits_for_an_answer_is_told_of_the_end() -> None:
    a, _ = agreed_pair()
    request = a.request(0, waiter="request")
    a.ping(b"", "ping")
    a.ping(b"", None)
    a.drain(None, "", "drain")
    (end,) = a.fail(ConnectionEnded("it broke"))
    assert isinstance(end, StreamEnded)
    assert end.lost == ("request", "ping", "drain")
    assert request == 2
    with pytest.raises(ConnectionEnded, match="it broke"):
        a.ping(b"", "late")


def test_an_end_while_it_is_sent() -> None:
    """Whoever ended the connection may have looked for waiters before this one was there."""
    a, _ = agreed_pair()

    class Unsent(list[bytes]):
        def append(self, piece: bytes) -> None:
            super().append(piece)
            a.ended = StreamEnded(ConnectionEnded("it broke"), (), clean=False)

    a.unsent = Unsent()
    with pytest.raises(ConnectionEnded, match="it broke"):
        a.ping(b"", "w")
    assert a.control is not None
    assert a.control.take_waiters() == []


def test_an_end_that_saw_the_waiter() -> None:
    a, _ = agreed_pair()
    ends: list[Any] = []

    class Unsent(list[bytes]):
        def append(self, piece: bytes) -> None:
            super().append(piece)
            a.unsent = []
            ends.extend(a.fail(ConnectionEnded("it broke")))

    a.unsent = Unsent()
    a.ping(b"", "w")
    assert ends[0].lost == ("w",)


@pytest.mark.parametrize("kind", ["ping", "hello"])
def test_an_answer_that_comes_as_soon_as_it_is_sent(kind: str) -> None:
    """Other threads write and read while this one is about to go on."""
    a, b = engine_of(), engine_of()
    if kind == "ping":
        a, b = agreed_pair(SEVEN.features)
    events: list[Event] = []

    class Unsent(list[bytes]):
        def append(self, piece: bytes) -> None:
            b.receive(piece)
            a.receive(sent(b), events)

    a.unsent = Unsent()
    if kind == "ping":
        a.ping(b"", "w")
        assert events == [ControlAnswered(True, b"", "w")]
    else:
        a.ask_capabilities()
        assert known(a).peer == SEVEN
        assert known(a).has_agreed
    assert a.late_responses == 0


# DRAIN


def test_a_drain() -> None:
    a, b = agreed_pair()
    b.drain(60_000, "", "w")
    assert sent(b) == bytes.fromhex("09 02 03 01 03 01 03 83 d4 60")
    assert a.receive(drain_of(b"\1\3\x83\xd4\x60")) == [PeerDrains(60_000, "")]
    assert sent(a) == bytes.fromhex("03 03 05 01")
    assert isinstance(a.barred, Draining)
    assert not a.may_request
    for ask in (a.request, lambda rq_type: a.ask_with(Meta(), rq_type, 0, b"", 0, None)):
        with pytest.raises(Draining, match=r"^the peer takes no more requests, this one was not sent$") as caught:
            ask(0)
        assert caught.value.begun is False
        assert caught.value is not a.barred
    assert sent(a) == b""


def test_its_reason_is_told() -> None:
    a, b = agreed_pair()
    b.drain(None, "an update", None)
    assert exchange(a, b) == ([PeerDrains(None, "an update")], [])
    with pytest.raises(Draining, match="this one was not sent: an update"):
        a.request(0)


def test_a_long_reason_is_cut() -> None:
    a, b = agreed_pair()
    b.drain(2**62, "é" * 5000, "w")
    (drains,), (answer,) = exchange(a, b)
    assert drains == PeerDrains(2**62, "é" * MAX_REASON)
    assert answer == ControlAnswered(True, b"", "w")


def test_a_reason_fits_into_what_the_peer_takes() -> None:
    _, b = agreed_pair(own_a=Hello(features=Feature.DRAIN, max_packet_size=70), own_b=Hello(features=Feature.DRAIN))
    b.drain(5, "é" * 5000, None)
    (packet,) = packets_of(b)
    assert len(bytes(packet)) <= 70
    assert decode_drain(packet.payload) == (5, "é" * 12)


def test_only_from_the_answer_on_requests_are_refused() -> None:
    """What comes before it is served, so a peer that behaves sees no failure."""
    a, b = agreed_pair()
    tag = a.request(0, waiter="w")
    b.drain(None, "", "drain")
    assert len(b.receive(sent(a))) == 1
    a.receive(sent(b))
    assert b.receive(sent(a)) == [ControlAnswered(True, b"", "drain")]
    assert b.drained == DRAINING
    b.respond(0, tag, True)
    assert len(a.receive(sent(b))) == 1
    a.barred = None  # as one that does not behave
    a.request(0, waiter="late")
    assert b.receive(sent(a)) == []
    (refusal,) = a.receive(sent(b))
    assert refusal == ResponseReceived(0, 3, False, StatusCode.DRAINING + 16, DRAINING, "late")
    assert b.owed == 0


def test_what_is_drained_is_refused_where_requests_make_no_events_too() -> None:
    a, b = agreed_pair()
    b.drain(None, "", None)
    exchange(a, b)
    a.barred = None
    a.request(0)
    received: list[Any] = []
    b.receive_to(sent(a), received.append, [])
    assert received == []
    assert b"draining" in sent(b)


def test_requests_in_the_chunk_of_its_answer_are_refused() -> None:
    """A thread of the peer may have been about to ask when DRAIN came."""
    a, b = agreed_pair()
    b.wind_down()
    a.receive(sent(b))
    late = bytes(Packet(is_request=True, tag=2, rq_type=1))
    received: list[Any] = []
    b.receive_to(sent(a) + late, received.append, [])
    assert received == []
    assert b.owed == 0


@pytest.mark.parametrize("payload", [b"\1", b"\1\0", b"\1\2\1\1", bytes(5000)], ids=len)
def test_a_malformed_drain_is_refused(payload: bytes) -> None:
    a, _ = agreed_pair()
    assert a.receive(drain_of(payload)) == []
    (answer,) = packets_of(a)
    assert answer.flags == 0
    assert answer.payload.startswith(b"malformed DRAIN: ")
    assert a.barred is None


def test_a_second_drain_says_when_and_why_anew() -> None:
    a, b = agreed_pair()
    for text in ("first", "second"):
        b.drain(5, text, None)
        assert exchange(a, b)[0] == [PeerDrains(5, text)]
    with pytest.raises(Draining, match="first"):
        a.request(0)
    b.end()
    (_, end), _ = exchange(a, b)
    assert "(EOF): second" in str(end[0])


def test_both_at_once() -> None:
    a, b = agreed_pair()
    a.drain(None, "a", "a")
    b.drain(None, "b", "b")
    events_a, events_b = exchange(a, b)
    assert set(events_a) == {PeerDrains(None, "b"), ControlAnswered(True, b"", "a")}
    assert set(events_b) == {PeerDrains(None, "a"), ControlAnswered(True, b"", "b")}
    assert not a.may_request
    assert not b.may_request


# the end of a server


def test_an_end_that_the_peer_sees_coming() -> None:
    """What the peer sends until it knows is served; then both end, with nothing under way."""
    a, b = agreed_pair()
    b.wind_down(5000)
    b.wind_down()
    tag = a.request(0, waiter="w")
    (request,) = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    assert a.receive(sent(b)) == [PeerDrains(5000, "the server stops")]
    assert b.receive(sent(a)) == []
    assert sent(b) == b"", "it is not over while it owes an answer"
    b.respond(0, tag, True)
    data = sent(b)
    assert data.endswith(bytes(ERQ_PACKET) + bytes(EOF_PACKET))
    response, _, end = a.receive(data)
    assert response == ResponseReceived(0, tag, True, 0, b"", "w")
    assert isinstance(end, StreamEnded)
    assert str(end.cause) == "the peer ended the connection (EOF): the server stops"
    assert end.lost == ()
    b.wind_down()
    assert b.receive(sent(a))[-1][-1] is True
    assert sent(b) == b""


def test_a_request_that_comes_behind_the_end_was_not_begun() -> None:
    """A thread was about to ask when DRAIN came. All that had begun is answered, so this one may be repeated."""
    a, b = agreed_pair()
    b.wind_down()
    a.receive(sent(b))
    a.barred = None
    a.request(0, waiter="late")
    assert b.receive(sent(a)) == []
    (*_, end) = a.receive(sent(b))
    assert isinstance(end, StreamEnded)
    assert end.lost == ("late",)
    assert end.cause.begun is False
    assert end.cause.for_waiter().begun is False


def test_a_request_may_have_begun_when_a_connection_ends_by_an_error() -> None:
    a, b = agreed_pair()
    a.request(0, waiter="w")
    b.drain(5, "an update", None)
    b.receive(sent(a))
    b.receive(b"\x03\x02\x02\x00")
    (*_, end) = a.receive(sent(b))
    assert isinstance(end, StreamEnded)
    assert end.lost == ("w",)
    assert end.cause.begun is None


def test_a_call_after_an_end_that_was_announced() -> None:
    """It is what it would have been before, and the end of a connection as well."""
    a, b = agreed_pair()
    b.wind_down()
    exchange(a, b)
    with pytest.raises(Drained, match="the server stops") as caught:
        a.request(0)
    assert isinstance(caught.value, Draining)
    assert isinstance(caught.value, PeerClosed)
    assert caught.value.begun is False


def test_a_peer_that_has_said_nothing_yet_is_listened_to() -> None:
    """Its first request may be under way, and nobody could tell it that it was not begun."""
    a, b = engine_of(), engine_of()
    b.wind_down(patient=True)
    b.wind_down(patient=True)
    assert sent(b) == b""
    tag = a.request(0, waiter="w")
    (request,) = b.receive(sent(a))
    assert isinstance(request, RequestReceived)
    b.respond(0, tag, True)
    events, _ = exchange(a, b)
    assert ResponseReceived(0, tag, True, 0, b"", "w") in events
    assert [type(each) for each in events[-3:]] == [PeerDrains, PeerEndedRequests, StreamEnded]
    assert isinstance(b.ended, StreamEnded)


def test_a_peer_that_says_hello_while_it_is_listened_to() -> None:
    a, b = engine_of(), engine_of()
    b.wind_down(patient=True)
    a.ask_capabilities()
    events, _ = exchange(a, b)
    assert PeerDrains(None, "the server stops") in events
    assert isinstance(a.barred, Draining)


def test_a_peer_without_capabilities_that_is_listened_to() -> None:
    """What it has asked so far is answered."""
    b = engine_of()
    b.wind_down(patient=True)
    (request,) = b.receive(bytes(Packet(is_request=True, channel=0, tag=2, rq_type=1)))
    assert isinstance(request, RequestReceived)
    assert sent(b) == b""
    b.respond(0, 2, True)
    assert packets_of(b)[1:] == [ERQ_PACKET, EOF_PACKET]


def test_a_peer_that_does_not_want_to_know_while_it_is_listened_to() -> None:
    a, b = engine_of(), engine_of()
    b.wind_down(patient=True)
    tag = a.request(0)
    b.receive(sent(a))
    b.respond(0, tag, True)
    (hello,) = [each for each in packets_of(b) if each.channel]
    b.receive(bytes(Packet(is_request=False, channel=1, tag=hello.tag, flags=0, payload=b"what?")))
    assert packets_of(b) == [ERQ_PACKET, EOF_PACKET]


def test_listening_to_a_peer_ends_by_a_second_call() -> None:
    b = engine_of()
    b.wind_down(patient=True)
    b.wind_down()
    assert packets_of(b) == [ERQ_PACKET, EOF_PACKET]


def test_a_peer_that_is_known_or_asks_no_more_is_not_waited_for() -> None:
    _, b = agreed_pair()
    b.wind_down(patient=True)
    assert packets_of(b)[0].rq_type == DRAIN + 1
    b = engine_of()
    b.receive(bytes(ERQ_PACKET))
    b.wind_down(patient=True)
    assert packets_of(b) == [ERQ_PACKET, EOF_PACKET]


def test_an_end_of_what_is_drained_already() -> None:
    a, b = agreed_pair()
    b.drain(None, "", None)
    exchange(a, b)
    b.wind_down()
    assert packets_of(b) == [ERQ_PACKET, EOF_PACKET]


def test_an_end_while_a_drain_is_under_way() -> None:
    a, b = agreed_pair()
    b.drain(None, "", None)
    b.wind_down()
    events, _ = exchange(a, b)
    assert [type(event) for event in events] == [PeerDrains, PeerDrains, PeerEndedRequests, StreamEnded]
    assert a.ended is not None
    assert b.ended is not None


def test_both_ends_at_once() -> None:
    a, b = agreed_pair()
    tags = a.request(0, waiter="a"), b.request(0, waiter="b")
    a.wind_down()
    b.wind_down()
    events_a, events_b = exchange(a, b)
    assert a.ended is None
    assert a.respond(0, tags[1], True)
    assert b.respond(0, tags[0], True)
    for before, after in zip((events_a, events_b), exchange(a, b), strict=True):
        assert [type(event).__name__ for event in before + after] == [
            *("RequestReceived", "PeerDrains", "ResponseReceived", "PeerEndedRequests", "StreamEnded")
        ]


def test_a_peer_without_drain_is_answered_in_the_end() -> None:
    a, b = agreed_pair(Feature.CANCEL)
    tag = request_from(a, b, "first").tag
    b.wind_down()
    assert sent(b) == b""
    a.request(0, waiter="second")
    assert b.receive(sent(a)) == []
    b.respond(0, tag, True)
    first, _, end = a.receive(sent(b))
    assert isinstance(first, ResponseReceived)
    assert isinstance(end, StreamEnded)
    assert end.lost == ("second",)
    assert NOT_BEGUN.decode() in str(end.cause)


def test_a_peer_that_refuses_to_drain_is_no_obstacle() -> None:
    _, b = agreed_pair()
    b.wind_down()
    assert b.receive(bytes.fromhex(REFUSED).replace(b"\3", b"\2", 1)) == []
    assert b.drained is None
    assert packets_of(b)[1:] == [ERQ_PACKET, EOF_PACKET]


def test_a_peer_that_has_ended_its_requests_is_not_asked() -> None:
    a, b = agreed_pair()
    a.end_requests()
    b.receive(sent(a))
    b.wind_down()
    assert packets_of(b) == [ERQ_PACKET, EOF_PACKET]


def test_nothing_is_asked_of_a_stream_that_broke() -> None:
    _, b = agreed_pair()
    b.send_failed(BrokenPipeError())
    b.wind_down()
    b.tell_why("anything")
    assert sent(b) == b""


# why it ended


def test_the_reason_of_an_end_reaches_the_peer() -> None:
    a, b = agreed_pair()
    a.request(0, waiter="w")
    b.receive(sent(a))
    (end,) = b.receive(b"\x03\x02\x02\x00")
    assert isinstance(end, StreamEnded)
    drains, _, told = a.receive(sent(b))
    assert isinstance(drains, PeerDrains)
    assert drains.milliseconds == 0
    assert isinstance(told, StreamEnded)
    assert type(told.cause) is PeerClosed
    assert told.lost == ("w",)
    assert "(EOF): the peer broke the protocol: a request with the reserved rq_type 0" in str(told.cause)


@pytest.mark.parametrize("features", [Feature.CANCEL, Feature.META])
def test_it_is_not_told_where_that_was_not_agreed(features: Feature) -> None:
    a, b = agreed_pair(features)
    b.receive(b"\x03\x02\x02\x00")
    b.tell_why("why")
    assert sent(b) == bytes(ERQ_PACKET) + bytes(EOF_PACKET)
    assert len(a.receive(bytes(ERQ_PACKET) + bytes(EOF_PACKET))) == 2


def test_without_capabilities_nothing_is_told() -> None:
    engine = ConnectionEngine()
    engine.tell_why("why")
    assert sent(engine) == b""


def test_why_and_what_was_given_up() -> None:
    """Both are in the text: that the request was not begun, and why."""
    a, b = agreed_pair()
    a.request(0, waiter="w")
    b.tell_why("no room")
    b.end_requests()
    b.receive(sent(a))
    assert b.refuse(0, 2, NOT_BEGUN, StatusCode.NONE, begun=True)
    b.end()
    (*_, end) = a.receive(sent(b))
    assert isinstance(end, StreamEnded)
    assert str(end.cause).endswith(f"with requests under way: {NOT_BEGUN.decode()}: no room")


# what is spoken


def test_two_protocols() -> None:
    a, b = agreed_pair(
        own_a=Hello(protocol="shop", protocol_version="1.4", software="till 5"), own_b=Hello(protocol="bank")
    )
    with pytest.raises(Exception, match="the peer speaks 'bank'") as caught:
        a.request(0)
    assert type(caught.value).__name__ == "ProtocolMismatch"
    assert str(caught.value) == "the peer speaks 'bank' (unknown software), this end 'shop' 1.4 (till 5)"
    assert not b.may_request
    assert b.control is not None
    assert known(b).mismatch() is not None


@pytest.mark.parametrize(("name_a", "name_b"), [("shop", "shop"), ("shop", None), (None, "shop"), (None, None)])
def test_one_protocol(name_a: str | None, name_b: str | None) -> None:
    a, b = agreed_pair(own_a=Hello(protocol=name_a, protocol_version="1"), own_b=Hello(protocol=name_b))
    for engine in (a, b):
        assert engine.may_request
        assert engine.barred is None
    assert engine_of(own=Hello(protocol="shop")).may_request, "the peer has not said anything"


def test_the_first_reason_not_to_ask_is_kept() -> None:
    """A peer that drains before it has said what it speaks."""
    engine = engine_of(own=Hello(protocol="shop", features=Feature.DRAIN))
    engine.receive(drain_of(b"", tag=2))
    assert isinstance(engine.barred, Draining)
    engine.ask_capabilities()
    hello = Packet(is_request=True, channel=1, tag=3, rq_type=HELLO + 1, payload=b"pw2?\1\1\1\x08\4bank")
    engine.receive(bytes(hello))
    assert known(engine).mismatch() is not None
    assert isinstance(engine.barred, Draining)
    assert [packet.rq_type for packet in packets_of(engine) if packet.is_request] == []


def test_a_ping_goes_to_a_peer_that_drains() -> None:
    a, b = agreed_pair()
    b.drain(None, "", None)
    exchange(a, b)
    a.ping(b"", "w")
    assert exchange(a, b)[0] == [ControlAnswered(True, b"", "w")]


def test_a_waiter_for_a_control_request_gets_its_answer() -> None:
    """The words of faces: `set_response` and `fail`."""
    waiter = Waiter()
    a, b = agreed_pair()
    a.ping(b"abc", waiter)
    (event,), _ = exchange(a, b)
    assert isinstance(event, ControlAnswered)
    event.waiter.set_response(event.ok, 0, event.payload)
    assert waiter.told == [(True, 0, b"abc")]
    assert PING == 1


def test_breaking_off_tells_who_understands_it() -> None:
    a, b = agreed_pair()
    request_from(a, b, waiter=(waiter := Waiter()))
    b.break_off("tired of it")
    events = a.receive(sent(b))
    assert [type(event) for event in events] == [PeerDrains, PeerEndedRequests, StreamEnded]
    cause = events[-1].cause  # type: ignore[union-attr]
    assert isinstance(cause, PeerClosed)
    assert str(cause) == "the peer ended the connection (EOF): tired of it"
    assert events[-1].lost == (waiter,)  # type: ignore[union-attr]
    assert not b.respond(0, 2, True), "nothing is owed any more"


def test_breaking_off_an_old_peer_is_as_ever() -> None:
    engine = ConnectionEngine()
    engine.receive(bytes(Packet(is_request=True, channel=0, tag=2, flags=0, rq_type=1, payload=b"")))
    engine.break_off("tired of it")
    assert sent(engine) == bytes(ERQ_PACKET)
    assert engine.respond(0, 2, True)
    assert sent(engine).endswith(bytes(EOF_PACKET))


def test_a_reason_that_came_before_the_end_of_the_stream() -> None:
    a, b = agreed_pair()
    b.tell_why("tired of it")
    a.receive(sent(b))
    (*_, ended) = a.receive_eof()
    assert str(ended.cause) == (  # type: ignore[union-attr]
        "the peer closed the stream without saying EOF: tired of it"
    )


def test_the_reason_of_an_end_that_took_too_long() -> None:
    assert limit_passed(0.5) == "its time limit for closing passed, which is 0.5 s"
