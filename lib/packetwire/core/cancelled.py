"""Requests that stand in a queue for a handler, though they were given up and answered: none of them may begin.

Strategy: a request is claimed by taking it out of a dict, in one step. The thread that begins requests first says
which one, then looks here; the one that cancels first puts the request here, then looks whether it has begun. So
one of them sees the other, and one of them gets it.
"""

from __future__ import annotations

from collections import deque

from packetwire.core.packetcodec import Fields, Key

SWEEP_FROM = 256
"""Cancelled requests in a queue from which it is swept, once they are half of it."""


class CancelledRequests:
    """The keys of such requests."""

    def __init__(self) -> None:
        self.keys: dict[Key, None] = {}

    def add(self, key: Key) -> None:
        """It was cancelled, and may stand in a queue."""
        self.keys[key] = None

    def claim(self, key: Key) -> bool:
        """Take it out; false if it is not here, or was taken by another thread."""
        try:
            del self.keys[key]
        except KeyError:
            return False
        return True

    def sweep(self, *queues: deque[Fields]) -> None:
        """As the one that fills the queues: take such requests out if there are many, so no peer fills them."""
        if len(self.keys) < SWEEP_FROM or 2 * len(self.keys) < sum(map(len, queues)):
            return
        for queue in queues:
            taken = []
            while True:
                try:
                    taken.append(queue.popleft())
                except IndexError:  # empty, maybe by another thread
                    break
            taken.reverse()
            queue.extendleft([request for request in taken if not self.claim(request[0])])
