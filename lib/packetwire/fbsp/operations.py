"""Operations of services, and a request as its operation sees it: what was sent for it, and what is said of it.

Strategy: what an operation returns is answered in the same way whether it ran in a thread (`serving`) or in an
event loop (`aioserving`). A stream is made into messages by `Reply`, which is given one item after the other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple, TypeVar

from packetwire.fbsp.constants import ErrorCode, MsgFlag, State
from packetwire.fbsp.frames import frames_of, weight_of
from packetwire.fbsp.messages import NO_FLAGS, APIMessage, DataMessage, FBSPMessage
from packetwire.fbsp.service import FBSPService
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor
from packetwire.messaging.errors import StopError

logger = logging.getLogger("packetwire")

DEFAULT_UPLOAD_WAIT: Final = 60.0
"""Seconds for the first DATA of a request that has not announced any."""

PLAIN: Final = frozenset((list, bytes, str, tuple, type(None)))
"""The types of most results, which are no streams."""

MethodT = TypeVar("MethodT", bound=Callable[..., Any])


class Stream(NamedTuple):
    """A result that is a stream: the frames of the REPLY, and a DATA message for each of `data`."""

    data: Iterable[Any] | AsyncIterator[Any]
    reply: Any = None


class Declared(NamedTuple):
    """The arguments of the decorator `operation`."""

    api_code: ButlerInterface
    inline: bool


class Operation(NamedTuple):
    """A method that performs a call."""

    declared: Declared
    method: Callable[..., Any]


def operation(api_code: ButlerInterface, *, inline: bool = False) -> Callable[[MethodT], MethodT]:
    """Decorates the method that performs a call: `method(self, request)`.

    It returns None, a frame (bytes-like or str), a list or tuple of frames, or an iterator or `Stream`,
    each of whose items is sent as DATA. An exception becomes an ERROR, a `StopError` one with its code.
    One that is `inline` runs in the thread that reads: right for what is quick and waits for nothing.
    """

    def declare(method: MethodT) -> MethodT:
        method.__fbsp__ = Declared(api_code, inline)  # type: ignore[attr-defined]
        return method

    return declare


class RequestState:
    """A request under way, as its operation sees it."""

    # what most requests leave as it is, so that making one takes less
    cancelled = False
    """True once the client has withdrawn it, or has left: nothing more is sent for it."""
    upload_wait: float | None = DEFAULT_UPLOAD_WAIT
    _uploads: deque[DataMessage] | None = None
    _has_uploaded = False
    _upload_bytes = 0
    upload_deadline: float | None = None
    """The time by which the next DATA must have come, if somebody waits for it."""
    _upload_limit: float | None = None
    _is_late = False

    def __init__(self, protocol: FBSPService, channel: Any, session: FBSPSession, msg: APIMessage) -> None:
        self.protocol = protocol
        self.channel = channel
        self.session = session
        self.msg = msg

    @property
    def data(self) -> list[bytes]:
        """The frames of the request."""
        return self.msg.data

    @property
    def client(self) -> AgentDescriptor:
        """Which program asks."""
        assert self.session.greeting is not None
        return AgentDescriptor.from_proto(self.session.greeting.data.client)

    @property
    def peer(self) -> PeerDescriptor:
        """Which running instance of it."""
        assert self.session.greeting is not None
        return PeerDescriptor.from_proto(self.session.greeting.data.instance)

    def check(self) -> None:
        """Raise `StopError` if it is cancelled: to be called now and then by what takes long."""
        if self.cancelled:
            raise StopError("the request was cancelled", code=ErrorCode.REQUEST_CANCELLED)

    def say(self, msg: FBSPMessage) -> int:
        """Have a message sent that belongs to the request: 0, or an error number if the client is gone."""
        self.channel.post(msg, self.session)
        return 0

    def report(self, state: State) -> None:
        """Tell the client what has become of the request."""
        self.say(self.protocol.create_state_for(self.msg, state))

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Acknowledge the request, or DATA for it, if that is asked for."""
        if msg.flags is not NO_FLAGS and msg.has_ack_req():
            self.say(self.protocol.create_ack_reply(msg))

    def answer(self, result: Any) -> None:
        """Say what its operation has returned that is no stream."""
        self.protocol.post_reply(self.channel, self.session, self.msg, frames_of(result))

    # DATA of the client

    def has_upload(self) -> bool:
        """True once there is DATA to take, or will be none."""
        return bool(self._uploads) or self.cancelled or self._is_late

    def expect_upload(self, now: float, timeout: float | None) -> float | None:
        """Somebody waits for the next DATA, at most `timeout` seconds; the seconds until `expire` has to be called.

        Without `timeout` that is `upload_wait`, if none is announced: a client that asks with `call` sends none.
        """
        is_announced = self.msg.has_more() or self._has_uploaded
        limit = self.upload_wait if timeout is None and not is_announced else timeout
        self.upload_deadline = None if limit is None else now + limit
        self._upload_limit, self._is_late = limit, False
        return limit

    def expire(self, now: float) -> None:
        """Nobody waits any longer for DATA that should be there by now."""
        if self.upload_deadline is not None and self.upload_deadline <= now and not self.has_upload():
            self._is_late = True
            self.changed()

    def changed(self) -> None:
        """Something has come of what is waited for: for subclasses, which do the waiting."""

    def next_upload(self, arrived: bool = True, timeout: float | None = None) -> DataMessage:
        """The next DATA, once `has_upload`, or not `arrived` in time; raises `StopError` if there is none."""
        self.upload_deadline = None
        if not arrived:
            self._is_late, self._upload_limit = True, timeout
        if self._is_late and not self._uploads:
            hint = "" if self.msg.has_more() else "; the request has announced none, as start(..., more=True) does"
            raise StopError(f"no DATA within {self._upload_limit} s{hint}", code=ErrorCode.REQUEST_TIMEOUT)
        self.check()
        self._has_uploaded = True
        assert self._uploads is not None
        msg = self._uploads.popleft()
        self._upload_bytes -= weight_of(msg.data)
        return msg

    def take_upload(self, msg: DataMessage, limit: int) -> None:
        """DATA has come for the request."""
        self._upload_bytes += weight_of(msg.data)
        if self._upload_bytes > limit:
            raise StopError(f"more than {limit} bytes of DATA wait", code=ErrorCode.PAYLOAD_TOO_LARGE)
        if self._uploads is None:
            self._uploads = deque()
        self._uploads.append(msg)
        self.changed()

    def cancel(self) -> None:
        """Nothing more is sent for the request; `check` and `uploads` say so."""
        self.cancelled = True
        self.changed()


class Reply:
    """The REPLY to a request, and the DATA behind it.

    Each message leaves when it is known whether another one follows, because only the last is without MORE.
    """

    def __init__(self, request: RequestState, frames: list[bytes]) -> None:
        self._request = request
        self._held: APIMessage | DataMessage = request.protocol.create_reply_for(request.msg)
        self._held.data = frames

    def add(self, item: Any) -> bool:
        """One more message of the stream; false if nothing more can be sent."""
        msg = self._request.protocol.create_data_for(self._request.msg)
        msg.data = frames_of(item)
        self._held.flags = MsgFlag.MORE
        error_number = self._request.say(self._held)
        self._held = msg
        return not (error_number or self._request.cancelled)

    def finish(self) -> None:
        """There are no more."""
        self._request.say(self._held)


def operations_of(service: type) -> Iterator[Operation]:
    """The operations that the class of a service has."""
    found: dict[str, Any] = {}
    for base in reversed(service.__mro__):
        found |= vars(base)
    for method in found.values():
        declared = getattr(method, "__fbsp__", None)
        if declared is not None:
            yield Operation(declared, method)


def as_stream(result: object) -> Stream | None:
    """The stream that an operation has returned, if it is one."""
    if type(result) in PLAIN:  # the frequent ones: the checks below take a while
        return None
    if isinstance(result, Stream):
        return result
    return Stream(result) if isinstance(result, Iterator | AsyncIterator) else None
