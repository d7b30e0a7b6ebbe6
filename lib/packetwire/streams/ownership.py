"""Supplied descriptors: checks that a number still refers to the file that it was supplied for.

The owner may close it, and the next file that is opened gets the number. A duplicate of our own would be safe from
that, but then the peer would not see the owner's close. So the file is recognised by its identity, from fstat: when
a connection is opened, before each write, and before reading after a pause. An object, such as a socket, only needs
to be asked for its number, which costs next to nothing.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from typing import Protocol

from packetwire.errors import LocalProtocolError
from packetwire.streams.systemcalls import is_that_file

PAUSE = 0.001
"""Seconds without reading after which a descriptor is checked again."""

Identity = tuple[int, int, int]


class HasFileno(Protocol):
    """A socket or file."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


def identity_of(fd: int) -> Identity | None:
    """The identity of the file behind a descriptor; None if that is closed."""
    try:
        found = os.fstat(fd)
    except (OSError, OverflowError):
        return None
    return found.st_dev, found.st_ino, stat.S_IFMT(found.st_mode)


class Supplied:
    """A descriptor that belongs to somebody else: to `owner`, if an object was supplied."""

    def __init__(self, fd: int, owner: HasFileno | None = None) -> None:
        self._fd = fd
        self._owner = owner
        self._identity = identity_of(fd)
        self._device, self._inode = self._identity[:2] if self._identity is not None else (0, 0)
        self._read_at = 0.0
        self._number = None if owner is None else owner.fileno
        self.number = self._number if isinstance(owner, socket.socket) else None
        """For sockets: the owner's `fileno`, which never raises, so that the fast path can call it."""

    def before_write(self) -> None:
        """Raise OSError if the number no longer refers to that file."""
        if self._number is None:
            if not is_that_file(self._fd, self._device, self._inode):  # as in `check`, but cheaper
                self.check()
            return
        try:
            if self._number() != self._fd:  # it may be detached, not closed
                self.check()
        except ValueError:
            self.check()

    def before_read(self) -> None:
        """The same; a bare number is checked only after a pause."""
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
        """Raise OSError if the number no longer refers to that file."""
        found = identity_of(self._fd)
        if found is None:
            raise OSError(errno.EBADF, f"descriptor {self._fd} was closed by its owner")
        if found != self._identity:
            raise OSError(
                errno.EBADF, f"descriptor {self._fd} was closed by its owner, and its number is another file's now"
            )

    @property
    def is_intact(self) -> bool:
        """True if the number still refers to that file."""
        return identity_of(self._fd) == self._identity


class SuppliedAtFirst:
    """The identities of a `recv_send`'s descriptors when a connection was made, checked when it opens."""

    def __init__(self, recv_send: object) -> None:
        parts = recv_send if isinstance(recv_send, tuple | list) else (recv_send,)
        self._identities = {
            part: identity_of(part) for part in parts if isinstance(part, int) and not isinstance(part, bool)
        }

    def check(self) -> None:
        """Raise `LocalProtocolError` if a number refers to another file now."""
        for fd, identity in self._identities.items():
            found = identity_of(fd)
            if identity is not None and found is not None and found != identity:
                raise LocalProtocolError(
                    f"descriptor {fd} was closed since the connection was made: its number is another file's now"
                )
