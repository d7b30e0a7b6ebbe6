"""Byte streams in an event loop: read and written when its selector says that they are ready.

Not by asyncio's own transports: these make a descriptor non-blocking for everyone who shares it, and close
what they were given.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from packetwire.aio.blocking import NoThread, Work, to_the_end_in_thread
from packetwire.aio.transport import Receiver
from packetwire.errors import ConnectionEnded, ended_by
from packetwire.streams.buffers import MAX_READ, READ_SIZE
from packetwire.streams.bytestream import Buffers, ByteStream
from packetwire.streams.fds import FdReader, FdWriter
from packetwire.streams.sockets import SocketReader, SocketWriter

if TYPE_CHECKING:
    from subprocess import Popen

logger = logging.getLogger("packetwire")

READS_AT_ONCE = 16
"""Reads of a long packet before the loop sees to others."""
LOOK_INTERVAL = 0.01
"""Seconds until a descriptor that could be read is looked at for an error, where the loop does not tell twice."""


class PolledTransport:
    """A `ByteStream`; if it was `made` for this connection, closing it may wait for something."""

    def __init__(self, stream: ByteStream, name: str, *, made: bool = False) -> None:
        self.stream = stream
        self._name = name
        self._may_wait = made or not _is_plain(stream)
        self._loop = asyncio.get_running_loop()
        self._to_read: _Watch | None = None
        self._to_write: _Watch | None = None
        self._rest: Buffers = ()
        self._reading = False
        self._size = READ_SIZE  # of the next read
        self._receiver: Any = None
        self._receive: Any = None
        self._reason: Work[ConnectionEnded | None] | None = None
        self._forked = False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._receive = receiver.receive
        self._reading = True
        self.stream.start(self._report_exit)
        leading, self.stream.leading_octets = self.stream.leading_octets, b""
        if leading:
            receiver.receive(leading)
        if self._reading:
            try:
                self._to_read = _Watch(self._loop, self.stream.read_fd, select.POLLIN, self._readable)
            except (OSError, ValueError) as error:
                self._end_reading(error)

    @property
    def process(self) -> Popen[bytes] | None:
        return getattr(self.stream, "process", None)

    @property
    def is_gone(self) -> bool:
        return self.stream.is_cut_off

    @property
    def half_closes(self) -> bool:
        return self.stream.half_closes

    @property
    def is_remote(self) -> bool:
        return self.stream.is_remote

    def hint(self) -> str:
        return self.stream.hint()

    @property
    def bytes_written(self) -> int:
        return self.stream.bytes_written

    # reading

    def _readable(self) -> None:
        if self._receiver.is_busy:
            return  # it is called again in the next turn
        try:
            self._read()
        except BaseException as error:
            self._receiver.interrupted(error)
            raise

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                data = self.stream.try_read(self._size)
            except Exception as error:
                self._end_reading(error)
                return
            if data is None:
                return
            if not data:
                self._end_reading(None)
                return
            wanted = self._receive(data)
            self._size = min(wanted, MAX_READ) if wanted else READ_SIZE
            if not wanted:
                return

    def _end_reading(self, error: Exception | None) -> None:
        """The stream is at its end: find out why."""
        self.stop_reading()
        if not self._may_wait:
            self._report_end(self.stream.end_reason(), error)
            return
        try:
            self._reason = reason = Work(self.stream.end_reason, f"{self._name}-end")
        except NoThread:
            # a moment in which the loop stands still is better than a connection that never ends
            self._report_end(self.stream.end_reason(), error)
            return
        reason.finished.add_done_callback(lambda _: self._report_end(reason.result(), error))

    def _report_end(self, cause: ConnectionEnded | None, error: Exception | None) -> None:
        if cause is None and error is not None:
            cause = ended_by(error, f"{self._name}: reading failed: {error}")
        self._receiver.receive_end(cause)

    def _report_exit(self, cause: ConnectionEnded) -> None:
        """From any thread: the other end is gone."""
        with suppress(RuntimeError):  # the loop is closed, nobody waits any more
            self._loop.call_soon_threadsafe(self._exited, cause)

    def _exited(self, cause: ConnectionEnded) -> None:
        self._receiver.expect_end(cause)
        self._read_unasked()

    def _read_unasked(self) -> None:
        """There may be an end that no poll sees."""
        if self._reading and self._receiver.is_busy:
            self._loop.call_soon(self._read_unasked)
        elif self._reading:
            self._readable()

    def stop_reading(self) -> None:
        self._reading = False
        if self._to_read is not None:
            self._to_read.stop()
            self._to_read = None

    # writing

    def write(self, buffers: Sequence[bytes]) -> bool:
        self._rest = self._try_write(buffers)
        if not self._rest:
            return True
        try:
            self._to_write = _Watch(self._loop, self.stream.write_fd, self.stream.write_events, self._writable)
        except (OSError, ValueError) as error:
            self._fail_writing(error)
        return False

    def _writable(self) -> None:
        self._rest = self._try_write(self._rest)
        if not self._rest:
            self._stop_writing()
            self._receiver.written()

    def _try_write(self, batch: Buffers) -> Buffers:
        """Write what fits, return the rest. A failure leaves no rest."""
        try:
            return self.stream.write_batch(batch)
        except Exception as error:
            self._fail_writing(error)
            return ()
        except BaseException as error:
            self._receiver.interrupted(error)
            raise

    def _fail_writing(self, error: Exception) -> None:
        self._stop_writing()
        self._receiver.write_failed(error)

    def _stop_writing(self) -> None:
        self._rest = ()
        if self._to_write is not None:
            self._to_write.stop()
            self._to_write = None

    # the end

    def stop(self) -> None:
        self.stop_reading()
        self._stop_writing()

    def hurry(self) -> None:
        self.stream.hurry()

    def after_fork(self) -> None:
        self._forked = True
        self._reading = False
        self._to_read = self._to_write = None
        self._rest = ()

    def let_go(self) -> None:
        self._let_go(b"")

    async def close(self, trailing: bytes) -> bytes:
        if not self._may_wait:
            return self._let_go(trailing)
        try:
            return await to_the_end_in_thread(lambda: self._let_go(trailing), f"{self._name}-closer")
        except NoThread as error:
            logger.warning("%s: closed in the loop, in a hurry: %s", self._name, error)
            self.stream.hurry()
            return self._let_go(trailing)
        except ConnectionEnded:
            if not self._forked:
                raise
            return b""  # the thread that closes it is the parent's

    def _let_go(self, trailing: bytes) -> bytes:
        if self._reason is not None:
            self._reason.join()  # it still looks at the stream
        try:
            return self.stream.give_back(trailing)
        finally:
            self.stream.end_write()
            self.stream.close()


def _is_plain(stream: ByteStream) -> bool:
    """True if it is nothing but descriptors, so that its methods never wait."""
    return (
        type(stream) is ByteStream
        and isinstance(stream.reader, FdReader | SocketReader)
        and isinstance(stream.writer, FdWriter | SocketWriter)
    )


class _Watch:
    """A descriptor in the loop's selector. `callback` is called again and again while it is ready.

    Raises OSError or ValueError if the descriptor cannot be polled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, event: int, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._callback = callback
        self._remove: Callable[[int], object] | None
        self._again: asyncio.Handle | None = None
        self._look: asyncio.TimerHandle | None = None
        self._add, self._remove = (
            (loop.add_reader, loop.remove_reader)
            if event == select.POLLIN
            else (loop.add_writer, loop.remove_writer)
        )
        self._errors: select.poll | None = None
        if not isinstance(loop, asyncio.SelectorEventLoop):
            self._errors = select.poll()
            self._errors.register(fd, 0)
        try:
            self._watch()
        except PermissionError:
            # epoll refuses what is always ready, such as a regular file or /dev/null
            self._remove = None
            self._again = loop.call_soon(self._call_again)

    def _watch(self) -> None:
        blocking = os.get_blocking(self._fd)
        self._add(self._fd, self._callback if self._errors is None else self._call_and_look)
        if blocking and not os.get_blocking(self._fd):
            os.set_blocking(self._fd, True)  # uvloop changes that for everyone who shares the descriptor

    def _call_and_look(self) -> None:
        """uvloop calls only once for a descriptor with an error, such as a reset, whatever is left to read."""
        self._callback()
        if self._look is None and self._remove is not None:
            self._look = self._loop.call_later(LOOK_INTERVAL, self._look_for_error)

    def _look_for_error(self) -> None:
        self._look = None
        if self._remove is not None and self._errors is not None and self._errors.poll(0):
            self._remove(self._fd)
            self._watch()

    def _call_again(self) -> None:
        self._again = self._loop.call_soon(self._call_again)
        self._callback()

    def stop(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._remove is not None:
            self._remove(self._fd)
            self._remove = None
