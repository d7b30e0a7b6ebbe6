"""The pure decoder: for each kind a closure that checks the bytes at an offset and makes the value.

Strategy. A closure gets the payload, the offset and the depth; it returns the value and the offset behind it.
Objects are made by their classes, so a dataclass that checks its fields in `__post_init__` does so here, too.
Fields that are not known are skipped, those that are missing take their default.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from decimal import Decimal, DecimalException
from typing import Any, TypeAlias
from uuid import UUID

from packetwire.core.faults import OF_THE_CODE
from packetwire.typed.badvalue import Refusal, expected, quoted
from packetwire.typed.kinds import TAG, Choice, Entries, Items, Kind, Named, OneOf, Record, Row, Scalar
from packetwire.typed.msgpack import (
    MAX_DEPTH,
    READERS,
    found_at,
    read_array_head,
    read_bin,
    read_bool,
    read_float,
    read_int,
    read_map_head,
    read_nil,
    read_str,
    read_timestamp,
    skip,
)

Decode: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]
"""Makes the value at an offset, and says where it ends. Raises `Refusal`, or IndexError if the bytes end before."""

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d{1,6})?", re.ASCII)
_DATETIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_DURATION = re.compile(r"(-?)P(?:(\d{1,9})D)?(?:T(\d{1,5})(?:\.(\d{1,6}))?S)?", re.ASCII)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?)(?:[0-9a-fA-F]{4}\1){3}[0-9a-fA-F]{12}", re.ASCII)


class Decoders:
    """Makes the decoder of a kind; that of a recursive one is looked up when it is used."""

    def __init__(self) -> None:
        self._records: dict[int, Decode] = {}

    def of(self, kind: Kind) -> Decode:
        """The decoder."""
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

    def _items(self, kind: Items) -> Decode:
        item, make = self.of(kind.item), kind.type
        is_list = make is list

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            size, at = read_array_head(data, at)
            _check_depth(depth)
            items: list[object] = []
            append = items.append
            try:
                for _ in range(size):
                    value, at = item(data, at, depth + 1)
                    append(value)
            except Refusal as refusal:
                refusal.under(f"[{len(items)}]")
                raise
            return (items if is_list else make(items)), at

        return decode

    def _row(self, kind: Row) -> Decode:
        decoders, said = [self.of(item) for item in kind.items], kind.said()

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            size, at = read_array_head(data, at)
            if size != len(decoders):
                raise Refusal(f"expected {said}, got {size} items")
            _check_depth(depth)
            items: list[object] = []
            try:
                for decoder in decoders:
                    value, at = decoder(data, at, depth + 1)
                    items.append(value)
            except Refusal as refusal:
                refusal.under(f"[{len(items)}]")
                raise
            return tuple(items), at

        return decode

    def _entries(self, kind: Entries) -> Decode:
        decode_key, decode_value = self.of(kind.key), self.of(kind.value)

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            size, at = read_map_head(data, at)
            _check_depth(depth)
            entries: dict[object, object] = {}
            for number in range(size):
                try:
                    key, at = decode_key(data, at, depth + 1)
                except Refusal as refusal:
                    refusal.under(f"[key {number}]")
                    raise
                try:
                    entries[key], at = decode_value(data, at, depth + 1)
                except Refusal as refusal:
                    refusal.under(f"[{quoted(key)}]")
                    raise
            return entries, at

        return decode

    def _record(self, kind: Record) -> Decode:
        known = self._records.get(id(kind))
        if known is not None:
            return known
        if kind.is_recursive:
            self._records[id(kind)] = self._later(id(kind))
        fields = {each.name: self.of(each.kind) for each in kind.fields}
        required = [each.name for each in kind.fields if each.is_required]
        make, said = _maker(kind), kind.said()

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            size, at = read_map_head(data, at, said)
            _check_depth(depth)
            values: dict[str, object] = {}
            for _ in range(size):
                name, at = name_at(data, at)
                decoder = fields.get(name)
                if decoder is None:
                    at = skip(data, at)
                    continue
                try:
                    values[name], at = decoder(data, at, depth + 1)
                except Refusal as refusal:
                    refusal.under(f".{name}")
                    raise
            if len(values) < len(fields):
                for name in required:
                    if name not in values:
                        raise Refusal(f"the field {name!r} of {said} is missing")
            return make(values), at

        self._records[id(kind)] = decode
        return decode

    def _later(self, key: int) -> Decode:
        """The decoder that will stand under that key."""

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            return self._records[key](data, at, depth)

        return decode

    def _one_of(self, kind: OneOf) -> Decode:
        by_sort: dict[str, Decode] = {}
        for option in kind.options:
            decoder = self.of(option)
            for sort in option.wire:
                by_sort.setdefault(sort, decoder)
        if "float" in by_sort:
            by_sort.setdefault("int", by_sort["float"])
        if len(kind.records) > 1:
            by_sort["dict"] = self._tagged(kind.records)
        said = kind.said()

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            sort = found_at(data, at)
            decoder = by_sort.get(sort)
            if decoder is None and sort == "an extension type":
                decoder = by_sort.get("ext")
            if decoder is None:
                raise expected(said, sort)
            return decoder(data, at, depth)

        return decode

    def _tagged(self, records: list[Record]) -> Decode:
        """The decoder of a map that says by `$` which dataclass it is; without it, it is the first."""
        decoders = {record.said(): self.of(record) for record in records}
        first = decoders[records[0].said()]
        known = " or ".join(decoders)

        def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
            tag = tag_at(data, at)
            decoder = first if tag is None else decoders.get(tag)
            if decoder is None:
                refusal = Refusal(f"expected {known}, got {quoted(tag)}")
                refusal.under(f".{TAG}")
                raise refusal
            return decoder(data, at, depth)

        return decode


def name_at(data: bytes, at: int) -> tuple[str, int]:
    """The name of a field, and the offset behind it; "" for one that is not UTF-8, which no field has."""
    try:
        return read_str(data, at)
    except Refusal:
        if found_at(data, at) != "str":
            raise
        return "", skip(data, at)


def tag_at(data: bytes, at: int) -> str | None:
    """The `$` of the map that stands there, or None."""
    size, at = read_map_head(data, at)
    tag = None
    for _ in range(size):
        name, at = name_at(data, at)
        if name == TAG:
            tag, at = read_str(data, at)
        else:
            at = skip(data, at)
    return tag


def _maker(kind: Record) -> Callable[[dict[str, object]], object]:
    """Makes the object of its fields' values; one that refuses them is the peer's fault, not ours."""
    cls = kind.type
    if cls is dict:
        return lambda values: values

    def make(values: dict[str, object]) -> object:
        try:
            return cls(**values)
        except OF_THE_CODE:
            raise
        except Exception as error:
            raise Refusal(f"{cls.__name__} refuses it: {type(error).__name__}: {error}") from error

    return make


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise Refusal(f"it is nested deeper than {MAX_DEPTH}")


def _scalar_at(data: bytes, at: int, kind: Kind) -> tuple[object, int]:
    """A value of one of the sorts that a `Choice` or an Enum may be."""
    sort = found_at(data, at)
    read = READERS.get(sort) if sort in kind.wire else None
    if read is None:
        raise expected(kind.said(), sort)
    return read(data, at)


def _choice(kind: Choice) -> Decode:
    values = {(type(value), value): value for value in kind.values}
    said = kind.said()

    def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
        value, end = _scalar_at(data, at, kind)
        if (type(value), value) not in values:
            raise expected(said, quoted(value))
        return value, end

    return decode


def _named(kind: Named) -> Decode:
    cls = kind.type
    members = {(type(value), value): cls(value) for value in kind.values}

    def decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
        value, end = _scalar_at(data, at, kind)
        member = members.get((type(value), value))
        if member is None:
            member = _later_member(cls, value) if kind.is_open else None
            if member is None:
                raise Refusal(f"{cls.__name__} has no value {quoted(value)}")
        return member, end

    return decode


def _later_member(cls: Any, value: Any) -> Any:
    """The member that an Enum itself makes of a value that it does not have."""
    try:
        member = cls._missing_(value)
    except OF_THE_CODE:
        raise
    except Exception as error:
        raise Refusal(f"{cls.__name__} refuses {quoted(value)}: {type(error).__name__}: {error}") from error
    return member if isinstance(member, cls) else None


# scalars


def _from_text(data: bytes, at: int, kind: str) -> tuple[str, int]:
    try:
        return read_str(data, at)
    except Refusal:
        found = found_at(data, at)
        if found == "str":
            raise
        raise expected(kind, found) from None


def _datetime(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if found_at(data, at) == "an extension type":
        seconds, nanoseconds, end = read_timestamp(data, at)
        try:
            return _EPOCH + dt.timedelta(seconds=seconds, microseconds=(nanoseconds + 500) // 1000), end
        except OverflowError:
            raise Refusal("a datetime is out of range: years go from 1 to 9999") from None
    text, end = _from_text(data, at, "datetime")
    return _parsed(_DATETIME, text, _moment, "datetime"), end


def _moment(text: str) -> dt.datetime:
    found = _DATETIME.fullmatch(text)
    assert found is not None
    day, clock, fraction, zone = found.groups()
    digits = (fraction or "")[1:8].ljust(7, "0")
    moment = dt.datetime.fromisoformat(f"{day}T{clock}.{digits[:6]}{zone.upper() if zone else ''}")
    return moment + dt.timedelta(microseconds=digits[6] >= "5")


def _parsed(pattern: re.Pattern[str], text: str, parse: Callable[[str], object], kind: str) -> object:
    try:
        if pattern.fullmatch(text):
            return parse(text)
    except (ValueError, OverflowError):
        pass
    raise Refusal(f"{quoted(text)} is no {kind}")


def _date(data: bytes, at: int, depth: int) -> tuple[object, int]:
    text, end = _from_text(data, at, "date")
    return _parsed(_DATE, text, dt.date.fromisoformat, "date"), end


def _time(data: bytes, at: int, depth: int) -> tuple[object, int]:
    text, end = _from_text(data, at, "time")
    return _parsed(_TIME, text, dt.time.fromisoformat, "time"), end


def _timedelta(data: bytes, at: int, depth: int) -> tuple[object, int]:
    text, end = _from_text(data, at, "timedelta")
    return _parsed(_DURATION, text, _duration, "timedelta"), end


def _duration(text: str) -> dt.timedelta:
    found = _DURATION.fullmatch(text)
    assert found is not None
    sign, days, seconds, fraction = found.groups()
    if days is None and seconds is None:
        raise ValueError("there is neither a day nor a second")
    parts = int(days or 0), int(seconds or 0), int((fraction or "").ljust(6, "0"))
    return dt.timedelta(*(-part for part in parts)) if sign else dt.timedelta(*parts)


def _decimal(data: bytes, at: int, depth: int) -> tuple[object, int]:
    sort = found_at(data, at)
    if sort == "int":
        number, end = read_int(data, at)
        return Decimal(number), end
    if sort == "float":
        value, end = read_float(data, at)
        return Decimal(repr(value)), end
    text, end = _from_text(data, at, "Decimal")
    try:
        return Decimal(text), end
    except DecimalException:
        raise Refusal(f"{quoted(text)} is no Decimal") from None


def _uuid(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if found_at(data, at) == "bytes":
        raw, end = read_bin(data, at)
        if len(raw) != 16:
            raise Refusal(f"a UUID has 16 bytes, got {len(raw)}")
        return UUID(bytes=raw), end
    text, end = _from_text(data, at, "UUID")
    return _parsed(_UUID, text, UUID, "UUID"), end


_SCALARS: dict[type, Decode] = {
    type(None): read_nil,
    bool: read_bool,
    int: read_int,
    float: read_float,
    str: read_str,
    bytes: read_bin,
    dt.datetime: _datetime,
    dt.date: _date,
    dt.time: _time,
    dt.timedelta: _timedelta,
    Decimal: _decimal,
    UUID: _uuid,
}
