"""Requests that are done at most once, however often they come: what a service remembers of them.

A client numbers such requests upwards. The table keeps the results of the last ones; of those whose results are
gone it keeps, for each client, the highest number. So a request that comes again is answered as before, or refused,
and never done again. It knows no time but what it is told, and has no lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from packetwire.core.requestids import Repeated
from packetwire.core.requests import Outcome
from packetwire.errors import RequestError

MAX_CLIENTS = 10_000
"""Clients of which the highest number is kept."""

MAX_UNDER_WAY = 65_536
"""Requests that were begun and have no outcome yet, at most."""

CALL_BYTES = 200
"""The bytes that an entry counts besides its payload."""


class Entry:
    """A request that was begun: its outcome, or those who wait for it."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = None
        self.waiting: list[Callable[[Outcome], object]] = []
        self.size = CALL_BYTES
        self.done_at = 0.0


class ResultTable:
    """The results of the last requests of all clients.

    `results` and `size` (bytes) bound what it keeps of those that are done, `seconds` for how long.
    """

    def __init__(self, results: int, size: int, seconds: float) -> None:
        self._results = results
        self._size = size
        self._seconds = seconds
        self._entries: dict[tuple[bytes, int], Entry] = {}
        self._done: OrderedDict[tuple[bytes, int], None] = OrderedDict()  # in the order in which they were done
        self._kept = 0  # bytes of those
        self._forgotten: OrderedDict[bytes, tuple[int, float]] = OrderedDict()  # the highest number, and when

    def begin(self, client: bytes, number: int, now: float) -> tuple[Entry, bool]:
        """(its entry, whether it is new): a new one is to be done, and `finish` told of its outcome.

        Raises `Repeated` if it may have been done, and its result is gone.
        """
        self.expire(now)
        entry = self._entries.get((client, number))
        if entry is not None:
            return entry, False
        highest, _ = self._forgotten.get(client, (0, 0.0))
        if number <= highest:
            raise Repeated("this request was sent before, and its result is not kept any more")
        if len(self._entries) - len(self._done) >= MAX_UNDER_WAY:
            raise RequestError("too many requests that are to be done only once are under way")
        if len(self._forgotten) >= MAX_CLIENTS and client not in self._forgotten:
            raise RequestError("too many clients want their requests to be done only once")
        entry = self._entries[client, number] = Entry()
        return entry, True

    def finish(self, client: bytes, number: int, outcome: Outcome, size: int, now: float) -> list[Any]:
        """Keep the outcome of a request, with a payload of so many bytes; returns who waits for it."""
        key = client, number
        entry = self._entries[key]
        entry.outcome, entry.done_at = outcome, now
        entry.size += size
        self._done[key] = None
        self._kept += entry.size
        waiting, entry.waiting = entry.waiting, []
        self.expire(now)
        return waiting

    def expire(self, now: float) -> None:
        """Forget the results that are too many, too large together, or too old."""
        while self._done:
            key = next(iter(self._done))
            entry = self._entries[key]
            if (
                len(self._done) <= self._results
                and self._kept <= self._size
                and now - entry.done_at < self._seconds
            ):
                break
            self._forget(key, entry, now)
        while self._forgotten:
            client, (_, when) = next(iter(self._forgotten.items()))
            if len(self._forgotten) < MAX_CLIENTS or now - when < self._seconds:
                break
            del self._forgotten[client]  # nobody repeats a request after so long

    def _forget(self, key: tuple[bytes, int], entry: Entry, now: float) -> None:
        client, number = key
        del self._done[key], self._entries[key]
        self._kept -= entry.size
        highest, _ = self._forgotten.pop(client, (0, 0.0))
        self._forgotten[client] = max(highest, number), now
