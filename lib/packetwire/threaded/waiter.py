"""What one thread waits on for one answer.

Strategy: most answers are read by the thread that waits for them, so a waiter has no lock until a thread
really has to sleep on it. The side that answers sets `done` and then looks for locks; the side that waits
adds its lock and then looks at `done`; so one of them always sees the other.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import TYPE_CHECKING

from packetwire.errors import ConnectionEnded

if TYPE_CHECKING:
    from threading import Lock


class Waiter:
    """The answer to one request: `ok`, `flags`, `payload`, or `ended` if there will be none."""

    __slots__ = ("done", "ended", "flags", "locks", "ok", "payload")

    def __init__(self) -> None:
        self.done = False
        self.locks: list[Lock] | None = None
        self.ok = False
        self.flags = 0
        self.payload = b""
        self.ended: ConnectionEnded | None = None

    def deliver(self, ok: bool, flags: int, payload: bytes) -> None:
        """The response came."""
        if self.done:
            return
        self.ok, self.flags, self.payload = ok, flags, payload
        self.finish()

    def fail(self, cause: ConnectionEnded) -> None:
        """There will be no response."""
        if self.done:
            return
        self.ended = cause
        self.finish()

    def finish(self) -> None:
        """Wake whoever waits."""
        self.done = True
        while self.locks:
            self.locks.pop().release()

    def wait(self, timeout: float | None) -> bool:
        """Sleep until done, at most `timeout` seconds."""
        lock = allocate_lock()
        lock.acquire()
        if self.locks is None:
            self.locks = []
        self.locks.append(lock)
        if not self.done:
            lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        return self.done
