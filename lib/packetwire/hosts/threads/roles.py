"""Jobs that one thread at a time has (`role`), and waiting until something about them changes."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import get_ident
from typing import TYPE_CHECKING

from packetwire.hosts.threads.signals import sleep_limit

if TYPE_CHECKING:
    from threading import Lock


class Watch(deque[int]):
    """The reader, while it runs handlers: whoever takes it out of here has the reader's role."""

    def take_over(self) -> bool:
        """As the clock: whether the reader has lost its role to whoever asks."""
        try:
            self.pop()
        except IndexError:
            return False
        return True

    def leave(self, me: int) -> bool:
        """As the reader, behind a handler or where it waits for a call: whether it still has the role."""
        try:
            self.remove(me)
        except ValueError:  # the clock has taken it over
            return False
        return True


class Bell:
    """Wakes whoever waits for a condition to look at it again."""

    def __init__(self) -> None:
        self.locks: list[Lock] = []
        """Of those who wait."""

    def ring(self) -> None:
        """Something has changed."""
        for lock in list(self.locks):
            with suppress(RuntimeError):  # released before
                lock.release()

    def wait_for(self, condition: Callable[[], object], deadline: float | None = None) -> bool:
        """Wait until `condition`; false at the deadline, by the clock of `time.monotonic`."""
        naps = 0
        while not condition():
            lock = allocate_lock()
            lock.acquire()
            try:
                self.locks.append(lock)
                if condition():  # first the lock, then the condition: so one side sees the other
                    return True
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                naps = 0 if lock.acquire(timeout=sleep_limit(get_ident(), left, naps)) else naps + 1
            finally:
                with suppress(ValueError):
                    self.locks.remove(lock)
        return True
