"""`Relay`: bytes from each of two streams to the other.

Strategy. Both streams are polled, by a thread or in an event loop, and what comes is passed on; they never block,
so nothing waits but the poll, which can always be told to stop. A direction holds one piece of data at most, and
reads no further until that is written. So a side that takes nothing stops the other side's reading, and memory
stays flat. The end of a direction is passed on when all before it is written, and the other direction goes on. The
last data of an end that is gone is still passed on, and nothing is read for it any more.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from packetwire.capture import CapturedConnection, Kind
from packetwire.errors import ChildExited, ConnectionEnded, StreamTruncated
from packetwire.streams.bytestream import Buffers, ByteStream
from packetwire.streams.wakeup import Wakeup

RELAY_SIZE = 65536
"""Bytes that a direction holds at most."""

_GONE = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Relay:
    """Two open streams, of which each gets what is read from the other. It closes neither."""

    def __init__(self, a: ByteStream, b: ByteStream, captured: CapturedConnection | None = None) -> None:
        self._wakeup = Wakeup()
        self._stopped = False
        self._ends = a, b
        self._forth = _Direction(a, b, None if captured is None else partial(captured.record, Kind.FORTH))
        self._back = _Direction(b, a, None if captured is None else partial(captured.record, Kind.BACK))
        self._directions = (self._forth, self._back)
        self._exits: list[tuple[ByteStream, ConnectionEnded]] = []
        self._failure: Exception | None = None

    @property
    def last_forth(self) -> float | None:
        """The time of the last data from the first stream; None if there was none. By `time.monotonic`."""
        return self._forth.last_read

    @property
    def last_back(self) -> float | None:
        """The same of the second stream."""
        return self._back.last_read

    def stop(self) -> None:
        """Have it be over soon. From any thread."""
        self._stopped = True
        self._wakeup.set()

    # in this order, `wanted` and `advance` again and again until it is over

    def begin(self) -> None:
        """Both streams are in use from here on."""
        for stream in self._ends:
            stream.start(partial(self._note_exit, stream))

    @property
    def is_over(self) -> bool:
        """True if both directions are over, or it was stopped."""
        return self._stopped or (self._forth.over and self._back.over)

    def wanted(self) -> dict[int, int]:
        """The descriptors to poll before the next `advance`, with their events."""
        wanted = {self._wakeup.fileno(): select.POLLIN}
        for direction in self._directions:
            if not direction.over:
                for fd, events in direction.wanted():
                    wanted[fd] = wanted.get(fd, 0) | events
        return wanted

    def advance(self, ready: dict[int, int]) -> None:
        """Go on as far as that goes at once; `ready` is what a poll has found."""
        self._wakeup.clear()
        for direction in self._directions:
            if direction.is_ready(ready):
                direction.advance()
            direction.look_at_sink(ready)
        self._see_to_ends()

    def finish(self) -> None:
        """It is over: write what fits, and pass the ends on."""
        for direction in self._directions:
            direction.finish()

    def close(self) -> None:
        """Let go of what `stop` needs."""
        self._wakeup.close()

    def failure(self) -> Exception | None:
        """The reason, if it failed, once it is over: a stream that was cut off, a child that failed.

        This may wait for up to a second.
        """
        for direction in self._directions:
            if self._failure is None and direction.source_ended and not self._stopped:
                reason = direction.source.end_reason()
                self._failure = reason if _is_failure(reason) else None
            self._failure = self._failure or direction.read_failure
        return self._failure

    def _note_exit(self, stream: ByteStream, cause: ConnectionEnded) -> None:
        """From any thread: `stream` is at its end, although no poll may show it."""
        self._exits.append((stream, cause))
        self._wakeup.set()

    def _see_to_ends(self) -> None:
        """See to what happened to one direction, and to the ends: it concerns the other direction as well."""
        while self._exits:
            stream, cause = self._exits.pop()
            for direction in self._directions:
                if direction.source is stream:
                    direction.draining = True
                elif isinstance(cause, ChildExited):
                    direction.abandon()
            if _is_failure(cause):
                self._failure = self._failure or cause
        for direction, other in (self._forth, self._back), (self._back, self._forth):
            if direction.write_failed:
                other.draining = True
            if direction.read_failure is not None or (direction.source_ended and direction.source.is_cut_off):
                other.abandon()
        for direction in self._directions:
            if direction.draining:
                direction.drain()


def _is_failure(reason: ConnectionEnded | None) -> bool:
    return isinstance(reason, StreamTruncated) or (isinstance(reason, ChildExited) and bool(reason.returncode))


class _Direction:
    """From one stream to the other. It holds one piece of data at most, and reads no further until then."""

    def __init__(self, source: ByteStream, sink: ByteStream, record: Callable[[bytes], None] | None) -> None:
        self.source = source
        self.over = False
        """Nothing more is read or written."""
        self.source_ended = False
        self.last_read: float | None = None
        self.read_failure: Exception | None = None
        self.write_failed = False
        self.draining = False
        """The source is going: what can be read at once is passed on, and nothing waited for."""
        self._sink = sink
        self._record = record
        self._unsent: Buffers = ()
        self._at_end = False  # nothing more is read; the end is passed on when there is room
        if source.leading_octets:
            data, source.leading_octets = source.leading_octets, b""
            self.last_read = time.monotonic()
            self._unsent = (data,)
            self._note(data)

    def wanted(self) -> list[tuple[int, int]]:
        """The descriptors, with their events, to poll before the next `advance`."""
        if self._unsent or self._at_end:
            return [(self._sink.write_fd, self._sink.write_events)]
        # without any event the sink still says when it is gone, for which there may be nothing to write for long
        return [(self._sink.write_fd, 0), (self.source.read_fd, select.POLLIN)]

    def is_ready(self, ready: dict[int, int]) -> bool:
        """Tell if what it wants is among what a poll has found."""
        return not self.over and any(ready.get(fd, 0) & (events | _GONE) for fd, events in self.wanted())

    def look_at_sink(self, ready: dict[int, int]) -> None:
        """Give up if there is nobody to write to any more, whatever there is to write."""
        if not self.over and ready.get(self._sink.write_fd, 0) & _GONE:
            self.abandon()

    def advance(self) -> None:
        """Write what is held, else read once and write that; nothing waits."""
        if self._at_end and not self._unsent:
            self._pass_end_on()
            return
        if not self._unsent:
            self._read()
        if self._unsent:
            self._write()

    def drain(self) -> None:
        """As `draining` says: go on as far as there is room."""
        while not (self.over or self._unsent or self._at_end):
            self.advance()

    def abandon(self) -> None:
        """There is nobody to write to."""
        self.over = True
        self._unsent = ()

    def finish(self) -> None:
        """Now: write what fits, and pass the end on."""
        if not self.over:
            if self._unsent:
                self._write()
            self._pass_end_on()

    def _read(self) -> None:
        try:
            data = self.source.try_read(RELAY_SIZE)
        except Exception as error:
            self.read_failure = error
            data = b""
        if data:
            self.last_read = time.monotonic()
            self._unsent = (data,)
            self._note(data)
        elif data is not None or self.draining:
            self.source_ended = data is not None
            self._end()

    def _note(self, data: bytes) -> None:
        if self._record is not None:
            self._record(data)

    def _write(self) -> None:
        try:
            self._unsent = self._sink.write_batch(self._unsent)
        except Exception:  # the sink is gone, which is no fault of its own: it may have had enough
            self.write_failed = True
            self.abandon()

    def _end(self) -> None:
        self._note(b"")
        self._at_end = True
        if self._sink.write_events != select.POLLOUT:
            self._pass_end_on()  # a poll tells nothing about room there

    def _pass_end_on(self) -> None:
        # with room to write, because TLS has something to write then
        self.over = True
        with suppress(OSError):
            self._sink.end_write()
