"""The byte stream that every connection runs over, and how two one-way halves make one.

A stream never blocks. Its user polls `read_fd` or `write_fd` and then tries; a try that finds nothing to
read or no room to write says so at once. Streams are composed of halves, because the two directions of a
connection are often of different kinds: two pipes, a socket and a file.
"""

from __future__ import annotations

import select
import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

from packetwire.errors import ConnectionEnded
from packetwire.streams.buffers import JOIN_LIMIT
from packetwire.streams.buffers import Buffers as Buffers
from packetwire.streams.finalizing import leave_to_thread

__all__ = ["ByteStream", "ReadHalf", "WriteHalf"]


class ReadHalf(Protocol):
    """The direction towards us."""

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        ...

    def try_read(self, size: int) -> bytes | None:
        """Up to `size` bytes; None if there are none now, b"" at the end. Raises OSError."""
        ...

    def give_back(self, octets: bytes) -> bytes:
        """Take back bytes that belong to the next user of this half; return them if that is impossible."""
        ...

    def close(self) -> None:
        """Release whatever this half opened itself. A second call does nothing."""
        ...


class WriteHalf(Protocol):
    """The direction away from us."""

    @property
    def events(self) -> int:
        """The poll event that says there is room: POLLOUT, or POLLIN where a thread does the writing."""
        ...

    def fileno(self) -> int:
        """The descriptor to poll for writing."""
        ...

    def try_write(self, buffers: Buffers) -> int:
        """Write what fits; return the number of bytes taken, 0 if there is no room now. Raises OSError."""
        ...

    def end(self) -> None:
        """End this direction: nothing more is written. Passed on only if we opened this half."""
        ...

    def close(self) -> None:
        """Release whatever this half opened itself. A second call does nothing."""
        ...


class ByteStream:
    """A two-way stream made of two halves.

    `close` calls `on_close` once, after both halves are closed. A subclass that knows why its stream
    ends (a child's exit status) overrides `end_reason`.
    """

    def __init__(self, reader: ReadHalf, writer: WriteHalf, on_close: Callable[[], object] | None = None) -> None:
        self.reader = reader
        self.writer = writer
        self.try_read = reader.try_read
        self.try_write = writer.try_write
        self.leading_data = b""
        """Bytes that were read from the stream earlier, to be received first."""
        self.bytes_written = 0
        """Bytes that `write_batch` has written so far."""
        self._on_close = on_close
        if getattr(reader, "is_network", False):
            self.is_remote = True

    @property
    def leading_octets(self) -> bytes:
        """Former name of `leading_data`."""
        return self.leading_data

    @leading_octets.setter
    def leading_octets(self, octets: bytes) -> None:
        self.leading_data = octets

    @property
    def read_fd(self) -> int:
        """The descriptor to poll for reading."""
        return self.reader.fileno()

    @property
    def write_fd(self) -> int:
        """The descriptor to poll for writing."""
        return self.writer.fileno()

    @property
    def write_events(self) -> int:
        """The poll event of `write_fd` that says there is room."""
        return self.writer.events

    def write_batch(self, batch: Buffers) -> Buffers:
        """Write what fits, without waiting, and return the rest. Raises OSError."""
        if len(batch) > 1 and sum(map(len, batch)) <= JOIN_LIMIT:
            batch = (b"".join(batch),)
        taken = self.try_write(batch)
        self.bytes_written += taken
        if taken == len(batch[0]) and len(batch) == 1:
            return ()
        # no second try: what did not fit now will hardly fit a moment later
        return _behind(batch, taken) if taken else batch

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        """Called when the connection starts to run. If the peer is gone although the stream may not show it,
        `on_exit` is called, from any thread, with the exception that explains it."""

    @property
    def is_cut_off(self) -> bool:
        """True if the end that was read is that of both directions: the peer is gone."""
        return is_gone(self.write_fd)

    is_remote = False
    """True if the other end may vanish, with its machine or the way there, without a word."""

    half_closes = True
    """True if the end of the stream only ends one direction."""

    def end_reason(self) -> ConnectionEnded | None:
        """Why the stream ended, if more is known than that it did; may wait up to a second."""
        return None

    def hint(self) -> str:
        """A remark about a silent peer, to be appended to the message of a timeout; mostly ""."""
        return ""

    def end_write(self) -> None:
        """End our direction: nothing more is written."""
        self.writer.end()

    def give_back(self, octets: bytes) -> bytes:
        """Hand back bytes from behind the connection's end; returns those that the stream cannot take."""
        return self.reader.give_back(octets) if octets else b""

    def hurry(self) -> None:
        """Have `close` wait for nobody."""

    def weaken_close(self) -> KeptClose | None:
        """Refer to `on_close` weakly from now on: the caller keeps it alive. None if there is none."""
        on_close = self._on_close
        if on_close is None or isinstance(on_close, WeakClose):
            return None
        kept = KeptClose(on_close)
        self._on_close = kept.weak
        return kept

    def close(self) -> None:
        """Close whatever was opened for this stream, and nothing else. A second call does nothing."""
        on_close, self._on_close = self._on_close, None
        try:
            self.writer.close()
        finally:
            try:
                self.reader.close()
            finally:
                if on_close is not None:
                    on_close()


class KeptClose:
    """Keeps a stream's `on_close` alive until it is called; it may be a method of the connection's owner."""

    def __init__(self, on_close: Callable[[], object]) -> None:
        self.on_close: Callable[[], object] | None = on_close
        self.weak = WeakClose(self)
        """The callable that the stream has in place of `on_close`."""

    def hand_over(self) -> None:
        """Called by a finalizer: `on_close` is no longer kept alive here, but must still be called."""
        on_close = self.on_close
        if on_close is not None:
            self.weak.hold(on_close)


class WeakClose:
    """Calls the `on_close` of a `KeptClose`, once.

    The garbage collector clears weak references before it calls finalizers. A call in between finds nothing to
    call; the finalizer makes up for it.
    """

    def __init__(self, kept: KeptClose) -> None:
        self._kept = weakref.ref(kept)
        self._held: Callable[[], object] | None = None
        self._due = False
        self._turn = [None]  # popped in one step: only one thread gets to call it

    def __call__(self) -> None:
        self._due = True
        kept = self._kept()
        on_close = self._held if kept is None else kept.on_close
        if on_close is not None:
            self._call(on_close)

    def hold(self, on_close: Callable[[], object]) -> None:
        """Have `on_close` called although its keeper is gone."""
        self._held = on_close
        if self._due:
            leave_to_thread(partial(self._call, on_close), "packetwire-closer")

    def _call(self, on_close: Callable[[], object]) -> None:
        try:
            self._turn.pop()
        except IndexError:
            return
        self._held = None
        kept = self._kept()
        if kept is not None:
            kept.on_close = None
        on_close()


def is_gone(fd: int) -> bool:
    """True if a poll says that `fd` has no reader any more, as far as the system can tell."""
    if fd < 0:
        return True  # it is closed
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))


def _behind(buffers: Buffers, taken: int) -> Buffers:
    """The rest of `buffers` after the first `taken` bytes."""
    for index, buffer in enumerate(buffers):
        if taken < len(buffer):
            return memoryview(buffer)[taken:], *buffers[index + 1 :]
        taken -= len(buffer)
    return ()
