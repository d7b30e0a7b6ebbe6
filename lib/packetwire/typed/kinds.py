"""Kinds: what values an annotation allows, as a tree. Codecs, the schema and the command line are made of it.

`annotations.kind_of` makes one of an annotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

SCALARS: Mapping[type, str] = {
    type(None): "None",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    bytes: "bytes",
    datetime: "datetime",
    date: "date",
    time: "time",
    timedelta: "timedelta",
    Decimal: "Decimal",
    UUID: "UUID",
}
"""The types that are a kind by themselves, and their names in schemas."""

_ON_THE_WIRE: Mapping[type, frozenset[str]] = {
    datetime: frozenset({"str", "ext"}),
    date: frozenset({"str"}),
    time: frozenset({"str"}),
    timedelta: frozenset({"str"}),
    Decimal: frozenset({"str", "int", "float"}),
    UUID: frozenset({"str", "bytes"}),
}
WIRE_OF_SCALARS: Mapping[str, frozenset[str]] = {
    name: _ON_THE_WIRE.get(each, frozenset({name})) for each, name in SCALARS.items()
}
"""The sorts of MessagePack values that they become."""
NO_DEFAULT = dataclasses.MISSING


class Kind:
    """The values that may stand in a place. `wire` are the sorts of MessagePack values that they become."""

    wire: frozenset[str]

    def said(self) -> str:
        """Its name, as an annotation would say it."""
        raise NotImplementedError


@dataclass(eq=False)
class Scalar(Kind):
    """One of `SCALARS`."""

    type: type

    def __post_init__(self) -> None:
        self.wire = WIRE_OF_SCALARS[SCALARS[self.type]]

    def said(self) -> str:
        return SCALARS[self.type]


@dataclass(eq=False)
class Items(Kind):
    """A list, set, frozenset, or tuple of any length."""

    type: type
    item: Kind
    wire = frozenset({"list"})

    def said(self) -> str:
        return f"{self.type.__name__}[{self.item.said()}{', ...' if self.type is tuple else ''}]"


@dataclass(eq=False)
class Row(Kind):
    """A tuple with a kind for each place."""

    items: Sequence[Kind]
    wire = frozenset({"list"})

    def said(self) -> str:
        return f"tuple[{', '.join(item.said() for item in self.items) or '()'}]"


@dataclass(eq=False)
class Entries(Kind):
    """A dict."""

    key: Kind
    value: Kind
    wire = frozenset({"dict"})

    def said(self) -> str:
        return f"dict[{self.key.said()}, {self.value.said()}]"


@dataclass(eq=False)
class Choice(Kind):
    """A Literal."""

    values: Sequence[Any]

    def __post_init__(self) -> None:
        self.wire = frozenset(SCALARS[type(value)] for value in self.values)

    def said(self) -> str:
        return f"Literal[{', '.join(map(repr, self.values))}]"


@dataclass(eq=False)
class Named(Kind):
    """An Enum, by the values of its members."""

    type: type[Enum]

    def __post_init__(self) -> None:
        self.wire = frozenset(SCALARS[type(value)] for value in self.values)

    @property
    def values(self) -> list[Any]:
        """The values of its members, in order."""
        return [member.value for member in self.type]

    @property
    def is_open(self) -> bool:
        """True if the class itself finds a member for values of later versions, by `_missing_`."""
        return getattr(self.type._missing_, "__func__", None) is not getattr(Enum._missing_, "__func__", None)

    def said(self) -> str:
        return self.type.__name__


@dataclass(eq=False)
class Field:
    """A field of a `Record`."""

    name: str
    kind: Kind
    default: Any = NO_DEFAULT
    factory: Callable[[], Any] | None = None

    @property
    def is_required(self) -> bool:
        """True if it has no default."""
        return self.default is NO_DEFAULT and self.factory is None


@dataclass(eq=False)
class Record(Kind):
    """A dataclass; its fields are filled in behind its making, as it may hold itself."""

    type: type
    fields: list[Field] = field(default_factory=list)
    is_recursive: bool = False
    wire = frozenset({"dict"})

    def said(self) -> str:
        return self.type.__name__


@dataclass(eq=False)
class OneOf(Kind):
    """A union. If several dataclasses are in it, each is a map with its name under `$`."""

    options: Sequence[Kind]

    def __post_init__(self) -> None:
        self.wire = frozenset().union(*(option.wire for option in self.options))

    @property
    def records(self) -> list[Record]:
        """The dataclasses in it."""
        return [option for option in self.options if isinstance(option, Record)]

    def said(self) -> str:
        return " | ".join(option.said() for option in self.options)


@dataclass(eq=False)
class Stream(Kind):
    """Items that are sent one after the other in a body; the only parameter, or the result, of a method."""

    item: Kind
    annotation: Any
    """That of an item."""
    is_async: bool
    wire = frozenset({"body"})

    @property
    def is_raw(self) -> bool:
        """True for bytes, which are sent as they are: where one item ends gets lost."""
        return isinstance(self.item, Scalar) and self.item.type is bytes

    def said(self) -> str:
        return f"{'AsyncIterator' if self.is_async else 'Iterator'}[{self.item.said()}]"


TAG = "$"
"""The key of a map that tells which dataclass of a union, or which error, it is."""


def parts_of(kind: Kind) -> Sequence[Kind]:
    """The kinds of which it is directly made."""
    if isinstance(kind, Items):
        return [kind.item]
    if isinstance(kind, Row):
        return kind.items
    if isinstance(kind, Entries):
        return [kind.key, kind.value]
    if isinstance(kind, OneOf):
        return kind.options
    if isinstance(kind, Record):
        return [each.kind for each in kind.fields]
    return [kind.item] if isinstance(kind, Stream) else []
