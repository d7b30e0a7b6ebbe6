"""Calls of a service, by both faces of its client and both faces of the service."""

from __future__ import annotations

import asyncio
import pickle
import queue
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from packetwire import (
    HasPacketConnection,
    LocalProtocolError,
    PacketConnection,
    RequestError,
    RequestFailed,
    RequestTimeout,
    connect_to,
    current_request,
)
from packetwire.typed import AsyncClient, BadValue, Client, Service, UnknownError, caller, client_of, error, method

from .shop import Closed, Item, Listener, OutOfStock, Put, Shop

pytestmark = pytest.mark.timeout(60)


@contextmanager
def served(service: Service, **connection: Any) -> Iterator[socket.socket]:
    """The stream of a client whose service runs in threads."""
    near, far = socket.socketpair()
    with near, far, service.serve(far, connection=connection):
        yield near
        near.close()


@contextmanager
def client_of_a_shop(**connection: Any) -> Iterator[Client]:
    with served(Shop()) as stream, Client(stream, **connection) as client:
        yield client


@asynccontextmanager
async def async_client_of_a_shop(**connection: Any) -> AsyncIterator[AsyncClient]:
    near, far = socket.socketpair()
    with near, far:
        async with await Shop().aserve(far), AsyncClient(near, **connection) as client:
            yield client


def test_methods_of_a_client_are_those_of_the_service() -> None:
    with served(Shop()) as stream, Shop.at(stream, name="here") as shop:
        assert shop.put("Emma") == 1
        assert shop.put("Persuasion", ["novel"]) == 2
        assert shop.put(tags=["novel"], title="Sanditon") == 3
        assert shop.find("P") == [Item("Persuasion", ["novel"])]
        assert len(shop.find()) == 3
        assert isinstance(shop, Shop)
        assert repr(shop) == "<Shop at here>"
        assert client_of(shop).do(Shop.load("Emma")) == Item("Emma")
        assert client_of(shop).do(Shop.load("no such")) is None


def test_calls_are_values() -> None:
    assert repr(Shop.put("Emma")) == "Shop.put(title='Emma', tags=[])"
    assert Shop.put("Emma") == Shop.put(title="Emma")
    assert Shop.put("Emma") != Shop.put("Emma", ["x"])
    assert bytes(Shop.put("Emma", ["x"])) == bytes(Put("Emma", ["x"])) == b"\x82\xa5title\xa4Emma\xa4tags\x91\xa1x"
    first, second = Shop.put("a"), Shop.put("b")
    first.fields.tags.append("changed")
    assert second.fields.tags == []
    assert Shop.put.__self__.from_bytes(bytes(first)) == first  # type: ignore[attr-defined]


def test_many_calls_at_a_time() -> None:
    with client_of_a_shop() as client:
        assert list(client.map(Shop.put(str(n)) for n in range(100))) == list(range(1, 101))
        submitted = [client.submit(Shop.find(str(n))) for n in (7, 8)]
        assert submitted[0].wait(30)
        assert submitted[0].done()
        assert submitted[0]() == submitted[0]() == [Item("7"), *(Item(str(n)) for n in range(70, 80))]
        assert submitted[1](timeout=30)[0] == Item("8")
        pairs = {repr(call): found for call, found in client.map_unordered(map(Shop.load, "123"))}
        assert pairs["Shop.load(title='2')"] == Item("2")
        found = list(client.map([Shop.find("1", limit=1), Shop.find("x", limit=1)], return_exceptions=True))
        assert isinstance(found[1], OutOfStock)


class Asked(Service):
    """Tells what came with a request."""

    @method
    def options(self) -> tuple[bool, dict[str, bytes], bool]:
        request = current_request()
        left = request.remaining()
        return left is not None and 0 < left <= 30, dict(request.meta), request.progress(b"half")


OPTIONS: Any = {"deadline": 30, "meta": {"user": b"emma"}}
ANSWERED = (True, {"user": b"emma"}, True)


def test_calls_take_the_options_of_a_connection() -> None:
    near, far = socket.socketpair()
    seen: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with near, far, Asked().serve(far), Client(near) as client:
        assert client.do(Asked.options(), **OPTIONS, on_progress=seen.put) == ANSWERED
        assert seen.get(timeout=30) == b"half"
        assert client.submit(Asked.options(), **OPTIONS, idle_timeout=30)() == ANSWERED
        assert list(client.map([Asked.options()], **OPTIONS, idle_timeout=30)) == [ANSWERED]
        ((_, found),) = client.map_unordered([Asked.options()], **OPTIONS, idle_timeout=30)
        assert found == ANSWERED


def test_they_do_in_an_event_loop_too() -> None:
    async def ask() -> None:
        async with await Asked().aserve(far), AsyncClient(near) as client:
            assert await client.do(Asked.options(), **OPTIONS, idle_timeout=30) == ANSWERED
            assert await client.submit(Asked.options(), **OPTIONS, idle_timeout=30) == ANSWERED
            assert [each async for each in client.map([Asked.options()], **OPTIONS, idle_timeout=30)] == [ANSWERED]

    near, far = socket.socketpair()
    with near, far:
        asyncio.run(ask())


def test_a_request_class_and_a_method_are_the_same_on_the_wire() -> None:
    with client_of_a_shop() as client:
        assert client.do(Put("Emma")) == 1
        assert client.do(Shop.put("Emma")) == 2
    near, far = socket.socketpair()
    with near, far:
        with HasPacketConnection(far, rq_type_map={1: Put}) as service:
            service.put = lambda title, tags: 7  # type: ignore[attr-defined]
            with Client(near) as client:
                assert client.do(Shop.put("Emma")) == 7


def test_a_call_of_no_arguments_may_have_no_payload() -> None:
    """As of a peer that does not have this codec; and what is None comes back as no payload."""
    with served(Shop()) as stream, PacketConnection(stream) as conn:
        assert conn(2) == (True, 0, b"\x90")
        ok, _, payload = conn(1, b"\x81\xa5title\x05")
        assert (ok, payload) == (False, b"packetwire.typed.badvalue.BadValue: $.title: expected str, got int")
        assert conn(Shop.load("x").operation.number, bytes(Shop.load("x"))) == (True, 0, b"")


def test_wrong_arguments_are_refused_before_anything_is_sent() -> None:
    with client_of_a_shop() as client:
        with pytest.raises(BadValue, match=r"^\$\.tags\[1\]: expected str, got int$"):
            client.do(Shop.put("Emma", ["a", 1]))  # type: ignore[list-item]
        with pytest.raises(TypeError, match=r"Shop\.put\(\) missing 1 required positional argument: 'title'"):
            Shop.put()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="takes from 1 to 2 positional arguments"):
            Shop.find("a", 5)  # type: ignore[call-arg]
        assert client.do(Shop.put("Emma")) == 1


def test_a_result_of_another_kind_is_the_fault_of_the_service() -> None:
    with client_of_a_shop() as client, pytest.raises(RequestFailed) as caught:
        client.do(Shop.lie())
    assert caught.value.text == (
        "TypeError: the result of Shop.lie is not what its annotation says: $: expected int, got str"
    )


def test_a_response_of_another_kind_is_refused_by_the_client() -> None:
    near, far = socket.socketpair()
    with near, far, PacketConnection(far, request_handler=lambda *_: b"\xa1x"), Client(near) as client:
        with pytest.raises(BadValue, match=r"^\$: expected int, got str \(in the response to Shop\.put\)$"):
            client.do(Shop.put("Emma"))


def test_both_ends_can_serve() -> None:
    with client_of_a_shop(serves=Listener()) as client:
        assert client.do(Shop.ask_back(20)) == 41
    with client_of_a_shop() as client:
        with pytest.raises(RequestFailed, match="no request handler"):
            client.do(Shop.ask_back(20))
        with pytest.raises(RequestFailed, match=r"this service runs in threads: use caller\(\)"):
            client.do(Shop.ask_back_async(20))
    with pytest.raises(LocalProtocolError, match="only methods of a Service have a caller"):
        caller()


def test_what_a_client_of_a_service_is_not() -> None:
    with served(Shop()) as stream, Shop.at(stream) as shop:
        with pytest.raises(AttributeError, match="this is a client of Shop, which has its methods only: 'items'"):
            shop.items  # noqa: B018
        with pytest.raises(TypeError, match=r"Shop\.load is asynchronous, .* use do\(Shop\.load\(\.\.\.\)\)"):
            shop.load("Emma")  # type: ignore[unused-coroutine]
    with pytest.raises(TypeError, match=r"this is the service Shop itself: its clients are made by \.at"):
        client_of(Shop())
    with pytest.raises(TypeError, match="itself"), Shop():
        pass


def test_a_time_limit() -> None:
    near, far = socket.socketpair()
    with near, far, Client(near, close_timeout=0) as client:
        with pytest.raises(RequestTimeout, match="no response to request .*, rq_type 1, within 0.01 s"):
            client.do(Put("Emma"), timeout=0.01)
        with pytest.raises(RequestTimeout, match="no response within"):
            list(client.map_unordered([Put("Emma")], timeout=0.01))
        (pair,) = client.map_unordered([Put("Emma")], timeout=0.01, return_exceptions=True)
        assert isinstance(pair[1], RequestTimeout)
        waiting = client.submit(Put("Emma"))
        assert not waiting.wait(0)
        waiting.cancel()


def test_in_an_event_loop() -> None:
    async def run() -> None:
        async with async_client_of_a_shop(serves=Listener()) as client:
            assert await client.do(Shop.put("Emma")) == 1
            assert await client.do(Shop.load("Emma"), timeout=30) == Item("Emma")
            assert await client.do(Shop.close("not at all")) is None  # type: ignore[func-returns-value]
            submitted = client.submit(Shop.load("Emma"))
            assert await submitted == await submitted == Item("Emma")
            assert submitted.done()
            assert not submitted.cancel()
            assert [n async for n in client.map(Shop.put(str(n)) for n in range(100))] == list(range(2, 102))
            pairs = [pair async for pair in client.map_unordered(map(Shop.load, "123"), window=2)]
            assert {item.title for _, item in pairs if item} == {"1", "2", "3"}
            assert await client.do(Shop.ask_back_async(20)) == 41
            with pytest.raises(RequestFailed, match=r"this service is in an event loop: use async_caller\(\)"):
                await client.do(Shop.ask_back(20))
            with pytest.raises(OutOfStock):
                await client.do(Shop.find("x", limit=1))
            with pytest.raises(Closed):
                await client.do(Shop.load("closed"))

    asyncio.run(run())


def test_at_an_address(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/shop"
    with Shop().serve(address, max_connections=5, connection={"handlers": 2}) as server:
        with Shop.at(address) as shop, Client(connect_to(address)) as other:
            assert shop.put("Emma") == 1
            assert other.do(Shop.put("Emma")) == 2
    assert server.wait(0)

    async def run() -> None:
        async with await Shop().aserve(address, connection={"handlers": 2}), AsyncClient(address) as client:
            assert await client.do(Shop.put("Emma")) == 1

    asyncio.run(run())
    with pytest.raises(TypeError, match="max_connections: a stream has no server"):
        Shop().serve(lambda: None, max_connections=5)


def test_a_child(tmp_path: Path) -> None:
    program = tmp_path / "words.py"
    program.write_text(
        textwrap.dedent("""
        from packetwire import stdio
        from packetwire.typed import Service, method

        class Words(Service):
            @method
            def upper(self, text: str) -> str:
                return text.upper()

        if __name__ == "__main__":
            assert Words().serve(stdio()).wait()
        """)
    )

    class Words(Service):
        @method
        def upper(self, text: str) -> str:
            raise NotImplementedError

    with Words.at(f"exec:{sys.executable} {program}") as words:
        assert words.upper("Emma") == "EMMA"


# errors


def test_an_error_crosses_the_wire_with_its_fields() -> None:
    with client_of_a_shop() as client:
        with pytest.raises(OutOfStock) as caught:
            client.do(Shop.find("Emma", limit=3))
        assert (caught.value.title, caught.value.left) == ("Emma", 0)
        assert str(caught.value) == caught.value.text == "Emma: only 0 left"
        assert caught.value.fields == {"title": "Emma", "left": 0}
        with pytest.raises(Closed, match="^closed$"):
            client.do(Shop.close())
        with pytest.raises(Closed):
            client.do(Shop.load("closed"))


def test_an_error_that_is_not_listed_is_a_text() -> None:
    with client_of_a_shop() as client:
        with pytest.raises(RequestFailed) as caught:
            client.do(Shop.close("unlisted"))
        assert type(caught.value) is RequestFailed
        assert caught.value.text == "unlisted"
        with pytest.raises(RequestFailed, match="closed, as a text"):
            client.do(Shop.close("text"))


def test_a_caller_that_does_not_understand_errors_gets_the_text() -> None:
    with served(Shop()) as stream, PacketConnection(stream) as conn:
        limited = b"\x81\xa5limit\x03"
        assert conn(2, limited) == (False, 0, b": only 0 left")
        ok, flags, payload = conn(2, limited, 1)
        assert (ok, flags) == (False, 0)
        assert payload == (b"\x84\xa1$\xacout-of-stock\xa4text\xad: only 0 left\xa5title\xa0\xa4left\x00")


@error("out-of-stock")
class OtherVersion(RequestError):
    title: int


@error("no-such")
class Other(RequestError):
    pass


@pytest.mark.parametrize("known", [OtherVersion, Other])
def test_an_error_that_the_caller_does_not_know_has_its_fields(known: type[RequestError]) -> None:
    class Stranger(Service):
        @method(2, errors=[known])
        def find(self, prefix: str = "", *, limit: int | None = None) -> list[Item]:
            raise NotImplementedError

    with served(Shop()) as stream, Stranger.at(stream) as shop:
        with pytest.raises(UnknownError) as caught:
            shop.find("Emma", limit=3)
    assert isinstance(caught.value, RequestFailed)
    assert (caught.value.name, caught.value.text) == ("out-of-stock", "Emma: only 0 left")
    assert caught.value.fields == {"title": "Emma", "left": 0}
    assert str(caught.value) == "the peer answered Stranger.find by the error 'out-of-stock': 'Emma: only 0 left'"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.name, again.fields, str(again)) == ("out-of-stock", caught.value.fields, str(caught.value))


@pytest.mark.parametrize(
    "payload", [b"\x81", b"\x81\xa1$\x05", b"\x81\x01\x02", b"\xde\x80", "ހ".encode(), b"\x80", b""]
)
def test_a_payload_that_is_no_error_is_a_text(payload: bytes) -> None:
    def refuse(rq_type: int, flags: int, asked: bytes) -> bytes:
        raise RequestError(payload.decode("latin-1") if payload.isascii() else payload.decode(errors="replace"))

    near, far = socket.socketpair()
    with near, far, PacketConnection(far, request_handler=refuse), Client(near) as client:
        with pytest.raises(RequestFailed) as caught:
            client.do(Shop.find())
    assert type(caught.value) is RequestFailed
    assert type(Shop.find().decode_failed_response(RequestFailed(0, payload))) is RequestFailed
