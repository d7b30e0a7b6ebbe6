"""ZMQ sockets with one owner, which is called when somebody else ends them.

A program may end a context at any time: `term` makes every call on its sockets fail, and waits until they are
closed; `destroy` closes them, in its own thread, even if they are in use. So the owner of a socket is called before
that (`owned`): it takes its lock, closes the socket, and wakes those who wait. And an owner whose call fails
because the context was ended closes the socket at once, so that `term` does not have to wait for it.

The descriptor of a closed socket must not be polled: its number may be another file's by then.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar, cast

import zmq

from packetwire.streams import forking
from packetwire.streams.fds import check_descriptors_left
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.owned import SentT, disown, let_go

SocketT = TypeVar("SocketT", bound="zmq.Socket[bytes]")

HEADROOM = 16
"""Descriptors that must be free to open a socket: libzmq aborts the process if its own threads get none."""

_ENDED = (int(zmq.ETERM), int(zmq.ENOTSOCK))
_parents: list[object] = []


def owned_socket(context: zmq.Context[SocketT], kind: int) -> zmq.Socket[bytes]:
    """A plain socket of a context, even if that makes sockets of another class. Raises OSError."""
    check_descriptors_left(HEADROOM)
    try:
        # by its types, a context can only make sockets of its own class
        make = cast("Callable[..., zmq.Socket[bytes]]", context.socket)
        sock = make(kind, socket_class=zmq.Socket)
    except zmq.ZMQError as error:
        raise os_error(error) from error
    return sock


def open_monitor(sock: zmq.Socket[SentT], events: int) -> zmq.Socket[bytes]:
    """A socket that receives the link events of another. Raises OSError."""
    monitor = owned_socket(sock.context, zmq.PAIR)
    endpoint = f"inproc://packetwire-monitor-{uuid.uuid4()}"
    try:
        monitor.linger = 0
        uninterrupted(sock.monitor, endpoint, events)
        monitor.connect(endpoint)
    except BaseException as error:
        let_go(monitor)
        if isinstance(error, zmq.ZMQError):
            raise os_error(error) from error
        raise
    return monitor


def close_monitored(sock: zmq.Socket[SentT], monitor: zmq.Socket[bytes] | None, linger: int | None = None) -> None:
    """Close a socket and its monitor, even if their context was ended. A second call does nothing."""
    if monitor is not None and not monitor.closed:
        with suppress(zmq.ZMQError):  # the context was ended, or the socket is closed already
            uninterrupted(sock.monitor, None, 0)
        let_go(monitor, 0)
    let_go(sock, linger)


def leave_to_parent(*sockets: object) -> None:
    """In the child of a fork: have nobody use or close these any more, and no owner called.

    libzmq must not be used there, as it shares with the parent the descriptors by which its threads wake each
    other. So nothing is closed, not even by the garbage collector.
    """
    for socket in sockets:
        if isinstance(socket, zmq.Socket):
            disown(socket)
    _parents.extend(sockets)


class _ContextInstance:
    """The lock of `zmq.Context.instance`, which the child of a fork needs for a context of its own."""

    def after_fork(self) -> None:
        zmq.Context._instance_lock = threading.Lock()


_context_instance = forking.register(_ContextInstance())


def is_ended(error: BaseException) -> bool:
    """True if an error says that the context was ended, or the socket closed by somebody else."""
    return isinstance(error, zmq.ZMQError) and error.errno in _ENDED


def context_ended() -> OSError:
    """The error for users of a socket whose context was ended."""
    return OSError(errno.ESHUTDOWN, "the program has ended the ZMQ context of this socket")


def os_error(error: zmq.ZMQError, what: str = "") -> OSError:
    """An OSError with the number and the text of a `ZMQError`."""
    if is_ended(error):
        return context_ended()
    text = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{what}: {text}" if what else text)
