"""How two ends come to know each other, and that a peer which knows nothing is not disturbed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from packetwire import ConnectionEnded, LocalProtocolError, RemoteProtocolError, RequestReceived, StreamEnded
from packetwire.core.capabilities import MARK, REFLECTED, Capabilities, Mode
from packetwire.core.control import MAX_UNFINISHED
from packetwire.core.engine import ConnectionEngine
from packetwire.core.events import Event, PeerCapabilities, event_text
from packetwire.core.frames import FrameType, encode_frame
from packetwire.core.hello import HELLO, PING, Feature, Hello
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET, Packet
from packetwire.errors import CapabilityMissing, LimitExceeded

from .agreed import SEVEN, agreed_pair, engine_of, exchange, known, sent

ASK = bytes.fromhex("11 02 03 01 82c1ae33 70 77 32 3f 01 01 01 02 01 7f")
"""Of an end that says it understands the first seven features."""
ANSWER = bytes.fromhex("0d 02 05 01 70 77 32 21 01 01 01 02 01 7f")
REQUEST = bytes.fromhex("05 02 02 01 68 69")


# the mark


def test_the_first_packet_is_marked_and_no_other() -> None:
    engine = engine_of()
    engine.request(0, payload=b"hi")
    engine.request(0, payload=b"hi")
    assert sent(engine) == MARK + REQUEST + REQUEST.replace(b"\x02", b"\x03", 1)
    engine.request(0, payload=b"hi")
    assert not sent(engine).startswith(MARK)


@pytest.mark.parametrize("payload", [b"", bytes(20_000)], ids=["small", "in pieces"])
def test_any_first_packet_is_marked(payload: bytes) -> None:
    engine, plain = engine_of(), ConnectionEngine()
    for each in (engine, plain):
        each.receive(REQUEST)
        each.respond(0, 2, True, 0, payload)
    assert sent(engine) == MARK + sent(plain)


def test_an_end_is_not_marked() -> None:
    """Behind it nobody can ask any more."""
    ended = engine_of()
    ended.end()
    assert sent(ended) == bytes(ERQ_PACKET) + bytes(EOF_PACKET)
    asked = engine_of()
    asked.receive(REQUEST)
    asked.end_requests()
    assert sent(asked) == bytes(ERQ_PACKET)
    asked.respond(0, 2, True)
    assert sent(asked) == bytes.fromhex("02 02 04"), "nothing behind it is, either"


def test_the_mark_counts_as_unsent_only_with_its_packet() -> None:
    engine = engine_of()
    assert engine.unsent_octets == 0
    assert engine.data_to_send() == []
    engine.request(0)
    assert sent(engine).startswith(MARK)


@pytest.mark.parametrize(
    ("first", "marked"),
    [
        (MARK + REQUEST, True),
        (REQUEST, False),
        (MARK + MARK + REQUEST, False),
        (bytes.fromhex("81 7f 02 02 01") + bytes(252), False),
    ],
    ids=["marked", "unmarked", "two superfluous bytes", "a long packet"],
)
@pytest.mark.parametrize("size", [1, 2, 1000])
def test_a_mark_is_heard_in_any_chunks(first: bytes, marked: bool, size: int) -> None:
    engine = engine_of()
    for begin in range(0, len(first), size):
        engine.receive(first[begin : begin + size])
    assert known(engine).is_marked is marked
    assert known(engine).is_known is not marked
    assert (known(engine).missing is None) is marked
    assert engine.owed == 1


# HELLO


def test_a_marked_peer_is_asked_behind_the_chunk() -> None:
    """The server's question leaves with its first response."""
    client, server = engine_of(), engine_of()
    client.request(0, payload=b"hi", waiter="w")
    (request,) = server.receive(sent(client))
    assert isinstance(request, RequestReceived)
    server.respond(0, 2, True, 0, b"HI")
    data = sent(server)
    assert data == MARK + ASK + bytes.fromhex("04 02 04 48 49")
    events = client.receive(data)
    assert [type(event).__name__ for event in events] == ["PeerCapabilities", "ResponseReceived"]
    assert events[0] == PeerCapabilities(SEVEN, Feature(0x7F))
    assert sent(client) == ANSWER
    assert known(client).have(Feature.CANCEL)
    assert not known(server).have(Feature.CANCEL)
    assert server.receive(ANSWER) == [PeerCapabilities(SEVEN, Feature(0x7F))]
    assert known(server).have(Feature.CANCEL | Feature.META)
    assert not known(server).have(Feature.CANCEL | Feature.REQUEST_IDS)
    assert exchange(client, server) == ([], [])


def test_it_counts_nowhere() -> None:
    engine = engine_of(max_outstanding=1, max_inbound=1)
    engine.ask_capabilities()
    assert engine.outstanding == engine.owed == 0
    assert engine.request(0) == 2
    engine.receive(ASK)
    assert engine.owed == 0
    engine.receive(REQUEST)
    assert engine.owed == 1


def test_it_is_answered_without_a_handler_and_after_the_end_of_requests() -> None:
    engine = engine_of(accepts_requests=False)
    events = engine.receive(bytes(ERQ_PACKET) + ASK)
    assert isinstance(events[-1], PeerCapabilities)
    assert sent(engine) == MARK + ANSWER


def test_an_end_that_ended_its_requests_is_not_asked() -> None:
    engine = engine_of()
    engine.receive(MARK + bytes(ERQ_PACKET))
    assert known(engine).is_marked
    assert sent(engine) == b""


def test_no_question_after_our_end_of_requests() -> None:
    engine = engine_of()
    engine.end_requests()
    engine.receive(MARK + REQUEST)
    engine.receive(REQUEST.replace(b"\x02", b"\x03", 1))
    engine.ask_capabilities()
    assert sent(engine) == bytes(ERQ_PACKET)


def test_at_most_one_question_for_each_end() -> None:
    engine = engine_of()
    engine.ask_capabilities()
    engine.ask_capabilities()
    assert sent(engine) == MARK + ASK
    engine.receive(ASK)
    assert sent(engine) == ANSWER
    assert engine.receive(ASK.replace(b"\x02", b"\x03", 1)) == []
    assert Packet.from_bytes(sent(engine)).flags & 1 == 0


def test_questions_that_cross() -> None:
    a, b = engine_of(), engine_of()
    a.ask_capabilities()
    b.ask_capabilities()
    (event_a,), (event_b,) = exchange(a, b)
    assert event_a == event_b == PeerCapabilities(SEVEN, Feature(0x7F))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("0e 02 01 01 6e 6f 20 68 61 6e 64 6c 65 72 21", "it answered HELLO not ok: no handler!"),
        ("0d 02 05 01 70 77 32 3f 01 01 01 02 01 7f", "it answered HELLO as something else"),
        ("07 02 05 01 70 77 32 21", "its answer to HELLO is malformed: HELLO without a version"),
    ],
    ids=["a peer that refuses", "an echo", "nonsense"],
)
def test_a_peer_without_capabilities(answer: str, text: str) -> None:
    engine = engine_of()
    engine.ask_capabilities()
    assert engine.receive(bytes.fromhex(answer)) == []
    assert known(engine).missing == text
    assert text in known(engine).peer_text()
    assert known(engine).is_known
    assert engine.late_responses == 0
    assert engine.receive(ASK) == [PeerCapabilities(SEVEN, Feature(0x7F))], "a HELLO that comes later counts"
    assert known(engine).missing is None


def test_an_answer_after_the_question_of_the_peer_says_nothing_new() -> None:
    engine = engine_of()
    engine.ask_capabilities()
    assert len(engine.receive(ASK)) == 1
    assert engine.receive(ANSWER) == []
    assert engine.receive(ANSWER) == []
    assert engine.late_responses == 1


def test_a_stream_that_returns_what_is_sent() -> None:
    engine = engine_of(own=Hello(features=Feature(1), client_id=bytes(range(16))))
    engine.ask_capabilities()
    data = sent(engine)
    assert engine.receive(data) == []
    assert engine.receive(sent(engine)) == []
    assert known(engine).peer is None
    assert known(engine).is_known
    assert REFLECTED in known(engine).peer_text()
    assert engine.ended is None


@pytest.mark.parametrize(
    ("payload", "text"),
    [(b"pw2?", b"malformed HELLO: HELLO without a version"), (b"hello", b"a HELLO begins with pw2?")],
)
def test_a_malformed_question_is_answered(payload: bytes, text: bytes) -> None:
    engine = engine_of()
    packet = Packet(is_request=True, channel=1, tag=2, rq_type=HELLO + 1, payload=payload)
    assert engine.receive(bytes(packet)) == []
    assert sent(engine) == MARK + bytes(Packet(is_request=False, channel=1, tag=2, payload=text))


def test_the_peers_largest_packet_bounds_ours() -> None:
    engine = engine_of(max_packet_size=5000)
    engine.receive(
        bytes(Packet(is_request=True, channel=1, tag=2, rq_type=HELLO + 1, payload=b"pw2?\1\1\1\3\2\x80\x64"))
    )
    sent(engine)
    with pytest.raises(LocalProtocolError, match="exceeds the peer's max_packet_size=100"):
        engine.request(0, payload=bytes(101))
    engine.request(0, payload=bytes(90))
    engine.receive(REQUEST)
    assert engine.respond_failure(0, 2, bytes(1000))
    assert len(sent(engine)) < 200


def test_asking_again_says_nothing() -> None:
    engine = engine_of()
    engine.ask_capabilities()
    assert sent(engine) == MARK + ASK
    engine.ask_capabilities()
    assert sent(engine) == b""
    engine.receive(ANSWER)
    engine.ask_capabilities()
    assert sent(engine) == b""


def test_a_stream_is_listened_to_until_its_first_packet_is_known() -> None:
    """HELLO is said behind the chunk in which the second byte came, though no packet is complete."""
    engine = engine_of()
    engine.receive(MARK)
    assert sent(engine) == b""
    engine.receive(REQUEST[:1])
    assert sent(engine) == MARK + ASK
    engine.receive(REQUEST[1:])
    assert engine.owed == 1


def test_a_peer_that_answers_and_asks_all_the_same() -> None:
    engine = engine_of()
    engine.ask_capabilities()
    sent(engine)
    assert len(engine.receive(ANSWER)) == 1
    assert engine.receive(ASK) == [], "it says nothing new"
    assert sent(engine) == ANSWER


def test_it_is_the_same_where_responses_go_to_their_waiters() -> None:
    client, server = engine_of(), engine_of()
    got: list[Any] = []
    for engine in (client, server):
        engine.deliver = lambda waiter, ok, flags, payload: got.append((waiter, ok, flags, payload))
    client.request(0, payload=b"hi", waiter="w")
    events: list[Event] = []
    for _ in range(3):
        server.receive_to(sent(client), lambda fields: server.respond(0, fields[0], True, 0, b"HI"), events)
        client.receive_to(sent(server), got.append, events)
    assert events == [PeerCapabilities(SEVEN, Feature(0x7F))] * 2
    assert got == [("w", True, 0, b"HI")]


# PING, and what is unknown


def test_pings() -> None:
    engine = engine_of()
    engine.receive(bytes.fromhex("04 03 03 01 02"))
    assert sent(engine) == MARK + bytes.fromhex("03 03 05 01")
    engine.receive(bytes(Packet(is_request=True, channel=1, tag=4, rq_type=PING + 1, payload=bytes(32))))
    assert sent(engine) == bytes(Packet(is_request=False, channel=1, tag=4, flags=1, payload=bytes(32)))
    engine.receive(bytes(Packet(is_request=True, channel=1, tag=5, rq_type=PING + 1, payload=bytes(33))))
    assert b"a PING of more than 32 bytes" in sent(engine)


def test_an_unknown_control_request_is_answered() -> None:
    engine = engine_of()
    engine.receive(bytes(Packet(is_request=True, channel=1, tag=4, rq_type=78)))
    assert b"unknown control request 77" in sent(engine)
    engine.receive(bytes(Packet(is_request=True, channel=3, tag=4, rq_type=78)))
    assert b"channels 1 to 15 are reserved" in sent(engine)


def test_answers_that_are_not_taken_are_bounded() -> None:
    engine = engine_of(max_refusals=100)
    pings = b"".join(bytes(Packet(is_request=True, channel=1, tag=tag, rq_type=PING + 1)) for tag in range(2, 103))
    (end,) = engine.receive(pings)
    assert isinstance(end, StreamEnded)
    assert isinstance(end.cause.__cause__, LimitExceeded)


def test_nothing_is_answered_when_nothing_can_be_sent() -> None:
    engine = engine_of()
    engine.send_failed(BrokenPipeError())
    engine.receive(ASK)
    assert sent(engine) == b""


# frames

CANCEL = encode_frame(FrameType.CANCEL, 0, 2, b"\1")

ANNOUNCED = b"".join(encode_frame(FrameType.META, 0, tag) for tag in range(2, 2 + 2 * MAX_UNFINISHED))

BROKEN_FRAMES = {
    "frame-before-hello": (SEVEN, CANCEL, "a frame about tag 2"),
    "bad-frame": (SEVEN, ASK + bytes(Packet(is_request=True, channel=2, tag=2, rq_type=9)), "its type is 8"),
    "frame-not-agreed": (Hello(), ASK + CANCEL, "a CANCEL frame about tag 2"),
    "credit-exceeded": (
        Hello(features=Feature(0x7F), body_credit=2),
        ASK + encode_frame(FrameType.META, 0, 2, b"\2\0") + encode_frame(FrameType.DATA, 0, 2, b"abc"),
        "3 bytes of a body for which only 2 were granted",
    ),
    "too-many-unfinished": (SEVEN, ASK + ANNOUNCED, "a META frame about tag 2049: 1024 requests that were"),
}
"""code -> what this end says of itself, bytes that break this rule, and what must be said about them."""


@pytest.mark.parametrize("code", BROKEN_FRAMES)
@pytest.mark.parametrize("size", [1, 1000])
def test_each_refusal_of_frames_is_reached(code: str, size: int) -> None:
    own, data, text = BROKEN_FRAMES[code]
    engine = engine_of(own=own)
    events: list[Event] = []
    for begin in range(0, len(data), size):
        engine.receive(data[begin : begin + size], events)
    end = events[-1]
    assert isinstance(end, StreamEnded)
    assert type(end.cause) is ConnectionEnded
    error = end.cause.__cause__
    assert isinstance(error, RemoteProtocolError)
    assert error.code == code
    assert text in str(error)


@pytest.mark.parametrize("kind", [kind for kind in FrameType if kind not in (FrameType.CANCEL, FrameType.PROGRESS)])
def test_a_frame_that_is_agreed_may_mean_nothing_to_the_engine(kind: FrameType) -> None:
    engine = engine_of()
    payload = b"\1" if kind in (FrameType.CREDIT, FrameType.STOP) else b""
    assert len(engine.receive(ASK + encode_frame(kind, 0, 2, payload))) == 1
    assert engine.ended is None


# without it


def test_off_is_as_ever() -> None:
    engine = ConnectionEngine()
    engine.request(0, payload=b"hi")
    assert sent(engine) == REQUEST
    engine.receive(MARK + REQUEST)
    assert sent(engine) == b""
    engine.ask_capabilities()
    assert sent(engine) == b""
    engine.receive(ASK + CANCEL)
    assert sent(engine).count(b"channels 1 to 15 are reserved") == 2
    assert engine.ended is None


def test_the_texts_for_people() -> None:
    engine = engine_of()
    assert known(engine).peer_text() == "the peer has not said yet what it understands"
    (event,) = engine.receive(ASK)
    assert event_text(event).startswith("capabilities: unknown software, in common ")
    assert known(engine).peer_text() == (
        "the peer is unknown software and understands cancel, meta, bodies, pieces, progress, drain, describe"
    )
    other = engine_of()
    other.receive(ASK.replace(b"\1\x7f", b"\1\0"))
    assert known(other).peer_text() == "the peer is unknown software and understands nothing more"


modes = st.sampled_from([None, Mode.AUTO, Mode.PASSIVE])


@given(modes, modes, st.lists(st.sampled_from("rRaAdx"), max_size=30), st.integers(1, 20))
def test_any_order_of_things(mode_a: Mode | None, mode_b: Mode | None, steps: list[str], size: int) -> None:
    """Whatever is asked when, and however it is cut: no end without cause, and both come to the same features."""
    engines = [ConnectionEngine() if mode is None else engine_of(mode) for mode in (mode_a, mode_b)]
    a, b = engines
    wire = {a: bytearray(), b: bytearray()}
    agreed = {a: 0, b: 0}
    responses = {a: 0, b: 0}
    asked = {a: 0, b: 0}

    def deliver(to: ConnectionEngine, count: int) -> None:
        data = bytes(wire[to][:count])
        del wire[to][:count]
        for event in to.receive(data):
            if isinstance(event, RequestReceived):
                assert event.channel == 0
                assert to.respond(0, event.tag, True)
            elif isinstance(event, PeerCapabilities):
                agreed[to] += 1
            else:
                assert type(event).__name__ == "ResponseReceived"
                responses[to] += 1

    for step in steps:
        engine, other = (a, b) if step.islower() else (b, a)
        if step in "rR":
            engine.request(0)
            asked[engine] += 1
        elif step in "aA":
            engine.ask_capabilities()
        else:
            deliver(engine, size)
        wire[other] += sent(engine)
    while a.unsent or b.unsent or wire[a] or wire[b]:
        wire[b] += sent(a)
        wire[a] += sent(b)
        deliver(a, size)
        deliver(b, size)
    assert responses == asked
    assert agreed[a] == agreed[b] <= 1
    if agreed[a]:
        assert known(a).features == known(b).features == Feature(0x7F)
        assert known(a).has_spoken
        assert known(b).has_spoken
    elif mode_a and mode_b:
        assert asked == {a: 0, b: 0}
        assert not {"a", "A"}.intersection(steps)


def test_what_a_peer_must_understand() -> None:
    silent = Capabilities(Mode.AUTO, Hello())
    assert silent.must_be_asked
    with pytest.raises(CapabilityMissing, match="for a test: the peer has not said yet what it understands"):
        silent.check(Feature.CANCEL, "for a test")
    assert not Capabilities(Mode.PASSIVE, Hello()).must_be_asked
    for mode in Mode.AUTO, Mode.PASSIVE:
        heard = Capabilities(mode, Hello())
        assert heard.answer(ASK[8:])[0]
        assert heard.must_be_asked  # the answer is about to be in the stream
        heard.has_spoken = True
        assert heard.is_settled
        assert not heard.must_be_asked
    a, _ = agreed_pair()
    capabilities = known(a)
    assert not capabilities.must_be_asked
    capabilities.features = Feature.CANCEL
    capabilities.check(Feature.CANCEL, "for a test")
    with pytest.raises(CapabilityMissing, match="for a test: the peer is .* and understands"):
        capabilities.check(Feature.CANCEL | Feature.META, "for a test")
