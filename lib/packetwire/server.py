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
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self

from packetwire._sync.accepting import AcceptLoop
from packetwire.addresses import (
    Address,
)
from packetwire.admission import is_exhaustion
from packetwire.core.settings import DEFAULT_DRAIN as DEFAULT_DRAIN
from packetwire.core.settings import DEFAULT_MAX_CONNECTIONS as DEFAULT_MAX_CONNECTIONS
from packetwire.core.settings import ServerSettings
from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.givensockets import GivenSockets
from packetwire.hosts.threads.signals import sleep_limit
from packetwire.listeners import Listener
from packetwire.memory import give_back
from packetwire.serversession import ServerSession, ServiceFactory
from packetwire.serversession import connection_of as connection_of
from packetwire.serving import (
    ABANDON_TIMEOUT,
    CUT_SECONDS,
    GIVE_BACK_SECONDS,
    LOOK_SECONDS,
    Prepared,
    ServerBase,
    see_to_budget,
)
from packetwire.streams import forking
from packetwire.streams.bytestream import ByteStream

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Server", "serve"]

logger = logging.getLogger("packetwire")

CLOSING_AT_ONCE = 8
"""Sessions that are closed at the same time, besides those that take long."""
LONG_CLOSING = 0.05
"""Seconds after which closing a session counts as taking long."""


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
    listener: GivenSockets | None = None,
    reuse_port: bool = False,
    replace: bool = False,
    inspect: str | os.PathLike[str] | None = None,
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

    With `max_connections` clients connected, one gives its place to the next: the oldest that has never completed a
    packet, else the one that has been idle for longest with nothing owed in either direction.
    If all have something to do, and none leaves within half a second, those that wait are turned away. Both are
    told that the connection has ended. `max_per_address` is a bound for the clients from one IP address, or from
    one IPv6 network of 64 bits; Unix sockets and ZMQ streams have none.

    Everybody who reaches a `tcp:` address can connect; a Unix socket is its owner's, or with `allow_uids` for the
    users with these numbers, which the system tells of whoever connects.

    `max_memory` is a bound for the bytes that all connections hold together: requests without a reply, replies that
    are not written, packets that are arriving. Past it, those that hold most begin nothing more; whoever of them
    takes no byte for 30 seconds is ended. By default it is 1 GiB, or a quarter of what this process may use, if
    that is less.

    So that one server follows another and no client is lost, see docs/howto/replace.md:

    - `listener` is a socket that listens already, its descriptor, or several of them, at `unix:`, `tcp:` or `tls:`.
      They are the server's from then on, which closes them in the end; their files are left alone. The port of the
      address is 0, or theirs. `packetwire.givensockets.inherited_sockets` has those that systemd passes.
    - `reuse_port` listens at a port at which other processes of the same user do so as well.
    - `replace` takes the place of another server at `unix:`, to which nobody comes any more.

    Instead of an address it can be a listener that `packetwire.listeners.listen` has made, and that is closed with
    the server: with `inherit=True` there, several processes that are forked later serve at one address.

    `inspect` is the path of a Unix socket, which only its owner can connect to, at which the server tells what it
    does: its clients, the requests under way, how long they take, what is held. See docs/howto/inspect.md.

    Raises `LocalProtocolError` for what is no such address, OSError if it can't be served on.
    """
    settings = ServerSettings(
        max_connections=max_connections,
        max_per_address=max_per_address,
        max_memory=max_memory,
        drain_timeout=drain_timeout,
    )
    prepared = Prepared(address, factory, settings, ssl_context, allow_uids, listener, reuse_port, replace, inspect)
    listening, client = prepared.listen()
    return Server(listening, factory, client, **prepared.options)


class Server(ServerBase[ServerSession]):
    """The server that `serve` returns: it runs until `stop`, or until the end of a `with` block.

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
        inspected_at: Listener | None = None,
    ) -> None:
        """`client` is there from the beginning; without listening sockets it is the only one."""
        super().__init__(
            listener,
            self._wake,
            max_connections=max_connections,
            drain_timeout=drain_timeout,
            ssl_context=ssl_context,
            max_per_address=max_per_address,
            allow_uids=allow_uids,
            max_memory=max_memory,
            inspected_at=inspected_at,
        )
        self._factory = factory
        self._is_over = False
        self._ended: deque[ServerSession] = deque()
        self._closing: dict[ServerSession, float] = {}  # with when that began
        self._over: deque[ServerSession] = deque()
        self._give_back_at: float | None = None
        self._stop_lock = threading.Lock()
        self._accepting = AcceptLoop(listener, self._admission)
        forking.register(self)
        self._thread = threading.Thread(target=self._run, name=f"packetwire-{self.address}", daemon=True)
        try:
            self._start_inspection()
            if client is not None:
                self._start_session(client)
            self._thread.start()
        except BaseException:
            listener.close()
            self._accepting.close()
            if self._inspection is not None:
                self._inspection.close()
            raise

    def _wake(self) -> None:
        self._accepting.wake()

    @property
    def connections(self) -> int:
        """The clients that are connected now."""
        return len(self._sessions) - len(self._over)

    def stop(self, drain_timeout: float | None = None) -> None:
        """Have it end; returns at once, from any thread, also from a handler. A second call can only hurry.

        No more clients are accepted, and no more requests begun. Requests that were begun have `drain_timeout`
        seconds to finish; handlers can make calls to their clients meanwhile. A client that has got its replies is
        told that this is the end. A client that is left when the time is over is cut off, and gets a
        `ConnectionEnded` that says so.
        """
        drain = self._drain_timeout if drain_timeout is None else seconds_of(drain_timeout, "drain_timeout")
        with self._stop_lock:
            self._stop_at(time.monotonic() + drain)
        self._accepting.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, at most `timeout` seconds: whether it has. Not to be called by a handler."""
        if sys.is_finalizing():  # Python ends, and the thread does not run any more
            forking.forget_threads()
            self._listener.close()
            if self._inspection is not None:
                self._inspection.forget()
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

    def __exit__(self, exc_type: type[BaseException] | None, *exc: object) -> None:
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
            while self._goes_on:
                self._wait_for_something(None)
        except Exception as error:
            self.failure = error
            logger.error("%s: accepting failed: %s", self.address, error)
        finally:
            self._take_last(self._start_session)
            self._listener.close()
            self._drain()
            if self._inspection is not None:
                self._inspection.close()
            self._accepting.close()
            self._is_over = True  # first this: whose client ends from now on closes by itself
            self._close_left_behind()

    def _wait_for_something(self, seconds: float | None) -> None:
        """Wait for a client, for the end of a session, for `stop`, or so many seconds, and see to it."""
        ready = self._accepting.wait(
            seconds,
            LOOK_SECONDS if self._budget.is_pressed or self._give_back_at is not None else None,
            LONG_CLOSING if self._ended else None,
        )
        over = self._forget_sessions()
        self._close_sessions()
        see_to_budget(self._budget, self._admission)
        self._give_back_in_time(over)
        if over:
            self._admission.freed()
        for session in over:
            if is_exhaustion(session.failure):
                self._admission.ran_out(session.failure)
        self._admission.admit_all(ready, self._start_session)

    def _give_back_in_time(self, over: list[ServerSession]) -> None:
        """Give memory back, a moment after the last of those who held much has gone."""
        if over and self._budget.was_used:
            self._give_back_at = time.monotonic() + GIVE_BACK_SECONDS
        elif self._give_back_at is not None and time.monotonic() >= self._give_back_at:
            self._give_back_at = None
            self._budget.was_used = False
            give_back()

    def _forget_sessions(self) -> list[ServerSession]:
        """Let go of the sessions that are over; returns them."""
        over = []
        while self._over:
            session = self._over.popleft()
            session.thread.join()  # it has nothing left to do
            self._sessions.discard(session)
            self._has_left(session)
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

    def _start_session(self, stream: socket.socket | ByteStream) -> None:
        session = ServerSession(
            stream,
            self._factory,
            self.address,
            self._client_has_ended,
            self._session_over,
            self._ssl_context,
            self._admission,
            self._budget,
            self._inspection,
        )
        self._sessions.add(session)
        try:
            session.thread.start()
        except BaseException:
            self._sessions.discard(session)
            stream.close()
            raise

    def _client_has_ended(self, session: ServerSession) -> None:
        """From any thread: nothing more is received from that client."""
        self._ended.append(session)
        self._accepting.wake()
        if self._is_over:
            self._close_left_behind()

    def _close_left_behind(self) -> None:
        """Without the accepting thread: close those whose service returns so late."""
        while self._ended:
            try:
                self._ended.popleft().start_closing()
            except (IndexError, RuntimeError):  # another thread has it; or there are no more threads
                return

    def _session_over(self, session: ServerSession) -> None:
        """In the thread of the session: the last thing that it does."""
        self._over.append(session)
        self._accepting.wake()

    def _drain(self) -> None:
        """Let every session end within the deadline, then anyhow."""
        if self._stop_deadline is None:
            self.stop()
        until = time.monotonic() + self._announce_end()
        while self._sessions and (left := self._time_left(time.monotonic(), until)) > 0:
            self._wait_for_something(left)
        for session in self._sessions:
            session.end(patient=False)
        while self._sessions and (left := self._time_left(time.monotonic())) > 0:
            self._wait_for_something(left)
        self._cut_off()

    def _cut_off(self) -> None:
        if not self._sessions:
            return
        logger.warning("%s: stopped with %d clients still connected", self.address, len(self._sessions))
        deadline = time.monotonic() + CUT_SECONDS
        for session in self._sessions:
            session.cut_off(orderly=time.monotonic() < deadline)
        while self._sessions and (left := deadline - time.monotonic()) > 0:
            self._wait_for_something(left)
        if self._sessions:
            logger.error("%s: %d services do not return; they are left behind", self.address, len(self._sessions))
