"""ZMQ sockets that have one owner, who is told when somebody else ends them.

A program may end a context whenever it likes: `term` has every call on its sockets fail, and waits until they are
closed; `destroy` closes them, in its own thread, whoever uses them at that moment. So the owner of a socket gives
it a *keeper*, which `destroy` calls instead: it takes the owner's lock, lets go of the socket, and tells those who
wait. And an owner whose call fails because the context was ended lets go of the socket at once, so that `term`
need not wait for a `close`.

A descriptor of a socket must not be polled any more when the socket is closed: its number may be another's then.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from packetwire.streams import forking
from packetwire.streams.fds import check_descriptors_left
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.owned import disown

Keeper = Callable[[], object]

HEADROOM = 16
"""Descriptors that have to be free for a socket: libzmq ends the process if its own threads can have none."""

_ENDED = (int(zmq.ETERM), int(zmq.ENOTSOCK))
_parents: list[object] = []


class OwnedSocket(zmq.Socket[bytes]):
    """A ZMQ socket with an owner. Who owns it calls `let_go`; `close` is for everybody else."""

    keeper: Keeper | None = None
    """Called by `close`, and once only: has to lead to `let_go`, in a way that is safe for who uses the socket."""

    def close(self, linger: int | None = None) -> None:
        keeper, self.keeper = self.keeper, None
        if keeper is not None:
            keeper()
        self.let_go(linger)

    def let_go(self, linger: int | None = None) -> None:
        """Close it, without asking anybody. A second call does nothing."""
        self.keeper = None
        super().close(linger)


def owned_socket(context: zmq.Context[Any], kind: int) -> OwnedSocket:
    """A socket of that context, whatever class its sockets are of. Raises OSError."""
    check_descriptors_left(HEADROOM)
    try:
        sock: OwnedSocket = context.socket(kind, socket_class=OwnedSocket)
    except zmq.ZMQError as error:
        raise os_error(error) from error
    return sock


def open_monitor(sock: zmq.Socket[Any], events: int) -> OwnedSocket:
    """A socket that tells what happens to the links of another. Raises OSError."""
    monitor = owned_socket(sock.context, zmq.PAIR)
    endpoint = f"inproc://packetwire-monitor-{uuid.uuid4()}"
    try:
        monitor.linger = 0
        uninterrupted(sock.monitor, endpoint, events)
        monitor.connect(endpoint)
    except BaseException as error:
        monitor.let_go()
        if isinstance(error, zmq.ZMQError):
            raise os_error(error) from error
        raise
    return monitor


def close_monitored(sock: OwnedSocket, monitor: OwnedSocket | None, linger: int | None = None) -> None:
    """Close a socket and its monitor, of which the context may have been ended. A second call does nothing."""
    if monitor is not None and not monitor.closed:
        with suppress(zmq.ZMQError):  # the context was ended, or the socket is closed already
            uninterrupted(sock.monitor, None, 0)
        monitor.let_go(0)
    sock.let_go(linger)


def leave_to_parent(*sockets: zmq.Socket[Any] | zmq.Context[Any] | None) -> None:
    """In the child of a fork: nobody there uses these any more, or is told that they are closed.

    libzmq cannot be used in a fork: what it shares with the parent are the descriptors by which its threads wake
    each other up. So nothing is closed, not even by the garbage collector.
    """
    for socket in sockets:
        if isinstance(socket, OwnedSocket):
            socket.keeper = None
        elif isinstance(socket, zmq.Socket):
            disown(socket)
    _parents.extend(sockets)


class _ContextInstance:
    """The lock of `zmq.Context.instance`, by which a fork gets a context of its own."""

    def after_fork(self) -> None:
        context: Any = zmq.Context
        context._instance_lock = threading.Lock()


_context_instance = forking.register(_ContextInstance())


def is_ended(error: BaseException) -> bool:
    """Whether it says that the context was ended, or the socket closed by somebody else."""
    return isinstance(error, zmq.ZMQError) and error.errno in _ENDED


def context_ended() -> OSError:
    """For those who use a socket whose context was ended."""
    return OSError(errno.ESHUTDOWN, "the program has ended the ZMQ context of this socket")


def os_error(error: zmq.ZMQError, what: str = "") -> OSError:
    """What ZMQ says, as an error of the system."""
    if is_ended(error):
        return context_ended()
    text = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, f"{what}: {text}" if what else text)
