"""The streams of the many peers of one listening ZMQ socket, and when each begins and ends.

Nothing here touches a socket: `zmqrouter` does, in a thread of its own, and passes received frames in here.

A peer is known by its identity. Its empty frames are boundaries: each ends the current stream, if there is one, and
begins the next. The last frame of a stream and the first of the next one look alike, so after a boundary that ended
a stream the next one begins for us only with its first bytes, or with another boundary. A boundary over another
link is different: it comes from a new peer with an old identity.

A *link* is the number of the connection that a frame came over, or None if there is no such thing (inproc).

A stream has no descriptor until somebody wants to poll it: strangers begin as many streams as they like, and they
must not be able to use up the descriptors of this process.
"""

from __future__ import annotations

import errno
import math
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from packetwire.core.packet import EOF_PACKET, ERQ_PACKET
from packetwire.errors import ConnectionEnded, StreamTruncated
from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers, ByteStream
from packetwire.streams.pollset import PollSet
from packetwire.streams.wakeup import Wakeup

if TYPE_CHECKING:
    from packetwire.zmq.links import Link  # whose module needs the ZMQ library

DEFAULT_IDLE_LIMIT = 3600.0
"""Seconds without a frame in either direction after which a stream is ended."""
QUEUE_LIMIT = 4 << 20
"""Bytes from one peer that are kept until its connection reads them; beyond that nothing is received."""
WAITING_LIMIT = 64 << 20
"""Bytes of all streams together that wait to be accepted; beyond that nothing is received for a while."""
MAX_PEERS = 4096
"""Identities that are remembered; beyond that the oldest ones without a stream are forgotten."""

THE_END = bytes(ERQ_PACKET) + bytes(EOF_PACKET)
"""Packets for a peer that is turned away: ERQ and EOF."""

Identity = bytes


class FrameSender(Protocol):
    """The socket, as its streams use it. Thread-safe."""

    def send(self, stream: PeerStream, buffers: Buffers) -> int:
        """Send what fits; returns the number of bytes taken. Raises OSError."""
        ...

    def end(self, stream: PeerStream) -> None:
        """Send the last boundary."""
        ...

    def receive(self) -> None:
        """Receive everything that has come, for any stream."""
        ...

    def drained(self) -> None:
        """Called when there is room in a queue that was full."""
        ...

    def released(self, stream: PeerStream) -> None:
        """Called when the stream's connection is closed."""
        ...


class WaitingBytes:
    """Counts the bytes of the streams that wait to be accepted. Not thread-safe."""

    def __init__(self) -> None:
        self.kept = 0

    @property
    def is_full(self) -> bool:
        """True if the bound is reached."""
        return self.kept >= WAITING_LIMIT


def sent_too_early() -> OSError:
    """The error for a peer that sent more than is kept until its stream is accepted."""
    return OSError(errno.ENOBUFS, "this peer sent too much before there was a place for it")


class Incoming:
    """The receiving half of a stream.

    It is filled by the socket's thread; while `watch` has a socket's descriptor, by the connection that reads here.
    """

    def __init__(self, sender: FrameSender) -> None:
        self._receive = sender.receive
        self._drained = sender.drained
        self._socket_fd: int | None = None
        self._lock = threading.Lock()  # guards what follows
        self._frames: deque[bytes | memoryview] = deque()
        self._size = 0
        self._limit: float = QUEUE_LIMIT
        self._is_full = False
        self._ended = False
        self._error: OSError | None = None
        self.is_cut_off = False
        """True if the stream ended without the peer's last boundary."""
        self._is_receiving = False  # in `try_read`: the reader need not be woken for what it receives itself
        self._wakeup: Wakeup | None = None
        self._is_shown = False
        self._look_due = False
        self._poll_set: PollSet | None = None
        self._is_disposed = False
        self._waiting: WaitingBytes | None = None

    def after_fork(self, error: OSError) -> None:
        """In the child of a fork: end the half with `error`."""
        self._lock = threading.Lock()
        self._frames.clear()
        self._size = 0
        self._ended = self._is_disposed = True
        self._is_full = False
        self._error = error
        self._socket_fd = None

    def wait(self, waiting: WaitingBytes | None) -> None:
        """Have bytes counted by `waiting` until the stream is accepted; None once it is."""
        if self._waiting is not None:
            self._waiting.kept -= self._size
        self._waiting = waiting

    def open(self) -> PollSet:
        """Open the descriptors to poll, if that was not done. Raises OSError."""
        with self._lock:
            if self._poll_set is None:
                if self._is_disposed:
                    raise self._error or OSError(errno.EBADF, "the stream is closed")
                wakeup = Wakeup()
                try:
                    self._poll_set = PollSet([wakeup.fileno()])
                except BaseException:
                    wakeup.close()
                    raise
                self._wakeup = wakeup
                if self._is_shown:
                    wakeup.set()
            return self._poll_set

    def watch(self, socket_fd: int | None) -> None:
        """Have the connection poll the socket, too, and receive from it; None ends that. Raises OSError."""
        poll_set = self.open()
        if self._socket_fd is not None:
            poll_set.remove(self._socket_fd)
        self._socket_fd = socket_fd
        if socket_fd is not None:
            poll_set.add(socket_fd)

    def look(self) -> None:
        """Wake the reader: frames may have come that the socket's descriptor will not signal."""
        with self._lock:
            self._look_due = True
            self._show(True)

    def _show(self, shown: bool) -> None:
        """With the lock held: make the descriptor readable, or not."""
        if shown is not self._is_shown:
            self._is_shown = shown
            if self._wakeup is None:
                return
            if shown:
                self._wakeup.set()
            else:
                self._wakeup.clear()

    @property
    def is_full(self) -> bool:
        return self._is_full

    def _holds_too_much(self) -> bool:
        """With the lock held: True if a bound is passed."""
        return self._size > self._limit or (self._waiting is not None and self._waiting.is_full)

    def is_still_full(self) -> bool:
        """True if it is still full; others that were accepted meanwhile may have made room."""
        with self._lock:
            self._is_full = self._is_full and self._holds_too_much()
            return self._is_full

    @property
    def has_data(self) -> bool:
        """True if there is something to read."""
        return self._size > 0

    @property
    def is_over(self) -> bool:
        """True if nothing more can be read."""
        return self._ended and not self._frames

    def lift_limit(self) -> None:
        """Keep all that still comes: the peer is gone, so it is little. The bound on waiting streams stays."""
        with self._lock:
            self._limit = math.inf
            self._is_full = self._is_full and self._holds_too_much()

    def put(self, data: bytes) -> bool:
        """Add bytes that came; True if no more should be received before some are read."""
        with self._lock:
            if self._ended:
                return False
            if self._waiting is not None:
                if self._holds_too_much():
                    self._finish(sent_too_early(), is_cut_off=False)
                    return False
                self._waiting.kept += len(data)
            self._frames.append(data)
            self._size += len(data)
            self._is_full = self._holds_too_much()
            if not self._is_receiving:
                self._show(True)
            return self._is_full

    def finish(self, error: OSError | None = None, *, is_cut_off: bool = False) -> None:
        """End the half; with `error` unless the peer has ended it. A second call does nothing."""
        with self._lock:
            self._finish(error, is_cut_off=is_cut_off)

    def _finish(self, error: OSError | None, *, is_cut_off: bool) -> None:
        if not self._ended:
            self._ended, self._error, self.is_cut_off = True, error, is_cut_off
            self._is_full = False
            self._show(True)

    def fileno(self) -> int:
        poll_set = self._poll_set
        return (self.open() if poll_set is None else poll_set).fileno()

    def try_read(self, size: int) -> bytes | None:
        if not self._frames:
            self._look_due = False  # also if it is no longer ours to receive
            if self._socket_fd is not None:
                self._is_receiving = True
                try:
                    self._receive()
                finally:
                    self._is_receiving = False
        with self._lock:
            try:
                data = self._take(size)
            finally:
                self._show(bool(self._frames) or self._ended or self._look_due)
            was_full = self._is_full
            self._is_full = self._size > self._limit and not self._ended
            is_drained = was_full and not self._is_full
        if is_drained:
            self._drained()
        return data

    def _take(self, size: int) -> bytes | None:
        frames = self._frames
        if not frames:
            if self._error is not None:
                raise self._error
            return b"" if self._ended else None
        taken: list[bytes | memoryview] = []
        while frames and size > 0:
            frame = frames.popleft()
            if len(frame) > size:
                view = memoryview(frame)
                frames.appendleft(view[size:])
                frame = view[:size]
            taken.append(frame)
            size -= len(frame)
            self._size -= len(frame)
        return taken[0] if len(taken) == 1 and isinstance(taken[0], bytes) else b"".join(taken)

    def give_back(self, octets: bytes) -> bytes:
        return octets

    def close(self) -> None:
        self.finish()
        with self._lock:
            self._frames.clear()
            self._size = 0

    def dispose(self) -> None:
        """Close the descriptors: after `close`, when the sender has forgotten the stream."""
        with self._lock:
            self._is_disposed = True
            if self._wakeup is not None:
                self._wakeup.close()
            if self._poll_set is not None:
                self._poll_set.close()


class Outgoing:
    """The sending half of a stream, which the connection's threads send by themselves."""

    events = select.POLLIN

    def __init__(self, stream: PeerStream, sender: FrameSender) -> None:
        self._stream = stream
        self._sender = sender
        self._lock = threading.Lock()  # guards what follows
        self._room: Wakeup | None = None
        self._is_shown = False
        self._is_closed = False

    def after_fork(self) -> None:
        """In the child of a fork: close the half."""
        self._lock = threading.Lock()
        self._is_closed = True

    def open(self) -> Wakeup:
        """Open the descriptor to poll, if that was not done. Raises OSError."""
        with self._lock:
            if self._room is None:
                if self._is_closed:
                    raise OSError(errno.EBADF, "the stream is closed")
                self._room = Wakeup()
                if self._is_shown:
                    self._room.set()
            return self._room

    def fileno(self) -> int:
        room = self._room
        return (self.open() if room is None else room).fileno()

    def try_write(self, buffers: Buffers) -> int:
        if self._is_shown:
            with self._lock:
                self._is_shown = False
                if self._room is not None:
                    self._room.clear()
        return self._sender.send(self._stream, buffers)

    def has_room(self) -> None:
        """Wake the writer: there may be room now."""
        with self._lock:
            self._is_shown = True
            if self._room is not None:
                self._room.set()

    def end(self) -> None:
        self._sender.end(self._stream)

    def close(self) -> None:
        self.end()
        with self._lock:
            self._is_closed = True
            if self._room is not None:
                self._room.close()


class PeerStream(ByteStream):
    """The stream of one peer of a listening socket. Its plain attributes are guarded by the sender's lock."""

    def __init__(self, identity: Identity, sender: FrameSender, *, has_begun: bool = False) -> None:
        self.identity = identity
        self.incoming = Incoming(sender)
        self.outgoing = Outgoing(self, sender)
        self.last_use = time.monotonic()
        self.may_send = True
        self.has_begun = has_begun
        self.has_data = False
        self.is_superseded = False
        self._sender = sender
        super().__init__(self.incoming, self.outgoing, self._let_go)
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the stream is the parent's."""
        self.incoming.after_fork(OSError(errno.ESHUTDOWN, forking.of_parent("this ZMQ stream")))
        self.outgoing.after_fork()
        self.may_send = False
        self.is_superseded = True

    def open(self) -> None:
        """Open the descriptors to poll. Raises OSError; it may then be tried again."""
        self.incoming.open()
        self.outgoing.open()

    def _let_go(self) -> None:
        self._sender.released(self)
        self.incoming.dispose()

    half_closes = False  # a boundary marks the end of a direction
    is_remote = True

    @property
    def is_cut_off(self) -> bool:
        """True if the peer vanished."""
        return self.incoming.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        """A `StreamTruncated` if the peer vanished."""
        return StreamTruncated("the ZMQ peer vanished without ending its stream") if self.is_cut_off else None

    def hang_up(self) -> None:
        """Have the connection see the end of the stream. Thread-safe."""
        self.incoming.finish()

    def supersede(self) -> None:
        """End both directions: the peer is gone, or has begun its next stream."""
        self.may_send = False
        self.is_superseded = True
        self.incoming.finish(is_cut_off=True)
        self.outgoing.has_room()

    def turn_away(self) -> None:
        """Tell the peer, by packets, that this is the end, and close."""
        with suppress(OSError):  # the peer may be gone already
            self.try_write([THE_END])
        self.close()


class _Peer:
    """An identity: the stream that the peer writes to, if any, and the one that may write to the peer."""

    __slots__ = ("link", "stream", "takes_data", "wasted", "writing")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.wasted = 0
        self.stream: PeerStream | None = None
        self.writing: PeerStream | None = None
        self.takes_data = False  # the last frame was a boundary that may have begun a stream


class Peers:
    """All peers of a socket. Not thread-safe.

    `begin` makes the stream of an identity, or returns None if there is no place for it; `refuse` is called for an
    identity whose bytes belong to no stream. The second argument of both says if our first boundary was sent.
    """

    def __init__(
        self,
        begin: Callable[[Identity, bool], PeerStream | None],
        refuse: Callable[[Identity, bool], object],
    ) -> None:
        self._begin = begin
        self._refuse = refuse
        self._peers: dict[Identity, _Peer] = {}
        self._by_link: dict[Link, set[Identity]] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def knows(self, identity: Identity, link: Link) -> bool:
        """True if this peer is known to use that link."""
        peer = self._peers.get(identity)
        return peer is not None and peer.link == link

    def arrive(self, identity: Identity, link: Link) -> None:
        """Receive an empty frame over a new link, to which our first boundary was sent."""
        if identity in self._peers:
            self._forget(identity)
        self._start(identity, self._add(identity, link), is_greeted=True)

    def receive_boundary(self, identity: Identity) -> None:
        """Receive an empty frame over a known link, or one that is gone."""
        peer = self._peers.get(identity)
        if peer is None:
            return
        if peer.takes_data:
            self._start(identity, peer)
        else:
            stream, peer.stream = peer.stream, None
            peer.takes_data = True
            if stream is not None:
                stream.incoming.finish()

    def waste(self, identity: Identity, link: Link, frames: int = 1) -> int:
        """Count frames that belong to no accepted stream; returns their number since the last `earn`."""
        peer = self._peers.get(identity)
        if peer is None:
            peer = self._add(identity, link)
        peer.wasted += frames
        return peer.wasted

    def earn(self, identity: Identity) -> None:
        """Reset the count: a stream of this peer was accepted."""
        peer = self._peers.get(identity)
        if peer is not None:
            peer.wasted = 0

    def link_of(self, identity: Identity) -> Link:
        """The link of the peer."""
        peer = self._peers.get(identity)
        return None if peer is None else peer.link

    def stream_of(self, identity: Identity) -> PeerStream | None:
        """The stream that the peer writes to."""
        peer = self._peers.get(identity)
        return None if peer is None else peer.stream

    def receive_data(self, identity: Identity, data: bytes) -> bool:
        """Receive a frame with bytes; True if no more should be received before some are read."""
        peer = self._peers.get(identity)
        if peer is None:
            self._add(identity, None)  # so that it is refused once only
            self._refuse(identity, False)
            return False
        if peer.takes_data:
            self._start(identity, peer)
        stream = peer.stream
        if stream is None:
            return False  # its stream was closed here, or refused: frames are dropped up to the next boundary
        stream.last_use = time.monotonic()
        return stream.incoming.put(data)

    def _start(self, identity: Identity, peer: _Peer, *, is_greeted: bool = False) -> None:
        if peer.writing is not None:
            peer.writing.supersede()
        peer.takes_data = False
        peer.stream = peer.writing = self._begin(identity, is_greeted)

    def break_off(self, identity: Identity, error: OSError) -> None:
        """End the stream that the peer writes to, with `error`."""
        peer = self._peers.get(identity)
        if peer is not None and peer.stream is not None:
            peer.stream.incoming.finish(error)
            peer.stream = None

    def lose_link(self, link: Link) -> None:
        """Forget all peers of a link that is gone."""
        for identity in list(self._by_link.get(link, ())):
            self._forget(identity)

    def release(self, stream: PeerStream, *, has_said_all: bool = True) -> None:
        """Drop whatever still comes for a stream, whose connection is closed here.

        Unless it `has_said_all`, it is still told when the peer supersedes it.
        """
        peer = self._peers.get(stream.identity)
        if peer is not None:
            if peer.stream is stream:
                peer.stream = None
            if peer.writing is stream and has_said_all:
                peer.writing = None

    def _add(self, identity: Identity, link: Link) -> _Peer:
        peer = self._peers[identity] = _Peer(link)
        if link is not None:
            self._by_link.setdefault(link, set()).add(identity)
        if len(self._peers) > MAX_PEERS:  # without links nothing tells that a peer is gone
            quiet = (one for one, known in self._peers.items() if known.stream is known.writing is None)
            oldest = next(quiet)
            if oldest != identity:
                self._forget(oldest)
        return peer

    def _forget(self, identity: Identity) -> None:
        peer = self._peers.pop(identity)
        for stream in (peer.stream, peer.writing):
            if stream is not None:
                stream.supersede()
        if peer.link is not None:
            identities = self._by_link[peer.link]
            identities.discard(identity)
            if not identities:
                del self._by_link[peer.link]
