"""The byte stream that every connection runs over, and how two one-way halves make one.

A stream never blocks. Its user polls `read_fd` or `write_fd` and then tries; a try that finds nothing to
read or no room to write says so at once. Streams are composed of halves, because the two directions of a
connection are often of different kinds: two pipes, a socket and a file.
"""

from __future__ import annotations

import select
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from packetwire.errors import ConnectionEnded
from packetwire.streams.finalizing import leave_to_thread

__all__ = ["ByteStream", "ReadHalf", "WriteHalf"]

Buffers = Sequence[bytes | memoryview]
JOIN_LIMIT = 65536
"""Octets up to which several buffers are copied into one: below, that costs less than their number does."""


class ReadHalf(Protocol):
    """The direction towards us."""

    def fileno(self) -> int:
        """What to poll for reading."""
        ...

    def try_read(self, size: int) -> bytes | None:
        """Up to `size` octets; None if there are none now, b"" at the end. Raises OSError."""
        ...

    def give_back(self, octets: bytes) -> bytes:
        """Octets that belong to the next user of this half: take them back, or return them."""
        ...

    def close(self) -> None:
        """Let go of what this half opened itself. A second call does nothing."""
        ...


class WriteHalf(Protocol):
    """The direction away from us."""

    @property
    def events(self) -> int:
        """The poll event that says there is room: POLLOUT, or POLLIN where a thread does the writing."""
        ...

    def fileno(self) -> int:
        """What to poll for writing."""
        ...

    def try_write(self, buffers: Buffers) -> int:
        """Write what fits, return the octets taken, 0 if there is no room now. Raises OSError."""
        ...

    def end(self) -> None:
        """Nothing more is written: pass that on, if this half was opened by us."""
        ...

    def close(self) -> None:
        """Let go of what this half opened itself. A second call does nothing."""
        ...


class ByteStream:
    """A two-way stream made of two halves.

    `close` runs `on_close` once, after both halves are closed. Subclasses that know why a stream ends
    (a child's exit status) say so in `end_reason`.
    """

    def __init__(self, reader: ReadHalf, writer: WriteHalf, on_close: Callable[[], object] | None = None) -> None:
        self.reader = reader
        self.writer = writer
        self.try_read = reader.try_read
        self.try_write = writer.try_write
        self.leading_octets = b""
        """Octets that were taken from the stream before and come first."""
        self.bytes_written = 0
        """All that `write_batch` ever wrote."""
        self._on_close = on_close

    @property
    def read_fd(self) -> int:
        """What to poll for reading."""
        return self.reader.fileno()

    @property
    def write_fd(self) -> int:
        """What to poll for writing."""
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
        # what was not taken now will hardly be taken at once
        return _behind(batch, taken) if taken else batch

    def start(self, on_exit: Callable[[ConnectionEnded], None]) -> None:
        """The connection runs now. `on_exit` may be called, from any thread, to say that the other end
        is gone although the stream may not show it, with the exception that explains it."""

    @property
    def is_cut_off(self) -> bool:
        """Whether it was read to an end that is one for both directions: the other side is gone."""
        return is_gone(self.write_fd)

    half_closes = True
    """Whether its end is that of one direction, and says nothing more."""

    def end_reason(self) -> ConnectionEnded | None:
        """Why the stream ended, if that is known better than by its end; may wait up to a second."""
        return None

    def hint(self) -> str:
        """What is known of an other end that says nothing, to be put behind the text of a timeout; mostly ""."""
        return ""

    def end_write(self) -> None:
        """Nothing more is written."""
        self.writer.end()

    def give_back(self, octets: bytes) -> bytes:
        """Octets behind the connection's end: return those that the stream cannot take back."""
        return self.reader.give_back(octets) if octets else b""

    def hurry(self) -> None:
        """Someone is impatient: `close` shall wait for nobody."""

    def weaken_close(self) -> KeptClose | None:
        """Refer weakly to `on_close`: whoever calls this keeps it. None if there is none."""
        on_close = self._on_close
        if on_close is None or isinstance(on_close, WeakClose):
            return None
        kept = KeptClose(on_close)
        self._on_close = kept.weak
        return kept

    def close(self) -> None:
        """Close what was opened for this stream, and nothing else. A second call does nothing."""
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
    """What closes a stream, until it is called: it may be a method of an object that has the connection."""

    def __init__(self, on_close: Callable[[], object]) -> None:
        self.on_close: Callable[[], object] | None = on_close
        self.weak = WeakClose(self)
        """What the stream calls."""

    def hand_over(self) -> None:
        """As a finalizer: nobody keeps it here any more, but it is to be called."""
        on_close = self.on_close
        if on_close is not None:
            self.weak.hold(on_close)


class WeakClose:
    """Calls what a `KeptClose` keeps, once.

    The garbage collector clears weak references first and calls finalizers then. A call that comes in between is
    made up for by the finalizer.
    """

    def __init__(self, kept: KeptClose) -> None:
        self._kept = weakref.ref(kept)
        self._held: Callable[[], object] | None = None
        self._due = False
        self._turn = [None]  # popped in one step, by whoever calls it

    def __call__(self) -> None:
        self._due = True
        kept = self._kept()
        on_close = self._held if kept is None else kept.on_close
        if on_close is not None:
            self._call(on_close)

    def hold(self, on_close: Callable[[], object]) -> None:
        """Call it all the same."""
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
    """Whether a poll says that nobody reads what is written to `fd`, as far as that can be known."""
    if fd < 0:
        return True  # it is closed
    poller = select.poll()
    poller.register(fd, 0)
    return bool(poller.poll(0))


def _behind(buffers: Buffers, taken: int) -> Buffers:
    """What is left of `buffers` behind their first `taken` octets."""
    for index, buffer in enumerate(buffers):
        if taken < len(buffer):
            return memoryview(buffer)[taken:], *buffers[index + 1 :]
        taken -= len(buffer)
    return ()
