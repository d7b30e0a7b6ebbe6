"""The example of the page, and what type checkers are to infer of it: they check this file, nobody runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import assert_type

from packetwire import BaseRequest, RequestError, stdio
from packetwire.typed import (
    Answer,
    AsyncAnswer,
    AsyncClient,
    AsyncItemStream,
    Call,
    Client,
    Codec,
    ItemStream,
    Request,
    Service,
    async_caller,
    caller,
    client_of,
    error,
    method,
)


@dataclass
class Item:
    title: str
    left: int = 0


@error("out-of-stock", text="{title}: only {left} left")
class OutOfStock(RequestError):
    title: str
    left: int


class Put(Request[int], number=1):
    title: str
    tags: list[str] = []

    def fulfil(self, context: Shop) -> int:
        return context.put(self.title, self.tags)


class Clear(Request[None], errors=[OutOfStock]):
    pass


class Shop(Service, version="1.4", errors=[OutOfStock]):
    @method(1)
    def put(self, title: str, tags: list[str] = []) -> int:
        raise OutOfStock(title, left=0)

    @method(2, idempotent=True, errors=[OutOfStock])
    def all(self, prefix: str = "", *, limit: int = 10) -> list[Item]:
        return [Item(prefix)][:limit]

    @method
    async def load(self, name: str) -> Item | None:
        return Item(name)

    @method(inline=True)
    def clear(self) -> None:
        assert_type(caller().do(Shop.put("Emma")), int)


class Streams(Service):
    @method
    def each(self, prefix: str, *, limit: int = 10) -> Iterator[Item]:
        yield Item(prefix)

    @method
    def load(self, name: str, items: Iterable[Item]) -> int:
        return sum(item.left for item in items)

    @method
    def upper(self, data: Iterator[bytes]) -> Iterator[bytes]:
        return (chunk.upper() for chunk in data)

    @method
    async def each_later(self) -> AsyncIterator[Item]:
        yield Item("")

    @method
    async def load_later(self, items: AsyncIterable[Item]) -> int:
        return sum([item.left async for item in items])


def streams_with_threads() -> None:
    assert_type(Streams.each("E", limit=5), Call[Iterator[Item]])
    assert_type(Streams.each_later(), Call[AsyncIterator[Item]])
    with Streams.at("unix:/run/shop.sock") as shop:
        assert_type(shop.each("E"), Iterator[Item])
        assert_type(shop.load("Emma", [Item("a")]), int)
    with Client("unix:/run/shop.sock") as client:
        assert_type(client.do(Streams.each("E"), body_timeout=5), ItemStream[Item])
        assert_type(client.do(Streams.each_later()), ItemStream[Item])
        assert_type(client.do(Streams.load("Emma", iter([Item("a")]))), int)
        assert_type(client.do(Streams.upper(iter([b"a"]))), ItemStream[bytes])
        for item in client.do(Streams.each("E")):
            assert_type(item, Item)
        with client.do(Streams.each_later()) as items:
            assert_type(next(items), Item)
        assert_type(client.do(Shop.all("E")), list[Item])


async def streams_in_an_event_loop() -> None:
    async with AsyncClient("unix:/run/shop.sock") as client:
        assert_type(await client.do(Streams.each("E"), deadline=5), AsyncItemStream[Item])
        async for item in await client.do(Streams.each_later()):
            assert_type(item, Item)
        async with await client.do(Streams.each("E")) as items:
            assert_type(await anext(items), Item)

        async def coming() -> AsyncIterator[Item]:
            yield Item("a")

        assert_type(await client.do(Streams.load_later(coming())), int)
        assert_type(await client.do(Streams.load("Emma", [Item("a")])), int)


def with_threads() -> None:
    with Shop.at("ssh:host python3 -m shop") as shop:
        assert_type(shop, Shop)
        assert_type(shop.put("Emma"), int)
        assert_type(shop.put("Emma", ["novel"]), int)
        assert_type(shop.put(title="Emma", tags=[]), int)
        assert_type(shop.all(limit=5), list[Item])
        assert_type(client_of(shop), Client)
    assert_type(Shop.put("Emma"), Call[int])
    assert_type(Shop.all("E", limit=5), Call[list[Item]])
    with Client("unix:/run/shop.sock") as client:
        assert_type(client.do(Shop.put("Emma"), timeout=5), int)
        assert_type(client.do(Shop.load("Emma")), Item | None)
        assert_type(client.do(Put("Emma", tags=["novel"])), int)
        assert_type(client.submit(Shop.put("Emma")), Answer[int])
        assert_type(client.submit(Shop.load("Emma"))(timeout=5), Item | None)
        assert_type(client.map(Shop.put(title) for title in "abc"), Iterator[int])
        assert_type(client.map([Put("a"), Put("b")], return_exceptions=True, deadline=5), Iterator[int | Exception])
        for request, number in client.map_unordered([Put("a")]):
            assert_type(request, BaseRequest[int])
            assert_type(number, int)
    Shop().serve(stdio()).wait()
    with Shop().serve("unix:/run/shop.sock", max_connections=5) as server:
        assert_type(server.wait(5), bool)
    assert_type(Shop().put("Emma"), int)


async def in_an_event_loop() -> None:
    async with AsyncClient("unix:/run/shop.sock", serves=Shop()) as client:
        assert_type(await client.do(Shop.put("Emma"), timeout=5), int)
        assert_type(await client.do(Shop.load("Emma")), Item | None)
        assert_type(await client.do(Put("Emma"), deadline=5, meta={"user": b"emma"}), int)
        assert_type(client.submit(Shop.load("Emma")), AsyncAnswer[Item | None])
        assert_type(await client.submit(Shop.put("Emma")), int)
        assert_type(client.map([Shop.put("a")]), AsyncGenerator[int])
    async with await Shop().aserve("unix:/run/shop.sock") as server:
        await server.wait()
    assert_type(await Shop().load("Emma"), Item | None)
    assert_type(await async_caller().do(Shop.put("Emma")), int)


def values() -> None:
    assert_type(Codec(Item).decode(b""), Item)
    assert_type(OutOfStock("Emma", 0).left, int)
    assert_type(Put("Emma").tags, list[str])
