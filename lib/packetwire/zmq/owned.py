"""ZMQ sockets whose owner is called when somebody else closes them.

`Context.destroy` closes every socket of a context, even one that is in use. The descriptor of a closed socket
signals nothing, so a thread that polls it would sleep for ever; and a call on a closed socket may access freed
memory of libzmq. So the owner is called first: it stops using the socket, and wakes its waiters. Only the instance
is changed; its class remains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakMethod, ref

import zmq

SentT = TypeVar("SentT")
"""The type of a socket's sent messages, of which nothing here depends."""


def set_owner(socket: zmq.Socket[SentT], before_close: Callable[[], None]) -> None:
    """Have a bound method called once before the socket is closed by somebody else, in the thread that does.

    Neither the socket nor the owner is kept alive. The owner itself closes the socket by `let_go`.
    """
    find_socket, find_owner = ref(socket), WeakMethod(before_close)

    def close(linger: int | None = None) -> None:
        closing = find_socket()
        if closing is None:
            return  # the garbage collector is closing it
        disown(closing)
        tell = find_owner()
        if tell is not None:
            tell()
        closing.close(linger)

    socket.__dict__["close"] = close


def let_go(socket: zmq.Socket[SentT], linger: int | None = None) -> None:
    """Close the socket as its owner, who is not called. A second call does nothing."""
    disown(socket)
    socket.close(linger)


def disown(socket: zmq.Socket[SentT]) -> None:
    """Undo `set_owner`."""
    socket.__dict__.pop("close", None)
