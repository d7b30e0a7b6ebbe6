"""A bound for all connections of a server together: what they hold of payloads, here or on the way to a client.

Strategy. A connection asks before it begins another request. As long as it holds no more than its share, or all
together less than the limit, nothing happens. Past both, it is held: its handlers are not started while replies are
unsent, until these or those of others are written; and if its requests alone are more than its share, further ones
are refused, large ones before they have arrived. Past twice the limit replies are refused, too. Only who is held,
and has taken no byte for long, is ended. Nobody who holds little notices anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from packetwire.errors import ConnectionEnded

STALL_SECONDS = 30.0
"""Seconds without a byte for its client after which a connection that is held is ended."""


class Debtor(Protocol):
    """A connection."""

    @property
    def owed_bytes(self) -> int:
        """Bytes of requests without a reply, of replies that are not written, and of the packet that arrives."""
        ...

    @property
    def waits_for_peer(self) -> bool:
        """True if only its client can change that."""
        ...

    @property
    def bytes_written(self) -> int:
        """All that was ever written to its client."""
        ...

    def resume(self) -> None:
        """It may go on, as far as it `holds` nothing too large."""
        ...

    def abort(self, cause: ConnectionEnded) -> None:
        """End it now."""
        ...


class Budget:
    """`limit` bytes for all, of which each of `most` connections has its share.

    `pressed` is called, from any thread and maybe under locks, when a connection is held and none was before.
    """

    def __init__(self, limit: int, most: int, pressed: Callable[[], object]) -> None:
        self.limit = limit
        self.share = max(1, limit // most)
        self.is_pressed = False
        """True while a connection is held."""
        self.was_used = False
        """True if a connection has held more than its share since this was last set to false."""
        self._pressed = pressed
        self._debtors: dict[Debtor, None] = {}
        self._stalled: dict[Debtor, tuple[int, float]] = {}  # the bytes written, and since when

    def add(self, debtor: Debtor) -> None:
        """A connection was opened."""
        self._debtors[debtor] = None

    def discard(self, debtor: Debtor) -> None:
        """It is closed."""
        self._debtors.pop(debtor, None)

    @property
    def debtors(self) -> list[Debtor]:
        """The connections that are open."""
        return list(self._debtors)

    @property
    def owed_bytes(self) -> int:
        """Bytes that all hold."""
        return sum(debtor.owed_bytes for debtor in self.debtors)

    def holds(self, owed: int) -> bool:
        """True if a connection that holds so much is to begin nothing more."""
        if owed <= self.share:
            return False
        self.was_used = True
        if self.owed_bytes <= self.limit:
            return False
        if not self.is_pressed:
            self.is_pressed = True
            self._pressed()
        return True

    def is_exhausted(self, owed: int) -> bool:
        """True if a connection that holds so much is to keep no further reply, though its handler has run."""
        return owed > self.share and self.owed_bytes > 2 * self.limit

    def look(self, now: float) -> list[Debtor]:
        """While it `is_pressed`, from time to time: the connections that are to be ended.

        Once there is room again it is not pressed any more; then those that were held can go on.
        """
        if self.owed_bytes <= self.limit:
            self.is_pressed = False
            self._stalled = {}
            return []
        stalled, self._stalled = self._stalled, {}
        overdue = []
        for debtor in self.debtors:
            if debtor.owed_bytes > self.share and debtor.waits_for_peer:
                written, since = stalled.get(debtor, (-1, now))
                if written != debtor.bytes_written:
                    written, since = debtor.bytes_written, now
                self._stalled[debtor] = written, since
                if now - since >= STALL_SECONDS:
                    overdue.append(debtor)
        return overdue
