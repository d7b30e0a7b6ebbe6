"""Every way to refuse what a peer sends: each is reached, and there is no other."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from cs.buffer import CornuCopyBuffer
from hypothesis import given
from hypothesis import strategies as st

import packetwire.core
from packetwire import (
    ConnectionEnded,
    LimitExceeded,
    Packet,
    PacketDecoder,
    PeerClosed,
    PeerEndedRequests,
    RemoteProtocolError,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamTruncated,
)
from packetwire.core.engine import NO_HANDLER, REQUESTS_ENDED, ConnectionEngine
from packetwire.core.events import Event
from packetwire.core.packets import EOF_PACKET, ERQ_PACKET
from packetwire.core.refusals import QUOTED_BYTES, REFUSALS, refuse

from .golden import decode
from .strategies import BASES, chunked, damage, damaged_streams
from .test_capabilities import BROKEN_FRAMES

CORE = Path(packetwire.core.__file__).parent

GOOD = bytes.fromhex("0302020a 0403020b21")
"""Two requests that are in order."""

LIMIT = 1000

BROKEN: dict[str, list[tuple[bytes, str]]] = {
    "varint-too-long": [
        (bytes.fromhex("80") * 9 + b"\x03\x02\x02\x05", "byte 9 of"),
        (bytes.fromhex("0d") + bytes.fromhex("80") * 9 + b"\x02\x02\x05\x00", "byte 10 of"),
        (bytes.fromhex("0d02") + b"\xff" * 9 + b"\x02\x05\x00", "byte 11 of"),
        (bytes.fromhex("0d0203") + b"\xff" * 9 + b"\x02\x05", "byte 12 of"),
        (bytes.fromhex("0d0202") + b"\x80" * 11, "byte 12 of"),
    ],
    "packet-too-large": [
        (bytes.fromhex("8769"), "announces 1001 bytes at byte 9 of the stream, the limit is 1000"),
        (b"\xff" * 8 + b"\x7f", "announces 9223372036854775807 bytes"),
    ],
    "field-overruns-packet": [
        (bytes.fromhex("00 020202"), "the tag of a packet whose fields begin at byte 10 "),
        (bytes.fromhex("01 82020205"), "the tag of"),
        (bytes.fromhex("01 02 020205"), "the flags of"),
        (bytes.fromhex("02 0283 020205"), "the flags of"),
        (bytes.fromhex("02 0203 020205"), "the channel of"),
        (bytes.fromhex("03 020381 020205"), "the channel of"),
        (bytes.fromhex("02 0202 050205"), "the rq_type of"),
        (bytes.fromhex("03 020281 8105"), "the rq_type of"),
    ],
    "reserved-rq-type": [
        (bytes.fromhex("03020200"), "tag=2,"),
        (bytes.fromhex("0400020021"), "tag=0,flags=0x00,rq_type=0,payload=b'!'"),
        (bytes.fromhex("03010600"), "tag=1,flags=0x01"),
        (bytes.fromhex("0400030100"), "channel=1,tag=0"),
    ],
    "response-never-asked": [
        (bytes.fromhex("020204"), "tag 2 on channel 0"),
        (bytes.fromhex("020004"), "tag 0 on channel 0"),
        (bytes.fromhex("03020103"), "tag 2 on channel 3"),
        (bytes.fromhex("7f2064"), "tag 32 on channel 0"),
    ],
}
"""code -> octets that break this rule behind GOOD, and what must be said about them."""

CASES = [(code, octets, text) for code, cases in BROKEN.items() for octets, text in cases]

OF_THE_FORMAT = ("varint-too-long", "packet-too-large", "field-overruns-packet")


def the_end(events: list[Event]) -> StreamEnded:
    ends = [event for event in events if isinstance(event, StreamEnded)]
    assert ends == events[-1:]
    return ends[0]


@pytest.mark.parametrize("code", BROKEN)
def test_each_refusal_is_reached(code: str) -> None:
    for octets, text in BROKEN[code]:
        engine = ConnectionEngine(max_packet_size=LIMIT)
        events = engine.receive(GOOD + octets)
        assert [type(event) for event in events] == [RequestReceived, RequestReceived, StreamEnded]
        end = the_end(events)
        assert not end.clean
        assert type(end.cause) is ConnectionEnded
        error = end.cause.__cause__
        assert isinstance(error, RemoteProtocolError)
        assert error.code == code
        assert text in str(error)
        assert str(error) in str(end.cause)
        assert engine.data_to_send() == [bytes(ERQ_PACKET), bytes(EOF_PACKET)]
        assert engine.owed == 0
        assert engine.receive(GOOD) == engine.receive_eof() == []


@pytest.mark.parametrize(("code", "octets", "text"), CASES)
def test_each_refusal_in_chunks_of_one_octet(code: str, octets: bytes, text: str) -> None:
    engine = ConnectionEngine(max_packet_size=LIMIT)
    events = [event for octet in GOOD + octets for event in engine.receive(bytes((octet,)))]
    error = the_end(events).cause.__cause__
    assert isinstance(error, RemoteProtocolError)
    assert error.code == code
    assert text in str(error)


@pytest.mark.parametrize(("code", "octets", "text"), [case for case in CASES if case[0] in OF_THE_FORMAT])
def test_the_decoder_refuses_what_breaks_the_format(code: str, octets: bytes, text: str) -> None:
    decoder = PacketDecoder(LIMIT)
    assert decoder.feed(GOOD) == decode(GOOD)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError) as caught:
            decoder.feed(octets)
        assert caught.value.code == code
        assert text in str(caught.value)
    with pytest.raises(RemoteProtocolError):
        decoder.finish()


@pytest.mark.parametrize(("code", "octets", "text"), [case for case in CASES if case[0] in OF_THE_FORMAT])
def test_packets_before_the_fault_come_first(code: str, octets: bytes, text: str) -> None:
    decoder = PacketDecoder(LIMIT)
    assert decoder.feed(GOOD + octets) == decode(GOOD)
    assert decoder.fault is not None
    assert decoder.fault.code == code
    with pytest.raises(RemoteProtocolError):
        decoder.feed(b"")


@pytest.mark.parametrize(
    ("code", "octets", "text"), [case for case in CASES if case[0] in ("varint-too-long", "field-overruns-packet")]
)
def test_packet_parse_refuses_what_breaks_the_format(code: str, octets: bytes, text: str) -> None:
    bfr = CornuCopyBuffer([GOOD, octets])
    with pytest.raises(RemoteProtocolError) as caught:
        list(Packet.scan(bfr))
    assert caught.value.code == code
    assert text in str(caught.value)
    assert "None" not in str(caught.value)
    with pytest.raises(RemoteProtocolError) as caught:
        Packet.parse_bytes(octets)
    assert caught.value.code == code


def refusal_codes(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "refuse":
                assert isinstance(node.args[0], ast.Constant), f"{path.name}:{node.lineno}"
                yield node.args[0].value
            elif node.func.id == "RemoteProtocolError":
                assert path.name == "refusals.py", f"{path.name}:{node.lineno} does not use `refuse`"


def test_the_table_holds_every_code_and_no_other() -> None:
    used = {code for path in CORE.glob("*.py") for code in refusal_codes(path)}
    assert used == set(REFUSALS) == {*BROKEN, *BROKEN_FRAMES}


def test_a_refusal_quotes_octets_within_bounds() -> None:
    long = refuse("packet-too-large", b"\1" * 10_000, size=1, limit=0, offset=5)
    assert str(long).endswith(repr(b"\1" * QUOTED_BYTES) + "…")
    assert str(refuse("packet-too-large", b"x", size=1, limit=0, offset=5)).endswith("bytes there: b'x'")


def test_a_refusal_without_octets_quotes_none() -> None:
    assert str(refuse("reserved-rq-type", packet=5)) == REFUSALS["reserved-rq-type"].format(packet=5)


def test_text_in_the_stream_is_quoted() -> None:
    """A login banner reads as the beginning of a long response: it is refused before that is complete."""
    engine = ConnectionEngine()
    (end,) = engine.receive(b"Welcome to the machine\r\n")
    assert isinstance(end, StreamEnded)
    assert "response to tag 101" in str(end.cause)
    assert "b'Welcome to the machine" in str(end.cause)


# answers that refuse

ASK = Packet(is_request=True, tag=5, rq_type=3, payload=b"abc")
ASK_ON_23 = Packet(is_request=True, channel=23, tag=5, rq_type=3, payload=b"abc")


def asked(tag: int, payload: bytes = b"abc") -> bytes:
    return bytes(Packet(is_request=True, tag=tag, rq_type=3, payload=payload))


ANSWERED = {
    "no handler": ({"accepts_requests": False}, b"", NO_HANDLER),
    "requests ended": ({}, bytes(ERQ_PACKET), REQUESTS_ENDED),
    "tag in use": ({}, bytes(ASK) + bytes(ASK_ON_23), None),
    "too many requests": ({"max_inbound": 2}, asked(2) + asked(3), b"too many requests: 2 wait for their reply"),
    "too much to do": (
        {"max_inbound_octets": 10},
        asked(2, b"x" * 9),
        b"too much to do: 9 bytes wait for their reply",
    ),
}
"""What is the matter -> the engine's arguments, what the peer sent before, and what it is told."""


@pytest.mark.parametrize("ask", [ASK, ASK_ON_23], ids=["channel 0", "channel 23"])
@pytest.mark.parametrize("matter", ANSWERED)
def test_requests_that_are_refused_with_an_answer(matter: str, ask: Packet) -> None:
    arguments, before, text = ANSWERED[matter]
    engine = ConnectionEngine(**arguments)
    earlier = engine.receive(before)
    owed = engine.owed
    assert engine.receive(bytes(ask)) == []
    if text is None:
        text = b"tag 5 is in use on channel %d" % ask.channel
    (answer,) = decode(b"".join(engine.data_to_send()))
    assert answer == Packet(is_request=False, channel=ask.channel, tag=5, flags=0, payload=text)
    assert engine.owed == owed
    for event in earlier:
        if isinstance(event, RequestReceived):
            assert engine.respond(event.channel, event.tag, True)
    assert engine.owed == 0


def test_every_refusing_answer_is_in_the_table() -> None:
    tree = ast.parse((CORE / "engine.py").read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    refusals = [ast.unparse(call.args[1]) for call in calls if ast.unparse(call.func) == "self._refuse"]
    # what all connections of a server hold together is tried in test_budget, the end of one in test_drain, and
    # pieces in test_lanes, bodies in test_hostile_bodies
    elsewhere = ("TOO_MUCH_FOR_ALL", "self.drained", "collected.problem", "BODIES_UNTAKEN")
    assert len([text for text in refusals if text not in elsewhere]) == len(ANSWERED)


@pytest.mark.parametrize("size", [4, 10, 50, 60])
@pytest.mark.parametrize("matter", ANSWERED)
def test_a_refusing_answer_is_no_larger_than_a_packet_may_be(matter: str, size: int) -> None:
    arguments, before, _ = ANSWERED[matter]
    engine = ConnectionEngine(**arguments)
    engine.receive(before)
    engine.max_packet_size = size
    engine.receive(bytes(ASK))
    (answer,) = PacketDecoder(size).feed(b"".join(engine.data_to_send()))
    assert answer.tag == ASK.tag


def test_refusals_that_the_peer_does_not_read_are_limited() -> None:
    engine = ConnectionEngine(accepts_requests=False, max_refusals=3)
    assert engine.receive(asked(2) + asked(3)) == []
    assert len(engine.data_to_send()) == 2
    assert engine.receive(asked(4)) == []
    (end,) = engine.receive(asked(5) + asked(6))
    assert isinstance(end, StreamEnded)
    assert isinstance(end.cause.__cause__, LimitExceeded)
    assert "3 refused requests" in str(end.cause)
    assert decode(b"".join(engine.data_to_send()))[-1] == EOF_PACKET


def test_refusals_in_several_batches_count_as_a_whole() -> None:
    engine = ConnectionEngine(accepts_requests=False, max_refusals=3)
    for tag in (2, 3, 4):
        assert engine.receive(asked(tag)) == []
        assert len(engine.data_to_send()) == 1
    (end,) = engine.receive(asked(5))
    assert isinstance(end, StreamEnded)
    assert isinstance(end.cause.__cause__, LimitExceeded)


def test_refusals_that_were_written_are_forgotten() -> None:
    engine = ConnectionEngine(accepts_requests=False, max_refusals=3)
    for tag in range(2, 50):
        assert engine.receive(asked(tag)) == []
        if tag % 3 == 1:
            engine.data_to_send()
            engine.data_sent()
    assert engine.ended is None


# octets that were damaged

OUTSTANDING = 7


def listening() -> ConnectionEngine:
    """An engine with some requests of its own under way, so that some responses find their waiter."""
    engine = ConnectionEngine(max_inbound=50, max_refusals=20)
    for waiter in range(OUTSTANDING):
        engine.request(waiter, waiter=waiter)
    engine.request(0, channel=17, waiter=OUTSTANDING)
    engine.forget(0, 3)
    return engine


def heard(octets: list[bytes]) -> tuple[list[Event], list[bytes]]:
    """What an engine makes of a whole stream, and what it sends; with what holds of every stream checked."""
    engine = listening()
    events = [event for piece in octets for event in engine.receive(piece)]
    events += engine.receive_eof()
    answered = [event.waiter for event in events if isinstance(event, ResponseReceived)]
    end = the_end(events)
    assert sorted([*answered, *end.lost]) == [0, *range(2, OUTSTANDING + 1)]
    requests = [(event.channel, event.tag) for event in events if isinstance(event, RequestReceived)]
    assert len(requests) == len(set(requests)), "a duplicate in flight was delivered"
    assert sum(isinstance(event, PeerEndedRequests) for event in events) <= 1
    assert engine.outstanding == 0
    assert engine.receive(GOOD) == engine.receive_eof() == []
    sent = engine.data_to_send()
    decode(b"".join(sent))
    return events, sent


def comparable(events: list[Event]) -> list[object]:
    """The events without what may depend on the chunks: how many octets could be quoted."""
    end = the_end(events)
    return [*events[:-1], type(end.cause), str(end.cause).partition("; the bytes there")[0], end[1:]]


@given(damaged_streams() | st.binary(max_size=60), st.data())
def test_damaged_streams_give_only_events_whatever_the_chunks(octets: bytes, data: st.DataObject) -> None:
    events, sent = heard([octets])
    for pieces in ([bytes((octet,)) for octet in octets], data.draw(chunked(octets))):
        again, sent_again = heard(pieces)
        assert comparable(again) == comparable(events)
        assert sent_again == sent


def reason(end: StreamEnded) -> str:
    error = end.cause.__cause__ or end.cause
    return error.code if isinstance(error, RemoteProtocolError) else type(error).__name__


def test_damage_reaches_every_refusal() -> None:
    """A fixed set of damaged streams, counted by how each ended."""
    random = Random(2024)
    count = Counter(reason(the_end(heard([damage(random.choice(BASES), random)])[0])) for _ in range(4000))
    assert set(count) == {*BROKEN, "PeerClosed", "StreamTruncated", "LimitExceeded"}
    assert min(count.values()) >= 10, count


def test_the_ends_of_an_undamaged_stream() -> None:
    assert reason(the_end(heard([bytes(EOF_PACKET)])[0])) == PeerClosed.__name__
    assert reason(the_end(heard([b""])[0])) == PeerClosed.__name__
    assert reason(the_end(heard([b"\x03"])[0])) == StreamTruncated.__name__
