"""The schema of a service, its hash, the source that is made of it, and what changes break: said, and tried."""

from __future__ import annotations

import copy
import json
import socket
import sys
import textwrap
from collections.abc import Iterator
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from uuid import UUID

import pytest

from packetwire import PacketwireError
from packetwire.cli.main import main
from packetwire.typed import Client, Service, method
from packetwire.typed.evolution import changes
from packetwire.typed.schema import hash_of
from packetwire.typed.stub import stub_of

from .shop import Item, OutOfStock, Shop
from .strategies import Colour, Leaf, Mixed, Node, Open, Point, Tree
from .streaming import Streams

NOBODY = UUID(int=5)
ORIGIN = Point(0)


class Full(Service, name="full-service", version="2"):
    """All kinds."""

    @method(5)
    def all(
        self,
        a: int | str | None,
        b: list[tuple[int, ...]],
        c: dict[str, set[bytes]],
        d: tuple[Colour, Mixed, Open],
        e: Leaf | Node,
        f: Tree,
        g: date = date(2020, 1, 2),
        h: Literal["a", b"b", 3] = b"b",
        i: Decimal = Decimal("1.5"),
        j: UUID | None = NOBODY,
        k: Point = ORIGIN,
        l: float = float("inf"),  # noqa: E741
        m: Colour = Colour.BLUE,
        n: tuple[int, str] = (1, "x"),
        o: list[Item] = [],
        p: datetime = datetime(2020, 1, 2),
        q: Literal["a"] | None = None,
        r: dict[str, int] = {},
        *,
        s: bytes = b"\x00",
        t: bool = True,
        u: frozenset[int] = frozenset({5}),
    ) -> list[Item]:
        """Takes
        all kinds."""
        raise OutOfStock("x")


def test_a_schema() -> None:
    schema = Shop.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert (schema["packetwire"], schema["name"], schema["version"]) == (1, "Shop", "1.4")
    assert schema["methods"]["find"] == {
        "number": 2,
        "fields": {
            "prefix": {"kind": "str", "required": False, "default": ""},
            "limit": {"kind": {"union": ["int", "None"]}, "required": False, "default": None},
        },
        "keywords": ["limit"],
        "result": {"list": {"type": "Item"}},
        "async": False,
        "idempotent": True,
        "errors": {
            "closed": {"fields": {}},
            "out-of-stock": {
                "fields": {
                    "title": {"kind": "str", "required": True},
                    "left": {"kind": "int", "required": False, "default": 0},
                }
            },
        },
    }
    assert schema["methods"]["put"]["doc"] == "Put an item there; returns how many there are."
    assert list(schema["types"]) == ["Item"]


def test_streams_in_a_schema() -> None:
    methods = Streams.schema()["methods"]
    assert methods["titles_later"]["fields"] == {
        "items": {"kind": {"stream": {"type": "Item"}}, "required": True},
        "prefix": {"kind": "str", "required": False, "default": ""},
    }
    assert methods["titles"]["result"] == methods["titles_later"]["result"] == {"stream": "str"}
    assert methods["total"]["result"] == {"row": ["str", "int"]}
    assert list(methods["total"]["fields"]) == ["name", "items"]
    assert methods["titles_later"]["async"]
    source = stub_of(Streams.schema())
    assert "def upper(self, data: Iterator[bytes]) -> Iterator[bytes]:" in source
    assert (
        "    def titles_later(self, items: AsyncIterator[Item], *, prefix: str = '') -> AsyncIterator[str]:"
        in source
    )
    assert "    async def total_later(self, name: str, items: AsyncIterator[Item]) -> tuple[str, int]:" in source


def test_the_hash_leaves_out_what_is_for_people() -> None:
    schema = Shop.schema()
    assert Shop.schema_hash() == hash_of(schema)
    other = copy.deepcopy(schema)
    other["version"] = "9"
    other["methods"]["put"]["doc"] = other["doc"] = "Something else."
    assert hash_of(other) == hash_of(schema)
    other["methods"]["put"]["number"] = 9
    assert hash_of(other) != hash_of(schema)

    class Named(Service):
        @method
        def version(self, doc: str) -> int: ...

    schema = Named.schema()
    del schema["methods"]["version"]["fields"]["doc"]
    assert hash_of(schema) != Named.schema_hash(), "these are names, and not for people"


@pytest.mark.parametrize("service", [Shop, Full, Streams])
def test_the_source_that_is_made_of_a_schema_has_the_same_schema(
    service: type[Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("stub")
    monkeypatch.setitem(sys.modules, "stub", module)
    exec(compile(stub_of(service.schema()), "stub", "exec"), vars(module))
    found = [each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Service)]
    (made,) = set(found) - {Service}
    assert changes(service.schema(), made.schema()) == []
    assert hash_of(made.schema()) == hash_of(service.schema())


def test_two_types_of_one_name() -> None:
    class Item(Enum):
        ONE = 1

    from .shop import Item as Other

    class Confused(Service):
        @method
        def one(self, item: Item) -> Other: ...

    with pytest.raises(TypeError, match="two types of the service have the name Item"):
        Confused.schema()


# what changes break, tried with an old client at the new service

HEAD = """
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal
from packetwire.typed import Service, error, method
from packetwire import RequestError

class Colour(Enum):
    RED = "red"
    BLUE = "blue"

class Open(Enum):
    RED = "red"
    BLUE = "blue"
    @classmethod
    def _missing_(cls, value):
        return cls.BLUE

@dataclass
class Item:
    title: str
    left: int = 0
"""
METHOD = """
class Shop(Service):
    @method({number})
    def run({parameters}) -> {result}:
        return {value}
"""
OLD = {
    "number": "1",
    "parameters": "self, x: int = 1",
    "result": "int",
    "value": "x",
    "head": HEAD,
    "call": "run(5)",
}
MORE_COLOURS = HEAD.replace('    BLUE = "blue"\n', '    BLUE = "blue"\n    GREEN = "green"\n')
NO_LEFT = HEAD.replace("    left: int = 0\n", "")
NEEDS_PRICE = HEAD.replace("    title: str\n", "    title: str\n    price: int\n")
ADDS_PRICE = HEAD + "    price: int = 0\n"
RENAMED = HEAD.replace("    title: str\n", "    name: str\n")
ITEM = {"parameters": "self, x: Item", "call": "run(Item('Emma'))", "value": "5"}
MADE = {"parameters": "self", "result": "Item", "call": "run()", "value": "Item('Emma')"}
YIELDED = {"result": "Iterator[int]", "value": "iter([5])"}
TAKEN = {"parameters": "self, x: Iterator[int]", "call": "run([5])", "value": "sum(x)"}

CHANGES: dict[str, tuple[bool, dict[str, str], dict[str, str]]] = {
    "a new field with a default": (False, {}, {"parameters": "self, x: int = 1, y: str = ''"}),
    "a new field without one": (True, {}, {"parameters": "self, x: int = 1, *, y: str"}),
    "a required field is gone": (True, {"parameters": "self, x: int"}, {"parameters": "self", "value": "5 / 0"}),
    "a field is renamed": (True, {"parameters": "self, x: int"}, {"parameters": "self, y: int", "value": "y"}),
    "a field may be more": (False, {}, {"parameters": "self, x: int | str = 1", "result": "int"}),
    "a field may be less": (
        *(True, {"parameters": "self, x: int | str = 1", "call": "run('a')", "value": "5"}),
        {"value": "5"},
    ),
    "a field is another kind": (True, {}, {"parameters": "self, x: str = ''", "value": "5"}),
    "a field is wider": (False, {}, {"parameters": "self, x: float = 1", "value": "int(x)"}),
    "a result may be more": (True, {}, {"result": "int | str", "value": "str(x)"}),
    "a result may be less": (False, {"result": "int | str"}, {}),
    "a result is another kind": (True, {}, {"result": "str", "value": "str(x)"}),
    "another number": (True, {}, {"number": "2"}),
    "a list is a set": (
        *(False, {"parameters": "self, x: list[int]", "call": "run([1])", "value": "1"}),
        {"parameters": "self, x: set[int]", "value": "1"},
    ),
    "a Literal has more values": (
        *(False, {"parameters": "self, x: Literal[1, 5]"}),
        {"parameters": "self, x: Literal[1, 5, 'a']", "value": "5"},
    ),
    "a Literal has fewer values": (
        *(True, {"parameters": "self, x: Literal[1, 5]"}),
        {"parameters": "self, x: Literal[1]", "value": "5"},
    ),
    "a Literal in a result has more values": (
        *(True, {"result": "Literal[5]", "value": "5"}),
        {"result": "Literal[5, 6]", "value": "6"},
    ),
    "a dataclass has a new field with a default": (False, ITEM, {**ITEM, "head": ADDS_PRICE}),
    "a dataclass has a new field without one": (True, ITEM, {**ITEM, "head": NEEDS_PRICE}),
    "a dataclass loses a field that had a default": (False, ITEM, {**ITEM, "head": NO_LEFT}),
    "a dataclass has a field renamed": (True, ITEM, {**ITEM, "head": RENAMED}),
    "a result has a new field": (False, MADE, {**MADE, "head": NEEDS_PRICE, "value": "Item('Emma', 5)"}),
    "a result loses a field that is required": (True, MADE, {**MADE, "head": RENAMED}),
    "an Enum has a new value": (
        *(False, {"parameters": "self, x: Colour", "call": "run(Colour.RED)", "value": "5"}),
        {"parameters": "self, x: Colour", "value": "5", "head": MORE_COLOURS},
    ),
    "an Enum in a result has a new value": (
        *(True, {"result": "Colour", "value": "Colour.RED"}),
        {"result": "Colour", "value": "Colour.GREEN", "head": MORE_COLOURS},
    ),
    "an open Enum in a result has a new value": (
        *(False, {"result": "Open", "value": "Open.RED"}),
        {"result": "Open", "value": "Open.GREEN", "head": MORE_COLOURS},
    ),
    "a tuple has another length": (
        *(True, {"parameters": "self, x: tuple[int, int]", "call": "run((1, 2))", "value": "5"}),
        {"parameters": "self, x: tuple[int, int, int]", "value": "5"},
    ),
    "a dict has another kind of values": (
        *(True, {"parameters": "self, x: dict[str, int]", "call": "run({'a': 1})", "value": "5"}),
        {"parameters": "self, x: dict[str, str]", "value": "5"},
    ),
    "a result becomes a stream": (True, {"result": "list[int]", "value": "[5]"}, {**YIELDED, "value": "iter([5])"}),
    "a result is no stream any more": (True, YIELDED, {"result": "list[int]", "value": "[5]"}),
    "a stream becomes one of bytes": (True, YIELDED, {"result": "Iterator[bytes]", "value": "iter([b'a'])"}),
    "a stream has items that may be more": (
        *(True, YIELDED),
        {"result": "Iterator[int | str]", "value": "iter(['a'])"},
    ),
    "a stream has items that are less": (False, {**YIELDED, "result": "Iterator[int | str]"}, YIELDED),
    "a parameter becomes a stream": (
        *(True, {"parameters": "self, x: list[int]", "call": "run([5])", "value": "5"}),
        {"parameters": "self, x: Iterator[int]", "value": "5"},
    ),
    "a parameter is no stream any more": (True, TAKEN, {"parameters": "self, x: list[int]", "value": "5"}),
    "a stream takes more": (False, TAKEN, {**TAKEN, "parameters": "self, x: Iterable[int | str]"}),
    "a stream takes less": (
        *(True, {**TAKEN, "parameters": "self, x: Iterator[int | str]", "call": "run(['a'])"}),
        TAKEN,
    ),
    "a dataclass becomes one of several": (False, ITEM, {**ITEM, "parameters": "self, x: Item | int"}),
}


def version(changed: dict[str, str]) -> dict[str, Any]:
    parts = {**OLD, **changed}
    names: dict[str, Any] = {"__name__": __name__}
    exec(parts["head"] + METHOD.format_map(parts), names)
    return names


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_breaks_if_it_is_said_so(change: str) -> None:
    breaks, old, new = CHANGES[change]
    before, after = version(old), version(new)
    found = changes(before["Shop"].schema(), after["Shop"].schema())
    assert found
    assert any(each.breaks for each in found) == breaks, found
    near, far = socket.socketpair()
    with near, far, after["Shop"]().serve(far), Client(near) as client:
        call = eval(f"Shop.{old.get('call', OLD['call'])}", before)
        try:
            result = client.do(call, timeout=30)
            if isinstance(result, Iterator):
                list(result)
        except PacketwireError:
            failed = True
        else:
            failed = False
        assert failed == breaks


def test_changes_of_methods() -> None:
    class Before(Service, name="Shop"):
        @method(1, idempotent=True)
        def one(self) -> None: ...

        @method(2, errors=[OutOfStock])
        def two(self) -> None: ...

    class After(Service, name="Store"):
        @method(3)
        def one(self) -> None: ...

        @method(1)
        def three(self) -> None: ...

    assert list(map(str, changes(Before.schema(), After.schema()))) == [
        "BREAKS one: has the number 3, had 1",
        "BREAKS one: is not idempotent any more, but old clients may repeat it",
        "BREAKS the service: is 'Store', was 'Shop'",
        "BREAKS three: has the number 1, which one had",
        "BREAKS two: the method is gone",
        "ok     three: is a new method",
    ]
    assert changes(Before.schema(), Before.schema()) == []


def test_changes_of_errors() -> None:
    class Before(Service, name="Shop"):
        @method(2, errors=[OutOfStock])
        def two(self) -> None: ...

    class After(Service, name="Shop"):
        @method(2)
        def two(self) -> None: ...

    there, back = changes(Before.schema(), After.schema()), changes(After.schema(), Before.schema())
    assert list(map(str, there)) == ["ok     two: does not raise 'out-of-stock' any more"]
    assert list(map(str, back)) == [
        "ok     two: may raise 'out-of-stock', of which old clients know the name and fields only"
    ]


# at the command line


@pytest.fixture
def described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kept_process: None
) -> Any:
    """Runs `packetwire describe` in a directory with the module `words`; returns its status and output."""
    (tmp_path / "words_service.py").write_text(
        textwrap.dedent('''
        from packetwire.typed import Service, method

        class Words(Service, version="1"):
            """Words, in upper case."""

            @method(1)
            def upper(self, text: str, *, times: int = 1) -> str:
                """The text in upper case."""
                return text.upper() * times

        class Later(Service):
            @method
            def run(self, x: "NoSuchName") -> None: ...

        OTHER = 5
        ''')
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(["describe", *arguments])
        out, err = capfd.readouterr()
        return status, out, err

    return run


def test_it_is_described_at_the_command_line(described: Any, tmp_path: Path) -> None:
    status, out, err = described("words_service:Words")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("Words 1  (schema ")
    assert lines[1:] == [
        "    Words, in upper case.",
        "",
        "upper(text: str, *, times: int = 1) -> str",
        "    number 1",
        "    The text in upper case.",
    ]
    status, out, _ = described("words_service:Words", "--json")
    (tmp_path / "words.json").write_text(out)
    assert described("words.json")[1].splitlines() == lines
    assert described("words.json", "--diff", "words_service:Words") == (0, "", "")
    assert "class Words(Service, version='1'):" in described("words.json", "--stub")[1]
    (tmp_path / "later.json").write_text(out.replace('"number": 1', '"number": 2'))
    assert described("words.json", "--diff", "later.json") == (1, "BREAKS upper: has the number 2, had 1\n", "")


def test_all_kinds_are_described(described: Any, tmp_path: Path) -> None:
    (tmp_path / "full.json").write_text(json.dumps(Full.schema()))
    status, out, _ = described("full.json")
    assert status == 0
    assert "enum Open: 'other', 'first', and later ones\n" in out
    assert "error out-of-stock" not in out
    assert "h: Literal['a', b'b', 3] = b'b'" in out
    assert "class Node(left: Leaf | Node, right: Leaf | Node)\n" in out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no.json"], "cannot read 'no.json': No such file or directory"),
        (["words_service.py"], "'words_service.py' is not what packetwire describe --json writes: it is not JSON"),
        (["empty.json"], "'empty.json' is not what packetwire describe --json writes"),
        (["words_service:OTHER"], "words_service:OTHER is no subclass of packetwire.typed.Service, but 5"),
        (
            ["words_service:Later"],
            "Later cannot be described: TypeError: Later.run: name 'NoSuchName'",
        ),
        (["words_service:None"], "there is no 'None'"),
    ],
)
def test_what_cannot_be_described(described: Any, tmp_path: Path, arguments: list[str], text: str) -> None:
    (tmp_path / "empty.json").write_text("{}")
    status, out, err = described(*arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
