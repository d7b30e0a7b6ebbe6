"""Typed values: payloads of all kinds, by msgspec and without it; schemas of far ends, and what is made of them."""

from __future__ import annotations

import datetime as dt
import enum
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from tests.typed.shop import Closed, OutOfStock, Shop
from tests.typed.strategies import Colour, Label, Leaf, Level, Mixed, Node, Open, Point, Tree
from tests.typed.streaming import Streams
from tests.typed.test_foreign import WRONG, changed
from tests.typed.test_schema import Full

from packetwire import RequestError, RequestFailed
from packetwire.cli.describe import readable
from packetwire.typed import BadValue, Codec, codec, decoding, foreign, msgpack
from packetwire.typed.errors import UnknownError, error_from
from packetwire.typed.evolution import changes
from packetwire.typed.foreign import schema_from
from packetwire.typed.schema import hash_of
from packetwire.typed.stub import stub_of

from ..mutators import headed_mutator, json_mutator, octets_mutator
from ..reasons import RaisedIn
from ..target import Target

# values


class Refusing(enum.Enum):
    ONE = 1

    @classmethod
    def _missing_(cls, value: object) -> Refusing:
        raise LookupError(value)


@dataclass
class Even:
    """Of an even number."""

    number: int

    def __post_init__(self) -> None:
        if self.number % 2:
            raise ValueError(f"{self.number} is odd")


MOMENT = dt.datetime(2026, 11, 30, 12, 30, 15, 123456, tzinfo=dt.UTC)
EXAMPLES: tuple[tuple[Any, Any], ...] = (
    (None, None),
    (bool, True),
    (int, 1 << 40),
    (float, 0.5),
    (str, "Äpfel"),
    (bytes, b"\0\xff"),
    (dt.datetime, MOMENT),
    (dt.date, MOMENT.date()),
    (dt.time, MOMENT.time()),
    (dt.timedelta, dt.timedelta(days=-3, seconds=5, microseconds=7)),
    (Decimal, Decimal("-1.50")),
    (UUID, UUID(int=5)),
    (Colour, Colour.BLUE),
    (Level, Level.HIGH),
    (Mixed, Mixed.DATA),
    (Open, Open.FIRST),
    (Literal["a", "b", 3, None], 3),
    (list[int], [1, -200, 1 << 33]),
    (set[str], {"a", "b"}),
    (tuple[int, str, bytes], (5, "x", b"y")),
    (dict[str, list[float]], {"a": [0.5, 1.5]}),
    (dict[int, Point], {3: Point(1)}),
    (Point, Point(4, 1.5)),
    (list[Label], [Label("x", Colour.BLUE), Label("")]),
    (Tree, Tree("root", [Tree("leaf"), Tree("other", [Tree("below")])])),
    (Leaf | Node, Node(Leaf(1), Node(Leaf(2), Leaf(3)))),
    (Point | Label | None, Label("y")),
    (int | float | str | bool | None, "text"),
    (list[int] | str | Point, [1, 2]),
    (list[dt.datetime | None], [MOMENT, None, MOMENT.replace(tzinfo=None)]),
    (tuple[UUID, ...], (UUID(int=1),)),
    (Even, Even(2)),
    (list[Refusing], [Refusing.ONE]),
)
FAST = [Codec[Any](annotation) for annotation, _ in EXAMPLES]
PURE = [Codec[Any](annotation, pure=True) for annotation, _ in EXAMPLES]
assert sum(each.uses_msgspec for each in FAST) > 10
KNOWN: dict[str, type[RequestError]] = {"out-of-stock": OutOfStock, "closed": Closed}
ERRORS = len(EXAMPLES)
"""The first octet for a payload of an error; below it those for the annotations."""

OF_DECODING = RaisedIn(decoding, without=["_duration"])  # which is told as any other text that is none
OF_MSGPACK = RaisedIn(
    msgpack,
    without=[
        *("int_bytes", "_head", "str_bytes", "packed"),  # what is encoded
        "check_items",  # takes a megabyte; there are tests of it
        *("read_any", "_read_any_map", "unpacked"),  # heard by errors, which are texts then
    ],
)
OF_CODEC = RaisedIn(codec, without=["Codec.encode"])
NO_TYPED_ERROR = "a payload that is no typed error"


def shown(value: Any) -> str:
    """A value as text, in which NaN is NaN, and the order of a set does not matter."""
    return repr(sorted(value) if isinstance(value, set) else value)


def outcome_of(each: Codec[Any], data: bytes) -> tuple[Any, BadValue | None]:
    try:
        return each.decode(data), None
    except BadValue as error:
        return None, error


def hear_values(octets: bytes) -> list[str]:
    choice, data = octets[0] % (ERRORS + 1) if octets else 0, octets[1:]
    if choice == ERRORS:
        return hear_error(data)
    (fast, error), (value, expected) = outcome_of(FAST[choice], data), outcome_of(PURE[choice], data)
    assert (repr(error), shown(fast)) == (repr(expected), shown(value)), "msgspec makes a difference"
    if expected is not None:
        assert expected.path.startswith("$")
        return reasons_of(expected)
    encoded = PURE[choice].encode(value)
    assert FAST[choice].encode(value) == encoded
    assert shown(PURE[choice].decode(encoded)) == shown(FAST[choice].decode(encoded)) == shown(value)
    return []


def reasons_of(error: BaseException) -> list[str]:
    found: list[str] = []
    each: BaseException | None = error
    while each is not None:
        found += OF_DECODING.of(each) + OF_MSGPACK.of(each) + OF_CODEC.of(each)
        each = each.__context__
    return list(dict.fromkeys(found))


def hear_error(data: bytes) -> list[str]:
    error = error_from("it", KNOWN, RequestFailed(0, data))
    if error is None:
        return [NO_TYPED_ERROR]
    assert isinstance(error, OutOfStock | Closed | UnknownError)
    assert isinstance(str(error), str)
    assert len(repr(error)) < 6000 + 20 * len(data)
    return []


SEEDS = [bytes((n,)) + PURE[n].encode(value) for n, (_, value) in enumerate(EXAMPLES)]
SEEDS += [
    bytes((ERRORS,)) + each
    for each in (
        msgpack.packed({"$": "closed", "$text": "why"}),
        msgpack.packed({"$": "out-of-stock", "$text": "x", "title": "y", "left": 3}),
        msgpack.packed({"$": "other", "$text": "Ä", "a": [1, {"b": None}], "c": b"d"}),
        b"a text",
    )
]
SEEDS += [
    bytes((choice,)) + data
    for choice, data in (
        (6, b"\xc7\x0c\xff\0\0\0\0\x7f" + bytes(7)),
        (6, b"\xc7\x0c\xff\x3b\x9a\xca\0" + bytes(8)),  # 10**9 nanoseconds
        *((9, b"\xa1P"), (9, b"\xa2-P"), (11, b"\xc4\2ab"), (32, b"\x91\0")),
        (22, b"\x82\xa1x\1\xa1z\xc1"),
        (22, b"\x82\xa1x\1\xa2\xff\xfe\1"),
        (31, b"\x81\xa6number\3"),
        (32, b"\x91\5"),
    )
]
SEEDS += [  # one for each reason, so that few inputs meet them all
    bytes((choice,)) + data
    for choice, data in (
        *((0, b"\1"), (1, b""), (1, b"\1"), (1, b"\xc3\1"), (2, b"\xa1a"), (2, b"\xcd\1"), (2, b"\xcd")),
        *((3, b"\xa1a"), (3, b"\xcb\0"), (4, b"\1"), (4, b"\xa5ab"), (4, b"\xa1\xff"), (5, b"\1"), (5, b"\xc4\5a")),
        *(
            (6, b"\xd7\xff\0"),
            (6, b"\xd6\1abcd"),
            (6, b"\1"),
            (7, b"\xa3abc"),
            (10, b"\xa3abc"),
            (11, b"\xa3abc"),
            (12, b"\xa6purple"),
            (16, b"\xa1z"),
        ),
        *((16, b"\x90"), (17, b"\1"), (19, b"\x91\1"), (22, b"\1"), (22, b"\x80"), (22, b"\x82\xa1x\1\xa1z")),
        *((25, b"\1"), (27, b"\x90"), (28, b"\xc0"), (26, b"\1"), (18, b"\1"), (22, b"\x82\xa1x\1\xa1q\xd9\5a")),
    )
]
DEEP = b"\x82\xa4name\xa0\xa8children\x91" * 70 + b"\x81\xa4name\xa0"
WORDS = [
    *(
        b"\xd9\x05hello",
        b"\xc4\x02ab",
        b"\xdc\0\x02",
        b"\xde\0\1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ),
    *(b"\xc7\x0c\xff" + bytes(12), b"\xc7\x0c\xff" + b"\xff" * 12, b"\xd6\xff\0\0\0\0", b"\xd7\xff" + b"\xff" * 8),
    *(
        b"\xc7\x0c\xff\0\0\0\0\x7f" + bytes(7),
        b"\xcb\x7f\xf8" + bytes(6),
        b"\xca\x7f\x80\0\0",
        b"\xcf" + b"\xff" * 8,
    ),
    *(b"\xd3\x80" + bytes(7), b"\xc1", b"\xc0", b"\xa1$", b"\xa1$\xa5Label", b"\xa1$\xa4Node", b"\xa1$\xa4Leaf"),
    *(
        b"\xaa2026-11-31",
        b"\xc0\x80",
        b"\x81\xa1x",
        b"\xa3NaN",
        b"\xa8Infinity",
        b"\xa31e9",
        b"\xa5P1DT5",
        b"\xa1P",
    ),
]

# schemas

OF_SCHEMAS = RaisedIn(foreign, without=[])
OURS = [each.schema() for each in (Shop, Full, Streams)]
NAMES = sorted({name for schema in OURS for part in ("methods", "types") for name in schema[part]})


def nested(depth: int, value: object) -> object:
    """A default in so many unions."""
    kind: object = "int"
    for _ in range(depth):
        kind = {"union": [kind]}
    return {"x": {"kind": kind, "required": False, "default": value}}


def in_a_row(count: int) -> dict[str, object]:
    """So many types, each of which is in the default of the next."""
    types: dict[str, object] = {"T0": {"fields": {}}}
    for n in range(1, count):
        field = {"kind": {"type": f"T{n - 1}"}, "required": False, "default": {}}
        types[f"T{n}"] = {"fields": {"x": field}}
    return {**OURS[0]["types"], **types}


STRANGE: tuple[tuple[tuple[str, ...], object], ...] = (
    (("name",), "async"),
    (("methods", "put", "errors"), {"none": {"fields": {}}}),
    (("methods", "put", "fields"), nested(48, 5)),
    (("types",), dict(reversed(in_a_row(900).items()))),
    (("requests",), {"x": {}}),
)


def hear_schema(octets: bytes) -> list[str]:
    try:
        schema = schema_from(octets)
    except ValueError as error:
        return OF_SCHEMAS.of(error)
    assert schema_from(json.dumps(schema).encode()) == schema
    assert len(hash_of(schema)) == 64
    for line in readable(schema):
        assert line.replace("\n", "").isprintable()
    compile(stub_of(schema), "stub", "exec", dont_inherit=True)
    assert not any(change.breaks for change in changes(schema, schema))
    for ours in OURS:
        for change in changes(ours, schema) + changes(schema, ours):
            assert str(change).isprintable()
    return []


SCHEMA_SEEDS = [json.dumps(each, ensure_ascii=False).encode() for each in OURS]
SCHEMA_SEEDS += [json.dumps(changed(path, value)).encode() for path, value, _ in WRONG]
SCHEMA_SEEDS += [json.dumps(changed(path, value)).encode() for path, value in STRANGE]
SCHEMA_SEEDS.append(b" " * (foreign.MAX_SCHEMA_SIZE + 1))
SCHEMA_WORDS = [
    *("packetwire", "name", "version", "doc", "methods", "types", "requests", "number", "fields", "keywords"),
    *("result", "async", "idempotent", "errors", "kind", "required", "default", "enum", "open", "stream", "type"),
    *("list", "row", "union", "dict", "literal", "bytes", "int", "str", "class", "__x", "a b", "\x1b[1m", "300"),
    *NAMES[:20],
]

TARGETS = (
    Target(
        name="typed",
        seeds=[*SEEDS, bytes((24,)) + DEEP],
        mutate=headed_mutator(octets_mutator(WORDS, [seed[1:] for seed in SEEDS]), ERRORS + 1),
        hear=hear_values,
        reasons=OF_DECODING.reasons | OF_MSGPACK.reasons | OF_CODEC.reasons | {NO_TYPED_ERROR},
        growth=5000,
    ),
    Target(
        name="schemas",
        seeds=SCHEMA_SEEDS,
        mutate=json_mutator(SCHEMA_WORDS),
        hear=hear_schema,
        reasons=OF_SCHEMAS.reasons,
        growth=5000,
        besides=1 << 23,  # for JSON that is too long
    ),
)
