"""The streams of the many peers of one listening ZMQ socket, and when each begins and ends.

Nothing here touches a socket: `zmqrouter` does, in a thread of its own, and puts what it receives in here.

A peer is known by its identity. Its empty frames are boundaries: each ends the stream that is live, if there
is one, and begins the next. The last frame of a stream and the first of the next one look alike, so behind a
boundary that ended a stream the next one is there for us when its first octets, or another boundary, come;
unless it came over another link: then it is a new peer under an old name.

A *link* is the number of the connection that a frame came over, or None where there is no such thing (inproc).

A stream has no descriptor until somebody wants to poll it: strangers begin as many streams as they like, and what
bounds them must not be the number of files that this process may open.
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
"""Seconds without a frame in either direction after which a peer's stream is ended."""
QUEUE_LIMIT = 4 << 20
"""Octets from one peer that are kept until its connection reads them; above that nothing more is received."""
WAITING_LIMIT = 64 << 20
"""Bytes for all streams together that wait to be accepted; with those nothing more is received, for a while."""
MAX_PEERS = 4096
"""Identities that are known; above that the oldest ones without a stream are forgotten."""

THE_END = bytes(ERQ_PACKET) + bytes(EOF_PACKET)
"""What a peer is told for which there is no place."""

Identity = bytes


class FrameSender(Protocol):
    """The socket, for its streams. From any thread."""

    def send(self, stream: PeerStream, buffers: Buffers) -> int:
        """Send what there is room for; the octets taken. Raises OSError."""
        ...

    def end(self, stream: PeerStream) -> None:
        """Send the last boundary."""
        ...

    def receive(self) -> None:
        """Receive what has come, for whomever."""
        ...

    def drained(self) -> None:
        """There is room in a queue that was full."""
        ...

    def released(self, stream: PeerStream) -> None:
        """Its connection is closed."""
        ...


class WaitingOctets:
    """The octets of the streams that nobody reads yet. For one thread at a time."""

    def __init__(self) -> None:
        self.kept = 0

    @property
    def is_full(self) -> bool:
        """Whether there are as many as there may be."""
        return self.kept >= WAITING_LIMIT


def sent_too_early() -> OSError:
    """For a peer that sent more than is kept until somebody accepts its stream."""
    return OSError(errno.ENOBUFS, "this peer sent too much before there was a place for it")


class Incoming:
    """The half of a stream that is filled by whoever receives for it.

    Mostly that is the thread of the socket; while `socket_fd` is set it is the connection that reads here.
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
        """Whether it ended without the peer's last boundary."""
        self._is_receiving = False  # for whoever reads this stream, who need not be woken for what that brings
        self._wakeup: Wakeup | None = None
        self._is_shown = False
        self._look_due = False
        self._poll_set: PollSet | None = None
        self._is_disposed = False
        self._waiting: WaitingOctets | None = None

    def after_fork(self, error: OSError) -> None:
        """In the child of a fork: nothing more comes."""
        self._lock = threading.Lock()
        self._frames.clear()
        self._size = 0
        self._ended = self._is_disposed = True
        self._is_full = False
        self._error = error
        self._socket_fd = None

    def wait(self, waiting: WaitingOctets | None) -> None:
        """Nobody reads here yet: what comes is counted there, and bounded; None: somebody does."""
        if self._waiting is not None:
            self._waiting.kept -= self._size
        self._waiting = waiting

    def open(self) -> PollSet:
        """Have descriptors from now on. Raises OSError."""
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
        """Have the connection poll the socket, too, and receive from it; None: no more. Raises OSError."""
        poll_set = self.open()
        if self._socket_fd is not None:
            poll_set.remove(self._socket_fd)
        self._socket_fd = socket_fd
        if socket_fd is not None:
            poll_set.add(socket_fd)

    def look(self) -> None:
        """Something may have come of which the socket's descriptor will not tell."""
        with self._lock:
            self._look_due = True
            self._show(True)

    def _show(self, shown: bool) -> None:
        """With the lock held: have a poll see something here, or nothing."""
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
        """With the lock held."""
        return self._size > self._limit or (self._waiting is not None and self._waiting.is_full)

    def is_still_full(self) -> bool:
        """Whether nothing more should come, also when others were accepted meanwhile."""
        with self._lock:
            self._is_full = self._is_full and self._holds_too_much()
            return self._is_full

    @property
    def has_octets(self) -> bool:
        """Whether there is something to read."""
        return self._size > 0

    @property
    def is_over(self) -> bool:
        """Nothing more can be read."""
        return self._ended and not self._frames

    def lift_limit(self) -> None:
        """Keep whatever comes: the peer is gone, so that is little. Those that are not accepted have a bound."""
        with self._lock:
            self._limit = math.inf
            self._is_full = self._is_full and self._holds_too_much()

    def put(self, octets: bytes) -> bool:
        """Octets came; whether there should come no more before some are read."""
        with self._lock:
            if self._ended:
                return False
            if self._waiting is not None:
                if self._holds_too_much():
                    self._finish(sent_too_early(), is_cut_off=False)
                    return False
                self._waiting.kept += len(octets)
            self._frames.append(octets)
            self._size += len(octets)
            self._is_full = self._holds_too_much()
            if not self._is_receiving:
                self._show(True)
            return self._is_full

    def finish(self, error: OSError | None = None, *, is_cut_off: bool = False) -> None:
        """Nothing more comes; `error` if that is not the peer's own end. A second call does nothing."""
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
            self._look_due = False  # also if it is no more for us to look
            if self._socket_fd is not None:
                self._is_receiving = True
                try:
                    self._receive()
                finally:
                    self._is_receiving = False
        with self._lock:
            try:
                octets = self._take(size)
            finally:
                self._show(bool(self._frames) or self._ended or self._look_due)
            was_full = self._is_full
            self._is_full = self._size > self._limit and not self._ended
            is_drained = was_full and not self._is_full
        if is_drained:
            self._drained()
        return octets

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
        """Behind `close`, when the sender has forgotten the stream."""
        with self._lock:
            self._is_disposed = True
            if self._wakeup is not None:
                self._wakeup.close()
            if self._poll_set is not None:
                self._poll_set.close()


class Outgoing:
    """The half of a stream that the connection's threads send by themselves."""

    events = select.POLLIN

    def __init__(self, stream: PeerStream, sender: FrameSender) -> None:
        self._stream = stream
        self._sender = sender
        self._lock = threading.Lock()  # guards what follows
        self._room: Wakeup | None = None
        self._is_shown = False
        self._is_closed = False

    def after_fork(self) -> None:
        """In the child of a fork: nothing more is sent."""
        self._lock = threading.Lock()
        self._is_closed = True

    def open(self) -> Wakeup:
        """Have a descriptor from now on. Raises OSError."""
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
        """It is worth another try."""
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
    """The stream of one peer of a listening socket. The sender guards its plain attributes by its lock."""

    def __init__(self, identity: Identity, sender: FrameSender, *, has_begun: bool = False) -> None:
        self.identity = identity
        self.incoming = Incoming(sender)
        self.outgoing = Outgoing(self, sender)
        self.last_use = time.monotonic()
        self.may_send = True
        self.has_begun = has_begun
        self.has_octets = False
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
        """Have the descriptors that it is polled by. Raises OSError, and then it may be tried again."""
        self.incoming.open()
        self.outgoing.open()

    def _let_go(self) -> None:
        self._sender.released(self)
        self.incoming.dispose()

    half_closes = False  # a stream over ZMQ says itself that a direction has ended

    @property
    def is_cut_off(self) -> bool:
        """Whether the peer vanished."""
        return self.incoming.is_cut_off

    def end_reason(self) -> ConnectionEnded | None:
        """That it was cut off, if it was."""
        return StreamTruncated("the ZMQ peer vanished without ending its stream") if self.is_cut_off else None

    def hang_up(self) -> None:
        """Have the connection see the end of the stream. From any thread."""
        self.incoming.finish()

    def supersede(self) -> None:
        """The peer is gone, or has begun its next stream: this one is over in both directions."""
        self.may_send = False
        self.is_superseded = True
        self.incoming.finish(is_cut_off=True)
        self.outgoing.has_room()

    def turn_away(self) -> None:
        """Tell the peer, by packets, that there is no place for it; and close."""
        with suppress(OSError):  # it may be gone already
            self.try_write([THE_END])
        self.close()


class _Peer:
    """What is known of an identity: the stream that it writes to, if any, and the one that may write to it."""

    __slots__ = ("link", "stream", "takes_octets", "wasted", "writing")

    def __init__(self, link: Link) -> None:
        self.link = link
        self.wasted = 0
        self.stream: PeerStream | None = None
        self.writing: PeerStream | None = None
        self.takes_octets = False  # a boundary was the last frame, and it may have begun a stream


class Peers:
    """All peers of a socket. For one thread at a time.

    `begin` makes the stream for an identity, or returns None if there is no place for it; `refuse` is told of
    an identity whose octets belong to no stream. Both get to know whether our first boundary was sent already.
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
        """Whether this peer came over that link."""
        peer = self._peers.get(identity)
        return peer is not None and peer.link == link

    def arrive(self, identity: Identity, link: Link) -> None:
        """An empty frame came over a link that is new, and our first boundary was sent there."""
        if identity in self._peers:
            self._forget(identity)
        self._start(identity, self._add(identity, link), is_greeted=True)

    def receive_boundary(self, identity: Identity) -> None:
        """An empty frame came over a link that was known, or is gone."""
        peer = self._peers.get(identity)
        if peer is None:
            return
        if peer.takes_octets:
            self._start(identity, peer)
        else:
            stream, peer.stream = peer.stream, None
            peer.takes_octets = True
            if stream is not None:
                stream.incoming.finish()

    def waste(self, identity: Identity, link: Link, frames: int = 1) -> int:
        """Frames came that brought nothing to anybody; the number of them since the last `earn`."""
        peer = self._peers.get(identity)
        if peer is None:
            peer = self._add(identity, link)
        peer.wasted += frames
        return peer.wasted

    def earn(self, identity: Identity) -> None:
        """A stream of this peer was accepted."""
        peer = self._peers.get(identity)
        if peer is not None:
            peer.wasted = 0

    def link_of(self, identity: Identity) -> Link:
        """The link that the peer came over."""
        peer = self._peers.get(identity)
        return None if peer is None else peer.link

    def stream_of(self, identity: Identity) -> PeerStream | None:
        """The stream that the peer writes to."""
        peer = self._peers.get(identity)
        return None if peer is None else peer.stream

    def receive_octets(self, identity: Identity, octets: bytes) -> bool:
        """A frame with octets came; whether there should come no more before some are read."""
        peer = self._peers.get(identity)
        if peer is None:
            self._add(identity, None)  # so that it is told once
            self._refuse(identity, False)
            return False
        if peer.takes_octets:
            self._start(identity, peer)
        stream = peer.stream
        if stream is None:
            return False  # its connection was closed here, or never was: dropped up to the next boundary
        stream.last_use = time.monotonic()
        return stream.incoming.put(octets)

    def _start(self, identity: Identity, peer: _Peer, *, is_greeted: bool = False) -> None:
        if peer.writing is not None:
            peer.writing.supersede()
        peer.takes_octets = False
        peer.stream = peer.writing = self._begin(identity, is_greeted)

    def break_off(self, identity: Identity, error: OSError) -> None:
        """What comes from there cannot go on."""
        peer = self._peers.get(identity)
        if peer is not None and peer.stream is not None:
            peer.stream.incoming.finish(error)
            peer.stream = None

    def lose_link(self, link: Link) -> None:
        """The link is gone, and with it all peers that came over it."""
        for identity in list(self._by_link.get(link, ())):
            self._forget(identity)

    def release(self, stream: PeerStream, *, has_said_all: bool = True) -> None:
        """The connection is closed here: what still comes of that stream is dropped.

        If it has not `has_said_all`, it still can be superseded.
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
        if len(self._peers) > MAX_PEERS:  # without links nobody says that a peer is gone
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
