"""Looking again and again, for some microseconds, before going to sleep.

To put a thread to sleep and wake it up costs more than a request does, above all where the processor
itself goes to sleep meanwhile. So a thread that expects bytes at once looks for them a while. After several times
in vain it is hardly tried any more, so that slow peers and busy machines lose nothing by it.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Generic, TypeVar

from packetwire.core.settings import DEFAULT_SPIN as DEFAULT_SPIN

SPIN_UNDER_WAY = 2
"""Requests under way up to which a thread that waits looks before it sleeps."""
SPIN_PATIENCE = 4
"""Times in a row that it may be in vain."""
SPIN_PROBE = 64
"""After that it is tried once in so many times."""


FoundT = TypeVar("FoundT")


class Spin(Generic[FoundT]):
    """Calls `poll(0)` until it finds something, for at most `seconds`. For one thread at a time."""

    def __init__(self, poll: Callable[[int], FoundT], seconds: float) -> None:
        self._poll = poll
        self._seconds = seconds
        self._misses = 0 if seconds > 0 else None
        self._skipped = 0

    def __call__(self) -> FoundT | None:
        """Look for a while; returns the object found in time, or None."""
        misses = self._misses
        if misses is None:
            return None
        if misses >= SPIN_PATIENCE:
            self._skipped += 1
            if self._skipped % SPIN_PROBE:
                return None
        until = perf_counter() + self._seconds
        while True:
            found = self._poll(0)
            if found:
                self._misses = 0
                return found
            if perf_counter() >= until:
                self._misses = misses + 1
                return None
