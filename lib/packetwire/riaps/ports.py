"""The four ports of a group, with the names and meanings of `riaps.run.dcPorts`.

    GroupPubPort    PUB, bound         to all members
    GroupSubPort    SUB, connected     from all members
    GroupQryPort    DEALER, connected  to and from the leader
    GroupAnsPort    ROUTER, bound      of the leader: from members, and to the one that is named

Strategy: a port is put together from a socket that threads can share, from what that is attached to (an address,
peers, the leader), and from the exchange of its messages. `GroupPort` has the names that mean the same in all
four. What RIAPS refuses raises `OperationError` here too; nothing is ever pickled or unpickled.
"""
# ruff: noqa: N802 - these are the reference's names

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from secrets import token_bytes
from typing import Any, Protocol, Self, SupportsIndex, cast, runtime_checkable

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
"""Milliseconds for a message to come."""
RETRY_SECONDS = 0.005
"""Before a member whose queue is full is tried again: a ROUTER does not tell when there is room."""

_DUPLEX_TYPE = "group-mtl#group-mfl"

_PUB = Form("gpub")
_SUB = Form("gsub")
_QRY = Form("gqry", sends=TO_LEADER, receives=TO_MEMBER)
_ANS = Form("gans", sends=TO_MEMBER, receives=TO_LEADER, addressed=True, retry=RETRY_SECONDS)


@runtime_checkable
class SocketOwner(Protocol):
    """Whom a port tells that it is about to have another socket; `getSocket` still returns the one before."""

    def replaceSocket(self, port: Any, socket: ZmqSocket, /) -> object: ...


class GroupPort:
    """The names that mean the same in all four ports, made from the parts that a port gives.

    A port can be used by several threads at once; it is set up, reset and closed by one. In a `with` it is
    closed at the end.
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

    # its life

    def setup(self) -> None:
        """There is nothing to do before `setupSocket`."""

    def setupSocket(self, owner: object = None) -> PortInfo:
        """Make the socket. If there is one already, it is closed, and the port begins anew.

        `owner` is told by its `replaceSocket`, if it has one, when another socket takes the place of this one.
        """
        with self._socket.lock:
            self.closeSocket()
        self._owner = owner
        return self._attach()

    def closeSocket(self) -> None:
        """Close the socket. What was sent has a second to leave; who waits gets a PortError."""
        if self._socket.forked:
            return
        with self._socket.lock:
            self._release()
            self._attachment.forget()
            self._socket.drop()

    def reset(self) -> None:
        """Have a new socket, at the same address or connected to the same peers.

        What was sent before has a second to leave.
        """
        with self._socket.lock:
            if self._socket.raw is None:
                raise OperationError(f"{self._socket.name} has no socket: call setupSocket")
            self._attach()

    def getSocket(self) -> ZmqSocket | None:
        """The ZMQ socket, to poll; None if there is none. Whoever uses it does so alone."""
        return self._socket.raw

    def getInfo(self) -> PortInfo | None:
        """What others need to know; None before `setupSocket`."""
        return self._info

    def _attach(self) -> PortInfo:
        """Put a new socket in the place of the one before, if there was one."""
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

    # what no group port does, in RIAPS neither

    def send(self, message: object) -> bool:
        """Not for group ports."""
        raise self._refusal("send")

    def recv(self) -> bytes:
        """Not for group ports."""
        raise self._refusal("recv")

    def send_pyobj(self, message: object) -> bool:
        """Not for group ports; and nothing is ever pickled."""
        raise self._refusal("send_pyobj")

    def recv_pyobj(self) -> object:
        """Not for group ports; and nothing is ever unpickled."""
        raise self._refusal("recv_pyobj")

    def _refusal(self, name: str) -> OperationError:
        return OperationError(f"{name}() is not for a {self._form.kind} port, whose messages have a command")

    # times and counts

    @property
    def isTimed(self) -> bool:
        """Whether the send time goes with each message."""
        return self._exchange.timed

    @property
    def sendTime(self) -> float:
        """When the message that came last was sent, as it says; 0.0 if it does not, or was malformed."""
        return self._exchange.send_time

    @property
    def recvTime(self) -> float:
        """When a message came last."""
        return self._exchange.recv_time

    @property
    def malformed(self) -> int:
        """How many messages came that were none."""
        return self._exchange.malformed

    def get_sendTime(self) -> float:
        """`sendTime`."""
        return self.sendTime

    def get_recvTime(self) -> float:
        """`recvTime`."""
        return self.recvTime

    def get_send_timeout(self) -> float | None:
        """The limit in **seconds**, as the reference has it here; None for none."""
        return _seconds(self._exchange.limits.send_timeout)

    def get_recv_timeout(self) -> float | None:
        """The limit in **seconds**, as the reference has it here; None for none."""
        return _seconds(self._exchange.limits.recv_timeout)

    def set_send_timeout(self, seconds: float | None) -> None:
        """Set the limit in **seconds**, as the reference has it here; None for none."""
        self._exchange.limits.send_timeout = _milliseconds(seconds)

    def set_recv_timeout(self, seconds: float | None) -> None:
        """Set the limit in **seconds**, as the reference has it here; None for none."""
        self._exchange.limits.recv_timeout = _milliseconds(seconds)

    @property
    def exchange(self) -> Exchange:
        """Its messages as steps, for who waits otherwise."""
        return self._exchange

    @property
    def shared_socket(self) -> PortSocket:
        """Its socket, for who waits for several."""
        return self._socket


class GroupPubPort(GroupPort):
    """Publishes to all members. `port` is the number to listen at, 0 for a free one.

    `group_spec` tells the type of the messages, and whether they are timed. `host` is an address or the name of
    an interface. Time limits are in milliseconds, -1 for none. When one is over, and for a message that is none,
    a port raises `PortError`; for what it cannot do `OperationError`.
    """

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, Any],
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
        """No message arrives here."""
        return False

    def update(self, host: str, port: SupportsIndex | str) -> None:
        """Not for a port that listens."""
        raise OperationError("update() is not for a gpub port: others connect to it")

    def sendGroup(self, command: bytes, payload: BytesLike) -> bool:
        """Send to all members that are connected; it is lost to others, and to those who do not keep up."""
        return finish(self._exchange.sending(command, payload))


class GroupSubPort(GroupPort):
    """Receives what the members publish that it is told of by `update`."""

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, Any],
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
        """Messages arrive here."""
        return True

    def update(self, host: str, port: SupportsIndex | str, server_key: Key | None = None) -> None:
        """Connect to a member's publish port; nothing happens if it is connected to that already.

        `server_key` is for a member whose key is not the one that `keys` names.
        """
        address = address_of(host, port)
        with self._socket.use("connect") as socket:
            self._connections.add(socket, address, server_key)

    def remove(self, host: str, port: SupportsIndex | str) -> None:
        """Let go of a member; nothing happens if it is not connected to that."""
        address = address_of(host, port)
        with self._socket.use("disconnect") as socket:
            self._connections.remove(socket, address)

    def connected(self) -> int:
        """How many members it is told of."""
        return len(self._connections.addresses)

    @property
    def servers(self) -> tuple[Address, ...]:
        """The members that it is told of."""
        return self._connections.addresses

    def recvGroup(self) -> GroupMessage:
        """The next message of the group."""
        return finish(self._exchange.receiving())


class GroupQryPort(GroupPort):
    """Sends to the leader that it is told of by `update`, and receives what that sends to this member.

    `identity` is by which the leader knows it, 1 to 255 octets, of which the first is not 0. Without one it has
    16 random octets, and others for the next leader and with each new socket.
    """

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, Any],
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
        """Messages arrive here."""
        return True

    def update(self, host: str | None, port: SupportsIndex | str | None, server_key: Key | None = None) -> None:
        """This one leads now: let go of the leader before, and connect to its answer port.

        Nothing happens if it is the same. With None for both there is no leader. What the one before has not
        read is lost, and so is what it has sent and nobody received here.
        """
        address = None if host is None or port is None else address_of(host, port)
        with self._socket.use("connect") as socket:
            self._leader.move(socket, address, server_key)
        self._socket.wake()  # who waits to send, to a leader that there is no more

    @property
    def leader(self) -> Address | None:
        """Who leads, as far as it was told."""
        return self._leader.address

    def get_identity(self) -> bytes | None:
        """By which the leader knows it; None without a socket."""
        if self._socket.raw is None:
            return None
        with self._socket.use("tell its identity") as socket:
            return cast(bytes, socket.get(zmq.ROUTING_ID))

    def is_linked(self) -> bool:
        """Whether there is a link to the leader now."""
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
    """The leader's: receives from members, and sends to the one whose identity is given."""

    def __init__(
        self,
        name: str,
        group_spec: GroupSpec | Mapping[str, Any],
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
        """Messages arrive here."""
        return True

    def update(self, host: str | None = None, port: SupportsIndex | str | None = None) -> None:
        """Not for a port that listens."""
        raise OperationError("update() is not for a gans port: others connect to it")

    def updatePoller(self, poller: zmq.Poller) -> None:
        """Listen at another free port, with a new socket, which takes the place of the old one in `poller`."""
        old = self.getSocket()
        if old is not None and old in poller:
            poller.unregister(old)
        self.setupSocket(self._owner)
        poller.register(self.getSocket(), zmq.POLLIN)

    def getPortNumber(self) -> int | None:
        """Where it listens; None without a socket."""
        info = self.getInfo()
        return None if info is None or self.getSocket() is None else info.portNum

    def recvFromMember(self) -> GroupMessage:
        """The next message of a member, which has its `identity`."""
        message = finish(self._exchange.receiving())
        self._answering.identity = message.identity
        return message

    def get_identity(self) -> bytes | None:
        """The member that this thread sends to without naming one: of the last message it received, or set."""
        return getattr(self._answering, "identity", None)

    def set_identity(self, identity: bytes) -> None:
        """Set that, for this thread."""
        self._answering.identity = identity

    def sendToMember(self, command: bytes, payload: BytesLike, identity: bytes | None = None) -> bool:
        """Send to the member with that identity: `mfl`. Without one, to `get_identity()`.

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
    socket.linger = 0  # it has nothing to send but that
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    return socket


def _identified(socket: ZmqSocket, identity: bytes) -> ZmqSocket:
    socket.setsockopt(zmq.ROUTING_ID, identity)
    return socket


def _routing(socket: ZmqSocket) -> ZmqSocket:
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    # a member that connects again is there before ZMQ knows that its old link is gone
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket


def new_id() -> bytes:
    """16 random octets, of which the first is not 0: those with 0 belong to ZMQ."""
    while True:
        identity = token_bytes(ID_SIZE)
        if identity[0]:
            return identity


def _checked_identity(identity: bytes) -> bytes:
    if not isinstance(identity, bytes) or not 0 < len(identity) <= MAX_IDENTITY or not identity[0]:
        raise malformed(f"an identity has 1 to {MAX_IDENTITY} octets, the first not 0, got {identity!r:.100}")
    return identity


def _read_spec(group_spec: Mapping[str, Any]) -> tuple[str, bool]:
    try:
        return str(group_spec["message"]), bool(group_spec["timed"])
    except (KeyError, TypeError):
        raise OperationError(f"a group spec has 'message' and 'timed', got {group_spec!r:.200}") from None


def checked_limit(milliseconds: int) -> int:
    """A time limit. Raises `OperationError` if it is none."""
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int) or milliseconds < FOREVER:
        raise OperationError(f"a time limit is a whole number of milliseconds, or -1, got {milliseconds!r}")
    return milliseconds


def _milliseconds(seconds: float | None) -> int:
    limit = time_limit(seconds, "a time limit")
    return FOREVER if limit is None else checked_limit(int(limit * 1000))


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000
