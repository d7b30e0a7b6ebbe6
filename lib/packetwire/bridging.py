"""The parts that bridges of both faces share: bounds, clients that look idle, and the streams that are joined."""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from packetwire.addresses import (
    Address,
    StdioAddress,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
    connect_to,
    keep_alive,
)
from packetwire.admission import Admission, Client, has_unread, origin_of
from packetwire.errors import ConnectionEnded, LocalProtocolError
from packetwire.listeners import Listener, listen
from packetwire.relay import Relay
from packetwire.streams.bytestream import ByteStream, WriteHalf
from packetwire.streams.open import open_stream
from packetwire.streams.sockets import SocketReader, SocketWriter

if TYPE_CHECKING:
    from ssl import SSLContext

DEFAULT_MAX_CLIENTS = 128
"""Clients at a time. Each takes a handful of descriptors, of which a process usually has 1024."""
END_SECONDS = 3.0
"""Seconds for sessions to end when the bridge does."""
UNANSWERED_SECONDS = 10.0
"""Seconds after which a client counts as one that has sent nothing, if the far end has never sent it anything."""
IDLE_SECONDS = 10.0
"""Seconds without a byte behind the last one from the far end, after which a client counts as idle."""

ListenedAt = UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress

Opener = Callable[[], ByteStream]


logger = logging.getLogger("packetwire")


class BridgeAdmission(Admission["BridgedClient"]):
    """Each client that is turned away has a line in the log."""

    def turned_away(self, count: int) -> None:
        for _ in range(count):
            self.warn("full", "a client was turned away: %d are connected", len(self._guests))

    def session_failed(self, name: str, failure: Exception) -> None:
        """Log why a session has failed; of each kind of failure no more than a few each second."""
        counted = self._repetitions.happened(f"session {type(failure).__name__}", time.monotonic())
        if counted is not None:
            logger.warning("%s: %s%s", name, one_line(failure), counted)


class BridgedClient:
    """One client, as far as others want its place."""

    def __init__(self, name: str, client: Client | None) -> None:
        self.name = name
        self.origin = origin_of(client)
        self.came = time.monotonic()
        self.asked_to_leave: float | None = None
        self.over = False
        """Nothing is left to be done for it."""
        self.failure: Exception | None = None
        self._client = client
        self._relay: Relay | None = None
        self._stopped = False

    def stop(self) -> None:
        """Have it end soon. From any thread."""
        self._stopped = True  # first: the session looks at it when there is a relay
        if self._relay is not None:
            self._relay.stop()
        elif isinstance(self._client, socket.socket):
            with suppress(OSError):  # it shakes hands, or is gone already
                self._client.shutdown(socket.SHUT_RDWR)

    def give_way(self, cause: ConnectionEnded) -> None:
        """End it for somebody new. From any thread; does not wait."""
        self.asked_to_leave = time.monotonic()
        self.stop()

    @property
    def last_packet(self) -> float | None:
        """The time of the last byte that passed; None if the client has sent none, or was not answered for long."""
        relay = self._relay
        if relay is None or relay.last_forth is None:
            return None
        if relay.last_back is None and time.monotonic() - self.came > UNANSWERED_SECONDS:
            return None
        return max(relay.last_forth, relay.last_back or 0.0)

    @property
    def is_settled(self) -> bool:
        """True if it looks as if nothing were owed: the last byte came from the far end, a while ago."""
        relay = self._relay
        if relay is None or self.last_packet is None:
            return not has_unread(self._client)
        if relay.last_back is None or relay.last_back < (relay.last_forth or 0.0):
            return False
        return time.monotonic() - relay.last_back > IDLE_SECONDS


def one_line(error: Exception) -> str:
    """The text of an exception, in one line."""
    return " ".join(str(error).split())


def listener_at(address: Address, ssl_context: SSLContext | None, mode: int) -> Listener:
    """Listen at the first address of a bridge. Raises OSError, and `LocalProtocolError` without a certificate."""
    if isinstance(address, TlsAddress):
        if ssl_context is None:
            raise LocalProtocolError(f"{address} needs an ssl_context_a with a certificate")
        from packetwire.streams.tls import prepared

        prepared(ssl_context, server_side=True)
    assert isinstance(address, ListenedAt)
    return listen(address, mode=mode)


# what is relayed


def listens_at(address: Address) -> bool:
    """Tell if clients come to such an address, if it is the first one of a bridge."""
    return isinstance(address, ListenedAt)


def open_end(address: Address, ssl_context: SSLContext | None = None, server_name: str | None = None) -> ByteStream:
    """Connect. The stream passes the end of a direction on, as all of it is ours. Raises OSError."""
    made = connect_to(address, ssl_context=ssl_context, server_name=server_name)()
    if isinstance(address, StdioAddress):
        stream = ByteStream(made.reader, _StdioWriter(made.writer), made.close)
        stream.leading_octets = made.leading_octets
        return stream
    if isinstance(made, tuple) and isinstance(made[0], socket.socket):
        return _socket_stream(made[0])
    return open_stream(lambda: made)


def _socket_stream(sock: socket.socket) -> ByteStream:
    fd = sock.fileno()
    return ByteStream(SocketReader(fd), SocketWriter(fd, shutdown=True), sock.close)


def client_stream(
    client: socket.socket | ByteStream, address: Address, ssl_context: SSLContext | None
) -> ByteStream:
    """The stream of a client that was accepted. Raises OSError if its TLS handshake fails."""
    if isinstance(client, ByteStream):
        return client
    if isinstance(address, TcpAddress):
        with suppress(OSError):  # some systems refuse it when the client is gone already
            keep_alive(client, address.user_timeout)
    stream = _socket_stream(client)
    if ssl_context is None:
        return stream
    from packetwire.streams.tls import start_tls

    return start_tls(stream, ssl_context, server_side=True)


class _StdioWriter:
    """Standard output. At its end it leads nowhere, so that the other process sees the end."""

    def __init__(self, writer: WriteHalf) -> None:
        self._writer = writer
        self.fileno = writer.fileno
        self.try_write = writer.try_write
        self.close = writer.close

    @property
    def events(self) -> int:
        return self._writer.events

    def end(self) -> None:
        fd = self.fileno()
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as sock:
                sock.shutdown(socket.SHUT_WR)  # standard input may be the same socket
            return
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, fd, inheritable=False)
        finally:
            os.close(null)
