"""Channels over a packet connection: its one peer, on one channel of it.

Strategy: each message is a packet request, or the response to the packet request that it concludes. Which
concludes which is the protocol's business, in a subclass. The channel is attached to the connection, so messages
are handled one at a time, in the order of the wire.

The connection answers a packet request with what its receiver returns. A message that concludes the request while
that is still being handled is therefore on its way only when the receiver has returned; messages that are sent
behind it, from whatever thread, wait for that.
"""

from __future__ import annotations

import errno
import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import get_ident
from time import monotonic
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

from packetwire.core.channels import Quick, Receiver
from packetwire.core.events import Event, RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.faults import caused_by_peer
from packetwire.core.requests import BaseRequest
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestFailed, RequestTimeout
from packetwire.messaging.errors import ChannelError
from packetwire.messaging.multipart import join_frames, split_frames
from packetwire.messaging.protocol import Protocol as MessageProtocol
from packetwire.messaging.sentinels import TIMEOUT
from packetwire.messaging.session import Session
from packetwire.messaging.shared import SharedChannel, deadline_of, left_until

logger = logging.getLogger("packetwire")

PEER: Final = b""
"""The route of the one peer."""
PACKET_HEAD: Final = 64
"""Bytes of a packet that are not its payload, generously."""

FRAME_HEAD: Final = 10
"""Bytes of the length of a frame, at most."""

MessageT = TypeVar("MessageT")


class Connection(Protocol):
    """A packet connection, as its channels see it."""

    # numbers; pyright takes a descriptor such as `Setting[int]` for no int when it compares it with a protocol
    @property
    def max_packet_size(self) -> Any: ...

    @property
    def max_unsent(self) -> Any: ...

    def attach(self, channel: int, receiver: Receiver, *, quick: Quick | None = None) -> None: ...

    def detach(self, channel: int) -> None: ...

    def open(self) -> Any: ...

    def run_job(self, job: Callable[[], object], *, channel: int = 0, kind: int = 0) -> bool: ...

    def close(self) -> Any: ...

    def submit(
        self, rq_type: int, flags: int = 0, payload: bytes = b"", *, channel: int = 0, timeout: float | None = None
    ) -> Any: ...

    def __call__(
        self, rq_type: int, payload: bytes = b"", flags: int = 0, *, channel: int = 0, timeout: float | None = None
    ) -> Any: ...


@dataclass
class MessageRequest(BaseRequest[list[bytes]]):
    """A message as a packet request: its frames. A subclass per message type has its number in `rq_type`.

    The response holds the frames of the message that concludes it, or none.
    """

    frames: list[bytes] = field(default_factory=list)

    rq_type: ClassVar[int]

    @classmethod
    def from_bytes(cls, bs: bytes) -> Self:
        """The message in a payload; raises ValueError if that is none of this type."""
        request = cls(split_frames(bs))
        request.check()
        return request

    def __bytes__(self) -> bytes:
        return join_frames(self.frames)

    def check(self) -> None:
        """Raise ValueError if the frames are those of another type."""

    def decode_response_payload(self, flags: int, payload: bytes) -> list[bytes]:
        return split_frames(payload)


class Owed:
    """The answer to a packet request of the peer, for the connection: a future, as far as that needs one.

    All of it happens under the lock of the channel.
    """

    __slots__ = ("_channel", "_pass_on", "is_last", "payload")

    def __init__(self, channel: PacketChannel) -> None:
        self.payload: bytes | None = None
        """Once it is there."""
        self.is_last = True
        """True if nothing is announced to come behind it."""
        self._channel = channel
        self._pass_on: Callable[[Owed], object] | None = None

    def respond(self, payload: bytes = b"") -> None:
        """Give the answer."""
        self.payload = payload
        if self._pass_on is not None:
            self._pass_on(self)
        else:
            self._channel.unannounced = self

    def add_done_callback(self, pass_on: Callable[[Owed], object]) -> None:
        """As the connection, when the receiver has returned: have the answer passed on, once it is there."""
        with self._channel.lock:
            self._pass_on = pass_on
            if self.payload is not None:
                pass_on(self)
                self._channel.go_on_behind(self)

    def result(self) -> bytes:
        """The payload of the response."""
        assert self.payload is not None
        return self.payload


_closed: WeakKeyDictionary[Connection, set[int]] = WeakKeyDictionary()
"""The numbers of channels that were closed, and are still attached."""


class PacketChannel(SharedChannel):
    """The peer at the other end of a packet connection; a session is (connection, channel number).

    It is attached to that channel; once it is closed it refuses requests, until another one takes its place. The
    connection is opened and closed by its owner. `receives` is whether `receive` will be called, for which the
    results of handlers are kept.
    """

    requests: ClassVar[dict[int, type[MessageRequest]]]
    """rq_type -> class."""

    def __init__(
        self,
        protocol: MessageProtocol,
        connection: Connection,
        *,
        channel: int = 0,
        session_type: type[Session] | None = None,
        receives: bool = False,
    ) -> None:
        super().__init__(protocol, session_type=session_type)
        self.receives = receives
        self.connection = connection
        self.number = channel
        self.unannounced: Owed | None = None
        """An answer that was given before the connection has asked for it."""
        self._behind: deque[tuple[list[bytes], Session]] = deque()
        self._behind_bytes = 0
        self._open: dict[Hashable, deque[Owed]] = {}
        self._answers: dict[Hashable, Any] = {}
        self._keys: dict[int, Hashable] = {}  # of these, by the ids of what is in `_answers`
        self._results: deque[object] = deque()
        self._takes: dict[type, Callable[[Any], bytes | Owed | None]] = {
            RequestReceived: self._take_request,
            ResponseReceived: self._take_response,
            StreamEnded: self._take_end,
        }
        closed = _closed.get(connection, set())
        if channel in closed:
            closed.discard(channel)
            connection.detach(channel)
        self._attach()

    def _attach(self) -> None:
        self.connection.attach(self.number, self._take_event)

    @abstractmethod
    def request_of(self, zmsg: list[bytes]) -> tuple[int, int]:
        """The rq_type and flags of the packet request that carries a message."""

    @abstractmethod
    def concluded_by(self, zmsg: list[bytes]) -> Hashable:
        """The key of the packet request of the peer that a message of ours concludes, None for none."""

    @abstractmethod
    def key_of(self, zmsg: list[bytes]) -> Hashable:
        """The key of a packet request whose message may be concluded by one of the other side, else None."""

    @abstractmethod
    def is_awaited(self, key: Hashable) -> bool:
        """True while the message that concludes the peer's request is still to come."""

    def connect(self) -> Any:
        """The new session, for the side that begins, once the connection is open; or None."""
        with self.lock:
            return self.create_session(PEER) if self.protocol.connect_with_session(self) else None

    def close(self) -> None:
        """Lose the session, if there is one. The connection stays as it is."""
        if self.forked:
            return
        with self.lock:
            self.closed = True
            for session in list(self.sessions.values()):
                self.lose_session(session, ChannelError("the channel was closed"))
            self._answer_all()
            self.notify()
        _closed.setdefault(self.connection, set()).add(self.number)

    def run_job(self, job: Callable[[], object], kind: int) -> bool:
        return self.connection.run_job(job, channel=self.number, kind=kind)

    def receive(self, timeout: int | None = None) -> Any:
        """Wait until a message was handled: the handler's result, or `INVALID`, or `TIMEOUT`.

        `timeout` is in milliseconds; None waits for ever.
        """
        if not self.receives:
            raise ChannelError("the channel was made without `receives`")
        self.wait_until(lambda: bool(self._results) or self.closed, None if timeout is None else timeout / 1000)
        with self.lock:
            if self._results:
                return self._results.popleft()
        if self.closed:
            raise ChannelError("the channel is closed")
        return TIMEOUT

    def wait_until(
        self, done: Callable[[], bool], timeout: float | None = None, answer_to: Hashable = None
    ) -> bool:
        self._check_may_wait()
        deadline = deadline_of(timeout)
        answer = self._answers.get(answer_to) if answer_to is not None else None
        if answer is not None:
            try:
                answer(timeout=timeout)  # so that this thread reads for itself, if nobody else does
            except (RequestTimeout, ConnectionEnded):
                pass  # `done` says what that means
        with self.lock:
            while not done():
                left = left_until(deadline)
                if self.closed or left == 0:
                    return False
                self._sleep(left)
            return True

    def converse(
        self, session: Session, done: Callable[[], bool], deadline: float | None, answer_to: Hashable = None
    ) -> tuple[int, bool]:
        self._check_may_wait()
        with self.lock:
            if len(self.outbox) != 1 or self.unannounced is not None or self.closed:
                zmsg = None
            else:
                _, zmsg, _ = self.outbox.popleft()
        if zmsg is None:
            return super().converse(session, done, deadline, answer_to)
        rq_type, flags = self.request_of(zmsg)
        left = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            self.connection(rq_type, join_frames(zmsg), flags, channel=self.number, timeout=left)
        except RequestTimeout:
            return 0, False
        except ConnectionEnded:
            pass  # `done` says what that means
        return 0, done() or self.wait_until(done, left_until(deadline))

    # sending

    def check_frames(self, zmsg: list[bytes]) -> None:
        if sum(map(len, zmsg)) + FRAME_HEAD * len(zmsg) + PACKET_HEAD > self.connection.max_packet_size:
            self._payload_of(zmsg)

    def _payload_of(self, zmsg: list[bytes]) -> bytes:
        payload = join_frames(zmsg)
        if len(payload) + PACKET_HEAD > self.connection.max_packet_size:
            limit = self.connection.max_packet_size
            raise LocalProtocolError(f"a message of {len(payload)} bytes does not fit into a packet of {limit}")
        return payload

    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        if self.closed:
            return errno.ENOTCONN
        if self.unannounced is not None:
            return self._put_behind(zmsg, session)
        payload = self._payload_of(zmsg)
        concluded = self.concluded_by(zmsg)
        waiting = self._open.get(concluded)
        rq_type, flags = self.request_of(zmsg)
        if waiting:
            answer = waiting.popleft()
            answer.is_last = not flags
            answer.respond(payload)
            if not waiting:
                del self._open[concluded]
            return 0
        try:
            self._submit(rq_type, flags, payload, self.key_of(zmsg))
        except (RequestTimeout, LocalProtocolError, LimitExceeded):
            return errno.EAGAIN  # there is no room; the thread that reads is told so at once
        except ConnectionEnded:
            return errno.ENOTCONN
        return 0

    def _put_behind(self, zmsg: list[bytes], session: Session) -> int:
        """Send a message as soon as the answer is on its way that it comes behind."""
        size = self._behind_bytes + sum(map(len, zmsg)) + PACKET_HEAD * len(zmsg)
        if size > self.connection.max_unsent and self._behind:
            return errno.EAGAIN
        self._payload_of(zmsg)  # so that what is too long is told here
        self._behind.append((zmsg, session))
        self._behind_bytes = size
        return 0

    def go_on_behind(self, answer: Owed) -> None:
        """With the lock held: that answer is on its way, or will never be; send what comes behind it."""
        if self.unannounced is not answer:
            return
        self.unannounced = None
        behind, self._behind, self._behind_bytes = self._behind, deque(), 0
        for zmsg, session in behind:
            error_number = self._transmit(zmsg, session)
            if error_number == errno.EAGAIN:
                self._give_up(session)
            if error_number:
                return

    def _submit(self, rq_type: int, flags: int, payload: bytes, key: Hashable) -> None:
        """Send a packet request without waiting for room."""
        answer = self.connection.submit(rq_type, flags, payload, channel=self.number, timeout=0)
        if key is not None:
            self._forget_answer(self._answers.get(key))
            self._answers[key] = answer
            self._keys[id(answer)] = key

    def discard_session(self, session: Session) -> None:
        with self.lock:
            super().discard_session(session)
            if not self.sessions:
                self._answer_all()
                self._answers.clear()
                self._keys.clear()

    def settle(self) -> None:
        """With the lock held: answer what no message will conclude any more."""
        for key, waiting in list(self._open.items()):
            if waiting and not self.is_awaited(key):
                _answer_empty(waiting)
            if not waiting:
                del self._open[key]

    def _answer_all(self) -> None:
        for waiting in self._open.values():
            _answer_empty(waiting)
        self._open.clear()

    # receiving

    def _take_event(self, event: Event) -> bytes | Owed | None:
        """As the connection's receiver: what is returned for a request is its answer."""
        take = self._takes.get(type(event))
        if take is None:
            return None
        with self.lock:
            reader, self._reader = self._reader, get_ident()
            try:
                return take(event)
            finally:
                self._reader = reader

    def _take_request(self, event: RequestReceived) -> bytes | Owed | None:
        if self.closed:
            raise ChannelError("the channel is closed")
        try:
            frames = self._frames_of(event)
        except ValueError as error:
            caused_by_peer(error)
            raise
        key = self.key_of(frames)
        waiting = self._open.get(key) if key is not None else None
        if key is None or (waiting and not self.may_repeat(key)):
            self._handle(frames)
            return b""
        if waiting is None:
            waiting = self._open[key] = deque()
        answer = Owed(self)
        waiting.append(answer)
        try:
            self._holds = True
            try:
                self._handle(frames)
                payload = self._take_answer(key, waiting) if self.outbox else None
            finally:
                self._holds = False
                if self.outbox:
                    self.flush()
        except BaseException as error:
            if answer.payload is None or not isinstance(error, Exception):
                self._withdraw(key, answer)
                raise
            logger.exception("what was answered already has failed")
            payload = None
        if payload is not None:
            return payload
        if answer.payload is None and key in self._open and not self.is_awaited(key):
            _answer_empty(self._open.pop(key))
        if answer is self.unannounced and not self._behind and answer.is_last:
            self.unannounced = None
            return answer.payload
        return answer

    def _take_answer(self, key: Hashable, waiting: deque[Owed]) -> bytes | None:
        """The one message in the outbox, if that concludes the request of the peer that has just been handled."""
        if len(self.outbox) != 1 or len(waiting) != 1 or self.unannounced is not None:
            return None
        zmsg = self.outbox[0][1]
        if self.concluded_by(zmsg) != key or self.request_of(zmsg)[1]:
            return None  # it is about something else, or more is announced behind it
        self.outbox.clear()
        del self._open[key]
        if self._open:
            self.settle()
        return join_frames(zmsg)

    def _withdraw(self, key: Hashable, answer: Owed) -> None:
        """The connection answers the request itself, as its handling has failed."""
        waiting = self._open.get(key)
        if waiting and answer in waiting:
            waiting.remove(answer)
            if not waiting:
                del self._open[key]
        self.go_on_behind(answer)

    def _frames_of(self, event: RequestReceived) -> list[bytes]:
        """The message in a packet request; one of an unknown type is for the protocol to refuse."""
        request_class = self.requests.get(event.rq_type)
        if request_class is None:
            return split_frames(event.payload)
        return request_class.from_request_payload(event.flags, event.payload).frames

    def may_repeat(self, key: Hashable) -> bool:
        """True if several requests of the peer with one key may be open."""
        return True

    def _take_response(self, event: ResponseReceived) -> None:
        if self._keys:
            self._forget_answer(event.waiter)
        if not event.ok:
            session = self.sessions.get(PEER)
            if session is not None:
                self.lose_session(session, RequestFailed(event.flags, event.payload, "a message"))
            return
        if event.payload:
            try:
                frames = split_frames(event.payload)
            except ValueError as error:
                session = self.sessions.get(PEER)
                if session is not None:
                    self.lose_session(session, error)
                return
            self._handle(frames)  # which tells those who wait
        else:
            self.notify()

    def _forget_answer(self, answer: object) -> None:
        key = self._keys.pop(id(answer), None)
        if key is not None:
            del self._answers[key]

    def _handle(self, frames: list[bytes]) -> None:
        result = self.deliver(PEER, frames)
        if self.receives:
            self._results.append(result)

    def _take_end(self, event: StreamEnded) -> None:
        for session in list(self.sessions.values()):
            self.lose_session(session, event.cause)
        self._open.clear()
        self.notify()


def _answer_empty(waiting: deque[Owed]) -> None:
    while waiting:
        waiting.popleft().respond()
