"""Halves over file descriptors that are no sockets: pipes, FIFOs, terminals.

The descriptor may be shared with other processes, so O_NONBLOCK is never set: Linux reads and writes
without blocking by RWF_NOWAIT, call by call. Where that is missing a poll says whether a read or a write
of at most PIPE_BUF octets can block, which is right as long as nobody else uses that end of the pipe.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import stat

from packetwire.streams.brokenpipe import sigpipe_kills, without_sigpipe
from packetwire.streams.bytestream import Buffers
from packetwire.streams.ownership import Supplied

READ_SIZE = 65536
MAX_BUFFERS = 256
"""Buffers in one system call; below every system's IOV_MAX."""

_NOWAIT_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE}
_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", None)


def ready(fd: int, event: int) -> bool:
    """Whether `fd` is ready for `event` (POLLIN or POLLOUT), or has failed, without waiting."""
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(0))


def check_descriptors_left(number: int) -> None:
    """Raise OSError unless this process can open so many descriptors now.

    They are counted, not tried: for that moment others would have none, and libzmq aborts the process for less.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and len(os.listdir("/dev/fd")) - 1 + number > limit:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class FdReader:
    """Reads a descriptor; closes it only if `owned`, and looks whether it is still there if it is `supplied`."""

    def __init__(self, fd: int, *, owned: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._owned = owned
        self._nowait = _RWF_NOWAIT is not None and hasattr(os, "preadv")
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._fd

    def try_read(self, size: int) -> bytes | None:
        if self._supplied is not None:
            self._supplied.before_read()
        try:
            if self._nowait:
                return self._read_nowait(size)
            if not ready(self._fd, select.POLLIN):
                return None
            return os.read(self._fd, size)
        except BlockingIOError:
            return None

    def _read_nowait(self, size: int) -> bytes | None:
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
        try:
            count = os.preadv(self._fd, (self._buffer,), -1, _RWF_NOWAIT or 0)
        except OSError as error:
            if error.errno not in _NOWAIT_UNSUPPORTED:
                raise
            self._nowait = False
            return self.try_read(size)
        return bytes(self._view[:count])

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        # a connection that is closed may be kept, or wait for the garbage collector: not with this
        self._view = memoryview(b"")
        self._buffer = bytearray()
        if self._owned:
            self._owned = False
            os.close(self._fd)


class FdWriter:
    """Writes a descriptor; closes it only if `owned`, and looks whether it is still there if it is `supplied`."""

    events = select.POLLOUT

    def __init__(self, fd: int, *, owned: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._owned = owned
        # a regular file can answer a write that may not wait by EAGAIN for ever
        self._nowait = _RWF_NOWAIT is not None and hasattr(os, "pwritev") and not stat.S_ISREG(os.fstat(fd).st_mode)

    def fileno(self) -> int:
        return self._fd

    def try_write(self, buffers: Buffers) -> int:
        if self._supplied is not None:
            self._supplied.before_write()
        if sigpipe_kills():  # the program may have asked for that since
            return without_sigpipe(lambda: self._try_write(buffers))
        return self._try_write(buffers)

    def _try_write(self, buffers: Buffers) -> int:
        try:
            if self._nowait:
                return self._write_nowait(buffers)
            if not ready(self._fd, select.POLLOUT):
                return 0
            return os.write(self._fd, buffers[0][: select.PIPE_BUF])
        except BlockingIOError:
            return 0

    def _write_nowait(self, buffers: Buffers) -> int:
        try:
            return os.pwritev(self._fd, buffers[:MAX_BUFFERS], -1, _RWF_NOWAIT or 0)
        except OSError as error:
            if error.errno not in _NOWAIT_UNSUPPORTED:
                raise
            self._nowait = False
            return self._try_write(buffers)

    def end(self) -> None:
        self.close()

    def close(self) -> None:
        if self._owned:
            self._owned = False
            os.close(self._fd)
