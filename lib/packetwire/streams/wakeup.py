"""A descriptor that other threads make readable, to wake a poll."""

from __future__ import annotations

import os
import threading

from packetwire.streams import forking


class Wakeup:
    """`set` makes `fileno()` readable, `clear` takes that back. Neither blocks.

    Both do nothing once it is closed: a thread that comes late must not write to a descriptor that has
    become someone else's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
        with self._lock:
            if self._write_fd >= 0:
                try:
                    os.write(self._write_fd, b"\1\0\0\0\0\0\0\0")
                except BlockingIOError:
                    pass  # full: it is readable already

    def clear(self) -> None:
        with self._lock:
            if self._read_fd >= 0:
                try:
                    while len(os.read(self._read_fd, 4096)) == 4096:
                        pass
                except BlockingIOError:
                    pass

    def close(self) -> None:
        """Close it. A second call does nothing."""
        with self._lock, forking.opening():
            fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd} - {-1}, -1, -1
            for fd in fds:
                os.close(fd)

    def replace_locks(self) -> None:
        """Another thread may have held the lock, and does not exist or run any more."""
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """In the child of a fork."""
        self.replace_locks()
        fds, self._read_fd, self._write_fd = {self._read_fd, self._write_fd}, -1, -1
        for fd in fds:
            forking.close_copy(fd)
