"""The exceptions of the group ports."""

from __future__ import annotations

import errno
from typing import ClassVar, Self

from packetwire.errors import ConnectionEnded, PacketwireError

_ZMQ_NUMBERS = 156384712
"""The base of ZMQ's own error numbers."""


class OperationError(PacketwireError):
    """The port does not have that operation, or not in its current state. Nothing was done."""


class PortError(PacketwireError):
    """Nothing was sent, or nothing was received; the port can still be used.

    `errno` says why. The numbers that the reference names are attributes of this class; the others are
    `EMSGSIZE` (a frame is too long), `EADDRINUSE` (another socket has that address) and `ENOTSOCK` (the
    port has no socket: it was not set up, or is closed).
    """

    EAGAIN: ClassVar = errno.EAGAIN
    """Not within the time limit."""
    EFAULT: ClassVar = errno.EFAULT
    """The message is malformed."""
    EROUTE: ClassVar = errno.EHOSTUNREACH
    """There is nobody to send to."""
    EPROTO: ClassVar = _ZMQ_NUMBERS + 51
    """The socket does not allow it in its current state."""
    ETERM: ClassVar = _ZMQ_NUMBERS + 53
    """The ZMQ context was terminated."""

    def __init__(self, message: str, errno: int) -> None:
        super().__init__(message)
        self.errno = errno

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        return type(self), (self.args[0], self.errno)


class PortOfParent(PortError, ConnectionEnded):
    """The port was set up in the parent process, of which this one is a fork."""

    def __init__(self, message: str, errno: int = errno.ENOTSOCK) -> None:
        super().__init__(message, errno)
