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

import threading
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakSet

from packetwire.core.timelimits import seconds_of, time_limit
from packetwire.fbsp.constants import ErrorCode
from packetwire.fbsp.frames import frames_of
from packetwire.fbsp.messages import APIMessage, DataMessage
from packetwire.fbsp.operations import Declared, OperationBook, Reply, RequestState, as_stream
from packetwire.fbsp.requests import FBSPPacketChannel
from packetwire.fbsp.session import FBSPSession
from packetwire.fbsp.workers import Workers
from packetwire.messaging.channel import Channel
from packetwire.messaging.errors import StopError, is_for_program
from packetwire.messaging.shared import SharedChannel
from packetwire.streams import forking

if TYPE_CHECKING:
    from packetwire.messaging.packets import Connection
    from packetwire.messaging.zmq import RouterChannel

DEFAULT_THREADS: Final = 8
"""Operations of a service that run at once."""
CLOSE_WAIT: Final = 5.0
"""Seconds that closing waits for each operation that runs."""


class Request(RequestState):
    """A request under way, as its operation sees it."""

    def __init__(self, change: threading.Condition, *request: Any) -> None:
        super().__init__(*request)
        self._change = change  # that of the service: few of its requests have uploads

    def after_fork(self, change: threading.Condition) -> None:
        """In the child of a fork: the client is the parent's."""
        self._change = change
        self.cancelled = True

    def uploads(self, timeout: float | None = None) -> Iterator[list[bytes]]:
        """The frames of each DATA message that the client sends for the request, up to one without MORE.

        Each is acknowledged when it is taken, if that was asked for. Raises `StopError` if the request is
        cancelled, or none comes within `timeout` seconds. Without `timeout` only the first is limited, by the
        service's `upload_wait`, if the request has not announced it.
        """
        more = True
        while more:
            with self._change:
                limit = self.upload_limit(time_limit(timeout))
                msg = self.next_upload(self._change.wait_for(self.has_upload, limit), limit)
            self.acknowledge(msg)
            yield msg.data
            more = msg.has_more()

    def take_upload(self, msg: DataMessage, limit: int) -> None:
        with self._change:
            super().take_upload(msg, limit)
            self._change.notify_all()

    def cancel(self) -> None:
        with self._change:
            super().cancel()
            self._change.notify_all()


class Service(OperationBook[Request]):
    """A service: subclasses decorate methods with `operation`.

    `agent` says which program this is, `peer` which instance of it runs here: made up, if not given.
    `interfaces` are announced in that order; if there are none, in the order of the operations. `threads` is
    how many operations run at once, `max_upload` how many bytes of DATA may wait for one to take them; for the
    first DATA of a request that has announced none, `uploads` waits `upload_wait` seconds. Further arguments go to
    `FBSPService`, which is in `protocol`.

    It is a context manager that closes.
    """

    def __init__(self, *, threads: int = DEFAULT_THREADS, **service: Any) -> None:
        self._change = threading.Condition()
        super().__init__(**service)
        self._workers = Workers(threads, f"{(service.get('agent') or self.agent).name} service")
        self._channels: list[SharedChannel] = []
        self._on_connections: WeakSet[SharedChannel] = WeakSet()
        self._forked = False
        forking.register(self)

    def after_fork(self) -> None:
        """In the child of a fork: the service is the parent's."""
        self._forked = True
        self._change = threading.Condition()
        for requests in self._requests.values():
            for request in requests.values():
                request.after_fork(self._change)

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
        packets = FBSPPacketChannel(self.protocol, connection, channel=channel)
        self._on_connections.add(packets)
        return packets

    def close(self, timeout: float = CLOSE_WAIT) -> None:
        """Send CLOSE to all clients, give the ZMQ addresses up, and wait for operations that run.

        A packet connection stays open: its owner closes that. There are no new sessions on it.
        """
        if self._forked:
            return
        for channel in [*self._channels, *self._on_connections]:
            self.protocol.close(channel)
            channel.close()
        self._cancel_all()
        self._workers.close(seconds_of(timeout))

    def _new_request(self, channel: Channel, session: FBSPSession, msg: APIMessage) -> Request:
        return Request(self._change, self.protocol, channel, session, msg)

    def _begin(self, request: Request, declared: Declared, method: Callable[..., Any]) -> None:
        if declared.inline:
            self._perform(request, method)
        elif not self._workers.submit(partial(self._perform, request, method)):
            self._forget(request)
            raise StopError("too many requests wait", code=ErrorCode.TOO_MANY_REQUESTS)

    def _perform(self, request: Request, method: Callable[..., Any]) -> None:
        try:
            if not request.cancelled:
                request.acknowledge(request.msg)
                result = method(self, request)
                stream = as_stream(result)
                if stream is None:
                    self._answer(request, result)
                else:
                    _send_stream(Reply(request, frames_of(stream.reply)), iter(stream.data))  # type: ignore[arg-type]
        except BaseException as error:
            self._fail(request, error)
            if is_for_program(error):  # in an inline operation
                raise
        finally:
            self._forget(request)


def _send_stream(reply: Reply, items: Iterator[Any]) -> None:
    try:
        for item in items:
            if not reply.add(item):
                return
        reply.finish()
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()
