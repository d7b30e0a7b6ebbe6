"""Halves over stream sockets.

MSG_DONTWAIT makes single calls non-blocking, so neither the socket's blocking mode nor its timeout
matters, or is changed. The halves use a socket object of their own over the same descriptor, because a
timeout on the user's object would make its calls wait.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from functools import partial

from packetwire.streams import forking
from packetwire.streams.brokenpipe import sigpipe_kills, without_sigpipe
from packetwire.streams.bytestream import Buffers
from packetwire.streams.fds import MAX_BUFFERS, READ_SIZE
from packetwire.streams.ownership import Supplied

_DONTWAIT = socket.MSG_DONTWAIT
_NOSIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
_SEND_FLAGS = socket.MSG_DONTWAIT | _NOSIGNAL


class _Aliases(set[socket.socket]):
    """Kept from the garbage collector, which would close a descriptor that is not theirs."""

    def after_fork(self) -> None:
        """In the child of a fork: nothing that is done to a connection there reaches the parent's socket."""
        for alias in self:
            alias.detach()


_aliases = forking.register(_Aliases())


def _alias(fd: int) -> socket.socket:
    """A second socket object for `fd`; `_release` it, never close it."""
    if socket.getdefaulttimeout() is None:
        alias = socket.socket(fileno=fd)
    else:
        # with a default timeout, making the object sets O_NONBLOCK, and its calls would wait
        blocking = os.get_blocking(fd)
        try:
            alias = socket.socket(fileno=fd)
            alias.settimeout(0)
        finally:
            os.set_blocking(fd, blocking)
    _aliases.add(alias)
    return alias


def _release(alias: socket.socket) -> None:
    alias.detach()
    _aliases.discard(alias)


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A socket that is connected to the first of the host's addresses that answers. Raises OSError."""
    error: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            sock = forking.guarded_socket(partial(socket.socket, family, kind, protocol))
        except OSError as no_such_family:
            error = no_such_family
            continue
        try:
            sock.settimeout(timeout)
            sock.connect(address)
        except OSError as refused:
            sock.close()
            error = refused
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error or OSError(errno.EHOSTUNREACH, "the host has no address")


class SocketReader:
    """Reads a stream socket by its descriptor, which stays its owner's; `supplied` if that is its user."""

    def __init__(self, fd: int, *, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._socket = _alias(fd)
        self._recv_into = self._socket.recv_into
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        return self._fd

    def try_read(self, size: int) -> bytes | None:
        supplied = self._supplied
        if supplied is not None and (supplied.number is None or supplied.number() != self._fd):
            supplied.before_read()
        try:
            if size > READ_SIZE:
                return self._socket.recv(size, _DONTWAIT)  # one copy less, which counts for large ones only
            count = self._recv_into(self._buffer, 0, _DONTWAIT)
        except BlockingIOError:
            return None
        return bytes(self._view[:count])

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        _release(self._socket)
        # a connection that is closed may be kept, or wait for the garbage collector: not with this
        self._view = memoryview(b"")
        self._buffer = bytearray()


class SocketWriter:
    """Writes a stream socket by its descriptor, which stays its owner's.

    `end` shuts the direction down only if `shutdown`, that is if the stream was opened by us.
    """

    events = select.POLLOUT

    def __init__(self, fd: int, *, shutdown: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._shutdown = shutdown
        self._socket = _alias(fd)
        self._send = self._socket.send
        self._delays = _stop_delays(self._socket)

    def fileno(self) -> int:
        return self._fd

    def try_write(self, buffers: Buffers) -> int:
        supplied = self._supplied
        if supplied is not None and (supplied.number is None or supplied.number() != self._fd):
            supplied.before_write()
        try:
            if not _NOSIGNAL and sigpipe_kills():
                return without_sigpipe(lambda: self._write(buffers))
            if len(buffers) == 1:
                return self._send(buffers[0], _SEND_FLAGS)
            return self._write(buffers)
        except BlockingIOError:
            return 0

    def _write(self, buffers: Buffers) -> int:
        return self._socket.sendmsg(buffers[:MAX_BUFFERS], (), _SEND_FLAGS)

    def end(self) -> None:
        if self._shutdown:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer may be gone already, which ends this direction just as well

    def close(self) -> None:
        if self._delays and (self._supplied is None or self._supplied.is_intact):
            self._delays = False
            try:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            except OSError:
                pass  # closed by its owner
        _release(self._socket)


def _stop_delays(sock: socket.socket) -> bool:
    """Have TCP send what is written at once; true if that has to be taken back in the end.

    Packets that belong together are written together, so waiting for more only costs 40 ms a round trip.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY):
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return True
