"""ZMQ sockets whose owner hears when somebody else closes them.

`Context.destroy` closes every socket of a context, wherever these are in use. The descriptor of a socket that is
closed tells nothing more, so whoever sleeps on it would sleep for ever; and a call on a closed socket may reach
into memory that libzmq has given back. So the owner is called first: it stops using the socket, and wakes its
waiters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import zmq


class Owned:
    """Goes before a class of ZMQ sockets: one with `set_owner`."""

    _before_close: Callable[[], Callable[[], None] | None] | None = None

    def set_owner(self, before_close: Callable[[], None] | None) -> None:
        """Have that bound method called once before the socket is closed, in the thread that closes it.

        The object that it belongs to is not kept alive. An owner that closes the socket itself sets None before.
        """
        self._before_close = None if before_close is None else WeakMethod(before_close)

    def close(self, linger: int | None = None) -> None:
        """Close the socket. A second call does nothing."""
        find, self._before_close = self._before_close, None
        before_close = None if find is None else find()
        if before_close is not None:
            before_close()
        super().close(linger)  # type: ignore[misc]


class OwnedSocket(Owned, zmq.Socket[bytes]):
    """A plain socket with an owner."""


def disown(socket: zmq.Socket[Any] | None) -> None:
    """The owner of that socket, if it has one, is about to close it."""
    if isinstance(socket, Owned):
        socket.set_owner(None)
