"""The packet stream's codec: bytes in, the fields of packets out.

Strategy: the reader indexes `bytes` in place, with a fast path for integers of one byte, because nearly all
fields of nearly all packets are below 128. It makes a plain tuple of each packet and no object, as that is what
a request costs most. A packet that is longer than what has arrived is collected in pieces that grow with the
bytes that come, never with the length that was announced, and its payload is copied out of them once.
`docs/wire.md` is the specification.
"""

from __future__ import annotations

from typing import Any

from packetwire.core.packet import FLAG_CHANNEL, FLAG_REQUEST, MAX_HEAD_BYTES, check_payload
from packetwire.core.payloads import Payload
from packetwire.core.refusals import QUOTED_BYTES, explained, refuse
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import MAX_UINT, BytesLike, decode_varint
from packetwire.errors import RemoteProtocolError, StreamTruncated

CHUNK_SIZE = 16384
"""From this size on the payload of a packet that has begun is collected in place."""
RESPONSE = -1
"""In place of the request type of a packet that is a response."""

Buffer = Any
"""An object with a buffer, as `recv_into` takes it."""

Key = int | tuple[int, int]
"""The key of a request: its tag on channel 0, else (channel, tag)."""

Fields = tuple[Key, int, int, bytes]
"""(key, flags, request type on the wire or `RESPONSE`, payload); the flags of a response have "ok" as bit 0."""

EOF_FIELDS: Fields = (0, 0, 0, b"")
ERQ_FIELDS: Fields = (1, 0, 0, b"")


class PacketReader:
    """Bytes in, the fields of packets out, whatever the chunks that the bytes come in.

    `feed` returns the packets that are complete; `finish` says that nothing more comes. The EOF packet is
    the last one of a stream: what follows it is not decoded but kept in `trailing`.
    `max_packet_size` counts the bytes that follow the length field.
    """

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self.max_packet_size = max_packet_size
        self.octets_decoded = 0
        """The position in the stream behind the last complete packet."""
        self.ended = False
        """True once the EOF packet was decoded."""
        self.fault: RemoteProtocolError | None = None
        """The rule that the bytes broke; nothing behind that can be decoded."""
        self._partial = bytearray()
        self._payload: Payload | None = None  # of a long packet; its head is in _partial, and its fields are these
        self._head: tuple[Key, int, int] = (0, 0, 0)
        self._collected = 0  # bytes behind _partial
        self.needed = 0
        """The bytes that the packet that has begun has in all; 0 while that is not known."""
        self._is_skipping = False
        self._limit = min(max_packet_size, MAX_UINT)

    @property
    def bytes_kept(self) -> int:
        """Bytes of the packet that has begun."""
        return 1 if self._is_skipping else len(self._partial) + self._collected

    def drop(self) -> None:
        """Nothing more is decoded, nor asked for what has begun: keep nothing of it."""
        self._partial, self._payload = bytearray(), None
        self._collected = self.needed = 0

    def skip(self) -> None:
        """Drop the packet that has begun, whose head is there, with all that is still to come of it."""
        self._is_skipping = True
        self._payload = None
        self._collected += len(self._partial) - 1
        del self._partial[1:]  # something is left, as a packet has begun

    @property
    def octets_wanted(self) -> int:
        """How many bytes complete the packet that has begun; 0 if none has or its length is not known."""
        return max(0, self.needed - len(self._partial) - self._collected)

    @property
    def partial(self) -> bytes:
        """The bytes of the packet that has begun, whole only in part."""
        if self.ended:
            return b""
        return bytes(self._partial) + (b"" if self._payload is None else self._payload.collected())

    @property
    def trailing(self) -> bytes:
        """The bytes behind the EOF packet."""
        return bytes(self._partial) if self.ended else b""

    def incomplete_head(self) -> Fields | None:
        """The fields of the packet that has begun, without payload; None until they have all arrived."""
        if not self.needed or self._is_skipping:
            return None
        start = bytes(self._partial[:MAX_HEAD_BYTES])
        _, body = decode_varint(start, 0, len(start))
        try:
            key, flags, wire_rq_type, _ = decode_body(start, body, len(start))
        except RemoteProtocolError:
            return None
        return key, flags, wire_rq_type, b""

    def feed(self, piece: BytesLike) -> list[Fields]:
        """Take bytes, return the packets that they complete.

        Raises `RemoteProtocolError` if they break a rule of the format. If packets came before the fault
        these are returned first: the exception is then in `fault`, and the next call raises it.
        """
        # Fields of one byte are read here, without looking for the packet's end. Whatever is longer, or amiss, such
        # as a field that ran past the end, which shows in the last offset, is left to `decode_body`, which does not
        # look at what happens to lie behind the packet.
        if self.fault is not None:
            raise self.fault
        data = piece if type(piece) is bytes else check_payload(piece)
        packets: list[Fields] = []
        start = 0
        try:
            if self._partial and not self.ended:
                data = self._complete_partial(data, packets)
            if self.ended:
                self._partial += data
                return packets
            base = self.octets_decoded
            limit = self._limit
            end = len(data)
            text = data  # compiled, a pointer, by which a payload is cut out in one step
            while start < end:
                size = data[start]
                body = start + 1
                if size > 127:
                    size, body = decode_varint(data, start, end, base)
                    if body < 0:
                        break
                if size > limit:
                    quoted = data[start : start + QUOTED_BYTES + 1]
                    raise refuse("packet-too-large", quoted, size=size, limit=limit, offset=base + start)
                if size > end - body:  # the sum may be more than 63 bits
                    self.needed = body - start
                    self.needed += size
                    break
                stop = body + size
                packet: Fields | None = None
                rq_type = RESPONSE
                try:
                    tag = data[body]
                    offset = body + 1
                    byte = 0
                    if tag > 127:
                        # two or three bytes, as the tags of all but the first requests
                        byte = data[offset]
                        offset += 1
                        tag = (tag & 0x7F) << 7 | byte & 0x7F
                        if byte > 127:
                            byte = data[offset]
                            offset += 1
                            tag = tag << 7 | byte & 0x7F
                    wire_flags = data[offset]
                    offset += 1
                    if byte < 128 and wire_flags < 128 and not wire_flags & FLAG_CHANNEL:
                        if wire_flags & FLAG_REQUEST:
                            rq_type = data[offset]
                            offset += 1
                        if offset <= stop and rq_type < 128:
                            packet = tag, wire_flags >> 2, rq_type, text[offset:stop]
                except IndexError:
                    pass
                if packet is None:
                    packet = decode_body(data, body, stop, base)
                    rq_type = packet[2]
                packets.append(packet)
                start = stop
                if rq_type == 0 and packet == EOF_FIELDS:
                    self.ended = True
                    break
            if start < end:
                self._partial += data[start:] if start else data
        except RemoteProtocolError as fault:
            self.fault = fault
            if not packets:
                raise
        finally:
            self.octets_decoded += start
        return packets

    def finish(self) -> None:
        """The stream ends here: raises `StreamTruncated` if that is inside a packet."""
        if self.fault is not None:
            raise self.fault
        if self._partial and not self.ended:
            announced = f" of {self.needed}" if self.needed else ""
            quoted = self.partial[:QUOTED_BYTES]
            raise StreamTruncated(
                f"the stream ended inside a packet, after {len(self.partial)}{announced} bytes of it: "
                f"{explained(quoted, repr(quoted))}"
            )

    def _complete_partial(self, data: bytes, packets: list[Fields]) -> bytes:
        """Add bytes to the packet that has begun, return those behind it."""
        partial = self._partial
        if not self.needed:
            # the length field itself is incomplete: a few bytes at most, so join and decode anew
            joined = bytes(partial) + data
            partial.clear()
            return joined
        missing = self.octets_wanted
        if len(data) < missing:
            self._collect(data)
            return b""
        last = data[:missing] if len(data) > missing else data
        if self._is_skipping:
            self._is_skipping, self._collected = False, 0
            self.octets_decoded += self.needed
            self._partial, self.needed = bytearray(), 0
            return data[missing:]
        payload = self._payload
        if payload is not None:
            payload.add(last)
            packets.append(self._long_packet(payload))
            return data[missing:]
        partial += last
        _, body = decode_varint(partial, 0, len(partial))
        packet = decode_body(partial, body, self.needed, self.octets_decoded)
        packets.append(packet)
        self.ended = packet == EOF_FIELDS
        self.octets_decoded += self.needed
        self._partial, self.needed = bytearray(), 0
        return data[missing:]

    def _long_packet(self, payload: Payload) -> Fields:
        """The packet whose payload is complete."""
        packet = (*self._head, payload.complete())
        self._payload, self._collected = None, 0
        self.octets_decoded += self.needed
        self._partial, self.needed = bytearray(), 0
        return packet

    def place(self) -> Buffer | None:
        """The place of the next bytes of a long packet: a buffer to be written to from its beginning, or None.

        The bytes that were written are then told to `placed`, before anything else is done.
        """
        payload = self._payload
        if payload is None:
            if self._is_skipping or len(self._partial) < MAX_HEAD_BYTES or self.needed < CHUNK_SIZE:
                return None
            payload = self._payload = self._begin_payload()
        return None if payload is None else payload.place()

    def placed(self, count: int) -> list[Fields]:
        """So many bytes were written to their place; returns the packet, if they complete it."""
        payload = self._payload
        if payload is None:  # it was dropped meanwhile
            return []
        payload.placed(count)
        self._collected += count
        return [] if self.octets_wanted else [self._long_packet(payload)]

    def _collect(self, data: bytes) -> None:
        """Keep bytes of the packet that has begun."""
        payload = self._payload
        if payload is None and not self._is_skipping:
            if len(self._partial) >= MAX_HEAD_BYTES and self.needed >= CHUNK_SIZE:
                payload = self._payload = self._begin_payload()
            if payload is None:
                self._partial += data
                return
        self._collected += len(data)
        if payload is not None:
            payload.add(data)

    def _begin_payload(self) -> Payload | None:
        """That of the packet that has begun, whose head has arrived; None if something is wrong with that.

        That is told when the packet is complete, so that it does not depend on the pieces in which it comes.
        """
        partial = self._partial
        _, body = decode_varint(partial, 0, len(partial))
        try:
            key, flags, wire_rq_type, begun = decode_body(partial, body, len(partial), self.octets_decoded)
        except RemoteProtocolError:
            return None
        size = self.needed - len(partial) + len(begun)
        del partial[len(partial) - len(begun) :]
        self._collected = len(begun)
        self._head = key, flags, wire_rq_type
        return Payload(size, begun)


def decode_body(data: BytesLike, start: int, end: int, base: int = 0) -> Fields:
    """The fields of the packet whose length field ends at `start`, and which ends at `end`.

    Raises `RemoteProtocolError`, with `base` as the position of `data` in the stream.
    """
    tag, offset = _field(data, start, end, "tag", start, base)
    wire_flags, offset = _field(data, offset, end, "flags", start, base)
    channel = 0
    wire_rq_type = RESPONSE
    if wire_flags & FLAG_CHANNEL:
        channel, offset = _field(data, offset, end, "channel", start, base)
    if wire_flags & FLAG_REQUEST:
        wire_rq_type, offset = _field(data, offset, end, "rq_type", start, base)
    # a bytearray is copied once only: a slice of it would be a bytearray to be copied again
    payload = data[offset:end] if isinstance(data, bytes) else bytes(memoryview(data)[offset:end])
    return (channel, tag) if channel else tag, wire_flags >> 2, wire_rq_type, payload


def _field(data: BytesLike, offset: int, end: int, name: str, start: int, base: int) -> tuple[int, int]:
    value, offset_behind = decode_varint(data, offset, end, base)
    if offset_behind < 0:
        raise refuse("field-overruns-packet", bytes(data[start:end]), field=name, offset=base + start)
    return value, offset_behind
