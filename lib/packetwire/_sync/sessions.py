"""The work for one client of a bridge, in a thread of its own."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from typing import Protocol, TypeVar

from packetwire.relay import Relay

MadeT = TypeVar("MadeT")


class Closable(Protocol):
    """Something that is closed at the end."""

    def close(self) -> None:
        """Let go of it, which may wait for something."""
        ...


class Running:
    """A thread that does `work`."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError if the system has no more threads."""
        self._thread.start()

    def join(self, seconds: float | None) -> bool:
        """Wait until it is done, for so long at most; False if it is not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def abandon(self) -> None:
        """Nobody waits for it any more: it ends by itself, some time."""


def made_by(make: Callable[[], MadeT], name: str, given: Closable | None = None) -> MadeT:
    """Make it, which may wait for something."""
    return make()


def close(made: Closable, name: str) -> None:
    """Close it, which may wait for something."""
    made.close()


def relay_until_over(relay: Relay, name: str) -> None:
    """Relay until both directions are over, or until it is stopped."""
    relay.begin()
    poll_until_over(relay)
    relay.finish()


def poll_until_over(relay: Relay) -> None:
    """Advance a relay that has begun, until it is over."""
    while not relay.is_over:
        poller = select.poll()
        for fd, events in relay.wanted().items():
            poller.register(fd, events)
        relay.advance(dict(poller.poll()))


def failure_of(relay: Relay, name: str) -> Exception | None:
    """The reason, if it failed."""
    return relay.failure()
