"""The links of a listening ZMQ socket: keeping track of them, and cutting one off.

libzmq has no call that ends the link of one peer. But each frame has the number of the descriptor that it came
over, and shutting that down makes libzmq drop the link. The number may have become another link's: so we duplicate
the descriptor first, and read the socket's monitor after that. libzmq reports the end of a link before it closes
the descriptor; so if no end is reported, the duplicate is of the right link.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import zmq

from packetwire.streams.fds import check_descriptors_left
from packetwire.zmq.owned import SentT
from packetwire.zmq.sockets import open_monitor

logger = logging.getLogger("packetwire")

Link = tuple[int, int] | None
"""The number of a link's descriptor, and how often it was used; None if there is no such thing (inproc)."""

HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
PEER_EVENTS = zmq.EVENT_ACCEPTED | HANDSHAKE_FAILURES | zmq.EVENT_DISCONNECTED
"""The events that the monitor of a listening socket reports."""

IPC_RESERVE = 32
"""Descriptors that must be free for a peer to be let in at an ipc endpoint."""

_EVENT = struct.Struct("=HI")
_POLLIN, _NOBLOCK, _EVENTS = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.EVENTS)


def events_of(monitor: zmq.Socket[SentT]) -> Iterator[tuple[int, int]]:
    """The events that a monitor has now: (event, value)."""
    while int(monitor.get(_EVENTS)) & _POLLIN:
        # not by pyzmq, which makes an enum of the value, too: that takes longer than all the rest
        yield _EVENT.unpack(monitor.recv_multipart(_NOBLOCK)[0])


def has_hung_up(link: Link) -> bool:
    """True if the other side of a link is gone, though there may still be frames to receive.

    If the link is gone as well, the answer is about whatever has its number now.
    """
    if link is None:
        return False
    poller = select.poll()
    poller.register(link[0], 0)
    return any(events & (select.POLLHUP | select.POLLERR) for _, events in poller.poll(0))


def _are_left(descriptors: int) -> bool:
    try:
        check_descriptors_left(descriptors)
    except OSError:
        return False
    return True


class Links:
    """The links of a bound socket. Not thread-safe."""

    def __init__(
        self, sock: zmq.Socket[bytes], on_refused: Callable[[int, int], object], *, endpoint: str = ""
    ) -> None:
        """`on_refused(event, value)` is called for each peer whose handshake failed.

        At an ipc `endpoint` a peer that connects while few descriptors are free has its link cut at once: if there
        are none, libzmq aborts the process, while for tcp it lets peers wait.
        """
        self._must_have_left = IPC_RESERVE if endpoint.startswith("ipc:") else 0
        self.monitor = open_monitor(sock, PEER_EVENTS)
        self._on_refused = on_refused
        self._uses: dict[int, int] = {}
        self._gone: dict[int, int] = {}
        self._lost: list[Link] = []

    def watch(self) -> None:
        """Process the monitor's events."""
        surplus: list[Link] = []
        for event, value in events_of(self.monitor):
            if event == zmq.EVENT_ACCEPTED:
                self._uses[value] = self._uses.get(value, 0) + 1
                if self._must_have_left and not _are_left(self._must_have_left):
                    surplus.append(self._current(value))
            elif event == zmq.EVENT_DISCONNECTED:
                self._gone[value] = self._uses.get(value, 0)
                self._lost.append(self._current(value))
            else:
                self._on_refused(event, value)
        for link in surplus:
            if self.cut(link):
                logger.warning("a ZMQ peer was not let in: there are few descriptors left")

    @property
    def has_lost(self) -> bool:
        """True if `take_lost` has some."""
        return bool(self._lost)

    def take_lost(self) -> list[Link]:
        """The links that were lost since the last call."""
        lost, self._lost = self._lost, []
        return lost

    def _current(self, fd: int) -> tuple[int, int]:
        return fd, self._uses.get(fd, 0)

    def of(self, frame: zmq.Frame) -> Link:
        """The link that a frame came over; a newer one if that is gone and its number is used again."""
        return self._current(int(frame.get(zmq.SRCFD)))

    def is_gone(self, link: Link) -> bool:
        """True if the link was lost, according to the events so far."""
        return link is not None and (self._gone.get(link[0]) == link[1] or self._current(link[0]) != link)

    def cut(self, link: Link) -> bool:
        """Have libzmq end a link; False if that is impossible."""
        if link is None:
            return False
        try:
            fd = os.dup(link[0])
        except OSError:
            return False  # the link is gone, or there is no descriptor left for the duplicate
        try:
            # after the duplicate was made: an end that is reported only later is that of the link behind it
            self.watch()
            if self.is_gone(link):
                return False
            duplicate = socket.socket(fileno=fd)
            try:
                with suppress(OSError):  # the peer has closed it
                    duplicate.shutdown(socket.SHUT_RDWR)
            finally:
                duplicate.detach()
        finally:
            os.close(fd)
        return True
