"""The packet stream's codec: integers, packets, and the decoder that finds packets in octets.

Strategy: the decoder indexes `bytes` in place, with a one-octet fast path for each integer, because
nearly all fields of nearly all packets are below 128. A packet that is longer than what has arrived is
collected in a bytearray that grows with the octets that come, never with the length that was announced,
and its payload is copied out of it once. `docs/wire.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, SupportsIndex

from packetwire.core.refusals import QUOTED_OCTETS, refuse
from packetwire.errors import LocalProtocolError, RemoteProtocolError, StreamTruncated

if TYPE_CHECKING:
    from cs.buffer import CornuCopyBuffer

MAX_VARINT_OCTETS = 9
CHUNK_SIZE = 16384
"""From this size on a piece of a packet is kept as it came."""
MAX_HEAD_OCTETS = 5 * MAX_VARINT_OCTETS
MAX_UINT = (1 << 7 * MAX_VARINT_OCTETS) - 1
"""The largest integer on the wire: 63 bits."""

DEFAULT_MAX_PACKET_SIZE = 64 << 20
"""Octets of a packet after its length field."""

FLAG_CHANNEL = 1
FLAG_REQUEST = 2

BytesLike = bytes | bytearray | memoryview

_LAST = tuple(bytes((n,)) for n in range(128))
_MORE = tuple(bytes((n | 0x80,)) for n in range(128))
_tuple_new = tuple.__new__


class WritableFile(Protocol):
    """What `Packet.write` needs of a file."""

    def write(self, octets: bytes | memoryview, /) -> int | None: ...

    def flush(self) -> object: ...


def encode_varint(n: int) -> bytes:
    """The minimal encoding of `n`: big-endian base 128, the high bit set on all octets but the last."""
    if 0 <= n < 1 << 7:
        return _LAST[n]
    if 0 <= n < 1 << 14:
        return _MORE[n >> 7] + _LAST[n & 0x7F]
    if 0 <= n < 1 << 21:
        return _MORE[n >> 14] + _MORE[n >> 7 & 0x7F] + _LAST[n & 0x7F]
    if not 0 <= n <= MAX_UINT:
        raise LocalProtocolError(f"{_shown(n)} cannot be sent: integers go from 0 to 2**63 - 1")
    octets = _LAST[n & 0x7F]
    while n := n >> 7:
        octets = _MORE[n & 0x7F] + octets
    return octets


def decode_varint(octets: BytesLike, offset: int, end: int, base: int = 0) -> tuple[int, int]:
    """Decode one integer at `offset`, return it and the offset behind it.

    Returns an offset of -1 if the integer does not end before `end`. `base` is the position of
    `octets` in the stream, for the message of the `RemoteProtocolError` that an integer of more than 9
    octets raises.
    """
    value = 0
    for position in range(offset, min(end, offset + MAX_VARINT_OCTETS)):
        octet = octets[position]
        value = value << 7 | octet & 0x7F
        if octet < 128:
            return value, position + 1
    if end - offset >= MAX_VARINT_OCTETS:
        quoted = bytes(octets[offset : min(end, offset + QUOTED_OCTETS + 1)])
        raise refuse("varint-too-long", quoted, limit=MAX_VARINT_OCTETS, offset=base + offset)
    return value, -1


def head_tail(channel: int, wire_flags: int, wire_rq_type: int | None) -> bytes:
    """The octets between the tag and the payload; FLAG_CHANNEL is added to `wire_flags` if it is due."""
    if channel:
        octets = encode_varint(wire_flags | FLAG_CHANNEL) + encode_varint(channel)
    elif wire_flags < 128:
        octets = _LAST[wire_flags]
    else:
        octets = encode_varint(wire_flags)
    return octets if wire_rq_type is None else octets + encode_varint(wire_rq_type)


def packet_head(tag: int, tail: bytes, payload_size: int) -> bytes:
    """The octets of a packet up to its payload: length, tag, and the `tail` made by `head_tail`."""
    body = encode_varint(tag) + tail
    size = len(body) + payload_size
    return (_LAST[size] if size < 128 else encode_varint(size)) + body


class _PacketFields(NamedTuple):
    is_request: bool
    channel: int
    tag: int
    flags: int
    rq_type: int | None
    payload: bytes


class Packet(_PacketFields):
    """One packet of the stream, frozen.

    `rq_type` is the number on the wire, one more than the API's (the wire's 0 is kept for EOF and ERQ);
    it is None in a response. `flags` are the user flags: in a response their bit 0 is "ok".

    As a cs.binary class does it has `parse`, `parse_bytes`, `from_bytes`, `scan`, `transcribe`, `write`
    and `bytes()`. Two responses are equal whatever their `rq_type`.
    """

    __slots__ = ()

    def __new__(
        cls,
        *,
        is_request: bool,
        channel: int = 0,
        tag: int,
        flags: int = 0,
        rq_type: int | None = None,
        payload: BytesLike = b"",
    ) -> Self:
        """Check and freeze the fields; raises `LocalProtocolError` or TypeError, which name the value."""
        is_request = bool(is_request)
        if is_request and rq_type is None:
            raise LocalProtocolError("a request needs an rq_type, got None")
        check_uint("channel", channel)
        check_uint("tag", tag)
        check_uint("flags", flags, MAX_UINT >> 2)
        if rq_type is not None:
            check_uint("rq_type", rq_type)
        return _tuple_new(cls, (is_request, channel, tag, flags, rq_type, check_payload(payload)))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        # what a named tuple's `_replace` and `copy.replace` build with: checked, and blind to our __len__
        return cls(**dict(zip(cls._fields, iterable, strict=True)))

    def __eq__(self, other: object) -> bool:
        # false, not NotImplemented, for what is no packet: a plain tuple would find itself equal
        if not isinstance(other, Packet):
            return False
        same = self[:4] == other[:4] and self.payload == other.payload
        return same and (self.rq_type == other.rq_type or not self.is_request)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.is_request, self.channel, self.tag, self.flags, self.payload))

    def __repr__(self) -> str:
        payload = repr(self.payload[:16]) + "..." if len(self.payload) > 16 else repr(self.payload)
        rq_type = f",rq_type={self.rq_type}" if self.is_request else ""
        return (
            f"{type(self).__name__}(is_request={self.is_request},channel={self.channel},tag={self.tag},"
            f"flags=0x{self.flags:02x}{rq_type},payload={payload})"
        )

    __str__ = __repr__

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), self._asdict()

    @property
    def wire_flags(self) -> int:
        """The flags integer as it goes over the wire."""
        return self.flags << 2 | FLAG_REQUEST * self.is_request | FLAG_CHANNEL * (self.channel != 0)

    def transcribe(self) -> Iterator[bytes]:
        """Yield the octets of the packet: its head, then its payload if there is one."""
        wire_rq_type = self.rq_type if self.is_request else None
        yield packet_head(self.tag, head_tail(self.channel, self.wire_flags, wire_rq_type), len(self.payload))
        if self.payload:
            yield self.payload

    transcribe_flat = transcribe

    def __bytes__(self) -> bytes:
        return b"".join(self.transcribe())

    def transcribed_length(self) -> int:
        """The number of octets of the encoded packet."""
        return sum(map(len, self.transcribe()))

    def __len__(self) -> int:
        return self.transcribed_length()

    def write(self, file: WritableFile, flush: bool = False, log: Callable[..., object] | None = None) -> int:
        """Write the packet to a binary file, return the number of octets."""
        if log:
            log("==> WRITE %-20s, flush=%s", self, flush)
        length = 0
        for octets in self.transcribe():
            rest: bytes | memoryview = octets
            while rest:
                written = file.write(rest)
                if not written:
                    raise BlockingIOError(f"{file!r} took none of {len(rest)} octets")
                rest = memoryview(rest)[written:]
            length += len(octets)
        if flush:
            file.flush()
        return length

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer, log: Callable[..., object] | None = None) -> Self:
        """Parse one packet from a `cs.buffer.CornuCopyBuffer`.

        Raises EOFError if the buffer ends inside the packet, `RemoteProtocolError` if it is malformed.
        """
        start = bfr.offset
        size = octets_taken = 0
        while True:
            octet = bfr.byte0()
            octets_taken += 1
            size = size << 7 | octet & 0x7F
            if octet < 128:
                break
            if octets_taken == MAX_VARINT_OCTETS:
                raise refuse("varint-too-long", limit=MAX_VARINT_OCTETS, offset=start)
        body = bytes(bfr.take(size))
        self = cls._of_body(body, 0, size, start + octets_taken)
        if log:
            log("<== PARSE %-20s", self)
        return self

    @classmethod
    def scan(cls, bfr: CornuCopyBuffer, log: Callable[..., object] | None = None) -> Iterator[Self]:
        """Yield packets until the buffer is at its end."""
        while not bfr.at_eof():
            yield cls.parse(bfr, log=log)

    @classmethod
    def parse_bytes(cls, bs: BytesLike, offset: SupportsIndex = 0, length: int | None = None) -> tuple[Self, int]:
        """Parse one packet from `bs` at `offset`, within `length` octets; return it and the offset behind.

        Raises EOFError if the octets end inside the packet, `RemoteProtocolError` if it is malformed.
        """
        octets = bs if isinstance(bs, bytes) else memoryview(bs).cast("B")
        start = offset.__index__()
        if start < 0:
            raise ValueError(f"offset must be 0 or more, got {start}")
        end = len(octets) if length is None else min(len(octets), start + length)
        size, body = decode_varint(octets, start, end)
        if body < 0 or body + size > end:
            raise EOFError(f"the octets end inside the packet at offset {start}")
        return cls._of_body(octets, body, body + size), body + size

    @classmethod
    def from_bytes(cls, bs: BytesLike) -> Self:
        """The one packet that `bs` holds; ValueError if there is more behind it."""
        octets = bs if isinstance(bs, bytes) else memoryview(bs).cast("B")
        self, offset = cls.parse_bytes(octets)
        if offset < len(octets):
            unparsed = bytes(octets[offset : offset + QUOTED_OCTETS])
            raise ValueError(f"{len(octets) - offset} octets of unparsed data at offset {offset}: {unparsed!r}")
        return self

    @classmethod
    def _of_body(cls, octets: BytesLike, start: int, end: int, base: int = 0) -> Self:
        """Parse what follows the length field: `octets[start:end]`."""
        offset = start
        fields = []
        for name in ("tag", "flags"):
            value, offset = _field(octets, offset, end, name, start, base)
            fields.append(value)
        tag, wire_flags = fields
        channel = 0
        rq_type = None
        if wire_flags & FLAG_CHANNEL:
            channel, offset = _field(octets, offset, end, "channel", start, base)
        if wire_flags & FLAG_REQUEST:
            rq_type, offset = _field(octets, offset, end, "rq_type", start, base)
        # a bytearray is copied once only: a slice of it would be a bytearray to be copied again
        payload = octets[offset:end] if isinstance(octets, bytes) else bytes(memoryview(octets)[offset:end])
        is_request = bool(wire_flags & FLAG_REQUEST)
        return _tuple_new(cls, (is_request, channel, tag, wire_flags >> 2, rq_type, payload))


def _field(octets: BytesLike, offset: int, end: int, name: str, start: int, base: int) -> tuple[int, int]:
    value, offset_behind = decode_varint(octets, offset, end, base)
    if offset_behind < 0:
        raise refuse("field-overruns-packet", bytes(octets[start:end]), field=name, offset=base + start)
    return value, offset_behind


def _shown(n: int) -> str:
    # an int of very many digits cannot be turned into decimal text
    return str(n) if n.bit_length() <= 128 else f"{n:#x}"[:32] + "…"


def check_uint(name: str, value: int, limit: int = MAX_UINT) -> None:
    """Raise TypeError or `LocalProtocolError` unless `value` is an int from 0 to `limit`."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}: {value!r:.100}")
    if not 0 <= value <= limit:
        raise LocalProtocolError(f"{name} must be from 0 to {limit}, got {_shown(value)}")


def check_payload(payload: BytesLike) -> bytes:
    """`payload` as bytes; TypeError if it is not bytes-like."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    raise TypeError(f"payload must be bytes-like, got {type(payload).__name__}: {payload!r:.100}")


EOF_PACKET = Packet(is_request=True, channel=0, tag=0, flags=0, rq_type=0, payload=b"")
"""The last packet of a stream."""

ERQ_PACKET = Packet(is_request=True, channel=0, tag=1, flags=0, rq_type=0, payload=b"")
"""End of requests: only responses and EOF follow."""


class PacketDecoder:
    """Octets in, packets out, whatever the chunks that the octets come in.

    `feed` returns the packets that are complete; `finish` says that nothing more comes. The EOF packet is
    the last one of a stream: what follows it is not decoded but kept in `trailing`.
    `max_packet_size` counts the octets that follow the length field.
    """

    def __init__(self, max_packet_size: int = DEFAULT_MAX_PACKET_SIZE) -> None:
        self.max_packet_size = max_packet_size
        self.octets_decoded = 0
        """The position in the stream behind the last complete packet."""
        self.ended = False
        """Whether the EOF packet was decoded."""
        self.fault: RemoteProtocolError | None = None
        """What was wrong with the octets; nothing behind that can be decoded."""
        self._partial = bytearray()
        # behind _partial, if the packet is long: chunks are joined once, because a buffer that grows
        # costs a page fault for every page, again and again
        self._chunks: list[bytes | bytearray] = []
        self._chunks_size = 0
        self.needed = 0
        """The octets that the packet that has begun has in all; 0 while that is not known."""
        self._is_skipping = False

    @property
    def bytes_kept(self) -> int:
        """Bytes of the packet that has begun."""
        return 1 if self._is_skipping else len(self._partial) + self._chunks_size

    def drop(self) -> None:
        """Nothing more is decoded, nor asked for what has begun: keep nothing of it."""
        self._partial, self._chunks = bytearray(), []
        self._chunks_size = self.needed = 0

    def skip(self) -> None:
        """Drop the packet that has begun, whose head is there, with all that is still to come of it."""
        self._is_skipping = True
        self._chunks = []
        self._chunks_size += len(self._partial) - 1
        del self._partial[1:]  # something is left, as a packet has begun

    @property
    def octets_wanted(self) -> int:
        """How many octets complete the packet that has begun; 0 if none has or its length is not known."""
        return max(0, self.needed - len(self._partial) - self._chunks_size)

    @property
    def partial(self) -> bytes:
        """The octets of the packet that has begun, whole only in part."""
        return b"" if self.ended else b"".join((self._partial, *self._chunks))

    @property
    def trailing(self) -> bytes:
        """The octets behind the EOF packet."""
        return bytes(self._partial) if self.ended else b""

    def incomplete_head(self) -> Packet | None:
        """The fields of the packet that has begun, without payload; None until they have all arrived."""
        if not self.needed or self._is_skipping:
            return None
        start = bytes(self._partial[:MAX_HEAD_OCTETS])
        _, body = decode_varint(start, 0, len(start))
        try:
            head = Packet._of_body(start, body, len(start))
        except RemoteProtocolError:
            return None
        return head._replace(payload=b"")

    def feed(self, octets: BytesLike) -> list[Packet]:
        """Take octets, return the packets that they complete.

        Raises `RemoteProtocolError` if they break a rule of the format. If packets came before the fault
        these are returned first: the exception is then in `fault`, and the next call raises it.
        """
        if self.fault is not None:
            raise self.fault
        if type(octets) is not bytes:
            octets = check_payload(octets)
        packets: list[Packet] = []
        try:
            if self._partial and not self.ended:
                octets = self._complete_partial(octets, packets)
            if self.ended:
                self._partial += octets
            elif octets:
                self._decode(octets, packets)
        except RemoteProtocolError as fault:
            self.fault = fault
            if not packets:
                raise
        return packets

    def finish(self) -> None:
        """The stream ends here: raises `StreamTruncated` if that is inside a packet."""
        if self.fault is not None:
            raise self.fault
        if self._partial and not self.ended:
            announced = f" of {self.needed}" if self.needed else ""
            raise StreamTruncated(
                f"the stream ended inside a packet, after {len(self.partial)}{announced} octets of it: "
                f"{bytes(self._partial[:QUOTED_OCTETS])!r}"
            )

    def _complete_partial(self, octets: bytes, packets: list[Packet]) -> bytes:
        """Add octets to the packet that has begun, return those behind it."""
        partial = self._partial
        if not self.needed:
            # the length field itself is incomplete: a few octets at most, so join and decode anew
            joined = bytes(partial) + octets
            partial.clear()
            return joined
        missing = self.octets_wanted
        if len(octets) < missing:
            self._collect(octets)
            return b""
        last = octets[:missing] if len(octets) > missing else octets
        if self._is_skipping:
            self._is_skipping, self._chunks_size = False, 0
            self.octets_decoded += self.needed
            self._partial, self.needed = bytearray(), 0
            return octets[missing:]
        if self._chunks:
            packet = self._join(last)
        else:
            partial += last
            _, body = decode_varint(partial, 0, len(partial))
            packet = Packet._of_body(partial, body, self.needed, self.octets_decoded)
        packets.append(packet)
        self.ended = packet == EOF_PACKET
        self.octets_decoded += self.needed
        self._partial, self.needed = bytearray(), 0
        return octets[missing:]

    def _collect(self, octets: bytes) -> None:
        """Keep octets of the packet that has begun, in few pieces even if they come one by one."""
        if self._is_skipping:
            self._chunks_size += len(octets)
            return
        if not self._chunks and (len(self._partial) < MAX_HEAD_OCTETS or len(octets) < CHUNK_SIZE):
            self._partial += octets
            return
        self._chunks_size += len(octets)
        if len(octets) >= CHUNK_SIZE:
            self._chunks.append(octets)
        elif isinstance(self._chunks[-1], bytearray):
            self._chunks[-1] += octets
        else:
            self._chunks.append(bytearray(octets))

    def _join(self, last: bytes) -> Packet:
        """The packet of all chunks; its fields are in `_partial`, which is long enough for them."""
        _, body = decode_varint(self._partial, 0, len(self._partial))
        head = Packet._of_body(self._partial, body, len(self._partial), self.octets_decoded)
        payload = b"".join((head.payload, *self._chunks, last))
        self._chunks, self._chunks_size = [], 0
        return _tuple_new(Packet, (*head[:5], payload))

    def _decode(self, octets: bytes, packets: list[Packet]) -> None:
        """Decode whole packets in place; keep the octets of the last, incomplete one.

        Fields of one octet are read here, without looking for the packet's end. Whatever is longer, or
        amiss, such as a field that ran past the end, which shows in the last offset, is left to
        `Packet._of_body`, which does not look at what happens to lie behind the packet.
        """
        base = self.octets_decoded
        limit = self.max_packet_size
        end = len(octets)
        start = 0
        try:
            while start < end:
                size = octets[start]
                body = start + 1
                if size > 127:
                    size, body = decode_varint(octets, start, end, base)
                    if body < 0:
                        break
                if size > limit:
                    quoted = octets[start : start + QUOTED_OCTETS + 1]
                    raise refuse("packet-too-large", quoted, size=size, limit=limit, offset=base + start)
                stop = body + size
                if stop > end:
                    self.needed = stop - start
                    break
                packet = None
                try:
                    tag = octets[body]
                    offset = body + 1
                    if tag > 127:
                        # two or three octets, as the tags of all but the first requests
                        octet = octets[offset]
                        offset += 1
                        tag = (tag & 0x7F) << 7 | octet & 0x7F
                        if octet > 127:
                            octet = octets[offset]
                            offset += 1
                            tag = tag << 7 | octet & 0x7F
                    else:
                        octet = 0
                    wire_flags = octets[offset]
                    offset += 1
                    if octet < 128 and wire_flags < 128 and not wire_flags & FLAG_CHANNEL:
                        rq_type = None
                        if wire_flags & FLAG_REQUEST:
                            rq_type = octets[offset]
                            offset += 1
                        if offset <= stop and (rq_type is None or rq_type < 128):
                            packet = _tuple_new(
                                Packet, (rq_type is not None, 0, tag, wire_flags >> 2, rq_type, octets[offset:stop])
                            )
                except IndexError:
                    pass
                if packet is None:
                    packet = Packet._of_body(octets, body, stop, base)
                packets.append(packet)
                start = stop
                if packet[4] == 0 and packet == EOF_PACKET:
                    self.ended = True
                    break
        finally:
            self.octets_decoded = base + start
        if start < end:
            self._partial += octets[start:] if start else octets
