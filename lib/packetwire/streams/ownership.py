"""Supplied descriptors: whether a number still belongs to the file that it was supplied for.

Its owner may close it, and the next file that anything opens gets the number. A duplicate of our own would be safe
from that, but the peer would not see the owner's close. So the file is recognised by its identity, as fstat tells
it: when a connection is opened, before each write, and before reading after a pause. Of an object, such as a
socket, it is enough to ask for its number, which costs next to nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import Any

from packetwire.errors import LocalProtocolError

PAUSE = 0.001
"""Seconds without reading after which a descriptor is looked at again."""

Identity = tuple[int, int, int]


def identity_of(fd: int) -> Identity | None:
    """What makes a file this one and no other; None if the descriptor is closed."""
    try:
        found = os.fstat(fd)
    except (OSError, OverflowError):
        return None
    return found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode)


class Supplied:
    """A descriptor that is its owner's: `owner` is the object that has it, if one was supplied."""

    def __init__(self, fd: int, owner: Any = None) -> None:
        self._fd = fd
        self._owner = owner
        self._identity = identity_of(fd)
        self._read_at = 0.0
        self._number = None if owner is None else owner.fileno
        self.number = self._number if isinstance(owner, socket.socket) else None
        """Of a socket: asks for its number, and raises nothing, so that it can be asked in passing."""

    def before_write(self) -> None:
        """Raises OSError if the number is not that file's any more."""
        if self._number is None:
            # as `check` does, at each write
            try:
                found = os.fstat(self._fd)
            except (OSError, OverflowError):
                self.check()
                return
            if self._identity is None or found.st_ino != self._identity[1] or found.st_dev != self._identity[0]:
                self.check()
            return
        try:
            if self._number() != self._fd:  # it may be detached, not closed
                self.check()
        except ValueError:
            self.check()

    def before_read(self) -> None:
        """The same, of a number after a pause only."""
        if self._number is None:
            now = time.monotonic()
            if now - self._read_at > PAUSE:
                self.check()
            self._read_at = now
            return
        try:
            if self._number() != self._fd:
                self.check()
        except ValueError:
            self.check()

    def check(self) -> None:
        """Raises OSError if the number is not that file's any more."""
        found = identity_of(self._fd)
        if found is None:
            raise OSError(errno.EBADF, f"descriptor {self._fd} was closed by its owner")
        if found != self._identity:
            raise OSError(
                errno.EBADF, f"descriptor {self._fd} was closed by its owner, and its number is another file's now"
            )

    @property
    def is_intact(self) -> bool:
        """Whether the number is that file's."""
        return identity_of(self._fd) == self._identity


class SuppliedAtFirst:
    """The descriptors in a `recv_send`, as they were when a connection was made, for its openings."""

    def __init__(self, recv_send: Any) -> None:
        parts = recv_send if isinstance(recv_send, tuple | list) else (recv_send,)
        self._identities = {
            part: identity_of(part) for part in parts if isinstance(part, int) and not isinstance(part, bool)
        }

    def check(self) -> None:
        """Raises `LocalProtocolError` if a number belongs to another file now."""
        for fd, identity in self._identities.items():
            found = identity_of(fd)
            if identity is not None and found is not None and found != identity:
                raise LocalProtocolError(
                    f"descriptor {fd} was closed since the connection was made: its number is another file's now"
                )
