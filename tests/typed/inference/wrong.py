"""Wrong uses, one in each line that ends in `# wrong`: type checkers are to report each, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packetwire import RequestError
from packetwire.typed import AsyncClient, Client, Codec, Request, Service, error, method


@dataclass
class Item:
    title: str


@error("gone")
class Gone(RequestError):
    title: str


class Put(Request[int], number=1):
    title: str
    tags: list[str] = []


class BadNumber(Request[int], number="1"):  # wrong
    title: str


class BadResult(Request[int]):
    title: str

    def fulfil(self, context: object) -> str:  # wrong
        return self.title


class Shop(Service, version="1.4"):
    @method(1)
    def put(self, title: str, tags: list[str] = []) -> int:
        return len(title)

    @method(2, idempotent=True)
    def find(self, prefix: str, *, limit: int = 10) -> list[Item]:
        return [Item(prefix)] * limit

    @method
    async def load(self, name: str) -> Item:
        return Item(name)

    @method
    def all(self, prefix: str) -> Iterator[Item]:
        yield Item(prefix)

    @method
    def take(self, items: Iterable[Item]) -> int:
        return len(list(items))

    @method("3")  # wrong
    def one(self) -> int:
        return 1

    @method(4, errors=[ValueError])  # wrong
    def two(self) -> int:
        return 2

    @method(5, retries=3)  # wrong
    def three(self) -> int:
        return 3


class Versioned(Service, version=2):  # wrong
    pass


def with_threads() -> None:
    with Shop.at("unix:/run/shop.sock") as shop:
        shop.put()  # wrong
        shop.put(5)  # wrong
        shop.put("Emma", tags="novel")  # wrong
        shop.put("Emma", [], 3)  # wrong
        shop.find("E", 5)  # wrong
        shop.drop("Emma")  # wrong
        shop.take([5])  # wrong
        titles: list[Item] = shop.all("E")  # wrong
        text: str = shop.put("Emma")  # wrong
    with Client("unix:/run/shop.sock") as client:
        client.do(Shop.put(title=b"Emma"))  # wrong
        number: str = client.do(Shop.put("Emma"))  # wrong
        client.do(Shop.put)  # wrong
        client.do("Emma")  # wrong
        item: list[Item] = client.do(Shop.load("Emma"))  # wrong
        client.do(Put("Emma", 5))  # wrong
        client.do(Put())  # wrong
        client.do(Put("Emma"), dead_line=5)  # wrong
        client.submit(Shop.put("Emma"))() + "x"  # wrong
        for each in client.map([Shop.put("Emma")]):
            each.title  # noqa: B018  # wrong
        for found in client.do(Shop.all("E")):
            found.left  # noqa: B018  # wrong
    Client(5, serves=Put("Emma"))  # wrong
    print(text, number, item, titles)


async def in_an_event_loop(client: AsyncClient) -> None:
    number: str = await client.do(Shop.put("Emma"))  # wrong
    (await client.do(Shop.load("Emma"))).left  # noqa: B018  # wrong
    for item in await client.do(Shop.all("E")):  # wrong
        print(item)
    print(number)


def values() -> None:
    Codec(Item).encode(5)  # wrong
    Gone(5)  # wrong
    Gone()  # wrong
