"""Listening sockets: made for an address, and what has to be cleaned up behind them.

A Unix socket is a file that outlives its server. One that nobody answers on is replaced, one that is in
use is left alone, and at the end a file is removed only if it is still ours. Two servers that start at the
same moment on the same path keep out of each other's way by a lock on a file beside it, which exists for that
moment only and which nobody else can open. Nobody but its owner
can connect: the file gets mode 0600 before the socket listens, and until then it refuses everyone.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
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
from packetwire.streams import forking
from packetwire.streams.zmqpeers import PeerStream

if TYPE_CHECKING:
    from packetwire.streams.zmqrouter import ZmqListener

logger = logging.getLogger("packetwire")

BACKLOG = 1024
"""Clients that the system lets wait to be accepted; it may have a lower bound of its own."""
SOCKET_MODE = 0o600
OPEN_SOCKET_MODE = 0o666
"""Of a socket to which others may connect, who are asked then which user they are."""
LOCK_SECONDS = 5.0
DIRECTORY_LOCK_SECONDS = 0.25
LOCK_MODE = 0o600
LOCK_SUFFIX = ".lock"
LOCK_INTERVAL = 0.01
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
    """The sockets to accept clients from; `address` is the real one, with the port that the system chose."""

    def __init__(self, address: Address, sockets: Sequence[Acceptor]) -> None:
        self.address = address
        self.sockets: Sequence[Any] = sockets
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
        self._is_inherited = True
        for sock in self.sockets:
            forking.keep(sock)

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
        self._file = _identity(self._path)

    def close(self) -> None:
        # the file first: while the socket exists its number is no other file's
        if self.sockets and self._process == os.getpid():
            with suppress(OSError):
                if _identity(self._path) == self._file:
                    os.unlink(self._path)
        super().close()


def listen(address: str | Address, *, mode: int = SOCKET_MODE, inherit: bool = False) -> Listener:
    """Listen on `address`; `mode` is that of a Unix socket's file. Raises OSError, which names the address.

    With `inherit` the processes that are forked later can serve there: each calls `serve` with the listener. A file
    is removed by the process that has made it.
    """
    if isinstance(address, str):
        address = parse_address(address)
    if not isinstance(address, UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress):
        raise LocalProtocolError(f"{address} is not listened at: expected {forms(LISTENING_KINDS)}")
    try:
        listener = _listen_at(address, mode)
    except OSError as error:
        raise naming(address, error) from error
    if inherit:
        try:
            listener.inherit()
        except BaseException:
            listener.close()
            raise
    return listener


def _listen_at(address: UnixAddress | TcpAddress | ZmqPairAddress | ZmqRouterAddress, mode: int) -> Listener:
    if isinstance(address, UnixAddress):
        return _listen_unix(address, mode)
    return _listen_tcp(address) if isinstance(address, TcpAddress) else _listen_zmq(address)


def check_listenable(address: Address) -> None:
    """Raises `LocalProtocolError` for an address that one can only connect to."""
    if not isinstance(address, tuple(LISTENING_KINDS)):
        raise LocalProtocolError(f"{address} cannot be served on: expected {forms(LISTENING_KINDS)}")


def is_for_strangers(where: object) -> bool:
    """True for an address, or a `Listener` there, to which anybody on the network can connect unknown."""
    if isinstance(where, str):
        where = parse_address(where)
    if isinstance(where, Listener):
        where = where.address
    if isinstance(where, ZmqAddress):
        return where.endpoint.startswith("tcp:") and getattr(where, "curve", None) is None
    return isinstance(where, TcpAddress) and not isinstance(where, TlsAddress)


# Unix


def _listen_unix(address: UnixAddress, mode: int) -> Listener:
    with _socket_with_file(address.path, mode) as sock:
        return FileListener(address, address.path, sock)


@contextmanager
def _socket_with_file(path: str, mode: int = SOCKET_MODE) -> Iterator[socket.socket]:
    """A socket that listens at `path`, in place of one that nobody answers on. After an error it is gone again."""
    sock = forking.guarded_socket(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    try:
        with _others_kept_out(path):
            _remove_stale(path)
            sock.bind(path)
            try:
                os.chmod(path, mode)
                sock.listen(BACKLOG)
                yield sock
            except BaseException:
                os.unlink(path)
                raise
    except BaseException:
        sock.close()
        raise


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody answers on; raises OSError for anything else that is there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with forking.guarded_socket(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody does answer, only not at once
    raise OSError(errno.EADDRINUSE, "another server is serving there")


@contextmanager
def _others_kept_out(path: str) -> Iterator[None]:
    """Keep other servers from starting at `path` meanwhile.

    The lock is on a file of our own beside it, which only our user can open. Servers of 0.1.0 lock the directory,
    and so do we for their sake; but whoever can read it can hold that lock, so it is not waited for much.
    """
    with _directory_locked(os.path.dirname(path) or "."):
        lock_path = path + LOCK_SUFFIX
        lock = _take_lock_file(lock_path)
        try:
            yield
        finally:
            if lock is not None:
                with suppress(OSError):
                    os.unlink(lock_path)  # before it is given up: who waits for it notices, and makes a new one
                lock.close()


@contextmanager
def _directory_locked(path: str) -> Iterator[None]:
    try:
        directory = forking.Descriptor(lambda: os.open(path, os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        yield
        return
    try:
        with suppress(OSError):
            _lock(directory.fd, DIRECTORY_LOCK_SECONDS)
        yield
    finally:
        directory.close()


def _take_lock_file(path: str) -> forking.Descriptor | None:
    """The descriptor of the lock file, locked; None where there can be none. Raises OSError if it stays locked."""
    while True:
        lock = _open_lock_file(path)
        if lock is None:
            return None
        try:
            _lock(lock.fd, LOCK_SECONDS)
            found = os.fstat(lock.fd)
            with suppress(FileNotFoundError):
                if _identity(path) == (found.st_dev, found.st_ino):
                    return lock
        except BlockingIOError as error:
            lock.close()
            raise OSError(error.errno, f"another program has locked {path}") from error
        except BaseException:
            lock.close()
            raise
        lock.close()  # its former owner is done and has removed it


def _open_lock_file(path: str) -> forking.Descriptor | None:
    """Open a regular file of our user and nobody else's, which is made if there is none."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = forking.Descriptor(lambda: os.open(path, flags, LOCK_MODE))
    except FileNotFoundError:
        return None  # there is no directory, as binding is about to say
    except OSError as error:
        logger.warning("%s is not used as a lock: %s", path, error.strerror)
        return None
    found = os.fstat(lock.fd)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        os.fchmod(lock.fd, LOCK_MODE)  # whatever the umask is
        return lock
    lock.close()
    logger.warning("%s is not used as a lock: it belongs to someone else, or is no regular file", path)
    return None


def _lock(fd: int, seconds: float) -> None:
    """Raises BlockingIOError if it stays locked for so long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOCK_INTERVAL)
        except OSError:
            return  # not on this file system


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


# TCP


def _listen_tcp(address: TcpAddress) -> Listener:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    places = list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))
    tries = PORT_TRIES if address.port == 0 and len(places) > 1 else 1
    while True:
        tries -= 1
        try:
            sockets = _listen_all(places)
            break
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise
    real = replace(address, port=sockets[0].getsockname()[1])
    if not isinstance(address, TlsAddress):
        _warn_if_exposed(real, sockets)
    return Listener(real, sockets)


def _warn_if_exposed(address: TcpAddress, sockets: Sequence[socket.socket]) -> None:
    """Log a WARNING if others than this machine can connect. By logging: the program is not wrong."""
    hosts = [sock.getsockname()[0].partition("%")[0] for sock in sockets]
    if not all(ipaddress.ip_address(host).is_loopback for host in hosts):
        logger.warning(
            "%s: whoever reaches this address may use the service and read what others do there: tcp: has no "
            "authentication and no encryption; serve at 127.0.0.1 or a Unix socket, through SSH, or use tls:",
            address,
        )


def _listen_all(places: Sequence[tuple[socket.AddressFamily, Any]]) -> list[socket.socket]:
    """Listen at all of a host's addresses, on the same port; one that this machine does not have is left out."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, port, *more) in places:
            port = sockets[0].getsockname()[1] if sockets else port  # noqa: PLW2901
            try:
                place = (host, port, *more)
                sockets.append(forking.guarded_socket(partial(_create_server, place, family)))
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


def _create_server(place: Any, family: socket.AddressFamily) -> socket.socket:
    return socket.create_server(place, family=family, backlog=BACKLOG)


# ZMQ


def _listen_zmq(address: ZmqPairAddress | ZmqRouterAddress) -> Listener:
    path = address.endpoint.removeprefix("ipc://")
    if path == address.endpoint or path.startswith("@"):
        bound = _bind_zmq(address)
        return Listener(replace(address, endpoint=bound.endpoint), [bound])
    # ZMQ itself would take a file away from a server that is alive, and let everybody in for a moment
    with _socket_with_file(path) as sock:
        bound = _bind_zmq(address, sock)
        return FileListener(replace(address, endpoint=bound.endpoint), path, bound)


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
