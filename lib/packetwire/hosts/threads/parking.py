"""Parking of idle threads, until the stream is readable or they are woken for other work.

The stream's descriptor is armed for one event at a time: whoever gets that event reads, and arms it again
when done. A caller that reads for itself disarms it, so that no idle thread is woken for nothing.
Linux has this as EPOLLONESHOT; elsewhere one of the idle threads polls and the others stand behind it.
"""

from __future__ import annotations

import os
import select
import threading
import time
from enum import IntEnum
from typing import Protocol

from packetwire.streams import forking
from packetwire.streams.systemcalls import READABLE, WOKEN, EpollSet
from packetwire.streams.wakeup import Users


class Parked(IntEnum):
    """Why a thread left the parking place."""

    TIMEOUT = 0
    READABLE = READABLE
    WOKEN = WOKEN


class Parking(Protocol):
    """All methods but `park` return at once and can be called from any thread."""

    def arm(self) -> object:
        """Let one parked thread have the next readable event.

        Raises OSError if the descriptor is gone, ValueError if the parking place is closed.
        """
        ...

    def disarm(self) -> object:
        """Let nobody have it. Raises as `arm`."""
        ...

    def wake(self) -> None:
        """Let at least one parked thread go, or the next that parks. Several calls may count as one.

        Does nothing after `close`.
        """
        ...

    def park(self, seconds: float | None) -> int:
        """Wait, at most so many `seconds`; returns one of `Parked`."""
        ...

    def close(self) -> None:
        """Close what was opened; no thread may be parked."""
        ...


def open_parking(fd: int) -> Parking:
    """The best parking place that the system has, for the readability of `fd`; disarmed."""
    if hasattr(select, "epoll") and hasattr(os, "eventfd"):
        try:
            return EpollParking(fd)
        except PermissionError:
            pass  # epoll refuses some devices, such as /dev/null
    return PollParking(fd)


class EpollParking:
    """By epoll: all idle threads wait in one epoll set, the kernel wakes one of them."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._users = Users()
        self._closed = False
        self._set: EpollSet | None = None
        with forking.opening():
            self._epoll = select.epoll()
            self._wake = forking.Descriptor(lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
            forking.register(self, first=True)
        try:
            self._epoll.register(fd, select.EPOLLONESHOT)
            self._wake_fd = self._wake.fd
            # edge-triggered: every write wakes one thread, and nobody has to read it
            self._epoll.register(self._wake_fd, select.EPOLLIN | select.EPOLLET)
            self._set = made = EpollSet(self._epoll, fd)
            self.arm, self.disarm, self.park = made.arm, made.disarm, made.wait
        except BaseException:
            self.close()
            raise

    def wake(self) -> None:
        try:
            self._users.append(threading.get_ident())
            if not self._closed:
                os.eventfd_write(self._wake_fd, 1)
        finally:
            self._users.leave()

    def close(self) -> None:
        with forking.opening():
            if not self._closed:
                self._closed = True
                self._users.close_behind(self._close_all)

    def _close_all(self) -> None:
        self._close_epoll()
        self._wake.close()

    def after_fork(self) -> None:
        """In the child of a fork: the set is the parent's, so nothing is taken out of it."""
        self._closed = True
        self._close_epoll()

    def _close_epoll(self) -> None:
        if self._set is not None:
            self._set.close()
        self._epoll.close()


class PollParking:
    """By poll: one idle thread polls, the others wait for their turn."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._turn = threading.Lock()
        self._lock = threading.Lock()  # guards what follows
        self._armed = self._woken = self._closed = False
        with forking.opening():
            self._read_fd, self._write_fd = map(forking.above_standard, os.pipe())
            forking.register(self)
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    def arm(self) -> None:
        with self._lock:
            self._armed = True
            self._nudge()

    def disarm(self) -> None:
        with self._lock:
            self._armed = False  # a poll under way may still see an event, which its thread then ignores

    def wake(self) -> None:
        with self._lock:
            self._woken = True
            self._nudge()

    def _nudge(self) -> None:
        if not self._closed:
            try:
                os.write(self._write_fd, b"x")
            except BlockingIOError:
                pass  # the polling thread has been told often enough

    def park(self, seconds: float | None) -> int:
        deadline = None if seconds is None else time.monotonic() + seconds
        if not self._turn.acquire(timeout=-1 if seconds is None else max(0.0, seconds)):
            return Parked.TIMEOUT
        try:
            while True:
                with self._lock:
                    if self._woken:
                        self._woken = False
                        return Parked.WOKEN
                    armed = self._armed
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return Parked.TIMEOUT
                if self._poll(armed, left):
                    with self._lock:
                        if self._armed:
                            self._armed = False
                            return Parked.READABLE
        finally:
            self._turn.release()

    def _poll(self, armed: bool, seconds: float | None) -> bool:
        """Wait for the descriptor, if it is armed, or for a nudge; true if the descriptor is ready."""
        poller = select.poll()
        poller.register(self._read_fd, select.POLLIN)
        if armed:
            poller.register(self._fd, select.POLLIN)
        events = dict(poller.poll(None if seconds is None else seconds * 1000))
        if self._read_fd in events:
            os.read(self._read_fd, 4096)
        return self._fd in events

    def close(self) -> None:
        with self._lock:
            if not self._closed:
                with forking.opening():
                    self._closed = True
                    os.close(self._read_fd)
                    os.close(self._write_fd)

    def after_fork(self) -> None:
        """In the child of a fork: the threads that stood here are the parent's."""
        self._turn, self._lock = threading.Lock(), threading.Lock()
        if not self._closed:
            self._closed = True
            forking.close_copy(self._read_fd)
            forking.close_copy(self._write_fd)
