"""Numbered fields, as HELLO and META carry them: an id, the length of the value, the value.

Strategy: a field that is not known is skipped, so that a newer peer can say more. Everything is bounded by the
length of the whole, which is checked first. `docs/wire.md` is the specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from packetwire.core.varint import MAX_UINT, decode_varint, encode_varint
from packetwire.errors import LocalProtocolError, RemoteProtocolError

Field = tuple[int, bytes]
"""(number, value)"""

METADATA = 64
"""The id of a pair of metadata; the only one that may come more than once."""
MAX_METADATA_SIZE = 2048
"""Bytes of all keys and values of metadata together."""


class FieldError(ValueError):
    """Fields that are malformed; the text says which and why."""


def encode_fields(fields: Iterable[Field]) -> bytes:
    """The bytes of fields, in the order given."""
    return b"".join(encode_varint(number) + encode_varint(len(value)) + value for number, value in fields)


def decode_fields(data: bytes, limit: int) -> list[Field]:
    """All fields in order, also the unknown ones.

    Raises `FieldError` if they are malformed, or have more than `limit` bytes.
    """
    if len(data) > limit:
        raise FieldError(f"{len(data)} bytes of fields, the limit is {limit}")
    fields = []
    offset = 0
    while offset < len(data):
        number, offset = _integer(data, offset, "the id of a field")
        size, offset = _integer(data, offset, f"the length of field {number}")
        if size > len(data) - offset:
            raise FieldError(f"field {number} announces {size} bytes, {len(data) - offset} are left")
        fields.append((number, data[offset : offset + size]))
        offset += size
    return fields


def first_of_each(fields: Iterable[Field]) -> dict[int, bytes]:
    """Id -> value; of an id that comes twice the first counts."""
    values: dict[int, bytes] = {}
    for number, value in fields:
        values.setdefault(number, value)
    return values


def integer_of(number: int, value: bytes, least: int = 0, most: int = MAX_UINT) -> int:
    """The integer that is the whole value of field `number`.

    Raises `FieldError` if it is none, or out of bounds.
    """
    integer, end = _integer(value, 0, f"field {number}")
    if end != len(value):
        raise FieldError(f"field {number} has {len(value) - end} bytes behind its integer")
    if integer < least:
        raise FieldError(f"field {number} must be {least} or more, it is {integer}")
    if integer > most:
        raise FieldError(f"field {number} must be at most {most}, it is {integer}")
    return integer


def _integer(data: bytes, offset: int, what: str) -> tuple[int, int]:
    try:
        number, end = decode_varint(data, offset, len(data))
    except RemoteProtocolError:
        raise FieldError(f"{what} is too long an integer") from None
    if end < 0:
        raise FieldError(f"{what} is incomplete")
    return number, end


def metadata_fields(metadata: Mapping[str, bytes]) -> list[Field]:
    """The fields of metadata; raises TypeError or `LocalProtocolError` if it cannot be sent."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping, got {type(metadata).__name__}: {metadata!r:.100}")
    fields = []
    size = 0
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, bytes):
            raise TypeError(f"metadata must be bytes by str, got {key!r:.100}: {value!r:.100}")
        try:
            name = key.encode()
        except UnicodeEncodeError:
            raise LocalProtocolError(f"a key of metadata is no text in UTF-8: {key!r:.100}") from None
        size += len(name) + len(value)
        fields.append((METADATA, encode_varint(len(name)) + name + value))
    if size > MAX_METADATA_SIZE:
        raise LocalProtocolError(f"{size} bytes of metadata, the limit is {MAX_METADATA_SIZE}")
    return fields


def metadata_of(fields: Iterable[Field]) -> dict[str, bytes]:
    """The metadata among fields; raises `FieldError` if it is malformed or too large."""
    metadata: dict[str, bytes] = {}
    total = 0
    for number, value in fields:
        if number != METADATA:
            continue
        size, begin = _integer(value, 0, "the length of a key of metadata")
        if size > len(value) - begin:
            raise FieldError(f"a key of metadata announces {size} bytes, {len(value) - begin} are left")
        total += len(value) - begin
        if total > MAX_METADATA_SIZE:
            raise FieldError(f"more than {MAX_METADATA_SIZE} bytes of metadata")
        key = value[begin : begin + size].decode(errors="replace")
        metadata.setdefault(key, value[begin + size :])
    return metadata
