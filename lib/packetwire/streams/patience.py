"""How long those are waited for who may abuse that: some seconds in a row, and a share of the time at length."""

from __future__ import annotations


class Patience:
    """Seconds that can be spent, up to `limit`; of those that are spent, `share` comes back with each second.

    The times that its methods are told are those of one clock. Not for several threads at once.
    """

    def __init__(self, limit: float, share: float) -> None:
        self._limit = limit
        self._share = share
        self._left = limit
        self._looked_at = 0.0

    def left(self, now: float) -> float:
        """Seconds that are left at that time."""
        return min(self._limit, self._left + (now - self._looked_at) * self._share)

    def spend(self, seconds: float, now: float) -> None:
        """So many were spent, up to now, in which none came back. More than were left are a debt."""
        self._left = self.left(now - seconds) - seconds
        self._looked_at = now
