"""How long a packet to the peer and back takes, from several measurements."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

SMOOTHING = 8
"""A new measurement counts for one part in so many, as in TCP (RFC 6298)."""


class RoundTripTime(NamedTuple):
    """Seconds for a packet to the peer and back."""

    last: float
    smallest: float
    smoothed: float


class RoundTrips:
    """The round trips of one connection; `time` is None until there was one."""

    def __init__(self) -> None:
        self.time: RoundTripTime | None = None

    def add(self, seconds: float) -> None:
        """One was measured."""
        before = self.time
        if before is None:
            self.time = RoundTripTime(seconds, seconds, seconds)
            return
        smoothed = before.smoothed + (seconds - before.smoothed) / SMOOTHING
        self.time = RoundTripTime(seconds, min(before.smallest, seconds), smoothed)


class PingWaiter:
    """Waits for the answer to a PING that was sent at the time `began`."""

    def __init__(self, round_trips: RoundTrips, began: float, clock: Callable[[], float]) -> None:
        self._round_trips = round_trips
        self._began = began
        self._clock = clock

    def set_response(self, ok: bool, flags: int, payload: bytes) -> None:
        """It came."""
        self._round_trips.add(self._clock() - self._began)

    def fail(self, cause: Exception) -> None:
        """It will not come."""
