"""The decoder with a packet that comes in pieces: what it keeps, and what it knows before the packet is whole."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest

from packetwire import Packet, PacketDecoder, RemoteProtocolError, StreamTruncated
from packetwire.core.packets import CHUNK_SIZE, EOF_PACKET, MAX_HEAD_BYTES, MAX_UINT, decode_varint, encode_varint
from packetwire.core.payloads import AT_ONCE
from packetwire.core.refusals import QUOTED_BYTES

from .wire import request, response

PAYLOAD = bytes(range(256)) * 512  # 128 KiB
LONG = Packet(is_request=True, channel=3, tag=200, flags=9, rq_type=7, payload=PAYLOAD)

PIECES = {
    "all small": [100] * 2000,
    "all large": [CHUNK_SIZE] * 20,
    "a large first": [CHUNK_SIZE, 1, 1, 1, CHUNK_SIZE],
    "small ones between large ones": [50, CHUNK_SIZE, 10, 20, 30, CHUNK_SIZE + 5, 40, 50, CHUNK_SIZE],
    "a large one behind an incomplete head": [MAX_HEAD_BYTES - 1, CHUNK_SIZE, 100, CHUNK_SIZE],
    "a large one behind a complete head": [MAX_HEAD_BYTES, CHUNK_SIZE, 100, CHUNK_SIZE],
    "just below large": [MAX_HEAD_BYTES, CHUNK_SIZE - 1, CHUNK_SIZE],
}
"""Sizes of the first pieces; the rest of the packet follows as one piece, with the next packet behind it."""


@pytest.mark.parametrize("sizes", PIECES.values(), ids=PIECES)
def test_a_long_packet_in_pieces(sizes: list[int]) -> None:
    octets = bytes(LONG)
    decoder = PacketDecoder()
    place = 0
    for size in sizes:
        if place + size >= len(octets):
            break
        assert decoder.feed(octets[place : place + size]) == []
        place += size
        assert decoder.partial == octets[:place]
        assert decoder.octets_wanted == len(octets) - place
        assert decoder.octets_decoded == 0
    (packet, behind) = decoder.feed(octets[place:] + response(2))
    assert packet._asdict() == LONG._asdict()
    assert type(packet.payload) is bytes
    assert bytes(behind) == response(2)
    assert (decoder.partial, decoder.octets_wanted) == (b"", 0)
    assert decoder.octets_decoded == len(octets) + len(response(2))
    decoder.finish()


def test_two_long_packets_one_behind_the_other() -> None:
    octets = bytes(LONG) * 2
    decoder = PacketDecoder()
    received = [
        packet
        for place in range(0, len(octets), CHUNK_SIZE)
        for packet in decoder.feed(octets[place:][:CHUNK_SIZE])
    ]
    assert received == [LONG, LONG]
    assert decoder.partial == b""


def test_a_long_packet_that_comes_in_pieces_of_all_sizes_is_kept_whole() -> None:
    octets = bytes(LONG)
    decoder = PacketDecoder()
    decoder.feed(octets[:CHUNK_SIZE])
    place = CHUNK_SIZE
    for size in [64] * 500 + [CHUNK_SIZE] + [1] * 100:
        decoder.feed(octets[place : place + size])
        place += size
        assert decoder.octets_wanted == len(octets) - place
    assert decoder.partial == octets[:place]
    assert decoder.bytes_kept == place


@pytest.mark.parametrize("piece", [70_000, 300_000, 1 << 22])
@pytest.mark.parametrize("size", [AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE + 5])
def test_payloads_around_the_bound_of_what_is_there_at_once(size: int, piece: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"e" * (size % 256)
    octets = request(2, rq_type=5, payload=payload) + response(2)
    decoder = PacketDecoder()
    received = [packet for at in range(0, len(octets), piece) for packet in decoder.feed(octets[at : at + piece])]
    assert received[0].payload == payload
    assert type(received[0].payload) is bytes
    assert bytes(received[1]) == response(2)
    assert (decoder.partial, decoder.bytes_kept) == (b"", 0)


def test_no_more_is_taken_than_has_come_or_fits_at_once() -> None:
    """However much was announced."""
    decoder = PacketDecoder(1 << 40)
    head = encode_varint(1 << 39) + bytes(2) + b"x" * MAX_HEAD_BYTES
    tracemalloc.start()
    try:
        decoder.feed(head)
        for _ in range(300):
            decoder.feed(bytes(CHUNK_SIZE))
        held, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2 * 300 * CHUNK_SIZE
    assert most < 4 * 300 * CHUNK_SIZE


EDGES = [0, 1, *(edge for bits in (7, 14, 21, 28, 56) for edge in ((1 << bits) - 1, 1 << bits)), MAX_UINT]
"""Where an integer takes one octet more, and the numbers beside that."""


@pytest.mark.parametrize("behind", [b"", response(2), b"\x7f\x7f\x7f"], ids=["nothing", "a packet", "a part"])
@pytest.mark.parametrize("name", ["tag", "flags", "channel", "rq_type"])
def test_integers_of_every_length_in_every_place(name: str, behind: bytes) -> None:
    """Whole packets, which are decoded in place."""
    for is_request in (True, False):
        for edge in EDGES:
            fields = {"channel": 0, "tag": 2, "flags": 1, "rq_type": 5 if is_request else None}
            if name == "rq_type" and not is_request:
                continue
            fields[name] = edge >> 2 if name == "flags" else edge
            packet = Packet(is_request=is_request, payload=b"payload", **fields)  # type: ignore[arg-type]
            decoded, *rest = PacketDecoder().feed(bytes(packet) + behind)
            assert decoded._asdict() == packet._asdict()
            assert len(rest) == (behind == response(2))


def test_what_is_too_large_is_quoted_as_far_as_is_shown() -> None:
    octets = encode_varint(1001) + b"x" * 900
    with pytest.raises(RemoteProtocolError) as caught:
        PacketDecoder(1000).feed(octets)
    assert str(caught.value).endswith(f"the bytes there: {octets[:QUOTED_BYTES]!r}…")


CUT = [
    (b"\x87", "after 1 bytes of it: b'\\x87'"),
    (b"\x87\x68\x02", "after 3 of 1002 bytes of it: b'\\x87h\\x02'"),
]


@pytest.mark.parametrize(("octets", "text"), CUT, ids=["in the length", "behind the length"])
def test_what_is_said_of_a_packet_that_was_cut_off(octets: bytes, text: str) -> None:
    decoder = PacketDecoder()
    decoder.feed(octets)
    with pytest.raises(StreamTruncated) as caught:
        decoder.finish()
    assert str(caught.value) == f"the stream ended inside a packet, {text}"


@pytest.mark.parametrize("size", [1, 7, 20, 1000])
def test_what_is_quoted_of_a_long_packet_that_was_cut_off_does_not_depend_on_its_pieces(size: int) -> None:
    octets = bytes(LONG)[:2000]
    whole, pieces = PacketDecoder(), PacketDecoder()
    whole.feed(octets)
    for at in range(0, len(octets), size):
        pieces.feed(octets[at : at + size])
    told = []
    for decoder in (whole, pieces):
        with pytest.raises(StreamTruncated) as caught:
            decoder.finish()
        told.append(str(caught.value))
    assert told[0] == told[1]
    assert repr(octets[:QUOTED_BYTES]) in told[0]


@pytest.mark.parametrize("piece", [1000, CHUNK_SIZE], ids=["small pieces", "large pieces"])
def test_what_is_wrong_with_a_long_packet_is_found_at_its_place(piece: int) -> None:
    """The tag begins at byte 7, behind a packet of 4 and a length of 3, and does not end."""
    octets = encode_varint(len(PAYLOAD)) + b"\xff" * 10 + PAYLOAD[10:]
    decoder = PacketDecoder()
    decoder.feed(request(2))
    with pytest.raises(RemoteProtocolError, match="an integer of more than 9 bytes at byte 7 of the stream"):
        for place in range(0, len(octets), piece):
            assert decoder.feed(octets[place : place + piece]) == []


HEADS: list[tuple[bytes, Packet | None]] = [
    (b"", None),
    (b"\x87", None),
    (b"\x87\x68", None),
    (request(2, rq_type=5, payload=bytes(100))[:3], None),
    (request(2, rq_type=5, payload=bytes(100))[:4], Packet(is_request=True, tag=2, rq_type=5)),
    (request(2, rq_type=5, payload=bytes(100))[:50], Packet(is_request=True, tag=2, rq_type=5)),
    (response(300, channel=7, payload=bytes(100))[:4], None),
    (response(300, channel=7, payload=bytes(100))[:5], Packet(is_request=False, channel=7, tag=300, flags=1)),
    (bytes(LONG)[:CHUNK_SIZE], LONG._replace(payload=b"")),
    (request(2), None),
    (bytes(EOF_PACKET) + b"\x7f\x02\x02\x05", None),
]


@pytest.mark.parametrize(("octets", "head"), HEADS)
def test_the_head_of_a_packet_is_known_when_its_fields_have_come(octets: bytes, head: Packet | None) -> None:
    decoder = PacketDecoder()
    decoder.feed(octets)
    assert decoder.incomplete_head() == head


def test_the_head_is_known_however_many_octets_its_fields_take() -> None:
    """Each in nine octets, most of them leading zeros."""
    fields = b"".join(b"\x80" * 8 + bytes((n,)) for n in (2, 3, 4, 5))
    length = b"\x80" * 7 + encode_varint(200)
    decoder = PacketDecoder()
    assert decoder.feed((length + fields)[:-1]) == []
    assert decoder.incomplete_head() is None
    assert decoder.feed(fields[-1:] + b"payload") == []
    assert decoder.incomplete_head() == Packet(is_request=True, channel=4, tag=2, flags=0, rq_type=5)


TAGS = [bytes.fromhex(tag) for tag in ("04", "8104", "8004", "818204", "808004", "81808004")]
FLAGS = [bytes.fromhex(flags) for flags in ("04", "06", "8004", "8006", "8104", "8106")]
RQ_TYPES = [bytes.fromhex(rq_type) for rq_type in ("07", "8007", "8107")]
"""Integers as they may come, with leading zeros and without; by bit 1 of the flags a request type follows."""


@pytest.mark.parametrize("payload", [b"", b"\x80", b"payload"], ids=["empty", "an octet", "some"])
def test_fields_of_any_number_of_octets_behind_another_packet(payload: bytes) -> None:
    for tag, flags, rq_type in itertools.product(TAGS, FLAGS, RQ_TYPES):
        body = tag + flags + (rq_type if flags[-1] & 2 else b"") + payload
        octets = encode_varint(len(body)) + body
        wanted, size = Packet.parse_bytes(octets)
        assert size == len(octets)
        assert wanted.payload == payload
        assert PacketDecoder().feed(request(2) + octets)[1] == wanted


def test_a_decoder_has_not_ended_before_it_began() -> None:
    assert PacketDecoder().ended is False


OVERLONG = b"\xff" * (2 * QUOTED_BYTES)


def test_what_is_quoted_of_an_integer_that_is_too_long() -> None:
    for octets in OVERLONG, OVERLONG[: QUOTED_BYTES + 1], OVERLONG[:QUOTED_BYTES], OVERLONG[:20]:
        shown = f"{octets[:QUOTED_BYTES]!r}" + "…" * (len(octets) > QUOTED_BYTES)
        with pytest.raises(RemoteProtocolError) as caught:
            decode_varint(octets, 0, len(octets))
        assert str(caught.value).endswith(f" at byte 0 of the stream; the bytes there: {shown}")


def test_what_is_quoted_of_a_packet_with_a_field_that_runs_past_its_end() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Packet.parse_bytes(b"\x02\x05\x84behind")
    assert str(caught.value) == (
        "the flags of a packet whose fields begin at byte 1 runs past its end; the bytes there: b'\\x05\\x84'"
    )
