"""What is bounded: requests either way, refusals, packets, and memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cs.buffer import CornuCopyBuffer

from packetwire import (
    LimitExceeded,
    LocalProtocolError,
    Packet,
    PacketDecoder,
    RemoteProtocolError,
    RequestReceived,
    StreamEnded,
)
from packetwire.core.engine import (
    DEFAULT_MAX_INBOUND,
    DEFAULT_MAX_OUTSTANDING,
    DEFAULT_MAX_REFUSALS,
    MAX_FIELDS,
    MAX_REQUEST_FLAGS,
    MAX_RQ_TYPE,
    ConnectionEngine,
)
from packetwire.core.packets import DEFAULT_MAX_PACKET_SIZE, EOF_PACKET, MAX_UINT, encode_varint

from .golden import decode
from .wire import request, response, sent_packets


def test_the_defaults() -> None:
    assert DEFAULT_MAX_OUTSTANDING == 1024
    assert DEFAULT_MAX_INBOUND == 65_536
    assert DEFAULT_MAX_REFUSALS == 10_000
    assert DEFAULT_MAX_PACKET_SIZE == 64 * 1024 * 1024


# our requests


def test_max_outstanding() -> None:
    engine = ConnectionEngine(max_outstanding=3)
    for _ in range(3):
        assert engine.has_room
        engine.request(1)
    assert not engine.has_room
    unsent = engine.unsent_octets
    with pytest.raises(LimitExceeded, match="3 requests are without an answer: that is max_outstanding"):
        engine.request(1)
    assert (engine.outstanding, engine.unsent_octets) == (3, unsent)
    engine.receive(response(3))
    assert engine.request(1) == 5, "the tag of the refused request was not used"
    assert not engine.has_room
    engine.forget(0, 2)
    assert engine.has_room


def test_requests_that_are_given_up_leave_nothing() -> None:
    engine = ConnectionEngine()
    for _ in range(20_000):
        engine.forget(0, engine.request(1))
        engine.data_to_send()
        engine.data_sent()
    assert not engine.waiters
    assert (engine._next_tag, engine._next_tags_of) == (20_002, {})
    assert engine.unsent_octets == 0


# the peer's requests


def requests_of(events: list[object]) -> list[int]:
    return [event.tag for event in events if isinstance(event, RequestReceived)]


def test_max_inbound_counts_until_the_reply_is_written() -> None:
    engine = ConnectionEngine(max_inbound=2)

    def admitted(tag: int) -> bool:
        return requests_of(engine.receive(request(tag))) == [tag]

    assert admitted(2)
    assert admitted(3)
    assert not admitted(4)
    engine.respond(0, 2, True)
    assert not admitted(5), "the reply is not taken yet"
    engine.data_to_send()
    assert not admitted(6), "the reply is not written yet"
    engine.data_sent()
    assert admitted(7), "the reply is written, and the refusals do not count"
    assert not admitted(8)
    engine.respond(0, 3, True)
    engine.respond(0, 7, True)
    assert not admitted(9)
    engine.data_to_send()
    engine.data_sent()
    assert admitted(10)
    assert admitted(11)


def test_each_reply_that_is_not_written_takes_one_place() -> None:
    engine = ConnectionEngine(max_inbound=3)
    engine.receive(request(2) + request(3))
    engine.respond(0, 2, True)
    assert requests_of(engine.receive(request(4) + request(5))) == [4]


def test_a_batch_taken_in_two_parts_counts_as_a_whole() -> None:
    engine = ConnectionEngine(max_inbound=2, max_refusals=2)
    engine.receive(request(2) + request(3))
    engine.respond(0, 2, True)
    first = engine.data_to_send()
    engine.respond(0, 3, True)
    second = engine.data_to_send()
    assert decode(b"".join(first + second)) == decode(response(2) + response(3))
    assert requests_of(engine.receive(request(4))) == []
    engine.data_to_send()
    assert engine.unsent_octets > 0
    engine.data_sent()
    assert engine.unsent_octets == 0
    assert requests_of(engine.receive(request(5))) == [5]


def test_what_comes_while_a_batch_is_written_is_taken_when_it_is_reported() -> None:
    engine = ConnectionEngine(max_inbound=1)
    engine.request(1)
    assert len(engine.data_to_send()) == 1
    engine.receive(request(2))
    engine.respond(0, 2, True)
    assert engine.more_data_to_send() == [response(2)]
    assert engine.data_to_send() == []
    assert engine.unsent_octets == len(response(2))
    assert requests_of(engine.receive(request(3))) == [], "the reply is taken and not written"
    refusal = engine.more_data_to_send()
    assert len(refusal) == 1
    assert requests_of(engine.receive(request(4))) == [4]
    assert engine.more_data_to_send() == []
    assert engine.unsent_octets == 0


def test_data_to_send_belongs_to_the_caller() -> None:
    engine = ConnectionEngine()
    nothing = engine.data_to_send()
    engine.request(1)
    assert nothing == []
    batch = engine.data_to_send()
    batch.clear()
    engine.request(1)
    assert len(engine.data_to_send()) == 1


def test_max_inbound_octets() -> None:
    engine = ConnectionEngine(max_inbound_octets=100)
    assert requests_of(engine.receive(request(2, payload=bytes(60)) + request(3, payload=bytes(41)))) == [2]
    assert requests_of(engine.receive(request(4, payload=bytes(40)) + request(5, payload=b"x"))) == [4]
    assert requests_of(engine.receive(request(6))) == [6], "an empty one needs no room"
    engine.respond(0, 2, True)
    assert requests_of(engine.receive(request(7, payload=bytes(60)))) == [7]


def test_max_inbound_octets_after_a_write_failed() -> None:
    """What the peer asked before it went is still handed over, within the same bounds."""
    engine = ConnectionEngine(max_inbound_octets=100)
    engine.send_failed(BrokenPipeError())
    assert requests_of(engine.receive(request(2, payload=bytes(60)) + request(3, payload=bytes(30)))) == [2, 3]
    engine.respond(0, 2, True)
    assert requests_of(engine.receive(request(4, payload=bytes(70)) + request(5, payload=b"x"))) == [4]
    engine.respond(0, 3, True)
    engine.respond(0, 4, True)
    assert engine._inbound_bytes == 0


def test_one_large_request_is_admitted_when_nothing_else_waits() -> None:
    engine = ConnectionEngine(max_inbound_octets=100)
    assert requests_of(engine.receive(request(2, payload=bytes(1000)))) == [2]
    assert requests_of(engine.receive(request(3, payload=b"x"))) == []
    engine.respond(0, 2, True)
    assert requests_of(engine.receive(request(4, payload=bytes(1000)))) == [4]


def test_a_flood_of_requests_that_are_never_answered_is_bounded() -> None:
    engine = ConnectionEngine(max_inbound=10, max_refusals=20)
    flood = b"".join(request(tag) for tag in range(2, 1000))
    events = engine.receive(flood)
    assert len(requests_of(events)) == 10
    end = events[-1]
    assert isinstance(end, StreamEnded)
    assert isinstance(end.cause.__cause__, LimitExceeded)
    packets = sent_packets(engine)
    assert len(packets) == 22
    assert packets[-1] == EOF_PACKET
    assert engine.owed == 0


# packets


@pytest.mark.parametrize("channel", [0, 19])
@pytest.mark.parametrize("limit", [100, 127, 128, 200, 16_384])
def test_max_packet_size_is_exact_both_ways(limit: int, channel: int) -> None:
    a, b = (ConnectionEngine(max_packet_size=limit) for _ in range(2))
    head = 3 + (channel > 0)
    with pytest.raises(LocalProtocolError, match=f"a packet of {limit + 1} bytes, .*max_packet_size={limit}"):
        a.request(1, payload=bytes(limit - head + 1), channel=channel)
    a.request(1, payload=bytes(limit - head), channel=channel)
    octets = b"".join(a.data_to_send())
    (asked,) = b.receive(octets)
    assert isinstance(asked, RequestReceived)
    with pytest.raises(LocalProtocolError, match=f"max_packet_size={limit}"):
        b.respond(channel, 2, True, payload=bytes(limit - head + 2))
    assert b.respond(channel, 2, True, payload=bytes(limit - head + 1))
    assert len(a.receive(b"".join(b.data_to_send()))) == 1
    smaller = ConnectionEngine(max_packet_size=limit - 1)
    (end,) = smaller.receive(octets[:2] if limit < 128 else octets[:3])
    assert isinstance(end, StreamEnded)
    assert f"announces {limit} bytes" in str(end.cause)


@contextmanager
def allocating_at_most(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit


def test_memory_grows_with_what_arrived_and_not_with_what_was_announced() -> None:
    announced = encode_varint(DEFAULT_MAX_PACKET_SIZE) + bytes.fromhex("020201")
    engine = ConnectionEngine()
    with allocating_at_most(100_000):
        assert engine.receive(announced) == []
        for _ in range(100):
            assert engine.receive(b"some octets") == []
    assert engine.octets_wanted == DEFAULT_MAX_PACKET_SIZE - 3 - 1100
    with allocating_at_most(100_000), pytest.raises(EOFError):
        Packet.parse(CornuCopyBuffer([b"\xff" * 8 + b"\x7f", b"\2\2\1"]))


def test_a_large_packet_is_copied_once() -> None:
    size = 4 << 20
    octets = request(2, payload=bytes(size))
    decoder = PacketDecoder()
    half = size // 2
    decoder.feed(octets[:half])
    rest = octets[half:]
    with allocating_at_most(size * 9 // 4):
        (packet,) = decoder.feed(rest)
    assert len(packet.payload) == size


def test_comparing_a_large_packet_costs_nothing() -> None:
    """The peer chooses what is compared with EOF."""
    decoder = PacketDecoder()
    octets = Packet(is_request=True, tag=0, rq_type=0, payload=bytes(1 << 20))
    decoder.feed(bytes(octets)[:-1])
    with allocating_at_most(3 << 20):
        (packet,) = decoder.feed(b"\0")
    assert packet != EOF_PACKET
    with allocating_at_most(1000):
        assert packet != EOF_PACKET


@pytest.mark.parametrize("limit", [50, 127, 128, 16_384, 1 << 20])
def test_a_payload_that_is_shorter_by_all_fields_always_fits(limit: int) -> None:
    engine = ConnectionEngine(max_packet_size=limit)
    engine._next_tags_of[MAX_UINT] = MAX_UINT
    longest = {"rq_type": MAX_RQ_TYPE, "flags": MAX_REQUEST_FLAGS, "channel": MAX_UINT}
    text = "the others its tag, flags and type, which count too, exceeds max_packet_size="
    with pytest.raises(LocalProtocolError, match=text):
        engine.request(payload=bytes(limit - MAX_FIELDS + 1), **longest)
    assert engine.request(payload=bytes(limit - MAX_FIELDS), **longest) == MAX_UINT
    with pytest.raises(LocalProtocolError, match=text):
        engine.request(1, payload=bytes(limit - 2))
    assert engine.request(1, payload=bytes(limit - 3)) == 2


def test_many_channels_of_the_peer_leave_nothing() -> None:
    engine = ConnectionEngine()
    for channel in range(16, 5000):
        engine.receive(request(2, channel=channel))
        engine.respond(channel, 2, True)
        engine.data_to_send()
        engine.data_sent()
    assert not any((engine._inbound, engine.waiters, engine._next_tags_of, engine.unsent))


@pytest.mark.parametrize("octets", ["text", 5, None, [1]])
def test_what_is_no_octets_is_refused_and_changes_nothing(octets: object) -> None:
    decoder = PacketDecoder()
    decoder.feed(b"\x03\x02")
    with pytest.raises(TypeError, match=f"must be bytes-like, got {type(octets).__name__}"):
        decoder.feed(octets)  # type: ignore[arg-type]
    assert decoder.feed(bytearray(b"\x02\x05")) == decode(b"\x03\x02\x02\x05")


def test_packets_from_a_buffer_that_is_used_again_keep_their_payload() -> None:
    buffer = bytearray(request(2, payload=b"abc"))
    (packet,) = PacketDecoder().feed(memoryview(buffer))
    buffer[:] = bytes(len(buffer))
    assert packet.payload == b"abc"
    assert type(packet.payload) is bytes


def test_a_decoder_with_a_fault_is_no_use() -> None:
    decoder = PacketDecoder(10)
    with pytest.raises(RemoteProtocolError):
        decoder.feed(b"\x0b")
    with pytest.raises(RemoteProtocolError):
        decoder.feed(b"\x03\x02\x02\x05")
    with pytest.raises(RemoteProtocolError):
        decoder.finish()
