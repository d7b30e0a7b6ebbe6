"""A pair of asyncio's (StreamReader, StreamWriter): whatever asyncio can open, TLS too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from packetwire.aio.transport import Receiver
from packetwire.errors import ConnectionEnded, ended_by
from packetwire.streams.fds import READ_SIZE

CLOSE_SECONDS = 1.0
"""Seconds for a StreamWriter to close that was opened for the connection."""


class StreamPairTransport:
    """Reads the one and writes the other; with `owned` the writer is closed at the end.

    While the connection is open the writer's buffer has no room (its limit is 0), so that `drain` tells when
    everything is written. Bytes behind the connection's end cannot be given back to the reader.
    """

    process = None

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, *, leading: bytes, owned: bool
    ) -> None:
        self._leading = leading
        self._reader = reader
        self._writer = writer
        self._transport: Any = writer.transport
        self._name = name
        self._owned = owned
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._read_task: asyncio.Task[None] | None = None
        self._given = 0
        self._drain_task: asyncio.Task[None] | None = None

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._low, self._high = self._transport.get_write_buffer_limits()
        self._transport.set_write_buffer_limits(high=0)
        self._reading = True
        if self._leading:
            receiver.receive(self._leading)
        self._read_task = self._loop.create_task(self._read(), name=f"{self._name}-reader")

    @property
    def is_gone(self) -> bool:
        return bool(self._transport.is_closing())

    @property
    def half_closes(self) -> bool:
        return self._transport.get_extra_info("sslcontext") is None

    @property
    def is_remote(self) -> bool:
        sock = self._transport.get_extra_info("socket")
        return sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6)

    def hint(self) -> str:
        return ""

    # reading

    async def _read(self) -> None:
        cause: ConnectionEnded | None = None
        try:
            while self._reading and (data := await self._reader.read(READ_SIZE)):
                self._receiver.receive(data)
                while self._receiver.is_busy:
                    await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            if self._reading:  # it was not us: the loop is being shut down
                self._receiver.interrupted(error)
            raise
        except Exception as error:
            cause = ended_by(error, f"{self._name}: reading failed: {error}")
        except BaseException as error:
            self._receiver.interrupted(error)
            raise
        if self._reading:
            self._reading = False
            self._receiver.receive_end(cause)

    def stop_reading(self) -> None:
        self._reading = False
        if self._read_task is not None and self._read_task is not asyncio.current_task():
            self._read_task.cancel()

    # writing

    @property
    def bytes_written(self) -> int:
        return self._given - int(self._transport.get_write_buffer_size())

    def write(self, buffers: Sequence[bytes]) -> bool:
        if self._transport.is_closing():
            self._receiver.write_failed(ConnectionResetError("the StreamWriter is closed"))
            return True
        data = b"".join(buffers)
        self._given += len(data)
        self._writer.write(data)
        if not self._transport.get_write_buffer_size():
            return True
        self._drain_task = self._loop.create_task(self._drain(), name=f"{self._name}-writer")
        return False

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except Exception as error:
            self._receiver.write_failed(error)
        else:
            self._receiver.written()

    # the end

    def stop(self) -> None:
        self.stop_reading()
        if self._drain_task is not None:
            self._drain_task.cancel()

    def hurry(self) -> None:
        if self._owned:
            self._transport.abort()

    def after_fork(self) -> None:
        self._reading = False  # the rest is asyncio's

    def let_go(self) -> None:
        if self._owned:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._transport.abort)

    async def close(self, trailing: bytes) -> bytes:
        with suppress(Exception):  # a transport that is closed may not know limits any more
            self._transport.set_write_buffer_limits(self._high, self._low)
        try:
            tasks = [task for task in (self._read_task, self._drain_task) if task is not None]
            if tasks:  # none if it was never started
                await asyncio.wait(tasks)  # they are cancelled, or done
        finally:
            if self._owned:
                await self._close_writer()
        return trailing

    async def _close_writer(self) -> None:
        """Close it; what it could not write within the time of the connection's close is given up."""
        if self._transport.get_write_buffer_size():
            self._transport.abort()
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                with suppress(OSError):  # the connection has ended, and why is known
                    await self._writer.wait_closed()
        except TimeoutError:
            self._transport.abort()
