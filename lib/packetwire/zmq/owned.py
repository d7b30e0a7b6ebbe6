"""ZMQ sockets whose owner hears when somebody else closes them.

`Context.destroy` closes every socket of a context, wherever these are in use. The descriptor of a socket that is
closed tells nothing more, so whoever sleeps on it would sleep for ever; and a call on a closed socket may reach
into memory that libzmq has given back. So the owner is called first: it stops using the socket, and wakes its
waiters. That is a matter of the one socket, which remains of the class that it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod, ref

import zmq


def set_owner(socket: zmq.Socket[Any], before_close: Callable[[], None]) -> None:
    """Have that bound method called once before the socket is closed, in the thread that closes it.

    Neither the socket nor the object of the method is kept alive. An owner that closes the socket itself calls
    `disown` before.
    """
    find_socket, find_owner = ref(socket), WeakMethod(before_close)

    def close(linger: int | None = None) -> None:
        closing = find_socket()
        if closing is None:
            return  # the garbage collector has it, which closes it
        disown(closing)
        tell = find_owner()
        if tell is not None:
            tell()
        closing.close(linger)

    socket.__dict__["close"] = close


def disown(socket: zmq.Socket[Any]) -> None:
    """Nobody is told any more."""
    socket.__dict__.pop("close", None)
