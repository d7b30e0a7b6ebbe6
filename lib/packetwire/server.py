"""`serve`: a connection for each client that comes to an address.

Strategy. One thread accepts, polling the listening sockets and a wake-up, so it can always be told to stop.
Each client is a *session*. A thread of its own shakes hands if that is TLS, makes the service, and opens it;
another one closes it, when nothing more is received. So whatever a client or its service does, the others and the
accepting thread go on, and between the two no thread of the session waits. Sessions that are over are joined and
forgotten by the accepting thread, which is the only one that knows them all. It also starts the threads that
close, few at a time, so that those who leave together do not hold up who comes; and it sees to the end, when it
has stopped accepting.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from packetwire.addresses import (
    Address,
    StdioAddress,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
    keep_alive,
    parse_address,
)
from packetwire.admission import Admission, ServedClient, is_exhaustion
from packetwire.connection import PacketConnection
from packetwire.core.budget import STALL_SECONDS, Budget
from packetwire.core.settings import DEFAULT_DRAIN as DEFAULT_DRAIN
from packetwire.core.settings import DEFAULT_MAX_CONNECTIONS as DEFAULT_MAX_CONNECTIONS
from packetwire.core.settings import ServerSettings
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, PeerClosed, ended_by
from packetwire.hosts.threads.signals import sleep_limit
from packetwire.listeners import OPEN_SOCKET_MODE, SOCKET_MODE, Acceptor, Listener, check_listenable, listen
from packetwire.memory import default_max_memory, give_back
from packetwire.service import HasPacketConnection
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.credentials import checked_uids
from packetwire.streams.open import PacketConnectionRecvSend
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqpeers import THE_END

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Server", "serve"]

logger = logging.getLogger("packetwire")

ABANDON_TIMEOUT = 1.0
"""The same when the block of a `with` was left by an exception."""
CUT_SECONDS = 2.0
"""Seconds for sessions to end that were cut off."""
LOOK_SECONDS = 0.1
"""Seconds between two looks at who holds how much, while that is too much."""
GIVE_BACK_SECONDS = 0.5
"""Seconds after the end of a client that held much until memory is given back to the system."""
PAUSE_SECONDS = 0.5
"""Seconds without accepting, when there is no place or the system ran out of something."""
CLOSING_AT_ONCE = 8
"""Sessions that are closed at the same time, besides those that take long."""
LONG_CLOSING = 0.05
"""Seconds after which closing a session counts as taking long."""

Service = HasPacketConnection | PacketConnection
ServiceFactory = Callable[[PacketConnectionRecvSend], Service]


def serve(
    address: str | Address | Listener,
    factory: ServiceFactory,
    *,
    max_connections: int = DEFAULT_MAX_CONNECTIONS,
    drain_timeout: float = DEFAULT_DRAIN,
    ssl_context: SSLContext | None = None,
    max_per_address: int | None = None,
    allow_uids: Iterable[int] | None = None,
    max_memory: int | None = None,
) -> Server:
    """Serve at `address`; returns as soon as clients can connect.

        with serve("unix:/run/store.sock", Store) as server:
            server.wait()

    `factory(recv_send)` makes a `HasPacketConnection` or a `PacketConnection` for each client, in a thread
    of that client's; it is opened there, and closed in another thread when the client has ended. `unix:`,
    `tcp:`, `tls:`, `zmq+router:` and `zmq+pair:` listen, `stdio:` is one client: the process that started this
    one, and the server ends with it.

    `tls:` needs an `ssl_context` with a certificate; see `packetwire.streams.tls.server_context`. There
    `recv_send` is a `TlsStream`, whose `ssl_object.getpeercert()` tells who the client is, if clients need a
    certificate.

    When `max_connections` clients are connected and one more comes, one gives its place to it: who has never
    completed a packet, the oldest first, else who has been idle for longest with nothing owed in either direction.
    If all have something to do, and none leaves within half a second, those that wait are turned away. Both are
    told that the connection has ended. `max_per_address` is a bound for the clients from one IP address, or from
    one IPv6 network of 64 bits; Unix sockets and ZMQ streams have none.

    Whoever reaches a `tcp:` address can connect; a Unix socket is its owner's, or with `allow_uids` for the users
    with these numbers, which the system tells of whoever connects.

    `max_memory` is a bound for the bytes that all connections hold together: requests without a reply, replies that
    are not written, packets that are arriving. Past it, those that hold most begin nothing more; whoever of them
    takes no byte for 30 seconds is ended. By default it is 1 GiB, or a quarter of what this process may use, if
    that is less.

    Instead of an address it can be a listener that `packetwire.listeners.listen` has made, and that is closed with
    the server: with `inherit=True` there, several processes that are forked later serve at one address.

    Raises `LocalProtocolError` for what is no such address, OSError if it can't be served on.
    """
    given = address if isinstance(address, Listener) else None
    if isinstance(address, Listener):
        address = address.address
    elif isinstance(address, str):
        address = parse_address(address)
    check_listenable(address)
    check_factory(factory)
    settings = ServerSettings(
        max_connections=max_connections,
        max_per_address=max_per_address,
        max_memory=max_memory,
        drain_timeout=drain_timeout,
    )
    check_context(address, ssl_context)
    uids = users_of(address, allow_uids)
    stdio: ByteStream | None = None
    if given is not None:
        listener = given
    elif isinstance(address, UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress):
        listener = listen(address, mode=mode_for(uids))
    else:
        stdio = StdioAddress().open(0)
        listener = Listener(address, [])
    return Server(
        listener,
        factory,
        stdio,
        ssl_context=ssl_context,
        allow_uids=uids,
        **asdict(settings),
    )


def see_to_budget(budget: Budget, admission: Admission[Any]) -> None:
    """While connections are held: end those that take nothing, and let go on who may."""
    if not budget.is_pressed:
        return
    for debtor in budget.look(time.monotonic()):
        text = (
            f"its client has taken nothing for {STALL_SECONDS:g} s of {debtor.owed_bytes} octets, and all clients "
            f"together hold more than max_memory={budget.limit}"
        )
        admission.warn("memory", "%s: its connection was ended: %s", getattr(debtor, "name", "a client"), text)
        debtor.abort(ended_by(LimitExceeded(text), text))
    for debtor in budget.debtors:
        debtor.resume()


def users_of(address: Address, allow_uids: Iterable[int] | None) -> frozenset[int] | None:
    """`allow_uids` as a set. Raises `LocalProtocolError` or TypeError if it makes no sense for that address."""
    if allow_uids is None:
        return None
    if not isinstance(address, UnixAddress):
        raise LocalProtocolError(f"{address} has no use for allow_uids: only unix: has")
    return checked_uids(allow_uids)


def mode_for(uids: frozenset[int] | None) -> int:
    """The mode of a Unix socket for those users."""
    return SOCKET_MODE if uids is None or uids <= {os.geteuid()} else OPEN_SOCKET_MODE


def check_factory(factory: object) -> None:
    if not callable(factory):
        raise TypeError(
            f"factory must be a class or another callable, which is given a stream, got {factory!r:.100}"
        )


def check_context(address: Address, ssl_context: SSLContext | None) -> None:
    if isinstance(address, TlsAddress) != (ssl_context is not None):
        need = "needs an ssl_context with a certificate" if ssl_context is None else "has no use for an ssl_context"
        raise LocalProtocolError(f"{address} {need}")
    if ssl_context is not None:
        from packetwire.streams.tls import prepared

        prepared(ssl_context, server_side=True)


class Server:
    """What `serve` returns: it runs until `stop`, or until the end of a `with` block.

    `address` is where it is reached, with the real port; `failure` is what ended it, if nobody stopped it.
    """

    def __init__(
        self,
        listener: Listener,
        factory: ServiceFactory,
        client: ByteStream | None = None,
        *,
        max_connections: int,
        drain_timeout: float,
        ssl_context: SSLContext | None = None,
        max_per_address: int | None = None,
        allow_uids: frozenset[int] | None = None,
        max_memory: int | None = None,
    ) -> None:
        """`client` is there from the beginning; without listening sockets it is the only one."""
        self.address = listener.address
        self.failure: BaseException | None = None
        self._listener = listener
        self._factory = factory
        self._drain_timeout = drain_timeout
        self._ssl_context = ssl_context
        self._sessions: set[_Session] = set()
        self._is_over = False
        self._ended: deque[_Session] = deque()
        self._closing: dict[_Session, float] = {}  # with when that began
        self._over: deque[_Session] = deque()
        self._wakeup = Wakeup()
        self._budget = Budget(
            default_max_memory() if max_memory is None else max_memory, max_connections, self._wakeup.set
        )
        self._give_back_at: float | None = None
        self._stop_lock = threading.Lock()
        self._stop_deadline: float | None = None
        self._paused_until: float | None = None
        self._admission: Admission[_Session] = Admission(
            listener,
            self._pause,
            self._ask_again,
            self._sessions,
            max_connections,
            most_of_one_address=max_per_address,
            allow_uids=allow_uids,
            farewell=THE_END if ssl_context is None else b"",
        )
        forking.register(self)
        self._thread = threading.Thread(target=self._run, name=f"packetwire-{self.address}", daemon=True)
        try:
            if client is not None:
                self._start_session(client)
            self._thread.start()
        except BaseException:
            listener.close()
            self._wakeup.close()
            raise

    @property
    def connections(self) -> int:
        """The clients that are connected now."""
        return len(self._sessions) - len(self._over)

    def stop(self, drain_timeout: float | None = None) -> None:
        """Have it end; returns at once, from any thread, also from a handler. A second call can only hurry.

        No more clients are accepted, and no more requests begun. What was begun has `drain_timeout` seconds to
        finish; handlers can make calls to their clients meanwhile. A client that has got its replies is told that
        this is the end. Who is left when the time is over is cut off, and gets a `ConnectionEnded` that says so.
        """
        drain = self._drain_timeout if drain_timeout is None else seconds_of(drain_timeout, "drain_timeout")
        deadline = time.monotonic() + drain
        with self._stop_lock:
            if self._stop_deadline is None or deadline < self._stop_deadline:
                self._stop_deadline = deadline
        self._wakeup.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds: whether it has. Not to be called by a handler."""
        if sys.is_finalizing():  # Python ends, and the thread does not run any more
            forking.forget_threads()
            self._listener.close()
            return True
        limit = time_limit(timeout)
        deadline = None if limit is None else time.monotonic() + limit
        for naps in itertools.count():
            if not self._thread.is_alive():
                break
            left = None if deadline is None else deadline - time.monotonic()
            self._thread.join(sleep_limit(threading.get_ident(), left, naps))
            if left is not None and left <= 0:
                break
        return not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(None if exc_type is None else min(ABANDON_TIMEOUT, self._drain_timeout))
        self.wait()

    def after_fork(self) -> None:
        """In the child of a fork: the server is the parent's; here it has ended."""
        self._stop_lock = threading.Lock()
        self._sessions.clear()
        self._ended.clear()
        self._closing.clear()
        self._over.clear()

    # all below runs in the accepting thread

    def _run(self) -> None:
        try:
            while self._stop_deadline is None and (self._listener.sockets or self._sessions):
                self._wait_for_something(None)
        except Exception as error:
            self.failure = error
            logger.error("%s: accepting failed: %s", self.address, error)
        finally:
            self._listener.close()
            self._drain()
            self._wakeup.close()
            self._is_over = True  # first this: whose client ends from now on closes by itself
            self._close_left_behind()

    def _wait_for_something(self, deadline: float | None) -> None:
        """Wait for a client, for the end of a session, for `stop`, or the deadline, and see to it."""
        paused = self._paused_until
        sockets = [] if paused else self._listener.sockets
        poller = select.poll()
        poller.register(self._wakeup.fileno(), select.POLLIN)
        for sock in sockets:
            poller.register(sock.fileno(), select.POLLIN)
        until = paused or deadline
        left = None if until is None else max(0.0, until - time.monotonic()) * 1000
        if self._budget.is_pressed or self._give_back_at is not None:
            left = LOOK_SECONDS * 1000 if left is None else min(left, LOOK_SECONDS * 1000)
        if self._ended:
            left = LONG_CLOSING * 1000 if left is None else min(left, LONG_CLOSING * 1000)
        ready = {fd for fd, _ in poller.poll(left)}
        self._wakeup.clear()
        over = self._forget_sessions()
        self._close_sessions()
        see_to_budget(self._budget, self._admission)
        self._give_back_in_time(over)
        if over:
            self._admission.freed()
        if over or (paused and time.monotonic() >= paused):
            self._paused_until = None
        for session in over:
            if is_exhaustion(session.failure):
                self._admission.ran_out(session.failure)
        for sock in sockets:
            if self._paused_until is None and sock.fileno() in ready:
                self._admit(sock)

    def _give_back_in_time(self, over: list[_Session]) -> None:
        """Give memory back, a moment after the last of those who held much has gone."""
        if over and self._budget.was_used:
            self._give_back_at = time.monotonic() + GIVE_BACK_SECONDS
        elif self._give_back_at is not None and time.monotonic() >= self._give_back_at:
            self._give_back_at = None
            self._budget.was_used = False
            give_back()

    def _forget_sessions(self) -> list[_Session]:
        """Let go of the sessions that are over; returns them."""
        over = []
        while self._over:
            session = self._over.popleft()
            session.thread.join()  # it has nothing left to do
            self._sessions.discard(session)
            self._closing.pop(session, None)
            over.append(session)
            if not self._listener.sockets and self._stop_deadline is None:
                self.failure = session.failure
        return over

    def _close_sessions(self) -> None:
        """Start to close those whose clients have ended, but few at a time."""
        now = time.monotonic()
        at_once = sum(now - began < LONG_CLOSING for began in self._closing.values())
        while self._ended and at_once < CLOSING_AT_ONCE:
            session = self._ended[0]
            session.thread.join()  # it has nothing left to do
            try:
                session.start_closing()
            except RuntimeError as error:  # the system has no more threads; it is tried again
                self._admission.ran_out(error)
                return
            self._ended.popleft()
            self._closing[session] = now
            at_once += 1

    def _admit(self, listening: Acceptor) -> None:
        client = self._admission.admit(listening, PAUSE_SECONDS)
        if client is not None:
            try:
                self._start_session(client)
            except RuntimeError as error:  # the system has no more threads
                self._admission.ran_out(error)

    def _pause(self) -> None:
        """Accept nobody until a client leaves, or for a moment."""
        self._ask_again(PAUSE_SECONDS)

    def _ask_again(self, seconds: float) -> None:
        self._paused_until = time.monotonic() + seconds

    def _start_session(self, stream: socket.socket | ByteStream) -> None:
        session = _Session(
            stream,
            self._factory,
            self.address,
            self._client_has_ended,
            self._session_over,
            self._ssl_context,
            self._admission,
            self._budget,
        )
        self._sessions.add(session)
        try:
            session.thread.start()
        except BaseException:
            self._sessions.discard(session)
            stream.close()
            raise

    def _client_has_ended(self, session: _Session) -> None:
        """From any thread: nothing more is received from that client."""
        self._ended.append(session)
        self._wakeup.set()
        if self._is_over:
            self._close_left_behind()

    def _close_left_behind(self) -> None:
        """When the accepting thread is gone: close those whose service returns so late."""
        while self._ended:
            try:
                self._ended.popleft().start_closing()
            except (IndexError, RuntimeError):  # another thread has it; or there are no more threads
                return

    def _session_over(self, session: _Session) -> None:
        """In the thread of the session: the last thing that it does."""
        self._over.append(session)
        self._wakeup.set()

    def _drain(self) -> None:
        """Let every session end within the deadline, then anyhow."""
        self._paused_until = None
        if self._stop_deadline is None:
            self.stop()
        for session in self._sessions:
            session.end()
        while self._sessions and self._stop_deadline is not None and time.monotonic() < self._stop_deadline:
            self._wait_for_something(self._stop_deadline)
        self._cut_off()

    def _cut_off(self) -> None:
        if not self._sessions:
            return
        logger.warning("%s: stopped with %d clients still connected", self.address, len(self._sessions))
        deadline = time.monotonic() + CUT_SECONDS
        for session in self._sessions:
            session.cut_off(orderly=time.monotonic() < deadline)
        while self._sessions and time.monotonic() < deadline:
            self._wait_for_something(deadline)
        if self._sessions:
            logger.error("%s: %d services do not return; they are left behind", self.address, len(self._sessions))


class _Session(ServedClient[PacketConnection]):
    """One client and its service. `thread` is the one that opens it, and later the one that closes it."""

    def __init__(
        self,
        stream: socket.socket | ByteStream,
        factory: ServiceFactory,
        address: Address,
        on_ended: Callable[[_Session], None],
        on_over: Callable[[_Session], None],
        ssl_context: SSLContext | None,
        admission: Admission[_Session],
        budget: Budget,
    ) -> None:
        super().__init__(stream, ssl_context, admission, budget)
        self._factory = factory
        self._address = address
        self._on_ended = on_ended
        self._on_over = on_over
        self._shaking_hands = ssl_context is not None
        self._tls: ByteStream | None = None
        self._service: Service | None = None
        self.thread = self._make_thread(self._open)

    def _make_thread(self, target: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=target, name=f"packetwire-{self._address}-client", daemon=True)

    def start_closing(self) -> None:
        """When its client has ended. Raises RuntimeError if the system has no more threads."""
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
        self._conn = conn = connection_of(service)
        conn._budget = self._budget
        service.__enter__()
        self._service = service
        if self._ending:
            _announce_end(conn)
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

    def end(self) -> None:
        """Have the client told that this is the end, behind the replies that it is owed. From any thread."""
        self._ending = True  # first: the session looks at it when it has opened the connection
        if self._conn is not None:
            _announce_end(self._conn)
        elif self._shaking_hands:
            self._shut_down()

    def cut_off(self, *, orderly: bool) -> None:
        """End it now; if `orderly`, what is owed is refused first, which can take a moment. From any thread."""
        conn = self._conn
        while orderly and conn is not None and conn.is_open():
            conn.close(0)
        self._shut_down()


def connection_of(service: Any) -> PacketConnection:
    """The connection of what a factory made. Raises TypeError for something else."""
    conn = getattr(service, "conn", service)
    if not isinstance(conn, PacketConnection):
        raise TypeError(
            f"the factory must return a HasPacketConnection or a PacketConnection, got {service!r:.100}"
        )
    return conn


def _announce_end(conn: PacketConnection) -> None:
    with suppress(ConnectionEnded):  # it may not be open yet, or have ended by itself
        conn._wind_down()
