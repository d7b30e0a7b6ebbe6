"""A service: the requests of its clients, and their operations. No input or output, no lock, no thread, no clock.

Strategy: the rules of FBSP are those of `FBSPService`; this keeps the requests under way. Messages go in by
`receive`, or from any channel that was given the `protocol`. A request comes out as `begin(request, operation)`, or
waits for `take`; what becomes of it is said by its methods, and stands in the outbox of its channel. `expire` has
to be called when `next_deadline` has come. The driver decides where operations run: in threads (`serving`) or tasks
(`aioserving`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

from packetwire.fbsp.messages import APIMessage, CancelMessage, DataMessage, FBSPMessage
from packetwire.fbsp.operations import DEFAULT_UPLOAD_WAIT, Operation, RequestState
from packetwire.fbsp.refusals import violation
from packetwire.fbsp.service import FBSPService, code_of
from packetwire.fbsp.session import FBSPSession
from packetwire.messaging.channel import Channel, Posted
from packetwire.messaging.descriptors import PeerDescriptor, ServiceDescriptor
from packetwire.messaging.errors import StopError, as_exception
from packetwire.messaging.mailbox import Mailbox

logger = logging.getLogger("packetwire")

DEFAULT_MAX_UPLOAD: Final = 64 << 20
"""Bytes of DATA of one request that its operation has not taken yet."""

RequestT = TypeVar("RequestT", bound=RequestState)


class ServiceCore(Generic[RequestT]):
    """The operations of a service, and the requests under way.

    `make_request` is given what `RequestState` takes. `max_upload` bytes of DATA may wait for an operation to take
    them; the first DATA of a request that has announced none has to come within `upload_wait` seconds.
    `session_closed(session, exc)` is called when a session has ended. Further arguments go to `FBSPService`.
    """

    def __init__(
        self,
        service: ServiceDescriptor,
        peer: PeerDescriptor,
        operations: Iterable[Operation],
        *,
        make_request: Callable[..., RequestT] | None = None,
        begin: Callable[[RequestT, Operation], object] | None = None,
        session_closed: Callable[[FBSPSession, Exception | None], object] | None = None,
        max_upload: int = DEFAULT_MAX_UPLOAD,
        upload_wait: float | None = DEFAULT_UPLOAD_WAIT,
        **protocol: Any,
    ) -> None:
        self.protocol = FBSPService(service=service, peer=peer, **protocol)
        self.protocol.on_cancel = self._cancel
        self.protocol.on_data = self._take_data
        self.protocol.on_session_closed = self._end_session
        self.channel = Mailbox(self.protocol)
        """For clients without another channel."""
        self.requests: dict[FBSPSession, dict[bytes, RequestT]] = {}
        """Those under way, by their tokens."""
        self.waiting: deque[tuple[RequestT, Operation]] = deque()
        """Those that nobody has begun, unless `begin` was given."""
        make: Any = RequestState
        self.make_request: Callable[..., RequestT] = make_request or make
        self._begin = begin or self._keep
        self._session_closed = session_closed
        self._max_upload = max_upload
        self._upload_wait = upload_wait
        for each in operations:
            self.protocol.register_api_handler(each.declared.api_code, self._handler(each))

    # in, out, and time

    def receive(self, route: bytes, frames: list[bytes], now: float) -> None:
        """A message of the client on a route has come."""
        self.expire(now)
        self.channel.deliver(route, frames)

    def take(self) -> tuple[RequestT, Operation] | None:
        """The next request to perform, and its operation."""
        while self.waiting:
            request, operation = self.waiting.popleft()
            if not request.cancelled:
                return request, operation
        return None

    @property
    def outbox(self) -> deque[Posted]:
        """Messages to be sent to clients without another channel."""
        return self.channel.outbox

    def next_deadline(self) -> float | None:
        """The time at which `expire` has to be called; None for never."""
        times = (each.upload_deadline for each in self._all_requests())
        return min((each for each in times if each is not None), default=None)

    def expire(self, now: float) -> None:
        """End the waits for DATA that should have come by now."""
        for request in list(self._all_requests()):
            request.expire(now)

    def _all_requests(self) -> Iterator[RequestT]:
        for requests in list(self.requests.values()):
            yield from list(requests.values())

    # requests

    def _handler(self, operation: Operation) -> Any:
        def begin(channel: Channel, session: FBSPSession, msg: APIMessage, protocol: object) -> None:
            request = self.make_request(self.protocol, channel, session, msg)
            request.upload_wait = self._upload_wait
            requests = self.requests.get(session)
            if requests is None:
                requests = self.requests[session] = {}
            requests[msg.token] = request
            self._begin(request, operation)

        return begin

    def _keep(self, request: RequestT, operation: Operation) -> None:
        self.waiting.append((request, operation))

    def fail(self, request: RequestT, error: BaseException) -> None:
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
            request.channel.flush()

    def forget(self, request: RequestT) -> None:
        """Its operation is over."""
        requests = self.requests.get(request.session)
        if requests is not None and requests.get(request.msg.token) is request:
            del requests[request.msg.token]

    def cancel_all(self) -> None:
        """Nothing more is sent for the requests under way."""
        for request in self._all_requests():
            request.cancel()

    # what the protocol calls

    def _find(self, session: FBSPSession, token: bytes) -> RequestT | None:
        return self.requests.get(session, {}).get(token)

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
        for request in list(self.requests.pop(session, {}).values()):
            request.cancel()
        if self._session_closed is not None:
            self._session_closed(session, exc)
