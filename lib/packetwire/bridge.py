"""`Bridge`: octets from one address to another and back, unchanged, whatever they mean.

Strategy. One thread accepts clients, if the first address is one to listen at. Each client has a thread of its
own, a *session*, which connects to the second address and runs a `Relay` between both streams; so whatever one
client or its far end does, the others go on.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

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
    parse_address,
)
from packetwire.admission import Admission, Client, has_unread, origin_of
from packetwire.capture import CapturedConnection, CaptureWriter
from packetwire.core.settings import check_places
from packetwire.errors import ConnectionEnded, LocalProtocolError, PacketwireError
from packetwire.listeners import Acceptor, Listener, listen
from packetwire.relay import Relay
from packetwire.server import mode_for, users_of
from packetwire.streams.bytestream import ByteStream, WriteHalf
from packetwire.streams.open import open_stream
from packetwire.streams.sockets import SocketReader, SocketWriter
from packetwire.streams.wakeup import Wakeup

if TYPE_CHECKING:
    from ssl import SSLContext

__all__ = ["Bridge"]

logger = logging.getLogger("packetwire")

DEFAULT_MAX_CLIENTS = 128
"""Clients at a time. Each takes a handful of descriptors, of which a process usually has 1024."""
END_SECONDS = 3.0
"""Seconds for sessions to end when the bridge does."""
PAUSE_SECONDS = 0.5
"""Seconds without accepting, when there is no place or the system ran out of something."""
UNANSWERED_SECONDS = 10.0
"""Seconds after which a client counts as one that has sent nothing, if the far end has never sent it anything."""
IDLE_SECONDS = 10.0
"""Seconds without an octet behind the last one from the far end, after which a client counts as idle."""

_ListenedAt = UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress

Opener = Callable[[], ByteStream]


class Bridge:
    """Joins two addresses until `stop`, or until its only client has ended.

        with Bridge("unix:/run/store.sock", "tcp:store.example:4000") as bridge:
            bridge.run()

    At `unix:`, `tcp:`, `tls:`, `zmq+router:` and `zmq+pair:` as the first address it listens, and each client
    gets a connection of its own to the second; with `connect_a`, and for `exec:`, `ssh:` and `stdio:`, the
    first address is one end of a single connection. `address` is where it is reached, with the real port.

    `capture` gets the octets of both directions as they come: those of the client are "forth". `tls:` as the
    first address needs an `ssl_context_a` with a certificate, unless it is connected to; `ssl_context_b` and
    `server_name` are those of `connect_to` for the second one.

    When `max_clients` are connected and one more comes, one gives its place to it: who has sent nothing, or came
    ten seconds ago and was never answered, the oldest first; else who has been idle for longest, for ten seconds at
    least since the far end sent something. `max_per_address` and `allow_uids` are those of `serve`.

    Whoever is too many, or for whom there is no connection to the second address, is closed, which is logged.
    Raises `LocalProtocolError` for what is no such address, OSError if the first can't be listened at.
    """

    def __init__(
        self,
        a: str | Address,
        b: str | Address,
        *,
        connect_a: bool = False,
        max_clients: int = DEFAULT_MAX_CLIENTS,
        capture: CaptureWriter | None = None,
        ssl_context_a: SSLContext | None = None,
        ssl_context_b: SSLContext | None = None,
        server_name: str | None = None,
        max_per_address: int | None = None,
        allow_uids: Iterable[int] | None = None,
    ) -> None:
        self.a = parse_address(a) if isinstance(a, str) else a
        self.b = parse_address(b) if isinstance(b, str) else b
        self.failure: Exception | None = None
        """What ended the only connection, or the listening, if nobody stopped it."""
        check_places("max_clients", max_clients)
        check_places("max_per_address", max_per_address, optional=True)
        uids = users_of(self.a, allow_uids)
        self._capture = capture
        self._tls_a = ssl_context_a
        self._open_b = partial(open_end, self.b, ssl_context_b, server_name)
        self._sessions: set[_Session] = set()
        self._numbers = itertools.count(1)
        self._stopped = False
        self._paused_until: float | None = None
        self._listener = Listener(self.a, [])
        self._listens = listens_at(self.a) and not connect_a
        if self._listens:
            self._listener = self._listen(mode_for(uids))
        self._admission = _Admission(
            self._listener,
            self._pause,
            self._ask_again,
            self._sessions,
            max_clients,
            most_of_one_address=max_per_address,
            allow_uids=uids,
            farewell=b"",  # whatever they speak
            what="max_clients",
        )
        self._wakeup = Wakeup()

    def _listen(self, mode: int) -> Listener:
        if isinstance(self.a, TlsAddress):
            if self._tls_a is None:
                raise LocalProtocolError(f"{self.a} needs an ssl_context_a with a certificate")
            from packetwire.streams.tls import prepared

            prepared(self._tls_a, server_side=True)
        assert isinstance(self.a, _ListenedAt)
        return listen(self.a, mode=mode)

    @property
    def address(self) -> Address:
        """The first address, with the real port."""
        return self._listener.address

    @property
    def listens(self) -> bool:
        """Whether clients come, or there is a single connection."""
        return self._listens

    @property
    def clients(self) -> int:
        """How many there are now."""
        return len(self._sessions)

    def stop(self) -> None:
        """Have it end; returns at once, from any thread. What was read, and fits, is still written."""
        self._stopped = True
        self._wakeup.set()

    def run(self) -> None:
        """Relay until `stop`, or until the only connection is over. To be called once."""
        try:
            if not self._listens:
                self._start(partial(open_end, self.a, self._tls_a))
            while not self._stopped and (self._listens or self._sessions):
                self._wait_for_something()
        except OSError as error:
            self.failure = error
            logger.error("%s: accepting failed: %s", self.address, error)
        finally:
            self._listener.close()
            self._end_sessions()

    def close(self) -> None:
        """Let go of what is listened at, if it never ran. A second call does nothing."""
        self._listener.close()
        self._wakeup.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # all below runs in the thread of `run`

    def _wait_for_something(self) -> None:
        """Wait for a client, for the end of a session, or for `stop`, and see to it."""
        poller = select.poll()
        poller.register(self._wakeup.fileno(), select.POLLIN)
        paused = self._paused_until
        sockets = [] if paused else self._listener.sockets
        for sock in sockets:
            poller.register(sock.fileno(), select.POLLIN)
        ready = {fd for fd, _ in poller.poll(max(0.0, paused - time.monotonic()) * 1000 if paused else None)}
        self._wakeup.clear()
        if self._forget_sessions():
            self._admission.freed()
            self._paused_until = None
        elif paused and time.monotonic() >= paused:
            self._paused_until = None
        for sock in sockets:
            if sock.fileno() in ready and not (self._stopped or self._paused_until):
                self._admit(sock)

    def _admit(self, listening: Acceptor) -> None:
        client = self._admission.admit(listening, PAUSE_SECONDS)
        if client is None:
            return
        try:
            self._start(partial(_client_stream, client, self.a, self._tls_a), client)
        except RuntimeError as error:  # the system has no more threads
            client.close()
            self._admission.ran_out(error)

    def _pause(self) -> None:
        """Accept nobody until a client leaves, or for a moment."""
        self._ask_again(PAUSE_SECONDS)

    def _ask_again(self, seconds: float) -> None:
        self._paused_until = time.monotonic() + seconds

    def _start(self, open_a: Opener, client: Client | None = None) -> None:
        number = next(self._numbers)
        session = _Session(
            f"{self.address}, client {number}" if self._listens else f"{self.a}, {self.b}",
            open_a,
            self._open_b,
            None if self._capture is None else partial(self._capture.begin, f"{self.address} {self.b}"),
            self._wakeup.set,
            client,
        )
        self._sessions.add(session)
        try:
            session.thread.start()
        except BaseException:
            self._sessions.discard(session)
            raise

    def _forget_sessions(self) -> bool:
        """Let go of the sessions that are over; whether there were any."""
        over = [session for session in self._sessions if session.over]
        for session in over:
            session.thread.join()  # it has nothing left to do
            self._sessions.discard(session)
            if session.failure is None or session.asked_to_leave is not None:
                continue
            if self._listens:
                logger.warning("%s: %s", session.name, _one_line(session.failure))
            elif not self._stopped:
                self.failure = session.failure
        return bool(over)

    def _end_sessions(self) -> None:
        for session in self._sessions:
            session.stop()
        deadline = time.monotonic() + END_SECONDS
        for session in self._sessions:
            session.thread.join(max(0.0, deadline - time.monotonic()))
        left = sum(session.thread.is_alive() for session in self._sessions)
        if left:
            logger.warning("%s: %d connections that are being made are left behind", self.address, left)
        self._forget_sessions()


class _Admission(Admission["_Session"]):
    def turned_away(self, count: int) -> None:
        for _ in range(count):
            self.warn("full", "a client was turned away: %d are connected", len(self._guests))


class _Session:
    """One client: both its streams, and the thread in which they are opened, relayed and closed."""

    def __init__(
        self,
        name: str,
        open_a: Opener,
        open_b: Opener,
        begin_capture: Callable[[], CapturedConnection] | None,
        on_over: Callable[[], None],
        client: Client | None,
    ) -> None:
        self.name = name
        self.origin = origin_of(client)
        self.came = time.monotonic()
        self.asked_to_leave: float | None = None
        self._client = client
        self.over = False
        self.failure: Exception | None = None
        self._open_a = open_a
        self._open_b = open_b
        self._begin_capture = begin_capture
        self._on_over = on_over
        self._relay: Relay | None = None
        self._stopped = False
        self.thread = threading.Thread(target=self._run, name=f"packetwire-bridge-{name}", daemon=True)

    def stop(self) -> None:
        """From any thread."""
        self._stopped = True  # first: the session looks at it when there is a relay
        if self._relay is not None:
            self._relay.stop()
        elif isinstance(self._client, socket.socket):
            with suppress(OSError):  # it shakes hands, or is gone already
                self._client.shutdown(socket.SHUT_RDWR)

    @property
    def last_packet(self) -> float | None:
        """When the last octet passed; None if the client has sent none, or was not answered for long."""
        relay = self._relay
        if relay is None or relay.last_forth is None:
            return None
        if relay.last_back is None and time.monotonic() - self.came > UNANSWERED_SECONDS:
            return None
        return max(relay.last_forth, relay.last_back or 0.0)

    @property
    def is_settled(self) -> bool:
        """Whether it looks as if nothing were owed: the last octet came from the far end, a while ago."""
        relay = self._relay
        if relay is None or self.last_packet is None:
            return not has_unread(self._client)
        if relay.last_back is None or relay.last_back < (relay.last_forth or 0.0):
            return False
        return time.monotonic() - relay.last_back > IDLE_SECONDS

    def give_way(self, cause: ConnectionEnded) -> None:
        """End it for somebody new. From any thread; does not wait."""
        self.asked_to_leave = time.monotonic()
        self.stop()

    def _run(self) -> None:
        try:
            with ExitStack() as opened:
                try:
                    self._connect_and_relay(opened)
                except (OSError, PacketwireError) as error:
                    # before the client sees its end: then somebody may stop the bridge
                    if not self._stopped:
                        self.failure = error
        except (OSError, PacketwireError) as error:
            if not self._stopped:
                self.failure = error
        except Exception as error:
            self.failure = error
            logger.exception("%s: the relay failed", self.name)
        finally:
            self.over = True
            self._on_over()

    def _connect_and_relay(self, opened: ExitStack) -> None:
        a = self._open_a()
        opened.callback(a.close)
        b = self._open_b()
        opened.callback(b.close)
        captured = None if self._begin_capture is None else self._begin_capture()
        relay = Relay(a, b, captured)
        opened.callback(relay.close)
        self._relay = relay
        if self._stopped:
            relay.stop()
        relay.run()
        failure = relay.failure()
        if captured is not None:
            captured.over("" if failure is None else _one_line(failure))
        if failure is not None and not self._stopped:
            raise failure


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# what is relayed


def listens_at(address: Address) -> bool:
    """Whether clients come to such an address, if it is the first one of a bridge."""
    return isinstance(address, _ListenedAt)


def open_end(address: Address, ssl_context: SSLContext | None = None, server_name: str | None = None) -> ByteStream:
    """Connect. What comes of it passes the end of a direction on, as all of it is ours. Raises OSError."""
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


def _client_stream(
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
