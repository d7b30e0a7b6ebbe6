"""Halves over file objects, CornuCopyBuffers and iterables of bytes.

Such a source may have a buffer of its own, which no poll sees, so it is read by its own methods, which may block.
A daemon thread does that, one read at a time and only when the connection asks for more, so nothing behind the
connection's end is taken. A thread that is inside such a read when the connection closes cannot be woken: it ends
with the read.
"""

from __future__ import annotations

import io
import select
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar, runtime_checkable

from packetwire.streams import forking
from packetwire.streams.brokenpipe import hold_sigpipe_back
from packetwire.streams.bytestream import Buffers
from packetwire.streams.fds import READ_SIZE
from packetwire.streams.wakeup import Wakeup

OrderT = TypeVar("OrderT")
ResultT = TypeVar("ResultT")

JOIN_SECONDS = 1.0


@runtime_checkable
class ReadableFile(Protocol):
    """A file that a connection can read."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` bytes, waiting for the first ones only; b"" at the end."""
        ...


@runtime_checkable
class SendableFile(Protocol):
    """A file that a connection can write."""

    def write(self, bs: bytes, /) -> int | None:
        """Write bytes; return how many were taken (None: all)."""
        ...

    def flush(self) -> object:
        """Write out whatever is buffered."""
        ...


class Source(Protocol):
    """A source whose reads may block."""

    def read(self) -> bytes:
        """The next bytes, b"" at the end."""
        ...

    def pollable_fd(self) -> int | None:
        """A descriptor to poll until `read` will not block, if there is one at this moment."""
        ...

    def give_back(self, octets: bytes) -> bytes:
        """Take bytes back; return them if that is impossible."""
        ...


class CornuCopy(Protocol):
    """The part of a `cs.buffer.CornuCopyBuffer` that is used here."""

    buflen: int

    def __iter__(self) -> Iterator[bytes]: ...

    def push(self, data: bytes, /) -> object: ...


class FileSource:
    """A binary file object."""

    def __init__(self, file: ReadableFile) -> None:
        self._read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)
        self._fd = _fd_of(file)
        # a poll of the descriptor is right only while nothing is buffered: for a raw file, or right after its
        # buffer was emptied
        self._raw = isinstance(file, io.RawIOBase)
        self._buffered = isinstance(file, io.BufferedIOBase)
        self._buffer_empty = self._raw

    def read(self) -> bytes:
        data = self._read(READ_SIZE)
        if data is None:
            raise BlockingIOError("the file is in non-blocking mode and has nothing to read now")
        self._buffer_empty = self._raw or (self._buffered and len(data) < READ_SIZE)
        return data

    def pollable_fd(self) -> int | None:
        return self._fd if self._buffer_empty else None

    def give_back(self, octets: bytes) -> bytes:
        return octets


class BufferSource:
    """A `cs.buffer.CornuCopyBuffer`."""

    def __init__(self, bfr: CornuCopy) -> None:
        self._bfr = bfr
        self._iterator = iter(bfr)

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


def _fd_of(file: object) -> int | None:
    fileno: Callable[[], int] | None = getattr(file, "fileno", None)
    try:
        return None if fileno is None else int(fileno())
    except (AttributeError, OSError, ValueError, TypeError):
        return None


class _Pump(Generic[OrderT, ResultT]):
    """A daemon thread that makes one blocking call at a time; `done` is readable when one has returned."""

    def __init__(self, work: Callable[[OrderT], ResultT], name: str) -> None:
        self._work = work
        self._name = name
        self._change = threading.Condition()  # guards what follows
        self._order: tuple[OrderT] | None = None
        self._outcome: tuple[ResultT, None] | tuple[None, BaseException] | None = None
        self._stopped = False
        self._thread: threading.Thread | None = None
        self.done = Wakeup()
        self.stop_wakeup = Wakeup()
        forking.register(self)

    def replace_locks(self) -> None:
        """Replace the lock: a thread that may hold it does not exist, or does not run any more."""
        self._change = threading.Condition()

    def after_fork(self) -> None:
        """In the child of a fork: the thread, and the file that it reads or writes, are the parent's."""
        self.replace_locks()
        self._stopped = True

    def exchange(self, order: OrderT) -> ResultT | None:
        """The result of the last order; None if there is none, and then `order` is begun unless one is under way.

        Raises the exception that the work raised, then and from then on.
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
                    thread.start()  # may raise for want of threads, and then there is none to stop
                    self._thread = thread
                self.done.clear()
                self._order = (order,)
                self._change.notify()
            return None

    def _run(self) -> None:
        hold_sigpipe_back()
        while (order := self._next_order()) is not None:
            outcome: tuple[ResultT, None] | tuple[None, BaseException]
            try:
                outcome = self._work(order[0]), None
            except BaseException as error:  # raised by the next exchange
                outcome = None, error
            with self._change:
                # in one step: `exchange` finds either the work under way or its outcome
                self._order, self._outcome = None, outcome
                self.done.set()
        self._close()

    def _next_order(self) -> tuple[OrderT] | None:
        with self._change:
            while self._order is None and not self._stopped:
                self._change.wait()
            return None if self._stopped else self._order

    def stop(self, join_seconds: float) -> None:
        """End the thread; one that stays blocked for longer than `join_seconds` is left behind."""
        with self._change:
            if self._stopped:
                return
            self._stopped = True
            self._change.notify()
        self.stop_wakeup.set()
        if self._thread is not None and not sys.is_finalizing():
            self._thread.join(join_seconds)  # the thread closes the descriptors when it ends, however late
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
        self._pump.done.set()  # the first poll must return: the first try is what starts the first read

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_read(self, size: int) -> bytes | None:
        return self._pump.exchange(None)

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
    """Writes a file object. Bytes count as written when the file has taken them and was flushed."""

    events = select.POLLIN

    def __init__(self, file: SendableFile, name: str = "packetwire-writer") -> None:
        self._file = file
        self._raw = isinstance(file, io.RawIOBase)
        self._pump = _Pump(self._write, name)

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_write(self, buffers: Buffers) -> int:
        # a try that took nothing is repeated with the same bytes, so a later one returns the outcome of the earlier
        return self._pump.exchange(buffers) or 0

    def _write(self, buffers: Buffers) -> int:
        data = b"".join(buffers)
        view = memoryview(data)
        while view:
            view = view[self._write_some(view) :]
        self._file.flush()
        return len(data)

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
