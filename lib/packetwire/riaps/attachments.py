"""Attachments of a port's socket: an address to listen at, the peers it connects to, or the leader.

All three have the same few methods, so a port need not know which one it has.
"""

from __future__ import annotations

import errno
import math
import operator
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, SupportsIndex

import zmq

from packetwire.riaps.errors import PortError
from packetwire.riaps.links import Links, ZmqSocket, open_monitor
from packetwire.riaps.sockets import port_error
from packetwire.streams.curve import Key, key_bytes
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.exposure import warn_if_exposed
from packetwire.zmq.owned import disown

UNBIND_WAIT = 1.0
"""Seconds for ZMQ to release an address."""

NO_PORT = -1
"""The port number of a socket that does not listen."""

Address = tuple[str, int]
"""Host and port."""


class Attachment(Protocol):
    """The source and destination of a socket's messages."""

    links: Links | None
    """The state of the link, if that matters."""

    def attach(self, socket: ZmqSocket) -> Address:
        """Attach a new socket as the one before was; returns the address for `PortInfo`."""
        ...

    def release(self, socket: ZmqSocket) -> None:
        """Called before a socket is closed or replaced; may close it."""

    def forget(self) -> None:
        """Start afresh with the next socket."""

    def check(self) -> None:
        """Raise `PortError` if there is nobody to send to."""

    def why_not(self) -> str:
        """The reason why a message could not be sent in time."""
        ...


class Binding:
    """An address to listen at. Port number 0 stands for any free one."""

    links: Links | None = None

    def __init__(self, host: str, port: int) -> None:
        self._wanted = self._address = (host, port)
        self._endpoint = ""

    def attach(self, socket: ZmqSocket) -> Address:
        wanted = _endpoint(socket, self._address)
        warn_if_exposed(wanted, with_curve=bool(socket.get(zmq.CURVE_SERVER)))
        try:
            uninterrupted(socket.bind, wanted)
        except zmq.ZMQError as error:
            raise port_error(f"cannot listen at {wanted}", error) from error
        self._endpoint = socket.get_string(zmq.LAST_ENDPOINT)
        host, _, port = self._endpoint.removeprefix("tcp://").rpartition(":")
        self._address = (host.strip("[]"), int(port))
        return self._address

    def release(self, socket: ZmqSocket) -> None:
        """Close the socket. The address is free when this returns; messages that were sent still leave.

        Unbinding is not enough: ZMQ would end the links, too, and drop whatever they have not sent yet.
        """
        endpoint, self._endpoint = self._endpoint, ""
        if not endpoint or socket.closed:  # by `Context.destroy`: the context can make no monitor any more
            return
        with suppress(zmq.ZMQError):  # the context was terminated, and has closed it
            monitor = open_monitor(socket, zmq.EVENT_CLOSED)
            try:
                disown(socket)
                socket.close()
                _await_news(monitor, time.monotonic() + UNBIND_WAIT)
            finally:
                disown(monitor)
                monitor.close(0)

    def forget(self) -> None:
        self._address = self._wanted

    def check(self) -> None:
        pass

    def why_not(self) -> str:
        return "the queue is full: the peer does not read"


class Connections:
    """The peers that a socket connects to, each once. `server_key` is for those without a key of their own."""

    links: Links | None = None

    def __init__(self, host: str, server_key: Key | None) -> None:
        self._host = host
        self._usual_key = server_key
        self._servers: dict[Address, bytes | None] = {}

    @property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(self._servers)

    def add(self, socket: ZmqSocket, address: Address, server_key: Key | None) -> None:
        """Connect to a peer, unless that was done."""
        if address not in self._servers:
            key = _key_for(server_key, self._usual_key)
            _connect(socket, address, key)
            self._servers[address] = key

    def remove(self, socket: ZmqSocket, address: Address) -> None:
        """Disconnect from a peer, if it is connected."""
        if address in self._servers:
            del self._servers[address]
            uninterrupted(socket.disconnect, _endpoint(socket, address))

    def attach(self, socket: ZmqSocket) -> Address:
        for address, key in self._servers.items():
            _connect(socket, address, key)
        return self._host, NO_PORT

    def release(self, socket: ZmqSocket) -> None:
        pass

    def forget(self) -> None:
        self._servers.clear()

    def check(self) -> None:
        pass

    def why_not(self) -> str:
        return "nobody reads"


class LeaderConnection:
    """The one peer that a query socket connects to, if any, and the state of the link.

    `new_identity` makes the identity of each further link: a leader may not have noticed that the old link is gone,
    and a leader of RIAPS then ignores a new one with the same identity.
    """

    def __init__(self, host: str, server_key: Key | None, new_identity: Callable[[], bytes]) -> None:
        self.links: Links | None = None
        self.address: Address | None = None
        self._host = host
        self._usual_key = server_key
        self._key: bytes | None = None
        self._new_identity = new_identity
        self._had_link = False

    def move(self, socket: ZmqSocket, address: Address | None, server_key: Key | None) -> None:
        """Connect to another leader, or to none; nothing happens if it is the same."""
        if address == self.address:
            return
        key = _key_for(server_key, self._usual_key)
        if self.address is not None:
            uninterrupted(socket.disconnect, _endpoint(socket, self.address))
        self.address, self._key = address, key
        self._connect(socket)

    def attach(self, socket: ZmqSocket) -> Address:
        self.links = Links(socket)
        self._had_link = False
        self._connect(socket)
        return self._host, NO_PORT

    def _connect(self, socket: ZmqSocket) -> None:
        assert self.links is not None
        address, self.address = self.address, None
        self.links.follow("" if address is None else _endpoint(socket, address))
        if address is not None:
            if self._had_link:
                socket.setsockopt(zmq.ROUTING_ID, self._new_identity())
            _connect(socket, address, self._key)
            self.address = address
            self._had_link = True

    def release(self, socket: ZmqSocket) -> None:
        pass

    def forget(self) -> None:
        self.address = None

    def check(self) -> None:
        if self.address is None:
            raise PortError("there is no leader: update(host, port) tells who leads", PortError.EROUTE)

    def why_not(self) -> str:
        if self.address is None or self.links is None:
            return "there is no leader any more"
        where = "the leader at {}:{}".format(*self.address)
        if self.links.is_up:
            return f"{where} does not read: the queue is full"
        reason = self.links.failure
        return f"there is no link to {where}" + (f": {reason}" if reason else "")


def _await_news(monitor: ZmqSocket, deadline: float) -> None:
    # after a signal poll may return too early, as pyzmq then rounds the time that is left down
    while (left := deadline - time.monotonic()) > 0 and not monitor.poll(math.ceil(left * 1000)):
        pass


def _connect(socket: ZmqSocket, address: Address, server_key: bytes | None) -> None:
    if server_key is not None:
        # an option of the socket, which takes effect for later connections only
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
    endpoint = _endpoint(socket, address)
    try:
        uninterrupted(socket.connect, endpoint)
    except zmq.ZMQError as error:
        raise port_error(f"cannot connect to {endpoint}", error) from error


def _endpoint(socket: ZmqSocket, address: Address) -> str:
    host, port = address
    if ":" in host:
        socket.ipv6 = True
        host = f"[{host}]"
    return f"tcp://{host}:{port or '*'}"


def _key_for(server_key: Key | None, usual: Key | None) -> bytes | None:
    if usual is None:
        if server_key is not None:
            raise PortError("a server_key is of no use without keys of one's own", errno.EINVAL)
        return None
    return key_bytes(usual if server_key is None else server_key, "server_key")


def address_of(host: object, port: SupportsIndex | str) -> Address:
    """The address of a peer, checked. Raises `PortError`."""
    try:
        number = int(port) if isinstance(port, str) else operator.index(port)
    except (TypeError, ValueError):
        raise PortError(f"a port is a number, got {port!r:.100}", errno.EINVAL) from None
    if not isinstance(host, str) or not host or not 0 < number <= 65535:
        raise PortError(f"{host!r:.100} and {port!r:.100} are no host and port", errno.EINVAL)
    return host.strip("[]"), number
