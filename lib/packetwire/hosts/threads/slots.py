"""Slots in which handlers run: so many at once, not counting those that wait for calls of their own.

A slot is a token in a deque: to take one or to give it back is a single step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from packetwire.core.hello import Hello
from packetwire.core.owed import OwedRequests
from packetwire.core.packetcodec import Fields, Key
from packetwire.core.requestcontext import RequestContext
from packetwire.errors import LimitExceeded
from packetwire.hosts.threads.waiter import Waiter

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


class Answering(Protocol):
    """Answers the requests of one connection."""

    owed: OwedRequests
    bodies: Callable[[], Any]
    """Those of the requests."""

    def context_of(self, key: Key) -> RequestContext:
        """The context of a request; made now if there is none."""
        ...

    def report(self, key: Key, payload: bytes) -> bool:
        """Send progress, if the caller wants it now."""
        ...

    @property
    def peer(self) -> Hello | None:
        """The peer's settings."""
        ...


class Turn:
    """One thread that runs handlers, for others to look at."""

    __slots__ = ("answering", "request", "slots", "waits")

    def __init__(self, slots: Slots | None, answering: Answering) -> None:
        self.slots = slots
        """Those of the connection; None if the handlers have none, as inline ones."""
        self.answering = answering
        self.request: Fields | None = None
        """The request whose handler it runs, or has run last."""
        self.waits: tuple[Waiter, Callable[[], object]] | None = None
        """The response that this handler waits for, and a function that wakes up its reader."""

    def give_up(self) -> None:
        """Its request is cancelled: what its handler waits for is not waited for any more."""
        if self.waits is not None:
            waiter, interrupt = self.waits
            waiter.given_up = True
            waiter.wake()
            interrupt()


handling: dict[int, Turn] = {}
"""Thread -> what it runs, while it runs handlers. For all connections of the process: a handler that waits for
another connection waits as well."""


inheriting: dict[int, RequestContext] = {}
"""Thread -> the request whose handler it runs, if calls of that handler end with it by its deadline."""


@contextmanager
def without_slot(me: int) -> Iterator[None]:
    """In the block this thread waits for something: if it runs a handler, that has no slot meanwhile."""
    turn = handling.get(me)
    slots = None if turn is None else turn.slots
    if slots is None:
        yield
        return
    slots.begin_wait()
    try:
        yield
    finally:
        slots.end_wait()
