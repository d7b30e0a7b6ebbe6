"""What hypothesis makes for these tests: annotations of all kinds, with values of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Optional, Union
from uuid import UUID

from hypothesis import strategies as st

from packetwire.typed import Codec


class Typed(NamedTuple):
    """An annotation, and what makes values of it."""

    annotation: Any
    values: st.SearchStrategy[Any]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 300


class Mixed(enum.Enum):
    WORD = "word"
    NUMBER = 7
    NOTHING = None
    DATA = b"\x00"


class Open(enum.Enum):
    """It takes values of later versions for OTHER."""

    OTHER = "other"
    FIRST = "first"

    @classmethod
    def _missing_(cls, value: object) -> Open:
        return cls.OTHER


@dataclass
class Point:
    x: int
    y: float = 0.5


@dataclass(frozen=True)
class Label:
    text: str
    colour: Colour = Colour.RED


@dataclass
class Tree:
    """A dataclass that holds itself."""

    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Leaf:
    weight: int


@dataclass
class Node:
    """A dataclass of a union that holds the union."""

    left: Leaf | Node
    right: Leaf | Node


INTS = (
    st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from(
        [edge + step for edge in (0, 32, 127, 2**8, 2**16, 2**31, 2**32, 2**63) for step in (-1, 0, 1)]
    )
    | st.sampled_from([-32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31), -(2**31) - 1, -(2**63)])
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.integers(30, 260).map("ü".__mul__)
MOMENTS = st.datetimes(
    timezones=st.none()
    | st.just(dt.UTC)
    | st.builds(dt.timezone, st.integers(-1439, 1439).map(lambda minutes: dt.timedelta(minutes=minutes))),
    min_value=dt.datetime(3, 1, 1),
    max_value=dt.datetime(9998, 1, 1),
)
SCALARS = [
    Typed(bool, st.booleans()),
    Typed(int, INTS),
    Typed(float, st.floats()),
    Typed(str, TEXTS),
    Typed(bytes, st.binary(max_size=300)),
    Typed(None, st.none()),
    Typed(dt.datetime, MOMENTS),
    Typed(dt.date, st.dates()),
    Typed(dt.time, st.times()),
    Typed(dt.timedelta, st.timedeltas()),
    Typed(Decimal, st.decimals(allow_nan=False)),
    Typed(UUID, st.uuids()),
]
NAMED = [
    *(Typed(cls, st.sampled_from(list(cls))) for cls in (Colour, Level, Mixed, Open)),
    Typed(Literal["a", "b", 3, None], st.sampled_from(["a", "b", 3, None])),
    Typed(Literal[True, b"x"], st.sampled_from([True, b"x"])),
]
KEYS = [each for each in [*SCALARS, *NAMED] if each.annotation not in (float, Decimal)]
TREES = st.deferred(lambda: st.builds(Tree, TEXTS, st.lists(TREES, max_size=3)))
LEAVES = st.builds(Leaf, INTS)
NODES = st.recursive(LEAVES, lambda below: st.builds(Node, below, below), max_leaves=8)
RECORDS = [
    Typed(Point, st.builds(Point, INTS, st.floats() | st.integers(0, 9))),
    Typed(Label, st.builds(Label, TEXTS, st.sampled_from(Colour))),
    Typed(Tree, TREES),
    Typed(Leaf | Node, NODES),
    Typed(Point | Label | None, st.builds(Label, TEXTS) | st.builds(Point, INTS) | st.none()),
    Typed(int | float | str | bool | None, INTS | st.floats() | TEXTS | st.booleans() | st.none()),
    Typed(list[int] | str | Point, st.lists(INTS, max_size=4) | TEXTS | st.builds(Point, INTS)),
]
BASIC = st.sampled_from([*SCALARS, *NAMED, *RECORDS])

_names = itertools.count()


def typed_lists(item: Typed) -> Typed:
    return Typed(list[item.annotation], st.lists(item.values, max_size=20))


def typed_tuples(item: Typed) -> Typed:
    return Typed(tuple[item.annotation, ...], st.lists(item.values, max_size=5).map(tuple))


def typed_rows(items: list[Typed]) -> Typed:
    return Typed(
        tuple.__class_getitem__(tuple(each.annotation for each in items)),
        st.tuples(*(each.values for each in items)),
    )


def typed_sets(item: Typed) -> Typed:
    return Typed(set[item.annotation], st.lists(item.values, max_size=5).map(set))


def typed_dicts(key: Typed, value: Typed) -> Typed:
    return Typed(
        dict[key.annotation, value.annotation],
        st.lists(st.tuples(key.values, value.values), max_size=18).map(dict),
    )


def typed_optionals(item: Typed) -> Typed:
    if "None" in Codec(item.annotation, pure=True).kind.wire:
        return item  # a union cannot have None twice
    return Typed(Optional[item.annotation], st.none() | item.values)  # noqa: UP045


def typed_records(items: list[Typed]) -> Typed:
    """A dataclass with these fields."""
    fields = [(f"field{n}", Union[each.annotation]) for n, each in enumerate(items)]  # noqa: UP007
    cls = dataclasses.make_dataclass(f"Record{next(_names)}", fields)
    return Typed(cls, st.builds(cls, *(each.values for each in items)))


def larger(below: st.SearchStrategy[Typed]) -> st.SearchStrategy[Typed]:
    """Kinds that are made of others."""
    keys = st.sampled_from(KEYS)
    several = st.lists(below, max_size=4)
    return st.one_of(
        below.map(typed_lists),
        below.map(typed_tuples),
        several.map(typed_rows),
        keys.map(typed_sets),
        st.builds(typed_dicts, keys, below),
        below.map(typed_optionals),
        several.map(typed_records),
    )


KINDS: st.SearchStrategy[Typed] = st.recursive(BASIC, larger, max_leaves=6)
