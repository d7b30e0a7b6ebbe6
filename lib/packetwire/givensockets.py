"""Listening sockets that somebody else has made: this program, or whoever has started it.

The latter says by environment variables which descriptors those are, as systemd does (`sd_listen_fds`):
`LISTEN_FDS` is their number, from 3 on, `LISTEN_PID` the process that they are for, `LISTEN_FDNAMES` has a name for
each.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace

from packetwire.addresses import Address, TcpAddress, UnixAddress
from packetwire.errors import LocalProtocolError
from packetwire.listeners import Listener, warn_if_exposed
from packetwire.streams import forking

__all__ = ["GivenSockets", "inherited_sockets"]

GivenSocket = socket.socket | int
GivenSockets = GivenSocket | Sequence[GivenSocket]
"""A socket, its descriptor, or several of them."""

FIRST_PASSED = 3
"""The lowest descriptor that is passed."""
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

_lock = threading.Lock()
_left: list[tuple[str, int]] = []
"""Names and descriptors that were passed to this process, and that nobody has asked for."""
_inherited: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def inherited_sockets(name: str | None = None) -> list[socket.socket]:
    """The sockets that were passed to this process by LISTEN_FDS, with that name, or all; each is returned once.

        serve("unix:/run/store.sock", Store, listener=inherited_sockets() or None)

    That is how systemd starts a service with a socket unit; the name is its `FileDescriptorName=`, by default that
    of the unit. There are none if LISTEN_PID names another process. The variables are removed from `os.environ`,
    and programs that are started later do not get the descriptors.

    Raises `LocalProtocolError` if the variables make no sense, or if what was passed is no socket.
    """
    with _lock:
        _left.extend(_passed())
        found = [(each, fd) for each, fd in _left if name in (None, each)]
        sockets = [_socket_at(fd, f"descriptor {fd} ({each}) of LISTEN_FDS") for each, fd in found]
        _left[:] = [each for each in _left if each not in found]
    _inherited.update(sockets)
    return sockets


def _passed() -> list[tuple[str, int]]:
    """The names and descriptors that the environment tells of, which then does so no more."""
    fds, pid, names, _ = (os.environ.pop(variable, "") for variable in VARIABLES)
    if not fds or not pid:
        return []
    if _number("LISTEN_PID", pid) != os.getpid():
        return []
    count = _number("LISTEN_FDS", fds)
    given = names.split(":") if names else ["unknown"] * count
    if len(given) != count:
        raise LocalProtocolError(f"LISTEN_FDNAMES={names!r} has {len(given)} names for LISTEN_FDS={count}")
    for fd in range(FIRST_PASSED, FIRST_PASSED + count):
        _check_open(fd, f"descriptor {fd} of LISTEN_FDS")
        os.set_inheritable(fd, False)
    return list(zip(given, range(FIRST_PASSED, FIRST_PASSED + count), strict=True))


def _number(variable: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise LocalProtocolError(f"{variable}={text!r} is not a number")
    return int(text)


def _check_open(fd: int, what: str) -> os.stat_result:
    try:
        return os.fstat(fd)
    except (OSError, OverflowError) as error:
        raise LocalProtocolError(f"{what} is not open") from error


def _socket_at(fd: int, what: str) -> socket.socket:
    if not stat.S_ISSOCK(_check_open(fd, what).st_mode):
        raise LocalProtocolError(f"{what} is not a socket")
    with forking.opening():
        return forking.guard(socket.socket(fileno=fd))


# serving at what is given


class GivenListener(Listener):
    """A listener whose sockets somebody else has bound, and may use, too: what belongs to them stays as it is."""

    def hold_off(self) -> None:
        """Do nothing: it would hold for all who have the socket."""


def check_given(address: Address, given: GivenSockets) -> None:
    """Raise `LocalProtocolError` or TypeError if one cannot serve at that address with these sockets."""
    if not isinstance(address, UnixAddress | TcpAddress):
        raise LocalProtocolError(f"{address} has no use for a listener: only unix:, tcp: and tls: have")
    for one in _each(given):
        if isinstance(one, socket.socket):
            _check(address, one, "the listener")
            continue
        if isinstance(one, bool) or not isinstance(one, int):
            raise TypeError(f"listener must be a socket, a descriptor or several of them, got {one!r:.100}")
        sock = _socket_at(one, f"{address}: descriptor {one}")
        try:
            _check(address, sock, f"descriptor {one}")
        finally:
            forking.keep(sock)
            sock.detach()


def listener_on(address: UnixAddress | TcpAddress, given: GivenSockets) -> Listener:
    """The listener with these sockets, which are its own from now on; its address has their real port."""
    check_given(address, given)
    sockets = [
        each if isinstance(each, socket.socket) else _socket_at(each, f"{address}: descriptor {each}")
        for each in _each(given)
    ]
    for sock in sockets:
        forking.guard(sock)
        sock.set_inheritable(False)
    if isinstance(address, TcpAddress):
        address = replace(address, port=sockets[0].getsockname()[1])
        warn_if_exposed(address, sockets)
    return GivenListener(address, sockets, shared=all(sock in _inherited for sock in sockets))


def _each(given: GivenSockets) -> Sequence[GivenSocket]:
    if not isinstance(given, list | tuple):
        return [given]  # type: ignore[list-item]
    if not given:
        raise LocalProtocolError("listener has no socket in it; None stands for none")
    return given


def _check(address: UnixAddress | TcpAddress, sock: socket.socket, what: str) -> None:
    if sock.fileno() < 0:
        raise LocalProtocolError(f"{address}: {what} is closed")
    families = {socket.AF_UNIX} if isinstance(address, UnixAddress) else {socket.AF_INET, socket.AF_INET6}
    if sock.family not in families:
        raise LocalProtocolError(f"{address}: {what} is a socket of {_name_of(sock.family)}")
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) != socket.SOCK_STREAM:
        raise LocalProtocolError(f"{address}: {what} is a socket of {_name_of(sock.type)}, not of SOCK_STREAM")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise LocalProtocolError(f"{address}: {what} does not listen")
    if isinstance(address, TcpAddress) and address.port not in (0, port := sock.getsockname()[1]):
        raise LocalProtocolError(f"{address}: {what} listens at port {port}")


def _name_of(kind: object) -> str:
    return getattr(kind, "name", str(kind))
