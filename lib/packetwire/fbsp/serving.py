"""A service as a class: one decorated method for each call.

    class Clock(Service):
        agent = AgentDescriptor(...)

        @operation(ClockAPI.NOW)
        def now(self, request):
            return time.ctime()

    with Clock() as clock:
        clock.serve("tcp://127.0.0.1:5000")
        ...

One service object serves any number of ZMQ addresses and packet connections at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, Self, TypeVar

from packetwire.core.packets import BytesLike
from packetwire.fbsp.constants import ErrorCode, MsgFlag, State
from packetwire.fbsp.messages import APIMessage, CancelMessage, DataMessage, FBSPMessage
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.service import FBSPService, code_of
from packetwire.fbsp.session import FBSPSession
from packetwire.fbsp.workers import Workers
from packetwire.messaging.channel import Channel
from packetwire.messaging.descriptors import AgentDescriptor, ButlerInterface, PeerDescriptor, ServiceDescriptor
from packetwire.messaging.errors import StopError
from packetwire.messaging.shared import SharedChannel

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection
    from packetwire.messaging.zmq import RouterChannel

logger = logging.getLogger("packetwire")

DEFAULT_THREADS: Final = 8
"""Operations of a service that run at once."""
DEFAULT_MAX_UPLOAD: Final = 64 << 20
"""Octets of DATA of one request that its operation has not taken yet."""
CLOSE_WAIT: Final = 5.0
"""Seconds that closing waits for each operation that runs."""

Frame = BytesLike | str
Operation = TypeVar("Operation", bound=Callable[..., Any])


class Stream(NamedTuple):
    """A result that is a stream: the frames of the REPLY, and a DATA message for each of `data`."""

    data: Iterable[Any]
    reply: Any = None


class _Declared(NamedTuple):
    api_code: ButlerInterface
    inline: bool


def operation(api_code: ButlerInterface, *, inline: bool = False) -> Callable[[Operation], Operation]:
    """Decorates the method that performs a call: `method(self, request)`.

    It returns None, a frame (bytes-like or str), a list or tuple of frames, or an iterator or `Stream`,
    each of whose items is sent as DATA. What it raises becomes an ERROR; with the code of a `StopError`.
    One that is `inline` runs in the thread that reads: right for what is quick and waits for nothing.
    """

    def declare(method: Operation) -> Operation:
        method.__fbsp__ = _Declared(api_code, inline)  # type: ignore[attr-defined]
        return method

    return declare


class Request:
    """A request under way, as its operation sees it."""

    def __init__(
        self,
        protocol: FBSPService,
        channel: Channel,
        session: FBSPSession,
        msg: APIMessage,
        change: threading.Condition,
    ) -> None:
        self.protocol = protocol
        self.channel = channel
        self.session = session
        self.msg = msg
        self.cancelled = False
        """Whether the client has withdrawn it, or has left: nothing more is sent for it."""
        self._uploads: deque[DataMessage] = deque()
        self._upload_octets = 0
        self._change = change  # that of the service: few of its requests have uploads

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

    def uploads(self, timeout: float | None = None) -> Iterator[list[bytes]]:
        """The frames of each DATA message that the client sends for the request, up to one without MORE.

        Each is acknowledged when it is taken, if that was asked for. Raises `StopError` if the request is
        cancelled, or none comes within `timeout` seconds.
        """
        while True:
            with self._change:
                if not self._change.wait_for(lambda: self._uploads or self.cancelled, timeout):
                    raise StopError(f"no DATA within {timeout} s", code=ErrorCode.REQUEST_TIMEOUT)
                self.check()
                msg = self._uploads.popleft()
                self._upload_octets -= sum(map(len, msg.data))
            if msg.has_ack_req():
                self.channel.send(self.protocol.create_ack_reply(msg), self.session)
            yield msg.data
            if not msg.has_more():
                return

    def take_upload(self, msg: DataMessage, limit: int) -> None:
        """DATA has come for the request."""
        with self._change:
            self._upload_octets += sum(map(len, msg.data))
            if self._upload_octets > limit:
                raise StopError(f"more than {limit} octets of DATA wait", code=ErrorCode.PAYLOAD_TOO_LARGE)
            self._uploads.append(msg)
            self._change.notify_all()

    def cancel(self) -> None:
        """Nothing more is sent for the request; `check` and `uploads` say so."""
        with self._change:
            self.cancelled = True
            self._change.notify_all()


class Service:
    """A service: subclasses decorate methods with `operation`.

    `agent` says which program this is, `peer` which instance of it runs here: made up, if not given.
    `interfaces` are announced in that order; if there are none, in the order of the operations. `threads` is
    how many operations run at once. Further arguments go to `FBSPService`, which is in `protocol`.

    It is a context manager that closes.
    """

    agent: ClassVar[AgentDescriptor]
    interfaces: ClassVar[Sequence[type[ButlerInterface]]] = ()

    def __init__(
        self,
        *,
        agent: AgentDescriptor | None = None,
        peer: PeerDescriptor | None = None,
        threads: int = DEFAULT_THREADS,
        max_upload: int = DEFAULT_MAX_UPLOAD,
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
        self._change = threading.Condition()
        self._workers = Workers(threads, f"{descriptor.agent.name} service")
        self._requests: dict[FBSPSession, dict[bytes, Request]] = {}
        self._channels: list[SharedChannel] = []
        for declared, method in operations:
            self.protocol.register_api_handler(declared.api_code, self._handler(declared, method))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def serve(self, address: str, **channel: Any) -> RouterChannel:
        """Serve at a ZMQ address (`tcp://…`, `ipc://…`, `inproc://…`), in a thread; returns the channel.

        Further arguments go to `RouterChannel`. Its `address` is where it is bound.
        """
        from packetwire.messaging.zmq import RouterChannel

        router = RouterChannel(self.protocol, **channel)
        try:
            router.bind(address)
        except BaseException:
            router.close()
            raise
        self._channels.append(router)
        router.start()
        return router

    def serve_on(self, connection: Connection, *, channel: int = 0) -> FBSPPacketChannel:
        """Serve the peer of a packet connection, which is not open yet; returns the channel."""
        return FBSPPacketChannel(self.protocol, connection, channel=channel)

    def close(self, timeout: float = CLOSE_WAIT) -> None:
        """Send CLOSE to all clients on ZMQ, give their addresses up, and wait for operations that run.

        The owner of a packet connection closes that.
        """
        for channel in self._channels:
            self.protocol.close(channel)
            channel.close()
        for requests in list(self._requests.values()):
            for request in list(requests.values()):
                request.cancel()
        self._workers.close(timeout)

    def session_closed(self, session: FBSPSession, exc: Exception | None) -> None:
        """Called when a session has ended, with the reason if that was no CLOSE; for subclasses."""

    @classmethod
    def _operations(cls) -> Iterator[tuple[_Declared, Callable[..., Any]]]:
        found: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            found |= vars(base)
        for method in found.values():
            declared = getattr(method, "__fbsp__", None)
            if declared is not None:
                yield declared, method

    def _handler(self, declared: _Declared, method: Callable[..., Any]) -> Any:
        def begin(channel: Channel, session: FBSPSession, msg: APIMessage, protocol: Any) -> None:
            request = Request(self.protocol, channel, session, msg, self._change)
            self._requests.setdefault(session, {})[msg.token] = request
            if declared.inline:
                self._perform(request, method)
            elif not self._workers.submit(partial(self._perform, request, method)):
                self._forget(request)
                raise StopError("too many requests wait", code=ErrorCode.TOO_MANY_REQUESTS)

        return begin

    def _perform(self, request: Request, method: Callable[..., Any]) -> None:
        try:
            if not request.cancelled:
                self._acknowledge(request)
                self._answer(request, method(self, request))
        except Exception as error:
            self._fail(request, error)
        finally:
            self._forget(request)

    def _acknowledge(self, request: Request) -> None:
        if request.msg.has_ack_req():
            request.channel.send(self.protocol.create_ack_reply(request.msg), request.session)

    def _answer(self, request: Request, result: Any) -> None:
        if type(result) is list or type(result) is bytes:
            self._reply(request, frames_of(result))  # the frequent ones first: the checks below take a while
        elif isinstance(result, Stream):
            self._stream(request, frames_of(result.reply), iter(result.data))
        elif isinstance(result, Iterator):
            self._stream(request, [], result)
        else:
            self._reply(request, frames_of(result))

    def _reply(self, request: Request, frames: list[bytes], flags: MsgFlag = MsgFlag.NONE) -> bool:
        reply = self.protocol.create_reply_for(request.msg)
        reply.data = frames
        reply.flags = flags
        return request.channel.send(reply, request.session) == 0

    def _stream(self, request: Request, reply: list[bytes], items: Iterator[Any]) -> None:
        """Send each item when the next one is there, because only the last is without MORE."""
        try:
            waiting = next(items, _END)
            if waiting is _END:
                self._reply(request, reply)
                return
            sent = self._reply(request, reply, MsgFlag.MORE)
            while sent and not request.cancelled and waiting is not _END:
                following = next(items, _END)
                msg = self.protocol.create_data_for(request.msg)
                msg.data = frames_of(waiting)
                msg.flags = MsgFlag.NONE if following is _END else MsgFlag.MORE
                sent = request.channel.send(msg, request.session) == 0
                waiting = following
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def _fail(self, request: Request, error: Exception) -> None:
        if request.cancelled:
            return
        if not isinstance(error, StopError):
            logger.error("%s failed", request.msg, exc_info=error)
        self.protocol.send_error(request.channel, request.session, request.msg, code_of(error), error)

    def _forget(self, request: Request) -> None:
        requests = self._requests.get(request.session, {})
        if requests.get(request.msg.token) is request:
            del requests[request.msg.token]

    def _find(self, session: FBSPSession, token: bytes) -> Request | None:
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


_END: Final = object()


def frames_of(result: Any) -> list[bytes]:
    """The frames that a result stands for."""
    if result is None:
        return []
    if isinstance(result, list | tuple):
        return [frame_of(each) for each in result]
    return [frame_of(result)]


def frame_of(value: Any) -> bytes:
    """One frame; raises TypeError for what is neither bytes-like nor str."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a frame is bytes-like or str, not {type(value).__name__}")


def this_peer() -> PeerDescriptor:
    """This process, with a new identity."""
    return PeerDescriptor(uuid.uuid4(), os.getpid(), socket.gethostname() or "localhost")
