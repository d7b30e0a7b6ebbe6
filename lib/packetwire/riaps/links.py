"""The state of the link between a connecting socket and its one peer.

ZMQ accepts messages for a peer that is not there, and holds them. A leader that is gone must not swallow questions
silently, so the socket's monitor is read before anything is sent.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import cast

import zmq

from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.owned import disown, set_owner
from packetwire.zmq.sockets import leave_to_parent

ZmqSocket = zmq.Socket[bytes]

_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
_EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | _FAILURES
_EVENT = struct.Struct("=HI")
"""The first frame of a monitor's messages; zmq.utils.monitor would import asyncio to parse it."""
_numbers = itertools.count(1)
"""Makes the addresses of monitors unique: ZMQ frees one only some time after its monitor was closed."""


class Links:
    """The state of the link to one address, by the socket's monitor. Used by one thread at a time."""

    def __init__(self, socket: ZmqSocket) -> None:
        self._socket = socket
        self._monitor = open_monitor(socket, _EVENTS)
        self._endpoint = b""
        self._linked = False
        self._failure = ""

    def set_owner(self, before_close: Callable[[], None]) -> None:
        """Have a method called before somebody else closes the monitor."""
        set_owner(self._monitor, before_close)

    def after_fork(self) -> None:
        """In the child of a fork: the monitor is the parent's, too."""
        leave_to_parent(self._monitor)

    def fileno(self) -> int:
        """A descriptor that is readable when the state may have changed."""
        return self._monitor.fileno()

    def follow(self, endpoint: str) -> None:
        """Watch the link to `endpoint` from now on; to none if it is empty."""
        self._read()  # drop the events of the one before
        self._endpoint, self._linked, self._failure = endpoint.encode(), False, ""

    @property
    def is_up(self) -> bool:
        self._read()
        return self._linked

    @property
    def failure(self) -> str:
        """The reason why there is no link, if known."""
        return self._failure

    def _read(self) -> None:
        while cast(int, self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            told, endpoint = self._monitor.recv_multipart(zmq.NOBLOCK)
            if endpoint != self._endpoint:
                continue
            event, _ = _EVENT.unpack(told)
            self._linked = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if self._linked:
                self._failure = ""
            elif event & _FAILURES:
                self._failure = "the handshake failed, one side has a wrong key, or none"

    def close(self) -> None:
        """Close the monitor, before the socket itself is closed. A second call does nothing."""
        if not self._monitor.closed:
            close_monitor(self._socket, self._monitor)


def open_monitor(socket: ZmqSocket, events: int) -> ZmqSocket:
    """A socket that receives the `events` of another."""
    address = f"inproc://packetwire-riaps-{next(_numbers)}"
    monitor: ZmqSocket = uninterrupted(socket.context.socket, zmq.PAIR, zmq.Socket)
    try:
        # with a bound on this queue, ZMQ's own thread would block until somebody reads it
        monitor.rcvhwm = 0
        uninterrupted(socket.monitor, address, events)
        uninterrupted(monitor.connect, address)
    except BaseException:
        monitor.close(0)
        raise
    return monitor


def close_monitor(socket: ZmqSocket, monitor: ZmqSocket) -> None:
    """Close the monitor, before the socket itself is closed."""
    disown(monitor)
    with suppress(zmq.ZMQError):  # the owner has closed it, or the context was terminated
        uninterrupted(socket.disable_monitor)
    monitor.close(0)
