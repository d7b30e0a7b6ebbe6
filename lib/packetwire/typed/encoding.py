"""The pure encoder: for each kind a closure that checks a value and appends its bytes.

Strategy. A closure gets the value, the bytearray and the depth. It accepts what is of the kind by Python's own
classes: an int where a float is wanted, any of the sequences where one is wanted, subclasses. The bytes are those
of msgspec, for the kinds that it knows.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

from packetwire.typed.badvalue import Refusal, expected, quoted
from packetwire.typed.kinds import TAG, Choice, Entries, Items, Kind, Named, OneOf, Record, Row, Scalar
from packetwire.typed.msgpack import (
    MAX_DEPTH,
    NIL,
    array_head,
    bin_head,
    float_bytes,
    int_bytes,
    map_head,
    str_bytes,
    timestamp_bytes,
)

Encode: TypeAlias = Callable[[object, bytearray, int], None]
"""Appends the bytes of a value. Raises `Refusal`."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_SECOND = dt.timedelta(seconds=1)


class Encoders:
    """Makes the encoder of a kind; that of a recursive one is looked up when it is used."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, bytes], Encode] = {}

    def of(self, kind: Kind) -> Encode:
        """The encoder."""
        if isinstance(kind, Scalar):
            return _SCALARS[kind.type]
        if isinstance(kind, Choice):
            return _choice(kind)
        if isinstance(kind, Named):
            return _named(kind)
        if isinstance(kind, Items):
            return self._items(kind)
        if isinstance(kind, Row):
            return self._row(kind)
        if isinstance(kind, Entries):
            return self._entries(kind)
        if isinstance(kind, Record):
            return self._record(kind)
        assert isinstance(kind, OneOf)
        return self._one_of(kind)

    def _items(self, kind: Items) -> Encode:
        item, said = self.of(kind.item), kind.said()

        def encode(value: Any, out: bytearray, depth: int) -> None:
            _check_sequence(value, said, depth)
            out += array_head(len(value))
            at = 0
            try:
                for each in value:
                    item(each, out, depth + 1)
                    at += 1
            except Refusal as refusal:
                refusal.under(f"[{at}]")
                raise

        return encode

    def _row(self, kind: Row) -> Encode:
        encoders, said = [self.of(item) for item in kind.items], kind.said()

        def encode(value: Any, out: bytearray, depth: int) -> None:
            _check_sequence(value, said, depth)
            if len(value) != len(encoders):
                raise Refusal(f"expected {said}, got {len(value)} items")
            out += array_head(len(encoders))
            at = 0
            try:
                for encoder, each in zip(encoders, value, strict=True):
                    encoder(each, out, depth + 1)
                    at += 1
            except Refusal as refusal:
                refusal.under(f"[{at}]")
                raise

        return encode

    def _entries(self, kind: Entries) -> Encode:
        encode_key, encode_value, said = self.of(kind.key), self.of(kind.value), kind.said()

        def encode(value: object, out: bytearray, depth: int) -> None:
            if not isinstance(value, dict):
                raise expected(said, type(value).__name__)
            _check_depth(depth)
            out += map_head(len(value))
            key = None
            try:
                for key, each in value.items():
                    encode_key(key, out, depth + 1)
                    encode_value(each, out, depth + 1)
            except Refusal as refusal:
                refusal.under(f"[{quoted(key)}]")
                raise

        return encode

    def _record(self, kind: Record, tag: bytes = b"") -> Encode:
        place = id(kind), tag
        known = self._records.get(place)
        if known is not None:
            return known
        if kind.is_recursive:
            self._records[place] = self._later(place)
        fields = [(each.name, str_bytes(each.name), self.of(each.kind)) for each in kind.fields]
        head = map_head(len(fields) + bool(tag)) + tag
        cls = kind.type

        def encode(value: object, out: bytearray, depth: int) -> None:
            if not isinstance(value, cls):
                raise expected(cls.__name__, type(value).__name__)
            _check_depth(depth)
            out += head
            name = ""
            try:
                for name, key, encoder in fields:
                    out += key
                    encoder(getattr(value, name), out, depth + 1)
            except Refusal as refusal:
                refusal.under(f".{name}")
                raise
            except AttributeError as error:
                raise Refusal(f"a {cls.__name__} without its field {name!r}") from error

        self._records[place] = encode
        return encode

    def _later(self, place: tuple[int, bytes]) -> Encode:
        """The encoder that will stand in that place."""

        def encode(value: object, out: bytearray, depth: int) -> None:
            self._records[place](value, out, depth)

        return encode

    def _one_of(self, kind: OneOf) -> Encode:
        tags = len(kind.records) > 1
        options = [
            (_classes_of(option), self._tagged(option) if tags and isinstance(option, Record) else self.of(option))
            for option in kind.options
        ]
        # an int is a float only where no int is allowed; a bool is neither
        by_type = {each: encoder for classes, encoder in reversed(options) for each in classes}
        said = kind.said()

        def encode(value: object, out: bytearray, depth: int) -> None:
            encoder = by_type.get(type(value))
            if encoder is None:
                for classes, candidate in options:
                    if isinstance(value, classes):
                        encoder = candidate
                        break
                else:
                    raise expected(said, type(value).__name__)
            encoder(value, out, depth)

        return encode

    def _tagged(self, kind: Record) -> Encode:
        return self._record(kind, str_bytes(TAG) + str_bytes(kind.said()))


def _classes_of(kind: Kind) -> tuple[type, ...]:
    """The classes whose objects are of that kind, in a union."""
    if isinstance(kind, Items | Row):
        return list, tuple, set, frozenset
    if isinstance(kind, Entries):
        return (dict,)
    if isinstance(kind, Choice):
        return tuple({type(value) for value in kind.values})
    assert isinstance(kind, Scalar | Named | Record)
    if kind.type is float:
        return float, int
    if kind.type is bytes:
        return bytes, bytearray, memoryview
    return (kind.type,)


def _check_sequence(value: object, said: str, depth: int) -> None:
    if not isinstance(value, list | tuple | set | frozenset):
        raise expected(said, type(value).__name__)
    _check_depth(depth)


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Refusal(f"it is nested deeper than {MAX_DEPTH}")


def _choice(kind: Choice) -> Encode:
    encoded = {(type(value), value): _constant(value) for value in kind.values}
    said = kind.said()

    def encode(value: object, out: bytearray, depth: int) -> None:
        try:
            found = encoded.get((type(value), value))
        except TypeError:  # it is not hashable
            found = None
        if found is None:
            raise expected(said, quoted(value))
        out += found

    return encode


def _named(kind: Named) -> Encode:
    cls = kind.type
    encoded = {member: _constant(member.value) for member in cls}

    def encode(value: object, out: bytearray, depth: int) -> None:
        if type(value) is not cls:
            raise expected(cls.__name__, type(value).__name__)
        known = encoded.get(value)
        out += _constant(value.value) if known is None else known  # one that `_missing_` has made

    return encode


def _constant(value: object) -> bytes:
    out = bytearray()
    _SCALARS[type(value)](value, out, 0)
    return bytes(out)


# scalars


def _nil(value: object, out: bytearray, depth: int) -> None:
    if value is not None:
        raise expected("None", type(value).__name__)
    out += NIL


def _bool(value: object, out: bytearray, depth: int) -> None:
    if value is not True and value is not False:
        raise expected("bool", type(value).__name__)
    out.append(0xC3 if value else 0xC2)


def _int(value: object, out: bytearray, depth: int) -> None:
    if type(value) is not int and (not isinstance(value, int) or isinstance(value, bool)):
        raise expected("int", type(value).__name__)
    out += int_bytes(value)


def _float(value: object, out: bytearray, depth: int) -> None:
    if isinstance(value, float):
        out += float_bytes(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        out += int_bytes(value)
    else:
        raise expected("float", type(value).__name__)


def _str(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, str):
        raise expected("str", type(value).__name__)
    out += str_bytes(value)


def _bytes(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise expected("bytes", type(value).__name__)
    data = bytes(value)
    out += bin_head(len(data))
    out += data


def _datetime(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, dt.datetime):
        raise expected("datetime", type(value).__name__)
    if value.utcoffset() is None:
        out += str_bytes(value.replace(tzinfo=None).isoformat())
        return
    since = value - _EPOCH
    seconds = since // _SECOND
    out += timestamp_bytes(seconds, (since - seconds * _SECOND).microseconds * 1000)


def _date(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
        raise expected("date", type(value).__name__)
    out += str_bytes(value.isoformat())


def _time(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, dt.time):
        raise expected("time", type(value).__name__)
    if value.utcoffset() is not None:
        raise Refusal("a time with a time zone cannot be sent: use a datetime")
    out += str_bytes(value.replace(tzinfo=None).isoformat())


def _timedelta(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, dt.timedelta):
        raise expected("timedelta", type(value).__name__)
    out += str_bytes(duration_text(value))


def duration_text(value: dt.timedelta) -> str:
    """A timedelta in ISO 8601, of days and seconds: `P1DT5.5S`."""
    sign = "-" if value < dt.timedelta(0) else ""
    value = abs(value) if value != dt.timedelta.min else value
    if value == dt.timedelta.min:  # which has no opposite
        return f"-P{-value.days}D"
    text = f"{sign}P"
    if value.days or not (value.seconds or value.microseconds):
        text += f"{value.days}D"
    if value.seconds or value.microseconds:
        fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
        text += f"T{value.seconds}{fraction}S"
    return text


def _decimal(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, Decimal):
        raise expected("Decimal", type(value).__name__)
    out += str_bytes(str(value))


def _uuid(value: object, out: bytearray, depth: int) -> None:
    if not isinstance(value, UUID):
        raise expected("UUID", type(value).__name__)
    out += str_bytes(str(value))


_SCALARS: dict[type, Encode] = {
    type(None): _nil,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _uuid,
}
