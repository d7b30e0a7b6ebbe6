"""Every recorded packet, through every way to encode and every way to decode."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from cs.binary import flatten
from cs.buffer import CornuCopyBuffer

from packetwire import Packet, PacketDecoder
from packetwire.core.packets import EOF_PACKET, head_tail, packet_head

from .golden import PACKETS, PacketCase


class StingyFile(io.BytesIO):
    """A file that takes few octets at a time, as a raw one may."""

    def write(self, octets: bytes) -> int:
        return super().write(bytes(octets[: 1 + len(octets) // 2]))


def written(packet: Packet, file: io.BytesIO) -> bytes:
    length = packet.write(file, flush=True)
    assert length == file.tell()
    return file.getvalue()


def head_and_payload(packet: Packet) -> bytes:
    tail = head_tail(packet.channel, packet.wire_flags, packet.rq_type)
    head = packet_head(packet.tag, tail, len(packet.payload))
    return head + packet.payload


ENCODERS: dict[str, Callable[[Packet], bytes]] = {
    "bytes": bytes,
    "transcribe": lambda packet: b"".join(packet.transcribe()),
    "transcribe_flat": lambda packet: b"".join(packet.transcribe_flat()),
    "flatten": lambda packet: b"".join(flatten(packet)),
    "flatten inside": lambda packet: b"".join(flatten([None, [packet], b""])),
    "write": lambda packet: written(packet, io.BytesIO()),
    "write in parts": lambda packet: written(packet, StingyFile()),
    "packet_head": head_and_payload,
}


def pieces(octets: bytes, size: int) -> Iterator[bytes]:
    return (octets[start : start + size] for start in range(0, len(octets), size))


def buffered(octets: bytes, size: int) -> CornuCopyBuffer:
    return CornuCopyBuffer(pieces(octets, size))


def parse(octets: bytes) -> Packet:
    bfr = buffered(octets, 1000)
    packet = Packet.parse(bfr)
    assert bfr.at_eof()
    return packet


def parse_between(octets: bytes) -> Packet:
    packet, offset = Packet.parse_bytes(b"\xff" * 7 + octets + b"\xff" * 9, 7)
    assert offset == 7 + len(octets)
    return packet


def the_one(packets: Iterator[Packet]) -> Packet:
    (packet,) = packets
    return packet


def fed(octets: bytes, size: int) -> Packet:
    decoder = PacketDecoder()
    packets = [packet for piece in pieces(octets, size) for packet in decoder.feed(piece)]
    decoder.finish()
    assert decoder.octets_decoded == len(octets)
    return the_one(iter(packets))


DECODERS: dict[str, Callable[[bytes], Packet]] = {
    "from_bytes": Packet.from_bytes,
    "from_bytes of a bytearray": lambda octets: Packet.from_bytes(bytearray(octets)),
    "from_bytes of a memoryview": lambda octets: Packet.from_bytes(memoryview(octets)),
    "parse_bytes": parse_between,
    "parse_bytes within a length": lambda octets: Packet.parse_bytes(octets + b"\xff", 0, len(octets))[0],
    "parse": parse,
    "scan": lambda octets: the_one(Packet.scan(buffered(octets, 1000))),
    "decoder": lambda octets: fed(octets, len(octets)),
    "decoder in tens": lambda octets: fed(octets, 10),
    "decoder of 64 KiB chunks": lambda octets: fed(octets, 65536),
}


@pytest.mark.parametrize("encode", ENCODERS.values(), ids=ENCODERS)
def test_encodes_what_was_recorded(encode: Callable[[Packet], bytes]) -> None:
    for case in PACKETS:
        case.check_encoded(encode(case.packet))


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
def test_decodes_what_was_recorded(decode: Callable[[bytes], Packet]) -> None:
    for case in PACKETS:
        check_fields(case, decode(case.wire))


def check_fields(case: PacketCase, packet: Packet) -> None:
    assert packet._asdict() == case.fields, case.id
    assert type(packet.payload) is bytes, case.id
    assert packet == case.packet, case.id


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_small_chunks(size: int) -> None:
    for case in PACKETS:
        if case.size <= 20_000:
            check_fields(case, fed(case.wire, size))


def test_length() -> None:
    for case in PACKETS:
        assert len(case.packet) == case.packet.transcribed_length() == case.size, case.id


@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 24])
def test_all_in_one_stream(size: int) -> None:
    cases = [case for case in PACKETS if case.packet != EOF_PACKET and case.size <= 100_000]
    octets = b"".join(case.wire for case in cases) + bytes(EOF_PACKET) + b"more"
    decoder = PacketDecoder()
    packets = [packet for piece in pieces(octets, size) for packet in decoder.feed(piece)]
    decoder.finish()
    assert packets == [*(case.packet for case in cases), EOF_PACKET]
    assert decoder.trailing == b"more"
