"""A descriptor that other threads make readable to wake a poll."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import get_ident

from packetwire.streams import forking

USERS_WAIT = 0.1
"""Seconds, at most, that closing waits for threads that are just using a descriptor."""


class Users(list[int]):
    """The idents of the threads that are using a descriptor; the last one to leave closes it, if that is due.

    There is no lock, since a signal handler or a finalizer that closes the descriptor may run while one is held.
    Users are methods named `set`, `clear` or `wake` of an object that has this as `_users`.
    """

    def __init__(self) -> None:
        self._closing: list[Callable[[], object]] = []  # popped in one step: only one thread gets to call it

    def leave(self) -> None:
        """This thread has finished using it."""
        with suppress(ValueError):  # an exception came before the thread was noted
            self.remove(get_ident())
        if self._closing and not self:
            self._close()

    def close_behind(self, close: Callable[[], object]) -> None:
        """Call `close` once there are no users. Nobody may start using it any more.

        That is before this returns, except in a signal handler that interrupted a user.
        """
        until = time.monotonic() + USERS_WAIT
        while self and time.monotonic() < until:
            time.sleep(0)
        self._closing.append(close)
        for ident in list(self):
            if not self._is_used_by(ident):  # an exception kept it from leaving
                with suppress(ValueError):
                    self.remove(ident)
        if not self:
            self._close()

    def _is_used_by(self, ident: int) -> bool:
        frame = sys._current_frames().get(ident)
        while frame is not None:
            is_use = frame.f_code.co_name in {"set", "clear", "wake"}
            if is_use and getattr(frame.f_locals.get("self"), "_users", None) is self:
                return True
            frame = frame.f_back
        return False

    def _close(self) -> None:
        with suppress(IndexError):  # another thread closes it
            self._closing.pop()()


class Wakeup:
    """`set` makes `fileno()` readable, `clear` undoes that. Neither blocks.

    Both do nothing once it is closed: a late thread must not write to a descriptor that has become someone else's.
    """

    def __init__(self) -> None:
        self._users = Users()
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
            self._users.append(get_ident())
            if self._write_fd >= 0:
                os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
        except BlockingIOError:
            pass  # the pipe is full, so it is readable already
        finally:
            self._users.leave()

    def clear(self) -> None:
        try:
            self._users.append(get_ident())
            while self._read_fd >= 0 and len(os.read(self._read_fd, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass
        finally:
            self._users.leave()

    def close(self) -> None:
        """Close it. A second call does nothing."""
        with forking.opening():
            fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd} - {-1}, -1, -1
            self._users.close_behind(partial(_close_all, fds))

    def after_fork(self) -> None:
        """In the child of a fork: close the copies."""
        fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd}, -1, -1
        for fd in fds:
            forking.close_copy(fd)


def _close_all(fds: set[int]) -> None:
    for fd in fds:
        os.close(fd)
