"""The requests of a service, and how each is answered: all of it but where its operations run.

Strategy: what an operation returns is answered in the same way whether it ran in a thread (`serving`) or in an
event loop (`aioserving`). A stream is sent by `Reply`, which is given one item after the other.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from packetwire.fbsp.constants import ErrorCode, MsgFlag, State
from packetwire.fbsp.frames import frames_of, weight_of
from packetwire.fbsp.identity import this_peer
from packetwire.fbsp.messages import APIMessage, CancelMessage, DataMessage, FBSPMessage
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.service import FBSPService, code_of
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor, ServiceDescriptor
from packetwire.messaging.errors import StopError, as_exception

logger = logging.getLogger("packetwire")

DEFAULT_MAX_UPLOAD: Final = 64 << 20
"""Octets of DATA of one request that its operation has not taken yet."""
DEFAULT_UPLOAD_WAIT: Final = 60.0
"""Seconds for the first DATA of a request that has not announced any."""

_PLAIN: Final = frozenset((list, bytes, str, tuple, type(None)))

Operation = TypeVar("Operation", bound=Callable[..., Any])


class Stream(NamedTuple):
    """A result that is a stream: the frames of the REPLY, and a DATA message for each of `data`."""

    data: Iterable[Any] | AsyncIterator[Any]
    reply: Any = None


class Declared(NamedTuple):
    """What `operation` was given."""

    api_code: ButlerInterface
    inline: bool


def operation(api_code: ButlerInterface, *, inline: bool = False) -> Callable[[Operation], Operation]:
    """Decorates the method that performs a call: `method(self, request)`.

    It returns None, a frame (bytes-like or str), a list or tuple of frames, or an iterator or `Stream`,
    each of whose items is sent as DATA. What it raises becomes an ERROR; with the code of a `StopError`.
    One that is `inline` runs in the thread that reads: right for what is quick and waits for nothing.
    """

    def declare(method: Operation) -> Operation:
        method.__fbsp__ = Declared(api_code, inline)  # type: ignore[attr-defined]
        return method

    return declare


class RequestState:
    """A request under way, as its operation sees it."""

    def __init__(self, protocol: FBSPService, channel: Any, session: FBSPSession, msg: APIMessage) -> None:
        self.protocol = protocol
        self.channel = channel
        self.session = session
        self.msg = msg
        self.cancelled = False
        """Whether the client has withdrawn it, or has left: nothing more is sent for it."""
        self.upload_wait: float | None = DEFAULT_UPLOAD_WAIT
        self._uploads: deque[DataMessage] | None = None  # few requests have some
        self._has_uploaded = False
        self._upload_octets = 0

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

    def report(self, state: State) -> None:
        """Tell the client what has become of the request."""
        self.channel.send(self.protocol.create_state_for(self.msg, state), self.session)

    def acknowledge(self, msg: FBSPMessage) -> None:
        """Acknowledge the request, or DATA for it, if that is asked for."""
        if msg.has_ack_req():
            self.channel.send(self.protocol.create_ack_reply(msg), self.session)

    # DATA of the client

    def has_upload(self) -> bool:
        """Whether there is DATA to take, or will be none."""
        return bool(self._uploads) or self.cancelled

    def upload_limit(self, timeout: float | None) -> float | None:
        """Seconds to wait for the next DATA; a client that asks with `call` sends none, and announces none."""
        is_announced = self.msg.has_more() or self._has_uploaded
        return self.upload_wait if timeout is None and not is_announced else timeout

    def next_upload(self, arrived: bool, timeout: float | None) -> DataMessage:
        """The next DATA, if it has `arrived` in time; raises `StopError` if there is none."""
        if not arrived:
            hint = "" if self.msg.has_more() else "; the request has announced none, as start(..., more=True) does"
            raise StopError(f"no DATA within {timeout} s{hint}", code=ErrorCode.REQUEST_TIMEOUT)
        self.check()
        self._has_uploaded = True
        assert self._uploads is not None
        msg = self._uploads.popleft()
        self._upload_octets -= weight_of(msg.data)
        return msg

    def take_upload(self, msg: DataMessage, limit: int) -> None:
        """DATA has come for the request."""
        self._upload_octets += weight_of(msg.data)
        if self._upload_octets > limit:
            raise StopError(f"more than {limit} octets of DATA wait", code=ErrorCode.PAYLOAD_TOO_LARGE)
        if self._uploads is None:
            self._uploads = deque()
        self._uploads.append(msg)

    def cancel(self) -> None:
        """Nothing more is sent for the request; `check` and `uploads` say so."""
        self.cancelled = True


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
        sent = self._send()
        self._held = msg
        return sent and not self._request.cancelled

    def finish(self) -> None:
        """There are no more."""
        self._send()

    def _send(self) -> bool:
        request = self._request
        sent: int = request.channel.send(self._held, request.session)
        return sent == 0


RequestT = TypeVar("RequestT", bound=RequestState)


class OperationBook(Generic[RequestT]):
    """The operations of a service, and the requests under way.

    `agent` says which program this is, `peer` which instance of it runs here: made up, if not given.
    `interfaces` are announced in that order; if there are none, in the order of the operations. `max_upload` bytes
    of DATA may wait for an operation to take them; for the first DATA of a request that has announced none,
    `uploads` waits `upload_wait` seconds. Further arguments go to `FBSPService`, which is in `protocol`.
    """

    agent: ClassVar[AgentDescriptor]
    interfaces: ClassVar[Sequence[type[ButlerInterface]]] = ()

    def __init__(
        self,
        *,
        agent: AgentDescriptor | None = None,
        peer: PeerDescriptor | None = None,
        max_upload: int = DEFAULT_MAX_UPLOAD,
        upload_wait: float | None = DEFAULT_UPLOAD_WAIT,
        **protocol: Any,
    ) -> None:
        operations = list(self._operations())
        interfaces = list(self.interfaces) or list(dict.fromkeys(type(each.api_code) for each, _ in operations))
        descriptor = ServiceDescriptor(agent or self.agent, interfaces)
        self.protocol = FBSPService(service=descriptor, peer=peer or this_peer(), **protocol)
        self.protocol.on_cancel = self._cancel
        self.protocol.on_data = self._take_data
        self.protocol.on_session_closed = self._end_session
        self._max_upload = max_upload
        self._upload_wait = upload_wait
        self._requests: dict[FBSPSession, dict[bytes, RequestT]] = {}
        for declared, method in operations:
            self.protocol.register_api_handler(declared.api_code, self._handler(declared, method))

    def session_closed(self, session: FBSPSession, exc: Exception | None) -> None:
        """Called when a session has ended, with the reason if that was no CLOSE; for subclasses."""

    @classmethod
    def _operations(cls) -> Iterator[tuple[Declared, Callable[..., Any]]]:
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base)
        for method in found.values():
            declared = getattr(method, "__fbsp__", None)
            if declared is not None:
                yield declared, method

    def _handler(self, declared: Declared, method: Callable[..., Any]) -> Any:
        def begin(channel: Channel, session: FBSPSession, msg: APIMessage, protocol: Any) -> None:
            request = self._new_request(channel, session, msg)
            request.upload_wait = self._upload_wait
            requests = self._requests.get(session)
            if requests is None:
                requests = self._requests[session] = {}
            requests[msg.token] = request
            self._begin(request, declared, method)

        return begin

    def _new_request(self, channel: Channel, session: FBSPSession, msg: APIMessage) -> RequestT:
        raise NotImplementedError

    def _begin(self, request: RequestT, declared: Declared, method: Callable[..., Any]) -> None:
        """Perform the operation of a request, here or elsewhere."""
        raise NotImplementedError

    def _answer(self, request: RequestT, result: Any) -> None:
        """Send what an operation has returned that is no stream."""
        reply = request.protocol.create_reply_for(request.msg)
        reply.data = frames_of(result)
        request.channel.send(reply, request.session)

    def _fail(self, request: RequestT, error: BaseException) -> None:
        """Tell the client what an operation has raised; raises nothing."""
        if request.cancelled:
            return
        if not isinstance(error, StopError):
            logger.error("%s failed", request.msg, exc_info=error)
        told = as_exception(error)
        try:
            self.protocol.send_error(request.channel, request.session, request.msg, code_of(told), told)
        except Exception:
            logger.exception("the client could not be told of the failure of %s", request.msg)
            self.protocol.answer_failure(request.channel, request.session, request.msg)

    def _forget(self, request: RequestT) -> None:
        requests = self._requests.get(request.session)
        if requests is not None and requests.get(request.msg.token) is request:
            del requests[request.msg.token]

    def _find(self, session: FBSPSession, token: bytes) -> RequestT | None:
        return self._requests.get(session, {}).get(token)

    def _cancel(self, channel: Channel, session: FBSPSession, msg: CancelMessage) -> None:
        request = self._find(session, msg.request.token)
        if request is not None:
            request.cancel()

    def _take_data(self, channel: Channel, session: FBSPSession, msg: DataMessage) -> None:
        request = self._find(session, msg.token)
        if request is None:
            raise violation("unexpected-data")
        try:
            request.take_upload(msg, self._max_upload)
        except StopError:
            request.cancel()
            raise

    def _end_session(
        self, channel: Channel, session: FBSPSession, msg: FBSPMessage, exc: Exception | None = None
    ) -> None:
        for request in list(self._requests.pop(session, {}).values()):
            request.cancel()
        self.session_closed(session, exc)

    def _cancel_all(self) -> None:
        for requests in list(self._requests.values()):
            for request in list(requests.values()):
                request.cancel()


def as_stream(result: Any) -> Stream | None:
    """The stream that an operation has returned, if it is one."""
    if type(result) in _PLAIN:  # the frequent ones: the checks below take a while
        return None
    if isinstance(result, Stream):
        return result
    return Stream(result) if isinstance(result, Iterator | AsyncIterator) else None
