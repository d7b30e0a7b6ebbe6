"""The decisions of what keeps connections alive: when to connect again, which one to ask, what to repeat.

Pure: the time and the random numbers are arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from packetwire.core.bounds import bound_of
from packetwire.core.timelimits import seconds_of
from packetwire.errors import (
    ChildExited,
    ConnectionEnded,
    Drained,
    LocalProtocolError,
    PacketwireError,
    PeerClosed,
    RequestFailed,
    RequestTimeout,
)

RESTARTS = ("always", "on-failure", "never")
"""The rules for making a connection that has ended again."""
STEADY_SECONDS = 1.0
"""Seconds that a connection must last for the next one not to wait longer than the first."""
DEFAULT_RESTART_LIMIT = (5, 60.0)
"""The restarts of a child, and the seconds for so many, after which it is given up."""
REPEATS_KEPT = 10.0
"""Repeats that may be made at once after many calls that succeeded."""
REPEATS_PER_CALL = 0.1
"""The part of the calls that may be repeats, in the long run."""


@dataclass(frozen=True)
class Backoff:
    """The seconds between two attempts to connect: `first`, then `factor` times as long each, up to `longest`.

    A random part of it, up to `spread`, is taken off each time, so that not all clients of a server come back at
    once.
    """

    first: float = 0.1
    longest: float = 30.0
    factor: float = 2.0
    spread: float = 0.5

    def __post_init__(self) -> None:
        first, longest = seconds_of(self.first, "first"), seconds_of(self.longest, "longest")
        if not 0 < first <= longest:
            raise LocalProtocolError(f"first must be above 0 and up to longest, got {first:g} and {longest:g}")
        if not (self.factor >= 1 and 0 <= self.spread <= 1):
            raise LocalProtocolError(
                f"factor must be from 1, and spread from 0 to 1, got {self.factor!r} and {self.spread!r}"
            )

    def delay(self, failures: int, random: float) -> float:
        """Seconds after so many failures in a row; `random` is from 0 to 1."""
        try:
            whole = min(self.longest, self.first * self.factor ** (failures - 1))
        except OverflowError:
            whole = self.longest
        return whole * (1 - self.spread * random)


@dataclass(frozen=True)
class Rules:
    """The rules by which a connection is made again: `restart` is one of `RESTARTS`.

    `limit` is (number, seconds): after more attempts than that within so many seconds no further one is made.
    """

    backoff: Backoff = Backoff()
    restart: str = "always"
    limit: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.restart not in RESTARTS:
            raise LocalProtocolError(f"restart must be one of {', '.join(RESTARTS)}, got {self.restart!r}")
        if self.limit is not None:
            number, seconds = self.limit
            bound_of(number, "limit", least=0)
            seconds_of(seconds, "limit")


class Attempts:
    """One connection after the other: is there to be another one, and how soon?"""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._failures = 0
        self._delay = 0.0
        self._ready_at: float | None = None
        self._at_once_at: float | None = None  # when the last one was made again at once
        self._made: deque[float] = deque()

    def ready(self, now: float) -> None:
        """The connection can be used."""
        self._ready_at = now

    def ended(self, cause: BaseException | None, now: float, random: float) -> float | None:
        """It has ended, or could not be made: seconds until the next attempt; None if there is to be none."""
        rules, ready_at = self._rules, self._ready_at
        self._ready_at = None
        if rules.restart == "never" or (rules.restart == "on-failure" and is_in_order(cause)):
            return None
        if ready_at is not None and isinstance(cause, Drained) and self._may_be_at_once(now):
            self._failures, self._delay, self._at_once_at = 0, 0.0, now
        else:
            if ready_at is not None and now - ready_at >= max(STEADY_SECONDS, self._delay):
                self._failures = 0
            self._failures += 1
            self._delay = rules.backoff.delay(self._failures, random)
        if rules.limit is None:
            return self._delay
        number, seconds = rules.limit
        while self._made and self._made[0] <= now - seconds:
            self._made.popleft()
        if len(self._made) >= number:
            return None
        self._made.append(now)
        return self._delay

    def _may_be_at_once(self, now: float) -> bool:
        """True unless that was done just now: a server that ends each connection in order is not to be flooded."""
        return self._at_once_at is None or now - self._at_once_at >= STEADY_SECONDS


def is_in_order(cause: BaseException | None) -> bool:
    """True if a connection has not failed: the peer ended it, or the child left with exit status 0."""
    if isinstance(cause, ChildExited):
        return cause.returncode == 0
    return cause is None or isinstance(cause, PeerClosed)


def choose(loads: Sequence[int], first: float, second: float) -> int:
    """The index of the lesser of two loads, which are drawn by two random numbers from 0 to 1, exclusive."""
    one = int(first * len(loads))
    if len(loads) == 1:
        return one
    other = int(second * (len(loads) - 1))
    other += other >= one
    return min(one, other, key=loads.__getitem__)


def lost(error: PacketwireError) -> bool:
    """True if a call was lost with its connection, or refused as that is about to end.

    The latter has not begun, and is neither an answer nor given up by its caller.
    """
    if isinstance(error, ConnectionEnded):
        return True
    return getattr(error, "begun", None) is False and not isinstance(error, RequestFailed | RequestTimeout)


class Repeats:
    """The decision if a call that was lost with its connection is made again: a bounded part of all calls is."""

    def __init__(self) -> None:
        self._left = REPEATS_KEPT

    def succeeded(self) -> None:
        """A call got its answer."""
        self._left = min(REPEATS_KEPT, self._left + REPEATS_PER_CALL)

    def may_repeat(self, begun: bool | None, idempotent: bool) -> bool:
        """True if a call is to be made again; `begun` says if its handler had begun, None if that is not known."""
        if begun or (begun is None and not idempotent):
            return False
        if begun is False:
            return True  # nothing was done for it there
        if self._left < 1:
            return False
        self._left -= 1
        return True


# what is told


@dataclass(frozen=True)
class MemberReady:
    """A connection was made, and can be used."""

    name: str


@dataclass(frozen=True)
class MemberEnded:
    """A connection has ended, or could not be made."""

    name: str
    cause: BaseException | None


@dataclass(frozen=True)
class MemberWaits:
    """The next attempt is made after so many seconds."""

    name: str
    seconds: float


@dataclass(frozen=True)
class MemberGivenUp:
    """No further attempt is made."""

    name: str
    cause: BaseException | None


MemberEvent = MemberReady | MemberEnded | MemberWaits | MemberGivenUp
