"""Functions that tests have called at far ends."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packetwire import RequestError
from packetwire.typed import error


@dataclass
class Item:
    title: str
    tags: list[str]


class Odd(Exception):
    pass


class Worse(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)


@error("sold-out", text="{title}: sold out")
class SoldOut(RequestError):
    title: str


def count(text: str) -> int:
    return len(text)


def pid() -> int:
    return os.getpid()


def tagged(item: Item, *more: str, upper: bool = False, **rest: int) -> Item:
    return Item(item.title.upper() if upper else item.title, [*item.tags, *more, *map(str, rest.values())])


def plain(a, b=3, *c, **d):  # type: ignore[no-untyped-def]
    return [a, b, c, d]


async def later(number: int) -> int:
    return number + 1


@functools.lru_cache
def remembered(number: int) -> int:
    return number


def fail(kind: str) -> Any:
    if kind == "odd":
        raise Odd("x", 1)
    if kind == "worse":
        raise Worse(1, 2)
    if kind == "sold-out":
        raise SoldOut("Emma")
    if kind == "set":
        return {1}
    return {}[kind]


def until(path: str, began: str = "") -> int:
    """Wait for a file."""
    if began:
        Path(began).touch()
    while not Path(path).exists():
        time.sleep(0.01)
    return os.getpid()


def die_unless(path: str) -> int:
    """Leave the process, but for the second time."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(7)
    return 1


def numbers() -> Iterator[int]:
    yield 1


def odd_kind(values: complex) -> None: ...


def _hidden() -> None: ...
