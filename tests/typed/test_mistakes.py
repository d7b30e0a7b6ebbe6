"""Mistakes in request classes, services and errors: each is found when the class is made, and says what to do."""

from __future__ import annotations

import collections.abc
import copy
import dataclasses
import pickle
import socket
from typing import Any

import pytest

from packetwire import RequestError
from packetwire.typed import BadValue, Client, Request, Service, error, method
from packetwire.typed.operation import number_of

from .shop import OutOfStock, Put, Shop


def test_numbers() -> None:
    assert number_of("Shop.put", 7) == 7
    assert number_of("Shop.put", None) == 32788650
    assert Put.number == 1
    assert Shop.load("x").operation.number == number_of("Shop.load", None)
    for wrong in (-1, 1 << 24, "1", True, 1.0):
        with pytest.raises(TypeError, match="a number must be an int from 0 to"):
            number_of("Shop.put", wrong)  # type: ignore[arg-type]


def test_two_methods_of_one_number() -> None:
    with pytest.raises(TypeError, match=r"^Two: one and two have the number 3: give one of them another number$"):

        class Two(Service):
            @method(3)
            def one(self) -> None: ...

            @method(3)
            def two(self) -> None: ...


def test_an_heir_has_the_methods_of_its_bases_and_may_replace_them() -> None:
    class Heir(Shop, version="2"):
        def put(self, title: str, tags: list[str] = []) -> int:
            return 7

        @method
        def more(self) -> None: ...

    assert Heir().put("Emma") == 7
    assert repr(Heir.put("Emma")) == "Shop.put(title='Emma', tags=[])"
    assert Heir.put("Emma").operation.number == 1
    assert Heir.load("x").operation.number == number_of("Shop.load", None)
    assert Heir.more().operation.number == number_of("Shop.more", None)
    assert {"put", "more", "find"} <= {call.method_name for call in Heir.request_map().values()}  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match=r"Wrong\.put: is a method in a base and 5 here"):

        class Wrong(Shop):
            put = 5  # type: ignore[assignment]


def test_an_heir_implements_what_its_base_declares() -> None:
    class Plugin(Service, errors=[OutOfStock]):
        @method
        def load(self, title: str) -> int: ...

        @method
        def stop(self) -> None: ...

    class Mine(Plugin):
        def load(self, title: str) -> int:
            return len(title)

    class Other(Plugin, name="Other"):
        pass

    assert set(Mine.request_map()) == set(Plugin.request_map())
    assert Mine.schema()["methods"] == Plugin.schema()["methods"]
    assert Mine.load("x").operation.errors == Plugin.load("x").operation.errors != {}
    assert Other.load("x").operation.number == number_of("Other.load", None)
    ours, theirs = socket.socketpair()
    with ours, theirs, Mine().serve(theirs), Client(ours) as client:
        assert client.do(Plugin.load("Emma")) == 4


def test_an_heir_repeats_the_annotations() -> None:
    class Plugin(Service):
        @method
        def load(self, title: str) -> int: ...

    with pytest.raises(
        TypeError, match=r"Plugin\.load, title: has no annotation.*; it replaces a base's load, whose"
    ):

        class Parameter(Plugin):
            def load(self, title) -> int: ...  # type: ignore[no-untyped-def]

    with pytest.raises(
        TypeError, match=r"Plugin\.load: has no annotation of its result.*; it replaces a base's load"
    ):

        class Result(Plugin):
            def load(self, title: str): ...  # type: ignore[no-untyped-def]


STREAMS = ["Iterator", "Iterable", "Generator", "AsyncIterator", "AsyncIterable", "AsyncGenerator"]


def made(parameters: str, result: str = " -> None", decorator: str = "@method", body: str = "...") -> type[Service]:
    source = f"class Made(Service):\n    {decorator}\n    def run({parameters}){result}: {body}\n"
    names: dict[str, Any] = {"__name__": __name__, "Service": Service, "method": method}
    names |= {each: getattr(collections.abc, each) for each in STREAMS}
    names |= {"OutOfStock": OutOfStock, "Any": Any}
    exec(source, names)
    found: type[Service] = names["Made"]
    return found


@pytest.mark.parametrize(
    ("parameters", "result", "text"),
    [
        ("self, x", " -> None", "Made.run, x: has no annotation, so its kind is not known"),
        ("self, x: int", "", "Made.run: has no annotation of its result; write -> None if it has none"),
        ("", " -> None", "Made.run: has no self as its first parameter"),
        ("*args: int", " -> None", "Made.run: has no self as its first parameter"),
        ("self, *args: int", " -> None", "Made.run: *args has no fixed names; make it a list or a dict"),
        ("self, **more: int", " -> None", "Made.run: **more has no fixed names; make it a list or a dict"),
        (
            "self, a: Iterator[int], b: Iterable[int]",
            " -> None",
            "Made.run: a and b are streams of items",
        ),
        ("self, x: AsyncIterator[int]", " -> None", "Made.run, x: the method runs in a thread: write Iterator["),
        (
            "self, x: Iterator[int]",
            " -> AsyncIterator[int]",
            "Made.run, x: the method runs in an event loop: write",
        ),
        ("self, x: Iterator[int] = ()", " -> None", "Made.run, x: a stream of items has no default"),
        (
            "self, x: Generator[int]",
            " -> None",
            "Made.run, x: collections.abc.Generator[int] cannot be sent",
        ),
        (
            "self",
            " -> Iterable[int]",
            "the result of Made.run: collections.abc.Iterable[int] cannot be sent",
        ),
        (
            "self",
            " -> AsyncGenerator[int]",
            "the result of Made.run: collections.abc.AsyncGenerator[int] cannot",
        ),
        ("self", " -> Iterator", "the result of Made.run: Iterator is a stream of items"),
        (
            "self",
            " -> Iterator[Iterator[int]]",
            "the result of Made.run, an item: collections.abc.Iterator[int] is",
        ),
        ("self", " -> Iterator[object]", "the result of Made.run, an item: object says nothing of the values"),
        (
            "self",
            " -> list[Iterator[int]]",
            "the result of Made.run, an item: collections.abc.Iterator[int] is",
        ),
        ("self, x: object", " -> None", "Made.run, x: object says nothing of the values"),
        ("self, x: list", " -> None", "Made.run, x: list needs the types of its items"),
    ],
)
def test_methods_that_cannot_be_called(parameters: str, result: str, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        made(parameters, result)
    assert str(caught.value).startswith(text)


def test_other_mistakes_in_methods() -> None:
    with pytest.raises(TypeError, match=r"Made.run: yields items, so its result is an Iterator\[…\]"):
        made("self", " -> list[int]", body="yield 1")
    with pytest.raises(TypeError, match="is an async def that yields nothing, so its result is no iterator"):
        exec(
            "class Made(Service):\n  @method\n  async def run(self) -> AsyncIterator[int]: ...",
            {"Service": Service, "method": method, "AsyncIterator": collections.abc.AsyncIterator},
        )
    with pytest.raises(TypeError, match="Made.run: is inline, so it cannot wait for items"):
        made("self", " -> Iterator[int]", "@method(inline=True)")
    with pytest.raises(TypeError, match=r"is no class that was made by @error"):
        made("self", decorator="@method(errors=[ValueError])")
    with pytest.raises(TypeError, match=r"is for functions in the body of a Service class, got <classmethod"):
        method(1)(classmethod(lambda cls: None))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="each service has a 'serve' of its own: rename the method"):

        class Server(Service):
            @method
            def serve(self) -> None: ...  # type: ignore[override]

    class Plain:
        @method
        def run(self) -> None: ...

    with pytest.raises(TypeError, match="Plain is no Service, so its method 'run' cannot be called"):
        Plain.run()
    with pytest.raises(TypeError, match="the name and the version of a service are strings"):

        class Versioned(Service, version=2):  # type: ignore[arg-type]
            pass

    with pytest.raises(TypeError, match="a service cannot have __slots__"):

        class Slotted(Service):
            __slots__ = ("x",)


def test_a_name_that_comes_later_is_looked_up_at_the_first_use() -> None:
    class Early(Service):
        @method
        def run(self, later: Later) -> Later: ...

    assert Early.run(Later(5)).operation.result.kind.said() == "Later"

    class Never(Service):
        @method
        def run(self, x: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"Never\.run: name 'NoSuchName' is not defined; what an annotation names"):
        bytes(Never.run(5))


@dataclasses.dataclass
class Later:
    number: int


def test_names_of_a_function_around_are_known() -> None:
    @dataclasses.dataclass
    class Local:
        number: int

    class Get(Request[Local]):
        local: Local | None = None

    assert Get.from_bytes(bytes(Get(Local(5)))) == Get(Local(5))
    assert Get.from_bytes(b"") == Get()


def test_mistakes_in_request_classes() -> None:
    with pytest.raises(TypeError, match=r"NoResult: say what its result is: class NoResult\(Request\[int\]\)"):

        class NoResult(Request):  # type: ignore[type-arg]
            pass

    with pytest.raises(TypeError, match=r"Flagged\.flags: a request has a 'flags' of its own: rename the field"):

        class Flagged(Request[int]):
            flags: int = 0

    with pytest.raises(TypeError, match="instead of __init__ use defaults or __post_init__"):

        class Init(Request[int]):
            def __init__(self) -> None: ...

    with pytest.raises(TypeError, match=r"Bad\.field: <class 'complex'>|Bad\.field: complex is no dataclass"):

        class Bad(Request[int]):
            field: complex

    with pytest.raises(TypeError, match="the result of BadResult: list needs the types of its items"):

        class BadResult(Request[list]):  # type: ignore[type-arg]
            pass

    with pytest.raises(NotImplementedError, match="Get has no fulfil method: it cannot be served here"):

        class Get(Request[None]):
            pass

        Get().fulfil(None)


def test_defaults_are_copied() -> None:
    one, other = Put("a"), Put("b")
    one.tags.append("x")
    assert other.tags == []
    assert copy.deepcopy(one) == one == pickle.loads(pickle.dumps(one))


def test_mistakes_in_errors() -> None:
    with pytest.raises(TypeError, match="an error must be a subclass of RequestError"):

        @error("x")  # type: ignore[type-var]
        class NoError(Exception):
            pass

    with pytest.raises(TypeError, match="the name of an error must be a string, got 5"):

        @error(5)  # type: ignore[arg-type]
        class Numbered(RequestError):
            pass

    with pytest.raises(TypeError, match=r"Texted\.text: each error has one of its own: rename the field"):

        @error("x")
        class Texted(RequestError):
            text: str

    with pytest.raises(TypeError, match="Missing: its text names 'title', which is no field of it"):

        @error("x", text="{title}")
        class Missing(RequestError):
            pass

    with pytest.raises(TypeError, match="Broken: its text is no format"):

        @error("x", text="{")
        class Broken(RequestError):
            pass

    with pytest.raises(TypeError, match=r"BadField\.field: complex is no dataclass"):

        @error("x")
        class BadField(RequestError):
            field: complex


def test_errors_are_values() -> None:
    caught = OutOfStock("Emma", left=3)
    again = pickle.loads(pickle.dumps(caught))
    assert (type(again), again.title, again.left, str(again)) == (OutOfStock, "Emma", 3, "Emma: only 3 left")
    assert caught.code == "out-of-stock"
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        OutOfStock("Emma", price=3)  # type: ignore[call-arg]


def test_a_client_that_serves_a_class() -> None:
    with pytest.raises(TypeError, match=r"serves= is a service, such as Shop\(\), not the class"):
        Client(None, serves=Shop)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"serves= is a service, such as Shop\(\), got 5"):
        Client(None, serves=5)  # type: ignore[arg-type]
    with pytest.raises(BadValue):
        bytes(Put(5))  # type: ignore[arg-type]
