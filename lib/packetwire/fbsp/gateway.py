"""A gateway: clients of FBSP over ZMQ in front of a service on packet streams, and the other way round.

    with Gateway("tcp://127.0.0.1:5000", "ssh:store.example clock-service") as gateway:
        gateway.wait()

Strategy: each client has a session with the service of its own, over a connection of its own, so routes, tokens and
the end of each are nobody else's. The rules are in `passage`, the threads that bring messages from one side to the
other in `passing`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

from packetwire.addresses import Address, connect_to, parse_address
from packetwire.connection import PacketConnection
from packetwire.core.settings import check_places
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.errors import LocalProtocolError, PacketwireError, RequestTimeout
from packetwire.fbsp.constants import ErrorCode, MsgType
from packetwire.fbsp.identity import this_peer
from packetwire.fbsp.messages import NO_TOKEN
from packetwire.fbsp.passage import BackProtocol, ClientSession, FrontProtocol
from packetwire.fbsp.passing import ClientPassage, PassingChannel
from packetwire.messaging.errors import StopError
from packetwire.messaging.shared import SharedChannel
from packetwire.server import Server, serve
from packetwire.streams import forking

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.messaging.zmq import RouterChannel

__all__ = ["Gateway"]

logger = logging.getLogger("packetwire")

DEFAULT_MAX_CLIENTS: Final = 128
"""Clients at a time. Each takes a thread and a connection to the service, which may be a process."""
DEFAULT_MAX_WAITING: Final = 64 << 20
"""Bytes of one client that the service has not taken."""
DEFAULT_CONNECT_TIMEOUT: Final = 10.0
"""Seconds for connecting to the service."""
IDLE_SECONDS: Final = 10.0
"""Seconds without a message, and without a request under way, after which a client makes room for somebody new."""
CONNECTIONS_PER_CLIENT: Final = 2
"""Connections to the service, for each client that there may be, of those also who have left before it was made."""
END_SECONDS: Final = 3.0
"""Seconds for the connections to the service to end when the gateway does."""
CLOSE_TIMEOUT: Final = 1.0
"""Seconds for the service to end a packet connection, too."""


def is_endpoint(text: str) -> bool:
    """True for a ZMQ endpoint, such as tcp://127.0.0.1:5000: no address of a packet stream begins like that."""
    transport, separator, _ = text.partition("://")
    return bool(separator) and ":" not in transport


class Gateway:
    """Clients at `a`, each with a session of its own with the service at `b`: open until `close`.

    Either is a ZMQ endpoint, tcp://HOST:PORT or ipc://PATH, or an address of packet streams. At `a` it listens, as
    `serve` does; it connects to `b`, as `connect_to` does, when a client says HELLO, for up to `timeout` seconds.
    `address` is where clients find it, with the real port.

    With `max_clients` connected, one that has been idle for ten seconds, without a request under way, gives its
    place to the next; if there is none, that one is told SERVICE_UNAVAILABLE, or on a packet stream turned away. So
    is one for whom `b` cannot be reached. A client of whom `max_waiting` bytes wait for the service is given up.
    `ssl_context_a` is the certificate for a `tls:` address at `a`, `max_per_address` and `allow_uids` are those of
    `serve`; `ssl_context_b` and `server_name` are those of `connect_to`.

    It is a context manager that closes. Raises `LocalProtocolError` for an address that it cannot use, OSError if
    it cannot listen at `a`.
    """

    def __init__(
        self,
        a: str | Address,
        b: str | Address,
        *,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        max_waiting: int = DEFAULT_MAX_WAITING,
        timeout: float = DEFAULT_CONNECT_TIMEOUT,
        ssl_context_a: SSLContext | None = None,
        ssl_context_b: SSLContext | None = None,
        server_name: str | None = None,
        max_per_address: int | None = None,
        allow_uids: Iterable[int] | None = None,
    ) -> None:
        check_places("max_clients", max_clients)
        check_places("max_waiting", max_waiting)
        self.a, self.b = _parsed(a), _parsed(b)
        self.max_waiting = max_waiting
        self._timeout = seconds_of(timeout)
        self._tls_b: dict[str, Any] = {"ssl_context": ssl_context_b, "server_name": server_name}
        tls_a: dict[str, Any] = {"ssl_context": ssl_context_a}
        admission: dict[str, Any] = {"max_per_address": max_per_address, "allow_uids": allow_uids}
        _check_unused(self.a, {"ssl_context_a": ssl_context_a, **admission})
        _check_unused(self.b, {"ssl_context_b": ssl_context_b, "server_name": server_name})
        if not isinstance(self.b, str):
            connect_to(self.b, timeout=self._timeout, **self._tls_b)  # so that what is wrong with it is told here
        self._stopped = threading.Event()
        self._forked = False
        self._passages: set[ClientPassage] = set()
        self._channels: WeakSet[SharedChannel] = WeakSet()
        self.protocol = FrontProtocol(self._begin, this_peer(), self._make_room, max_sessions=max_clients)
        self._router: RouterChannel | None = None
        self._server: Server | None = None
        forking.register(self)
        if isinstance(self.a, str):
            self._router = self._bind(self.a)
        else:
            self._server = serve(self.a, self._serve_on, max_connections=max_clients, **tls_a, **admission)

    def _bind(self, endpoint: str) -> RouterChannel:
        from packetwire.messaging.zmq import RouterChannel  # which says what is missing, if something is

        router = RouterChannel(self.protocol)

        import zmq

        from packetwire.zmq.sockets import os_error

        try:
            router.bind(endpoint)
            router.start()
        except BaseException as error:
            router.close()
            if isinstance(error, zmq.ZMQError):
                raise os_error(error, endpoint) from error
            raise
        self._channels.add(router)
        return router

    def _serve_on(self, recv_send: Any) -> PacketConnection:
        conn = PacketConnection(recv_send)
        self._channels.add(PassingChannel(self.protocol, conn))
        return conn

    @property
    def address(self) -> str | Address:
        """The place where clients find it, with the real port."""
        listening = self._server or self._router
        return self.a if listening is None else listening.address  # the client of stdio: is there at once

    @property
    def clients(self) -> int:
        """How many have a session, or are about to get one."""
        return len(self._passages)

    @property
    def failure(self) -> BaseException | None:
        """The reason, if listening has failed."""
        return None if self._server is None else self._server.failure

    def stop(self) -> None:
        """Say CLOSE to all clients, and have `wait` return. From any thread; a second call does nothing more."""
        if self._forked:
            return
        self._stopped.set()  # first: from now on there are no new ones
        for channel in list(self._channels):
            for session in list(channel.sessions.values()):
                self.close_client(channel, session)
        if self._server is not None:
            self._server.stop(END_SECONDS)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `stop`, or the end of the only client of `stdio:`; False after `timeout` seconds."""
        if self._server is not None:
            return self._server.wait(timeout)
        return self._stopped.wait(time_limit(timeout))

    def close(self) -> None:
        """End all sessions, and all connections. A second call does nothing."""
        if self._forked:
            return
        self.stop()
        if self._router is not None:
            self._router.close()
        deadline = time.monotonic() + END_SECONDS
        for passage in list(self._passages):
            passage.thread.join(max(0.0, deadline - time.monotonic()))
        if self._passages:
            logger.warning("%s: %d connections are left behind", self.address, len(self._passages))
        if self._server is not None:
            self._server.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In the child of a fork: the gateway is the parent's."""
        self._forked = True
        self._stopped.set()
        self._passages = set()

    # what the protocol calls, under the lock of a channel

    def _begin(self, channel: SharedChannel, session: ClientSession) -> ClientPassage:
        if self._stopped.is_set():
            raise StopError("the gateway is closed", code=ErrorCode.SERVICE_UNAVAILABLE)
        if len(self._passages) >= CONNECTIONS_PER_CLIENT * self.protocol.max_sessions:
            raise StopError("too many connections are being made or ended", code=ErrorCode.SERVICE_UNAVAILABLE)
        passage = ClientPassage(self, channel, session)
        self._passages.add(passage)
        try:
            passage.thread.start()
        except BaseException:  # the system has no more of them
            self._passages.discard(passage)
            raise
        return passage

    def _make_room(self, channel: SharedChannel) -> None:
        idle = [
            each
            for each in list(self._passages)
            if each.channel is channel and not each.session.requests and each.idle_seconds() > IDLE_SECONDS
        ]
        if idle:
            longest = max(idle, key=ClientPassage.idle_seconds)
            self.close_client(channel, longest.session)

    # what passages call

    def close_client(self, channel: SharedChannel, session: Any) -> None:
        """Say CLOSE, and forget the session."""
        close = self.protocol.create_message_for(MsgType.CLOSE, session.hello_token or NO_TOKEN)
        try:
            channel.send_soon(close, session)
        except PacketwireError:
            logger.debug("a client was not told of the end", exc_info=True)
        channel.discard_session(session)

    def over(self, passage: ClientPassage) -> None:
        """A passage has nothing left to do."""
        self._passages.discard(passage)

    def connect(self, protocol: BackProtocol) -> tuple[SharedChannel, Callable[[], object]]:
        """A channel to the service, with a session, and what closes it."""
        if isinstance(self.b, str):
            return self._connect_zmq(self.b, protocol)
        conn = PacketConnection(
            connect_to(self.b, timeout=self._timeout, **self._tls_b), str(self.b), close_timeout=CLOSE_TIMEOUT
        )
        channel = PassingChannel(protocol, conn)
        conn.open()
        channel.connect()
        return channel, partial(_close_both, channel, conn)

    def _connect_zmq(self, endpoint: str, protocol: BackProtocol) -> tuple[SharedChannel, Callable[[], object]]:
        from packetwire.messaging.zmq import DealerChannel

        dealer = DealerChannel(protocol)
        try:
            dealer.connect(endpoint)
            dealer.start()
            if not dealer.wait_linked(self._timeout):
                raise RequestTimeout(f"no link to {endpoint} within {self._timeout} s")
        except BaseException:
            dealer.close()
            raise
        return dealer, dealer.close


def _close_both(channel: SharedChannel, conn: PacketConnection) -> None:
    conn.close()  # first: what still comes meanwhile is no fault
    channel.close()


def _parsed(address: str | Address) -> str | Address:
    """The address, or the ZMQ endpoint as it is."""
    if isinstance(address, str) and not is_endpoint(address):
        return parse_address(address)
    return address


def _check_unused(address: str | Address, options: dict[str, object]) -> None:
    for name, value in options.items():
        if value is not None and isinstance(address, str):
            raise LocalProtocolError(f"{address} has no use for {name}: it is a ZMQ endpoint")
