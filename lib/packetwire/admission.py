"""Who is let in: accepting from listening sockets, and turning away those for whom there is no place."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeGuard

from packetwire.listeners import BACKLOG, Acceptor, Listener
from packetwire.streams.fds import check_descriptors_left
from packetwire.streams.zmqpeers import THE_END, PeerStream

logger = logging.getLogger("packetwire")

EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
LISTENER_BROKEN = {errno.EBADF, errno.EINVAL, errno.ENOTSOCK, errno.EOPNOTSUPP}

DESCRIPTORS_OF_A_CLIENT = 16
"""Descriptors that have to be free before a client is accepted: it would have to be hung up on without them."""

Client = socket.socket | PeerStream


def is_exhaustion(error: BaseException | None) -> TypeGuard[OSError]:
    """Whether the system is out of descriptors or memory, which is not the fault of one client."""
    return isinstance(error, OSError) and error.errno in EXHAUSTED


class Admission:
    """Accepts clients; `rest` is called when it makes no sense to accept anybody for a moment."""

    def __init__(self, listener: Listener, rest: Callable[[], object]) -> None:
        self._listener = listener
        self._rest = rest
        self._exhausted = False

    def accept(self, listening: Acceptor) -> Client | None:
        """A client that waits, or None. Raises OSError if nobody can be accepted any more."""
        try:
            check_descriptors_left(DESCRIPTORS_OF_A_CLIENT)
            client, _ = listening.accept()
        except OSError as error:
            if error.errno in LISTENER_BROKEN:
                raise
            if error.errno in EXHAUSTED:
                self.ran_out(error)
            return None  # else it is gone already, or what is wrong with it concerns nobody else
        self._exhausted = False
        return client

    def ran_out(self, error: Exception) -> None:
        """The system is out of something, which polling again at once would not change."""
        if not self._exhausted:
            self._exhausted = True
            logger.error("%s: clients have to wait: %s", self._listener.address, error)
        self._rest()

    def turn_away(self, max_connections: int, *, in_clear: bool) -> None:
        """Tell the clients that wait that there is no place for them, so that they do not hang.

        If they do not speak `in_clear` they are hung up on instead.
        """
        turned_away = 0
        for listening in self._listener.sockets:
            # streams of ZMQ that nobody has accepted have no descriptors, and need none for this
            tell_next = getattr(listening, "turn_away", None)
            while tell_next is not None and turned_away < BACKLOG and tell_next():
                turned_away += 1
            while turned_away < BACKLOG and (client := self.accept(listening)):
                turned_away += 1
                if isinstance(client, PeerStream):
                    client.turn_away()
                    continue
                with client, suppress(OSError):  # it may be gone already
                    if in_clear:
                        client.send(THE_END, socket.MSG_DONTWAIT)
        if turned_away:
            logger.warning(
                "%s: %d clients turned away, as max_connections=%d are connected",
                self._listener.address,
                turned_away,
                max_connections,
            )
