"""Values without an annotation: what MessagePack has by itself."""

from __future__ import annotations

from typing import Any

from packetwire.typed.badvalue import BadValue, Refusal, quoted
from packetwire.typed.msgpack import (
    MAX_DEPTH,
    array_head,
    bin_head,
    check_items,
    float_bytes,
    int_bytes,
    map_head,
    packed,
    str_bytes,
    unpacked,
)


class Plain:
    """The codec of None, bool, int, float, str, bytes, and of lists and dicts of these; a tuple becomes a list."""

    def encode(self, value: object) -> bytes:
        """The bytes of a value. Raises `BadValue`."""
        try:
            data = _encoded(value, 0)
            check_items(data)
        except Refusal as refusal:
            raise refusal.as_bad_value() from None
        return data

    def decode(self, data: bytes) -> Any:
        """The value of the bytes. Raises `BadValue`."""
        return unpacked(data)


def _encoded(value: object, depth: int) -> bytes:
    if depth >= MAX_DEPTH:
        raise Refusal(f"it is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, bool):
        return packed(value)
    if isinstance(value, int):
        return int_bytes(value)
    if isinstance(value, float):
        return float_bytes(value)
    if isinstance(value, str):
        return str_bytes(value)
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return bin_head(len(data)) + data
    if isinstance(value, list | tuple):
        return array_head(len(value)) + b"".join(
            _under(f"[{number}]", each, depth) for number, each in enumerate(value)
        )
    if isinstance(value, dict):
        return map_head(len(value)) + b"".join(
            _under(f"[{quoted(key)}]", part, depth) for key, each in value.items() for part in (key, each)
        )
    raise Refusal(f"a {type(value).__name__} cannot be sent without an annotation that says so")


def _under(step: str, value: object, depth: int) -> bytes:
    try:
        return _encoded(value, depth + 1)
    except Refusal as refusal:
        refusal.under(step)
        raise


def plain_or_none(value: object) -> Any:
    """The value if it is plain, else None."""
    try:
        Plain().encode(value)
    except BadValue:
        return None
    return value
