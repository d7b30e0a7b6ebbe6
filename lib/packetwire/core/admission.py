"""Deciding which clients are accepted, and which one gives its place up for somebody new.

Strategy. Nobody is asked to leave while places are free: a client that waits to be called back sends nothing, for
as long as it likes. If all are taken and somebody new waits, one gives its place: a client that has never
completed a packet, the oldest first, but none that has only just come; else the one that has been idle for longest,
owes no response and is owed none. One at a time leaves, and the next is asked when that one is gone, or hangs. Only
where all have something to do the new one is turned away, after a while.

If the system has nothing left for somebody new, descriptors mostly, those that have never completed a packet
leave as well: they may be what it went to. Nobody else does, as something else of the program may have it.

While somebody waits for a place, or the system has nothing left, accepting is paused: else the sockets would say
all the time that somebody is there. It is resumed when a client leaves, or the time is over.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

GRACE = 0.1
"""Seconds after it came, or after its last packet, in which nobody is asked to leave."""
PAUSE_SECONDS = 0.5
"""Seconds without accepting, when there is no place or the system ran out of something."""
RETRY_SECONDS = 0.05
"""Seconds until somebody who waits for a place asks again, if nobody leaves before."""
LEAVING_SECONDS = 0.5
"""Seconds for who was asked to leave to be gone, before others are asked."""
LEAVING_AT_ONCE = 4
"""Clients that are asked at a time: one has fewer descriptors than have to be free for another one."""


class Occupant(Protocol):
    """A client that has a place. All times are of one clock."""

    @property
    def origin(self) -> str | None:
        """The address that it comes from, if clients from there are counted."""
        ...

    @property
    def came(self) -> float:
        """The time at which it got its place."""
        ...

    @property
    def last_packet(self) -> float | None:
        """The time at which its last packet was complete; None if it has never completed one."""
        ...

    @property
    def is_settled(self) -> bool:
        """True if no response is owed to it, or by it, and nothing is left to be written, or to be read."""
        ...

    @property
    def asked_to_leave(self) -> float | None:
        """The time at which it was asked to give up its place; None if it was not."""
        ...


OccupantT = TypeVar("OccupantT", bound=Occupant)


class Answer(Enum):
    """The answer to somebody new."""

    ADMIT = "admit"
    WAIT = "wait"
    TURN_AWAY = "turn away"


class Places(Generic[OccupantT]):
    """A number of places. The owner of this object says who has them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._full_since: float | None = None

    def ask(self, occupants: Collection[OccupantT], now: float, patience: float) -> tuple[Answer, OccupantT | None]:
        """Somebody new waits: what becomes of that one, and who is to be asked to leave, if anybody is.

        One that waits for longer than `patience` seconds in all, while nobody gives up a place, is turned away.
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


@dataclass(frozen=True)
class Limits:
    """The bounds of one who accepts clients; `name` is the option that the number of places has there."""

    most: int
    most_of_one_address: int | None = None
    allow_uids: frozenset[int] | None = None
    name: str = "max_connections"


class Verdict(NamedTuple, Generic[OccupantT]):
    """The answer to somebody new, the one that is to leave for that, if anybody is, and the reason."""

    answer: Answer
    leaver: OccupantT | None = None
    reason: str = ""


class AdmissionPolicy(Generic[OccupantT]):
    """The decisions of one who accepts clients. `occupants` are those that have a place at the time.

    `now` is the same clock everywhere. Nothing is done here: whoever asks has the leaver told, and looks at
    `paused_until` before it accepts again.
    """

    def __init__(self, occupants: Collection[OccupantT], limits: Limits) -> None:
        self.limits = limits
        self.paused_until: float | None = None
        """Until then nobody is accepted; None while clients may come."""
        self._occupants = occupants
        self._places: Places[OccupantT] = Places(limits.most)
        self._is_exhausted = False

    # whether to accept

    def ask(self, now: float) -> Verdict[OccupantT]:
        """Somebody new waits to be accepted. If that one has to wait longer, accepting is paused."""
        answer, leaver = self._places.ask(self._occupants, now, PAUSE_SECONDS)
        if answer is Answer.WAIT:
            self.pause(now, min(RETRY_SECONDS, PAUSE_SECONDS))
        full = f"all {self.limits.name}={self.limits.most} places are taken"
        return Verdict(answer, leaver, "" if answer is Answer.ADMIT else full)

    def freed(self) -> None:
        """Somebody has left."""
        self._places.freed()
        self.resume()

    def pause(self, now: float, seconds: float) -> None:
        """Accept nobody for so many seconds, or until somebody leaves."""
        self.paused_until = now + seconds

    def resume(self) -> None:
        """Accept again."""
        self.paused_until = None

    def is_paused(self, now: float) -> bool:
        """Tell if nobody is to be accepted yet; when the time is over accepting is resumed."""
        if self.paused_until is not None and now >= self.paused_until:
            self.resume()
        return self.paused_until is not None

    # who was accepted

    def allows_user(self, uid: int) -> bool:
        """Tell if a user may connect."""
        return self.limits.allow_uids is None or uid in self.limits.allow_uids

    def ask_for_address(self, origin: str | None, now: float) -> Verdict[OccupantT]:
        """Somebody from that address was accepted; others from there may give up their places."""
        most = self.limits.most_of_one_address
        if most is None or origin is None:
            return Verdict(Answer.ADMIT)
        theirs = [one for one in self._occupants if one.origin == origin and one.asked_to_leave is None]
        if len(theirs) < most:
            return Verdict(Answer.ADMIT)
        full = f"all max_per_address={most} places of {origin} are taken"
        leaver = who_gives_way(theirs, now)
        return Verdict(Answer.TURN_AWAY if leaver is None else Answer.ADMIT, leaver, full)

    # the system has nothing left

    def accepted(self) -> None:
        """Somebody was accepted: the system has enough again."""
        self._is_exhausted = False

    def ran_out(self, now: float) -> bool:
        """The system is out of something, so accepting is paused. True if that is news."""
        is_news = not self._is_exhausted
        self._is_exhausted = True
        self.pause(now, PAUSE_SECONDS)
        return is_news

    def make_room(self, now: float) -> list[OccupantT]:
        """The system is out of something: the clients that are to leave, as they may be what it went to.

        If anybody leaves, or may do so soon, accepting is paused for a moment only.
        """
        left = LEAVING_AT_ONCE - sum(is_leaving(one, now, LEAVING_SECONDS) for one in self._occupants)
        silent = longest_silent(self._occupants, now)[: max(0, left)]
        is_any_silent = any(one.last_packet is None and one.asked_to_leave is None for one in self._occupants)
        if left < LEAVING_AT_ONCE or is_any_silent:
            self.pause(now, min(RETRY_SECONDS, PAUSE_SECONDS))
        return silent


def is_leaving(occupant: Occupant, now: float, patience: float) -> bool:
    """Tell if it was asked to leave just now, so that it is worth waiting for that."""
    return occupant.asked_to_leave is not None and now - occupant.asked_to_leave < patience


def who_gives_way(occupants: Collection[OccupantT], now: float) -> OccupantT | None:
    """The one that is to give up a place, or None if none of them can be asked for that."""
    silent = longest_silent(occupants, now)
    if silent:
        return silent[0]
    there = [one for one in occupants if one.asked_to_leave is None]
    idle = [
        (one.last_packet, number)
        for number, one in enumerate(there)
        if one.last_packet is not None and one.is_settled and now - one.last_packet > GRACE
    ]
    return there[min(idle)[1]] if idle else None


def longest_silent(occupants: Collection[OccupantT], now: float) -> list[OccupantT]:
    """Those who have never completed a packet, who came first at first; without those that have only just come."""
    silent = [
        one
        for one in occupants
        if one.asked_to_leave is None and one.last_packet is None and one.is_settled and now - one.came > GRACE
    ]
    return sorted(silent, key=lambda one: one.came)


class Repetitions:
    """Counts what is worth a few lines in a log each second, however often it happens."""

    def __init__(self, lines: int = 5, interval: float = 1.0) -> None:
        self._lines = lines
        self._interval = interval
        self._begun: dict[str, float] = {}
        self._times: dict[str, int] = {}  # since then

    def happened(self, kind: str, now: float) -> str | None:
        """Return the end of the line about this, which may count those before; None if the line is held back."""
        held_back = 0
        if kind not in self._begun or now - self._begun[kind] >= self._interval:
            held_back = self._times.get(kind, 0) - self._lines
            self._begun[kind], self._times[kind] = now, 0
        self._times[kind] += 1
        if self._times[kind] > self._lines:
            return None
        return f" ({held_back} more like this before)" if held_back > 0 else ""
