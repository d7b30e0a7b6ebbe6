"""PAIR and DEALER sockets as byte streams: the connecting side. See `zmqrouter` for the listening side.

Each frame is a piece of the stream; an empty frame marks its beginning and its end. A DEALER has one peer and never
gets another; the socket's monitor notices a lost link, which ends the stream.

Strategy. A ZMQ socket may be used by one thread at a time. The connection's threads do their own reading and
writing under a lock, rather than pass frames to a thread that owns the socket: that would be two more thread
switches for each request, on top of those of the ZMQ library, and the calls under the lock never wait.

The connection polls descriptors, and ZMQ's is not enough: it is edge-triggered, and the next call on the socket, in
either direction, resets it. So there are two flags, "to read" and "room", each with a descriptor of its own, and
the connection polls a set: a flag, ZMQ's descriptor, and the monitor's. After each use of the socket its events are
read before the lock is released, and the flags are set accordingly. So whenever nobody holds the lock, anything
that can be read is either flagged or still to be signalled by ZMQ.
"""

from __future__ import annotations

import errno
import select
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from packetwire.core.timelimits import seconds_of
from packetwire.errors import ConnectionEnded, StreamTruncated, extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream
from packetwire.streams.curve import CurveClient
from packetwire.streams.pollset import PollSet
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import (
    BOUNDARY,
    LINK_EVENTS,
    MAX_FRAME_SIZE,
    NOBLOCK,
    POLLIN,
    POLLOUT,
    ZmqContext,
    ZmqSocket,
    await_link,
    be_curve_client,
    events_getter,
    make_socket,
    no_stream,
    pieces,
)
from packetwire.zmq.links import events_of
from packetwire.zmq.owned import set_owner
from packetwire.zmq.sockets import (
    close_monitored,
    context_ended,
    leave_to_parent,
    open_monitor,
    os_error,
)

CONNECT_TIMEOUT = 30.0
"""Seconds to reach a peer and shake hands."""
TURN_SECONDS = 0.25
"""Seconds for a PAIR without another peer to answer; doubled each time it does not."""
TURN_INTERVAL = 0.01
"""Seconds between two tries."""


def open_dealer(
    endpoint: str,
    *,
    timeout: float = CONNECT_TIMEOUT,
    curve: CurveClient | None = None,
    identity: bytes | None = None,
    context: ZmqContext | None = None,
) -> ByteStream:
    """A stream to a ROUTER. Raises OSError if there is none, or if it does not let us in.

    The ROUTER recognises us by the `identity`; without one it gives each connection a new one.
    """
    return _LinkStream(_connect(zmq.DEALER, endpoint, timeout, curve, identity, context))


def open_pair(
    endpoint: str,
    *,
    timeout: float = CONNECT_TIMEOUT,
    curve: CurveClient | None = None,
    context: ZmqContext | None = None,
) -> ByteStream:
    """A stream to another PAIR. Raises OSError if there is none, or if it does not let us in.

    A PAIR has one peer at a time, and turns others away until it has noticed that the last one is gone.
    """
    deadline = time.monotonic() + seconds_of(timeout)
    patience = TURN_SECONDS
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            link = _connect(zmq.PAIR, endpoint, left, curve, None, context)
        except BlockingIOError:
            pass  # within a process ZMQ says at once that there is another peer
        else:
            try:
                is_taken = link.is_taken(min(left, patience))
            except BaseException:
                link.close()
                raise
            if is_taken:
                return _LinkStream(link)
            link.close()
            patience *= 2
        if time.monotonic() >= deadline:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{endpoint}: that PAIR has another peer")
        time.sleep(TURN_INTERVAL)


def _connect(
    kind: int,
    endpoint: str,
    timeout: float,
    curve: CurveClient | None,
    identity: bytes | None,
    context: ZmqContext | None,
) -> _Link:
    timeout = seconds_of(timeout)
    sock = make_socket(context or zmq.Context.instance(), kind, endpoint)
    monitor: ZmqSocket | None = None
    try:
        if curve is not None:
            be_curve_client(sock, curve)
        if identity is not None:
            sock.setsockopt(zmq.IDENTITY, identity)
        if not endpoint.startswith("inproc:"):  # which has no links, no handshake, and so no events
            monitor = open_monitor(sock, LINK_EVENTS)
        sock.connect(endpoint)
        if monitor is not None:
            await_link(monitor, timeout)
        return _Link(sock, monitor, known_before=kind == zmq.PAIR or identity is not None)
    except BaseException as error:
        close_monitored(sock, monitor, 0)
        if isinstance(error, zmq.ZMQError):
            raise os_error(error, endpoint) from error
        raise


class _Link:
    """A socket with one peer, its lock and its flags.

    With `known_before` the peer may have had an earlier stream with a socket that looked like ours, and its last
    frames may still arrive: bytes before the first boundary are dropped; if a second boundary follows at once, that
    one is the first of our stream.
    """

    def __init__(self, sock: ZmqSocket, monitor: ZmqSocket | None, *, known_before: bool) -> None:
        self._socket = sock
        # looking up a method of a ZMQ socket takes as long as calling some of them
        self._send, self._recv, self._events_now = sock.send, sock.recv, events_getter(sock)
        self._monitor = monitor
        self._lock = threading.Lock()  # guards the socket and what follows
        self._events = 0
        """The socket's events at its last use; ZMQ's descriptor will signal newer ones."""
        self._rest: memoryview | None = None
        self._has_begun = False
        self._spare_boundary = known_before
        self._lost = False
        self._peer_ended = False
        self._fault: OSError | None = None  # raised once everything that came before it was read
        self.is_cut_off = False
        """True if the link was lost before the peer's last boundary."""
        self._we_ended = False
        self._closed = False
        self._is_gone = False
        """True once the sockets are closed."""
        fds = [sock.fileno(), *([monitor.fileno()] if monitor else ())]
        self.to_read = _Flag(fds)
        try:
            self.room = _Flag(fds)
        except BaseException:
            self.to_read.close()
            raise
        try:
            sock.send(BOUNDARY, NOBLOCK)
            self._is_lost()  # a monitor's descriptor signals nothing until all earlier events were received
            self._look()
        except BaseException:
            self.to_read.close()
            self.room.close()
            raise
        self._raise_flags()
        set_owner(sock, self._sockets_taken)
        if monitor is not None:
            set_owner(monitor, self._sockets_taken)
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the link is the parent's; libzmq must not be used here."""
        self._lock = threading.Lock()
        if not self._is_gone:
            leave_to_parent(self._socket, self._monitor)
            self._fault = OSError(errno.ESHUTDOWN, forking.of_parent("this ZMQ stream"))
        self._is_gone = self._peer_ended = self._we_ended = True
        self._rest = None

    # the end of the context

    def _sockets_taken(self) -> None:
        """Called by the thread that destroys the context."""
        with self._lock:
            self._end(context_ended())
            self._raise_flags()

    def _end(self, error: OSError) -> OSError:
        """With the lock held: close the sockets, which are of no use any more. Returns the reason."""
        if self._fault is None:
            self._fault = error
        self._peer_ended = True
        self._let_go()
        return self._fault

    def _let_go(self) -> None:
        if not self._is_gone:
            self._is_gone = True
            self.to_read.watch_no_sockets()
            self.room.watch_no_sockets()
            with suppress(zmq.ZMQError):  # the context was ended
                self._is_lost()
            # if the link is lost, unsent frames have nowhere to go
            close_monitored(self._socket, self._monitor, 0 if self._lost else None)

    def is_taken(self, seconds: float) -> bool:
        """Wait up to `seconds` for the peer's first boundary; True if it came, so we are the one peer of that PAIR.

        ZMQ keeps the link to a PAIR that has another peer, and frames that are sent over it go nowhere.
        """
        deadline = time.monotonic() + seconds
        poller = select.poll()
        poller.register(self.to_read.fileno(), select.POLLIN)
        while True:
            with self._lock:
                frame = self._receive()
                if self._fault is not None:
                    raise self._fault
                self._rest = memoryview(frame) if frame else None
                self._raise_flags()
                is_gone = self._peer_ended or not self._events & POLLOUT
            left = deadline - time.monotonic()
            if is_gone or self._has_begun or left <= 0:
                return self._has_begun and not is_gone
            poller.poll(left * 1000)

    def read(self, size: int) -> bytes | None:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the ZMQ socket is closed")
            try:
                return self._read(size)
            finally:
                self._raise_flags()

    def _read(self, size: int) -> bytes | None:
        taken: list[bytes | memoryview] = []
        while size > 0:
            if self._rest is not None:
                piece, self._rest = self._rest[:size], (self._rest[size:] if len(self._rest) > size else None)
                taken.append(piece)
                size -= len(piece)
                continue
            frame = self._receive()
            if not frame:
                break
            if len(frame) > size:
                self._rest = memoryview(frame)
                continue
            taken.append(frame)
            size -= len(frame)
            if not self._events & POLLIN:
                break
        if taken:
            return taken[0] if len(taken) == 1 and isinstance(taken[0], bytes) else b"".join(taken)
        if self._fault is not None:
            raise self._fault
        return b"" if self._peer_ended else None

    def _receive(self) -> bytes | None:
        """The next frame; None if there is none now, and at the end."""
        try:
            return self._next_frame()
        except zmq.ZMQError as error:
            self._end(os_error(error))
            return None

    def _next_frame(self) -> bytes | None:
        while not self._peer_ended:
            try:
                message = self._recv(NOBLOCK, copy=False)
            except zmq.Again:
                # ask for the loss first and for frames again after that: frames that came before the loss are read
                # first; in the other order one that comes in between would be dropped
                is_lost = self._is_lost()
                if is_lost or not self._events & POLLOUT:
                    self._look()
                    if self._events & POLLIN:
                        continue
                else:  # nothing to read, and there was room already: asking for events would say nothing new
                    self._events = POLLOUT
                self._peer_ended = self.is_cut_off = is_lost
                return None
            frame = message.bytes
            self._look()
            if message.more or len(frame) > MAX_FRAME_SIZE:
                self._peer_ended = True
                self._fault = no_stream()
                return None
            if frame:
                if self._has_begun:
                    self._spare_boundary = False
                    return frame
            elif not self._has_begun:
                self._has_begun = True
            elif self._spare_boundary:
                self._spare_boundary = False
            else:
                self._peer_ended = True
        return None

    def _is_lost(self) -> bool:
        if self._monitor is not None and not self._lost:
            self._lost = any(event == zmq.EVENT_DISCONNECTED for event, _ in events_of(self._monitor))
        return self._lost

    def _look(self) -> None:
        """With the lock held, after any use of the socket: read its events, as ZMQ's descriptor may be reset."""
        self._events = self._events_now()

    def _raise_flags(self) -> None:
        """With the lock held, before it is released: show the state to those who poll."""
        self.to_read.show(bool(self._events & POLLIN) or self._peer_ended or self._lost or self._rest is not None)
        self.room.show(bool(self._events & POLLOUT) or self._peer_ended)

    def write(self, buffers: Buffers) -> int:
        with self._lock:
            if self._we_ended or self._peer_ended or self._closed:
                raise self._fault or BrokenPipeError(errno.EPIPE, "the ZMQ peer has gone, or the stream has ended")
            try:
                return self._write(buffers)
            except zmq.ZMQError as error:
                raise self._end(os_error(error)) from error
            finally:
                self._raise_flags()

    def _write(self, buffers: Buffers) -> int:
        taken = 0
        send = self._send
        try:
            for piece in pieces(buffers):
                send(piece, NOBLOCK)
                taken += len(piece)
        except zmq.Again:
            pass
        finally:
            self._look()
        return taken

    def end(self) -> None:
        """Send the last boundary, if ZMQ still takes it; a peer that does not read will see the link close."""
        with self._lock:
            if not (self._we_ended or self._closed or self._is_gone):
                self._we_ended = True
                try:
                    self._write_boundary()
                except zmq.ZMQError as error:
                    self._end(os_error(error))
                self._raise_flags()

    def _write_boundary(self) -> None:
        try:
            self._socket.send(BOUNDARY, NOBLOCK)
        except zmq.Again:
            pass
        self._look()

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._let_go()
            self.to_read.close()
            self.room.close()


class _LinkStream(ByteStream):
    def __init__(self, link: _Link) -> None:
        self._link = link
        super().__init__(_LinkReader(link), _LinkWriter(link), link.close)

    half_closes = False  # a boundary marks the end of a direction
    is_remote = True

    @property
    def is_cut_off(self) -> bool:
        """True if the link was lost."""
        return self._link.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        """A `StreamTruncated` if the link was lost."""
        return StreamTruncated("the link to the ZMQ peer was lost") if self.is_cut_off else None


class _LinkReader:
    def __init__(self, link: _Link) -> None:
        self._link = link
        self.fileno = link.to_read.fileno
        self.try_read = link.read

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        pass  # the link is closed after both halves


class _LinkWriter:
    events = select.POLLIN

    def __init__(self, link: _Link) -> None:
        self._link = link
        self.fileno = link.room.fileno
        self.try_write = link.write
        self.end = link.end

    def close(self) -> None:
        self._link.end()


class _Flag:
    """A descriptor that is readable while it is shown, and while one of `fds` is."""

    def __init__(self, fds: Iterable[int]) -> None:
        self._shown = False
        self._fds = list(fds)
        self._wakeup = Wakeup()
        try:
            self._poll_set = PollSet([self._wakeup.fileno(), *self._fds])
        except BaseException:
            self._wakeup.close()
            raise

    def watch_no_sockets(self) -> None:
        """Stop watching `fds`, before they are closed."""
        fds, self._fds = self._fds, []
        for fd in fds:
            self._poll_set.remove(fd)

    def fileno(self) -> int:
        return self._poll_set.fileno()

    def show(self, shown: bool) -> None:
        if shown is not self._shown:
            self._shown = shown
            if shown:
                self._wakeup.set()
            else:
                self._wakeup.clear()

    def close(self) -> None:
        self._poll_set.close()
        self._wakeup.close()
