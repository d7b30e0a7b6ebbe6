"""PAIR and DEALER sockets as byte streams: the side that connects. See `zmqrouter` for the one that listens.

Each frame is a piece of the stream, an empty frame its beginning and its end. The DEALER has one peer and
never gets another; a lost link is noticed by the socket's monitor and ends the stream.

Strategy. A ZMQ socket may be used by one thread at a time. The connection's threads do their own reading and
writing under a lock, rather than hand frames to a thread that owns the socket: that would be two more thread
switches for each request, on top of those of the ZMQ library, and the calls under the lock never wait.

The connection polls descriptors, and ZMQ's is no use to it alone: it tells of a change once, and the next
call on the socket, reading or writing, forgets that again. So there are two flags, "to read" and "room", each
a descriptor of its own, and what is polled is a set of descriptors: a flag, ZMQ's, and the monitor's. Whoever
has used the socket looks at its events before letting go of the lock, and raises the flags accordingly. So at
any moment when nobody has the lock, what can be read is either flagged or still to be told by ZMQ.
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
    await_link,
    be_curve_client,
    events_getter,
    make_socket,
    no_stream,
    pieces,
)
from packetwire.zmq.links import events_of
from packetwire.zmq.sockets import (
    OwnedSocket,
    close_monitored,
    context_ended,
    leave_to_parent,
    open_monitor,
    os_error,
)

CONNECT_TIMEOUT = 30.0
"""Seconds for a peer to be there and to shake hands."""
TURN_SECONDS = 0.25
"""Seconds in which a PAIR that has no other peer says that it is there; twice as many each time it does not."""
TURN_INTERVAL = 0.01
"""Seconds until we ask again."""


def open_dealer(
    endpoint: str,
    *,
    timeout: float = CONNECT_TIMEOUT,
    curve: CurveClient | None = None,
    identity: bytes | None = None,
    context: ZmqContext | None = None,
) -> ByteStream:
    """A stream to a ROUTER. Raises OSError if there is none, or if it does not let us in.

    An `identity` is how the ROUTER knows us again; without one each connection gets its own.
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

    A PAIR has one peer at a time, and turns away the next one until it has noticed that the last is gone.
    """
    deadline = time.monotonic() + seconds_of(timeout)
    patience = TURN_SECONDS
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            link = _connect(zmq.PAIR, endpoint, left, curve, None, context)
        except BlockingIOError:
            pass  # within a process it shows at once that there is another peer
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
    monitor: OwnedSocket | None = None
    try:
        if curve is not None:
            be_curve_client(sock, curve)
        if identity is not None:
            sock.setsockopt(zmq.IDENTITY, identity)
        if not endpoint.startswith("inproc:"):  # which has no links, nothing to shake hands about, and no events
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

    With `known_before` the peer may have had another stream with someone who looked like us, whose last frames
    can still come here: octets before the first boundary are dropped, and a second one right behind it is it.
    """

    def __init__(self, sock: OwnedSocket, monitor: OwnedSocket | None, *, known_before: bool) -> None:
        self._socket = sock
        # looking up a method of a ZMQ socket takes as long as some of them
        self._send, self._recv, self._events_now = sock.send, sock.recv, events_getter(sock)
        self._monitor = monitor
        self._lock = threading.Lock()  # guards the socket and what follows
        self._events = 0
        """What the socket had to tell when it was used last; what came since is still to be told."""
        self._rest: memoryview | None = None
        self._has_begun = False
        self._spare_boundary = known_before
        self._lost = False
        self._peer_ended = False
        self._fault: OSError | None = None  # raised when what came before it was read
        self.is_cut_off = False
        """Whether the link was lost without the peer's last boundary."""
        self._we_ended = False
        self._closed = False
        self._is_gone = False
        """Whether the sockets were let go of."""
        fds = [sock.fileno(), *([monitor.fileno()] if monitor else ())]
        self.to_read = _Flag(fds)
        try:
            self.room = _Flag(fds)
        except BaseException:
            self.to_read.close()
            raise
        try:
            sock.send(BOUNDARY, NOBLOCK)
            self._is_lost()  # a monitor's descriptor tells of nothing until all before that was taken
            self._look()
        except BaseException:
            self.to_read.close()
            self.room.close()
            raise
        self._raise_flags()
        sock.keeper = self._sockets_taken
        if monitor is not None:
            monitor.keeper = self._sockets_taken
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the link is the parent's, and nothing of ZMQ is used here."""
        self._lock = threading.Lock()
        if not self._is_gone:
            leave_to_parent(self._socket, self._monitor)
            self._fault = OSError(errno.ESHUTDOWN, forking.of_parent("this ZMQ stream"))
        self._is_gone = self._peer_ended = self._we_ended = True
        self._rest = None

    # the end of the context

    def _sockets_taken(self) -> None:
        """In whatever thread destroys the context."""
        with self._lock:
            self._end(context_ended())
            self._raise_flags()

    def _end(self, error: OSError) -> OSError:
        """With the lock held: the sockets are of no use any more. Returns why."""
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
            # what is unsent has nowhere to go then
            close_monitored(self._socket, self._monitor, 0 if self._lost else None)

    def is_taken(self, seconds: float) -> bool:
        """Whether the peer has us for its peer: its first boundary came, which is waited for.

        ZMQ keeps the link to a PAIR that has another peer, and what is sent over it goes nowhere.
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
        """The next octets, or None if there are none now or none will come any more."""
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
                # what came before the link was lost is read first: so look again, in this order
                is_lost = self._is_lost()
                self._look()
                if self._events & POLLIN:
                    continue
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
        """With the lock held, after any use of the socket, which may have swallowed what ZMQ had to tell."""
        self._events = self._events_now()

    def _raise_flags(self) -> None:
        """With the lock held, before it is let go."""
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
        """Send the last boundary, if ZMQ still takes it: who does not read will see the link go."""
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

    half_closes = False  # a stream over ZMQ says itself that a direction has ended

    @property
    def is_cut_off(self) -> bool:
        """Whether the link was lost."""
        return self._link.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        """That it was cut off, if it was."""
        return StreamTruncated("the link to the ZMQ peer was lost") if self.is_cut_off else None


class _LinkReader:
    def __init__(self, link: _Link) -> None:
        self._link = link
        self.fileno = link.to_read.fileno
        self.try_read = link.read

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        pass  # the link is closed behind both halves


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
    """Readable while it is shown, and when one of `fds` is."""

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
        """Before these descriptors are closed."""
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
