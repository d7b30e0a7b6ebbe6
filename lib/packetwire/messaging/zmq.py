"""Channels over ZMQ sockets: Router, Dealer and Pair.

Strategy: every operation on the socket happens under the channel's lock, so it is never used by two threads
at once, and a message is sent by the thread that has it, without a switch. Waiting happens outside the
lock, on the socket's descriptor. That one announces changes only once, so whoever sends looks whether it
has taken an announcement away from the reader, and wakes it. The reader is a thread that waits for an
answer; while there is none, the channel's own thread reads, if it was started.

Input from a peer is bounded by the number of frames of a message, whose rest is thrown away in slices, and by the
number of messages in a row that are none: then its link is cut. If the program ends the context, the sockets are
let go of at once and all sessions are lost, with that for a reason.
"""

from __future__ import annotations

import errno
import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from threading import get_ident
from typing import Any, ClassVar, Final

from packetwire.errors import extra_missing

try:
    import zmq
except ModuleNotFoundError as error:
    raise extra_missing("butler", error) from error

from packetwire.hosts.threads.spinning import Spin
from packetwire.messaging.errors import ChannelError, InvalidMessageError
from packetwire.messaging.message import RoutingID
from packetwire.messaging.protocol import Protocol
from packetwire.messaging.sentinels import TIMEOUT
from packetwire.messaging.session import Session
from packetwire.messaging.shared import NOBODY, SharedChannel, deadline_of, left_until
from packetwire.streams.wakeup import Wakeup
from packetwire.streams.zmqsockets import be_pair_server, events_getter
from packetwire.zmq.calls import uninterrupted
from packetwire.zmq.exposure import warn_if_exposed
from packetwire.zmq.links import Link, Links, events_of
from packetwire.zmq.owned import set_owner
from packetwire.zmq.reading import SKIPPED_AT_ONCE, Discarding
from packetwire.zmq.sockets import (
    close_monitored,
    context_ended,
    is_ended,
    leave_to_parent,
    open_monitor,
    owned_socket,
)

__all__ = ["DealerChannel", "PairChannel", "RouterChannel", "ZmqChannel"]

logger = logging.getLogger("packetwire")

DEFAULT_MAX_UNSENT: Final = 16 << 20
"""Bytes that wait here for one peer, behind what waits in ZMQ, past which `send` waits."""
MAX_UNSENT_BY_READER: Final = 4
"""Times as many may wait that the reading thread has sent, which cannot wait."""
DEFAULT_IDLE_LIMIT: Final = 30.0
"""Seconds of silence after which a peer of a Router is probed."""
DEFAULT_HEARTBEAT: Final = 10.0
"""Seconds between the heartbeats of ZMQ; a link that is silent for three times as long is dropped."""
HEARTBEATS_MISSED: Final = 3
DEFAULT_LINGER: Final = 1.0
"""Seconds for what was sent to leave after `close`."""
DEFAULT_SPIN: Final = 0.0
"""Seconds that the reader looks for messages before it sleeps, as long as that mostly succeeds; 0 for never,
because ZMQ's own threads need the processor meanwhile."""
FRAME_OVERHEAD: Final = 100
"""Bytes that each frame counts in addition while it waits, about what Python needs for one."""
MAX_WASTED: Final = 150_000
"""Frames from one peer of a Router that are no message, with no message in between; then its link is cut."""
REFUSAL_WEIGHT: Final = 150
"""Frames as which a message counts there that is refused, however few it has: it is answered, too."""
STANDBY: Final = 0.005
"""Seconds without a thread that reads for itself, after which the channel's own thread reads again."""
BATCH: Final = 64
"""Messages that are delivered before others get the lock."""
LONGEST_SLEEP: Final = 1.0
"""Seconds after which the reader looks for silent peers, and whether there is room for what waits."""
THREAD_WAIT: Final = 5.0

# plain numbers, because a flag calculates in ten times the time
_POLLIN = int(zmq.POLLIN)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

MAX_ROUTES: Final = 4096
"""Peers of a Router that sent what is no message, of which it remembers how much."""
_REFUSED: Final[list[bytes]] = []
"""In place of a message that has too many frames, or has not come to its end, or is from a link that was cut."""

_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENOTCONN)


class ZmqChannel(SharedChannel):
    """A channel over one ZMQ socket, which it makes and closes.

    Messages arrive in `receive`, or in a thread of the channel's own once `start` was called. A peer to
    which there is no way any more is lost: `lose_session`.

    `routing_id` is what the other end knows us by, `context` that of the socket, else the one of the process.
    `max_unsent` bytes may wait for one peer before `send` waits, too. After `idle_limit` seconds of silence a
    peer is asked whether it is there, every `heartbeat` seconds ZMQ does so: None for never. `linger` are the
    seconds that closing waits for what is unsent, `spin` those of looking for messages before sleeping.
    """

    socket_type: ClassVar[int]
    has_many_peers: ClassVar[bool] = False

    def __init__(
        self,
        protocol: Protocol,
        *,
        routing_id: RoutingID | None = None,
        context: zmq.Context[Any] | None = None,
        session_type: type[Session] | None = None,
        max_unsent: int = DEFAULT_MAX_UNSENT,
        idle_limit: float | None = DEFAULT_IDLE_LIMIT,
        heartbeat: float | None = DEFAULT_HEARTBEAT,
        linger: float = DEFAULT_LINGER,
        spin: float = DEFAULT_SPIN,
    ) -> None:
        self._opened = False
        super().__init__(protocol, session_type=session_type)
        self.max_unsent = max_unsent
        self.idle_limit = idle_limit
        self.address = ""
        """The address that it was bound to last."""
        self.linked = False
        """True while the one peer is connected; see `wait_linked`."""
        self._link_ended = False
        self._address: str | None = None
        self._linger = linger
        self._unsent: dict[RoutingID, deque[list[bytes]]] = {}
        self._unsent_bytes: dict[RoutingID, int] = {}
        self._heard: dict[RoutingID, float] = {}
        self._unreachable: list[Session] = []
        self._next_look = time.monotonic() + LONGEST_SLEEP
        self._leads = self._callers = 0
        self._parked = False
        self._disposed = False
        self._failure: ChannelError | None = None
        """Why the sockets are gone, if not by `close`."""
        self._announced = False  # the socket has news
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._socket = sock = owned_socket(context or zmq.Context.instance(), self.socket_type)
        # looking up a method of a ZMQ socket takes as long as some of them
        self._send, self._recv, self._events = sock.send, sock.recv, events_getter(sock)
        self._monitor: zmq.Socket[bytes] | None = None
        self._links: Links | None = None
        self._rest = Discarding(self._socket)
        self._rest_of: RoutingID = b""
        self._partial: list[bytes] = []
        self._last_frame = zmq.Frame()
        self._was_refused = False
        self._wasted: dict[RoutingID, int] = {}
        self._sent_to: RoutingID | None = None
        self._sure: dict[RoutingID, Link] = {}
        """The links of peers that sent what is no message, as far as they are known for sure."""
        self._muted: dict[RoutingID, Link] = {}
        """Peers whose link was cut, and what may still come over it."""
        try:
            self._set_options(routing_id, heartbeat)
            if not self.has_many_peers:
                self._monitor = self._open_monitor()
            self._wakeup = Wakeup()
        except BaseException:
            close_monitored(self._socket, self._monitor, 0)
            raise
        self._poll = select.poll()
        self._poll.register(descriptor_of(self._socket), select.POLLIN)
        self._wakeup_fd = self._wakeup.fileno()
        self._poll.register(self._wakeup_fd, select.POLLIN)
        self._spin = Spin(self._poll.poll, spin)
        self._monitor_fd = -1
        self._monitor_ready = False
        set_owner(self._socket, self._sockets_taken)
        if self._monitor is not None:
            self._watch_monitor(self._monitor)
        self._opened = True

    def after_fork(self) -> None:
        super().after_fork()
        if self._opened:
            leave_to_parent(self._socket, self._monitor)
            self._disposed = True
            self._thread = None
            self._stop = threading.Event()
            self._stop.set()

    def _watch_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        self._monitor = monitor
        self._monitor_fd = descriptor_of(monitor)
        self._monitor_ready = True
        self._poll.register(self._monitor_fd, select.POLLIN)
        set_owner(monitor, self._sockets_taken)

    def _set_options(self, routing_id: RoutingID | None, heartbeat: float | None) -> None:
        socket = self._socket
        if routing_id is not None:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        limit = getattr(self.protocol, "max_message_size", None)
        if limit is not None:
            # what is a little too long gets an answer, what is far too long is not even stored
            socket.setsockopt(zmq.MAXMSGSIZE, 2 * limit)
        if heartbeat is not None:
            interval = max(1, int(heartbeat * 1000))
            socket.setsockopt(zmq.HEARTBEAT_IVL, interval)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEATS_MISSED * interval)
        if self.has_many_peers:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)

    def _open_monitor(self) -> zmq.Socket[bytes]:
        return open_monitor(self._socket, zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)

    # the end of the context

    def _sockets_taken(self) -> None:
        """In whatever thread destroys the context."""
        with self.lock:
            self._lose_sockets(context_ended())
        self._wakeup.set()

    def _lose_sockets(self, error: Exception) -> None:
        """With the lock held: the sockets are of no use any more, and all sessions are lost."""
        if self.closed:
            return
        self._failure = ChannelError("the program has ended the ZMQ context of this channel")
        self._failure.__cause__ = error
        self.closed = True
        self._let_go_of_sockets()
        for session in list(self.sessions.values()):
            self.lose_session(session, self._failure)
        self._unsent.clear()
        self._unsent_bytes.clear()
        self._wakeup.set()
        self.notify()

    def _let_go_of_sockets(self) -> None:
        close_monitored(self._socket, self._monitor, int(self._linger * 1000))

    # addresses

    def bind(self, address: str) -> str:
        """Be found at an address; returns it, with the number of the port if that was chosen."""
        with self.lock:
            if self.socket_type == zmq.PAIR:
                be_pair_server(self._socket)
            if self.has_many_peers and self._links is None and not address.startswith("inproc:"):
                self._links = Links(self._socket, _note_refused, endpoint=address)
                self._watch_monitor(self._links.monitor)
            self._socket.bind(address)
            warn_if_exposed(address, with_curve=False)
            self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        return self.address

    def connect(self, address: str, routing_id: RoutingID | None = None) -> Any:
        """Connect to an address: the new session, or None if the protocol begins it with a message.

        A Router needs the `routing_id` by which it is to know that peer.
        """
        with self.lock:
            if self.has_many_peers:
                if routing_id is None:
                    raise ChannelError("a Router needs a routing_id for what it connects to")
                self._socket.setsockopt(zmq.CONNECT_ROUTING_ID, routing_id)
            elif self.sessions:
                raise ChannelError("the channel has its peer already")
            session = None
            if self.protocol.connect_with_session(self):
                session = self.create_session(routing_id or b"")
                session.endpoint = address
            self._socket.connect(address)
            self._address = address
            if address.startswith("inproc:"):
                self.linked = True
            return session

    def wait_linked(self, timeout: float | None = None) -> bool:
        """Wait until the one peer is connected: what is sent before may be lost. False at the timeout."""
        return self.wait_until(lambda: self.linked, timeout)

    def can_send(self, timeout: int = 0) -> bool:
        """True if a message can be sent to the one peer, within `timeout` milliseconds."""
        return self.wait_linked(timeout / 1000)

    # sending

    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        if self.closed:
            return errno.ENOTCONN
        route = session.routing_id or b""
        if self._unsent.get(route):
            if self._postpone(route, zmsg) == 0:
                return 0
            self._send_postponed()  # nobody else does so while no thread reads
            if self._unsent.get(route):
                return errno.EAGAIN
        error_number = self._try_send_now(route, zmsg)
        if error_number == errno.EAGAIN:
            return self._postpone(route, zmsg)
        if self._parked and self._has_input():
            self._parked = False
            self._rouse()
        return error_number

    def _rouse(self) -> None:
        """Have the reader look again."""
        self._wakeup.set()

    def _has_input(self) -> bool:
        try:
            return bool(self._events() & _POLLIN)
        except zmq.ZMQError as error:
            if not is_ended(error):
                raise
            self._lose_sockets(error)
            return False

    def _try_send_now(self, route: RoutingID, zmsg: list[bytes]) -> int:
        """Send, knowing who is gone: ZMQ takes note of that now and then, and at once if it is asked for events."""
        error_number = errno.ENOTCONN if self.closed else self._try_send(route, zmsg)
        if error_number != errno.EAGAIN:
            return error_number
        self._has_input()
        return errno.ENOTCONN if self.closed else self._try_send(route, zmsg)

    def _try_send(self, route: RoutingID, zmsg: list[bytes]) -> int:
        send = self._send
        try:
            if self.has_many_peers:
                send(route, _NOBLOCK_MORE)
            for frame in zmsg[:-1]:
                send(frame, _NOBLOCK_MORE)
            send(zmsg[-1], _NOBLOCK)
        except zmq.ZMQError as error:
            if is_ended(error):
                self._lose_sockets(error)
                return errno.ENOTCONN
            return error.errno or errno.EIO
        self._sent_to = route
        return 0

    def _postpone(self, route: RoutingID, zmsg: list[bytes]) -> int:
        """Keep a message until there is room for it, if there are not too many."""
        size = self._unsent_bytes.get(route, 0) + _weight(zmsg)
        allowed = self.max_unsent * (MAX_UNSENT_BY_READER if self._reader == get_ident() else 1)
        if size > allowed and self._unsent.get(route):
            return errno.EAGAIN
        self._unsent.setdefault(route, deque()).append(zmsg)
        self._unsent_bytes[route] = size
        return 0

    def _send_postponed(self) -> None:
        for route, waiting in list(self._unsent.items()):
            while waiting:
                error_number = self._try_send_now(route, waiting[0])
                if error_number == errno.EAGAIN:
                    break
                self._unsent_bytes[route] -= _weight(waiting.popleft())
                if error_number and (session := self.sessions.get(route)):
                    self._note_failure(session, error_number)
                    if self._unsent.get(route) is not waiting:
                        break  # that has ended the session, and what waited is forgotten
            if not waiting and self._unsent.get(route) is waiting:
                self._forget_unsent(route)
                self.notify()

    def _forget_unsent(self, route: RoutingID) -> None:
        self._unsent.pop(route, None)
        self._unsent_bytes.pop(route, None)

    def _note_failure(self, session: Session, error_number: int) -> None:
        if error_number not in _UNREACHABLE:
            return
        self._unreachable.append(session)
        if not self.closed and self._has_input():
            self._rouse()  # what has arrived before is delivered first: there may be a CLOSE
        else:
            self._lose_unreachable()

    def _lose_unreachable(self) -> None:
        while self._unreachable:
            session = self._unreachable.pop()
            self.lose_session(session, ChannelError(f"the peer {session.routing_id!r} is gone"))

    def discard_session(self, session: Session) -> None:
        with self.lock:
            super().discard_session(session)
            route = session.routing_id or b""
            self._heard.pop(route, None)
            if not self.has_many_peers and self._unsent.get(route):
                return  # CLOSE is among it
            self._forget_unsent(route)

    # receiving

    def start(self) -> None:
        """Deliver messages in a thread of the channel's own, whenever nobody else reads."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=type(self).__name__, daemon=True)
            self._thread = thread  # first: it looks at this
            try:
                thread.start()
            except BaseException:  # the system has no more of them
                self._thread = None
                raise

    def receive(self, timeout: int | None = None) -> Any:
        """Wait for a message and handle it: the handler's result, or `INVALID`, or `TIMEOUT`.

        `timeout` is in milliseconds; None waits for ever.
        """
        if self._thread is not None:
            raise ChannelError("the channel's own thread receives")
        self._check_may_wait()
        result: list[object] = []
        with self.lock:
            if self._reader != NOBODY:
                raise ChannelError("another thread receives")
            self._reader = get_ident()
        try:
            self._read_until(lambda: bool(result), deadline_of(None if timeout is None else timeout / 1000), result)
        finally:
            self._leave_reading()
        if self.closed and not result:
            raise ChannelError("the channel is closed") from self._failure
        return result[0] if result else TIMEOUT

    def wait_until(
        self, done: Callable[[], bool], timeout: float | None = None, answer_to: Hashable = None
    ) -> bool:
        self._check_may_wait()
        deadline = deadline_of(timeout)
        with self.lock:
            self._callers += 1
        try:
            while True:
                with self.lock:
                    if done():
                        return True
                    left = left_until(deadline)
                    if self.closed or left == 0:
                        return False
                    if self._reader != NOBODY:
                        self._sleep(left)
                        continue
                    self._reader = get_ident()
                    self._leads += 1
                try:
                    self._read_until(done, deadline)
                finally:
                    self._leave_reading()
        finally:
            if not self.forked:
                with self.lock:
                    self._callers -= 1

    def _leave_reading(self) -> None:
        if self.forked:
            return
        with self.lock:
            self._reader = NOBODY
            self._parked = False
            self.notify()

    def _run(self) -> None:
        """In the channel's own thread: read, but leave that to callers while there are any."""
        leads = self._leads
        while not self.closed:
            with self.lock:
                mine = self._reader == NOBODY and not self._callers and leads == self._leads
                if mine:
                    self._reader = get_ident()
                leads = self._leads
            if not mine:
                self._stop.wait(STANDBY)
                continue
            try:
                self._read_until(lambda: self._callers > 0, None)
            except Exception:
                if self.forked:
                    return  # by a handler, and this is the fork
                logger.exception("%s: reading failed", type(self).__name__)
                self._stop.wait(STANDBY)
            finally:
                self._leave_reading()

    def _read_until(
        self, done: Callable[[], bool], deadline: float | None, results: list[object] | None = None
    ) -> None:
        """As the reader: deliver messages until `done()`, the deadline or the end."""
        while True:
            with self.lock:
                if done() or self.closed:
                    return
                if self._deliver_some(done, results):
                    if self.has_many_peers:
                        self._look_at_links()
                    continue
                if self._unsent:
                    self._send_postponed()
                self._look_after_links()
                if done() or self.closed:
                    return
                self._parked = True
            left = left_until(deadline)
            if left == 0:
                return
            self._await_change(LONGEST_SLEEP if left is None else min(left, LONGEST_SLEEP))

    def _deliver_some(self, done: Callable[[], bool], results: list[object] | None) -> bool:
        """With the lock held: deliver messages; whether there may be more."""
        for _ in range(BATCH):
            if not self._rest.is_done:
                self._discard_rest()
                return True
            frames = self._next_frames()
            if frames is None:
                return False
            if frames is _REFUSED:
                return True
            route = frames.pop(0) if self.has_many_peers else b""
            self._was_refused = False
            result = self.deliver(route, frames)
            self._count_waste(route, REFUSAL_WEIGHT + len(frames) if self._was_refused else 0)
            if self._was_refused:
                self._look_at_links()
            if route in self.sessions and self.has_many_peers:
                self._heard[route] = time.monotonic()
            if results is not None:
                results.append(result)
            if done() or self.closed:
                return True
        return True

    def _next_frames(self) -> list[bytes] | None:
        """With the lock held: the next message, if there is one, or `_REFUSED`.

        Asked first if it was not announced, because an exception takes several times as long.
        """
        announced, self._announced = self._announced, False
        if not announced and not self._has_input():
            return None
        try:
            return self._receive_frames()
        except zmq.Again:
            return None  # what was announced was something else
        except zmq.ZMQError as error:
            if not is_ended(error):
                raise
            self._lose_sockets(error)
            return None

    def _receive_frames(self) -> list[bytes]:
        """The next message, or `_REFUSED` if that is none, or has not been read to its end yet."""
        recv, frames = self._recv, self._partial
        frame = None
        for _ in range(SKIPPED_AT_ONCE):
            frame = recv(_NOBLOCK, copy=False)
            frames.append(frame.bytes)
            if not frame.more:
                self._partial = []
                return self._unless_muted(frames, frame)
        if frame is not None and len(frames) > self.protocol.max_frames:
            self._partial = []
            self._rest.begin()
            self._refuse_message(frames, frame)
        return _REFUSED

    def _unless_muted(self, frames: list[bytes], last: zmq.Frame) -> list[bytes]:
        self._last_frame = last
        if self._muted and self._link_of(last) == self._muted.get(frames[0]):
            return _REFUSED
        return frames

    # messages that are none

    def _refuse(self, session: Session, error: InvalidMessageError) -> None:
        self._was_refused = True
        route = session.routing_id or b""
        if self._links is None or route in self._sure or route not in self._wasted:
            super()._refuse(session, error)
            return
        # the number in its frame may be another peer's by now; but who can be answered still has its link
        self._links.watch()
        link = self._links.of(self._last_frame)
        self._has_input()  # and ZMQ takes note of who is gone
        self._sent_to = None
        super()._refuse(session, error)
        if self._sent_to == route and not self._links.is_gone(link):
            self._sure[route] = link

    def _link_of(self, frame: zmq.Frame) -> Link:
        return None if self._links is None else self._links.of(frame)

    def _refuse_message(self, frames: list[bytes], last: zmq.Frame) -> None:
        """These are the first frames of a message that has too many."""
        link = self._link_of(last)
        count = len(frames)
        route = frames.pop(0) if self.has_many_peers else b""
        self._last_frame = last
        self._rest_of = route
        if link is None or self._muted.get(route) != link:
            session = self.sessions.get(route) or self._stranger(route)
            text = f"a message has at most {self.protocol.max_frames} frames"
            error = InvalidMessageError(text, "too-many-frames")
            try:
                self.protocol.convert_msg(frames)
            except InvalidMessageError as its_own:
                error = its_own
            self._refuse(session, error)
            self._count_waste(route, REFUSAL_WEIGHT + count)

    def _discard_rest(self) -> None:
        """With the lock held: throw away the next frames of a message that has too many."""
        before = self._rest.count
        try:
            self._rest.go_on()
        except zmq.ZMQError as error:
            if not is_ended(error):
                raise
            self._rest.is_done = True
            self._lose_sockets(error)
        self._count_waste(self._rest_of, self._rest.count - before)

    def _count_waste(self, route: RoutingID, frames: int) -> None:
        """Frames of a peer were no message; 0: it sent one. A peer that sends too many has its link cut."""
        if not frames:
            if self._wasted:
                self._wasted.pop(route, None)
            return
        wasted = self._wasted[route] = self._wasted.pop(route, 0) + frames
        if len(self._wasted) > MAX_ROUTES:
            del self._wasted[next(iter(self._wasted))]
        if wasted > MAX_WASTED and route in self._sure and route not in self._muted:
            self._cut(route, self._sure[route])

    def _cut(self, route: RoutingID, link: Link) -> None:
        assert self._links is not None
        if self._links.cut(link):
            self._muted[route] = link
            self._wasted.pop(route, None)
            logger.warning("%s: a link is cut: the peer sent only what is no message", self.address)

    def _await_change(self, timeout: float) -> None:
        """Without the lock: sleep until the socket, or somebody here, has something new."""
        ready = self._spin() or self._poll.poll(timeout * 1000)
        self._parked = False
        for fd, _ in ready:
            if fd == self._wakeup_fd:
                self._wakeup.clear()
            elif fd == self._monitor_fd:
                self._monitor_ready = True
            else:
                self._announced = True

    def _look_after_links(self) -> None:
        """With the lock held: see which links came or went, and which peers are silent."""
        if self._link_ended:
            self._lose_link()
        self._lose_unreachable()
        if self._monitor_ready:
            self._look_at_links()
        if not self.has_many_peers or self.idle_limit is None:
            return
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + min(LONGEST_SLEEP, self.idle_limit)
        for route, session in list(self.sessions.items()):
            if now - self._heard.setdefault(route, now) >= self.idle_limit:
                self._heard[route] = now
                self.probe(session)

    def _look_at_links(self) -> None:
        """Also while there is much to read: who comes must not use up all descriptors meanwhile."""
        if self._monitor is not None and not self.closed:
            try:
                self._watch_links()
            except zmq.ZMQError as error:
                if not is_ended(error):
                    raise
                self._lose_sockets(error)

    def _watch_links(self) -> None:
        self._monitor_ready = False
        if self._links is not None:
            self._links.watch()
            lost = self._links.take_lost()
            for known in self._muted, self._sure:
                for route in [one for one, link in known.items() if link in lost]:
                    del known[route]
            return
        assert self._monitor is not None
        for event, _ in events_of(self._monitor):
            self._note_link(event)

    def _note_link(self, event: int) -> None:
        self.linked = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if not self.linked:
            # what has arrived before is delivered first
            self._link_ended = True
            self._rouse()
        self.notify()

    def _lose_link(self) -> None:
        """Give the link up, without reconnection: nothing that was sent may go to another peer at that address."""
        self._link_ended = False
        if self._address is not None:
            address, self._address = self._address, None
            try:
                uninterrupted(self._socket.disconnect, address)
            except zmq.ZMQError as error:
                if is_ended(error):
                    self._lose_sockets(error)
        for session in list(self.sessions.values()):
            self.lose_session(session, ChannelError("the link to the peer has ended"))
        self._forget_unsent(b"")

    def close(self) -> None:
        """Close the socket; sessions that are left are lost. A second call does nothing."""
        if self.forked:
            return
        with self.lock:
            if self._disposed:
                return
            self._disposed = True
            if not self.closed:
                self._send_postponed()
            self.closed = True
            self.notify()
        self._stop.set()
        self._wakeup.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(THREAD_WAIT)
        with self.lock:
            for session in list(self.sessions.values()):
                self.lose_session(session, self._failure or ChannelError("the channel was closed"))
            while self._reader not in (NOBODY, get_ident()):
                self._wakeup.set()
                self._sleep(STANDBY)
            self._let_go_of_sockets()
            self._wakeup.close()


def _note_refused(event: int, value: int) -> None:
    """Of a peer that is not let in: without keys there is nothing to say about it."""


def _weight(zmsg: list[bytes]) -> int:
    """Bytes that a message takes while it waits."""
    return sum(map(len, zmsg)) + FRAME_OVERHEAD * len(zmsg)


def descriptor_of(socket: zmq.Socket[object]) -> int:
    """The descriptor to poll for news of a socket."""
    return int(socket.getsockopt(zmq.FD))


class RouterChannel(ZmqChannel):
    """Any number of peers, told apart by their routing ids: a service, or a controller."""

    socket_type = zmq.ROUTER
    has_many_peers = True


class DealerChannel(ZmqChannel):
    """One peer, which has a Router: a client, or a component."""

    socket_type = zmq.DEALER


class PairChannel(ZmqChannel):
    """One peer, which has a Pair too."""

    socket_type = zmq.PAIR
