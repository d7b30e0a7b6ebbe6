"""HELLO: what an end says of itself, once in the life of a connection.

It is an ordinary request on the control channel and its response, so a peer that does not know it refuses it.
`docs/wire.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from operator import itemgetter

from packetwire.core.fields import (
    FieldError,
    decode_fields,
    encode_fields,
    first_of_each,
    integer_of,
    metadata_fields,
    metadata_of,
)
from packetwire.core.settings import DEFAULT_MAX_PACKET_SIZE
from packetwire.core.varint import MAX_UINT, encode_varint
from packetwire.errors import LocalProtocolError

CONTROL_CHANNEL = 1
"""Requests that the engine answers by itself."""

HELLO = 5265202
"""Its request type: "PW2" as a number, which no request map contains."""
PING = 1
MAX_PING_SIZE = 32
DRAIN = 2
DESCRIBE = 3
HELLO_TIMEOUT = 10.0
"""Seconds for which a call waits, at most, to learn what the peer understands."""
MAX_REASON = 1000
"""Characters of the text in DRAIN, at most."""

ASK = b"pw2?"
ANSWER = b"pw2!"
"""The beginnings of the payloads: they differ, so that an echo of the request is no answer."""

VERSION = 1
MAX_HELLO_SIZE = 4096
"""Bytes of all fields together."""
MAX_TEXT_SIZE = 255
"""Bytes of a name, version or software that is sent."""

LEAST_PIECE, MOST_PIECE = 1024, 1_048_576
HASH_SIZE = 8
EPOCH_SIZE = 8
CLIENT_ID_SIZE = 16


class Feature(IntFlag):
    """Extensions of the packet stream that an end understands."""

    CANCEL = 1
    """CANCEL frames and status codes."""
    META = 2
    """META frames: deadlines and metadata."""
    BODIES = 4
    PIECES = 8
    PROGRESS = 16
    DRAIN = 32
    DESCRIBE = 64
    REQUEST_IDS = 128
    TYPED_ERRORS = 256


NO_FEATURES = Feature(0)
ALL_FEATURES = Feature(511)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """One end's settings; they hold for the life of the connection."""

    version: int = VERSION
    features: Feature = NO_FEATURES
    max_packet_size: int = DEFAULT_MAX_PACKET_SIZE
    """Bytes of a packet behind its length field, at most."""
    max_inbound: int | None = None
    """Requests without a reply that it takes; None if it did not say."""
    body_credit: int = 262_144
    """Bytes of each body that may be sent at once."""
    max_bodies: int = 64
    """Bodies that may be open towards it at a time."""
    max_piece: int = 262_144
    """Bytes of the payload of one DATA or PIECE frame."""
    protocol: str | None = None
    """The name of the application's protocol."""
    protocol_version: str | None = None
    schema_hash: bytes | None = None
    """The first 8 bytes of the hash of its schema."""
    software: str | None = None
    epoch: bytes | None = None
    """8 bytes, drawn anew when the service starts."""
    client_id: bytes | None = None
    """16 random bytes, kept over reconnections."""
    metadata: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("protocol", "protocol_version", "software"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a string, got {type(value).__name__}: {value!r:.100}")


def encode_hello(hello: Hello) -> bytes:
    """The fields of HELLO, without what tells ask and answer apart.

    Only what differs from the default is said. Raises `LocalProtocolError` if a text or the metadata is too long.
    """
    fields = [(1, encode_varint(hello.version))]
    for number, name in _INTEGERS.items():
        integer = getattr(hello, name)
        if integer is not None and integer != getattr(_DEFAULT, name):
            fields.append((number, encode_varint(integer)))
    for number, name in _TEXTS.items():
        text = getattr(hello, name)
        if text is not None:
            fields.append((number, _text(name, text)))
    for number, (name, size) in _BYTES.items():
        value = getattr(hello, name)
        if value is not None:
            if len(value) != size:
                raise LocalProtocolError(f"{name} must have {size} bytes, got {len(value)}")
            fields.append((number, value))
    fields.sort(key=itemgetter(0))
    return encode_fields(fields + metadata_fields(hello.metadata))


def decode_hello(data: bytes) -> Hello:
    """The HELLO in the fields; raises `FieldError` if they are malformed, or without a version that is known."""
    fields = decode_fields(data, MAX_HELLO_SIZE)
    values = first_of_each(fields)
    if 1 not in values:
        raise FieldError("HELLO without a version")
    said: dict[str, object] = {"version": integer_of(1, values[1], VERSION)}
    for number, name in _INTEGERS.items():
        if number in values:
            least, most = _BOUNDS.get(number, (0, MAX_UINT))
            said[name] = integer_of(number, values[number], least, most)
    if "features" in said:
        said["features"] = Feature(integer_of(2, values[2]) & ALL_FEATURES)
    for number, name in _TEXTS.items():
        if number in values:
            said[name] = values[number].decode(errors="replace")
    for number, (name, size) in _BYTES.items():
        if number in values:
            if len(values[number]) != size:
                raise FieldError(f"field {number} must have {size} bytes, it has {len(values[number])}")
            said[name] = values[number]
    return Hello(**said, metadata=metadata_of(fields))  # type: ignore[arg-type]


def encode_drain(milliseconds: int | None, text: str) -> bytes:
    """The payload of DRAIN: the time until the connection is cut off, if that is known, and why, in short."""
    fields = [] if milliseconds is None else [(1, encode_varint(milliseconds))]
    return encode_fields(fields + ([(2, text[:MAX_REASON].encode(errors="replace"))] if text else []))


def decode_drain(payload: bytes) -> tuple[int | None, str]:
    """(milliseconds, text) of DRAIN; raises `FieldError`."""
    values = first_of_each(decode_fields(payload, MAX_HELLO_SIZE))
    milliseconds = integer_of(1, values[1]) if 1 in values else None
    return milliseconds, values.get(2, b"").decode(errors="replace")[:MAX_REASON]


def _text(name: str, text: str) -> bytes:
    data = text.encode(errors="replace")
    if len(data) > MAX_TEXT_SIZE:
        raise LocalProtocolError(f"{name} has {len(data)} bytes, the limit is {MAX_TEXT_SIZE}")
    return data


_INTEGERS = {
    2: "features",
    3: "max_packet_size",
    4: "max_inbound",
    5: "body_credit",
    6: "max_bodies",
    7: "max_piece",
}
_BOUNDS = {7: (LEAST_PIECE, MOST_PIECE)}
_TEXTS = {8: "protocol", 9: "protocol_version", 11: "software"}
_BYTES = {10: ("schema_hash", HASH_SIZE), 12: ("epoch", EPOCH_SIZE), 13: ("client_id", CLIENT_ID_SIZE)}
_DEFAULT = Hello()
