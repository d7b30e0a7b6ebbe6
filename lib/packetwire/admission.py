"""Letting clients in: accepting from listening sockets, and turning away those for whom there is no place.

`core.admission` decides which client gives up its place.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeGuard, TypeVar

from packetwire.core.admission import AdmissionPolicy, Answer, Limits, Occupant, Repetitions
from packetwire.core.settings import check_places as check_places
from packetwire.errors import ConnectionEnded, LimitExceeded, RemoteProtocolError
from packetwire.listeners import BACKLOG, Acceptor, Listener
from packetwire.streams import forking
from packetwire.streams.credentials import peer_uid
from packetwire.streams.fds import check_descriptors_left
from packetwire.streams.zmqpeers import THE_END, PeerStream

if TYPE_CHECKING:
    from ssl import SSLContext

    from packetwire.core.budget import Budget
    from packetwire.core.stats import ConnectionStats
    from packetwire.inspection.endpoint import Inspection
    from packetwire.streams.bytestream import ByteStream
    from packetwire.watching import ConnectionWatch, Watch

logger = logging.getLogger("packetwire")

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
LISTENER_BROKEN = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP}
IPV6_PREFIX = 64
"""Bits that make two IPv6 addresses one: whoever has a network has all of its addresses."""

DESCRIPTORS_OF_A_CLIENT = 16
"""Descriptors that have to be free before a client is accepted: it would have to be hung up on without them."""

MOST_LAST = 4 * BACKLOG
"""Clients that are accepted at a socket at the end, even if more come all the time."""

Client = socket.socket | PeerStream


class Guest(Occupant, Protocol):
    """A client with a place."""

    @property
    def name(self) -> str:
        """Its name in the log."""
        ...

    def give_way(self, cause: ConnectionEnded) -> None:
        """Tell the client that this is the end, as far as that goes at once, and end."""
        ...


GuestT = TypeVar("GuestT", bound=Guest)


def is_exhaustion(error: BaseException | None) -> TypeGuard[OSError]:
    """Tell if the system is out of descriptors or memory, which is not the fault of one client."""
    return isinstance(error, OSError) and error.errno in EXHAUSTED


def _accept_from(listening: Acceptor) -> Client:
    if isinstance(listening, socket.socket):
        return forking.guarded_socket(lambda: listening.accept()[0])
    return listening.accept()[0]


class Admission(Generic[GuestT]):
    """Accepts clients as the policy decides, and tells those that have to leave."""

    def __init__(
        self,
        listener: Listener,
        guests: Collection[GuestT],
        limits: Limits,
        *,
        farewell: bytes = THE_END,
    ) -> None:
        """`guests` are those that have a place at the time; `farewell` is what is sent to who is turned away."""
        self._listener = listener
        self._guests = guests
        self._limits = limits
        self._farewell = farewell
        self._policy: AdmissionPolicy[GuestT] = AdmissionPolicy(guests, limits)
        self._repetitions = Repetitions()

    @property
    def paused_until(self) -> float | None:
        """The time at which accepting is resumed, if nobody leaves before; None while clients are accepted."""
        return self._policy.paused_until

    @property
    def is_paused(self) -> bool:
        """True while nobody is to be accepted."""
        return self._policy.is_paused(time.monotonic())

    def freed(self) -> None:
        """Somebody has left."""
        self._policy.freed()

    # one after the other

    def admit_all(self, ready: Iterable[Acceptor], start: Callable[[Client], object]) -> None:
        """Call `start` with a client from each of these places, if one waits there and has a place now.

        Raises OSError if nobody can be accepted any more.
        """
        for listening in ready:
            client = None if self.is_paused else self.admit(listening)
            if client is not None:
                self._starts(client, start)

    def admit_last(self, start: Callable[[Client], object]) -> None:
        """Call `start` with each client that waits, before the sockets are closed: else the system resets them.

        As all others are about to leave, they may be as many as places. Those who wait at a shared socket are left
        to whoever accepts there next.
        """
        if self._listener.is_shared:
            return
        places, turned_away = self._limits.most, 0
        for listening in self._listener.sockets:
            if not isinstance(listening, socket.socket):
                continue
            for client in self._all_waiting(listening):
                if not self._is_allowed(client):
                    continue
                if not places:
                    turned_away += 1
                    self._send_away(client)
                elif self._has_place_for(client):
                    places -= 1
                    if not self._starts(client, start):
                        return
        if turned_away:
            self.turned_away(turned_away)

    def _all_waiting(self, listening: socket.socket) -> Iterator[Client]:
        """The clients that wait there; of those who still come no endless number."""
        for _ in range(MOST_LAST):
            try:
                check_descriptors_left(DESCRIPTORS_OF_A_CLIENT)
                client = _accept_from(listening)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self.ran_out(error)
                if error.errno in EXHAUSTED | LISTENER_BROKEN:
                    return
                continue  # that one is gone already
            yield client

    def _starts(self, client: Client, start: Callable[[Client], object]) -> bool:
        """False if the system has no more threads; then the client is hung up on."""
        try:
            start(client)
        except RuntimeError as error:
            client.close()
            self.ran_out(error)
            return False
        return True

    def admit(self, listening: Acceptor) -> Client | None:
        """A client that waits there and has a place now, or None. Raises OSError as `admit_all` does."""
        verdict = self._policy.ask(time.monotonic())
        if verdict.answer is Answer.ADMIT:
            client = self.accept(listening)
            return client if client is None or self._has_place_for(client) else None
        if verdict.leaver is not None:
            self._ask_to_leave(verdict.leaver, verdict.reason)
        if verdict.answer is Answer.TURN_AWAY:
            self._turn_away_all()
        return None

    def accept(self, listening: Acceptor) -> Client | None:
        """A client that waits and may come in, or None. Raises OSError if nobody can be accepted any more."""
        try:
            check_descriptors_left(DESCRIPTORS_OF_A_CLIENT)
            client = _accept_from(listening)
        except OSError as error:
            if error.errno in LISTENER_BROKEN:
                raise
            if error.errno in EXHAUSTED:
                self.ran_out(error)
            return None  # else it is gone already, or what is wrong with it concerns nobody else
        self._policy.accepted()
        return client if self._is_allowed(client) else None

    def ran_out(self, error: Exception) -> None:
        """The system is out of something, which polling again at once would not change."""
        now = time.monotonic()
        if self._policy.ran_out(now):
            logger.error("%s: clients have to wait: %s", self._listener.address, error)
        for leaver in self._policy.make_room(now):
            self._ask_to_leave(leaver, f"the system has nothing left for others: {error}")

    # who may not come in

    def _is_allowed(self, client: Client) -> bool:
        if self._limits.allow_uids is None or not isinstance(client, socket.socket):
            return True
        try:
            uid = peer_uid(client)
        except OSError:
            uid = -1  # gone already
        if self._policy.allows_user(uid):
            return True
        self.warn("uid", "a client of user %d was turned away, who is not in allow_uids", uid)
        self._send_away(client)
        return False

    def _has_place_for(self, client: Client) -> bool:
        """Tell if there is a place for one more from that address; somebody else from there may give it up."""
        origin = None if self._limits.most_of_one_address is None else origin_of(client)
        verdict = self._policy.ask_for_address(origin, time.monotonic())
        if verdict.leaver is not None:
            self._ask_to_leave(verdict.leaver, verdict.reason)
        if verdict.answer is Answer.ADMIT:
            return True
        self.warn("address", "a client was turned away: %s", verdict.reason)
        self._send_away(client)
        return False

    def _ask_to_leave(self, leaver: GuestT, full: str) -> None:
        now = time.monotonic()
        last = leaver.last_packet
        done = (
            f"nothing for {now - leaver.came:.1f} s" if last is None else f"its last packet {now - last:.1f} s ago"
        )
        cause = ConnectionEnded(f"this client gave its place to another one: it had completed {done}, and {full}")
        self.warn(
            "place", "%s gives its place to a new client: it has completed %s, and %s", leaver.name, done, full
        )
        leaver.give_way(cause)

    def _turn_away_all(self) -> None:
        """Tell the clients that wait that there is no place for them, so that they do not hang."""
        turned_away = 0
        for listening in self._listener.sockets:
            # streams of ZMQ that nobody has accepted have no descriptors, and need none for this
            tell_next = getattr(listening, "turn_away", None)
            while tell_next is not None and turned_away < BACKLOG and tell_next():
                turned_away += 1
            while turned_away < BACKLOG and (client := self.accept(listening)):
                turned_away += 1
                self._send_away(client)
        if turned_away:
            self.turned_away(turned_away)

    def _send_away(self, client: Client) -> None:
        if isinstance(client, PeerStream):
            client.turn_away()
            return
        with client, suppress(OSError):  # it may be gone already
            if self._farewell:
                client.send(self._farewell, socket.MSG_DONTWAIT)

    # the log

    def turned_away(self, count: int) -> None:
        """Log that there was no place for so many."""
        logger.warning(
            "%s: %d clients turned away, as %s=%d are connected",
            self._listener.address,
            count,
            self._limits.name,
            self._limits.most,
        )

    def warn(self, kind: str, text: str, *args: object) -> None:
        """Log a WARNING, but of each kind no more than a few each second; the next one counts the others."""
        if (counted := self._repetitions.happened(kind, time.monotonic())) is not None:
            logger.warning("%s: " + text + "%s", self._listener.address, *args, counted)

    def failed(self, name: str, error: BaseException) -> None:
        """Log that a client could not be served; with where that happened, if it is a fault of the code."""
        if (counted := self._repetitions.happened(repr(type(error)), time.monotonic())) is not None:
            logger.error(
                "%s: a client could not be served: %r%s",
                self._listener.address,
                error,
                counted,
                exc_info=None if is_exhaustion(error) else error,
                extra={"client": name},
            )

    def ended(self, name: str, cause: ConnectionEnded | None) -> None:
        """Log why a connection has ended, if that was for something that its client did."""
        reason = None if cause is None else cause.__cause__
        if isinstance(reason, OSError):
            reason = reason.__cause__  # of a read that failed; TLS has bounds of its own
        if isinstance(reason, LimitExceeded | RemoteProtocolError):
            self.warn(f"ended {type(reason)}", "%s: its connection was ended: %s", name, cause)


class ServedConnection(Protocol):
    """The connection to a client, as far as it has to be known here."""

    _budget: Budget | None

    @property
    def _last_packet(self) -> float | None: ...

    @property
    def _is_settled(self) -> bool: ...

    @property
    def _held_bytes(self) -> int: ...

    def _abort(self, cause: ConnectionEnded) -> bool: ...

    def _be_watched(self, watch: Watch) -> ConnectionWatch: ...

    def stats(self) -> ConnectionStats: ...


ConnectionT = TypeVar("ConnectionT", bound=ServedConnection)


class ServedClient(Generic[ConnectionT]):
    """A guest of a server, who has a connection. How that is served is up to the kinds of servers."""

    def __init__(
        self,
        stream: socket.socket | ByteStream,
        ssl_context: SSLContext | None,
        admission: Admission[Any],
        budget: Budget,
        inspection: Inspection | None,
    ) -> None:
        self.failure: BaseException | None = None
        self.name = name_of(stream)
        self.origin = origin_of(stream)
        self.came = time.monotonic()
        self.asked_to_leave: float | None = None
        self._admission = admission
        self._budget = budget
        self._inspection = inspection
        self._stream = stream
        self._ssl_context = ssl_context
        self._conn: ConnectionT | None = None
        self.watch: ConnectionWatch | None = None
        """Notes what its handlers do, if the server is inspected."""
        self._ending = False
        self._patient = False
        """True while a client that has said nothing yet is listened to before it is told of the end."""
        self._shaking_hands = ssl_context is not None

    @property
    def last_packet(self) -> float | None:
        """The time at which its last packet was complete; None if it has never completed one."""
        return None if self._conn is None else self._conn._last_packet

    @property
    def state(self) -> str:
        """In a word: "connecting", "open", "draining", or "leaving" if it gives its place to another."""
        if self.asked_to_leave is not None:
            return "leaving"
        return "draining" if self._ending else "connecting" if self._conn is None else "open"

    @property
    def held_bytes(self) -> int:
        """Bytes that are held for it."""
        return 0 if self._conn is None else self._conn._held_bytes

    def stats(self) -> ConnectionStats | None:
        """The counters of its connection; None while it has none."""
        return None if self._conn is None else self._conn.stats()

    @property
    def is_settled(self) -> bool:
        """True if nothing is owed to it, or by it."""
        return (self._conn is None or self._conn._is_settled) and not has_unread(self._stream)

    def give_way(self, cause: ConnectionEnded) -> None:
        """End it now for somebody new. From any thread, if its connection may be used there; does not wait."""
        self.asked_to_leave = time.monotonic()
        self._ending = True
        if self._conn is None or not self._conn._abort(cause):
            if isinstance(self._stream, socket.socket) and self._ssl_context is None:
                with suppress(OSError):  # it may be gone already
                    self._stream.send(THE_END, socket.MSG_DONTWAIT)
            self._shut_down()

    def _takes(self, conn: ConnectionT) -> None:
        """It has this connection, which is about to be opened."""
        self._conn = conn
        conn._budget = self._budget
        if self._inspection is not None:
            self.watch = conn._be_watched(self._inspection.watch)

    def _shut_down(self) -> None:
        if isinstance(self._stream, socket.socket):
            with suppress(OSError):  # it may be gone already
                self._stream.shutdown(socket.SHUT_RDWR)
        elif isinstance(self._stream, PeerStream):
            self._stream.hang_up()


def name_of(client: object) -> str:
    """The name of a client, for the log."""
    with suppress(OSError):
        if isinstance(client, PeerStream):
            return f"client {client.identity.hex() or 'of the PAIR'}"
        if isinstance(client, socket.socket):
            if client.family == socket.AF_UNIX:
                return f"client of user {peer_uid(client)}"
            host, port, *_ = client.getpeername()
            return f"client [{host}]:{port}" if ":" in host else f"client {host}:{port}"
    return "client"


def has_unread(client: object) -> bool:
    """Tell if something has come from it that nobody has had the time to read."""
    if not isinstance(client, socket.socket):
        return False
    poller = select.poll()
    try:
        poller.register(client.fileno(), select.POLLIN)
    except ValueError:
        return False  # closed meanwhile
    return bool(poller.poll(0))


def origin_of(client: object) -> str | None:
    """The address of a client, or its network where one client has many addresses; None if it has none."""
    try:
        address = ipaddress.ip_address(_host_of(client).partition("%")[0])
    except (OSError, ValueError):
        return None  # gone already, or of another family
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))


def _host_of(client: object) -> str:
    if isinstance(client, socket.socket) and client.family in (socket.AF_INET, socket.AF_INET6):
        return str(client.getpeername()[0])
    return ""
