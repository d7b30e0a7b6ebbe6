"""The same bytes and values by msgspec, where it is installed, for the kinds that it knows.

Strategy. The pure codec says what is right; msgspec is used where it would do the same. Before it encodes, the
classes of the values are compared with the exact ones: it would encode anything. The pure decoder, which knows the
text of a refusal, looks again at what it refuses. So a user sees a difference in time only.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from operator import attrgetter
from typing import Any, TypeAlias
from uuid import UUID

from packetwire.typed.kinds import Choice, Entries, Items, Kind, Named, OneOf, Record, Row, Scalar

IsExact: TypeAlias = Callable[[Any], bool]

_KNOWN = frozenset({type(None), bool, int, float, str, bytes, dt.datetime, dt.date, UUID})
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_MADE_BY_DATACLASSES = "<string>"
"""The name of the file in which an `__init__` stands that dataclasses have written."""


class Fast:
    """The codec of a kind by msgspec."""

    def __init__(self, annotation: object, kind: Kind) -> None:
        """Raises whatever msgspec has against it; ImportError if it is not installed."""
        from msgspec import msgpack

        if not suits(kind):
            raise TypeError(f"{kind.said()} is for the pure codec")
        self.is_exact = exactness(kind)
        self.encode: Callable[[Any], bytes] = msgpack.Encoder().encode
        self.decode: Callable[[bytes], Any] = msgpack.Decoder(annotation).decode


def suits(kind: Kind) -> bool:
    """True if msgspec does with it exactly as the pure codec does."""
    if isinstance(kind, Scalar):
        return kind.type in _KNOWN
    if isinstance(kind, Choice | Named):
        return _has_simple_values(kind)
    if isinstance(kind, Items):
        return suits(kind.item)
    if isinstance(kind, Row):
        return all(map(suits, kind.items))
    if isinstance(kind, Entries):
        return isinstance(kind.key, Scalar) and kind.key.type in (str, int) and suits(kind.value)
    if isinstance(kind, Record):
        return not kind.is_recursive and _is_plain(kind.type) and all(suits(each.kind) for each in kind.fields)
    assert isinstance(kind, OneOf)
    if all(isinstance(option, Scalar) and option.type in _PLAIN for option in kind.options):
        return True
    return _optional(kind) is not None and all(map(suits, kind.options))


def _has_simple_values(kind: Choice | Named) -> bool:
    sorts = {type(value) for value in kind.values}
    if isinstance(kind, Named) and sorts not in ({str}, {int}):
        return False
    numbers = [value for value in kind.values if type(value) is int]
    return sorts <= {str, int, type(None)} and all(-(1 << 63) <= number < 1 << 63 for number in numbers)


def _is_plain(cls: type) -> bool:
    """True if its objects are made by the `__init__` that dataclasses write: msgspec does not call it."""
    code = getattr(cls.__init__, "__code__", None)  # type: ignore[misc]
    return code is not None and code.co_filename == _MADE_BY_DATACLASSES


def _optional(kind: OneOf) -> Kind | None:
    """The other one of a union of two, one of which is None."""
    others = [option for option in kind.options if not (isinstance(option, Scalar) and option.type is type(None))]
    return others[0] if len(others) == 1 and len(kind.options) == 2 else None


# values that are what they seem


def exactness(kind: Kind) -> IsExact:
    """A function that is True only for values of the exact classes; else the pure encoder looks at them.

    It raises AttributeError for a dataclass that lacks a field.
    """
    if isinstance(kind, Scalar | Named):
        cls = kind.type
        return lambda value: type(value) is cls
    if isinstance(kind, Choice):
        values = {(type(value), value) for value in kind.values}
        return lambda value: isinstance(value, str | int | None) and (type(value), value) in values
    if isinstance(kind, Items):
        return _exact_items(kind)
    if isinstance(kind, Row):
        return _exact_row(kind)
    if isinstance(kind, Entries):
        return _exact_entries(kind)
    if isinstance(kind, Record):
        return _exact_record(kind)
    assert isinstance(kind, OneOf)
    checks = [exactness(option) for option in kind.options]
    return lambda value: any(check(value) for check in checks)


def _exact_items(kind: Items) -> IsExact:
    item = exactness(kind.item)
    cls: object = kind.type
    if isinstance(kind.item, Scalar | Named):
        classes = frozenset({kind.item.type})
        return lambda value: type(value) is cls and classes.issuperset(map(type, value))

    def is_exact(value: Any) -> bool:
        return type(value) is cls and all(map(item, value))

    return is_exact


def _exact_row(kind: Row) -> IsExact:
    checks = [exactness(item) for item in kind.items]

    def is_exact(value: object) -> bool:
        return (
            type(value) is tuple
            and len(value) == len(checks)
            and all(check(each) for check, each in zip(checks, value, strict=True))
        )

    return is_exact


def _exact_entries(kind: Entries) -> IsExact:
    key, entry = exactness(kind.key), exactness(kind.value)

    def is_exact(value: object) -> bool:
        return type(value) is dict and all(map(key, value)) and all(map(entry, value.values()))

    return is_exact


def _exact_record(kind: Record) -> IsExact:
    cls = kind.type
    if not kind.fields:
        return lambda value: type(value) is cls
    names = [each.name for each in kind.fields]
    fields = attrgetter(names[0], *names[1:])  # of one name, it returns the value itself
    if len(names) == 1:
        only = exactness(kind.fields[0].kind)
        return lambda value: type(value) is cls and only(fields(value))
    if all(isinstance(each.kind, Scalar | Named) for each in kind.fields):
        wanted = tuple(each.kind.type for each in kind.fields if isinstance(each.kind, Scalar | Named))
        return lambda value: type(value) is cls and tuple(map(type, fields(value))) == wanted
    scalars = [each.kind.type if isinstance(each.kind, Scalar | Named) else None for each in kind.fields]
    checks = [(n, exactness(each.kind)) for n, each in enumerate(kind.fields) if scalars[n] is None]
    plain = [n for n, scalar in enumerate(scalars) if scalar is not None]

    def is_exact(value: object) -> bool:
        if type(value) is not cls:
            return False
        values = fields(value)
        for n in plain:
            if type(values[n]) is not scalars[n]:
                return False
        return all(check(values[n]) for n, check in checks)

    return is_exact
