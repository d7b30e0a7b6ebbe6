"""The service that these tests call, and the errors that it raises."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from packetwire import RequestError
from packetwire.typed import Request, Service, async_caller, caller, error, method


@dataclass
class Item:
    title: str
    tags: list[str] = field(default_factory=list)


@error("out-of-stock", text="{title}: only {left} left")
class OutOfStock(RequestError):
    title: str
    left: int = 0


@error("closed")
class Closed(RequestError):
    pass


@error("unlisted")
class Unlisted(RequestError):
    pass


class Shop(Service, version="1.4", errors=[Closed]):
    """A shop that remembers what was put there."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.lock = threading.Lock()

    @method(1)
    def put(self, title: str, tags: list[str] = []) -> int:
        """Put an item there; returns how many there are."""
        with self.lock:
            self.items.append(Item(title, tags))
            return len(self.items)

    @method(2, idempotent=True, errors=[OutOfStock])
    def find(self, prefix: str = "", *, limit: int | None = None) -> list[Item]:
        found = [item for item in self.items if item.title.startswith(prefix)]
        if limit is not None and len(found) < limit:
            raise OutOfStock(prefix, left=len(found))
        return found

    @method
    async def load(self, title: str) -> Item | None:
        await asyncio.sleep(0)
        if title == "closed":
            raise Closed()
        return next((item for item in self.items if item.title == title), None)

    @method(inline=True)
    def close(self, how: str = "listed") -> None:
        if how == "listed":
            raise Closed()
        if how == "unlisted":
            raise Unlisted()
        if how == "text":
            raise RequestError("closed, as a text")

    @method
    def lie(self) -> int:
        return "no number"  # type: ignore[return-value]

    @method
    def ask_back(self, number: int) -> int:
        return caller().do(Listener.double(number)) + 1

    @method
    async def ask_back_async(self, number: int) -> int:
        return await async_caller().do(Listener.double(number)) + 1


class Listener(Service):
    """What a client serves on its own connection."""

    @method
    def double(self, number: int) -> int:
        return 2 * number


class Put(Request[int], number=1):
    """The same request as a class of its own."""

    title: str
    tags: list[str] = []

    def fulfil(self, context: Shop) -> int:
        return context.put(self.title, self.tags)
