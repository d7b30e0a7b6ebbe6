"""The stream to the far end, made anew for each check: connected, started, or accepted."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from packetwire.listeners import Listener
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.sockets import SocketReader, SocketWriter


class FarEnds(Protocol):
    """Makes streams."""

    def open(self) -> ByteStream:
        """A new stream. Raises OSError."""
        ...

    def close(self) -> None:
        """Release what all of them shared."""
        ...


class Connecting:
    """Streams that are made by a callable `recv_send`, such as `connect_to` returns."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    def open(self) -> ByteStream:
        """Connect, or start a child."""
        made = self._connect()
        return made if isinstance(made, ByteStream) else over_socket(made[0])

    def close(self) -> None:
        """Nothing is shared."""


class Accepting:
    """Streams of clients that connect to us, one for each check."""

    def __init__(self, listener: Listener, seconds: float) -> None:
        self._listener = listener
        self._seconds = seconds

    def open(self) -> ByteStream:
        """The next client. Raises TimeoutError if none comes."""
        poller = select.poll()
        for sock in self._listener.sockets:
            poller.register(sock, select.POLLIN)
        deadline = time.monotonic() + self._seconds
        while (left := deadline - time.monotonic()) > 0:
            poller.poll(left * 1000)
            for acceptor in self._listener.sockets:
                try:
                    accepted, _ = acceptor.accept()
                except BlockingIOError:
                    continue
                return accepted if isinstance(accepted, ByteStream) else over_socket(accepted)
        raise TimeoutError(f"{self._listener.address}: no client came within {self._seconds:g} s")

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()


def over_socket(sock: socket.socket) -> ByteStream:
    """The stream over a socket of ours, whose directions end one by one."""
    fd = sock.fileno()
    return ByteStream(SocketReader(fd), SocketWriter(fd, shutdown=True), partial(forking.close_socket, sock))
