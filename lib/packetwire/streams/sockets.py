"""Halves over stream sockets.

MSG_DONTWAIT makes single calls non-blocking, so the socket's blocking mode and timeout neither matter nor change.
The halves use a socket object of their own over the same descriptor, because a timeout of the user's object would
make its calls wait.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial

from packetwire.streams import forking
from packetwire.streams.brokenpipe import sigpipe_kills, without_sigpipe
from packetwire.streams.buffers import Buffers
from packetwire.streams.ownership import Supplied
from packetwire.streams.systemcalls import SocketCalls

_HAS_NOSIGNAL = hasattr(socket, "MSG_NOSIGNAL")


class _Aliases(set[SocketCalls]):
    """Keeps the alias sockets alive: the garbage collector would close descriptors that are not theirs."""

    def after_fork(self) -> None:
        """In the child of a fork: detach all, so that no connection there does anything to the parent's sockets."""
        for alias in self:
            alias.detach()


_aliases = forking.register(_Aliases())


def _alias(fd: int, supplied: Supplied | None, check: Callable[[], None] | None) -> SocketCalls:
    """System calls by a second socket object for `fd`; to be released by `_release`, never closed.

    If the socket is `supplied`, `check` is called before each unless its owner still has this descriptor.
    """
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
    calls = SocketCalls(alias, None if supplied is None else supplied.number, check)
    _aliases.add(calls)
    return calls


def _release(alias: SocketCalls) -> None:
    alias.detach()
    _aliases.discard(alias)


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A socket, connected to the first of the host's addresses that accepts. Raises OSError."""
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
    """Reads a stream socket by its descriptor, without taking ownership; `supplied` if it is the user's."""

    def __init__(self, fd: int, *, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._calls = _alias(fd, supplied, None if supplied is None else supplied.before_read)
        # called for each request: without a method of ours around them
        self.try_read, self.try_read_into = self._calls.recv, self._calls.recv_into
        self.is_network = self._calls.sock.family in (socket.AF_INET, socket.AF_INET6)

    def fileno(self) -> int:
        return self._fd

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        _release(self._calls)


class SocketWriter:
    """Writes a stream socket by its descriptor, without taking ownership.

    `end` shuts the direction down only with `shutdown`, for streams that we opened.
    """

    events = select.POLLOUT

    def __init__(self, fd: int, *, shutdown: bool = False, supplied: Supplied | None = None) -> None:
        self._fd = fd
        self._supplied = supplied
        self._shutdown = shutdown
        self._calls = _alias(fd, supplied, None if supplied is None else supplied.before_write)
        self.try_write = self._calls.send if _HAS_NOSIGNAL else self._write_without_signal
        self._delays = _stop_delays(self._calls.sock)

    def fileno(self) -> int:
        return self._fd

    def _write_without_signal(self, buffers: Buffers) -> int:
        if sigpipe_kills():
            return without_sigpipe(partial(self._calls.send, buffers))
        return self._calls.send(buffers)

    def end(self) -> None:
        if self._shutdown:
            try:
                self._calls.sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer is gone already, which ends this direction just as well

    def close(self) -> None:
        if self._delays and (self._supplied is None or self._supplied.is_intact):
            self._delays = False
            try:
                self._calls.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            except OSError:
                pass  # closed by its owner
        _release(self._calls)


def _stop_delays(sock: socket.socket) -> bool:
    """Set TCP_NODELAY; True if that has to be undone in the end.

    Packets that belong together are written together, so Nagle's algorithm would only add 40 ms to a round trip.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
        return False
    if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY):
        return False
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return True
