"""Halves over file objects, CornuCopyBuffers and iterables of bytes.

Such a source may hold octets in a buffer of its own, where no poll sees them, so it is read as its user
would read it: by its own methods, which may block. That is done in a daemon thread, one read at a time
and only when the connection asks for more; nothing behind the connection's end is taken. A thread that is
inside such a read when the connection closes cannot be woken: it ends with the read.
"""

from __future__ import annotations

import io
import select
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

from packetwire.streams.bytestream import Buffers
from packetwire.streams.fds import READ_SIZE
from packetwire.streams.wakeup import Wakeup

JOIN_SECONDS = 1.0


@runtime_checkable
class ReadableFile(Protocol):
    """The requirements for a file used to receive."""

    def read(self, size: int, /) -> bytes:
        """Read up to `size` octets; b"" at the end."""
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
        self._buffer_empty = isinstance(file, io.RawIOBase)
        self._raw = self._buffer_empty
        self._reads_short = self._raw or hasattr(file, "read1")

    def read(self) -> bytes:
        octets = self._read(READ_SIZE if self._reads_short else 1)
        if octets is None:
            raise BlockingIOError("the file is in non-blocking mode and has nothing to read now")
        self._buffer_empty = self._raw or (self._reads_short and len(octets) < READ_SIZE)
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
    """A daemon thread that does one blocking job at a time and makes a descriptor readable when it is done."""

    def __init__(self, job: Callable[[], None], name: str) -> None:
        self._job = job
        self._name = name
        self._change = threading.Condition()
        self._asked = self._stopped = False
        self._thread: threading.Thread | None = None
        self.done = Wakeup()
        self.stop_wakeup = Wakeup()

    def ask(self) -> None:
        """Have the job done once, if it is not being done already."""
        self.done.clear()
        with self._change:
            if self._stopped or self._asked:
                return
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._change.notify()

    def _run(self) -> None:
        while self._wait_until_asked():
            self._job()
            with self._change:
                self._asked = False
            self.done.set()
        self._close()

    def _wait_until_asked(self) -> bool:
        """True if there is a job to do, false if the pump is stopped."""
        with self._change:
            while not self._asked and not self._stopped:
                self._change.wait()
            return not self._stopped

    def stop(self, join_seconds: float) -> None:
        """End the thread; one that is blocked in its job for longer than `join_seconds` is left to it."""
        with self._change:
            if self._stopped:
                return
            self._stopped = True
            self._change.notify()
        self.stop_wakeup.set()
        if self._thread is not None:
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
        self._chunk: bytes | None = None
        self._error: BaseException | None = None
        self._unwakeable = False
        self._pump = _Pump(self._fill, name)
        self._pump.done.set()  # so that the first poll leads to the first try, which asks for octets

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_read(self, size: int) -> bytes | None:
        if self._error is not None:
            raise self._error
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            self._pump.ask()
        return chunk

    def _fill(self) -> None:
        try:
            fd = self._source.pollable_fd()
            if fd is not None and not self._poll(fd):
                return
            self._unwakeable = fd is None
            self._chunk = self._source.read()
        except BaseException as error:  # reported by the next try_read
            self._error = error
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
    """Writes a file object. A write counts as taken when the file has taken it and was flushed."""

    events = select.POLLIN

    def __init__(self, file: SendableFile, name: str = "packetwire-writer") -> None:
        self._file = file
        self._raw = isinstance(file, io.RawIOBase)
        self._buffers: list[bytes] = []
        self._taken = 0
        self._busy = False
        self._error: BaseException | None = None
        self._pump = _Pump(self._drain, name)

    def fileno(self) -> int:
        return self._pump.done.fileno()

    def try_write(self, buffers: Buffers) -> int:
        if self._error is not None:
            raise self._error
        if self._taken:
            taken, self._taken = self._taken, 0
            self._busy = False
            return taken
        if not self._busy:
            self._busy = True
            self._buffers = [bytes(buffer) for buffer in buffers]
            self._pump.ask()
        return 0

    def _drain(self) -> None:
        try:
            octets = b"".join(self._buffers)
            view = memoryview(octets)
            while view:
                view = view[self._write(view) :]
            self._file.flush()
            self._taken = len(octets)
        except BaseException as error:  # reported by the next try_write
            self._error = error

    def _write(self, view: memoryview) -> int:
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
