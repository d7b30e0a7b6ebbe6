# Made from _async/bridge.py by tools/unasync.py: change that one, and run it.
"""`Bridge`: bytes from one address to another and back, unchanged, whatever they mean.

Strategy. Clients are accepted, if the first address is one to listen at. Each client has a *session*, which
connects to the second address and runs a `Relay` between both; so whatever one client or its far end does, the
others go on.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from packetwire._sync.accepting import AcceptLoop
from packetwire._sync.sessions import Running, close, failure_of, made_by, relay_until_over
from packetwire.addresses import Address, parse_address
from packetwire.admission import Client
from packetwire.bridging import (
    DEFAULT_MAX_CLIENTS,
    END_SECONDS,
    BridgeAdmission,
    BridgedClient,
    Opener,
    client_stream,
    listener_at,
    listens_at,
    one_line,
    open_end,
)
from packetwire.capture import CapturedConnection, CaptureWriter
from packetwire.core.admission import Limits
from packetwire.core.settings import check_places
from packetwire.errors import PacketwireError
from packetwire.listeners import Listener
from packetwire.relay import Relay
from packetwire.serving import mode_for, users_of

if TYPE_CHECKING:
    from ssl import SSLContext

logger = logging.getLogger("packetwire")


class Bridge:
    """Joins two addresses until `stop`, or until its only client has ended.

        with Bridge("unix:/run/store.sock", "tcp:store.example:4000") as bridge:
            bridge.run()

    At `unix:`, `tcp:`, `tls:`, `zmq+router:` and `zmq+pair:` as the first address it listens, and each client
    gets a connection of its own to the second; with `connect_a`, and for `exec:`, `ssh:` and `stdio:`, the
    first address is one end of a single connection. `address` is where it is reached, with the real port.

    `capture` gets the bytes of both directions as they come: those of the client are "forth". `tls:` as the
    first address needs an `ssl_context_a` with a certificate, unless it is connected to; `ssl_context_b` and
    `server_name` are those of `connect_to` for the second one.

    With `max_clients` connected, one gives its place to the next: the oldest that has sent nothing, or came ten
    seconds ago and was never answered; else the one that has been idle for longest, for ten seconds at least since
    the far end sent something. `max_per_address` and `allow_uids` are those of `serve`.

    A client that is too many is closed, as is one for which there is no connection to the second address; the log
    says so.
    Raises `LocalProtocolError` for any other address, OSError if the first can't be listened at.
    """

    __module__ = "packetwire.bridge"  # where it is public

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
        """The error that ended the only connection, or the listening, if nobody stopped it."""
        check_places("max_clients", max_clients)
        check_places("max_per_address", max_per_address, optional=True)
        uids = users_of(self.a, allow_uids)
        self._capture = capture
        self._tls_a = ssl_context_a
        self._open_b = partial(open_end, self.b, ssl_context_b, server_name)
        self._sessions: set[_Session] = set()
        self._numbers = itertools.count(1)
        self._stopped = False
        self._listens = listens_at(self.a) and not connect_a
        self._listener = (
            listener_at(self.a, ssl_context_a, mode_for(uids)) if self._listens else Listener(self.a, [])
        )
        self._admission = BridgeAdmission(
            self._listener,
            self._sessions,
            Limits(max_clients, max_per_address, uids, name="max_clients"),
            farewell=b"",  # whatever they speak
        )
        self._accepting = AcceptLoop(self._listener, self._admission)

    @property
    def address(self) -> Address:
        """The first address, with the real port."""
        return self._listener.address

    @property
    def listens(self) -> bool:
        """True if clients come, False if there is a single connection."""
        return self._listens

    @property
    def clients(self) -> int:
        """How many there are now."""
        return len(self._sessions)

    def stop(self) -> None:
        """Have it end; returns at once, from any thread. Data that was read, and fits, is still written."""
        self._stopped = True
        self._accepting.wake()

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
            self._accepting.close()
            close(self._listener, f"packetwire-bridge-{self.address}")
            self._end_sessions()

    def close(self) -> None:
        """Let go of what is listened at, if it never ran. A second call does nothing."""
        self._accepting.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # all below runs where `run` does

    def _wait_for_something(self) -> None:
        """Wait for a client, for the end of a session, or for `stop`, and see to it."""
        ready = self._accepting.wait()
        if self._forget_sessions():
            self._admission.freed()
        if not self._stopped:
            self._admission.admit_all(ready, self._serve)

    def _serve(self, client: Client) -> None:
        self._start(partial(client_stream, client, self.a, self._tls_a), client)

    def _start(self, open_a: Opener, client: Client | None = None) -> None:
        number = next(self._numbers)
        session = _Session(
            f"{self.address}, client {number}" if self._listens else f"{self.a}, {self.b}",
            open_a,
            self._open_b,
            None if self._capture is None else partial(self._capture.begin, f"{self.address} {self.b}"),
            self._accepting.wake,
            client,
        )
        self._sessions.add(session)
        try:
            session.running.start()
        except BaseException:
            self._sessions.discard(session)
            raise

    def _forget_sessions(self) -> bool:
        """Let go of the sessions that are over; True if there were any."""
        over = [session for session in self._sessions if session.over]
        for session in over:
            session.running.join(None)  # it has nothing left to do
            self._sessions.discard(session)
            if session.failure is None or session.asked_to_leave is not None:
                continue
            if self._listens:
                self._admission.session_failed(session.name, session.failure)
            elif not self._stopped:
                self.failure = session.failure
        return bool(over)

    def _end_sessions(self) -> None:
        for session in self._sessions:
            session.stop()
        deadline = time.monotonic() + END_SECONDS
        left = 0
        for session in self._sessions:
            if not session.running.join(max(0.0, deadline - time.monotonic())):
                left += 1
                session.running.abandon()
        if left:
            logger.warning("%s: %d connections that are being made are left behind", self.address, left)
        self._forget_sessions()


class _Session(BridgedClient):
    """One client: both its streams, and what opens, relays and closes them."""

    def __init__(
        self,
        name: str,
        open_a: Opener,
        open_b: Opener,
        begin_capture: Callable[[], CapturedConnection] | None,
        on_over: Callable[[], None],
        client: Client | None,
    ) -> None:
        super().__init__(name, client)
        self._open_a = open_a
        self._open_b = open_b
        self._begin_capture = begin_capture
        self._on_over = on_over
        self.running = Running(self._run, f"packetwire-bridge-{name}")

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
        thread = f"packetwire-bridge-{self.name}"
        a = made_by(self._open_a, thread, self._client)
        opened.callback(close, a, thread)
        b = made_by(self._open_b, thread)
        opened.callback(close, b, thread)
        captured = None if self._begin_capture is None else self._begin_capture()
        relay = Relay(a, b, captured)
        opened.callback(relay.close)
        self._relay = relay
        if self._stopped:
            relay.stop()
        relay_until_over(relay, thread)
        failure = failure_of(relay, thread)
        if captured is not None:
            captured.over("" if failure is None else one_line(failure))
        if failure is not None and not self._stopped:
            raise failure
