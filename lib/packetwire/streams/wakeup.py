"""A descriptor that other threads make readable, to wake a poll."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from packetwire.streams import forking

USERS_WAIT = 1.0
"""Seconds, at most, for threads that use a descriptor, which takes no time, before it is closed."""


def leave(users: list[None]) -> None:
    """This thread does not use the descriptor any more."""
    with suppress(IndexError):  # it was interrupted before it had entered
        users.pop()


def wait_for_users(users: list[None]) -> None:
    """Wait until no thread uses a descriptor that is to be closed, and whose number was taken back.

    There is no lock, as a signal handler or a finalizer may come while one is held. One that was interrupted may
    have left its entry.
    """
    until = time.monotonic() + USERS_WAIT
    while users and time.monotonic() < until:
        time.sleep(0)


class Wakeup:
    """`set` makes `fileno()` readable, `clear` takes that back. Neither blocks.

    Both do nothing once it is closed: a thread that comes late must not write to a descriptor that has
    become someone else's.
    """

    def __init__(self) -> None:
        self._users: list[None] = []  # an entry for each thread that uses the descriptor at this moment
        with forking.opening():
            if hasattr(os, "eventfd"):
                fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._read_fd = self._write_fd = forking.above_standard(fd)
            else:
                self._read_fd, self._write_fd = map(forking.above_standard, os.pipe())
                os.set_blocking(self._read_fd, False)
                os.set_blocking(self._write_fd, False)
            forking.register(self)

    def fileno(self) -> int:
        return self._read_fd

    def set(self) -> None:
        try:
            self._users.append(None)
            if self._write_fd >= 0:
                os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:
            pass  # full: it is readable already
        finally:
            leave(self._users)

    def clear(self) -> None:
        try:
            self._users.append(None)
            while self._read_fd >= 0 and len(os.read(self._read_fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        finally:
            leave(self._users)

    def close(self) -> None:
        """Close it. A second call does nothing."""
        with forking.opening():
            fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd} - {-1}, -1, -1
            wait_for_users(self._users)
            for fd in fds:
                os.close(fd)

    def after_fork(self) -> None:
        """In the child of a fork."""
        fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd}, -1, -1
        for fd in fds:
            forking.close_copy(fd)
