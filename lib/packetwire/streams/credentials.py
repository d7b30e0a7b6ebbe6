"""The user at the other end of a Unix socket, according to the system."""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable

from packetwire.errors import LocalProtocolError

SOL_LOCAL = 0
_UCRED = struct.Struct("=iII")
"""Linux: process, user, group."""
_XUCRED = struct.Struct("=II")
"""BSD and macOS: version, user; the rest is not needed."""


def peer_uid(sock: socket.socket) -> int:
    """The user who connected the other end. Raises OSError."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(uid)
    found = sock.getsockopt(SOL_LOCAL, socket.LOCAL_PEERCRED, 128)  # type: ignore[attr-defined]
    return int(_XUCRED.unpack_from(found)[1])


def checked_uids(uids: object) -> frozenset[int]:
    """`uids` as a set. Raises TypeError or `LocalProtocolError` if they are not user ids."""
    if isinstance(uids, str | bytes) or not isinstance(uids, Iterable):
        raise TypeError(f"allow_uids must be the numbers of users, as in {{1000}}, got {uids!r:.100}")
    checked = frozenset(uids)
    for uid in checked:
        if type(uid) is not int:
            raise TypeError(f"allow_uids must be the numbers of users, as in {{1000}}, got {uid!r:.100}")
        if uid < 0:
            raise LocalProtocolError(f"allow_uids: {uid} is not a user id")
    if not hasattr(socket, "SO_PEERCRED") and not hasattr(socket, "LOCAL_PEERCRED"):
        raise LocalProtocolError(f"allow_uids: {sys.platform} does not tell who connects to a Unix socket")
    return checked
