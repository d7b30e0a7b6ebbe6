"""Who is let in: accepting from listening sockets, and turning away those for whom there is no place.

Who gives up a place is decided in `core.admission`.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import select
import socket
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeGuard, TypeVar

from packetwire.core.admission import (
    Answer,
    Occupant,
    Places,
    Repetitions,
    is_leaving,
    longest_silent,
    who_gives_way,
)
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
    from packetwire.streams.bytestream import ByteStream

logger = logging.getLogger("packetwire")

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
LISTENER_BROKEN = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP}
RETRY_SECONDS = 0.05
"""Seconds until somebody who waits for a place asks again, if nobody leaves before."""
LEAVING_SECONDS = 0.5
"""Seconds for who was asked to leave to be gone, before others are asked."""
LEAVING_AT_ONCE = 4
"""Who are asked at a time: one has fewer descriptors than have to be free for another one."""
IPV6_PREFIX = 64
"""Bits that make two IPv6 addresses one: whoever has a network has all of its addresses."""

DESCRIPTORS_OF_A_CLIENT = 16
"""Descriptors that have to be free before a client is accepted: it would have to be hung up on without them."""

Client = socket.socket | PeerStream


class Guest(Occupant, Protocol):
    """A client with a place."""

    @property
    def name(self) -> str:
        """Who it is, for the log."""
        ...

    @property
    def origin(self) -> str | None:
        """The address that it comes from, if clients from there are counted."""
        ...

    def give_way(self, cause: ConnectionEnded) -> None:
        """Tell the client that this is the end, as far as that goes at once, and end."""
        ...


GuestT = TypeVar("GuestT", bound=Guest)


def is_exhaustion(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether the system is out of descriptors or memory, which is not the fault of one client."""
    return isinstance(error, OSError) and error.errno in EXHAUSTED


def _accept_from(listening: Acceptor) -> Client:
    if isinstance(listening, socket.socket):
        return forking.guarded_socket(lambda: listening.accept()[0])
    return listening.accept()[0]


class Admission(Generic[GuestT]):
    """Accepts clients. `pause` is called when it makes no sense to accept anybody for a moment, since the system is
    out of something; `ask_again` with the seconds until it may, if nobody leaves before, when all places are taken.
    """

    def __init__(
        self,
        listener: Listener,
        pause: Callable[[], object],
        ask_again: Callable[[float], object],
        guests: Collection[GuestT],
        most: int,
        *,
        most_of_one_address: int | None = None,
        allow_uids: frozenset[int] | None = None,
        farewell: bytes = THE_END,
        what: str = "max_connections",
    ) -> None:
        """`guests` are those that have a place at the time; `farewell` is what is sent to who is turned away."""
        self._listener = listener
        self._pause = pause
        self._ask_again = ask_again
        self._guests = guests
        self._most = most
        self._most_of_one_address = most_of_one_address
        self._allow_uids = allow_uids
        self._farewell = farewell
        self._what = what
        self._places: Places[GuestT] = Places(most)
        self._repetitions = Repetitions()
        self._exhausted = False

    # one after the other

    def admit(self, listening: Acceptor, patience: float) -> Client | None:
        """A client that waits there and has a place now, or None.

        Clients wait for at most `patience` seconds for a place. Raises OSError if nobody can be accepted any more.
        """
        answer, leaver = self._places.ask(self._guests, time.monotonic(), patience)
        if answer is Answer.ADMIT:
            client = self.accept(listening)
            return client if client is None or self._has_place_for(client) else None
        if leaver is not None:
            self._ask_to_leave(leaver, f"all {self._what}={self._most} places are taken")
        if answer is Answer.TURN_AWAY:
            self._turn_away_all()
        else:
            self._ask_again(min(RETRY_SECONDS, patience))
        return None

    def freed(self) -> None:
        """Somebody has left."""
        self._places.freed()

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
        self._exhausted = False
        return client if self._is_allowed(client) else None

    def ran_out(self, error: Exception) -> None:
        """The system is out of something, which polling again at once would not change."""
        if not self._exhausted:
            self._exhausted = True
            logger.error("%s: clients have to wait: %s", self._listener.address, error)
        if self._can_make_room(error):
            self._ask_again(RETRY_SECONDS)
        else:
            self._pause()

    def _can_make_room(self, error: Exception) -> bool:
        """Whether somebody who has never completed a packet leaves, or may do so soon."""
        now = time.monotonic()
        leaving = sum(is_leaving(one, now, LEAVING_SECONDS) for one in self._guests)
        while leaving < LEAVING_AT_ONCE and (leaver := longest_silent(self._guests, now)) is not None:
            self._ask_to_leave(leaver, f"the system has nothing left for others: {error}")
            leaving += 1
        return leaving > 0 or any(one.last_packet is None and one.asked_to_leave is None for one in self._guests)

    # who may not come in

    def _is_allowed(self, client: Client) -> bool:
        if self._allow_uids is None or not isinstance(client, socket.socket):
            return True
        try:
            uid = peer_uid(client)
        except OSError:
            uid = -1  # gone already
        if uid in self._allow_uids:
            return True
        self.warn("uid", "a client of user %d was turned away, who is not in allow_uids", uid)
        self._send_away(client)
        return False

    def _has_place_for(self, client: Client) -> bool:
        """Whether there is a place for one more from that address; somebody else from there may give it up."""
        if self._most_of_one_address is None or (origin := origin_of(client)) is None:
            return True
        theirs = [one for one in self._guests if one.origin == origin and one.asked_to_leave is None]
        if len(theirs) < self._most_of_one_address:
            return True
        leaver = who_gives_way(theirs, time.monotonic())
        full = f"all max_per_address={self._most_of_one_address} places of {origin} are taken"
        if leaver is not None:
            self._ask_to_leave(leaver, full)
            return True
        self.warn("address", "a client was turned away: %s", full)
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
            self._what,
            self._most,
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
        if isinstance(reason, LimitExceeded | RemoteProtocolError):
            self.warn(f"ended {type(reason)}", "%s: its connection was ended: %s", name, cause)


class ServedConnection(Protocol):
    """What has to be known of the connection to a client."""

    @property
    def _last_packet(self) -> float | None: ...

    @property
    def _is_settled(self) -> bool: ...

    def _abort(self, cause: ConnectionEnded) -> bool: ...


ConnectionT = TypeVar("ConnectionT", bound=ServedConnection)


class ServedClient(Generic[ConnectionT]):
    """A guest of a server, who has a connection. How that is served is up to the kinds of servers."""

    def __init__(
        self,
        stream: socket.socket | ByteStream,
        ssl_context: SSLContext | None,
        admission: Admission[Any],
        budget: Budget,
    ) -> None:
        self.failure: BaseException | None = None
        self.name = name_of(stream)
        self.origin = origin_of(stream)
        self.came = time.monotonic()
        self.asked_to_leave: float | None = None
        self._admission = admission
        self._budget = budget
        self._stream = stream
        self._ssl_context = ssl_context
        self._conn: ConnectionT | None = None
        self._ending = False

    @property
    def last_packet(self) -> float | None:
        """When its last packet was complete; None if it has never completed one."""
        return None if self._conn is None else self._conn._last_packet

    @property
    def is_settled(self) -> bool:
        """Whether nothing is owed to it, or by it."""
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

    def _shut_down(self) -> None:
        if isinstance(self._stream, socket.socket):
            with suppress(OSError):  # it may be gone already
                self._stream.shutdown(socket.SHUT_RDWR)
        elif isinstance(self._stream, PeerStream):
            self._stream.hang_up()


def name_of(client: Any) -> str:
    """Who a client is, for the log."""
    with suppress(OSError):
        if isinstance(client, PeerStream):
            return f"client {client.identity.hex() or 'of the PAIR'}"
        if isinstance(client, socket.socket):
            if client.family == socket.AF_UNIX:
                return f"client of user {peer_uid(client)}"
            host, port, *_ = client.getpeername()
            return f"client [{host}]:{port}" if ":" in host else f"client {host}:{port}"
    return "client"


def has_unread(client: Any) -> bool:
    """Whether something has come from it that nobody has had the time to read."""
    if not isinstance(client, socket.socket):
        return False
    poller = select.poll()
    try:
        poller.register(client.fileno(), select.POLLIN)
    except ValueError:
        return False  # closed meanwhile
    return bool(poller.poll(0))


def origin_of(client: Any) -> str | None:
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


def _host_of(client: Any) -> str:
    if isinstance(client, socket.socket) and client.family in (socket.AF_INET, socket.AF_INET6):
        return str(client.getpeername()[0])
    return ""
