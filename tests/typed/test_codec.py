"""The codec: which bytes, what is refused, and where the fault is said to be."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from dataclasses import InitVar, dataclass, field
from datetime import datetime, time, timedelta, timezone
from enum import Enum, IntFlag
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

import msgspec
import pytest

from packetwire.core.faults import is_caused_by_peer
from packetwire.typed import BadValue, Codec, msgpack
from packetwire.typed import codec as codec_module
from packetwire.typed.msgpack import MAX_DEPTH, unpacked

from .strategies import Colour, Label, Leaf, Mixed, Node, Open, Point, Tree

MAX_ITEMS = 1000
T = TypeVar("T")
UserId = NewType("UserId", int)


@dataclass
class Item:
    title: str
    tags: list[str] = field(default_factory=list)
    places: dict[str, Point] = field(default_factory=dict)


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError("it must be positive")


@dataclass
class Faulty:
    number: int

    def __post_init__(self) -> None:
        undefined_name  # type: ignore[name-defined]  # noqa: B018, F821


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Half:
    whole: int
    half: int = field(init=False)


@dataclass
class WithInitVar:
    number: int
    scale: InitVar[int] = 1


class Bits(IntFlag):
    ONE = 1


class Listed(Enum):
    ITEMS = (1, 2)


BOTH = pytest.mark.parametrize("pure", [False, True], ids=["msgspec", "pure"])


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


@BOTH
@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Item, Item("Emma", ["a", "b", 5]), "$.tags[2]: expected str, got int"),  # type: ignore[list-item]
        (Item, Item("Emma", places={"x": Point("1")}), "$.places['x'].x: expected int, got str"),  # type: ignore[arg-type]
        (Item, {"title": "Emma"}, "$: expected Item, got dict"),
        (int, True, "$: expected int, got bool"),
        (int, 1 << 64, "$: an int must be from -2**63 to 2**64 - 1"),
        (str, "\ud800", "$: a str with lone surrogates cannot be sent: it is not text"),
        (list[int], (n for n in [1]), "$: expected list[int], got generator"),
        (tuple[int, str], (1,), "$: expected tuple[int, str], got 1 items"),
        (tuple[int, str], (1, 2), "$[1]: expected str, got int"),
        (dict[int, str], {1: 2}, "$[1]: expected str, got int"),
        (Literal["a", 1], "b", "$: expected Literal['a', 1], got 'b'"),
        (Literal["a", 1], True, "$: expected Literal['a', 1], got True"),
        (Literal["a", 1], [], "$: expected Literal['a', 1], got []"),
        (Colour, "red", "$: expected Colour, got str"),
        (int | str, 1.5, "$: expected int | str, got float"),
        (Point | Label, Tree(""), "$: expected Point | Label, got Tree"),
        (Leaf | Node, Node(Leaf(1), Node(Leaf("x"), Leaf(2))), "$.right.left.weight: expected int, got str"),  # type: ignore[arg-type]
        (
            time,
            time(1, tzinfo=timezone(timedelta(hours=1))),
            "$: a time with a time zone cannot be sent: use a datetime",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(pure: bool, annotation: Any, value: Any, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        Codec(annotation, pure=pure).encode(value)
    assert str(caught.value) == text


@BOTH
@pytest.mark.parametrize(
    ("annotation", "payload", "text"),
    [
        (Item, {"title": "", "tags": ["a", "b", 5]}, "$.tags[2]: expected str, got int"),
        (Item, {"title": "", "places": {"x": {"x": None}}}, "$.places['x'].x: expected int, got None"),
        (Item, {"title": "", "places": {5: {"x": 1}}}, "$.places[key 0]: expected str, got int"),
        (Item, {}, "$: the field 'title' of Item is missing"),
        (Item, [], "$: expected Item, got list"),
        (Item, {1: 2}, "$: expected str, got int"),
        (Positive, {"number": -1}, "$: Positive refuses it: ValueError: it must be positive"),
        (
            list[Positive],
            [{"number": 1}, {"number": 0}],
            "$[1]: Positive refuses it: ValueError: it must be positive",
        ),
        (Colour, "green", "$: Colour has no value 'green'"),
        (Colour, 1, "$: expected Colour, got int"),
        (Mixed, True, "$: expected Mixed, got bool"),
        (Point | Label, {"$": "Tree"}, "$.$: expected Point or Label, got 'Tree'"),
        (Point | Label, {"$": 1}, "$: expected str, got int"),
        (tuple[int, str], [1, "", 2], "$: expected tuple[int, str], got 3 items"),
        (datetime, "2020-13-01T00:00:00", "$: '2020-13-01T00:00:00' is no datetime"),
        (datetime, 5, "$: expected datetime, got int"),
        (timedelta, "P", "$: 'P' is no timedelta"),
        (Literal["a"], "b", "$: expected Literal['a'], got 'b'"),
        (str, b"x", "$: expected str, got bytes"),
        (None, 1, "$: expected None, got int"),
        (bool, 1, "$: expected bool, got int"),
    ],
)
def test_a_wrong_payload_is_refused_with_its_path(pure: bool, annotation: Any, payload: Any, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        Codec(annotation, pure=pure).decode(packed(payload))
    assert str(caught.value) == text
    assert text == f"{caught.value.path}: {caught.value.problem}"


@BOTH
@pytest.mark.parametrize(
    ("annotation", "payload", "text"),
    [
        (str, b"", "the payload ends within a value"),
        (str, b"\xa5abc", "the payload ends within a value"),
        (str, b"\xdb\xff\xff\xff\xffabc", "the payload ends within a value"),
        (list[int], b"\xdd\xff\xff\xff\xff", "the payload ends within a value"),
        (int, b"\xcd\x01", "the payload ends within a value"),
        (float, b"\xcb\x01", "the payload ends within a value"),
        (int, b"\x01\x02", "1 bytes are left behind the value"),
        (int, b"\xc1", "expected int, got a byte that begins no value"),
        (str, b"\xa1\xff", "a str is not UTF-8"),
        (datetime, b"\xd7\xff" + b"\xff" * 8, "a datetime has too many nanoseconds"),
        (datetime, b"\xc7\x0c\xff" + bytes(4) + b"\x7f" * 8, "a datetime is out of range: years go from 1 to 9999"),
        (Point, b"\x82\xa1x\x01\xa1z\xc1", "no value can begin with the byte 0xc1"),
        (Point, b"\x82\xa1x\x01\xa1z\xa9", "the payload ends within a value"),
    ],
)
def test_bytes_that_are_no_value(pure: bool, annotation: Any, payload: bytes, text: str) -> None:
    with pytest.raises(BadValue) as caught:
        Codec(annotation, pure=pure).decode(payload)
    assert caught.value.problem == text


@BOTH
def test_what_is_not_known_is_skipped_and_what_is_missing_is_filled_in(pure: bool) -> None:
    codec = Codec(Item, pure=pure)
    later = {"new": [[{"x": 1.5, "y": b"12", "z": None}] * 20, -5, 300, "ü" * 300], "title": "Emma", "n": -70_000}
    assert codec.decode(packed(later)) == Item("Emma", [], {})


@BOTH
def test_deeply_nested_values_of_an_unknown_field_are_skipped(pure: bool) -> None:
    payload = b"\x82\xa1x\x01\xa1q" + b"\x91" * 5000 + b"\xc0"
    assert Codec(Point, pure=pure).decode(payload) == Point(1)


@BOTH
def test_depth_is_bounded_both_ways(pure: bool) -> None:
    codec = Codec(Tree, pure=pure)
    tree = Tree("leaf")
    for _ in range(MAX_DEPTH // 2 - 1):
        tree = Tree("", [tree])
    assert codec.decode(codec.encode(tree)) == tree
    with pytest.raises(BadValue, match=f"it is nested deeper than {MAX_DEPTH}$"):
        codec.encode(Tree("", [tree]))
    payload = b"\x82\xa4name\xa0\xa8children\x91" * 1000
    with pytest.raises(BadValue, match=f"it is nested deeper than {MAX_DEPTH}$"):
        codec.decode(payload)


@BOTH
def test_the_number_of_items_is_bounded_both_ways(pure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert codec_module.MAX_ITEMS == msgpack.MAX_ITEMS == 1_000_000
    for module in (codec_module, msgpack):
        monkeypatch.setattr(module, "MAX_ITEMS", MAX_ITEMS)
    codec = Codec(list[None], pure=pure)
    many = [None] * MAX_ITEMS
    with pytest.raises(BadValue, match=f"there are more than {MAX_ITEMS} items in it"):
        codec.encode(many)
    with pytest.raises(BadValue, match=f"there are more than {MAX_ITEMS} items in it"):
        codec.decode(b"\xdd" + MAX_ITEMS.to_bytes(4) + b"\xc0" * MAX_ITEMS)
    long = "x" * (MAX_ITEMS + 1)
    assert Codec(str, pure=pure).decode(Codec(str, pure=pure).encode(long)) == long


@BOTH
def test_a_fault_of_the_code_is_no_refusal(pure: bool) -> None:
    with pytest.raises(NameError) as caught:
        Codec(Faulty, pure=pure).decode(packed({"number": 1}))
    assert not is_caused_by_peer(caught.value)


def test_the_cause_is_kept() -> None:
    with pytest.raises(BadValue) as caught:
        Codec(Positive).decode(packed({"number": 0}))
    assert isinstance(caught.value.__cause__, ValueError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.problem) == (caught.value.path, caught.value.problem)


def test_an_enum_that_is_open_takes_values_of_later_versions() -> None:
    for pure in (False, True):
        assert Codec(Open, pure=pure).decode(packed("second")) is Open.OTHER


def test_a_union_that_was_one_dataclass_before_reads_what_was_sent_then() -> None:
    assert Codec(Point | Label).decode(Codec(Point).encode(Point(1))) == Point(1)
    assert Codec(Point).decode(Codec(Point | Label).encode(Point(1))) == Point(1)
    assert unpacked(Codec(Point | Label).encode(Label("x"))) == {"$": "Label", "text": "x", "colour": "red"}


def test_names_for_types_make_no_difference() -> None:
    assert Codec(list[Annotated[UserId, "positive"]]).encode([UserId(5)]) == packed([5])
    if sys.version_info >= (3, 12):
        namespace: dict[str, Any] = {}
        exec("type Numbers = list[int]", namespace)
        assert Codec(namespace["Numbers"]).encode([5]) == packed([5])


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Any, "says nothing of the values"),
        (object, "says nothing of the values"),
        (list, "list needs the types of its items, as in list[str]"),
        (dict, "dict needs the types of its items, as in dict[str, int]"),
        (set[list[int]], "list[int] cannot be a key of a dict, or an item of a set"),
        (dict[Point, int], "Point cannot be a key of a dict, or an item of a set"),
        (Iterator[int], "is a stream of items, which only a parameter or the result of a method can be: use list"),
        (int | bool | Literal[5], "int and Literal[5] cannot be told apart in one union: both are sent as int"),
        (
            Point | dict[str, int],
            "Point and dict[str, int] cannot be told apart in one union: both are sent as dict",
        ),
        (list[int] | tuple[int, ...], "cannot be told apart in one union: both are sent as list"),
        (datetime | str, "datetime and str cannot be told apart in one union: both are sent as str"),
        (Literal[Colour.RED], "<Colour.RED: 'red'> cannot be sent: a Literal can have"),
        (complex, "complex is no dataclass, Enum or scalar; make it a dataclass"),
        (Box, "Box is generic"),
        (Box[int], "is generic: give the fields their types in a class of its own"),
        (Half, "Half.half: a field with init=False cannot be filled in at the far end"),
        (WithInitVar, "WithInitVar.scale: an InitVar is not kept, so it cannot be sent"),
        (Bits, "Bits is a Flag, whose values can be combined: use int"),
        (Listed, "Listed.ITEMS has the value (1, 2), which is no scalar"),
        (5, "5 cannot be in a request"),
    ],
)
def test_an_annotation_that_is_no_kind_is_refused_at_once(annotation: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        Codec(annotation)
    assert text in str(caught.value)


def test_values_of_no_known_kind() -> None:
    value = {"a": [1, -1, 1.5, None, True, b"x", {"b": "c"}], 5: ""}
    assert unpacked(packed(value)) == value
    assert unpacked(b"\xd4\x01x") == b"\xd4\x01x"
    with pytest.raises(BadValue, match="nested deeper"):
        unpacked(b"\x91" * 100 + b"\xc0")
    for payload in (b"", b"\x81", b"\x81\x90\x01", b"\x01\x01", b"\xc1"):
        with pytest.raises(BadValue):
            unpacked(payload)


@BOTH
def test_a_name_that_is_not_utf8_is_one_that_is_not_known(pure: bool) -> None:
    """With msgspec it always was; else the payload was refused."""
    codec = Codec(Point, pure=pure)
    assert codec.decode(b"\x82\xa1x\x01\xa2\xff\xfe\x90") == Point(1)
    assert Codec(Point | Label, pure=pure).decode(b"\x82\xa2\xff\xfe\x90\xa1x\x01") == Point(1)
    with pytest.raises(BadValue, match="expected str, got int"):
        codec.decode(b"\x81\x05\x01")
