"""Channels over a packet connection: its one peer, on one channel of it.

Strategy: each message is a packet request, or the response to the packet request that it concludes. Which
concludes which is the protocol's business, in a subclass. Messages are handled in wire order, straight
from the connection's events; no handler of the connection is involved.
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any, ClassVar, Final, Protocol, Self, TypeVar

from packetwire.core.engine import check_channel
from packetwire.core.events import RequestReceived, ResponseReceived, StreamEnded
from packetwire.core.faults import caused_by_peer
from packetwire.core.requests import BaseRequest, Responder
from packetwire.errors import ConnectionEnded, LimitExceeded, LocalProtocolError, RequestFailed, RequestTimeout
from packetwire.messaging.errors import ChannelError
from packetwire.messaging.message import Message
from packetwire.messaging.multipart import join_frames, split_frames
from packetwire.messaging.protocol import Protocol as MessageProtocol
from packetwire.messaging.sentinels import TIMEOUT
from packetwire.messaging.session import Session
from packetwire.messaging.shared import SharedChannel, deadline_of, left_until

PEER: Final = b""
"""The route of the one peer."""
PACKET_HEAD: Final = 64
"""Octets of a packet that are not its payload, generously."""

MessageT = TypeVar("MessageT")


class Connection(Protocol):
    """What is needed of a packet connection."""

    on_event: Any
    max_packet_size: int

    def open(self) -> Any: ...

    def close(self) -> Any: ...

    def submit(
        self, rq_type: int, flags: int = 0, payload: bytes = b"", *, channel: int = 0, timeout: float | None = None
    ) -> Any: ...

    def __call__(
        self, rq_type: int, payload: bytes = b"", flags: int = 0, *, channel: int = 0, timeout: float | None = None
    ) -> Any: ...

    def take(self, event: RequestReceived) -> Responder: ...


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


class PacketChannel(SharedChannel):
    """The peer at the other end of a packet connection; a session is (connection, channel number).

    It takes the connection's `on_event`, so it is made before that opens; what was there before is called
    too. The connection is opened and closed by its owner. `receives` is whether `receive` will be called, for
    which the results of handlers are kept.
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
        check_channel(channel)
        super().__init__(protocol, session_type=session_type)
        self.receives = receives
        self.connection = connection
        self.number = channel
        self._open: dict[Hashable, deque[Responder]] = {}
        self._answers: dict[Hashable, Any] = {}
        self._keys: dict[int, Hashable] = {}  # of these, by the ids of what is in `_answers`
        self._results: deque[Any] = deque()
        self._takes: dict[type, Callable[[Any], None]] = {
            RequestReceived: self._take_request,
            ResponseReceived: self._take_response,
        }
        self._next_event = connection.on_event
        connection.on_event = self._take_event

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
        """Whether the message that concludes the peer's request is still to come."""

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

    def exchange(
        self, msg: Message, session: Session, done: Callable[[], bool], timeout: float | None = None
    ) -> tuple[int, bool]:
        self._check_may_wait()
        deadline = deadline_of(timeout)
        with self.lock:
            zmsg = msg.as_zmsg()
            if self.closed or not self.protocol.before_sending(self, session, msg):
                return errno.ENOTCONN, False
            payload = self._payload_of(zmsg)
            # before it leaves, because the answer comes while this thread waits
            self.protocol.after_sending(self, session, msg)
        rq_type, flags = self.request_of(zmsg)
        try:
            self.connection(rq_type, payload, flags, channel=self.number, timeout=timeout)
        except RequestTimeout:
            return 0, False
        except ConnectionEnded:
            pass  # `done` says what that means
        with self.lock:
            if done():
                return 0, True
        return 0, self.wait_until(done, left_until(deadline))

    # sending

    def _payload_of(self, zmsg: list[bytes]) -> bytes:
        payload = join_frames(zmsg)
        if len(payload) + PACKET_HEAD > self.connection.max_packet_size:
            limit = self.connection.max_packet_size
            raise LocalProtocolError(f"a message of {len(payload)} octets does not fit into a packet of {limit}")
        return payload

    def _transmit(self, zmsg: list[bytes], session: Session) -> int:
        if self.closed:
            return errno.ENOTCONN
        payload = self._payload_of(zmsg)
        concluded = self.concluded_by(zmsg)
        waiting = self._open.get(concluded)
        if waiting:
            waiting.popleft().respond(payload)
            if not waiting:
                del self._open[concluded]
            return 0
        rq_type, flags = self.request_of(zmsg)
        try:
            self._submit(rq_type, flags, payload, self.key_of(zmsg))
        except (RequestTimeout, LocalProtocolError, LimitExceeded):
            return errno.EAGAIN  # there is no room; the thread that reads is told so at once
        except ConnectionEnded:
            return errno.ENOTCONN
        return 0

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

    def _take_event(self, event: Any) -> None:
        """As the connection's `on_event`, in the thread that reads."""
        take = self._takes.get(type(event))
        if take is None:
            if type(event) is StreamEnded:
                self._end(event)
        elif event.channel == self.number:
            with self.lock:
                reader, self._reader = self._reader, get_ident()
                try:
                    take(event)
                finally:
                    self._reader = reader
        if self._next_event is not None:
            self._next_event(event)

    def _take_request(self, event: RequestReceived) -> None:
        responder = self._responder_of(event)
        try:
            self._handle_request(event, responder)
        except BaseException as error:
            if not responder.answered:  # a hook of a subclass has raised: nobody else answers
                responder.fail(error)
            raise

    def _handle_request(self, event: RequestReceived, responder: Responder) -> None:
        if self.closed:
            responder.fail(ChannelError("the channel is closed"))
            return
        try:
            frames = self._frames_of(event)
        except ValueError as error:
            caused_by_peer(error)
            responder.fail(error)
            return
        key = self.key_of(frames)
        waiting = self._open.get(key) if key is not None else None
        if key is None or (waiting and not self.may_repeat(key)):
            self._handle(frames)
            responder.respond()
            return
        if waiting is None:
            waiting = self._open[key] = deque()
        waiting.append(responder)
        self._handle(frames)
        if key in self._open and not self.is_awaited(key):
            _answer_empty(self._open.pop(key))

    def _frames_of(self, event: RequestReceived) -> list[bytes]:
        """The message in a packet request; one of an unknown type is for the protocol to refuse."""
        request_class = self.requests.get(event.rq_type)
        if request_class is None:
            return split_frames(event.payload)
        return request_class.from_request_payload(event.flags, event.payload).frames

    def may_repeat(self, key: Hashable) -> bool:
        """Whether several requests of the peer with one key may be open."""
        return True

    def _responder_of(self, event: RequestReceived) -> Responder:
        try:
            return self.connection.take(event)
        except ConnectionEnded:
            return Responder()  # it is being closed, and answers for itself

    def _take_response(self, event: ResponseReceived) -> None:
        self._forget_answer(event.waiter)
        session = self.sessions.get(PEER)
        if not event.ok:
            if session is not None:
                self.lose_session(session, RequestFailed(event.flags, event.payload, "a message"))
            return
        if event.payload:
            try:
                frames = split_frames(event.payload)
            except ValueError as error:
                if session is not None:
                    self.lose_session(session, error)
                return
            self._handle(frames)
        self.notify()

    def _forget_answer(self, answer: Any) -> None:
        key = self._keys.pop(id(answer), None)
        if key is not None:
            del self._answers[key]

    def _handle(self, frames: list[bytes]) -> None:
        result = self.deliver(PEER, frames)
        if self.receives:
            self._results.append(result)

    def _end(self, event: StreamEnded) -> None:
        with self.lock:
            for session in list(self.sessions.values()):
                self.lose_session(session, event.cause)
            self._open.clear()
            self.notify()


def _answer_empty(waiting: deque[Responder]) -> None:
    while waiting:
        waiting.popleft().respond()
