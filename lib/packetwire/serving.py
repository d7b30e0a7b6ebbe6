"""The parts that servers for threads and for asyncio share: their options, checked, and whom they have accepted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import inf
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from packetwire.addresses import (
    Address,
    StdioAddress,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
    parse_address,
)
from packetwire.admission import Admission, Client, Guest
from packetwire.core.admission import Limits
from packetwire.core.budget import STALL_SECONDS, Budget
from packetwire.core.settings import ServerSettings
from packetwire.errors import LimitExceeded, LocalProtocolError, ended_by
from packetwire.givensockets import GivenSockets, check_given, listener_on
from packetwire.listeners import OPEN_SOCKET_MODE, SOCKET_MODE, Listener, check_listenable, check_ways, listen
from packetwire.memory import default_max_memory
from packetwire.streams.bytestream import ByteStream
from packetwire.streams.credentials import checked_uids
from packetwire.streams.zmqpeers import THE_END

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.core.stats import ConnectionStats
    from packetwire.inspection.endpoint import Inspection
    from packetwire.inspection.snapshot import ServerState
    from packetwire.watching import ConnectionWatch

ABANDON_TIMEOUT = 1.0
"""The same when the block of a `with` was left by an exception."""
CUT_SECONDS = 2.0
"""Seconds for sessions to end that were cut off."""
LOOK_SECONDS = 0.1
"""Seconds between two looks at who holds how much, while that is too much."""
GIVE_BACK_SECONDS = 0.5
"""Seconds after the end of a client that held much until memory is given back to the system."""

FIRST_WORD_SECONDS = 0.5
"""Seconds that a client has, from when it came, to say something before it is told that the server stops."""


class Session(Guest, Protocol):
    """A client that was accepted, as far as it has to be known here."""

    watch: ConnectionWatch | None

    @property
    def state(self) -> str:
        """In a word: "connecting", "open", "draining" or "leaving"."""
        ...

    @property
    def held_bytes(self) -> int:
        """Bytes that are held for it."""
        ...

    def stats(self) -> ConnectionStats | None:
        """The counters of its connection, if that is open."""
        ...

    def end(self, *, patient: bool) -> None:
        """Tell it of the end; one that has said nothing yet may do so before, if `patient`, until the next call."""
        ...


SessionT = TypeVar("SessionT", bound=Session)


class Prepared:
    """The place to serve at, and the options of the server there, all checked."""

    def __init__(
        self,
        address: str | Address | Listener,
        factory: object,
        settings: ServerSettings,
        ssl_context: SSLContext | None,
        allow_uids: Iterable[int] | None,
        listener: GivenSockets | None = None,
        reuse_port: bool = False,
        replace: bool = False,
        inspect: str | os.PathLike[str] | None = None,
    ) -> None:
        """Raises `LocalProtocolError` or TypeError for what makes no sense."""
        self._given = address if isinstance(address, Listener) else None
        if isinstance(address, Listener):
            address = address.address
        elif isinstance(address, str):
            address = parse_address(address)
        self.address: Address = address
        check_listenable(address)
        check_factory(factory)
        check_context(address, ssl_context)
        check_ways(address, reuse_port=reuse_port, replace=replace)
        if self._given is not None and (listener is not None or reuse_port or replace):
            raise LocalProtocolError(f"{address} is listened at already: there is no other way to do so")
        if listener is not None:
            check_given(address, listener)
            if reuse_port or replace:
                raise LocalProtocolError(f"{address}: with a listener neither reuse_port nor replace makes sense")
        self._sockets = listener
        self._ways = {"reuse_port": reuse_port, "replace": replace}
        self._uids = users_of(address, allow_uids)
        self._inspect = None if inspect is None else UnixAddress(os.fsdecode(inspect))
        """The place at which it is inspected. One that follows another server takes that over from it as well."""
        self._follows = bool(replace or reuse_port or listener is not None)
        self.options: dict[str, Any] = {
            "ssl_context": ssl_context,
            "allow_uids": self._uids,
            **asdict(settings),
        }

    @property
    def may_wait(self) -> bool:
        """True if `listen` may have to wait for something."""
        if self._inspect is not None:
            return True
        return self._given is None and self._sockets is None and not isinstance(self.address, StdioAddress)

    def listen(self) -> tuple[Listener, ByteStream | None]:
        """Listen there; at `stdio:` there is only the one client, which is returned. Raises OSError."""
        inspected_at = None
        if self._inspect is not None:
            inspected_at = listen(self._inspect, replace=self._follows)
            self.options["inspected_at"] = inspected_at
        try:
            return self._listen()
        except BaseException:
            if inspected_at is not None:
                inspected_at.close()
            raise

    def let_go(self, made: tuple[Listener, ByteStream | None]) -> None:
        """Nobody wants what was made."""
        made[0].close()
        if "inspected_at" in self.options:
            self.options["inspected_at"].close()

    def _listen(self) -> tuple[Listener, ByteStream | None]:
        if self._given is not None:
            return self._given, None
        if self._sockets is not None:
            assert isinstance(self.address, UnixAddress | TcpAddress)
            return listener_on(self.address, self._sockets), None
        if isinstance(self.address, UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress):
            return listen(self.address, mode=mode_for(self._uids), **self._ways), None
        return Listener(self.address, []), cast(StdioAddress, self.address).open(0)


class ServerBase(Generic[SessionT]):
    """A server: where it listens, the clients that it has accepted, and what these may hold."""

    def __init__(
        self,
        listener: Listener,
        on_pressure: Callable[[], object],
        *,
        max_connections: int,
        drain_timeout: float,
        ssl_context: SSLContext | None,
        max_per_address: int | None,
        allow_uids: frozenset[int] | None,
        max_memory: int | None,
        inspected_at: Listener | None,
    ) -> None:
        """`on_pressure` is called, from any thread, when the clients hold too much."""
        self.address = listener.address
        self.failure: BaseException | None = None
        self._listener = listener
        self._drain_timeout = drain_timeout
        self._ssl_context = ssl_context
        self._sessions: set[SessionT] = set()
        self._max_connections = max_connections
        self._stop_deadline: float | None = None
        self._budget = Budget(
            default_max_memory() if max_memory is None else max_memory, max_connections, on_pressure
        )
        self._admission: Admission[SessionT] = Admission(
            listener,
            self._sessions,
            Limits(max_connections, max_per_address, allow_uids),
            farewell=THE_END if ssl_context is None else b"",
        )

        self._inspection: Inspection | None = None
        if inspected_at is not None:
            from packetwire.inspection.endpoint import Inspection  # for who wants that

            self._inspection = Inspection(inspected_at, self._state)

    # inspection

    def _start_inspection(self) -> None:
        """Raises RuntimeError if the system has no more threads."""
        if self._inspection is not None:
            try:
                self._inspection.start()
            except BaseException:
                self._inspection.close()
                raise

    def _has_left(self, session: SessionT) -> None:
        """A client is not one of the sessions any more."""
        if self._inspection is not None:
            self._inspection.has_left(session.stats())

    def _state(self) -> ServerState:
        """In the thread of the inspection."""
        from packetwire.inspection.snapshot import ServerState

        deadline = self._stop_deadline
        return ServerState(
            address=str(self.address),
            clients=list(self._sessions),
            max_connections=self._max_connections,
            max_memory=self._budget.limit,
            drain_left=None if deadline is None else max(0.0, deadline - time.monotonic()),
        )

    def stats(self) -> list[tuple[str, ConnectionStats]]:
        """The name of each client that is connected now, and the `conn.stats()` of its connection."""
        found = [(session.name, session.stats()) for session in list(self._sessions)]
        return [(name, stats) for name, stats in found if stats is not None]

    @property
    def _goes_on(self) -> bool:
        """True until it is stopped, or its only client has left."""
        return self._stop_deadline is None and bool(self._listener.sockets or self._sessions)

    # the end

    def _take_last(self, start: Callable[[Client], object]) -> None:
        """Accept those who wait, before the sockets are closed: they are served as the others are."""
        self._listener.hold_off()
        self._admission.admit_last(start)

    def _announce_end(self) -> float:
        """Tell all clients that this is the end. Returns the seconds that those have who have only just come.

        They may be about to ask, and can be asked not to when they have said something.
        """
        now, most = time.monotonic(), 0.0
        for session in self._sessions:
            left = session.came + FIRST_WORD_SECONDS - now
            session.end(patient=left > 0)
            most = max(most, left)
        return most

    def _time_left(self, now: float, until: float = inf) -> float:
        """Seconds until then, or until those that are left are cut off."""
        return min(until, self._stop_deadline or now) - now

    def _stop_at(self, deadline: float) -> None:
        """Have it end by then; a deadline that was set before is not put off."""
        if self._stop_deadline is None or deadline < self._stop_deadline:
            self._stop_deadline = deadline


def see_to_budget(budget: Budget, admission: Admission[Any]) -> None:
    """While connections are held: end those that take nothing, and let go on who may."""
    if not budget.is_pressed:
        return
    for debtor in budget.look(time.monotonic()):
        text = (
            f"its client has taken nothing for {STALL_SECONDS:g} s of {debtor.owed_bytes} bytes, and all clients "
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
