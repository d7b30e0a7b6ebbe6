"""The four ports of a group, with the names and meanings of `riaps.run.dcPorts`.

    GroupPubPort    PUB, bound         to all members
    GroupSubPort    SUB, connected     from all members
    GroupQryPort    DEALER, connected  to and from the leader
    GroupAnsPort    ROUTER, bound      of the leader: from members, and to a given one

Strategy: a port consists of a socket that threads can share, its attachment (an address, peers, the leader), and
the exchange of its messages. `GroupPort` has the names that mean the same in all four. Operations that RIAPS
refuses raise `OperationError` here too; nothing is ever pickled or unpickled.
"""
# ruff: noqa: N802 - these are the reference's names

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from secrets import token_bytes
from typing import Protocol, Self, SupportsIndex, cast, runtime_checkable

import zmq

from packetwire.core.timelimits import time_limit
from packetwire.riaps.attachments import (
    Address,
    Attachment,
    Binding,
    Connections,
    LeaderConnection,
    address_of,
)
from packetwire.riaps.errors import OperationError, PortError
from packetwire.riaps.exchange import Exchange, Form, Limits
from packetwire.riaps.info import GroupSpec, PortInfo, PortScope
from packetwire.riaps.keys import GroupKeys
from packetwire.riaps.links import ZmqSocket
from packetwire.riaps.messages import (
    ID_SIZE,
    MAX_IDENTITY,
    TO_LEADER,
    TO_MEMBER,
    BytesLike,
    GroupMessage,
    malformed,
)
from packetwire.riaps.sockets import DEFAULT_MAX_FRAME, PortSocket, ZmqContext, make_socket
from packetwire.riaps.waiting import FOREVER, finish
from packetwire.streams.curve import Key

DEFAULT_HOST = "127.0.0.1"
DEFAULT_SEND_TIMEOUT = 1000
"""Milliseconds that a message waits for a link and for room; the reference waits for ever."""
DEFAULT_RECV_TIMEOUT = FOREVER
"""Milliseconds to wait for a message."""
RETRY_SECONDS = 0.005
"""Seconds until a member whose queue is full is tried again: a ROUTER does not tell when there is room."""

_DUPLEX_TYPE = "group-mtl#group-mfl"

_PUB = Form("gpub")
_SUB = Form("gsub")
_QRY = Form("gqry", sends=TO_LEADER, receives=TO_MEMBER)
_ANS = Form("gans", sends=TO_MEMBER, receives=TO_LEADER, addressed=True, retry=RETRY_SECONDS)


@runtime_checkable
class SocketOwner(Protocol):
    """An owner that is told before a port gets another socket; `getSocket` still returns the one before."""

    def replaceSocket(self, port: GroupPort, socket: ZmqSocket, /) -> object: ...


class GroupPort:
    """The part that is the same in all four ports.

    A port can be used by several threads at once; it is set up, reset and closed by one. A `with` closes it at the
    end.
    """

    def __init__(
        self,
        name: str,
        form: Form,
        message_type: str,
        attachment: Attachment,
        new_socket: Callable[[], ZmqSocket],
        limits: Limits,
        *,
        timed: bool,
    ) -> None:
        self.name = name
        self.msgType = message_type
        self._form = form
        self._attachment = attachment
        self._new_socket = new_socket
        self._socket = PortSocket(f"{form.kind} port {name!r}")
        self._exchange = Exchange(form, self._socket, attachment, limits, timed=timed)
        self._owner: object = None
        self._info: PortInfo | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closeSocket()

    # setting up, closing

    def setup(self) -> None:
        """Do nothing: all is done by `setupSocket`."""

    def setupSocket(self, owner: object = None) -> PortInfo:
        """Open the socket. If there is one already, it is closed, and the port starts afresh.

        If `owner` has a method `replaceSocket`, it is called when another socket replaces this one.
        """
        with self._socket.lock:
            self.closeSocket()
        self._owner = owner
        return self._attach()

    def closeSocket(self) -> None:
        """Close the socket. Sent messages have a second to leave; callers that wait get a PortError."""
        if self._socket.forked:
            return
        with self._socket.lock:
            self._release()
            self._attachment.forget()
            self._socket.drop()

    def reset(self) -> None:
        """Replace the socket by a new one, at the same address or connected to the same peers.

        Messages that were sent before have a second to leave.
        """
        with self._socket.lock:
            if self._socket.raw is None:
                raise OperationError(f"{self._socket.name} has no socket: call setupSocket")
            self._attach()

    def getSocket(self) -> ZmqSocket | None:
        """The ZMQ socket, to poll; None if there is none. For anything else, no other thread may use the port."""
        return self._socket.raw

    def getInfo(self) -> PortInfo | None:
        """The description of the port for others; None before `setupSocket`."""
        return self._info

    def _attach(self) -> PortInfo:
        """Open a new socket, in place of the one before if there was one."""
        socket = self._new_socket()
        try:
            with self._socket.lock:
                self._release()
                host, port = self._attachment.attach(socket)
                if self._socket.raw is not None and isinstance(self._owner, SocketOwner):
                    self._owner.replaceSocket(self, socket)
                self._socket.put(socket, self._attachment.links)
        except BaseException:
            if self._attachment.links is not None:
                self._attachment.links.close()
            socket.close(0)
            self._socket.drop()
            raise
        self._info = PortInfo(self._form.kind, PortScope.GLOBAL, self.name, self.msgType, host, port)
        return self._info

    def _release(self) -> None:
        if self._socket.raw is not None:
            self._attachment.release(self._socket.raw)

    # operations that group ports do not have in RIAPS either

    def send(self, message: object) -> bool:
        """Raise `OperationError`: not for group ports."""
        raise self._refusal("send")

    def recv(self) -> bytes:
        """Raise `OperationError`: not for group ports."""
        raise self._refusal("recv")

    def send_pyobj(self, message: object) -> bool:
        """Raise `OperationError`: nothing is ever pickled."""
        raise self._refusal("send_pyobj")

    def recv_pyobj(self) -> object:
        """Raise `OperationError`: nothing is ever unpickled."""
        raise self._refusal("recv_pyobj")

    def _refusal(self, name: str) -> OperationError:
        return OperationError(f"{name}() is not for a {self._form.kind} port, whose messages have a command")

    # times and counts

    @property
    def isTimed(self) -> bool:
        """True if each message has its send time."""
        return self._exchange.timed

    @property
    def sendTime(self) -> float:
        """The send time of the last message that came; 0.0 if it has none, or was malformed."""
        return self._exchange.send_time

    @property
    def recvTime(self) -> float:
        """The time at which the last message came."""
        return self._exchange.recv_time

    @property
    def malformed(self) -> int:
        """The number of malformed messages that came."""
        return self._exchange.malformed

    def get_sendTime(self) -> float:
        """`sendTime`."""
        return self.sendTime

    def get_recvTime(self) -> float:
        """`recvTime`."""
        return self.recvTime

    def get_send_timeout(self) -> float | None:
        """The limit in **seconds**, as in the reference; None for none."""
        return _seconds(self._exchange.limits.send_timeout)

    def get_recv_timeout(self) -> float | None:
        """The limit in **seconds**, as in the reference; None for none."""
        return _seconds(self._exchange.limits.recv_timeout)

    def set_send_timeout(self, seconds: float | None) -> None:
        """Set the limit in **seconds**, as in the reference; None for none."""
        self._exchange.limits.send_timeout = _milliseconds(seconds)

    def set_recv_timeout(self, seconds: float | None) -> None:
        """Set the limit in **seconds**, as in the reference; None for none."""
        self._exchange.limits.recv_timeout = _milliseconds(seconds)

    @property
    def exchange(self) -> Exchange:
        """Sending and receiving as steps, for other ways to wait."""
        return self._exchange

    @property
    def shared_socket(self) -> PortSocket:
        """The socket, for waiting for several."""
        return self._socket


class GroupPubPort(GroupPort):
    """Publishes to all members. `port` is the number to listen at, 0 for a free one.

    `group_spec` has the type of the messages, and if they are timed. `host` is an address or the name of an
    interface. Time limits are in milliseconds, -1 for none. A port raises `PortError` when a limit is over, and for
    an invalid message; `OperationError` for an operation that it does not have.
    """

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, object],
        host: str = DEFAULT_HOST,
        context: ZmqContext | None = None,
        send_timeout: int = DEFAULT_SEND_TIMEOUT,
        keys: GroupKeys | None = None,
        *,
        port: int = 0,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        message_type, timed = _read_spec(group_spec)
        super().__init__(
            name,
            _PUB,
            message_type,
            Binding(host, port),
            lambda: _listening(make_socket(context, zmq.PUB, max_frame), keys),
            Limits(checked_limit(send_timeout), FOREVER, max_frame),
            timed=timed,
        )

    def inSocket(self) -> bool:
        """False: it receives no messages."""
        return False

    def update(self, host: str, port: SupportsIndex | str) -> None:
        """Raise `OperationError`: not for a port that listens."""
        raise OperationError("update() is not for a gpub port: others connect to it")

    def sendGroup(self, command: bytes, payload: BytesLike) -> bool:
        """Send to all members that are connected; others, and those that do not keep up, miss it."""
        return finish(self._exchange.sending(command, payload))


class GroupSubPort(GroupPort):
    """Receives the messages of the publish ports that are added by `update`."""

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, object],
        host: str = DEFAULT_HOST,
        context: ZmqContext | None = None,
        send_timeout: int = DEFAULT_SEND_TIMEOUT,
        keys: GroupKeys | None = None,
        *,
        recv_timeout: int = DEFAULT_RECV_TIMEOUT,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        message_type, timed = _read_spec(group_spec)
        self._connections = Connections(host, _server_key(keys))
        super().__init__(
            name,
            _SUB,
            message_type,
            self._connections,
            lambda: _subscribed(_connecting(make_socket(context, zmq.SUB, max_frame), keys)),
            Limits(checked_limit(send_timeout), checked_limit(recv_timeout), max_frame),
            timed=timed,
        )

    def inSocket(self) -> bool:
        """True: it receives messages."""
        return True

    def update(self, host: str, port: SupportsIndex | str, server_key: Key | None = None) -> None:
        """Connect to a member's publish port, unless that was done.

        `server_key` is for a member with another key than that in `keys`.
        """
        address = address_of(host, port)
        with self._socket.use("connect") as socket:
            self._connections.add(socket, address, server_key)

    def remove(self, host: str, port: SupportsIndex | str) -> None:
        """Disconnect from a member, if it is connected."""
        address = address_of(host, port)
        with self._socket.use("disconnect") as socket:
            self._connections.remove(socket, address)

    def connected(self) -> int:
        """The number of members that were added."""
        return len(self._connections.addresses)

    @property
    def servers(self) -> tuple[Address, ...]:
        """The members that were added."""
        return self._connections.addresses

    def recvGroup(self) -> GroupMessage:
        """The next message of the group."""
        return finish(self._exchange.receiving())


class GroupQryPort(GroupPort):
    """Sends to the leader, which is set by `update`, and receives its messages to this member.

    The leader knows the member by the `identity`, 1 to 255 bytes of which the first is not 0. By default it is 16
    random bytes, and others for each further leader and each new socket.
    """

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, object],
        host: str = DEFAULT_HOST,
        context: ZmqContext | None = None,
        send_timeout: int = DEFAULT_SEND_TIMEOUT,
        keys: GroupKeys | None = None,
        *,
        recv_timeout: int = DEFAULT_RECV_TIMEOUT,
        max_frame: int = DEFAULT_MAX_FRAME,
        identity: bytes | None = None,
    ) -> None:
        _, timed = _read_spec(group_spec)
        own_identity = None if identity is None else _checked_identity(identity)

        def next_identity() -> bytes:
            return new_id() if own_identity is None else own_identity

        self._leader = LeaderConnection(host, _server_key(keys), next_identity)
        super().__init__(
            name,
            _QRY,
            _DUPLEX_TYPE,
            self._leader,
            lambda: _identified(_connecting(make_socket(context, zmq.DEALER, max_frame), keys), next_identity()),
            Limits(checked_limit(send_timeout), checked_limit(recv_timeout), max_frame),
            timed=timed,
        )

    def inSocket(self) -> bool:
        """True: it receives messages."""
        return True

    def update(self, host: str | None, port: SupportsIndex | str | None, server_key: Key | None = None) -> None:
        """Set the leader: disconnect from the one before, and connect to the answer port of this one.

        Nothing happens if it is the same. With None for both there is no leader. Messages that the former leader
        has not read are lost, and so are its own that were not received here.
        """
        address = None if host is None or port is None else address_of(host, port)
        with self._socket.use("connect") as socket:
            self._leader.move(socket, address, server_key)
        self._socket.wake()  # callers that wait to send to the former leader

    @property
    def leader(self) -> Address | None:
        """The address of the leader, as set by `update`."""
        return self._leader.address

    def get_identity(self) -> bytes | None:
        """The identity by which the leader knows it; None without a socket."""
        if self._socket.raw is None:
            return None
        with self._socket.use("tell its identity") as socket:
            return cast(bytes, socket.get(zmq.ROUTING_ID))

    def is_linked(self) -> bool:
        """True if there is a link to the leader now."""
        with self._socket.use("tell"):
            return self._leader.links is not None and self._leader.links.is_up

    def sendToLeader(self, command: bytes, payload: BytesLike) -> bool:
        """Send to the leader: `mtl`, `rfv` or `rtc`.

        Raises `PortError` without a leader, and if there is no link to it within the time limit.
        """
        return finish(self._exchange.sending(command, payload))

    def recvFromLeader(self) -> GroupMessage:
        """The next message that the leader sent to this member."""
        return finish(self._exchange.receiving())


class GroupAnsPort(GroupPort):
    """The leader's port: receives from members, and sends to the one whose identity is given."""

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, object],
        host: str = DEFAULT_HOST,
        context: ZmqContext | None = None,
        send_timeout: int = DEFAULT_SEND_TIMEOUT,
        keys: GroupKeys | None = None,
        *,
        port: int = 0,
        recv_timeout: int = DEFAULT_RECV_TIMEOUT,
        max_frame: int = DEFAULT_MAX_FRAME,
    ) -> None:
        _, timed = _read_spec(group_spec)
        self._binding = Binding(host, port)
        self._answering = threading.local()
        super().__init__(
            name,
            _ANS,
            _DUPLEX_TYPE,
            self._binding,
            lambda: _routing(_listening(make_socket(context, zmq.ROUTER, max_frame), keys)),
            Limits(checked_limit(send_timeout), checked_limit(recv_timeout), max_frame),
            timed=timed,
        )

    def inSocket(self) -> bool:
        """True: it receives messages."""
        return True

    def update(self, host: str | None = None, port: SupportsIndex | str | None = None) -> None:
        """Raise `OperationError`: not for a port that listens."""
        raise OperationError("update() is not for a gans port: others connect to it")

    def updatePoller(self, poller: zmq.Poller) -> None:
        """Listen at another free port, with a new socket, which replaces the old one in `poller`."""
        old = self.getSocket()
        if old is not None and old in poller:
            poller.unregister(old)
        self.setupSocket(self._owner)
        poller.register(self.getSocket(), zmq.POLLIN)

    def getPortNumber(self) -> int | None:
        """The number of the port at which it listens; None without a socket."""
        info = self.getInfo()
        return None if info is None or self.getSocket() is None else info.portNum

    def recvFromMember(self) -> GroupMessage:
        """The next message from a member; its `identity` says which."""
        message = finish(self._exchange.receiving())
        self._answering.identity = message.identity
        return message

    def get_identity(self) -> bytes | None:
        """The default recipient of this thread: the sender of the last message it received, or as set."""
        return getattr(self._answering, "identity", None)

    def set_identity(self, identity: bytes) -> None:
        """Set the default recipient of this thread."""
        self._answering.identity = identity

    def sendToMember(self, command: bytes, payload: BytesLike, identity: bytes | None = None) -> bool:
        """Send `mfl` to the member with that identity, by default `get_identity()`.

        Raises `PortError` if there is no such member, or if it does not read within the time limit.
        """
        member = self.get_identity() if identity is None else identity
        if member is None:
            raise PortError(
                f"{self._socket.name} does not know whom to send to: give an identity", PortError.EROUTE
            )
        return finish(self._exchange.sending(command, payload, member))


def _listening(socket: ZmqSocket, keys: GroupKeys | None) -> ZmqSocket:
    if keys is not None:
        keys.be_server(socket)
    return socket


def _connecting(socket: ZmqSocket, keys: GroupKeys | None) -> ZmqSocket:
    if keys is not None:
        keys.be_client(socket)
    return socket


def _server_key(keys: GroupKeys | None) -> Key | None:
    return None if keys is None else keys.client.server_key


def _subscribed(socket: ZmqSocket) -> ZmqSocket:
    socket.linger = 0  # it sends nothing but subscriptions
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return socket


def _identified(socket: ZmqSocket, identity: bytes) -> ZmqSocket:
    socket.setsockopt(zmq.ROUTING_ID, identity)
    return socket


def _routing(socket: ZmqSocket) -> ZmqSocket:
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # a member may reconnect before ZMQ has noticed that its old link is gone
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket


def new_id() -> bytes:
    """16 random bytes, of which the first is not 0: identities with 0 belong to ZMQ."""
    while True:
        identity = token_bytes(ID_SIZE)
        if identity[0]:
            return identity


def _checked_identity(identity: bytes) -> bytes:
    if not isinstance(identity, bytes) or not 0 < len(identity) <= MAX_IDENTITY or not identity[0]:
        raise malformed(f"an identity has 1 to {MAX_IDENTITY} bytes, the first not 0, got {identity!r:.100}")
    return identity


def _read_spec(group_spec: Mapping[str, object]) -> tuple[str, bool]:
    try:
        return str(group_spec["message"]), bool(group_spec["timed"])
    except (KeyError, TypeError):
        raise OperationError(f"a group spec has 'message' and 'timed', got {group_spec!r:.200}") from None


def checked_limit(milliseconds: int) -> int:
    """A time limit in milliseconds, checked. Raises `OperationError` if it is invalid."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int) or milliseconds < FOREVER:
        raise OperationError(f"a time limit is a whole number of milliseconds, or -1, got {milliseconds!r}")
    return milliseconds


def _milliseconds(seconds: float | None) -> int:
    limit = time_limit(seconds, "a time limit")
    return FOREVER if limit is None else checked_limit(int(limit * 1000))


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000
