"""How a caller waits for a socket, in a thread or in an event loop.

Strategy: what a port does is written once, as `Steps`: a generator that tries, and yields a `Waiting` when it
has to wait before it tries again. `finish` runs it in a thread, `finish_in_loop` (in `aio`) in an event loop;
neither knows what it is for.

The descriptor of a ZMQ socket announces a change once, and whoever uses the socket next takes that away. So a
caller registers with the sockets before it tries, and each use of a socket wakes those that wait for what
the use has left there.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterable
from typing import Protocol, TypeVar

from packetwire.streams.pollset import PollSet
from packetwire.streams.wakeup import Wakeup

T = TypeVar("T")

Steps = Generator["Waiting", None, T]

FOREVER = -1
"""A time limit in milliseconds that never ends."""


LONGEST_SLEEP = 86_400.0
"""Seconds in one go: poll takes no more than 24 days."""


class Waitable(Protocol):
    """What can be waited for."""

    def begin_wait(self, waiting: Waiting) -> None:
        """From now on wake that caller. It may raise instead."""

    def end_wait(self, waiting: Waiting) -> None:
        """No more."""


class Waiting:
    """One caller that waits for one of several things to change, or for the end of its time."""

    def __init__(self, deadline: float | None, events: int) -> None:
        self.events = events
        """Which events of a ZMQ socket are worth another try."""
        self.retry: float | None = None
        """Seconds after which another try is worth it, whatever happens."""
        self._deadline = deadline
        self._wakeup = Wakeup()
        self._set = PollSet([self._wakeup.fileno()])

    def fileno(self) -> int:
        """Readable when it is time for another try."""
        return self._set.fileno()

    def watch(self, fd: int) -> None:
        """Wake up as well when that is readable."""
        self._set.add(fd)

    def wake(self) -> None:
        """Have it try again. From any thread."""
        self._wakeup.set()

    def clear(self) -> None:
        """Before a try."""
        self._wakeup.clear()

    @property
    def is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def seconds(self) -> float | None:
        """How long to sleep at most."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if self.retry is None:
            return left
        return self.retry if left is None else min(self.retry, left)

    def close(self) -> None:
        self._set.close()
        self._wakeup.close()


def deadline_in(milliseconds: int) -> float | None:
    """When that time is over."""
    return None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def until(
    attempt: Callable[[], T | None],
    things: Iterable[Waitable],
    milliseconds: int,
    events: int,
    retry: float | None = None,
) -> Steps[T | None]:
    """Try until it succeeds; None if it does not within that time. It is tried at least once."""
    deadline = deadline_in(milliseconds)
    result = attempt()
    if result is not None or milliseconds == 0:
        return result
    waiting = Waiting(deadline, events)
    waiting.retry = retry
    begun: list[Waitable] = []
    try:
        for thing in things:
            thing.begin_wait(waiting)
            begun.append(thing)
        while True:
            waiting.clear()
            result = attempt()
            if result is not None or waiting.is_over:
                return result
            yield waiting
    finally:
        for thing in begun:
            thing.end_wait(waiting)
        waiting.close()


def finish(steps: Steps[T]) -> T:
    """Take all steps, in this thread."""
    poll = select.poll()
    try:
        while True:
            waiting = next(steps)
            fd = waiting.fileno()
            poll.register(fd, select.POLLIN)
            seconds = waiting.seconds()
            poll.poll(None if seconds is None else min(seconds, LONGEST_SLEEP) * 1000)
            poll.unregister(fd)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        steps.close()
