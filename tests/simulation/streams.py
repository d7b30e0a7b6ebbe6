"""The forms in which a connection is given a simulated socket."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Sequence
from typing import Any

from packetwire.streams.bytestream import ByteStream

from .links import Socket


class Reader:
    """The half towards us."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def try_read(self, size: int) -> bytes | None:
        try:
            return self._sock.recv(size)
        except BlockingIOError:
            return None

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        pass


class Writer:
    """The half away from us; the stream is `owned` if it was made for the connection, which closes it then."""

    events = select.POLLOUT

    def __init__(self, sock: Socket, *, owned: bool) -> None:
        self._sock = sock
        self._owned = owned

    def fileno(self) -> int:
        return self._sock.fileno()

    def try_write(self, buffers: Sequence[bytes | memoryview]) -> int:
        try:
            return self._sock.send(b"".join(buffers))
        except BlockingIOError:
            return 0

    def end(self) -> None:
        if self._owned:
            self._sock.shutdown(1)

    def close(self) -> None:
        if self._owned:
            self._sock.close()


class SimulatedStream(ByteStream):
    """A byte stream over a simulated socket."""

    def __init__(self, sock: Socket, *, owned: bool) -> None:
        super().__init__(Reader(sock), Writer(sock, owned=owned))
        self.sock = sock
        self.is_plain = not owned

    @property
    def is_cut_off(self) -> bool:
        return self.sock.is_cut_off


def is_plain(stream: ByteStream) -> bool:
    """In place of the function of that name in `packetwire.aio.polled`: its methods never wait."""
    return isinstance(stream, SimulatedStream) and stream.is_plain


async def stream_pair(sock: Socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """asyncio's streams over a simulated socket, by asyncio's own transport."""
    loop: Any = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    waiter = loop.create_future()
    transport = loop._make_socket_transport(sock, protocol, waiter)
    try:
        await waiter
    except BaseException:  # as asyncio's own openers
        transport.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)
