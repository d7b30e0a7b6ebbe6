"""One client of a server, and the service that is made for it, in threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from packetwire.addresses import Address, TcpAddress, keep_alive
from packetwire.admission import Admission, ServedClient
from packetwire.connection import PacketConnection
from packetwire.core.budget import Budget
from packetwire.errors import ConnectionEnded, PeerClosed
from packetwire.service import HasPacketConnection
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.open import PacketConnectionRecvSend

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.inspection.endpoint import Inspection

Service = HasPacketConnection | PacketConnection
ServiceFactory = Callable[[PacketConnectionRecvSend], Service]


class ServerSession(ServedClient[PacketConnection]):
    """One client and its service. `thread` is the one that opens it, and later the one that closes it."""

    def __init__(
        self,
        stream: socket.socket | ByteStream,
        factory: ServiceFactory,
        address: Address,
        on_ended: Callable[[ServerSession], None],
        on_over: Callable[[ServerSession], None],
        ssl_context: SSLContext | None,
        admission: Admission[ServerSession],
        budget: Budget,
        inspection: Inspection | None,
    ) -> None:
        super().__init__(stream, ssl_context, admission, budget, inspection)
        self._factory = factory
        self._address = address
        self._on_ended = on_ended
        self._on_over = on_over
        self._tls: ByteStream | None = None
        self._service: Service | None = None
        self.thread = self._make_thread(self._open)

    def _make_thread(self, target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, name=f"packetwire-{self._address}-client", daemon=True)

    def start_closing(self) -> None:
        """Begin to close it, as its client has ended. Raises RuntimeError if the system has no more threads."""
        thread = self._make_thread(self._close)
        thread.start()
        self.thread = thread

    def _open(self) -> None:
        try:
            if isinstance(self._address, TcpAddress) and isinstance(self._stream, socket.socket):
                with suppress(OSError):  # some systems refuse it when the client is gone already
                    keep_alive(self._stream, self._address.user_timeout)
            stream = self._stream if self._ssl_context is None else self._shake_hands(self._ssl_context)
            if stream is not None:
                self._open_service(stream)
        except BaseException as error:
            self._has_failed(error)
        if self._service is None:
            self._let_go()

    def _shake_hands(self, ssl_context: SSLContext) -> ByteStream | None:
        from packetwire.streams.tls import start_tls

        try:
            self._tls = start_tls(self._stream, ssl_context, server_side=True)
        except OSError as error:
            if self.asked_to_leave is None:
                self._admission.warn("handshake", "a client was not let in: %s (%s)", error, self.name)
        finally:
            self._shaking_hands = False
        return self._tls

    def _open_service(self, stream: socket.socket | ByteStream) -> None:
        service = self._factory(stream)
        conn = connection_of(service)
        self._takes(conn)
        service.__enter__()
        self._service = service
        if self._ending:
            _announce_end(conn, self._patient)
        conn._when_all_received(partial(self._on_ended, self))

    def _close(self) -> None:
        service, conn = self._service, self._conn
        assert service is not None
        assert conn is not None
        try:
            if conn.is_open() and not isinstance(conn.ended, PeerClosed):
                self.failure = conn.ended
                self._admission.ended(self.name, conn.ended)
            service.__exit__(None, None, None)
        except BaseException as error:
            self._has_failed(error)
        self._let_go()

    def _has_failed(self, error: BaseException) -> None:
        self.failure = error
        self._admission.failed(self.name, error)
        if self._tls is not None:
            self._tls.end_write()  # without that it would look as if someone had cut it off

    def _let_go(self) -> None:
        try:
            if self._tls is not None:
                self._tls.close()
            self._stream.close()
        finally:
            self._on_over(self)

    def end(self, *, patient: bool) -> None:
        """Have the client told that this is the end, behind the replies that it is owed. From any thread.

        If `patient`, one that has said nothing yet may do so before, until the next call; or finish shaking hands.
        """
        self._patient = patient  # first: the session looks at both when it has opened the connection
        self._ending = True
        if self._conn is not None:
            _announce_end(self._conn, patient)
        elif self._shaking_hands and not patient:
            self._shut_down()

    def cut_off(self, *, orderly: bool) -> None:
        """End it now; if `orderly`, what is owed is refused first, which can take a moment. From any thread."""
        conn = self._conn
        while orderly and conn is not None and conn.is_open():
            conn.close(0)
        self._shut_down()


def connection_of(service: object) -> PacketConnection:
    """The connection of what a factory made. Raises TypeError for something else."""
    conn = getattr(service, "conn", service)
    if not isinstance(conn, PacketConnection):
        raise TypeError(
            f"the factory must return a HasPacketConnection or a PacketConnection, got {service!r:.100}"
        )
    return conn


def _announce_end(conn: PacketConnection, patient: bool) -> None:
    with suppress(ConnectionEnded):  # it may not be open yet, or have ended by itself
        conn._wind_down(patient=patient)
