"""One ZMQ socket of a port, shared by threads.

Strategy: every use of the socket happens under a lock and never blocks; waiting happens outside, see `waiting`.
Each use ends by reading the socket's events, and wakes those who wait for them. Here ZMQ may reconnect by itself:
messages arrive whole or not at all, and a member that comes back is welcome.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, cast

import zmq

from packetwire.riaps.errors import PortError, PortOfParent
from packetwire.riaps.links import Links, ZmqSocket
from packetwire.riaps.waiting import Waiting
from packetwire.streams import forking
from packetwire.streams.fds import check_descriptors_left
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.owned import disown, set_owner
from packetwire.zmq.reading import MessageReader
from packetwire.zmq.sockets import HEADROOM, leave_to_parent

ZmqContext = zmq.Context[ZmqSocket]

DEFAULT_MAX_FRAME = 16 << 20
"""Bytes of a frame, at most; a message with a longer one is refused."""
TAKEN_FACTOR = 4
"""ZMQ's own limit on frames, as a multiple of ours; at least `DEFAULT_MAX_FRAME`. A frame beyond our limit costs
only its message; beyond its own, ZMQ closes the link, and the messages right behind are lost, too."""
SUBSCRIPTION_LIMIT = 4096
"""Bytes of a frame that a publish port receives, at most: a subscription, one byte long as RIAPS sends it."""
QUEUE_LIMIT = 100
"""Messages that ZMQ holds for one peer in each direction, as in the reference."""
LOSE_WAIT = 1.0
"""Seconds for other threads to stop using a socket that somebody else closes."""
LINGER_SECONDS = 1.0
"""Seconds for sent messages to leave after a socket was closed."""
HEARTBEAT_INTERVAL = 10.0
HEARTBEAT_TIMEOUT = 30.0
"""Seconds without a sign of life after which a link is dropped."""
HANDSHAKE_TIMEOUT = 10.0
RECONNECT_INTERVAL = 0.1
MAX_RECONNECT_INTERVAL = 1.0
"""Seconds between two tries to reconnect, at first and at most."""


class Lock(AbstractContextManager[object], Protocol):
    """A lock, or what a fork has in its place."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...

    def release(self) -> None: ...


class PortSocket:
    """Holds a ZMQ socket for a port, which may replace it by another one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock: Lock = threading.RLock()
        self._socket: ZmqSocket | None = None
        self._links: Links | None = None
        self._reader: MessageReader | None = None
        self._lost = False
        """True once somebody else has closed the socket."""
        self._waitings: set[Waiting] = set()
        self.forked = False
        """True in a fork of the process that the port belongs to."""
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the socket is the parent's; libzmq must not be used here."""
        if self.forked:
            return
        self.forked = True
        text = forking.of_parent(self.name)
        self.lock = forking.ParentsLock(lambda: PortOfParent(text))
        leave_to_parent(self._socket)
        if self._links is not None:
            self._links.after_fork()
        self._socket = self._links = self._reader = None
        self._waitings.clear()

    @property
    def raw(self) -> ZmqSocket | None:
        """The ZMQ socket itself, to be used under the `lock`."""
        return self._socket

    def put(self, socket: ZmqSocket, links: Links | None = None) -> None:
        """Replace the socket, and close the one before. Callers that wait go on waiting, with the new one."""
        with self.lock:
            self.drop()
            self._socket, self._links = socket, links
            set_owner(socket, self._lose)
            if links is not None:
                links.set_owner(self._lose)
            for waiting in self._waitings:
                self._watch(waiting)
                waiting.wake()

    def drop(self) -> None:
        """Close the socket; callers that wait fail. A second call does nothing."""
        with self.lock:
            if self._links is not None:
                self._links.close()
            if self._socket is not None:
                disown(self._socket)
                self._socket.close()
            self._socket = self._links = self._reader = None
            self._lost = False
            self.wake()

    def _lose(self) -> None:
        """Stop using the socket and its monitor: somebody else is about to close one of them."""
        # a thread that holds the lock is soon done; unless this is a signal handler that interrupted it
        locked = self.lock.acquire(timeout=LOSE_WAIT)
        try:
            self._lost = True
            for waiting in list(self._waitings):
                waiting.wake()
        finally:
            if locked:
                self.lock.release()

    @contextmanager
    def use(self, what: str) -> Iterator[ZmqSocket]:
        """The socket, for this thread alone. ZMQ's errors become PortErrors that say `what` failed."""
        with self.lock:
            if self._socket is None:
                raise PortError(f"{self.name} cannot {what}: it has no socket, call setupSocket", errno.ENOTSOCK)
            if self._lost:
                text = "the program has closed its socket, or destroyed the ZMQ context"
                raise PortError(f"{self.name} cannot {what}: {text}", errno.ENOTSOCK)
            try:
                yield self._socket
            except zmq.ZMQError as error:
                raise port_error(f"{self.name} cannot {what}", error) from error
            finally:
                self._tell()

    def try_receive(self, most: int) -> list[zmq.Frame] | None:
        """The frames of a message; None if there is none. One that is too long has `most` frames and one more.

        Later calls discard the rest of that, step by step.
        """
        with self.use("receive") as socket:
            if self._reader is None:
                self._reader = MessageReader(socket, most)
            return self._reader.receive() or None

    def try_send(self, frames: list[bytes], check: Callable[[], None]) -> bool:
        """Send a message; False if there is no link or no room. `check` is called first, and may raise."""
        with self.use("send") as socket:
            check()
            if self._links is not None and not self._links.is_up:
                return False
            last = len(frames) - 1
            for position, frame in enumerate(frames):
                if not _sent(socket, frame, more=position < last):
                    if position:
                        # the link was lost amid the message: ZMQ drops its frames up to the last one, which it must
                        # get, or the next message would be taken for the rest of this one
                        for rest in range(position + 1, len(frames)):
                            _sent(socket, frames[rest], more=rest < last)
                    return False
            return True

    def wake(self) -> None:
        """Have all waiting callers try again."""
        with self.lock:
            for waiting in self._waitings:
                waiting.wake()

    def begin_wait(self, waiting: Waiting) -> None:
        with self.use("wait"):
            self._watch(waiting)
            self._waitings.add(waiting)

    def end_wait(self, waiting: Waiting) -> None:
        if self.forked:
            return
        with self.lock:
            self._waitings.discard(waiting)

    def _watch(self, waiting: Waiting) -> None:
        if self._socket is not None and not self._lost:
            waiting.watch(cast(int, self._socket.get(zmq.FD)))
        if self._links is not None:
            waiting.watch(self._links.fileno())

    def _tell(self) -> None:
        """Wake callers whose events have come: this use may have reset the socket's descriptor."""
        if self._socket is None or self._lost or not self._waitings:
            return
        try:
            events = cast(int, self._socket.get(zmq.EVENTS))
            if self._links is not None and not self._links.is_up:
                events &= ~zmq.POLLOUT
        except zmq.ZMQError:
            self.wake()  # the context is gone, and this call may have consumed the signal of the descriptor
            return
        for waiting in self._waitings:
            if waiting.events & events:
                waiting.wake()


def _sent(socket: ZmqSocket, frame: bytes, *, more: bool) -> bool:
    try:
        socket.send(frame, zmq.NOBLOCK | (zmq.SNDMORE if more else 0))
    except zmq.Again:
        return False
    return True


def make_socket(context: ZmqContext | None, kind: int, max_frame: int) -> ZmqSocket:
    """A new socket for a port, neither bound nor connected."""
    try:
        check_descriptors_left(HEADROOM)
        socket: ZmqSocket = uninterrupted((context or zmq.Context.instance()).socket, kind, zmq.Socket)
    except zmq.ZMQError as error:
        raise port_error("a port cannot have a socket", error) from error
    except OSError as error:
        raise PortError(f"a port cannot have a socket: {error.strerror}", error.errno or 0) from error
    socket.sndhwm = socket.rcvhwm = QUEUE_LIMIT
    socket.maxmsgsize = SUBSCRIPTION_LIMIT if kind == zmq.PUB else max(TAKEN_FACTOR * max_frame, DEFAULT_MAX_FRAME)
    socket.linger = _milliseconds(LINGER_SECONDS)
    socket.handshake_ivl = _milliseconds(HANDSHAKE_TIMEOUT)
    socket.heartbeat_ivl = _milliseconds(HEARTBEAT_INTERVAL)
    socket.heartbeat_timeout = socket.heartbeat_ttl = _milliseconds(HEARTBEAT_TIMEOUT)
    socket.reconnect_ivl = _milliseconds(RECONNECT_INTERVAL)
    socket.reconnect_ivl_max = _milliseconds(MAX_RECONNECT_INTERVAL)
    return socket


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def port_error(text: str, error: zmq.ZMQError) -> PortError:
    """A `PortError` with the number and the text of a `ZMQError`, as in the reference."""
    number = error.errno or 0
    return PortError(f"{text}: {zmq.strerror(number)}", number)
