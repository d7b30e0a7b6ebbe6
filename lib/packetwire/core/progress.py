"""Reports of progress, from the thread that reads to the function of a user that wants them.

Strategy: a thread of the connection's own calls it, one report at a time, in order. If it is slower than the peer
the oldest ones are dropped, as only the latest one counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

MAX_KEPT = 64


class Reports:
    """The reports about one request."""

    def __init__(self, callback: Callable[[bytes], object]) -> None:
        self._callback = callback
        self._payloads: deque[bytes] = deque(maxlen=MAX_KEPT)
        self._turn = [None]  # popped by whoever delivers them

    def add(self, payload: bytes) -> bool:
        """Keep one; true if `deliver` is to be called for it."""
        self._payloads.append(payload)
        return self._take_turn()

    def _take_turn(self) -> bool:
        try:
            self._turn.pop()
        except IndexError:
            return False
        return True

    def deliver(self) -> None:
        """Call the function with all that is there; raises what it raises."""
        while True:
            try:
                while self._payloads:
                    self._callback(self._payloads.popleft())
            finally:
                self._turn.append(None)
            if not self._payloads or not self._take_turn():
                return
