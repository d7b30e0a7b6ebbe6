"""Slots in which handlers run: so many at once, not counting those that wait for calls of their own.

A slot is a token in a deque: to take one or to give it back is a single step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packetwire.errors import LimitExceeded

MAX_NESTED = 512
"""Handlers of one connection that wait for calls of their own: the depth of a chain of call-backs."""


class Slots:
    """The slots of one connection, of which there are `limit`; `freed` is called when one is given back."""

    def __init__(self, limit: int, name: str, freed: Callable[[], object]) -> None:
        self.free = deque([None] * limit)
        """A token for each slot that nobody has."""
        self.nested = 0
        """Handlers that wait."""
        self.debts: list[None] = []
        """Of handlers that run on though there was no slot."""
        self._name = name
        self._freed = freed

    def give_back(self) -> None:
        """A handler has returned, or waits."""
        try:
            self.debts.pop()
        except IndexError:
            self.free.append(None)
        self._freed()

    def begin_wait(self) -> None:
        """A handler of this connection waits for a call, on whatever connection: it has no slot meanwhile.

        Raises `LimitExceeded` if too many wait already.
        """
        if self.nested >= MAX_NESTED:
            raise LimitExceeded(
                f"{self._name}: {MAX_NESTED} handlers wait for calls of their own, the chain is too deep"
            )
        self.nested += 1
        self.give_back()

    def end_wait(self) -> None:
        """The handler runs on. It never waits for a slot, as others may wait for it."""
        self.nested -= 1
        try:
            self.free.pop()
        except IndexError:
            self.debts.append(None)


handling: dict[int, Slots] = {}
"""Thread -> the slots of the connection a handler of which it runs. For all connections of the process: a handler
that waits for another connection waits as well."""


@contextmanager
def without_slot(me: int) -> Iterator[None]:
    """In the block this thread waits for something: if it runs a handler, that has no slot meanwhile."""
    slots = handling.get(me)
    if slots is None:
        yield
        return
    slots.begin_wait()
    try:
        yield
    finally:
        slots.end_wait()
