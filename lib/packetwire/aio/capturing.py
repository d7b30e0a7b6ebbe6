"""A transport of which all that is read and written is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from packetwire.aio.transport import Receiver, Transport
from packetwire.capture import CapturedConnection, Kind
from packetwire.errors import ConnectionEnded

if TYPE_CHECKING:
    from subprocess import Popen


class CapturedTransport:
    """`inner`, which it closes. Bytes are recorded before they are written: the answer must not come first."""

    def __init__(self, inner: Transport, connection: CapturedConnection) -> None:
        self._inner = inner
        self._connection = connection
        self.stop_reading = inner.stop_reading
        self.stop = inner.stop
        self.hurry = inner.hurry
        self.after_fork = inner.after_fork
        self.hint = inner.hint

    @property
    def process(self) -> Popen[bytes] | None:
        return self._inner.process

    @property
    def is_gone(self) -> bool:
        return self._inner.is_gone

    @property
    def half_closes(self) -> bool:
        return self._inner.half_closes

    @property
    def is_remote(self) -> bool:
        return self._inner.is_remote

    @property
    def bytes_written(self) -> int:
        return self._inner.bytes_written

    def start(self, receiver: Receiver) -> None:
        self._inner.start(_CapturedReceiver(receiver, self._connection))

    def write(self, buffers: Sequence[bytes]) -> bool:
        for buffer in buffers:
            self._connection.record(Kind.FORTH, buffer)
        return self._inner.write(buffers)

    def let_go(self) -> None:
        self._connection.record(Kind.FORTH)
        try:
            self._inner.let_go()
        finally:
            self._connection.over()

    async def close(self, trailing: bytes) -> bytes:
        self._connection.record(Kind.FORTH)
        try:
            return await self._inner.close(trailing)
        finally:
            self._connection.over()


class _CapturedReceiver:
    """Records what is received."""

    def __init__(self, inner: Receiver, connection: CapturedConnection) -> None:
        self._inner = inner
        self._connection = connection
        self.written = inner.written
        self.write_failed = inner.write_failed
        self.expect_end = inner.expect_end
        self.interrupted = inner.interrupted

    @property
    def is_busy(self) -> bool:
        return self._inner.is_busy

    def receive(self, data: bytes) -> int:
        self._connection.record(Kind.BACK, data)
        return self._inner.receive(data)

    def receive_end(self, cause: ConnectionEnded | None) -> None:
        self._connection.record(Kind.BACK)
        self._inner.receive_end(cause)
