"""A service whose methods take and yield items, and both faces of it and of its client, used in one way."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from packetwire import RequestError, current_request
from packetwire.typed import AsyncClient, Client, Service, async_caller, caller, error, method

WATCHDOG = 30.0


@dataclass
class Item:
    title: str
    size: int = 0


@error("gone", text="{title} is gone")
class Gone(RequestError):
    title: str


class Listener(Service):
    """What a client serves on its own connection."""

    @method
    def double(self, number: int) -> int:
        return 2 * number


class Streams(Service, errors=[Gone]):
    """Methods in threads; those with `later` in their names run in an event loop."""

    def __init__(self) -> None:
        self.closed, self.waits = threading.Event(), threading.Event()
        self.yielded = 0
        self.release = threading.Event()

    @method(1)
    def items(self, count: int, *, fail: bool = False) -> Iterator[Item]:
        """So many items."""
        for size in range(count):
            yield Item("x" * size, size)
        if fail:
            raise Gone("Emma")

    @method(2)
    def total(self, name: str, items: Iterable[Item]) -> tuple[str, int]:
        return name, sum(item.size for item in items)

    @method(3)
    def titles(self, items: Iterator[Item], *, prefix: str = "") -> Iterator[str]:
        for item in items:
            yield prefix + item.title

    @method(4)
    def endless(self) -> Iterator[bytes | None]:
        try:
            while True:
                self.yielded += 1
                yield bytes(10_000)
        finally:
            self.closed.set()

    @method(5)
    def upper(self, data: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in data:
            yield chunk.upper()

    @method(6)
    def lie(self) -> Iterator[Item]:
        yield from [Item("a"), Item("b"), Item(5)]  # type: ignore[arg-type]

    @method(7)
    def asking(self) -> Iterator[int]:
        for number in range(3):
            yield caller().do(Listener.double(number))

    @method(8)
    def first(self, items: Iterator[int]) -> int:
        return next(items)

    @method(9)
    def stuck(self) -> Iterator[int]:
        yield 1
        self.waits.set()
        current_request().wait(WATCHDOG)
        self.closed.set()

    @method(10)
    def big(self, sizes: list[int]) -> Iterator[str]:
        return iter(["x" * size for size in sizes])

    @method(11)
    def refused(self) -> Iterator[int]:
        raise Gone("at once")

    @method(21)
    async def items_later(self, count: int, *, fail: bool = False) -> AsyncIterator[Item]:
        for size in range(count):
            yield Item("x" * size, size)
            if size % 10 == 0:
                await asyncio.sleep(0)
        if fail:
            raise Gone("Emma")

    @method(22)
    async def total_later(self, name: str, items: AsyncIterable[Item]) -> tuple[str, int]:
        return name, sum([item.size async for item in items])

    @method(23)
    async def titles_later(self, items: AsyncIterator[Item], *, prefix: str = "") -> AsyncIterator[str]:
        async for item in items:
            yield prefix + item.title

    @method(24)
    async def endless_later(self) -> AsyncIterator[bytes | None]:
        try:
            while True:
                self.yielded += 1
                yield bytes(10_000)
        finally:
            self.closed.set()

    @method(25)
    async def upper_later(self, data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in data:
            yield chunk.upper()

    @method(26)
    async def lie_later(self) -> AsyncIterator[Item]:
        for item in [Item("a"), Item("b"), Item(5)]:  # type: ignore[arg-type]
            yield item

    @method(28)
    async def first_later(self, items: AsyncIterator[int]) -> int:
        return await anext(items)

    @method(29)
    async def stuck_later(self) -> AsyncIterator[int]:
        try:
            yield 1
            self.waits.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    @method(30)
    def big_later(self, sizes: list[int]) -> AsyncIterator[str]:
        return self._big(sizes)

    async def _big(self, sizes: list[int]) -> AsyncIterator[str]:
        for size in sizes:
            yield "x" * size

    @method(31)
    def refused_later(self) -> AsyncIterator[int]:
        raise Gone("at once")


class AskingLater(Service):
    @method
    async def asking(self) -> AsyncIterator[int]:
        for number in range(3):
            yield await async_caller().do(Listener.double(number))


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WATCHDOG)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WATCHDOG)
        self.loop.close()


class ThreadedUser:
    """A `Client`."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def do(self, call: Any, **options: Any) -> Any:
        return self.client.do(call, **options)

    def begin(self, call: Any) -> Any:
        """A stream, of which one item was read."""
        items = self.client.do(call)
        next(items)
        return items

    def read(self, call: Any, into: list[Any], most: int | None = None, **options: Any) -> list[Any]:
        """The items of a call, up to so many."""
        with self.client.do(call, **options) as items:
            for item in items:
                into.append(item)
                if len(into) == most:
                    break
        return into


class LoopedUser:
    """An `AsyncClient`, in a loop in a thread."""

    def __init__(self, client: AsyncClient, loop: Loop) -> None:
        self.client = client
        self._loop = loop

    def do(self, call: Any, **options: Any) -> Any:
        return self._loop.run(self.client.do(call, **options))

    def begin(self, call: Any) -> Any:
        async def beginning() -> Any:
            items = await self.client.do(call)
            await anext(items)
            return items

        return self._loop.run(beginning())

    def read(self, call: Any, into: list[Any], most: int | None = None, **options: Any) -> list[Any]:
        async def reading() -> list[Any]:
            async with await self.client.do(call, **options) as items:
                async for item in items:
                    into.append(item)
                    if len(into) == most:
                        break
            return into

        read: list[Any] = self._loop.run(reading())
        return read


User = ThreadedUser | LoopedUser


@contextmanager
def served(service: Service, face: str, far: socket.socket, connection: dict[str, Any]) -> Iterator[None]:
    """The service at one end."""
    if face == "threads":
        with service.serve(far, connection=connection):
            yield
        return
    loop = Loop()
    try:
        server = loop.run(service.aserve(far, connection=connection))
        yield
        loop.run(server.stop())
    finally:
        loop.close()


@contextmanager
def used(face: str, near: socket.socket, **options: Any) -> Iterator[User]:
    """Its client at the other."""
    if face == "threads":
        with Client(near, **options) as client:
            yield ThreadedUser(client)
        return
    loop = Loop()

    async def made() -> AsyncClient:  # where its loop runs
        return await AsyncClient(near, **options).__aenter__()

    try:
        looped = loop.run(made())
        try:
            yield LoopedUser(looped, loop)
        finally:
            loop.run(looped.__aexit__(None, None, None))
    finally:
        loop.close()


Connect = Callable[..., Any]
