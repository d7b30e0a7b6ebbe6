"""A bound on waiting for peers that may abuse it: some seconds in a row, a share of the time in the long run."""

from __future__ import annotations


class Patience:
    """A budget of up to `limit` seconds, into which `share` of a second is paid back each second.

    `now` is always of the same clock. Not thread-safe.
    """

    def __init__(self, limit: float, share: float) -> None:
        self._limit = limit
        self._share = share
        self._left = limit
        self._looked_at = 0.0

    def left(self, now: float) -> float:
        """Seconds that are left at `now`."""
        return min(self._limit, self._left + (now - self._looked_at) * self._share)

    def spend(self, seconds: float, now: float) -> None:
        """Spend the `seconds` up to `now`, during which nothing is paid back. The budget may become negative."""
        self._left = self.left(now - seconds) - seconds
        self._looked_at = now
