"""Halves over file descriptors other than sockets: pipes, FIFOs, terminals.

The descriptor may be shared with other processes, so O_NONBLOCK is never set: on Linux RWF_NOWAIT makes single
calls non-blocking. On systems without it a poll says whether a read, or a write of at most PIPE_BUF bytes, would
block; that is right as long as nobody else uses that end of the pipe.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import stat
from functools import partial

from packetwire.streams.brokenpipe import sigpipe_kills, without_sigpipe
from packetwire.streams.buffers import READ_SIZE as READ_SIZE
from packetwire.streams.buffers import Buffers, WritableBuffer
from packetwire.streams.ownership import Supplied
from packetwire.streams.systemcalls import DescriptorCalls

_NOWAIT_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE}
_RWF_NOWAIT = getattr(os, "RWF_NOWAIT", None)


def ready(fd: int, event: int) -> bool:
    """True if `fd` is ready for `event` (POLLIN or POLLOUT), or has failed. Does not wait."""
    poller = select.poll()
    poller.register(fd, event)
    return bool(poller.poll(0))


def check_descriptors_left(number: int) -> None:
    """Raise OSError unless this process can open that many descriptors now.

    They are counted, not opened on trial: meanwhile others would get none, and libzmq aborts the process for less.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and len(os.listdir("/dev/fd")) - 1 + number > limit:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class FdReader:
    """Reads a descriptor; closes it only if `owned`, and checks that a `supplied` one is still the same file."""

    def __init__(self, fd: int, *, owned: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._owned = owned
        self._nowait = _RWF_NOWAIT is not None and hasattr(os, "preadv")
        self._calls = DescriptorCalls(fd)

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
        try:
            return self._calls.read(size)
        except OSError as error:
            # this kind of file, or an old kernel, has no RWF_NOWAIT: poll first from now on
            if error.errno not in _NOWAIT_UNSUPPORTED:
                raise
        self._nowait = False
        return self.try_read(size)

    def try_read_into(self, buffer: WritableBuffer) -> int | None:
        if self._nowait:
            if self._supplied is not None:
                self._supplied.before_read()
            return self._calls.read_into(buffer)
        data = self.try_read(len(memoryview(buffer)))
        if data is None:
            return None
        memoryview(buffer)[: len(data)] = data
        return len(data)

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        self._calls.drop()  # a connection that is closed may be kept, or wait for the garbage collector
        if self._owned:
            self._owned = False
            os.close(self._fd)


class FdWriter:
    """Writes a descriptor; closes it only if `owned`, and checks that a `supplied` one is still the same file."""

    events = select.POLLOUT

    def __init__(self, fd: int, *, owned: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._owned = owned
        self._calls = DescriptorCalls(fd)
        # a regular file may answer writes with RWF_NOWAIT by EAGAIN for ever
        self._nowait = _RWF_NOWAIT is not None and hasattr(os, "pwritev") and not stat.S_ISREG(os.fstat(fd).st_mode)

    def fileno(self) -> int:
        return self._fd

    def try_write(self, buffers: Buffers) -> int:
        if self._supplied is not None:
            self._supplied.before_write()
        if sigpipe_kills():  # asked each time, as the program may change that
            return without_sigpipe(partial(self._try_write, buffers))
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
            return self._calls.write(buffers)
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
