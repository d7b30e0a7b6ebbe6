"""Which types of requests take long, so that no reader runs their handlers itself."""

from __future__ import annotations

from packetwire.core.packetcodec import Fields
from packetwire.hosts.threads.clock import TICK

SLOW_FOR = 16
"""Times that a slow type of request must be quick to count as quick again."""
MAX_SLOW_TYPES = 1024
"""Types that are remembered as slow; the peer chooses them."""

SlowType = int | tuple[int, int]
"""The request type on the wire, with the channel if that is not 0."""


def type_of(request: Fields) -> SlowType:
    """The key by which a request is remembered."""
    key = request[0]
    return request[2] if isinstance(key, int) else (key[0], request[2])


class SlowTypes(dict[SlowType, int]):
    """The slow types, with how often each must still be quick."""

    def add(self, request: Fields) -> None:
        """That one was slow."""
        if len(self) >= MAX_SLOW_TYPES:
            self.clear()
        self[type_of(request)] = SLOW_FOR

    def took(self, request: Fields, seconds: float) -> None:
        """That one, whose type may have been slow before, has taken so long."""
        rq_type = type_of(request)
        if rq_type in self and seconds < TICK / 2:
            left = self.get(rq_type, 1) - 1
            if left > 0:
                self[rq_type] = left
            else:
                self.pop(rq_type, None)
