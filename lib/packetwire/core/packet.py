"""`Packet`, the value class, and the bytes that it is on the wire.

Strategy: a packet is a tuple, frozen and checked by its constructor; the decoder, whose fields are right by
themselves, makes it without that. `docs/wire.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, SupportsIndex

from packetwire.core.refusals import QUOTED_BYTES, refuse
from packetwire.core.varint import (
    LAST,
    MAX_UINT,
    MAX_VARINT_BYTES,
    BytesLike,
    decode_varint,
    encode_varint,
    shown,
)
from packetwire.errors import LocalProtocolError

if TYPE_CHECKING:
    from cs.buffer import CornuCopyBuffer

MAX_HEAD_BYTES = 5 * MAX_VARINT_BYTES

FLAG_CHANNEL = 1
FLAG_REQUEST = 2

_tuple_new = tuple.__new__


class WritableFile(Protocol):
    """A file, as far as `Packet.write` needs one."""

    def write(self, data: bytes | memoryview, /) -> int | None: ...

    def flush(self) -> object: ...


def head_tail(channel: int, wire_flags: int, wire_rq_type: int | None) -> bytes:
    """The bytes between the tag and the payload; FLAG_CHANNEL is added to `wire_flags` if it is due."""
    if channel:
        tail = encode_varint(wire_flags | FLAG_CHANNEL) + encode_varint(channel)
    elif wire_flags < 128:
        tail = LAST[wire_flags]
    else:
        tail = encode_varint(wire_flags)
    return tail if wire_rq_type is None else tail + encode_varint(wire_rq_type)


def packet_head(tag: int, tail: bytes, payload_size: int) -> bytes:
    """The bytes of a packet up to its payload: length, tag, and the `tail` made by `head_tail`."""
    body = encode_varint(tag) + tail
    size = len(body) + payload_size
    return (LAST[size] if size < 128 else encode_varint(size)) + body


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
        """Yield the bytes of the packet: its head, then its payload if there is one."""
        wire_rq_type = self.rq_type if self.is_request else None
        yield packet_head(self.tag, head_tail(self.channel, self.wire_flags, wire_rq_type), len(self.payload))
        if self.payload:
            yield self.payload

    transcribe_flat = transcribe

    def __bytes__(self) -> bytes:
        return b"".join(self.transcribe())

    def transcribed_length(self) -> int:
        """The number of bytes of the encoded packet."""
        return sum(map(len, self.transcribe()))

    def __len__(self) -> int:
        return self.transcribed_length()

    def write(self, file: WritableFile, flush: bool = False, log: Callable[..., object] | None = None) -> int:
        """Write the packet to a binary file, return the number of bytes."""
        if log:
            log("==> WRITE %-20s, flush=%s", self, flush)
        length = 0
        for part in self.transcribe():
            rest: bytes | memoryview = part
            while rest:
                written = file.write(rest)
                if not written:
                    raise BlockingIOError(f"{file!r} took none of {len(rest)} bytes")
                rest = memoryview(rest)[written:]
            length += len(part)
        if flush:
            file.flush()
        return length

    @classmethod
    def parse(cls, bfr: CornuCopyBuffer, log: Callable[..., object] | None = None) -> Self:
        """Parse one packet from a `cs.buffer.CornuCopyBuffer`.

        Raises EOFError if the buffer ends inside the packet, `RemoteProtocolError` if it is malformed.
        """
        start = bfr.offset
        size = taken = 0
        while True:
            byte = bfr.byte0()
            taken += 1
            size = size << 7 | byte & 0x7F
            if byte < 128:
                break
            if taken == MAX_VARINT_BYTES:
                raise refuse("varint-too-long", limit=MAX_VARINT_BYTES, offset=start)
        body = bytes(bfr.take(size))
        self = cls._of_body(body, 0, size, start + taken)
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
        """Parse one packet from `bs` at `offset`, within `length` bytes; return it and the offset behind.

        Raises EOFError if the bytes end inside the packet, `RemoteProtocolError` if it is malformed.
        """
        data = bs if isinstance(bs, bytes) else memoryview(bs).cast("B")
        start = offset.__index__()
        if start < 0:
            raise ValueError(f"offset must be 0 or more, got {start}")
        end = len(data) if length is None else min(len(data), start + length)
        size, body = decode_varint(data, start, end)
        if body < 0 or body + size > end:
            raise EOFError(f"the bytes end inside the packet at offset {start}")
        return cls._of_body(data, body, body + size), body + size

    @classmethod
    def from_bytes(cls, bs: BytesLike) -> Self:
        """The one packet that `bs` holds; ValueError if there is more behind it."""
        data = bs if isinstance(bs, bytes) else memoryview(bs).cast("B")
        self, offset = cls.parse_bytes(data)
        if offset < len(data):
            unparsed = bytes(data[offset : offset + QUOTED_BYTES])
            raise ValueError(f"{len(data) - offset} bytes of unparsed data at offset {offset}: {unparsed!r}")
        return self

    @classmethod
    def _of_body(cls, data: BytesLike, start: int, end: int, base: int = 0) -> Self:
        """Parse what follows the length field: `data[start:end]`."""
        offset = start
        fields = []
        for name in ("tag", "flags"):
            value, offset = _field(data, offset, end, name, start, base)
            fields.append(value)
        tag, wire_flags = fields
        channel = 0
        rq_type = None
        if wire_flags & FLAG_CHANNEL:
            channel, offset = _field(data, offset, end, "channel", start, base)
        if wire_flags & FLAG_REQUEST:
            rq_type, offset = _field(data, offset, end, "rq_type", start, base)
        # a bytearray is copied once only: a slice of it would be a bytearray to be copied again
        payload = data[offset:end] if isinstance(data, bytes) else bytes(memoryview(data)[offset:end])
        is_request = bool(wire_flags & FLAG_REQUEST)
        return _tuple_new(cls, (is_request, channel, tag, wire_flags >> 2, rq_type, payload))


def _field(data: BytesLike, offset: int, end: int, name: str, start: int, base: int) -> tuple[int, int]:
    value, offset_behind = decode_varint(data, offset, end, base)
    if offset_behind < 0:
        raise refuse("field-overruns-packet", bytes(data[start:end]), field=name, offset=base + start)
    return value, offset_behind


def check_uint(name: str, value: int, limit: int = MAX_UINT) -> None:
    """Raise TypeError or `LocalProtocolError` unless `value` is an int from 0 to `limit`."""
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}: {value!r:.100}")
    if not 0 <= value <= limit:
        raise LocalProtocolError(f"{name} must be from 0 to {limit}, got {shown(value)}")


def check_payload(payload: BytesLike) -> bytes:
    """`payload` as bytes; TypeError if it is not bytes-like."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, bytearray | memoryview):
        return bytes(payload)
    raise TypeError(f"payload must be bytes-like, got {type(payload).__name__}: {payload!r:.100}")


def payload_size(payload: BytesLike) -> int:
    """Bytes of a payload; 0 for what `check_payload` refuses."""
    return len(payload) if isinstance(payload, bytes | bytearray | memoryview) else 0


EOF_PACKET = Packet(is_request=True, channel=0, tag=0, flags=0, rq_type=0, payload=b"")
"""The last packet of a stream."""

ERQ_PACKET = Packet(is_request=True, channel=0, tag=1, flags=0, rq_type=0, payload=b"")
"""End of requests: only responses and EOF follow."""
