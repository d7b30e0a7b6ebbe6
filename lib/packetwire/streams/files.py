"""Halves over file objects, CornuCopyBuffers and iterables of bytes.

Such a source may hold octets in a buffer of its own, where no poll sees them, so it is read as its user
would read it: by its own methods, which may block. That is done in a daemon thread, one read at a time
and only when the connection asks for more; nothing behind the connection's end is taken. A thread that is
inside such a read when the connection closes cannot be woken: it ends with the read.
"""

from __future__ import annotations

import io
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from packetwire.streams import forking
from packetwire.streams.brokenpipe import hold_sigpipe_back
from packetwire.streams.bytestream import Buffers
from packetwire.streams.fds import READ_SIZE
from packetwire.streams.wakeup import Wakeup

JOIN_SECONDS = 1.0


@runtime_checkable
class ReadableFile(Protocol):
    """The requirements for a file used to receive."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` octets, but do not wait for more than there are; b"" at the end."""
        ...


@runtime_checkable
class SendableFile(Protocol):
    """The requirements for a file used to send."""

    def write(self, bs: bytes, /) -> int | None:
        """Write octets, return how many were taken (None: all of them)."""
        ...

    def flush(self) -> object:
        """Pass on what is buffered."""
        ...


class Source(Protocol):
    """Something to read from that may block."""

    def read(self) -> bytes:
        """The next octets, b"" at the end."""
        ...

    def pollable_fd(self) -> int | None:
        """A descriptor that tells when `read` will not block, if there is one at this moment."""
        ...

    def give_back(self, octets: bytes) -> bytes:
        """Take octets back, or return them."""
        ...


class FileSource:
    """A binary file object."""

    def __init__(self, file: Any) -> None:
        self._read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)
        self._fd = _fd_of(file)
        # only a file without buffer, or one whose buffer was just emptied, can be polled
        self._raw = isinstance(file, io.RawIOBase)
        self._buffered = isinstance(file, io.BufferedIOBase)
        self._buffer_empty = self._raw

    def read(self) -> bytes:
        octets = self._read(READ_SIZE)
        if octets is None:
            raise BlockingIOError("the file is in non-blocking mode and has nothing to read now")
        self._buffer_empty = self._raw or (self._buffered and len(octets) < READ_SIZE)
        return octets

    def pollable_fd(self) -> int | None:
        return self._fd if self._buffer_empty else None

    def give_back(self, octets: bytes) -> bytes:
        return octets


class BufferSource:
    """A `cs.buffer.CornuCopyBuffer`."""

    def __init__(self, bfr: Any) -> None:
        self._bfr = bfr
        self._iterator: Iterator[bytes] = iter(bfr)

    def read(self) -> bytes:
        return bytes(next(self._iterator, b""))

    def pollable_fd(self) -> int | None:
        return getattr(self._bfr, "fd", None) if not self._bfr.buflen else None

    def give_back(self, octets: bytes) -> bytes:
        self._bfr.push(octets)
        return b""


class IterableSource:
    """An iterable of bytes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)

    def read(self) -> bytes:
        for chunk in self._chunks:
            if chunk:
                return bytes(chunk)
        return b""

    def pollable_fd(self) -> int | None:
        return None

    def give_back(self, octets: bytes) -> bytes:
        return octets


def _fd_of(file: Any) -> int | None:
    try:
        return int(file.fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


class _Pump:
    """A daemon thread that does one blocking piece of work at a time; `done` is readable when one is done."""

    def __init__(self, work: Callable[[Any], Any], name: str) -> None:
        self._work = work
        self._name = name
        self._change = threading.Condition()  # guards what follows
        self._order: tuple[Any] | None = None
        self._outcome: tuple[Any, BaseException | None] | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.done = Wakeup()
        self.stop_wakeup = Wakeup()
        forking.register(self)

    def replace_locks(self) -> None:
        """Another thread may have held the lock, and does not exist or run any more."""
        self._change = threading.Condition()

    def after_fork(self) -> None:
        """In the child of a fork: the thread is the parent's, and so is what it reads or writes."""
        self.replace_locks()
        self._stopped = True

    def exchange(self, order: Any) -> Any:
        """What the last order came to, or None; then `order` is begun, unless another is being done.

        Raises what the work raised, and goes on doing so.
        """
        with self._change:
            if self._outcome is not None:
                result, error = self._outcome
                if error is not None:
                    raise error
                self._outcome = None
                return result
            if self._order is None and not self._stopped:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                    thread.start()  # it may be that the system has no more, whereupon there is nothing to stop
                    self._thread = thread
                self.done.clear()
                self._order = (order,)
                self._change.notify()
            return None

    def _run(self) -> None:
        hold_sigpipe_back()
        while (order := self._next_order()) is not None:
            outcome: tuple[Any, BaseException | None]
            try:
                outcome = self._work(order[0]), None
            except BaseException as error:  # raised by the next exchange
                outcome = None, error
            with self._change:
                # all at once, so that whoever looks sees either the work being done or its outcome
                self._order, self._outcome = None, outcome
                self.done.set()
        self._close()

    def _next_order(self) -> tuple[Any] | None:
        with self._change:
            while self._order is None and not self._stopped:
                self._change.wait()
            return None if self._stopped else self._order

    def stop(self, join_seconds: float) -> None:
        """End the thread; one that is blocked in its work for longer than `join_seconds` is left to it."""
        with self._change:
            if self._stopped:
                return
            self._stopped = True
            self._change.notify()
        self.stop_wakeup.set()
        if self._thread is not None and not sys.is_finalizing():
            self._thread.join(join_seconds)  # it closes the descriptors itself, whenever it ends
        else:
            self._close()

    def _close(self) -> None:
        self.stop_wakeup.close()
        self.done.close()


class PumpReader:
    """Reads a `Source`."""

    def __init__(self, source: Source, name: str = "packetwire-reader") -> None:
        self._source = source
        self._unwakeable = False
        self._pump = _Pump(self._read, name)
        self._pump.done.set()  # so that the first poll leads to the first try, which asks for octets

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_read(self, size: int) -> bytes | None:
        octets: bytes | None = self._pump.exchange(None)
        return octets

    def _read(self, order: None) -> bytes:
        fd = self._source.pollable_fd()
        if fd is not None and not self._poll(fd):
            return b""  # stopped: nobody will see it
        self._unwakeable = fd is None
        try:
            return self._source.read()
        finally:
            self._unwakeable = False

    def _poll(self, fd: int) -> bool:
        """Wait until `fd` is readable, or return False if the pump is stopped."""
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._pump.stop_wakeup.fileno(), select.POLLIN)
        return any(ready == fd for ready, _ in poller.poll())

    def give_back(self, octets: bytes) -> bytes:
        return self._source.give_back(octets)

    def close(self) -> None:
        self._pump.stop(0.0 if self._unwakeable else JOIN_SECONDS)


class PumpWriter:
    """Writes a file object. Octets count as taken when the file has taken them and was flushed."""

    events = select.POLLIN

    def __init__(self, file: SendableFile, name: str = "packetwire-writer") -> None:
        self._file = file
        self._raw = isinstance(file, io.RawIOBase)
        self._pump = _Pump(self._write, name)

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_write(self, buffers: Buffers) -> int:
        # whoever tries again does so with the same octets, so a later try learns of an earlier one's outcome
        taken: int | None = self._pump.exchange(buffers)
        return taken or 0

    def _write(self, buffers: Buffers) -> int:
        octets = b"".join(buffers)
        view = memoryview(octets)
        while view:
            view = view[self._write_some(view) :]
        self._file.flush()
        return len(octets)

    def _write_some(self, view: memoryview) -> int:
        count = self._file.write(bytes(view))
        if count is not None:
            return count
        if not self._raw:
            return len(view)
        poller = select.poll()
        poller.register(self._file, select.POLLOUT)  # type: ignore[arg-type]
        poller.poll(1000)
        return 0

    def end(self) -> None:
        pass

    def close(self) -> None:
        self._pump.stop(JOIN_SECONDS)
