"""What holds of the codec for all packets and all octets."""

from __future__ import annotations

import pytest
from cs.buffer import CornuCopyBuffer
from hypothesis import example, given
from hypothesis import strategies as st

from packetwire import LocalProtocolError, Packet, PacketDecoder, RemoteProtocolError, StreamTruncated
from packetwire.core.packets import (
    EOF_PACKET,
    ERQ_PACKET,
    MAX_UINT,
    MAX_VARINT_BYTES,
    decode_varint,
    encode_varint,
)
from packetwire.core.refusals import REFUSALS

from .strategies import BOUNDARIES, chunked, chunks, damaged_streams, packets, uints


def padded(n: int, size: int) -> bytes:
    """`n` as a varint of `size` octets."""
    minimal = encode_varint(n)
    return b"\x80" * (size - len(minimal)) + minimal


# integers


@given(uints())
def test_an_integer_survives(n: int) -> None:
    octets = encode_varint(n)
    assert decode_varint(octets, 0, len(octets)) == (n, len(octets))
    assert len(octets) == max(1, -(-n.bit_length() // 7)), "it is not minimal"


@pytest.mark.parametrize("n", [0, 1, 127, *BOUNDARIES[:-2], MAX_UINT])
def test_integers_at_the_boundaries(n: int) -> None:
    octets = encode_varint(n)
    expected = [n >> shift & 127 for shift in range(0, max(7, n.bit_length()), 7)][::-1]
    assert octets == bytes([digit | 128 for digit in expected[:-1]] + expected[-1:])


@given(uints(), st.data())
def test_integers_with_leading_zeros_are_read(n: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(len(encode_varint(n)), MAX_VARINT_BYTES))
    assert decode_varint(b"\xff" + padded(n, size) + b"\xff", 1, size + 2) == (n, size + 1)


@given(uints(), st.integers(1, 5))
def test_integers_of_ten_octets_are_refused(n: int, excess: int) -> None:
    octets = padded(n, MAX_VARINT_BYTES + excess)
    with pytest.raises(RemoteProtocolError, match=f"more than {MAX_VARINT_BYTES} bytes at byte 1000 ") as caught:
        decode_varint(octets, 0, len(octets), 1000)
    assert caught.value.code == "varint-too-long"


def test_nine_octets_without_end_are_refused_at_once() -> None:
    assert decode_varint(b"\xff" * 8, 0, 8)[1] == -1
    with pytest.raises(RemoteProtocolError):
        decode_varint(b"\xff" * 9, 0, 9)


@given(uints())
def test_an_integer_without_end_is_not_decoded(n: int) -> None:
    octets = encode_varint(n)[:-1]
    assert decode_varint(octets, 0, len(octets))[1] == -1


IMPOSSIBLE = {"negative": -1, "large": MAX_UINT + 1, "very negative": -(10**5000), "very large": 10**5000}


@pytest.mark.parametrize("n", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_integers_that_cannot_be_sent(n: int) -> None:
    with pytest.raises(LocalProtocolError, match=r"from 0 to 2\*\*63 - 1"):
        encode_varint(n)


# packets


@given(packets())
@example(EOF_PACKET)
@example(ERQ_PACKET)
def test_a_packet_survives(packet: Packet) -> None:
    octets = bytes(packet)
    assert Packet.from_bytes(octets) == packet
    assert Packet.parse(CornuCopyBuffer([octets])) == packet
    assert len(packet) == len(octets)


@given(packets(), st.data())
def test_leading_zeros_are_read_and_not_sent(packet: Packet, data: st.DataObject) -> None:
    fields = [packet.tag, packet.wire_flags | 1, packet.channel]  # the channel may be there though it is 0
    if packet.is_request:
        assert packet.rq_type is not None
        fields.append(packet.rq_type)

    def any_size(n: int) -> bytes:
        return padded(n, data.draw(st.integers(len(encode_varint(n)), MAX_VARINT_BYTES)))

    body = b"".join(map(any_size, fields)) + packet.payload
    octets = any_size(len(body)) + body
    for decoded in (Packet.from_bytes(octets), *PacketDecoder().feed(octets)):
        assert decoded == packet
        assert bytes(decoded) == bytes(packet)


@given(st.lists(packets(), max_size=8), st.data())
def test_chunking_does_not_matter(sent: list[Packet], data: st.DataObject) -> None:
    octets = b"".join(map(bytes, sent))
    decoder = PacketDecoder()
    received = []
    for chunk in data.draw(chunked(octets)):
        received += decoder.feed(chunk)
        assert len(decoder.partial) + decoder.octets_decoded <= len(octets)
    decoder.finish()
    end = sent.index(EOF_PACKET) + 1 if EOF_PACKET in sent else len(sent)
    assert received == sent[:end]
    assert decoder.octets_decoded == sum(map(len, received))
    assert decoder.trailing == octets[decoder.octets_decoded :]
    assert decoder.octets_wanted == 0


@pytest.mark.parametrize("cut", range(len(EOF_PACKET)))
@pytest.mark.parametrize("behind", [b"", b"\x03\x01\x02\x00", b"\x00\xff"])
def test_nothing_is_decoded_behind_an_eof_that_comes_in_parts(cut: int, behind: bytes) -> None:
    octets = bytes(ERQ_PACKET) + bytes(EOF_PACKET) + behind
    decoder = PacketDecoder()
    received = [packet for chunk in chunks(octets, [4 + cut]) for packet in decoder.feed(chunk)]
    assert received == [ERQ_PACKET, EOF_PACKET]
    assert decoder.ended
    assert decoder.trailing == behind
    assert decoder.feed(b"more") == []
    assert decoder.trailing == behind + b"more"
    assert decoder.partial == b""
    decoder.finish()


@given(packets().filter(lambda packet: packet != EOF_PACKET), st.data())
def test_a_cut_packet_is_truncated(packet: Packet, data: st.DataObject) -> None:
    octets = bytes(packet)
    cut = data.draw(st.integers(1, len(octets) - 1))
    decoder = PacketDecoder()
    assert decoder.feed(octets[:cut]) == []
    assert decoder.partial == octets[:cut]
    wanted = decoder.octets_wanted
    assert wanted == len(octets) - cut or (wanted == 0 and cut < len(encode_varint(len(octets))))
    with pytest.raises(StreamTruncated, match=f"after {cut}[ a-z0-9]* bytes of it"):
        decoder.finish()
    with pytest.raises(EOFError):
        Packet.from_bytes(octets[:cut])
    with pytest.raises(EOFError):
        Packet.parse(CornuCopyBuffer([octets[:cut]]))


# any octets

Outcome = tuple[list[Packet], str | None, bytes]


def outcome(pieces: list[bytes], max_packet_size: int) -> Outcome:
    """What a decoder makes of a whole stream: the packets, what was wrong, what was behind the end."""
    decoder = PacketDecoder(max_packet_size)
    received: list[Packet] = []
    error: Exception | None = None
    try:
        for piece in pieces:
            received += decoder.feed(piece)
        decoder.finish()
    except (RemoteProtocolError, StreamTruncated) as raised:
        error = raised
    if isinstance(error, RemoteProtocolError):
        assert error.code in REFUSALS
        with pytest.raises(RemoteProtocolError):
            decoder.feed(bytes(EOF_PACKET))
    assert decoder.fault is (error if isinstance(error, RemoteProtocolError) else None)
    if error is None:
        return received, None, decoder.trailing
    return received, str(error).partition("; the bytes there")[0], b""


@given(damaged_streams() | st.binary(max_size=60), st.sampled_from([8, 100, 64 << 20]), st.data())
@example(bytes.fromhex("8180808080808080808000"), 100, None)
@example(bytes.fromhex("0181028002"), 100, None)
@example(bytes.fromhex("03028302" + "00" * 3), 100, None)
def test_any_octets_whatever_the_chunks(octets: bytes, limit: int, data: st.DataObject | None) -> None:
    """Only the documented errors come, and they are the same whatever the chunks."""
    expected = outcome([octets], limit)
    assert outcome([bytes((octet,)) for octet in octets], limit) == expected
    if data is not None:
        assert outcome(data.draw(chunked(octets)), limit) == expected


@given(damaged_streams() | st.binary(max_size=60))
def test_any_octets_in_a_buffer(octets: bytes) -> None:
    """`parse` finds the same packets as the decoder, and the same fault behind them."""
    received, fault, trailing = outcome([octets], MAX_UINT)
    bfr = CornuCopyBuffer([octets])
    parsed: list[Packet] = []
    error: Exception | None = None
    try:
        for packet in Packet.scan(bfr):
            parsed.append(packet)
            if packet == EOF_PACKET:
                break
    except (RemoteProtocolError, EOFError) as raised:
        error = raised
    assert parsed == received
    if isinstance(error, RemoteProtocolError):
        assert str(error).partition("; the bytes there")[0] == fault
    else:
        assert (error is None) == (fault is None)
    if error is None:
        assert b"".join(bfr) == trailing


@given(damaged_streams() | st.binary(max_size=60))
def test_what_is_decoded_is_encoded_minimally(octets: bytes) -> None:
    decoder = PacketDecoder()
    try:
        received = decoder.feed(octets)
    except RemoteProtocolError:
        received = []
    encoded = b"".join(map(bytes, received))
    assert len(encoded) <= decoder.octets_decoded
    assert PacketDecoder().feed(encoded) == received
