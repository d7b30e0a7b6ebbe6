"""Waiting for a socket, in a thread or in an event loop.

Strategy: the operations of a port are written once, as `Steps`: a generator that tries, and yields a `Waiting` when
it has to wait before it tries again. `finish` runs it in a thread, `finish_in_loop` (in `aio`) in an event loop;
neither knows anything of the operation.

The descriptor of a ZMQ socket is edge-triggered, and the next use of the socket resets it. So a caller registers
with the sockets before it tries, and each use of a socket wakes the callers whose events are still there.
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
"""Seconds of one poll, whose time in milliseconds is a C int: 24 days at most."""


class Waitable(Protocol):
    """Something to wait for."""

    def begin_wait(self, waiting: Waiting) -> None:
        """Wake the caller whenever another try may succeed, from now on. May raise."""

    def end_wait(self, waiting: Waiting) -> None:
        """Wake the caller no more."""


class Waiting:
    """One caller that waits until one of several things changes, or its time is over."""

    def __init__(self, deadline: float | None, events: int) -> None:
        self.events = events
        """The events of a ZMQ socket after which another try may succeed."""
        self.retry: float | None = None
        """Seconds after which to try again without any event."""
        self._deadline = deadline
        self._wakeup = Wakeup()
        self._set = PollSet([self._wakeup.fileno()])

    def fileno(self) -> int:
        """A descriptor that is readable when it is time for another try."""
        return self._set.fileno()

    def watch(self, fd: int) -> None:
        """Wake up as well when `fd` is readable."""
        self._set.add(fd)

    def wake(self) -> None:
        """Have the caller try again. Thread-safe."""
        self._wakeup.set()

    def clear(self) -> None:
        """Reset the descriptor, before a try."""
        self._wakeup.clear()

    @property
    def is_over(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def seconds(self) -> float | None:
        """The time to sleep, at most."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if self.retry is None:
            return left
        return self.retry if left is None else min(self.retry, left)

    def close(self) -> None:
        self._set.close()
        self._wakeup.close()


def deadline_in(milliseconds: int) -> float | None:
    """The time on the monotonic clock in so many milliseconds; None for never."""
    return None if milliseconds < 0 else time.monotonic() + milliseconds / 1000


def until(
    attempt: Callable[[], T | None],
    things: Iterable[Waitable],
    milliseconds: int,
    events: int,
    retry: float | None = None,
) -> Steps[T | None]:
    """Try until it succeeds, at least once; None if the time is over before."""
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
            waiting.clear()  # before the attempt: what comes during it must wake the next wait
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
