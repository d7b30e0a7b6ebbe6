"""Places at a server: who gets one, and who gives one up for somebody new.

Strategy. Nobody is asked to leave while places are free: a client that waits to be called back sends nothing, for
as long as it likes. When all are taken and somebody new waits, one gives its place: a client that has never
completed a packet, the oldest first, but none that has only just come; else the one that has been idle for longest,
owes no response and is owed none. One at a time leaves, and the next is asked when that one is gone, or hangs. Only
where all have something to do the new one is turned away, after a while.

Where the system has nothing left for somebody new, descriptors mostly, those that have never completed a packet
leave as well: they may be what it went to. Nobody else does, as something else of the program may have it.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Generic, Protocol, TypeVar

GRACE = 0.1
"""Seconds after it came, or after its last packet, in which nobody is asked to leave."""


class Occupant(Protocol):
    """A client that has a place. All times are of one clock."""

    @property
    def came(self) -> float:
        """When it got its place."""
        ...

    @property
    def last_packet(self) -> float | None:
        """When its last packet was complete; None if it has never completed one."""
        ...

    @property
    def is_settled(self) -> bool:
        """Whether no response is owed to it, or by it, and nothing is left to be written, or to be read."""
        ...

    @property
    def asked_to_leave(self) -> float | None:
        """When it was asked to give up its place."""
        ...


OccupantT = TypeVar("OccupantT", bound=Occupant)


class Answer(Enum):
    """What becomes of somebody new."""

    ADMIT = "admit"
    WAIT = "wait"
    TURN_AWAY = "turn away"


class Places(Generic[OccupantT]):
    """A number of places. Whoever owns it says who has them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._full_since: float | None = None

    def ask(self, occupants: Collection[OccupantT], now: float, patience: float) -> tuple[Answer, OccupantT | None]:
        """Somebody new waits: what becomes of that one, and who is to be asked to leave, if anybody is.

        Whoever waits for longer than `patience` seconds in all, and nobody gives up a place, is turned away.
        """
        if len(occupants) < self._most:
            self._full_since = None
            return Answer.ADMIT, None
        if self._full_since is None:
            self._full_since = now
        if any(is_leaving(one, now, patience) for one in occupants):
            return Answer.WAIT, None
        leaver = who_gives_way(occupants, now)
        if leaver is None and now - self._full_since >= patience:
            self._full_since = None
            return Answer.TURN_AWAY, None
        return Answer.WAIT, leaver

    def freed(self) -> None:
        """A place was given up."""
        self._full_since = None


def is_leaving(occupant: Occupant, now: float, patience: float) -> bool:
    """Whether it was asked to leave just now, so that it is worth waiting for that."""
    return occupant.asked_to_leave is not None and now - occupant.asked_to_leave < patience


def who_gives_way(occupants: Collection[OccupantT], now: float) -> OccupantT | None:
    """Who is to give up a place, or None if none of them can be asked for that."""
    silent = longest_silent(occupants, now)
    if silent is not None:
        return silent
    there = [one for one in occupants if one.asked_to_leave is None]
    idle = [
        (one.last_packet, number)
        for number, one in enumerate(there)
        if one.last_packet is not None and one.is_settled and now - one.last_packet > GRACE
    ]
    return there[min(idle)[1]] if idle else None


def longest_silent(occupants: Collection[OccupantT], now: float) -> OccupantT | None:
    """Who has never completed a packet, and came first of these; None if all have, or have only just come."""
    silent = [
        one
        for one in occupants
        if one.asked_to_leave is None and one.last_packet is None and one.is_settled and now - one.came > GRACE
    ]
    return min(silent, key=lambda one: one.came, default=None)


class Repetitions:
    """Counts what is worth a few lines in a log each second, however often it happens."""

    def __init__(self, lines: int = 5, interval: float = 1.0) -> None:
        self._lines = lines
        self._interval = interval
        self._begun: dict[str, float] = {}
        self._times: dict[str, int] = {}  # since then

    def happened(self, kind: str, now: float) -> str | None:
        """What to put behind the line about this, which may count those before; None if it is held back."""
        held_back = 0
        if kind not in self._begun or now - self._begun[kind] >= self._interval:
            held_back = self._times.get(kind, 0) - self._lines
            self._begun[kind], self._times[kind] = now, 0
        self._times[kind] += 1
        if self._times[kind] > self._lines:
            return None
        return f" ({held_back} more like this before)" if held_back > 0 else ""
