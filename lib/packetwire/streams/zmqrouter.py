"""The listening side: a bound ROUTER, with a byte stream for each peer, or a bound PAIR, which has one.

Strategy. One thread, the *dispatcher*, receives from the socket and puts the frames into the streams' queues, each
of which has a descriptor to poll; only a single receiver can tell whose frame comes next. It also takes care of all
that concerns more than one stream: new peers, lost links, idle streams, and clients' keys. Sending needs no such
distribution, so the connections' threads do it themselves, under the lock that the dispatcher holds while it
receives; nobody waits under that lock.

From the dispatcher to a connection is one more thread switch, which takes as long as all the rest of a small
request. So while all bytes come from one peer, its connection, the *favourite*, polls the socket and receives by
itself, for the others too. The dispatcher then checks at intervals that it still does, and otherwise takes over
again.

Any use of the socket can reset its edge-triggered descriptor, so each sender reads the socket's events afterwards
and wakes the dispatcher. A peer whose queue is full is tried again at intervals, because a ROUTER does not tell
which of its peers has room.

A stream whose connection does not read stalls all others, as the socket has one queue for all: for some seconds,
after which that stream is ended. So does one that is not accepted yet and brings more than is kept for it: the
server may only be busy at that moment. But strangers could do that one after the other, so all streams that are not
accepted share a budget of some seconds, which is refilled slowly.

Strangers may send anything. A stream has no descriptor before it is accepted, few streams of a peer wait for that
at a time, and one that was given up before anything came for it is forgotten. Frames that belong to no stream are
counted, and a peer that sends too many of them has its link cut. If the program ends the context, that is the
reason with which all streams end, and the socket is closed at once.
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
    WaitingBytes,
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
from packetwire.zmq.owned import set_owner
from packetwire.zmq.reading import Discarding
from packetwire.zmq.sockets import close_monitored, context_ended, is_ended, leave_to_parent, os_error

logger = logging.getLogger("packetwire")

MAX_WAITING = 1024
"""Streams that wait to be accepted; more are turned away."""
MAX_WAITING_OF_ONE = 8
"""The same for one peer, which begins one stream after the other without waiting for an answer."""
MAX_WASTED = 1000
"""Frames from one peer that belong to no accepted stream; one more, and its link is cut."""
REFUSALS_SECONDS = 1.0
"""Seconds between two log records about streams that were refused."""
BATCH = 256
"""Messages received in one go, before the lock is released for senders."""
RETRY_SECONDS = 0.005
"""Seconds until a peer whose queue was full is tried again."""
FAVOURITE_AFTER = 8
"""Messages in a row from one peer after which its connection becomes the favourite."""
STALL_LIMIT = 5.0
"""Seconds that a stream whose connection does not read may stall the others."""
STALL_SHARE = 0.1
"""The share of the time in which streams that are not accepted yet may do that; at most `STALL_LIMIT` in a row."""
STALL_INTERVAL = 0.05
"""Seconds between two checks if a stream still stalls."""
IDLE_CHECKS = 4
"""Checks for idle streams within the idle limit."""
JOIN_SECONDS = 2 * LINGER

THE_ONE_PEER: Identity = b""
"""The identity of a PAIR's peer."""


class ZmqListener:
    """A bound socket and the streams of its peers: `accept` and close each; `close` the listener in the end.

    The socket lives until the last stream is closed. `endpoint` is the actual one, with the port.
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
        """Bind. Raises OSError. With `curve` the listener needs a context of its own; see `Gatekeeper`.

        `listening` is a socket that listens at the endpoint already; ZMQ takes it over.
        """
        self._is_pair = pair
        self._idle_limit = idle_limit
        self._own_context = context is None and not endpoint.startswith("inproc:")
        self._context: ZmqContext = context or (zmq.Context() if self._own_context else zmq.Context.instance())
        self._gatekeeper: Gatekeeper | None = None
        self._links: Links | None = None
        self._socket = sock = make_socket(self._context, zmq.PAIR if pair else zmq.ROUTER, endpoint)
        # looking up a method of a ZMQ socket takes as long as calling some of them
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
        """The reason why the sockets are closed."""
        self._peers = Peers(self._begin, self._refuse)
        self._streams: set[PeerStream] = set()
        self._waiting: dict[PeerStream, None] = {}
        self._waiting_of: dict[Identity, list[PeerStream]] = {}
        self._waiting_bytes = WaitingBytes()
        self._rest = Discarding(sock)
        self._rest_of: tuple[Identity, Link] = (b"", None)
        self._sure: dict[Identity, Link] = {}
        """The links of peers that have begun no stream, as far as `_sure_link` made certain."""
        self._muted: dict[Identity, Link] = {}
        """Peers whose link was cut, with the link: frames that still come over it are dropped."""
        self._refused, self._next_refusal = 0, 0.0
        self._blocked: set[PeerStream] = set()
        self._farewells: deque[tuple[PeerStream, float]] = deque()
        self._stalled_since: float | None = None
        self._stalled_by: PeerStream | None = None
        """The stalling stream, if it is not accepted yet."""
        self._patience = Patience(STALL_LIMIT, STALL_SHARE)
        """The budget of streams that are not accepted yet."""
        self._favourite: PeerStream | None = None
        self._last_identity: Identity | None = None
        self._in_a_row = 0
        self._received_by_favourite = False
        self._closed = False
        self._is_of_parent = False
        self._accept_wakeup = Wakeup()
        self._wakeup = Wakeup()
        self._dispatcher = threading.Thread(target=self._run, name=f"packetwire-{self.endpoint}", daemon=True)
        for owned in (sock, self._links and self._links.monitor, self._gatekeeper and self._gatekeeper.socket):
            if owned is not None:
                set_owner(owned, self._sockets_taken)
        forking.register(self)
        try:
            self._dispatcher.start()
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
            sock.setsockopt(
                zmq.ROUTER_HANDOVER, 1
            )  # a peer that comes back need not wait until its old link is found dead
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
        """In the child of a fork: the socket and its streams are the parent's; libzmq must not be used here."""
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
        """A descriptor that is readable when there is a stream to accept."""
        return self._accept_wakeup.fileno()

    def accept(self) -> tuple[PeerStream, Identity]:
        """The stream of a new peer, and its identity; BlockingIOError if there is none.

        Raises OSError if its descriptors cannot be opened; the stream can be accepted later.
        """
        with self._lock:
            stream = self._next_waiting()
            stream.open()
            self._forget_waiting(stream)
            self._peers.earn(stream.identity)
        return stream, stream.identity

    def turn_away(self) -> bool:
        """Tell the next new peer that there is no place for it; False if nobody waits."""
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
            if stream.incoming.has_data:  # first, as strangers may begin very many streams and send nothing
                return stream
            first = first or stream
        if first is not None:
            return first
        self._accept_wakeup.clear()
        raise BlockingIOError(errno.EAGAIN, "nobody waits to be accepted")

    def _forget_waiting(self, stream: PeerStream) -> None:
        """With the lock held: take it from those that wait to be accepted."""
        del self._waiting[stream]
        of_peer = self._waiting_of[stream.identity]
        of_peer.remove(stream)
        if not of_peer:
            del self._waiting_of[stream.identity]
        stream.incoming.wait(None)
        if self._stalled_since is not None:
            if stream is self._stalled_by:  # from now on the limit for accepted streams applies
                now = time.monotonic()
                self._patience.spend(now - self._stalled_since, now)
                self._stalled_since, self._stalled_by = now, None
            self._wakeup.set()  # there may be room now
        if not self._waiting and self._failure is None:
            self._accept_wakeup.clear()

    def close(self) -> None:
        """Accept no more. Accepted streams go on, at an endpoint that is still ours. A second call does nothing.

        ZMQ's unbind would end the links, too: so until the last stream is closed, new peers are told of the end.
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
        if self._closed and not self._streams and threading.current_thread() is not self._dispatcher:
            self._dispatcher.join(JOIN_SECONDS)

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
                    stream.has_data = True
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
        """Send one frame; False if there is no room. Raises BrokenPipeError."""
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
        """After sending, which may have reset ZMQ's descriptor: wake the receiver if frames have come."""
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
                    self._fail(error)  # ends all streams; this one was to end anyway

    def _say_farewell(self, stream: PeerStream) -> bool:
        """Send the last boundary; False if it should be tried again."""
        if stream.is_superseded:
            return True
        try:
            # the peer may take a second boundary right after the first for the first one, see `zmq._Link`: an empty
            # stream is ended by one more
            stream.has_data = stream.has_data or (
                self._begin_sending(stream) and self._send_frame(stream.identity, BOUNDARY)
            )
            return stream.has_data and self._send_frame(stream.identity, BOUNDARY)
        except BrokenPipeError:
            return True  # the peer is gone

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

    # the end of the context, or of the dispatcher

    def _sockets_taken(self) -> None:
        """In whatever thread destroys the context."""
        with self._lock:
            self._fail(context_ended())
        self._wakeup.set()

    def _fail(self, error: Exception) -> OSError:
        """With the lock held: end all streams and close the sockets. Returns the reason, that of the first call."""
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

    # everything below runs in the dispatcher, or in the favourite's thread, under the lock

    def _run(self) -> None:
        try:
            self._pass_on()
        except Exception as error:  # whatever it is: nobody must wait for frames that will not come
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
        """Do all that is due; returns the seconds until more may be due without a wake-up, None for never."""
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
        # only now, as frames that came over a link before it was lost must be received first
        if not has_more and self._stalled_since is None:
            self._end_lost_streams()
            self._choose_favourite()
        self._retry(now)
        self._end_idle_streams(now)
        if self._stalled_since is None and self._events() & POLLIN:  # sending may have reset the descriptor
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
        """Receive up to `BATCH` messages; True if there are more."""
        recv = self._recv
        for _ in range(BATCH):
            if not self._rest.is_done:
                return self._discard_rest()
            try:
                identity = THE_ONE_PEER if self._is_pair else recv(NOBLOCK)
                frame = recv(NOBLOCK, copy=False)
            except zmq.Again:
                return False
            data = frame.bytes
            if frame.more or len(data) > MAX_FRAME_SIZE:
                self._refuse_message(identity, frame)
            elif self._muted and self._is_muted(identity, frame):
                pass
            elif not data:
                self._receive_boundary(identity, frame)
            else:
                if identity == self._last_identity:
                    self._in_a_row += 1
                else:
                    self._last_identity, self._in_a_row = identity, 0
                if self._peers.receive_data(identity, data) and self._stall(identity):
                    return False
            if not self._events() & POLLIN:
                return False
        return True

    def _link_of(self, frame: zmq.Frame) -> Link:
        return None if self._links is None else self._links.of(frame)

    def _receive_boundary(self, identity: Identity, frame: zmq.Frame) -> None:
        if self._links is not None:
            self._links.watch()  # this frame may be the first over a new link with an old number
        link = self._link_of(frame)
        if self._peers.knows(identity, link) or not self._greet(identity, link):
            self._peers.receive_boundary(identity)
        else:
            self._peers.arrive(identity, link)
        self._waste(identity, self._peers.link_of(identity), 1)

    def _sure_link(self, identity: Identity, frame: zmq.Frame) -> Link:
        """The link of a peer; None if it is uncertain, as the number in the frame may be another link's by now.

        A peer to which something can be sent still has the link over which the frame came, as in `_greet`.
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
        """Refuse a frame that cannot be part of a stream: the first of several, or one that is too long."""
        self._peers.break_off(identity, no_stream())
        link = self._sure_link(identity, frame)
        if frame.more:
            self._rest.begin()
            self._rest_of = identity, link
        self._waste(identity, link, 1)

    def _discard_rest(self) -> bool:
        """Discard the next frames of a message that has several; True if there is more to receive."""
        before = self._rest.count
        is_done = self._rest.go_on()
        self._waste(*self._rest_of, self._rest.count - before)
        return not is_done or bool(self._events() & POLLIN)

    def _waste(self, identity: Identity, link: Link, frames: int) -> None:
        """Count frames that belong to no stream, and cut the link of a peer that sends too many of them."""
        if link is None or self._links is None or self._links.is_gone(link):
            return  # a peer in this process is trusted, and one that is gone sends no more
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
        """True if a frame came over a link that was cut, or will be once there is a descriptor for it."""
        muted = self._muted.get(identity)
        if muted is None or self._links is None or self._links.of(frame) != muted:
            return False
        if self._peers.waste(identity, muted) % MAX_WASTED == 0:
            self._links.cut(muted)  # again: there may have been no free descriptor for it
        return True

    def _greet(self, identity: Identity, link: Link) -> bool:
        """Send the first boundary to a new peer; False if it is not new, but gone already.

        The last frame of a peer that is gone may be read when another link has its number already. But by then ZMQ
        refuses to send to that peer.
        """
        if self._links is not None and self._links.is_gone(link):
            return False
        events = self._events()  # which also has ZMQ process what happened to its links
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
                    return  # the stream is being closed
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
        # a peer that left without sending anything need not be accepted
        self._forget_superseded(list(self._waiting))

    def _forget_superseded(self, streams: list[PeerStream]) -> None:
        """Forget waiting streams that were superseded before anything came for them."""
        for stream in streams:
            if stream.is_superseded and stream.incoming.is_over:
                self._forget_waiting(stream)
                self._streams.discard(stream)

    def _stall(self, identity: Identity) -> bool:
        """Receive nothing for a while, as this peer's stream is full. False if it has no time left for that."""
        now = time.monotonic()
        stream = self._peers.stream_of(identity)
        if stream in self._waiting:
            if self._patience.left(now) <= 0:
                return False
            self._stalled_by = stream
        self._stalled_since = now
        return True

    def _is_stalled(self, now: float) -> bool:
        """True if nothing can be received because a stream is full; one that stays full is ended.

        Everything from a peer that is gone is received at once: libzmq keeps its link until then, and the next
        heartbeat over that fails an assertion, which aborts the process.
        """
        since = self._stalled_since
        if since is None:
            return False
        full = [stream for stream in self._streams if self._may_stall(stream) and stream.incoming.is_still_full()]
        gone = [stream for stream in full if self._is_gone(self._peers.link_of(stream.identity))]
        for stream in gone:
            stream.incoming.lift_limit()
            if stream.incoming.is_full:  # beyond the bound on all waiting streams
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
        stream.incoming.wait(self._waiting_bytes)
        self._streams.add(stream)
        with suppress(BrokenPipeError):  # the peer is gone already
            self._begin_sending(stream)
        self._waiting[stream] = None
        self._waiting_of.setdefault(identity, []).append(stream)
        self._accept_wakeup.set()
        return stream

    def _refuse(self, identity: Identity, is_greeted: bool) -> None:
        """Tell a peer that this is the end: there is no place for it, or its bytes belong to no stream."""
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
        """Close the sockets. A second call does nothing."""
        close_monitored(self._socket, None if self._links is None else self._links.monitor)
        if self._gatekeeper is not None:
            self._gatekeeper.close()


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(errno.EIO, f"receiving failed: {error!r}")
