"""Listening sockets: made for an address, or taken over from whoever has made them.

Those of Unix have a file, see `socketfiles`. Sockets of others, see `givensockets`, are closed in the end like any
other, but what belongs to whoever has bound them, such as a file, is left alone.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import replace as replaced
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from packetwire.addresses import (
    Address,
    StdioAddress,
    TcpAddress,
    TlsAddress,
    UnixAddress,
    ZmqAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
    forms,
    naming,
    parse_address,
)
from packetwire.errors import LocalProtocolError
from packetwire.latecomers import hold_off
from packetwire.socketfiles import BACKLOG as BACKLOG
from packetwire.socketfiles import SOCKET_MODE as SOCKET_MODE
from packetwire.socketfiles import identity, remove_own, socket_with_file
from packetwire.streams import forking
from packetwire.streams.zmqpeers import PeerStream

if TYPE_CHECKING:
    from packetwire.streams.zmqrouter import ZmqListener

logger = logging.getLogger("packetwire")

OPEN_SOCKET_MODE = 0o666
"""Of a socket to which others may connect, who are asked then which user they are."""
PORT_TRIES = 8
"""Tries to find a port that is free on all addresses of a host, if the system is to choose one."""

LISTENING_KINDS: list[type[Address]] = [
    UnixAddress,
    TcpAddress,
    TlsAddress,
    StdioAddress,
    ZmqPairAddress,
    ZmqRouterAddress,
]

_NOT_HERE = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


class Acceptor(Protocol):
    """The place that clients come to: a listening socket that does not block, or a bound ZMQ socket."""

    def fileno(self) -> int:
        """Readable when there is a client."""
        ...

    def accept(self) -> tuple[socket.socket | PeerStream, Any]:
        """The client that waits longest, and where it comes from. Raises OSError."""
        ...

    def close(self) -> None:
        """Accept no more."""
        ...


class Listener:
    """The sockets to accept clients from; `address` is the real one, with the port that the system chose.

    If they are `shared`, other processes accept there as well, or will do so when this one has ended: those who
    wait there are left to these.
    """

    def __init__(self, address: Address, sockets: Sequence[Acceptor], *, shared: bool = False) -> None:
        self.address = address
        self.sockets: Sequence[Any] = sockets
        self.is_shared = shared
        for sock in sockets:
            if isinstance(sock, socket.socket):
                sock.setblocking(False)  # a client may be gone again between the poll and the accept
        self._process = os.getpid()
        self._is_inherited = False
        forking.register(self)

    def inherit(self) -> None:
        """Have forks keep the sockets, so that they can accept, too. Raises `LocalProtocolError` for ZMQ."""
        if not all(isinstance(sock, socket.socket) for sock in self.sockets):
            raise LocalProtocolError(f"{self.address}: a fork cannot use a ZMQ socket of its parent")
        self._is_inherited = self.is_shared = True
        for sock in self.sockets:
            forking.keep(sock)

    def hold_off(self) -> None:
        """Let nobody new come, as far as the system can; those who wait can still be accepted."""
        if not self.is_shared:
            for sock in self.sockets:
                if isinstance(sock, socket.socket):
                    hold_off(sock)

    def close(self) -> None:
        """Accept no more. A second call does nothing."""
        for sock in self.sockets:
            if isinstance(sock, socket.socket):
                forking.close_socket(sock)
            else:
                sock.close()
        self.sockets = []

    def after_fork(self) -> None:
        """In the child of a fork: the parent accepts, and removes its file."""
        if not self._is_inherited:
            self.sockets = []


class FileListener(Listener):
    """A listener with a file."""

    def __init__(self, address: Address, path: str, acceptor: Acceptor) -> None:
        super().__init__(address, [acceptor])
        self._path = os.path.abspath(path)
        self._file = identity(self._path)

    def hold_off(self) -> None:
        if not self.is_shared:
            self._remove_file()
        super().hold_off()

    def close(self) -> None:
        self._remove_file()
        super().close()

    def _remove_file(self) -> None:
        # before the socket is closed: while that exists the number of its file is no other file's
        if self.sockets and self._process == os.getpid():
            remove_own(self._path, self._file)


def listen(
    address: str | Address,
    *,
    mode: int = SOCKET_MODE,
    inherit: bool = False,
    reuse_port: bool = False,
    replace: bool = False,
) -> Listener:
    """Listen on `address`; `mode` is that of a Unix socket's file. Raises OSError, which names the address.

    With `inherit` the processes that are forked later can serve there: each calls `serve` with the listener. A file
    is removed by the process that has made it. `reuse_port` and `replace` as for `serve`.
    """
    if isinstance(address, str):
        address = parse_address(address)
    if not isinstance(address, UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress):
        raise LocalProtocolError(f"{address} is not listened at: expected {forms(LISTENING_KINDS)}")
    check_ways(address, reuse_port=reuse_port, replace=replace)
    try:
        listener = _listen_at(address, mode, reuse_port, replace)
    except OSError as error:
        raise naming(address, error) from error
    if inherit:
        try:
            listener.inherit()
        except BaseException:
            listener.close()
            raise
    return listener


def _listen_at(
    address: UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress,
    mode: int,
    reuse_port: bool,
    replace: bool,
) -> Listener:
    if isinstance(address, UnixAddress):
        with socket_with_file(address.path, mode, replaces=replace) as sock:
            return FileListener(address, address.path, sock)
    return _listen_tcp(address, reuse_port) if isinstance(address, TcpAddress) else _listen_zmq(address)


def check_listenable(address: Address) -> None:
    """Raises `LocalProtocolError` for an address that one can only connect to."""
    if not isinstance(address, tuple(LISTENING_KINDS)):
        raise LocalProtocolError(f"{address} cannot be served on: expected {forms(LISTENING_KINDS)}")


def check_ways(address: Address, *, reuse_port: bool, replace: bool) -> None:
    """Raises `LocalProtocolError` for a way to listen beside another server that the address does not have."""
    if reuse_port and not isinstance(address, TcpAddress):
        raise LocalProtocolError(f"{address} has no use for reuse_port: only tcp: and tls: have")
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise LocalProtocolError(f"{address}: this system has no SO_REUSEPORT, which reuse_port needs")
    if replace and not isinstance(address, UnixAddress):
        raise LocalProtocolError(f"{address} has no use for replace: only unix: has")


def is_for_strangers(where: object) -> bool:
    """True for an address, or a `Listener` there, to which anybody on the network can connect unknown."""
    if isinstance(where, str):
        where = parse_address(where)
    if isinstance(where, Listener):
        where = where.address
    if isinstance(where, ZmqAddress):
        return where.endpoint.startswith("tcp:") and getattr(where, "curve", None) is None
    return isinstance(where, TcpAddress) and not isinstance(where, TlsAddress)


# TCP


def _listen_tcp(address: TcpAddress, reuse_port: bool) -> Listener:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    places = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    tries = PORT_TRIES if address.port == 0 and len(places) > 1 else 1
    while True:
        tries -= 1
        try:
            sockets = _listen_all(places, reuse_port)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise
    real = replaced(address, port=sockets[0].getsockname()[1])
    warn_if_exposed(real, sockets)
    return Listener(real, sockets)


def warn_if_exposed(address: TcpAddress, sockets: Sequence[socket.socket]) -> None:
    """Log a WARNING if others than this machine can connect, without TLS. By logging: the program is not wrong."""
    if isinstance(address, TlsAddress):
        return
    hosts = [sock.getsockname()[0].partition("%")[0] for sock in sockets]
    if not all(ipaddress.ip_address(host).is_loopback for host in hosts):
        logger.warning(
            "%s: whoever reaches this address may use the service and read what others do there: tcp: has no "
            "authentication and no encryption; serve at 127.0.0.1 or a Unix socket, through SSH, or use tls:",
            address,
        )


def _listen_all(places: Sequence[tuple[socket.AddressFamily, Any]], reuse_port: bool) -> list[socket.socket]:
    """Listen at all of a host's addresses, on the same port; one that this machine does not have is left out."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, port, *more) in places:
            port = sockets[0].getsockname()[1] if sockets else port  # noqa: PLW2901
            try:
                place = (host, port, *more)
                sockets.append(forking.guarded_socket(partial(_create_server, place, family, reuse_port)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if not sockets:
            raise missing or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _create_server(place: Any, family: socket.AddressFamily, reuse_port: bool) -> socket.socket:
    return socket.create_server(place, family=family, backlog=BACKLOG, reuse_port=reuse_port)


# ZMQ


def _listen_zmq(address: ZmqPairAddress | ZmqRouterAddress) -> Listener:
    path = address.endpoint.removeprefix("ipc://")
    if path == address.endpoint or path.startswith("@"):
        bound = _bind_zmq(address)
        return Listener(replaced(address, endpoint=bound.endpoint), [bound])
    # ZMQ itself would take a file away from a server that is alive, and let everybody in for a moment
    with socket_with_file(path) as sock:
        bound = _bind_zmq(address, sock)
        return FileListener(replaced(address, endpoint=bound.endpoint), path, bound)


def _bind_zmq(address: ZmqPairAddress | ZmqRouterAddress, sock: socket.socket | None = None) -> ZmqListener:
    from packetwire.streams.curve import CurveServer
    from packetwire.streams.zmqrouter import ZmqListener

    curve = address.curve
    if curve is not None and not isinstance(curve, CurveServer):
        raise LocalProtocolError(f"{address}: who serves needs the keys of a CurveServer")
    return ZmqListener(
        address.endpoint,
        pair=isinstance(address, ZmqPairAddress),
        curve=curve,
        idle_limit=address.idle_limit,
        listening=sock,
    )
