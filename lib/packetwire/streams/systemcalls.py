"""The system calls made for each request; only polls wait.

In a compiled build `systemcalls.pyx` takes the place of this module, and makes them without intermediate objects.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial

from packetwire.streams.buffers import MAX_BUFFERS, READ_SIZE, Buffers, WritableBuffer

READABLE, WOKEN = 1, 2
"""Results of `ReadPoll.wait`."""

_RECEIVE = socket.MSG_DONTWAIT
_SEND = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)


def _gone(*arguments: object) -> int:
    raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class SocketCalls:
    """System calls on a stream socket, whatever its blocking mode and timeout.

    `check` is called before each, unless `number`, the `fileno` of the owner's socket, still returns the
    descriptor.
    """

    def __init__(
        self,
        sock: socket.socket,
        number: Callable[[], int] | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        self.sock = sock
        self._fd = sock.fileno()
        self._number = number
        self._check = check
        self._recv_into: Callable[..., int] = sock.recv_into
        self._send = sock.send
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def recv(self, size: int) -> bytes | None:
        """Up to `size` bytes; None if there are none now, b"" at the end. Raises OSError."""
        if self._check is not None and (self._number is None or self._number() != self._fd):
            self._check()
        try:
            if size > READ_SIZE:
                return self.sock.recv(size, _RECEIVE)  # one copy less, which counts for large ones only
            count = self._recv_into(self._buffer, size, _RECEIVE)
        except BlockingIOError:
            return None
        return bytes(self._view[:count])

    def recv_into(self, buffer: WritableBuffer) -> int | None:
        """The number of bytes read into a buffer, 0 at the end; None if there are none now. Raises OSError."""
        if self._check is not None and (self._number is None or self._number() != self._fd):
            self._check()
        try:
            return self._recv_into(buffer, 0, _RECEIVE)
        except BlockingIOError:
            return None

    def send(self, buffers: Buffers) -> int:
        """Send what fits; return the number of bytes, 0 if there is no room now. Raises OSError."""
        if self._check is not None and (self._number is None or self._number() != self._fd):
            self._check()
        try:
            if len(buffers) == 1:
                return self._send(buffers[0], _SEND)
            return self.sock.sendmsg(buffers[:MAX_BUFFERS], (), _SEND)
        except BlockingIOError:
            return 0

    def detach(self) -> None:
        """Have all later calls raise OSError; the descriptor stays open."""
        self.sock.detach()
        self._recv_into = _gone
        # a closed connection may be kept alive for long: it need not keep the buffer alive, too
        self._view = memoryview(b"")
        self._buffer = bytearray()


class DescriptorCalls:
    """System calls on a descriptor of any kind, on systems that have RWF_NOWAIT."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._view = memoryview(self._buffer)

    def read(self, size: int) -> bytes | None:
        """Up to `size` bytes; None if there are none now, b"" at the end. Raises OSError."""
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
        try:
            count = os.preadv(self._fd, (self._buffer,), -1, _NOWAIT)
        except BlockingIOError:
            return None
        return bytes(self._view[:count])

    def read_into(self, buffer: WritableBuffer) -> int | None:
        """The number of bytes read into a buffer, 0 at the end; None if there are none now. Raises OSError."""
        try:
            return os.preadv(self._fd, (buffer,), -1, _NOWAIT)
        except BlockingIOError:
            return None

    def write(self, buffers: Buffers) -> int:
        """Send what fits; return the number of bytes, 0 if there is no room now. Raises OSError."""
        try:
            return os.pwritev(self._fd, buffers[:MAX_BUFFERS], -1, _NOWAIT)
        except BlockingIOError:
            return 0

    def drop(self) -> None:
        """Free the buffer."""
        self._view = memoryview(b"")
        self._buffer = bytearray()


class ReadPoll:
    """Waits until a descriptor is readable, or a second one, which wakes it."""

    def __init__(self, fd: int, wakeup: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)

    def wait(self, milliseconds: float | None) -> int:
        """`READABLE`, `WOKEN`, their sum, or 0 at the end of the time, or earlier after a signal."""
        ready = self._poll.poll(milliseconds)
        if not ready:
            return 0
        if len(ready) > 1:
            return READABLE | WOKEN
        return READABLE if ready[0][0] == self._fd else WOKEN


class EpollSet:
    """An epoll set with one descriptor, armed for one event at a time, and others that wake it.

    Arming raises OSError if the descriptor is gone, and ValueError if the set is closed.
    """

    def __init__(self, epoll: select.epoll, fd: int) -> None:
        self._fd = fd
        self._poll = epoll.poll
        # bound once, without a method of ours around each
        self.arm = partial(epoll.modify, fd, select.EPOLLIN | select.EPOLLONESHOT)
        self.disarm = partial(epoll.modify, fd, select.EPOLLONESHOT)

    def wait(self, seconds: float | None) -> int:
        """`READABLE`, `WOKEN`, or 0 at the end of the time, or earlier after a signal."""
        events = self._poll(seconds, 1)
        if not events:
            return 0
        return READABLE if events[0][0] == self._fd else WOKEN

    def close(self) -> None:
        """Called before the set is closed."""


def is_that_file(fd: int, device: int, inode: int) -> bool:
    """True if a descriptor is open and refers to that file."""
    try:
        found = os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return found.st_ino == inode and found.st_dev == device
