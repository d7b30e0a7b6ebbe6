"""Captures as pcap files, for Wireshark: each connection is a TCP stream between addresses that are made up.

Strategy: TCP, whatever the connection went over, since Wireshark follows and reassembles TCP. The first end of
connection N is 10.x.y.z, where x.y.z is N, and connects to 192.0.2.1 at the port that the dissector of packetwire
expects. All times are those of the records.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from packetwire.capture import Kind, Record

PORT = 52652
"""The port of the second end: "PW2", as a number, begins so."""
FIRST_PORT = 49152
LINK_TYPE_RAW = 101
"""Each frame begins with an IP header."""
NANOSECONDS = 0xA1B23C4D
"""The beginning of a file whose times are in nanoseconds."""
SNAP_LENGTH = 1 << 18
MOST_DATA = 32768
"""Bytes in one segment, at most."""
SERVER = bytes((192, 0, 2, 1))
SEQUENCES = 1 << 32

FIN, SYN, PSH, ACK = 1, 2, 8, 16

_FILE_HEADER = struct.Struct("<IHHiIII")
_FRAME_HEADER = struct.Struct("<IIII")
_IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
_TCP_HEADER = struct.Struct("!HHIIBBHHH")


@dataclass(slots=True)
class _Stream:
    """One connection, as TCP."""

    number: int
    sequences: dict[Kind, int] = field(default_factory=lambda: {Kind.FORTH: 0, Kind.BACK: 0})
    ended: set[Kind] = field(default_factory=set)

    def segment(self, way: Kind, flags: int, data: bytes = b"") -> bytes:
        """An IP packet with a TCP segment of the end from which `way` leads."""
        client = bytes((10, self.number >> 16 & 255, self.number >> 8 & 255, self.number & 255))
        client_port = FIRST_PORT + self.number % (65536 - FIRST_PORT)
        back = way is Kind.BACK
        source, target = (SERVER, client) if back else (client, SERVER)
        ports = (PORT, client_port) if back else (client_port, PORT)
        other = Kind.FORTH if back else Kind.BACK
        acknowledged = self.sequences[other] if flags & ACK else 0
        head = [*ports, self.sequences[way], acknowledged, 5 << 4, flags, 65535, 0, 0]
        pseudo = source + target + struct.pack("!BBH", 0, 6, _TCP_HEADER.size + len(data))
        head[-2] = checksum(pseudo + _TCP_HEADER.pack(*head) + data)
        size = _IP_HEADER.size + _TCP_HEADER.size + len(data)
        ip = [0x45, 0, size, 0, 0x4000, 64, 6, 0, source, target]
        ip[7] = checksum(_IP_HEADER.pack(*ip))
        self.sequences[way] = (self.sequences[way] + len(data) + bool(flags & (SYN | FIN))) % SEQUENCES
        return _IP_HEADER.pack(*ip) + _TCP_HEADER.pack(*head) + data


def pcap_of(records: Iterable[Record]) -> Iterator[bytes]:
    """The pieces of a pcap file with these records."""
    yield _FILE_HEADER.pack(NANOSECONDS, 2, 4, 0, 0, SNAP_LENGTH, LINK_TYPE_RAW)
    streams: dict[int, _Stream] = {}
    for record in records:
        for packet in _segments(streams, record):
            seconds, nanoseconds = divmod(record.time, 10**9)
            yield _FRAME_HEADER.pack(seconds % SEQUENCES, nanoseconds, len(packet), len(packet)) + packet


def _segments(streams: dict[int, _Stream], record: Record) -> Iterator[bytes]:
    if record.kind is Kind.OVER:
        stream = streams.pop(record.connection, None)
        if stream is not None:
            for way in Kind.FORTH, Kind.BACK:
                yield from _end(stream, way)
        return
    stream = streams.get(record.connection)
    if stream is None or record.kind is Kind.BEGIN:
        stream = streams[record.connection] = _Stream(record.connection)
        yield stream.segment(Kind.FORTH, SYN)
        yield stream.segment(Kind.BACK, SYN | ACK)
        yield stream.segment(Kind.FORTH, ACK)
    if record.kind is Kind.BEGIN:
        return
    if not record.data:
        yield from _end(stream, record.kind)
    for offset in range(0, len(record.data), MOST_DATA):
        yield stream.segment(record.kind, PSH | ACK, record.data[offset : offset + MOST_DATA])


def _end(stream: _Stream, way: Kind) -> Iterator[bytes]:
    if way not in stream.ended:
        stream.ended.add(way)
        yield stream.segment(way, FIN | ACK)


def checksum(data: bytes) -> int:
    """The checksum of IP and TCP: the ones' complement of the sum of 16-bit words."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
