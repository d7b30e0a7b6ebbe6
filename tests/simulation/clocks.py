"""Lets the modules of packetwire see the simulated clock, and have their chance from the seed."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Seen:
    """A module as packetwire sees it: with some functions replaced."""

    def __init__(self, module: ModuleType, **replaced: Any) -> None:
        self.__dict__.update(replaced)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@contextmanager
def replaced(
    now: Callable[[], float], chance: random.Random, *, modules: dict[str, dict[str, Any]] | None = None
) -> Iterator[None]:
    """In this block packetwire's clock is `now`, and its random numbers are those of `chance`.

    `modules` are the replacements of single attributes in single modules, by their names behind "packetwire.".
    """
    clock = Seen(time, monotonic=now)
    numbers = Seen(random, random=chance.random, uniform=chance.uniform)
    former: list[tuple[ModuleType, str, Any]] = []

    def put(module: ModuleType, name: str, value: Any) -> None:
        former.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    for full_name, module in list(sys.modules.items()):
        if not full_name.startswith("packetwire.") or module is None:
            continue
        for name, value in list(vars(module).items()):
            if value is time:
                put(module, name, clock)
            elif value is time.monotonic:
                put(module, name, now)
            elif value is random:
                put(module, name, numbers)
        for name, value in (modules or {}).get(full_name.removeprefix("packetwire."), {}).items():
            put(module, name, value)
    try:
        yield
    finally:
        for module, name, value in reversed(former):
            setattr(module, name, value)


@contextmanager
def exchanged(pairs: dict[int, Any]) -> Iterator[None]:
    """In this block packetwire's modules have other objects for those of these identities."""
    former: list[tuple[ModuleType, str, Any]] = []
    for full_name, module in list(sys.modules.items()):
        if full_name.startswith("packetwire") and module is not None:
            for name, value in list(vars(module).items()):
                if id(value) in pairs:
                    former.append((module, name, value))
                    setattr(module, name, pairs[id(value)])
    try:
        yield
    finally:
        for module, name, value in former:
            setattr(module, name, value)


def threads_as(make: Callable[..., Any]) -> Seen:
    """The module `threading` with another class of threads."""
    return Seen(threading, Thread=make)
