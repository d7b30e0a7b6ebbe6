"""The side that listens: a bound ROUTER, whose every peer is a byte stream, or a bound PAIR, which has one.

Strategy. One thread, the *postman*, receives what comes to the socket and puts it into the streams' queues,
each of which has a descriptor to poll; no stream could know by itself that a frame is its own. It also sees
to all that is not the business of one stream: new peers, lost links, those that are idle, and clients' keys.
Sending needs no such distribution, so the connections' threads do it themselves, under the lock that the
postman has while it receives; nobody waits under that lock.

From the postman to a connection is one more thread switch, which takes as long as all the rest of a small
request. So while all octets come from one peer, its connection, the *favourite*, polls the socket and receives
by itself, for the others too. The postman then looks by the clock whether it still does, and otherwise is the
one who receives again.

Any use of the socket can swallow ZMQ's signal that something came, so whoever sends looks at the socket's
events afterwards and wakes the postman. A peer's queue that is full is tried again by the clock, because a
ROUTER does not tell which of its peers has room.

A stream whose connection does not read makes everyone wait, as the socket has one queue for all: for some
seconds, after which that stream is ended. So does one that is not accepted yet and brings more than is kept for it:
the server may only be busy at that moment. But strangers could do that one after the other, so all that are not
accepted have some seconds for it together, which come back slowly.

Strangers may send what they like. A stream has no descriptor before it is accepted, few streams of a peer wait for
that at a time, and one that was given up before anything came for it is forgotten. Frames that bring nothing to
anybody are counted, and a peer that sends too many of them has its link cut. When the program ends the context, all
streams end with that for a reason, and the socket is let go of at once.
"""

from __future__ import annotations

import errno
import logging
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress

from packetwire.errors import extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("zmq", error) from error

from packetwire.streams import forking
from packetwire.streams.bytestream import Buffers
from packetwire.streams.curve import CurveServer
from packetwire.streams.patience import Patience
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqpeers import (
    DEFAULT_IDLE_LIMIT,
    THE_END,
    Identity,
    Peers,
    PeerStream,
    WaitingOctets,
    sent_too_early,
)
from packetwire.streams.zmqsockets import (
    BOUNDARY,
    LINGER,
    MAX_FRAME_SIZE,
    MORE_NOBLOCK,
    NOBLOCK,
    POLLIN,
    POLLOUT,
    Gatekeeper,
    ZmqContext,
    be_curve_server,
    be_pair_server,
    events_getter,
    handshake_failure,
    make_socket,
    no_stream,
    pieces,
)
from packetwire.zmq.exposure import warn_if_exposed
from packetwire.zmq.links import Link, Links, has_hung_up
from packetwire.zmq.messages import Discarding
from packetwire.zmq.sockets import close_monitored, context_ended, is_ended, leave_to_parent, os_error

logger = logging.getLogger("packetwire")

MAX_WAITING = 1024
"""Streams that wait to be accepted; more are turned away."""
MAX_WAITING_OF_ONE = 8
"""The same of one peer, which begins one stream after the other without an answer."""
MAX_WASTED = 1000
"""Frames from one peer that bring nothing to anybody, and no stream of it was accepted; then its link is cut."""
REFUSALS_SECONDS = 1.0
"""Between two log records about streams that were refused."""
BATCH = 256
"""Messages that are received before others may send."""
RETRY_SECONDS = 0.005
"""Until a peer whose queue was full is tried again."""
FAVOURITE_AFTER = 8
"""Messages in a row from one peer after which its connection receives."""
STALL_LIMIT = 5.0
"""Seconds that a stream whose connection does not read may keep the others waiting."""
STALL_SHARE = 0.1
"""Of the time, in which streams that are not accepted yet may do that; no more than those seconds in a row."""
STALL_INTERVAL = 0.05
"""Seconds between two looks whether it still does."""
IDLE_CHECKS = 4
"""Times to look for idle streams while one may be idle."""
JOIN_SECONDS = 2 * LINGER

THE_ONE_PEER: Identity = b""
"""Of a PAIR."""


class ZmqListener:
    """A bound socket and the streams of its peers: `accept` each, close it; then `close` the listener.

    The socket lives until the last stream is closed. `endpoint` is the real one, with the port.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        pair: bool = False,
        curve: CurveServer | None = None,
        idle_limit: float | None = DEFAULT_IDLE_LIMIT,
        context: ZmqContext | None = None,
        listening: socket.socket | None = None,
    ) -> None:
        """Bind. Raises OSError. With `curve` there has to be a context of its own; see `Gatekeeper`.

        `listening` is a socket that listens at the endpoint already; ZMQ takes it over.
        """
        self._is_pair = pair
        self._idle_limit = idle_limit
        self._own_context = context is None and not endpoint.startswith("inproc:")
        self._context: ZmqContext = context or (zmq.Context() if self._own_context else zmq.Context.instance())
        self._gatekeeper: Gatekeeper | None = None
        self._links: Links | None = None
        self._socket = sock = make_socket(self._context, zmq.PAIR if pair else zmq.ROUTER, endpoint)
        # looking up a method of a ZMQ socket takes as long as some of them
        self._send, self._recv, self._events = sock.send, sock.recv, events_getter(sock)
        try:
            self._bind(endpoint, curve, listening)
        except BaseException:
            self._close_sockets()
            if self._own_context:
                self._context.term()
            raise
        self._lock = threading.Lock()  # guards the sockets and what follows
        self._failure: OSError | None = None
        """Why the sockets are gone."""
        self._peers = Peers(self._begin, self._refuse)
        self._streams: set[PeerStream] = set()
        self._waiting: dict[PeerStream, None] = {}
        self._waiting_of: dict[Identity, list[PeerStream]] = {}
        self._waiting_octets = WaitingOctets()
        self._rest = Discarding(sock)
        self._rest_of: tuple[Identity, Link] = (b"", None)
        self._sure: dict[Identity, Link] = {}
        """The links of peers that have begun no stream."""
        self._muted: dict[Identity, Link] = {}
        """Peers whose link was cut, and what may still come over it."""
        self._refused, self._next_refusal = 0, 0.0
        self._blocked: set[PeerStream] = set()
        self._farewells: deque[tuple[PeerStream, float]] = deque()
        self._stalled_since: float | None = None
        self._stalled_by: PeerStream | None = None
        """The stream that nobody has accepted yet, if it is one of those."""
        self._patience = Patience(STALL_LIMIT, STALL_SHARE)
        """With those."""
        self._favourite: PeerStream | None = None
        self._last_identity: Identity | None = None
        self._in_a_row = 0
        self._received_by_favourite = False
        self._closed = False
        self._is_of_parent = False
        self._accept_wakeup = Wakeup()
        self._wakeup = Wakeup()
        self._postman = threading.Thread(target=self._run, name=f"packetwire-{self.endpoint}", daemon=True)
        for owned in (sock, self._links and self._links.monitor, self._gatekeeper and self._gatekeeper.socket):
            if owned is not None:
                owned.keeper = self._sockets_taken
        forking.register(self)
        try:
            self._postman.start()
        except BaseException:
            self._close_sockets()
            if self._own_context:
                self._context.term()
            self._accept_wakeup.close()
            self._wakeup.close()
            raise

    def _bind(self, endpoint: str, curve: CurveServer | None, listening: socket.socket | None) -> None:
        sock = self._socket
        if self._is_pair:
            be_pair_server(sock)
        else:
            sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
            sock.setsockopt(zmq.ROUTER_HANDOVER, 1)  # who comes back need not wait until its old link is found dead
        if curve is not None:
            be_curve_server(sock, curve)
        try:
            if curve is not None and curve.clients is not None:
                self._gatekeeper = Gatekeeper(self._context, curve)
            if not endpoint.startswith("inproc:"):
                self._links = Links(sock, self._note_refused, endpoint=endpoint)
            if listening is not None:
                sock.setsockopt(zmq.USE_FD, listening.fileno())
            sock.bind(endpoint)
        except zmq.ZMQError as error:
            raise os_error(error) from error
        if listening is not None:
            listening.detach()
        warn_if_exposed(endpoint, with_curve=curve is not None)
        self.endpoint = sock.getsockopt_string(zmq.LAST_ENDPOINT)

    def after_fork(self) -> None:
        """In the child of a fork: the socket and its streams are the parent's, and nothing of ZMQ is used here."""
        self._lock = threading.Lock()
        leave_to_parent(self._socket, self._context)
        if self._links is not None:
            leave_to_parent(self._links.monitor)
        if self._gatekeeper is not None:
            leave_to_parent(self._gatekeeper.socket)
        self._is_of_parent = self._closed = True
        if self._failure is None:
            self._failure = OSError(errno.ESHUTDOWN, forking.of_parent(self.endpoint))
        self._favourite = None
        self._streams.clear()
        self._waiting.clear()
        self._waiting_of.clear()

    # for the server

    def fileno(self) -> int:
        """Readable when there is somebody to accept."""
        return self._accept_wakeup.fileno()

    def accept(self) -> tuple[PeerStream, Identity]:
        """The stream of a new peer, and its identity; BlockingIOError if there is none.

        Raises OSError if it cannot have the descriptors that it needs, and then it waits on.
        """
        with self._lock:
            stream = self._next_waiting()
            stream.open()
            self._forget_waiting(stream)
            self._peers.earn(stream.identity)
        return stream, stream.identity

    def turn_away(self) -> bool:
        """Tell the next new peer that there is no place for it; false if there is none."""
        with self._lock:
            try:
                stream = self._next_waiting()
            except OSError:
                return False
            self._forget_waiting(stream)
        stream.turn_away()
        return True

    def _next_waiting(self) -> PeerStream:
        if self._failure is not None:
            raise OSError(errno.EBADF, f"{self.endpoint}: {self._failure}") from self._failure
        first = None
        for stream in self._waiting:
            if stream.incoming.has_octets:  # there may be very many that begin streams and say nothing
                return stream
            first = first or stream
        if first is not None:
            return first
        self._accept_wakeup.clear()
        raise BlockingIOError(errno.EAGAIN, "nobody waits to be accepted")

    def _forget_waiting(self, stream: PeerStream) -> None:
        """With the lock held: it does not wait to be accepted any more."""
        del self._waiting[stream]
        of_peer = self._waiting_of[stream.identity]
        of_peer.remove(stream)
        if not of_peer:
            del self._waiting_of[stream.identity]
        stream.incoming.wait(None)
        if self._stalled_since is not None:
            if stream is self._stalled_by:  # from now on it counts as one that is accepted
                now = time.monotonic()
                self._patience.spend(now - self._stalled_since, now)
                self._stalled_since, self._stalled_by = now, None
            self._wakeup.set()  # there may be room now
        if not self._waiting and self._failure is None:
            self._accept_wakeup.clear()

    def close(self) -> None:
        """Accept no more. What was accepted goes on, at an endpoint that is still ours. A second call does nothing.

        ZMQ's unbind would end the links, too: so until the last stream is closed, who comes is told of the end.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._waiting)
            for stream in waiting:
                self._forget_waiting(stream)
            self._accept_wakeup.close()
        for stream in waiting:
            stream.turn_away()
        self._wakeup.set()
        self._join_if_done()

    def _join_if_done(self) -> None:
        if self._closed and not self._streams and threading.current_thread() is not self._postman:
            self._postman.join(JOIN_SECONDS)

    # for the streams

    def send(self, stream: PeerStream, buffers: Buffers) -> int:
        with self._lock:
            if not stream.may_send:
                raise self._failure or BrokenPipeError(
                    errno.EPIPE, "the ZMQ peer has gone, or has begun another stream"
                )
            try:
                return self._send_pieces(stream, buffers)
            except zmq.ZMQError as error:
                raise self._fail(error) from error

    def _send_pieces(self, stream: PeerStream, buffers: Buffers) -> int:
        taken = 0
        try:
            if self._begin_sending(stream):
                for piece in pieces(buffers):
                    if not self._send_frame(stream.identity, piece):
                        break
                    stream.has_octets = True
                    taken += len(piece)
                else:
                    return taken
            self._blocked.add(stream)
            self._wakeup.set()
        except BrokenPipeError:
            stream.may_send = False
            raise
        finally:
            stream.last_use = time.monotonic()
            self._look_again()
        return taken

    def _begin_sending(self, stream: PeerStream) -> bool:
        if not stream.has_begun:
            stream.has_begun = self._send_frame(stream.identity, BOUNDARY)
        return stream.has_begun

    def _send_frame(self, identity: Identity, frame: bytes | memoryview) -> bool:
        """Send one frame; false if there is no room. Raises BrokenPipeError."""
        send = self._send
        try:
            if not self._is_pair:
                send(identity, MORE_NOBLOCK)
            send(frame, NOBLOCK)
            return True
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if is_ended(error):
                raise
            raise BrokenPipeError(errno.EPIPE, "the ZMQ peer has gone") from error

    def _look_again(self) -> None:
        """After sending: who receives has to know what ZMQ would not tell any more."""
        if self._events() & POLLIN:
            if self._favourite is not None:
                self._favourite.incoming.look()
            else:
                self._wakeup.set()

    def end(self, stream: PeerStream) -> None:
        with self._lock:
            if stream.may_send:
                stream.may_send = False
                try:
                    if not self._say_farewell(stream):
                        self._farewells.append((stream, time.monotonic() + LINGER))
                        self._wakeup.set()
                    self._look_again()
                except zmq.ZMQError as error:
                    self._fail(error)  # which tells everybody; that this stream has ended is all right

    def _say_farewell(self, stream: PeerStream) -> bool:
        """Send the last boundary; false if that is worth another try."""
        if stream.is_superseded:
            return True
        try:
            # a second boundary right behind the first may be taken for it, see `zmq._Link`
            stream.has_octets = stream.has_octets or (
                self._begin_sending(stream) and self._send_frame(stream.identity, BOUNDARY)
            )
            return stream.has_octets and self._send_frame(stream.identity, BOUNDARY)
        except BrokenPipeError:
            return True  # there is nobody to tell

    def receive(self) -> None:
        with self._lock:
            favourite = self._favourite
            if favourite is None:
                return
            self._received_by_favourite = True
            try:
                has_more = self._stalled_since is None and self._receive()
            except zmq.ZMQError as error:
                self._fail(error)
                return
            if self._in_a_row == 0 or self._stalled_since is not None:
                self._dismiss_favourite()
                self._wakeup.set()
            elif has_more:
                favourite.incoming.look()

    def drained(self) -> None:
        self._wakeup.set()

    def released(self, stream: PeerStream) -> None:
        if self._is_of_parent:
            return
        with self._lock:
            if self._favourite is stream:
                self._dismiss_favourite()
                self._wakeup.set()
            self._streams.discard(stream)
            self._blocked.discard(stream)
            self._peers.release(stream, has_said_all=all(stream is not one for one, _ in self._farewells))
        if self._closed:
            self._wakeup.set()
            self._join_if_done()

    # the end of the context, or of the postman

    def _sockets_taken(self) -> None:
        """In whatever thread destroys the context."""
        with self._lock:
            self._fail(context_ended())
        self._wakeup.set()

    def _fail(self, error: Exception) -> OSError:
        """With the lock held: nothing can be sent or received any more. All streams end; returns the reason."""
        if self._failure is None:
            self._failure = failure = os_error(error) if isinstance(error, zmq.ZMQError) else _as_os_error(error)
            if failure is not error:
                failure.__cause__ = error
            self._dismiss_favourite()
            for stream in self._streams:
                stream.may_send = False
                stream.incoming.finish(failure)
                stream.outgoing.has_room()
            for stream in list(self._waiting):
                self._forget_waiting(stream)
                self._streams.discard(stream)
            self._blocked.clear()
            self._farewells.clear()
            self._close_sockets()
            self._accept_wakeup.set()
            self._wakeup.set()
        return self._failure

    # all below runs in the postman, or by it, under the lock

    def _run(self) -> None:
        try:
            self._pass_on()
        except Exception as error:  # whatever it is, nobody must wait for what will not come
            with self._lock:
                self._fail(error)
            if not is_ended(error):
                logger.exception("%s: receiving failed", self.endpoint)
        finally:
            with self._lock:
                self._close_sockets()
            if self._own_context:
                self._context.term()
            self._wakeup.close()

    def _pass_on(self) -> None:
        poller = select.poll()
        monitor = None if self._links is None else self._links.monitor
        for polled in (self._socket, self._wakeup, monitor, self._gatekeeper):
            if polled is not None:
                poller.register(polled.fileno(), select.POLLIN)
        socket_fd = self._socket.fileno()
        pause: float | None = 0.0
        while True:
            poller.modify(socket_fd, select.POLLIN if self._favourite is None else 0)
            poller.poll(None if pause is None else pause * 1000)
            self._wakeup.clear()
            with self._lock:
                if self._failure is not None:
                    return
                pause = self._see_to_all()
                if self._closed and not self._streams and not self._farewells:
                    return

    def _see_to_all(self) -> float | None:
        """Do what there is to do now; seconds until there may be more without a signal, None for never."""
        if self._gatekeeper is not None:
            self._gatekeeper.answer()
        if self._links is not None:
            self._links.watch()
        now = time.monotonic()
        stalled = self._is_stalled(now)
        if self._favourite is not None and not self._received_by_favourite:
            self._dismiss_favourite()
            self._in_a_row = 0
        self._received_by_favourite = False
        has_more = False
        if not stalled and (self._favourite is None or (self._links is not None and self._links.has_lost)):
            has_more = self._receive()
        if not has_more and self._stalled_since is None:  # all that came over the lost links was received
            self._end_lost_streams()
            self._choose_favourite()
        self._retry(now)
        self._end_idle_streams(now)
        if self._stalled_since is None and self._events() & POLLIN:  # sending may have swallowed it
            if self._favourite is None:
                return 0.0
            self._favourite.incoming.look()
        if self._blocked or self._farewells or self._favourite is not None:
            return RETRY_SECONDS
        if self._stalled_since is not None:
            return STALL_INTERVAL
        return None if self._idle_limit is None or not self._streams else self._idle_limit / IDLE_CHECKS

    def _note_refused(self, event: int, value: int) -> None:
        logger.warning("%s: a client was not let in: %s", self.endpoint, handshake_failure(event, value))

    def _receive(self) -> bool:
        """Receive what there is, within bounds; whether there is more."""
        recv = self._recv
        for _ in range(BATCH):
            if not self._rest.is_done:
                return self._discard_rest()
            try:
                identity = THE_ONE_PEER if self._is_pair else recv(NOBLOCK)
                frame = recv(NOBLOCK, copy=False)
            except zmq.Again:
                return False
            octets = frame.bytes
            if frame.more or len(octets) > MAX_FRAME_SIZE:
                self._refuse_message(identity, frame)
            elif self._muted and self._is_muted(identity, frame):
                pass
            elif not octets:
                self._receive_boundary(identity, frame)
            else:
                if identity == self._last_identity:
                    self._in_a_row += 1
                else:
                    self._last_identity, self._in_a_row = identity, 0
                if self._peers.receive_octets(identity, octets) and self._stall(identity):
                    return False
            if not self._events() & POLLIN:
                return False
        return True

    def _link_of(self, frame: zmq.Frame) -> Link:
        return None if self._links is None else self._links.of(frame)

    def _receive_boundary(self, identity: Identity, frame: zmq.Frame) -> None:
        if self._links is not None:
            self._links.watch()  # this frame may be the first of a new link with an old number
        link = self._link_of(frame)
        if self._peers.knows(identity, link) or not self._greet(identity, link):
            self._peers.receive_boundary(identity)
        else:
            self._peers.arrive(identity, link)
        self._waste(identity, self._peers.link_of(identity), 1)

    def _sure_link(self, identity: Identity, frame: zmq.Frame) -> Link:
        """The link of a peer, None if that is not sure: the number in the frame may be another peer's by now.

        Who can be sent something still has the link that it had when the frame was sent, as in `_greet`.
        """
        link = self._peers.link_of(identity) or self._sure.get(identity)
        if link is None and self._links is not None:
            self._links.watch()
            link = self._links.of(frame)
            if not self._greet(identity, link):
                return None
            with suppress(BrokenPipeError):
                for told in THE_END, BOUNDARY:
                    self._send_frame(identity, told)
            self._sure[identity] = link
        return link

    def _refuse_message(self, identity: Identity, frame: zmq.Frame) -> None:
        """What came is no frame of a stream: the first of several, or one that is too long."""
        self._peers.break_off(identity, no_stream())
        link = self._sure_link(identity, frame)
        if frame.more:
            self._rest.begin()
            self._rest_of = identity, link
        self._waste(identity, link, 1)

    def _discard_rest(self) -> bool:
        """Throw away the next frames of a message that has several; whether there is more to receive."""
        before = self._rest.count
        is_done = self._rest.go_on()
        self._waste(*self._rest_of, self._rest.count - before)
        return not is_done or bool(self._events() & POLLIN)

    def _waste(self, identity: Identity, link: Link, frames: int) -> None:
        """Such frames are no stream's. A peer that sends too many of them has its link cut."""
        if link is None or self._links is None or self._links.is_gone(link):
            return  # what is in this process is no stranger, and who is gone sends no more
        wasted = self._peers.waste(identity, link, frames)
        if wasted > MAX_WASTED and self._muted.get(identity) != link:
            self._muted[identity] = link
            self._cut(identity, link, wasted)

    def _cut(self, identity: Identity, link: Link, wasted: int) -> None:
        was_cut = self._links is not None and self._links.cut(link)
        text = f"the peer sent {wasted} frames that are no stream's"
        self._peers.break_off(identity, OSError(errno.EPROTO, text))
        logger.warning("%s: a link is %s: %s", self.endpoint, "cut" if was_cut else "to be cut", text)

    def _is_muted(self, identity: Identity, frame: zmq.Frame) -> bool:
        """Whether it came over a link that was cut, or shall be, as soon as there is a descriptor for that."""
        muted = self._muted.get(identity)
        if muted is None or self._links is None or self._links.of(frame) != muted:
            return False
        if self._peers.waste(identity, muted) % MAX_WASTED == 0:
            self._links.cut(muted)  # there may have been no descriptor for that
        return True

    def _greet(self, identity: Identity, link: Link) -> bool:
        """Send the first boundary to a peer that is new; false if it is not, but is gone already.

        The last frame of a peer that is gone can be read when its link's number is another link's already.
        But ZMQ has by then said that nothing can be sent there.
        """
        if self._links is not None and self._links.is_gone(link):
            return False
        events = self._events()  # and ZMQ takes note of what was said
        if self._is_pair and not events & POLLOUT:
            return False
        try:
            return self._send_frame(identity, BOUNDARY)
        except BrokenPipeError:
            return False

    def _choose_favourite(self) -> None:
        if self._favourite is None and self._in_a_row >= FAVOURITE_AFTER and self._last_identity is not None:
            stream = self._peers.stream_of(self._last_identity)
            if stream is not None and stream not in self._waiting and self._stalled_since is None:
                try:
                    stream.incoming.watch(self._socket.fileno())
                except OSError:
                    return  # it is being closed
                self._favourite = stream
                self._received_by_favourite = True

    def _dismiss_favourite(self) -> None:
        if self._favourite is not None:
            self._favourite.incoming.watch(None)
            self._favourite = None

    def _end_lost_streams(self) -> None:
        if self._links is None or not self._links.has_lost:
            return
        links = self._links.take_lost()
        for link in links:
            self._peers.lose_link(link)
        for known in self._muted, self._sure:
            for identity in [one for one, link in known.items() if link in links]:
                del known[identity]
        # nobody need accept who has gone and said nothing
        self._forget_superseded(list(self._waiting))

    def _forget_superseded(self, streams: list[PeerStream]) -> None:
        """Forget those that wait to be accepted, though they were given up before anything came for them."""
        for stream in streams:
            if stream.is_superseded and stream.incoming.is_over:
                self._forget_waiting(stream)
                self._streams.discard(stream)

    def _stall(self, identity: Identity) -> bool:
        """The stream of this peer is full: receive nothing for a while. False if that is not to be."""
        now = time.monotonic()
        stream = self._peers.stream_of(identity)
        if stream in self._waiting:
            if self._patience.left(now) <= 0:
                return False
            self._stalled_by = stream
        self._stalled_since = now
        return True

    def _is_stalled(self, now: float) -> bool:
        """Whether a stream is full, so that nothing can be received; one that stays so is ended.

        What a peer that is gone has sent is received at once: libzmq does not let go of its link before, and the
        next heartbeat over that fails an assertion, which ends the process.
        """
        since = self._stalled_since
        if since is None:
            return False
        full = [stream for stream in self._streams if self._may_stall(stream) and stream.incoming.is_still_full()]
        gone = [stream for stream in full if self._is_gone(self._peers.link_of(stream.identity))]
        for stream in gone:
            stream.incoming.lift_limit()
            if stream.incoming.is_full:  # for which there is no room
                self._peers.break_off(stream.identity, sent_too_early())
            full.remove(stream)
        limit = STALL_LIMIT if self._stalled_by is None else self._patience.left(since)
        if full and now - since < limit:
            return True
        if self._stalled_by is not None:
            self._patience.spend(now - since, now)
        self._stalled_since = self._stalled_by = None
        for stream in full:
            text = f"nobody read what this peer sent for {STALL_LIMIT:g} s, and others had to wait for that"
            reason = sent_too_early() if stream in self._waiting else OSError(errno.ENOBUFS, text)
            self._peers.break_off(stream.identity, reason)
        return False

    def _may_stall(self, stream: PeerStream) -> bool:
        return stream is self._stalled_by or stream not in self._waiting

    def _is_gone(self, link: Link) -> bool:
        return self._links is not None and (self._links.is_gone(link) or has_hung_up(link))

    def _retry(self, now: float) -> None:
        for stream in self._blocked:
            stream.outgoing.has_room()
        self._blocked.clear()
        for _ in range(len(self._farewells)):
            stream, deadline = self._farewells.popleft()
            if not self._say_farewell(stream) and now < deadline:
                self._farewells.append((stream, deadline))
            elif stream not in self._streams:
                self._peers.release(stream)

    def _end_idle_streams(self, now: float) -> None:
        if self._idle_limit is None:
            return
        for stream in self._streams:
            if now - stream.last_use > self._idle_limit:
                text = f"neither side sent anything for {self._idle_limit:g} s"
                stream.incoming.finish(TimeoutError(errno.ETIMEDOUT, text))

    def _begin(self, identity: Identity, is_greeted: bool) -> PeerStream | None:
        self._forget_superseded(list(self._waiting_of.get(identity, ())))
        of_peer = self._waiting_of.get(identity, ())
        if self._closed or len(self._waiting) >= MAX_WAITING or len(of_peer) >= MAX_WAITING_OF_ONE:
            self._refuse(identity, is_greeted)
            return None
        stream = PeerStream(identity, self, has_begun=is_greeted)
        stream.incoming.wait(self._waiting_octets)
        self._streams.add(stream)
        with suppress(BrokenPipeError):  # gone already
            self._begin_sending(stream)
        self._waiting[stream] = None
        self._waiting_of.setdefault(identity, []).append(stream)
        self._accept_wakeup.set()
        return stream

    def _refuse(self, identity: Identity, is_greeted: bool) -> None:
        """Tell a peer that this is the end: there is no place, or its octets are no stream's."""
        self._refused += 1
        now = time.monotonic()
        if now >= self._next_refusal:
            what = "a stream was refused" if self._refused == 1 else f"{self._refused} streams were refused"
            logger.warning("%s: %s", self.endpoint, what)
            self._refused, self._next_refusal = 0, now + REFUSALS_SECONDS
        with suppress(BrokenPipeError):
            for frame in (THE_END, BOUNDARY) if is_greeted else (BOUNDARY, THE_END, BOUNDARY):
                self._send_frame(identity, frame)

    def _close_sockets(self) -> None:
        """Let go of the sockets. A second call does nothing."""
        close_monitored(self._socket, None if self._links is None else self._links.monitor)
        if self._gatekeeper is not None:
            self._gatekeeper.close()


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(errno.EIO, f"receiving failed: {error!r}")
